"""The nouns that travel between the stages of the loop, and the glossary: each word has one meaning everywhere.

``Prompt -> Completion -> Group -> ScoredGroup -> Batch -> UpdateStats -> record``

The loop:
    step: one pass of the loop.
    update: one optimizer step; a step makes one or more.
    epoch: one pass of the updates over a step's completions.
    run: all steps of a recipe, with what it writes to its folder.

Text:
    prompt: one row of the data set as the policy reads it.
    completion: what the policy wrote after a prompt (never "answer", "response" or "generation").
    answer: the gold column, and what is extracted from a completion to compare with it.
    truncated: a completion whose finish is length or context.
    sequence: a completion while it is being decoded, with its prompt.

Groups:
    group: the completions of one prompt.
    flat: of a group, without spread of reward: no completion is better than another.
    partial group: a group that a step did not wait for; its completions are continued in the next (partial rollout).

Scores:
    reward: a function that scores a completion; a run has one or more, each with a weight.
    score: a value with its status; `fault` means that the reward failed, and is never a 0.
    verdict: the scores of one completion, one per reward.
    scorer: hands groups to the reward workers and collects their scores.
    accurate: of a completion, given the full score, 1, by the reward that means accuracy.
    outcome: what became of a sampled completion; one of `OUTCOMES`, counted in the ledger.

Log-probabilities:
    logp: under the policy as it is now.
    old_logp: under the policy before the step's first update.
    sampled_logp: the sampler's own.
    ref_logp: under the reference.
    drift: sampled_logp against old_logp; 0 if sampler and trainer agree.
    correction: importance weights that undo the difference between sampler and trainer.
    gate: a number watched at every step, with limits at which it notes, warns, skips or stops.

Shape letters, the same in every file: ``B`` completions, ``G`` completions of one group, ``T`` completion tokens of a
batch laid end to end, ``P`` packed token positions (prompts and completions), ``R`` rows, ``V`` vocabulary, ``D``
hidden width. Tensors carry them as a suffix: ``logp_T``, ``advantage_B``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping

from torch import Tensor

from rewards import Score

FINISHES = ("stop", "length", "context", "cancelled", "error")
OUTCOMES = ("cancelled", "faulted", "truncated_masked", "flat", "correction_masked", "trained")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of the data set, ready to be sampled: its tokens, and the truth its reward needs.

    ``truth`` holds the row's columns; it is never shown to the policy. ``text`` is what ``token_ids`` spell.
    """

    id: str
    token_ids: tuple[int, ...]
    truth: Mapping[str, Any]
    text: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What the policy wrote after one prompt.

    ``token_ids`` end with the stop token when ``finish`` is "stop" by a token, which ``text`` leaves out; a stop
    *string* stays in both, and ends ``text``. ``sampled_logps`` (fp32, one a token) are those of the
    sampling distribution, temperature and filters applied. ``log_kept`` is the log of the probability mass
    that the filters kept at each token (None without filters), so that ``sampled_logps + log_kept`` is the
    log-probability under temperature alone. ``versions`` are spans ``(weight version, first, last + 1)``.
    """

    text: str
    token_ids: tuple[int, ...]
    sampled_logps: Tensor
    finish: str
    stop: int | str | None = None
    versions: tuple[tuple[int, int, int], ...] = ()
    log_kept: Tensor | None = None

    @property
    def truncated(self) -> bool:
        """Whether the policy was cut off before it ended the completion."""
        return self.finish in ("length", "context")


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The completions of one prompt, in the order of their sample index."""

    prompt: Prompt
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredGroup:
    """A group with the score of each completion; one whose value is None counts nowhere."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...]
    verdicts: tuple[Mapping[str, Score], ...] = ()

    @property
    def flat(self) -> bool:
        """Whether the scores that count do not spread, so that no completion is better than another."""
        values = [score.value for score in self.scores if score.value is not None]
        if not values:
            return True
        highest = max(values)
        lowest = min(values)
        return highest - lowest <= 1e-9 * max(1.0, abs(highest), abs(lowest))


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One completion as the update sees it: its tokens, its advantage, and its position in the step.

    ``mask`` is False if the completion was sampled but must not be learnt from (a fault, a masked truncation); such a
    row is in no denominator. ``forwarded`` is False if it is in the denominators but nothing in the loss can reach it
    (a flat group without KL). Tokens before ``fresh_from`` were sampled by older weights, in an earlier step.
    """

    index: int
    group: int
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    sampled_logps: Tensor
    advantage: float | Tensor
    mask: bool
    forwarded: bool
    outcome: str
    fresh_from: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of the completion."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Denominators:
    """What the sums of one update are divided by: counts over the whole update and all ranks.

    ``max_tokens`` is the generation cap; ``group_tokens`` are the tokens of each group that counts.
    """

    num_completions: int
    num_tokens: int
    max_tokens: int
    group_tokens: Mapping[int, int]

    @property
    def num_groups(self) -> int:
        """Groups that count."""
        return len(self.group_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """The rows of one optimizer step with the denominators fixed before its first backward."""

    rows: tuple[Row, ...]
    denominators: Denominators


@dataclass(frozen=True, slots=True)
class Batch:
    """All rows of a step, divided into the updates that will be made from them."""

    rows: tuple[Row, ...]
    updates: tuple[Update, ...]
    ledger: Mapping[str, int] = field(default_factory=dict)
