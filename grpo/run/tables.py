"""Evaluations as a table for people: a line for each model and set, then the comparisons. Nothing is computed here."""

from __future__ import annotations

import math
from typing import Any, Iterator, Mapping, Sequence

from grpo.statistics.votes import powers_of_two
from rewards.spelling import agree, many

Report = Mapping[str, Any]


def report_lines(reports: Sequence[Report], comparisons: Sequence[Report] = ()) -> Iterator[str]:
    """The lines of a table of `reports` and `comparisons`, as ``grpo.evaluate`` makes them."""
    yield from (_setting(report) for report in _distinct(reports, _setting))
    yield ""
    yield from _table(_without_common([_cells(report) for report in reports], "set"))
    yield ""
    yield "95 % intervals, for new prompts of the same kind"
    several = len({report.get("set") for report in reports}) > 1
    for report in reports:
        about = f"{report['model']} on {report.get('set') or report['data']}"
        yield from _notes(report, about if several else str(report["model"]))
    by_default = [str(report["model"]) for report in reports if report.get("rewards_by_default")]
    if by_default:
        yield (
            f"{', '.join(dict.fromkeys(by_default))}: no rewards were named, so math_answer scored the completions; "
            "for others give --recipe FILE, or rewards.NAME.use=REWARD"
        )
    if comparisons:
        yield ""
        yield from map(comparison_line, comparisons)


def _distinct(reports: Sequence[Report], key: Any) -> list[Report]:
    return list({key(report): report for report in reports}.values())


def _setting(report: Report) -> str:
    parts = [
        f"{report['data']}: {many(report['prompts'], 'prompt')} x {many(report['samples_per_prompt'], 'sample')}",
        f"reward {report['reward']}",
    ]
    if report.get("rescored"):
        parts.append(f"scored again from {report['rescored']}")
        return ", ".join(parts)
    temperature = report["temperature"]
    parts.append("greedy" if temperature == 0 else f"temperature {temperature:g}")
    if temperature and report.get("top_p", 1) < 1:
        parts.append(f"top-p {report['top_p']:g}")
    parts.append(f"at most {many(report['max_tokens'], 'token')}")
    return ", ".join(parts)


def _cells(report: Report) -> dict[str, str]:
    """{heading: cell} of one line of the table."""
    strict = report["strict"]
    samples = report["samples_per_prompt"]
    cells = {
        "set": str(report.get("set") or report["data"]),
        "model": str(report["model"]),
        f"accuracy (avg@{samples})": with_interval(strict),
    }
    for k in powers_of_two(samples)[1:]:
        point = strict["pass_at"].get(str(k))
        cells[f"pass@{k}"] = percent(point["value"]) if point else "-"
    if strict["maj_at"] and samples > 1:
        point = strict["maj_at"].get(str(samples))
        cells[f"maj@{samples}"] = percent(point["value"]) if point else "-"
    if report["lenient"]:
        cells["lenient"] = percent(report["lenient"]["accuracy"])
    cells["mean reward"] = reward_with_interval(report["mean_reward"])
    cells["length"] = "-" if math.isnan(report["length"]) else f"{report['length']:.1f}"
    cells["truncated"] = percent(report["truncated"])
    if "tools" in report:
        cells["calling"] = percent(report["tools"]["share"])
    cells["no answer"] = percent(strict["no_answer"])
    cells["faults"] = str(strict["faults"])
    return cells


def _notes(report: Report, about: str) -> Iterator[str]:
    """What a reader of the line must know besides, each after what it is `about`."""
    strict = report["strict"]
    if report["samples_per_prompt"] > 1 and strict["samples"]:
        fixed = strict["these_prompts"]
        yield (
            f"{about}: of these very prompts the accuracy is within "
            f"[{100 * fixed['low']:.1f}, {100 * fixed['high']:.1f}] %"
        )
    faults = strict["faults"]
    if faults:
        yield (
            f"{about}: {many(faults, 'completion')} could not be scored and "
            f"{agree(faults, 'count')} nowhere"
        )
    if report.get("too_long"):
        yield f"{about}: {many(report['too_long'], 'prompt')} too long and left out"
    if strict["samples"] and strict["accuracy"] == 0 and report["mean_reward"]["value"] != 0:
        yield (
            f"{about}: no completion has the full score, 1, of {report['reward']}; if it never gives 1, "
            "look at the mean reward"
        )


def _without_common(rows: Sequence[Mapping[str, str]], heading: str) -> list[dict[str, str]]:
    """`rows` without the column `heading` if all cells in it are alike."""
    kept = [dict(row) for row in rows]
    if len({row[heading] for row in rows}) == 1:
        for row in kept:
            del row[heading]
    return kept


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    lines = [headings]
    for row in rows:
        lines.append([row.get(heading, "-") for heading in headings])
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        yield "  ".join(map(str.ljust, line, widths)).rstrip()


def comparison_line(comparison: Report) -> str:
    """``B against A: accuracy +3.1 points [0.9, 5.3], p = 0.006; ...``."""
    accuracy = comparison["accuracy"]
    reward = comparison["mean_reward"]
    points = {key: f"{100 * accuracy[key]:+.1f}" for key in ("difference", "low", "high")}
    amounts = {key: f"{reward[key]:+.3f}" for key in ("difference", "low", "high")}
    names = f"{comparison['model']} against {comparison['baseline']}"
    counts = f"better on {accuracy['better']}, worse on {accuracy['worse']}"
    paired = f"{names}, paired by {many(comparison['prompts'], 'prompt')}"
    parts = [
        f"{paired}: accuracy {points['difference']} points "
        f"[{points['low']}, {points['high']}], p = {accuracy['p_value']:.2g} ({counts})",
        f"mean reward {amounts['difference']} [{amounts['low']}, {amounts['high']}], "
        f"p = {reward['p_value']:.2g}",
    ]
    if comparison["left_out"]:
        parts.append(
            f"{many(comparison['left_out'], 'prompt')} without a score on either side left out"
        )
    return "; ".join(parts)


def percent(share: float | None) -> str:
    """``41.2 %``; a dash for nothing."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.1f} %"


def with_interval(values: Mapping[str, Any]) -> str:
    """``41.2 % [38.0, 44.5]`` of an accuracy."""
    if math.isnan(values["accuracy"]):
        return "nothing scored"
    return f"{percent(values['accuracy'])} [{100 * values['low']:.1f}, {100 * values['high']:.1f}]"


def reward_with_interval(values: Mapping[str, float]) -> str:
    """``0.412 [0.380, 0.445]`` of a mean reward."""
    if math.isnan(values["value"]):
        return "nothing scored"
    return f"{values['value']:.3f} [{values['low']:.3f}, {values['high']:.3f}]"
