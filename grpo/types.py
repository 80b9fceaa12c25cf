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
    turn: what the policy writes until an environment answers; a completion has one or more.
    observation: what an environment answers to a turn; given to the policy, never learnt from.

Groups:
    group: the completions of one prompt.
    flat: of a group, without spread of reward: no completion is better than another (`spread`).
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
hidden width; of mixtures of experts ``L`` layers with experts, ``E`` experts of a layer, ``K`` of them a token. Tensors
carry them as a suffix: ``logp_T``, ``advantage_B``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from torch import Tensor

from grpo.notebook.cards import CompletionRow, group_card
from rewards import Score
from rewards.environments import Turn
from rewards.spelling import many

FINISHES = ("stop", "length", "context", "cancelled", "error")
SPREAD_TOLERANCE = 1e-6
"""Scores that differ by no more than this are equal: of the larger one, or of 1 where both are smaller. A judge in
fp32 repeats itself to about 1e-7; what rewards tell apart on purpose is far coarser."""
OUTCOMES = ("cancelled", "faulted", "truncated_masked", "flat", "correction_masked", "trained")


MAX_SHOWN = 60


def shortened(text: str) -> str:
    """The beginning of a text, for a line about it."""
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of the data set, ready to be sampled: its tokens, and the truth its reward needs.

    ``truth`` holds the row's columns; it is never shown to the policy. ``text`` is what ``token_ids`` spell.
    ``source`` names the source of a mixture, or the evaluation set, that it comes from.
    """

    id: str
    token_ids: tuple[int, ...]
    truth: Mapping[str, Any]
    text: str = ""
    source: str = ""

    def __repr__(self) -> str:
        return f"Prompt({self.id}: {shortened(self.text)!r}, {many(len(self.token_ids), 'token')})"


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What the policy wrote after one prompt.

    ``token_ids`` end with the stop token when ``finish`` is "stop" by a token, which ``text`` leaves out; a stop
    *string* stays in both, and ends ``text``. ``sampled_logps`` (fp32, one a token) are those of the
    sampling distribution, temperature and filters applied. ``log_kept`` is the log of the probability mass
    that the filters kept at each token (None without filters), so that ``sampled_logps + log_kept`` is the
    log-probability under temperature alone. ``versions`` are spans ``(weight version, first, last + 1)``.
    ``routing`` [tokens that the sampler read, L, K] are the experts that they went to, of a mixture of experts whose
    routing is replayed: of all tokens but the last.

    ``given`` are half-open spans of ``token_ids``, in order and apart, that an environment wrote: observations between
    ``turns``. They are in the context and in nothing else: ``text`` leaves them out, ``sampled_logps`` and ``log_kept``
    have no values for them, and ``num_tokens`` does not count them. ``versions`` are spans of all ``token_ids``.
    """

    text: str
    token_ids: tuple[int, ...]
    sampled_logps: Tensor
    finish: str
    stop: int | str | None = None
    versions: tuple[tuple[int, int, int], ...] = ()
    log_kept: Tensor | None = None
    routing: Tensor | None = None
    given: tuple[tuple[int, int], ...] = ()
    turns: tuple[Turn, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Completion({shortened(self.text)!r}, {many(self.num_tokens, 'token')}, {self.finish})"
        )

    @property
    def num_tokens(self) -> int:
        """Tokens that the policy wrote: all but the ``given`` ones."""
        return len(self.token_ids) - sum(end - start for start, end in self.given)

    @property
    def truncated(self) -> bool:
        """Whether the policy was cut off before it ended the completion."""
        return self.finish in ("length", "context")


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The completions of one prompt, in the order of their sample index."""

    prompt: Prompt
    completions: tuple[Completion, ...]

    def __repr__(self) -> str:
        return f"Group({self.prompt.id}: {many(len(self.completions), 'completion')})"


def spread(values: Sequence[float | None]) -> bool:
    """Whether values that are not None differ by more than `SPREAD_TOLERANCE`; the one test of what is flat.

    >>> spread([0.7, 0.7000001]), spread([0.7, 0.7001]), spread([1.0, None])
    (False, True, False)
    """
    known = [value for value in values if value is not None]
    if not known:
        return False
    highest = max(known)
    lowest = min(known)
    return highest - lowest > SPREAD_TOLERANCE * max(1.0, abs(highest), abs(lowest))


@dataclass(frozen=True, slots=True, eq=False)
class ScoredGroup:
    """A group with the score of each completion; one whose value is None counts nowhere."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...]
    verdicts: tuple[Mapping[str, Score], ...] = ()

    def counted(self, mask_truncated: bool = False) -> list[bool]:
        """Which completions have a score to learn from; with `mask_truncated` those cut off have none."""
        counts = []
        for score, completion in zip(self.scores, self.completions):
            known = score.value is not None and completion.finish != "cancelled"
            masked = mask_truncated and completion.truncated
            counts.append(known and not masked)
        return counts

    def is_flat(self, mask_truncated: bool = False) -> bool:
        """Whether the scores that count do not spread, so that no completion is better than another."""
        counts = self.counted(mask_truncated)
        return not spread([score.value for score, counted in zip(self.scores, counts) if counted])

    def __repr__(self) -> str:
        values = ", ".join(
            "-" if score.value is None else f"{score.value:g}" for score in self.scores
        )
        return f"ScoredGroup({self.prompt.id}: rewards {values})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the prompt, and a row for each completion with its score and text."""
        verdicts = self.verdicts or ({},) * len(self.scores)
        counts = self.counted()
        rows = []
        for index, (completion, score) in enumerate(zip(self.completions, self.scores)):
            verdict = verdicts[index]
            of_status = [part for part in verdict.values() if part.status == score.status]
            details = [part.detail for part in of_status if part.detail]
            row = CompletionRow(
                text=completion.text,
                num_tokens=completion.num_tokens,
                finish=completion.finish,
                reward=score.value,
                status=score.status,
                detail="; ".join(details) or score.detail,
                parts={name: part.value for name, part in verdict.items()},
                counted=counts[index],
            )
            rows.append(row)
        prompt = self.prompt
        return group_card(prompt.id, prompt.text, prompt.truth, rows, is_flat=self.flat)

    @property
    def flat(self) -> bool:
        """`is_flat` where truncated completions count like all others."""
        return self.is_flat()


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One completion as the update sees it: its tokens, its advantage, and its position in the step.

    ``mask`` is False if the completion was sampled but must not be learnt from (a fault, a masked truncation); such a
    row is in no denominator. ``forwarded`` is False if it is in the denominators but nothing in the loss can reach it
    (a flat group without KL). Tokens before ``fresh_from``, an index into all of them, were sampled by older weights,
    in an earlier step.

    ``given`` are half-open spans of ``token_ids``, in order and apart, that others wrote (an observation of a tool, a
    user's later turn): they are read and never learnt from. ``sampled_logps`` and an advantage by token are of the
    tokens that are left.
    ``routing`` is the completion's.
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
    given: tuple[tuple[int, int], ...] = ()
    routing: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the completion that are learnt from: all but the ``given`` ones."""
        return len(self.token_ids) - sum(end - start for start, end in self.given)

    @property
    def written(self) -> list[int]:
        """The indices into ``token_ids`` of the tokens that are learnt from."""
        indices: list[int] = []
        start = 0
        for given_start, given_end in self.given:
            indices += range(start, given_start)
            start = given_end
        return [*indices, *range(start, len(self.token_ids))]


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
