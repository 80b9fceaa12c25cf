"""What a checkpoint holds of a run, and how a run is set back to one.

`RunState` is the part of a checkpoint that is plain values; weights, optimizer, reference and random generators
stand next to it in `Checkpoint`. `Progress` is the part of a run that changes from step to step. How a checkpoint is
written is the business of ``checkpoint``, when of ``storage``.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Iterator, Mapping, Protocol, Sequence

from grpo.data.prompts import PromptSet
from grpo.distributed.fsdp import local_part
from grpo.distributed.process_group import Ranks
from grpo.recipe import Recipe
from grpo.recipe.shorthands import HELD_OUT
from grpo.rollout.sequence import PartialGroup
from grpo.run import checkpoint
from grpo.run.checkpoint import Checkpoint
from grpo.run.ledger import Ledger
from grpo.run.log import finite
from grpo.run.rollouts import Rollouts
from grpo.run.setup import RunParts

SPELLING = {
    "partial_groups": "carried",
    "weights_version": "version_of_weights",
    "fingerprint": "made_of",
}
"""Fields of `RunState` whose key in the file is another."""


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """The plain values of a checkpoint.

    ``sets_before`` are the evaluations by set before the first step; ``ranking`` is what the last evaluation came to
    by ``checkpoint.best_by``.

    ``parts`` are the states of `stateful_parts` by name; ``partial_groups`` and ``expected`` (lengths that the engine
    expects, by prompt id) have one entry a process; ``ahead`` is what was sampled ahead of the step; ``journals`` are
    sizes in bytes, ``trackers`` the run's ids there.
    """

    bonus: Any
    parts: Mapping[str, Any]
    seconds: float
    tokens: Mapping[str, int]
    before: Mapping[str, Any] | None
    examples_before: Sequence[Mapping[str, Any]]
    evaluated: int
    accuracy: float | None
    partial_groups: Sequence[Sequence[Mapping[str, Any]]]
    expected: Sequence[Mapping[str, float]]
    weights_version: int
    journals: Mapping[str, int]
    fingerprint: Mapping[str, Any]
    ranking: float | None = None
    sets_before: Mapping[str, Any] = field(default_factory=dict)
    trackers: Mapping[str, str] = field(default_factory=dict)
    ahead: Mapping[str, Any] | None = None

    def to_mapping(self) -> dict[str, Any]:
        """As `from_mapping` reads it, by the keys of the file."""
        names = [part.name for part in fields(self)]
        return {SPELLING.get(name, name): getattr(self, name) for name in names}

    @staticmethod
    def from_mapping(values: Mapping[str, Any]) -> RunState:
        """The state in a checkpoint's `values`."""
        keys = {part.name: SPELLING.get(part.name, part.name) for part in fields(RunState)}
        if "ranking" not in values:  # made when only held-out rows were evaluated
            before = {} if values["before"] is None else {HELD_OUT: values["before"]}
            values = {**values, "ranking": values["accuracy"], "sets_before": before}
        if values.get("wandb_id"):  # made when wandb was the only tracker
            values = {**values, "trackers": {"wandb": values["wandb_id"]}}
        return RunState(**{name: values[key] for name, key in keys.items() if key in values})


@dataclass(slots=True, eq=False)
class Progress:
    """How far a run has come.

    ``evaluated_step`` is the last step that the schedule evaluated after, -1 before any; ``sets_before`` and
    ``sets_after`` are the evaluations by set of the base and of the final model; ``saved_step`` is the step of the last
    checkpoint, None if this process neither wrote nor read one. ``partial_groups`` were begun, and continue
    in the next step. ``seconds`` count the steps and evaluations; set-up is excluded.
    """

    num_steps: int = 0
    seconds: float = 0.0
    evaluated_step: int = -1
    saved_step: int | None = None
    sets_before: dict[str, Any] = field(default_factory=dict)
    sets_after: dict[str, Any] = field(default_factory=dict)
    ranking: float | None = None
    examples_before: list[dict[str, Any]] = field(default_factory=list)
    partial_groups: list[PartialGroup] = field(default_factory=list)
    tokens: dict[str, int] = field(
        default_factory=lambda: {"sampled": 0, "trained": 0, "evaluated": 0}
    )
    _started: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the wall-clock time of the block into ``seconds``."""
        self._started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - self._started

    @property
    def seconds_now(self) -> float:
        """``seconds`` with those of the block under way."""
        return self.seconds + time.perf_counter() - self._started

    @property
    def before(self) -> dict[str, Any] | None:
        """The evaluation of the held-out rows before the first step; None without one."""
        return self.sets_before.get(HELD_OUT)

    @property
    def after(self) -> dict[str, Any] | None:
        """The evaluation of the held-out rows after the last step; None without one."""
        return self.sets_after.get(HELD_OUT)

    def reset(self) -> None:
        """The beginning of a run, also for one that made steps before it was closed without a checkpoint."""
        self.num_steps = 0
        self.seconds = 0.0
        self.evaluated_step = -1
        self.saved_step = None
        self.sets_before = {}
        self.sets_after = {}
        self.ranking = None
        self.examples_before = []
        self.partial_groups = []
        self.tokens = dict.fromkeys(self.tokens, 0)

    def num_in_flight(self, recipe: Recipe, ranks: Ranks) -> int:
        """Completions that continue in a later step, over all ranks."""
        if not recipe.sample.over_request:
            return 0
        mine = sum(len(group.completions) for group in self.partial_groups)
        return sum(ranks.gather([mine]))


class Stateful(Protocol):
    """A part of a run that a checkpoint keeps as plain values."""

    def state(self) -> dict[str, Any]:
        """Plain values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set this to a `state`."""


def stateful_parts(parts: RunParts, ledger: Ledger) -> dict[str, Stateful]:
    """The parts of a run that a checkpoint keeps by their own ``state()``, by their key there."""
    return {
        "stream": parts.curriculum.stream,
        "pass_rates": parts.curriculum,
        "ledger": ledger,
        "gates": parts.gates,
    }


# ---- saving ---------------------------------------------------------------------------------------------------


def collect(
    parts: RunParts,
    progress: Progress,
    ledger: Ledger,
    *,
    fingerprint: Mapping[str, Any],
    journals: Mapping[str, int],
) -> Checkpoint | None:
    """Everything the run needs to continue from here; None on other ranks than the first. All ranks take part."""
    ranks = parts.ranks
    partial_groups = ranks.gather([[group.to_mapping() for group in progress.partial_groups]])
    expected = ranks.gather([dict(parts.engine.expected)])
    generators = ranks.gather([checkpoint.random_state()])
    learner = parts.learner.state()
    held = {name: local_part(p) for name, p in parts.policy.held().items()}
    weights = parts.policy.all_of(held)
    if not ranks.main:
        return None
    stateful = stateful_parts(parts, ledger)
    ahead = None
    if parts.lookahead is not None:
        ahead = parts.lookahead.state(Rollouts.to_mapping)
    state = RunState(
        bonus=learner["bonus"],
        parts={name: part.state() for name, part in stateful.items()},
        seconds=progress.seconds,
        tokens=dict(progress.tokens),
        before=finite(progress.before),
        ranking=finite(progress.ranking),
        sets_before=finite(progress.sets_before),
        examples_before=progress.examples_before,
        evaluated=progress.evaluated_step,
        accuracy=finite(parts.log.accuracy),
        partial_groups=partial_groups,
        expected=expected,
        weights_version=parts.policy.version,
        trackers=parts.log.tracker_ids,
        ahead=ahead,
        journals=journals,
        fingerprint=fingerprint,
    )
    return Checkpoint(
        step=progress.num_steps,
        weights=weights,
        optimizer=learner["optimizer"],
        reference=learner["reference"],
        state=state.to_mapping(),
        generators=generators,
        held_out=state.ranking if state.evaluated == progress.num_steps else None,
    )


# ---- restoring ------------------------------------------------------------------------------------------------


def restore(
    saved: Checkpoint, parts: RunParts, progress: Progress, ledger: Ledger, prompts: PromptSet
) -> None:
    """Set an open run to where `saved` left it."""
    state = RunState.from_mapping(saved.state)
    parts.policy.load_held(saved.weights)
    parts.policy.version = state.weights_version
    parts.learner.restore(
        {"optimizer": saved.optimizer, "reference": saved.reference, "bonus": state.bonus}
    )
    for name, part in stateful_parts(parts, ledger).items():
        part.restore(state.parts[name])
    parts.log.accuracy = state.accuracy
    parts.log.tracker_ids = dict(state.trackers)
    _restore_progress(progress, saved.step, state)
    _restore_rollouts(state, parts, progress, prompts)
    if parts.ranks.rank < len(saved.generators):
        checkpoint.set_random_state(saved.generators[parts.ranks.rank])


def _restore_progress(progress: Progress, step: int, state: RunState) -> None:
    progress.num_steps = step
    progress.saved_step = step
    progress.seconds = state.seconds
    progress.tokens = dict(state.tokens)
    progress.sets_before = {name: dict(values) for name, values in state.sets_before.items()}
    progress.ranking = state.ranking
    progress.examples_before = [dict(example) for example in state.examples_before]
    progress.evaluated_step = state.evaluated


def _restore_rollouts(
    state: RunState, parts: RunParts, progress: Progress, prompts: PromptSet
) -> None:
    """Give this rank its partial groups, and its engine the lengths it expected."""
    ranks = parts.ranks
    partial_groups = state.partial_groups
    expected = state.expected
    if len(partial_groups) != ranks.world:  # another number of processes: deal the groups out again
        every = [group for part in partial_groups for group in part]
        partial_groups = [every[rank :: ranks.world] for rank in range(ranks.world)]
        merged: dict[str, float] = {}
        for part in expected:
            merged |= part
        expected = [merged] * ranks.world
    by_id = {prompt.id: prompt for prompt in prompts.train}
    mine = partial_groups[ranks.rank]
    progress.partial_groups = [PartialGroup.from_mapping(group, by_id) for group in mine]
    parts.engine.expected = dict(expected[ranks.rank])
    if parts.lookahead is not None:
        assert state.ahead is not None, "sample.staleness is no key that may change"
        parts.lookahead.restore(state.ahead, partial(Rollouts.from_mapping, prompts=prompts))
