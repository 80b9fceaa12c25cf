"""The last lines of a finished run that leaves no model in final/: rejection sampling, evaluation, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from grpo.report.console.numbers import interval, rough_time, short
from grpo.report.console.words import candidates, shown_set
from rewards.spelling import agree, many

Summary = Mapping[str, Any]


def rejected(summary: Summary, folder: Path) -> Iterator[str]:
    """What became of the candidates, and where the accepted ones are."""
    yield candidates(summary["ledger"])
    accepted = summary["ledger"]["accepted"]
    yield (
        f"{many(summary['steps'], 'step')} in {rough_time(summary['seconds'])}, "
        f"{short(summary['tokens']['sampled'])} tokens sampled; {accepted} {agree(accepted, 'are')} in "
        f"{folder / 'accepted.jsonl'}"
    )


def evaluated(summary: Summary, folder: Path) -> Iterator[str]:
    """The accuracy of each model on each set."""
    for model, reports in summary["evaluations"].items():
        for report in reports:
            yield f"{model}: {shown_set(report['set'])} accuracy {interval(report['strict'])}"
    models = many(len(summary["evaluations"]), "model")
    yield f"{models} in {rough_time(summary['seconds'])}; completions are in {folder / 'completions'}"


def exported(summary: Summary, folder: Path) -> Iterator[str]:
    """Where the files are."""
    for file in summary["files"]:
        yield f"written: {folder / file}"
    yield f"exported in {rough_time(summary['seconds'])}"


CLOSINGS: Mapping[str, Callable[[Summary, Path], Iterator[str]]] = {
    "reject": rejected,
    "evaluate": evaluated,
    "export": exported,
}
"""The lines, by the stage of the run."""
