"""What a step has sampled and scored, as it waits to be trained; as plain values, for a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Sequence

from grpo.data.prompts import PromptSet
from grpo.rollout.buffer import Weights, ages
from grpo.rollout.sequence import completion_from_mapping, completion_mapping
from grpo.types import Prompt, ScoredGroup
from rewards import Score


@dataclass(slots=True, eq=False)
class Rollouts:
    """What a step has sampled and scored.

    ``left_out`` names the groups that are not trained, with their outcome. ``continued`` are the prompts whose groups
    began in an earlier step, ``sampled_by`` the weights (version, fingerprint) that the engine read. ``begun``
    completions were begun, ``in_flight`` go on in a later step. ``logged`` is what rewards logged, by name, ``notes``
    are for the console, ``num_retired`` prompts are never drawn again. ``weights`` are those that were published for
    what was sampled ahead; None of what was sampled by the policy as it was.
    """

    groups: list[ScoredGroup] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"sample": 0.0, "judge": 0.0})
    continued: set[str] = field(default_factory=set)
    sampled_by: set[tuple[int, int]] = field(default_factory=set)
    begun: int = 0
    in_flight: int = 0
    logged: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    num_retired: int = 0
    weights: Weights | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Plain values but for ``weights``, which the buffer keeps."""
        return {
            "groups": [_group_mapping(group) for group in self.groups],
            "left_out": {str(index): outcome for index, outcome in self.left_out.items()},
            "seconds": dict(self.seconds),
            "continued": sorted(self.continued),
            "sampled_by": sorted(self.sampled_by),
            "begun": self.begun,
            "in_flight": self.in_flight,
            "logged": dict(self.logged),
            "notes": list(self.notes),
            "num_retired": self.num_retired,
        }

    @staticmethod
    def from_mapping(values: Mapping[str, Any], prompts: PromptSet) -> Rollouts:
        """What `to_mapping` wrote; `prompts` are those of the data."""
        by_id = {prompt.id: prompt for prompt in prompts.train}
        changed = {
            "groups": [_scored_group(group, by_id) for group in values["groups"]],
            "left_out": {int(index): outcome for index, outcome in values["left_out"].items()},
            "continued": set(values["continued"]),
            "sampled_by": {(version, of) for version, of in values["sampled_by"]},
        }
        return Rollouts(**{**values, **changed})


def _group_mapping(group: ScoredGroup) -> dict[str, Any]:
    return {
        "prompt": group.prompt.id,
        "completions": [{**completion_mapping(one), "text": one.text} for one in group.completions],
        "scores": [_score_mapping(score) for score in group.scores],
        "verdicts": [_verdict_mapping(verdict) for verdict in group.verdicts],
    }


def _verdict_mapping(verdict: Mapping[str, Score]) -> dict[str, Any]:
    return {name: _score_mapping(part) for name, part in verdict.items()}


def _score_mapping(score: Score) -> dict[str, Any]:
    return {
        "value": score.value,
        "parts": dict(score.parts),
        "status": score.status,
        "detail": score.detail,
        "extracted": score.extracted,
    }


def _scored_group(values: Mapping[str, Any], prompts: Mapping[str, Prompt]) -> ScoredGroup:
    verdicts = []
    for verdict in values["verdicts"]:
        verdicts.append({name: Score(**part) for name, part in verdict.items()})
    return ScoredGroup(
        prompt=prompts[values["prompt"]],
        completions=tuple(completion_from_mapping(one) for one in values["completions"]),
        scores=tuple(Score(**score) for score in values["scores"]),
        verdicts=tuple(verdicts),
    )


def ages_of(
    groups: Sequence[ScoredGroup], step: int, step_of: Callable[[int], int]
) -> list[list[int]]:
    """How many steps old each token of each completion is that trains in `step`."""
    every = [completion for group in groups for completion in group.completions]
    return [ages(completion.versions, step, step_of) for completion in every]
