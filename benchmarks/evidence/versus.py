"""The same training by this library and by TRL: held-out accuracy against CPU seconds.

Both train the same weights on the same prompts with the same reward, objective, learning rate and threads. Each keeps
its weights at the same steps, and one evaluation, this library's, measures them all, so that a difference of
evaluations cannot show. What counts is the CPU seconds of the steps alone, on one thread: on a machine with other work
these are what a run alone would take, nearly.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from benchmarks.evidence import estimates, peer, runs
from benchmarks.evidence.frame import Job, Part, Row, Scale
from rewards.spelling import many

SIDES = ("ours", "trl")
Points = list[dict[str, float]]


@dataclass(frozen=True, slots=True)
class Case:
    """A recipe that both train: where weights are kept, how they are measured, what TRL calls reward and loss."""

    recipe: Path
    model: Callable[[], str]
    reward: str
    trl_loss: str
    points: tuple[int, ...]
    samples: int
    threshold: float
    tiny: tuple[str, ...] = ()

    def overrides(self, is_try: bool) -> tuple[str, ...]:
        """What a try adds."""
        return self.tiny if is_try else ()


def jobs(scale: Scale) -> list[Job]:
    """Both sides of a seed one after the other, the first side in turn."""
    found: list[Job] = []
    for seed in scale.seeds:
        order = SIDES if seed % 2 == 0 else SIDES[::-1]
        found += [{"side": side, "seed": seed} for side in order]
    return found


def recipe_of(case: Case, seed: int, place: Path, *overrides: str) -> Any:
    """The case's recipe on one thread, with nothing but training in the run."""
    from grpo import Recipe

    return Recipe.load(
        case.recipe,
        f"seed={seed}",
        f"steps={max(case.points)}",
        f"model.name={case.model()}",
        "threads=1",
        "evaluate.every=0",
        "evaluate.before=false",
        f"evaluate.samples={case.samples}",
        "checkpoint.every=0",
        "log.report=false",
        f"run_dir={place}/run",
        *overrides,
    )


def run(case: Case, job: Job, is_try: bool) -> dict[str, Any]:
    """Train one side and measure its weights at each point."""
    overrides = case.overrides(is_try)
    points = (1, 2) if is_try else case.points
    with runs.folder() as place:
        recipe = recipe_of(case, job["seed"], place, *overrides)
        course = (_ours if job["side"] == "ours" else _trls)(case, recipe, place, points)
        measured = []
        for point in (0, *points):
            weights = case.model() if point == 0 else f"{place}/step-{point}"
            measured.append(
                _measured(case, job["seed"], weights, course["steps"][:point], overrides)
            )
    return {**course, "points": measured}


def _ours(case: Case, recipe: Any, place: Path, points: Sequence[int]) -> dict[str, Any]:
    """A run of this library; the reward workers' CPU seconds are spread over its steps."""
    from grpo import Trainer

    trainer = Trainer(recipe, quiet=True)
    trainer.open()
    steps: list[dict[str, float]] = []
    spent = time.process_time()
    for record in trainer:
        used = time.process_time() - spent
        steps.append({"seconds": record["seconds/step"], "cpu_seconds": used})
        if record["step"] in points:
            trainer.policy.save(place / f"step-{record['step']}")
        if record["step"] == recipe.steps:
            break  # what a run does at its end is not training
        spent = time.process_time()
    trainer.close()
    workers = runs.children_cpu_seconds() / len(steps)
    for step in steps:
        step["cpu_seconds"] += workers
    return {"steps": _rounded(steps)}


def _trls(case: Case, recipe: Any, place: Path, points: Sequence[int]) -> dict[str, Any]:
    """A run of TRL on the prompts of the recipe, in an order drawn by the seed."""
    from grpo import Trainer

    prompts = list(Trainer(recipe, quiet=True).inputs.prompts.train)
    random.Random(recipe.seed).shuffle(prompts)
    rows = [
        {**prompt.truth, "prompt": prompt.text, "token_ids": list(prompt.token_ids)}
        for prompt in prompts
    ]
    file = place / "rows.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    found = peer.train(
        {
            "folder": str(place),
            "rows": str(file),
            "model": case.model(),
            "reward": case.reward,
            "trl_loss": case.trl_loss,
            "prompts": recipe.sample.prompts,
            "group": recipe.sample.group_size,
            "max_tokens": recipe.sample.max_tokens,
            "lr": recipe.optim.lr,
            "steps": max(points),
            "points": list(points),
            "threads": 1,
            "seed": recipe.seed,
        }
    )
    return {"steps": _rounded(found["steps"]), "versions": found["versions"]}


def _rounded(steps: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    return [{name: round(value, 3) for name, value in step.items()} for step in steps]


def _measured(
    case: Case,
    seed: int,
    weights: str,
    steps: Sequence[Mapping[str, float]],
    overrides: Sequence[str],
) -> dict[str, float]:
    """Held-out accuracy of some weights, and the seconds of training before them."""
    from grpo.evaluate import evaluate_recipe

    with runs.folder() as place:
        recipe = recipe_of(case, seed, place, *overrides, f"model.name={weights}")
        report = evaluate_recipe(recipe)
    return {
        "step": len(steps),
        "accuracy": runs.short(report["strict"]["accuracy"]),
        "length": runs.short(report["length"]),
        "seconds": round(sum(step["seconds"] for step in steps), 2),
        "cpu_seconds": round(sum(step["cpu_seconds"] for step in steps), 2),
    }


# ---- what was found -----------------------------------------------------------------------------------------------


def at_seconds(points: Points, seconds: float) -> float:
    """The accuracy after so many CPU seconds, on straight lines between the points; the last one's beyond it.

    >>> at_seconds([{"cpu_seconds": 0, "accuracy": 0.2}, {"cpu_seconds": 10, "accuracy": 0.4}], 5)
    0.30000000000000004
    """
    for before, after in zip(points, points[1:]):
        if seconds <= after["cpu_seconds"]:
            width = after["cpu_seconds"] - before["cpu_seconds"]
            share = (seconds - before["cpu_seconds"]) / width
            return before["accuracy"] + share * (after["accuracy"] - before["accuracy"])
    return points[-1]["accuracy"]


def seconds_to(points: Points, accuracy: float) -> float | None:
    """The CPU seconds at which a straight line between points first meets the accuracy; None if none does.

    >>> seconds_to([{"cpu_seconds": 0, "accuracy": 0.2}, {"cpu_seconds": 10, "accuracy": 0.4}], 0.3)
    5.0
    """
    for before, after in zip(points, points[1:]):
        rise = after["accuracy"] - before["accuracy"]
        if before["accuracy"] < accuracy <= after["accuracy"]:
            share = (accuracy - before["accuracy"]) / rise
            width = after["cpu_seconds"] - before["cpu_seconds"]
            return round(before["cpu_seconds"] + share * width, 6)
    return None


def points_of(rows: Sequence[Row], side: str) -> dict[int, Points]:
    """By seed, of one side."""
    found = {}
    for row in rows:
        if row["job"]["side"] == side:
            found[row["job"]["seed"]] = row["result"]["points"]
    return found


def summarise(case: Case, rows: Sequence[Row]) -> dict[str, Any]:
    sides = {side: points_of(rows, side) for side in SIDES}
    both = sorted(set(sides["ours"]) & set(sides["trl"]))
    found: dict[str, Any] = {"threshold": case.threshold, "seeds": both, "sides": {}, "equal": []}
    for side, points in sides.items():
        if points:
            found["sides"][side] = _side(points, case.threshold)
    if both:
        last = min(
            points[-1]["cpu_seconds"] for seeds in sides.values() for points in seeds.values()
        )
        found["equal"] = [_at_equal(sides, both, last * share) for share in (0.25, 0.5, 1.0)]
        found["same_steps"] = estimates.paired(*(_final(sides[side]) for side in SIDES[::-1]))
        found["ratio"] = _ratio(sides, both)
    return found


def _final(points: Mapping[int, Points]) -> dict[int, float]:
    return {seed: one[-1]["accuracy"] for seed, one in points.items()}


def _side(points: Mapping[int, Points], threshold: float) -> dict[str, Any]:
    """One side's means over its seeds."""
    reached = [seconds_to(one, threshold) for one in points.values()]
    known = [value for value in reached if value is not None]
    return {
        "before": estimates.over_seeds([one[0]["accuracy"] for one in points.values()]),
        "after": estimates.over_seeds(list(_final(points).values())),
        "steps": next(iter(points.values()))[-1]["step"],
        "cpu_seconds": estimates.over_seeds([one[-1]["cpu_seconds"] for one in points.values()]),
        "to_threshold": estimates.over_seeds(known) if known else None,
        "never": len(reached) - len(known),
        "curves": [_curve(one) for one in points.values()],
    }


def _curve(points: Points) -> dict[str, list[float]]:
    return {name: [point[name] for point in points] for name in ("cpu_seconds", "accuracy")}


def _at_equal(
    sides: Mapping[str, Mapping[int, Points]], seeds: Sequence[int], seconds: float
) -> dict[str, Any]:
    """Both sides' accuracies after the same CPU seconds, and TRL's minus ours."""
    of = {
        side: {seed: at_seconds(points[seed], seconds) for seed in seeds}
        for side, points in sides.items()
    }
    means = {side: estimates.over_seeds(list(values.values())) for side, values in of.items()}
    ahead = estimates.paired(of["trl"], of["ours"])
    return {"cpu_seconds": round(seconds, 1), **means, "ours_ahead": ahead}


def _ratio(sides: Mapping[str, Mapping[int, Points]], seeds: Sequence[int]) -> dict[str, Any]:
    """TRL's CPU seconds of all steps over ours, by seed."""
    spent = {
        side: [points[seed][-1]["cpu_seconds"] for seed in seeds] for side, points in sides.items()
    }
    return estimates.over_seeds([trl / ours for ours, trl in zip(spent["ours"], spent["trl"])])


# ---- in words -------------------------------------------------------------------------------------------------------

NAMES = {"ours": "this library", "trl": f"TRL {peer.TRL}"}


def verdict(difference: Mapping[str, Any]) -> str:
    """Who is ahead, as far as the interval says.

    >>> verdict({"value": -0.02, "low": -0.03, "high": -0.01})
    'TRL is ahead'
    """
    if difference["low"] is None:
        return "one seed: no interval"
    if difference["low"] > 0:
        return "this library is ahead"
    if difference["high"] < 0:
        return "TRL is ahead"
    return "not told apart"


def answer(summary: Mapping[str, Any]) -> str:
    if not summary["equal"]:
        return _one_side(summary)
    last = summary["equal"][-1]
    reached = []
    for side, one in summary["sides"].items():
        seconds = one["to_threshold"]
        reached.append(
            f"{NAMES[side]} {'never' if seconds is None else estimates.seconds(seconds)}"
        )
    return (
        f"after {last['cpu_seconds']:.0f} CPU s {estimates.percent(last['ours'])} against TRL's "
        f"{estimates.percent(last['trl'])}: {verdict(last['ours_ahead'])}; to "
        f"{100 * summary['threshold']:.0f} %: {', '.join(reached)}"
    )


def _one_side(summary: Mapping[str, Any]) -> str:
    """What is known where the sides have no seed in common."""
    said = []
    for side, one in summary["sides"].items():
        spent = estimates.seconds(one["cpu_seconds"])
        said.append(f"{NAMES[side]} alone: {estimates.percent(one['after'])} after {spent}")
    return f"{'; '.join(said)}; the comparison is unmeasured"


def table(summary: Mapping[str, Any]) -> str:
    lines = [
        f"| | before | after its {_steps(summary)} steps | CPU s of these | CPU s to "
        f"{100 * summary['threshold']:.0f} % |",
        "|---|---|---|---|---|",
    ]
    for side, one in summary["sides"].items():
        lines.append(
            f"| {NAMES[side]}, {many(one['after']['seeds'], 'seed')} | {estimates.percent(one['before'])} | "
            f"{estimates.percent(one['after'])} | {estimates.seconds(one['cpu_seconds'])} | {_reached(one)} |"
        )
    lines += ["", *_equal_lines(summary)]
    return "\n".join(lines)


def _steps(summary: Mapping[str, Any]) -> int:
    return max(one["steps"] for one in summary["sides"].values())


def _reached(side: Mapping[str, Any]) -> str:
    if side["to_threshold"] is None:
        return "never"
    never = f"; {side['never']} seeds never" if side["never"] else ""
    return f"{estimates.seconds(side['to_threshold'])}{never}"


def _equal_lines(summary: Mapping[str, Any]) -> list[str]:
    if not summary["equal"]:
        return ["The other side is unmeasured."]
    lines = [
        "| after CPU s | this library | TRL | ours minus TRL's, points | |",
        "|---|---|---|---|---|",
    ]
    for one in summary["equal"]:
        ahead = one["ours_ahead"]
        lines.append(
            f"| {one['cpu_seconds']:.0f} | {estimates.percent(one['ours'])} | {estimates.percent(one['trl'])} | "
            f"{estimates.points(ahead)} | {verdict(ahead)} |"
        )
    same = summary["same_steps"]
    lines.append(
        f"| the same steps | | | {estimates.points(same)} | {verdict(same)} |",
    )
    return lines


def part_of(name: str, case: Case, *, minutes: str, question: str, **options: Any) -> Part:
    """The part that compares both sides on a case."""
    return Part(
        name=name,
        question=question,
        minutes=minutes,
        jobs=jobs,
        run=lambda job, is_try: run(case, job, is_try),
        summarise=lambda rows: summarise(case, rows),
        answer=answer,
        table=table,
        is_timed=True,
        **options,
    )
