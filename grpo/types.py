"""The nouns that travel between the stages of the loop, and the words used for them everywhere.

``Prompt -> Completion -> Group -> ScoredGroup -> Batch -> UpdateStats -> record``

Words: a *step* is one pass of the loop, an *update* one optimizer step, an *epoch* one pass over a
step's completions. A *completion* is what the policy wrote, an *answer* the gold column and what is
extracted to compare with it. A *group* is the completions of one prompt; it is *flat* if its scores do
not spread. A completion is *truncated* if its finish is length or context. ``logp`` is the current
policy's log-probability, ``old_logp`` that of the policy before the step's first update,
``sampled_logp`` the sampler's own, ``ref_logp`` the reference's; *drift* is sampled_logp against old_logp.

Shape letters, the same in every file: ``B`` completions, ``G`` completions of one group, ``T`` completion
tokens of a batch laid end to end, ``P`` packed token positions (prompts and completions), ``R`` rows,
``V`` vocabulary, ``D`` hidden width. Tensors carry them as a suffix: ``logp_T``, ``advantage_B``.
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

    ``token_ids`` end with the stop token when ``finish`` is "stop" by a token; a stop *string* stays in
    ``token_ids`` and is trimmed from ``text``. ``sampled_logps`` (fp32, one a token) are those of the
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
        return self.finish in ("length", "context")


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The completions of one prompt, in the order of their sample index."""

    prompt: Prompt
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredGroup:
    """A group with the verdict on each completion; a score whose value is None counts nowhere."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...]
    verdicts: tuple[Mapping[str, Score], ...] = ()

    @property
    def flat(self) -> bool:
        """Whether the scores that count do not spread, so that no completion is better than another."""
        values = [score.value for score in self.scores if score.value is not None]
        return not values or max(values) - min(values) <= 1e-9 * max(
            1.0, abs(max(values)), abs(min(values))
        )


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One completion as the update sees it: its tokens, its advantage, and where it stands in the step.

    ``mask`` is False where the completion is sampled but must not be learnt from (a fault, a masked
    truncation); such a row is in no denominator. ``forwarded`` is False where it is in the denominators
    but nothing in the loss can reach it (a flat group without KL). Tokens before ``fresh_from`` were sampled by
    older weights, in a step before.
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
