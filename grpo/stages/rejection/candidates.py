"""A candidate: one completion of a prompt, its verdict, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

from grpo.run.accuracy import is_right
from grpo.types import Completion, Prompt, ScoredGroup
from rewards import Score


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a completion was sampled.

    ``seed`` decides its tokens (None: unknown), ``model`` is a digest of the weights (None: unknown). ``run`` and
    ``step`` are those of the earlier run that stored it; `index` is its number in its group there.
    """

    index: int
    seed: int | None = None
    model: str | None = None
    run: str | None = None
    step: int | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """Tells the completions of a prompt apart, wherever the folder of their run has been moved."""
        return (Path(self.run or "").name, self.step or 0, self.index)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One completion of a prompt with its verdict.

    ``right`` is None where the reward that means accuracy gave no verdict. ``num_tokens`` counts what was sampled;
    ``has_token_ids`` says whether ``completion.token_ids`` are those, not what the tokenizer makes of the text.
    """

    prompt: Prompt
    completion: Completion
    score: Score
    verdict: Mapping[str, Score]
    right: bool | None
    num_tokens: int
    origin: Origin
    has_token_ids: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class CandidateGroup:
    """All candidates of one prompt."""

    prompt: Prompt
    candidates: tuple[Candidate, ...]

    @property
    def judged(self) -> list[bool]:
        """Whether each candidate is right, of those of which it is known."""
        return [one.right for one in self.candidates if one.right is not None]

    def scored(self) -> ScoredGroup:
        """The same as a scored group."""
        return ScoredGroup(
            prompt=self.prompt,
            completions=tuple(one.completion for one in self.candidates),
            scores=tuple(one.score for one in self.candidates),
            verdicts=tuple(one.verdict for one in self.candidates),
        )


def candidates_of(
    group: ScoredGroup, origins: Sequence[Origin], accurate: str, threshold: float
) -> CandidateGroup:
    """The candidates of a group as it was sampled; right is what reached `threshold` by the reward `accurate`."""
    verdicts = group.verdicts or ({},) * len(group.scores)
    candidates = []
    for index, completion in enumerate(group.completions):
        candidate = Candidate(
            prompt=group.prompt,
            completion=completion,
            score=group.scores[index],
            verdict=verdicts[index],
            right=right_by(verdicts[index].get(accurate), threshold),
            num_tokens=completion.num_tokens,
            origin=origins[index],
        )
        candidates.append(candidate)
    return CandidateGroup(group.prompt, tuple(candidates))


def right_by(score: Score | None, threshold: float) -> bool | None:
    """Whether a score reaches `threshold`; None without a verdict."""
    if score is None or score.value is None:
        return None
    return is_right(score, threshold)
