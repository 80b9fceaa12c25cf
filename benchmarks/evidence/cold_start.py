"""Supervised training on worked solutions first, reinforcement learning from there: for `word_problems` and `code`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from benchmarks.evidence import estimates, frame, runs, smollm2
from benchmarks.evidence.frame import Job, Row

Rows = list[dict[str, Any]]
SFT_LR = 5e-5
LORA = {"rank": 16, "alpha": 32, "targets": "all-linear"}


@dataclass(frozen=True, slots=True)
class Case:
    """What is learnt: rows to train and rows held out, a recipe's sections, and how long both stages are.

    ``train`` and ``held_out`` take the number of rows; those to train hold a ``completion``. ``lr`` is by kind of
    weights. Rows are measured by ``samples`` completions each, after every ``every`` steps.
    """

    train: Callable[[int], Rows]
    held_out: Callable[[int], Rows]
    sections: Mapping[str, Any]
    reward: str
    num_train: int
    num_held_out: int
    sft_steps: int
    steps: int
    every: int
    samples: int
    lr: Mapping[str, float]


TINY: dict[str, Any] = {
    "num_train": 8,
    "num_held_out": 2,
    "sft_steps": 1,
    "steps": 2,
    "every": 1,
    "samples": 1,
}
TINY_SAMPLE = {"prompts": 1, "group_size": 2, "max_tokens": 4}


def run(case: Case, weights: str, seed: int, is_try: bool) -> dict[str, Any]:
    """Held-out accuracy of the base, after the first stage, and along the second."""
    base = smollm2.folder()
    train = case.train(case.num_train)
    with runs.folder() as place:
        held_out = runs.write_rows(place / "held_out.jsonl", case.held_out(case.num_held_out))

        def measured(model: str, step: int | None) -> dict[str, Any]:
            return {"step": step, **_accuracy(case, model, seed, held_out, is_try)}

        points = [measured(base, None)]
        begun = _cold_start(case, base, train, seed, place=place, is_try=is_try)
        points.append(measured(begun, 0))
        course = _reinforced(case, begun, train, seed, weights=weights, place=place, is_try=is_try)
        for step in course["kept"]:
            points.append(measured(f"{place}/step-{step}", step))
    return {"points": points, "reward": course["reward"], "train_cpu_seconds": frame.cpu_seconds()}


def _shared(case: Case, model: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What every stage and evaluation has."""
    return {
        "name": case.sections["name"],
        "seed": seed,
        "model": dict(model),
        "checkpoint": {"every": 0},
        "log": {"report": False},
    }


def _scored(case: Case, is_try: bool) -> dict[str, Any]:
    """What is sampled and scored: the case's sections but for the loss."""
    found = {name: value for name, value in case.sections.items() if name not in ("name", "loss")}
    if is_try:
        found["sample"] = TINY_SAMPLE
    return found


def _data(is_try: bool, **more: Any) -> dict[str, Any]:
    """The data section; a model for tries may have no chat template."""
    return {"template": "plain" if is_try else "chat", **more}


def sft_values(case: Case, base: str, seed: int, *, place: Path, is_try: bool) -> dict[str, Any]:
    """The recipe of the first stage."""
    return {
        **_shared(case, {"name": base}, seed),
        "stage": "sft",
        "steps": case.sft_steps,
        "data": _data(is_try),
        "sft": {"batch": min(16, case.num_train // 2), "too_long": "drop" if is_try else "refuse"},
        "optim": {"lr": SFT_LR, "tokens_per_micro_batch": 4096},
        "evaluate": {"every": 0, "before": False},
        "run_dir": f"{place}/sft",
    }


def grpo_values(
    case: Case, begun: str, seed: int, *, weights: str, place: Path, is_try: bool
) -> dict[str, Any]:
    """The recipe of the second stage."""
    model = {"name": begun, **({"lora": LORA} if weights == "lora" else {})}
    return {
        **_shared(case, model, seed),
        **_scored(case, is_try),
        "loss": case.sections["loss"],
        "steps": case.steps,
        "data": _data(is_try),
        "optim": {"lr": case.lr[weights], "tokens_per_micro_batch": 4096},
        "evaluate": {"every": 0, "before": False},
        "run_dir": f"{place}/grpo",
    }


def evaluation_values(
    case: Case, model: str, seed: int, *, held_out: Path, is_try: bool
) -> dict[str, Any]:
    """The recipe that measures a model on the held-out rows."""
    return {
        **_shared(case, {"name": model}, seed),
        **_scored(case, is_try),
        "data": _data(is_try, source=str(held_out)),
        "evaluate": {"samples": case.samples},
    }


def _cold_start(case: Case, base: str, rows: Rows, seed: int, *, place: Path, is_try: bool) -> str:
    """The folder of a model that has learnt the rows' completions."""
    from grpo import Recipe, SftTrainer

    values = sft_values(case, base, seed, place=place, is_try=is_try)
    SftTrainer(Recipe.from_mapping(values), data=rows, quiet=True).train()
    return f"{place}/sft/final"


def _reinforced(
    case: Case,
    begun: str,
    rows: Rows,
    seed: int,
    *,
    weights: str,
    place: Path,
    is_try: bool,
) -> dict[str, Any]:
    """Train with rewards, keeping the weights now and then."""
    from grpo import Recipe, Trainer

    values = grpo_values(case, begun, seed, weights=weights, place=place, is_try=is_try)
    asked = [{name: row[name] for name in row if name != "completion"} for row in rows]
    trainer = Trainer(Recipe.from_mapping(values), data=asked, quiet=True)
    reward: list[float] = []
    kept: list[int] = []
    for record in trainer:
        step = record["step"]
        reward.append(runs.short(float(record["reward/mean"])))
        if step % case.every == 0:
            trainer.policy.save(place / f"step-{step}")
            kept.append(step)
    return {"reward": reward, "kept": kept}


def _accuracy(case: Case, model: str, seed: int, held_out: Path, is_try: bool) -> dict[str, Any]:
    """That of a model on the held-out rows, by the whole score."""
    from grpo import Recipe
    from grpo.evaluate import evaluate_recipe

    values = evaluation_values(case, model, seed, held_out=held_out, is_try=is_try)
    report = evaluate_recipe(Recipe.from_mapping(values), every_row=True)
    strict = report["strict"]
    found = {name: strict[name] for name in ("accuracy", "low", "high")}
    return {name: runs.short(value) for name, value in found.items()}


# ---- what was found -----------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """By kind of weights: accuracies of the base, after the first stage and at the end, and what the second gained."""
    found = {}
    for kind in dict.fromkeys(row["job"].get("weights", "full") for row in rows):
        of_kind = [row for row in rows if row["job"].get("weights", "full") == kind]
        points = {row["job"]["seed"]: row["result"]["points"] for row in of_kind}
        found[kind] = _of_kind(points)
    return {"kinds": found}


def _of_kind(points: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    base, begun, end = [
        {seed: one[index]["accuracy"] for seed, one in points.items()} for index in (0, 1, -1)
    ]
    steps = [point["step"] for point in next(iter(points.values()))[1:]]
    return {
        "base": estimates.over_seeds(list(base.values())),
        "begun": estimates.over_seeds(list(begun.values())),
        "end": estimates.over_seeds(list(end.values())),
        "gained": estimates.paired(begun, end),
        "steps": steps,
        "curves": [[point["accuracy"] for point in one[1:]] for one in points.values()],
    }


def answer(summary: Mapping[str, Any]) -> str:
    parts = []
    for kind, one in summary["kinds"].items():
        steps = one["steps"][-1]
        gained = estimates.points(one["gained"])
        parts.append(
            f"{kind}: {gained} points in {steps} steps, to {estimates.percent(one['end'])}"
        )
    return "; ".join(parts)


def table(summary: Mapping[str, Any]) -> str:
    lines = [
        "| weights | seeds | base | after supervised training | after reinforcement learning | points gained by it |",
        "|---|---|---|---|---|---|",
    ]
    for kind, one in summary["kinds"].items():
        cells = [estimates.percent(one[name]) for name in ("base", "begun", "end")]
        seeds = one["end"]["seeds"]
        lines.append(
            f"| {kind} | {seeds} | {' | '.join(cells)} | {estimates.points(one['gained'])} |"
        )
    return "\n".join(lines)


def jobs_of(seeds: Sequence[int], kinds: Sequence[str]) -> list[Job]:
    """Each kind of weights for each seed."""
    found: list[Job] = []
    for seed in seeds:
        found += [{"weights": kind, "seed": seed} for kind in kinds]
    return found
