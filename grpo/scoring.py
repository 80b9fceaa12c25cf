"""Groups become scored groups: a thin adapter between the loop and ``rewards.service``.

A group is handed over as soon as it is sampled, so that scoring overlaps with sampling. What a score means is decided
in ``rewards``; here completions that were never finished are kept from being scored. Which rewards a run has is up to
``grpo.run.reward_specs``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Callable, Mapping, Sequence

import rewards
from grpo.monitor import watchdog
from grpo.monitor.watchdog import Counts
from grpo.recipe import RewardsServiceSection, SandboxSection, plain
from grpo.types import Completion, Group, ScoredGroup
from rewards import RewardSpec, Sample, Score
from rewards.clock import SECOND_TRY
from rewards.remote.spread import RemoteRewards
from rewards.sandbox import SandboxOptions
from rewards.service.service import Judged, RewardService, Ticket
from rewards.spelling import many

ADDED_COLUMNS = ("finish", "num_tokens")
"""What a reward sees beside the row's own columns."""
UNSCORED = {
    "cancelled": Score(None, status="not_applicable", detail="sampling was cancelled"),
    "error": Score(None, status="fault", detail="the policy's logits were not finite"),
}
"""What a completion that was never finished gets instead of a score."""
NOT_BEGUN = Score(None, status="fault", detail="the environment could not begin")
"""What one gets whose environment failed before the policy wrote anything."""
NOT_ASKED = Score(None, status="not_applicable", detail="the run has no rewards")
"""What a completion gets where nothing scores."""


def sandbox_options(section: SandboxSection) -> SandboxOptions:
    """The recipe's section, as the rewards take it."""
    return SandboxOptions(**plain(section))


class NoService:
    """What a scorer without rewards has in place of workers; nothing can be handed to it."""

    isolation: list[str] = []
    num_from_cache = 0
    num_judged = 0
    num_open = 0

    def set_step(self, step: int) -> None:
        """Nobody reads the step."""

    def take_metrics(self) -> dict[str, list[float]]:
        """Nothing was logged."""
        return {}

    def describe(self) -> list[str]:
        return []

    def submit(self, samples: Sequence[Sample]) -> Ticket:
        raise AssertionError("a scorer without rewards is given nothing to score")

    def judge(self, samples: Sequence[Sample]) -> list[Judged]:
        raise AssertionError("a scorer without rewards is given nothing to judge")

    def close(self) -> None:
        """Nothing runs."""


class Scorer:
    """Scores groups through long-lived reward workers, or at `servers`; close it, or use it as a context."""

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        base_dir: Path | None = None,
        sandbox: SandboxSection = SandboxSection(),
        servers: RewardsServiceSection = RewardsServiceSection(),
    ):
        self.specs = specs
        self._num_submitted = 0
        self.service: RewardService | RemoteRewards | NoService = NoService()
        options = sandbox_options(sandbox)
        if specs and servers.servers:
            self.service = RemoteRewards(
                specs,
                servers.servers,
                base_dir=base_dir,
                sandbox=options,
                silence_seconds=servers.silence,
            )
        elif specs:
            self.service = RewardService(specs, base_dir=base_dir, sandbox=options)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers."""
        self.service.close()

    @property
    def isolation(self) -> list[str]:
        """How programs are confined, in lines for the log; empty if no reward runs any."""
        return self.service.isolation

    @property
    def cached(self) -> float:
        """The share of scores so far that were known from an equal completion."""
        return self.service.num_from_cache / max(1, self.service.num_judged)

    def describe(self) -> list[str]:
        """How many scores cost nothing, in a line for the log; none where nothing is scored, or servers score."""
        if not isinstance(self.service, RewardService):
            return []
        return [
            f"reward cache hits: {self.cached:.0%} of the scores are those of an equal completion"
        ]

    def set_step(self, step: int) -> None:
        """The step whose completions come next: ``trainer_state.global_step`` of TRL's rewards, 1 in the first."""
        self.service.set_step(step)

    def take_metrics(self) -> dict[str, list[float]]:
        """What rewards logged by ``log_metric`` since the last call, by name."""
        return self.service.take_metrics()

    def submit(self, group: Group) -> Pending:
        """Hand a group over and return at once; `Pending.result` waits for its scores."""
        samples = [
            _sample(group, completion)
            for completion in group.completions
            if completion.finish not in UNSCORED
        ]
        if not self.service.num_open:
            self._num_submitted = 0
        self._num_submitted += len(samples) * len(self.specs)
        if not samples or not self.specs:
            return Pending(group, None, self)
        return Pending(group, self.service.submit(samples), self)

    def counts(self) -> Counts:
        """How many of the verdicts asked for since none was open are there."""
        total = self._num_submitted
        return Counts(max(0, total - self.service.num_open), total, "verdicts")

    def wait_for(self, ticket: Ticket) -> list[Judged]:
        """The scores of a ticket, waited for under the watchdog's eyes."""
        with watchdog.waiting(
            "judge",
            owner="rewards.service",
            at_least_seconds=self._needed_seconds(),
            progress=lambda: self.service.num_open,
            state=lambda: [*ticket.describe(), *self.service.describe()],
            counts=self.counts,
        ):
            return ticket.result()

    def _needed_seconds(self) -> float:
        """What two tries of the slowest reward, the second with `SECOND_TRY` times the time, take on a busy machine."""
        slowest = max(rewards.timeout_seconds_of(spec) for spec in self.specs)
        return 2 * (1 + SECOND_TRY) * slowest + 2


def _sample(group: Group, completion: Completion) -> Sample:
    added = {"finish": completion.finish, "num_tokens": completion.num_tokens}
    return Sample(
        text=completion.text,
        columns={**group.prompt.truth, **added},
        prompt=group.prompt.text,
        token_ids=completion.token_ids,
        group=group.prompt.id,
        turns=[turn.to_mapping() for turn in completion.turns],
    )


def _unscored(completion: Completion) -> Score:
    """The score of a completion that no reward sees."""
    if completion.finish == "error" and not completion.token_ids:
        failed = [turn.status for turn in completion.turns if turn.status != "ok"]
        return (
            replace(NOT_BEGUN, detail=f"{NOT_BEGUN.detail} ({failed[-1]})")
            if failed
            else UNSCORED["error"]
        )
    return UNSCORED.get(completion.finish, NOT_ASKED)


class Pending:
    """A group whose scores are under way."""

    def __init__(self, group: Group, ticket: Ticket | None, scorer: Scorer):
        self.group = group
        self.ticket = ticket
        self.scorer = scorer

    def result(self) -> ScoredGroup:
        """Wait for the scores of the group."""
        judged = iter(self.scorer.wait_for(self.ticket) if self.ticket is not None else ())
        scores: list[Score] = []
        verdicts: list[Mapping[str, Score]] = []
        for completion in self.group.completions:
            if completion.finish in UNSCORED or self.ticket is None:
                scores.append(_unscored(completion))
                verdicts.append({})
            else:
                verdict = next(judged)
                scores.append(_picklable(verdict.score))
                verdicts.append({name: _picklable(part) for name, part in verdict.parts.items()})
        return ScoredGroup(
            self.group.prompt, self.group.completions, tuple(scores), tuple(verdicts)
        )


def _picklable(score: Score) -> Score:
    """`score` with a plain dict of parts, which can travel between ranks."""
    return replace(score, parts=dict(score.parts))


def worst_fault(groups: Sequence[ScoredGroup], bad_weight: Callable[[], str]) -> str:
    """How many completions could not be scored, the reward with the most faults, and one of its reasons.

    `bad_weight` names a weight that is not finite; it is asked if the policy itself is at fault.
    """
    faulted = [score.status == "fault" for group in groups for score in group.scores]
    details_of: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        for culprit, detail in _faults(group):
            details_of[culprit].append(detail)
    if not details_of:
        return ""
    culprit, details = max(details_of.items(), key=lambda item: len(item[1]))
    weight = bad_weight() if culprit == "the policy" else ""
    advice = f"; the weight {weight} holds values that are not finite" if weight else ""
    return (
        f"{sum(faulted)} of {many(len(faulted), 'completion')} could not be judged, most of them by "
        f"{culprit}: {details[0]}{advice}"
    )


def _faults(group: ScoredGroup) -> list[tuple[str, str]]:
    """(who, why) for each fault in a group's scores."""
    faults = []
    for verdict, score in zip(group.verdicts, group.scores):
        for name, part in verdict.items():
            if part.status == "fault":
                faults.append((f"rewards.{name}", part.detail))
        if not verdict and score.status == "fault":
            is_environment = score.detail.startswith(NOT_BEGUN.detail)
            faults.append(("the environment" if is_environment else "the policy", score.detail))
    return faults
