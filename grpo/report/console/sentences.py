"""The same figures as sentences of one line: for files, pipes and ``console.log``, and between rows of the table."""

from __future__ import annotations

from typing import Any, Mapping

from grpo.notebook.sizes import size_of
from grpo.report.console.columns import COLUMNS, remarks
from grpo.report.console.numbers import interval, is_number
from grpo.report.console.words import ZERO_VARIANCE, shown_set

Record = Mapping[str, Any]
NAMES = {
    "reward/mean": "reward {:.3f}",
    "policy/teacher_kl": "teacher KL {:.4f}",
    "update/loss": "loss {:.4f}",
    "epoch": "epoch {:.2f}",
    "completion/length": "length {:.1f}",
    "tool/share": "calling {:.0%}",
    "prompt/pass_rate": "pass rate {:.0%}",
    "ledger/accepted": "accepted {:.0f}",
    "group/flat": f"{ZERO_VARIANCE} {{:.0%}}",
    "policy/entropy": "entropy {:.2f}",
    "policy/drift": "mismatch {:.0e}",
}
"""How a figure of a step is said, by its key."""


def step_sentence(record: Record, steps: int, evaluations: Mapping[str, Record]) -> str:
    """The line of a step, each figure with its name; the reward leads, the loss, 0 by construction, is left out."""
    parts = [f"step {record['step']:>{len(str(steps))}}/{steps}"]
    for column in COLUMNS:
        if column.stands_in(record) and column.key in NAMES:
            parts += _figure(record[column.key], NAMES[column.key])
        if column.key == "reward/mean":
            parts += _accuracies(evaluations)
    parts += [text for text, _ in remarks(record)]
    parts.append(f"{record['seconds/step']:.1f} s")
    return "  ".join(parts)


def _figure(value: Any, form: str) -> list[str]:
    """A figure with its name; nothing where there is none. A reward that is none is said to be so."""
    if is_number(value) or form.startswith("reward"):
        return [form.format(float("nan") if value is None else value)]
    return []


def _accuracies(evaluations: Mapping[str, Record]) -> list[str]:
    known = {name: result for name, result in evaluations.items() if is_number(result["accuracy"])}
    return [f"{shown_set(name)} {interval(result)}" for name, result in known.items()]


def evaluation_sentence(name: str, when: str, result: Record, with_parts: bool = True) -> str:
    """The line of an evaluation of one set: of what `grpo.run.accuracy.Evaluation.to_mapping` gives, or is in a file.

    `with_parts` it ends with the means of the numbers that rewards report.
    """
    parts = [f"{interval(result)}{_size(result)}"]
    reward = result.get("reward")
    if is_number(reward) and reward != result["accuracy"]:
        bounds = f"[{result['reward_low']:.3f}, {result['reward_high']:.3f}]"
        parts.append(f"mean reward {reward:.3f} {bounds}")
    if is_number(result.get("length")):
        parts.append(f"length {result['length']:.1f}")
    if is_number(result.get("truncated")):
        parts.append(f"truncated {result['truncated']:.1%}")
    told = result.get("details", {})
    if is_number(told.get("tool/share")):
        parts.append(f"calling {told['tool/share']:.1%} ({told['tool/calls']:.2f} calls each)")
    details = told if with_parts else {}
    parts += [
        f"{part} {value:.3g}"
        for part, value in details.items()
        if "/" in part and value is not None and not part.startswith("tool/")
    ]
    if result.get("faults"):
        parts.append(f"{result['faults']} not scored")
    return f"{shown_set(name)} {when}: {', '.join(parts)}"


def _size(result: Record) -> str:
    """`` (256 prompts x 4 samples)``, where that is known."""
    if "samples" not in result:
        return ""
    return f" ({size_of(result, 'x')})"
