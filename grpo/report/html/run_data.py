"""Everything that a page shows of one run, read from its folder in one pass over a bounded part of its completions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

from grpo.recipe.shorthands import HELD_OUT
from grpo.report.folder import (
    EvaluationPoint,
    Record,
    RunFolder,
    State,
    points_in,
    points_in_summary,
    steps_in,
)
from grpo.report.html.packing import Block, Packer, num_completions, shared_out
from grpo.report.samples import (
    Judge,
    Sample,
    Span,
    evenly_spaced,
    prompt_ids,
    read_spans,
    spans_of,
)
from grpo.report.tally import Tally

READ_BYTES = 160 << 20
"""Of each file of completions, how much is read for the statistics."""
DEFLATION = 4
"""How many times shorter text is deflated, at most; more than that is not packed to begin with."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How many completions of one kind were written, read for statistics, and kept in the page."""

    written: int
    read: int
    kept: int

    @property
    def is_whole(self) -> bool:
        """Whether all of them are kept."""
        return self.written == self.read == self.kept


@dataclass(frozen=True, slots=True, eq=False)
class RunData:
    """One run of a page.

    ``label`` names it among the page's runs. ``records`` are those of steps, ``points`` of evaluations; ``lives`` are
    the lines of ``environment.jsonl``. ``trained`` and ``evaluated`` say how many completions there are.
    """

    label: str
    path: Path
    state: State
    recipe: Mapping[str, Any]
    summary: Mapping[str, Any]
    records: Sequence[Record]
    points: Sequence[EvaluationPoint]
    alarms: Sequence[Record]
    lives: Sequence[Record]
    tally: Tally
    blocks: Sequence[Block]
    trained: Extent
    evaluated: Extent


@dataclass(frozen=True, slots=True, eq=False)
class _Packed:
    """Completions of one kind, as read."""

    written: int
    read: int
    blocks: Sequence[Block]


def read_run(folder: RunFolder, label: str, number: int, limit_bytes: int) -> RunData:
    """The run in `folder`, the `number`-th of a page; its deflated completions take at most about `limit_bytes`."""
    recipe = folder.recipe()
    judge = Judge.of(recipe)
    tally = Tally()
    reading = _Reading(judge, tally, number, DEFLATION * limit_bytes)
    trained = _read_training(folder, reading)
    evaluated = _read_evaluations(folder, reading)
    kept_evaluated, kept_trained = shared_out(evaluated.blocks, trained.blocks, limit_bytes)
    metrics = folder.metrics()
    summary = folder.summary()
    return RunData(
        label=label,
        path=folder.path,
        state=folder.state(),
        recipe=recipe,
        summary=summary,
        records=steps_in(metrics),
        points=points_in(metrics) or points_in_summary(summary),
        alarms=folder.alarms(),
        lives=folder.environments(),
        tally=tally,
        blocks=[*kept_trained, *kept_evaluated],
        trained=Extent(trained.written, trained.read, num_completions(kept_trained)),
        evaluated=Extent(evaluated.written, evaluated.read, num_completions(kept_evaluated)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """How the completions of a run are read: counted in ``tally``, and packed up to ``limit_bytes`` of the file."""

    judge: Judge
    tally: Tally
    run: int
    limit_bytes: int


def _read_training(folder: RunFolder, reading: _Reading) -> _Packed:
    """Evenly spaced steps, as many as may be read."""
    file = folder.path / "samples.jsonl"
    spans = spans_of(file)
    chosen = evenly_spaced(spans, READ_BYTES)
    packed = {span.step for span in evenly_spaced(chosen, reading.limit_bytes)}
    packer = Packer(reading.run)
    step = None
    for sample in read_spans(file, chosen, reading.judge):
        reading.tally.add(sample)
        if step != sample.step:
            packer.close()
        step = sample.step
        if step in packed:
            packer.add(sample)
    packer.close()
    return _Packed(
        written=sum(span.num_rows for span in spans),
        read=sum(span.num_rows for span in chosen),
        blocks=packer.blocks,
    )


def _read_evaluations(folder: RunFolder, reading: _Reading) -> _Packed:
    """Evenly spaced prompts of each set, as many as may be read, each with all its evaluations as neighbours."""
    file = folder.path / "evaluations.jsonl"
    spans = spans_of(file, unnamed=HELD_OUT)
    read = _chosen_prompts(file, spans, READ_BYTES)
    packed = _chosen_prompts(file, spans, reading.limit_bytes)
    samples_of: dict[tuple[str, str], list[Sample]] = {}
    number = 0
    for sample in read_spans(file, spans, reading.judge, read):
        number += 1
        reading.tally.add(sample)
        if packed is None or sample.prompt_id in packed:
            samples_of.setdefault((sample.set, sample.prompt_id), []).append(sample)
    packer = Packer(reading.run)
    for samples in samples_of.values():
        for sample in samples:
            packer.add(sample)
    packer.close()
    return _Packed(written=sum(span.num_rows for span in spans), read=number, blocks=packer.blocks)


def _chosen_prompts(file: Path, spans: Sequence[Span], limit_bytes: int) -> set[str] | None:
    """Evenly spaced prompts of each set whose completions fit in `limit_bytes`; None for all."""
    total = sum(span.num_bytes for span in spans)
    if total <= limit_bytes:
        return None
    chosen: set[str] = set()
    every = -(-total // limit_bytes)
    for span in {span.set: span for span in spans}.values():
        chosen.update(prompt_ids(file, span)[::every])
    return chosen
