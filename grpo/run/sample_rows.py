"""What ``samples.jsonl`` and ``evaluations.jsonl`` hold: one row a completion, plain values. Nothing is written here.

Which completions keep the log-prob of each token is decided here too: those of a step with the greatest advantages,
as many as ``log.token_logprobs`` says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grpo.run.accuracy import Evaluation, is_right
from grpo.types import Batch, Completion, Row, ScoredGroup
from rewards import Score

LONGEST_EXTRACTED = 200
"""Characters of an extracted answer that are kept; a longer one is a program, which the completion shows."""
NOT_WHOLE = "\ufffd"
"""What a tokenizer gives for the first bytes of a character."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleRows:
    """Makes the rows of a run.

    A completion is right if the reward ``accurate`` gave it ``threshold`` or more. ``num_with_tokens`` completions of a
    step keep the log-probs of their tokens, which ``tokenizer`` spells. With ``has_versions`` a row names the weights
    that wrote its tokens.
    """

    accurate: str = ""
    threshold: float = 1.0
    num_with_tokens: int = 0
    tokenizer: PreTrainedTokenizerBase | None = None
    has_versions: bool = False

    def of_step(
        self, step: int, groups: Sequence[ScoredGroup], batch: Batch | None = None
    ) -> list[dict[str, Any]]:
        """The rows of a step's completions; `batch` holds what became of each, in the same order."""
        rows = []
        for group in groups:
            rows += sample_rows(step, group, self.accurate, self.threshold)
        completions = [completion for group in groups for completion in group.completions]
        if self.has_versions:
            for row, completion in zip(rows, completions):
                row["versions"] = [list(span) for span in completion.versions]
        if batch is None:
            return rows
        detailed = self._with_tokens(batch.rows)
        for row, learnt, completion in zip(rows, batch.rows, completions, strict=True):
            row["advantage"] = _rounded(_mean_advantage(learnt))
            row["outcome"] = learnt.outcome
            if learnt.index in detailed:
                row |= self._token_columns(learnt, completion)
        return rows

    def _with_tokens(self, rows: Sequence[Row]) -> Collection[int]:
        """The indices of the rows that keep their tokens' log-probs."""
        if self.tokenizer is None or not self.num_with_tokens:
            return ()
        ordered = sorted(rows, key=lambda row: (-abs(_mean_advantage(row)), row.index))
        return {row.index for row in ordered[: self.num_with_tokens]}

    def _token_columns(self, row: Row, completion: Completion) -> dict[str, Any]:
        """``tokens``: where each ends in the text, its log-prob, and its advantage where those differ by token."""
        assert self.tokenizer is not None
        ends = token_ends(self.tokenizer, completion)
        if ends is None:
            return {}
        columns: dict[str, Any] = {"ends": ends}
        columns["logps"] = [_rounded(value, 3) for value in completion.sampled_logps.tolist()]
        if isinstance(row.advantage, Tensor) and row.advantage.dim():
            columns["advantages"] = [_rounded(value, 3) for value in row.advantage.tolist()]
        return {"tokens": columns}


def evaluation_rows(step: int, name: str, result: Evaluation) -> Iterator[dict[str, Any]]:
    """The rows of an evaluation of the set `name`."""
    for group in result.groups:
        for row in sample_rows(step, group, result.accurate, result.threshold):
            yield {"set": name, **row}


def sample_rows(
    step: int, group: ScoredGroup, accurate: str = "", threshold: float = 1.0
) -> list[dict[str, Any]]:
    """One row a completion: where it came from, what was written, and its scores."""
    verdicts = group.verdicts or ({},) * len(group.scores)
    rows = []
    for index, completion in enumerate(group.completions):
        source = {
            "step": step,
            "prompt_id": group.prompt.id,
            "index": index,
            "prompt": group.prompt.text,
        }
        if group.prompt.source:
            source["source"] = group.prompt.source
        scored = _scored_columns(group.scores[index], verdicts[index])
        if accurate:
            scored["right"] = _is_right(verdicts[index].get(accurate), threshold)
        rows.append({**source, **_written_columns(completion), **scored})
    return rows


def _is_right(score: Score | None, threshold: float) -> bool | None:
    if score is None or score.value is None:
        return None
    return is_right(score, threshold)


def _written_columns(completion: Completion) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "completion": completion.text,
        "finish": completion.finish,
        "stop": completion.stop,
        "num_tokens": completion.num_tokens,
    }
    if completion.turns:
        columns["turns"] = turn_rows(completion)
    return columns


def turn_rows(completion: Completion) -> list[dict[str, Any]]:
    """The turns of a completion as plain values: what was written and observed, the calls, the status, any reward."""
    rows = []
    for turn in completion.turns:
        row = turn.to_mapping()
        optional = {name: row.pop(name) for name in ("reward", "parts")}
        rows.append(
            row | {name: value for name, value in optional.items() if value not in (None, {})}
        )
    return rows


def _scored_columns(score: Score, verdict: Mapping[str, Score]) -> dict[str, Any]:
    details = {name: part.detail for name, part in verdict.items() if part.detail}
    columns: dict[str, Any] = {
        "reward": score.value,
        "status": score.status,
        "parts": {name: part.value for name, part in verdict.items()},
        "statuses": {name: part.status for name, part in verdict.items()},
        "detail": details or score.detail,
    }
    reported = {name: dict(part.parts) for name, part in verdict.items() if part.parts}
    if reported:
        columns["reported"] = reported
    extracted = dict(_extracted(verdict))
    if extracted:
        columns["extracted"] = extracted
    return columns


def _extracted(verdict: Mapping[str, Score]) -> Iterator[tuple[str, str]]:
    for name, part in verdict.items():
        if part.extracted is not None and len(part.extracted) <= LONGEST_EXTRACTED:
            yield name, part.extracted


def _mean_advantage(row: Row) -> float:
    """Of a row whose tokens have different advantages their mean."""
    if not isinstance(row.advantage, Tensor):
        return float(row.advantage)
    return float(row.advantage.double().mean()) if row.advantage.numel() else 0.0


def _rounded(value: float, digits: int = 6) -> float | None:
    """`value` in few characters; None for what JSON cannot hold."""
    return round(value, digits) + 0.0 if math.isfinite(value) else None


def token_ends(tokenizer: PreTrainedTokenizerBase, completion: Completion) -> list[int] | None:
    """Where in the completion's text each of its tokens ends, in characters; None if the tokens do not spell it.

    A token that ends inside a character adds nothing to the text; the last token of the character adds it. A stop
    token, which the text leaves out, ends where the text does.
    """
    if completion.given:
        return _ends_of_turns(tokenizer, completion)
    text = completion.text
    shown = list(completion.token_ids)
    if isinstance(completion.stop, int):
        shown.pop()
    spelled = _decode(tokenizer, shown)
    if not spelled.startswith(text):
        return None
    ends: list[int] = []
    end = before = settled = (
        0  # what a token spells may depend on the piece before it, so both are decoded
    )
    for index in range(len(shown)):
        known = _decode(tokenizer, shown[before:settled])
        both = _decode(tokenizer, shown[before : index + 1])
        if not both.endswith(NOT_WHOLE):
            end += len(both) - len(known)
            before = settled
            settled = index + 1
        ends.append(min(end, len(text)))
    if settled == len(shown) and end != len(spelled):
        return None
    return ends + [len(text)] * (len(completion.token_ids) - len(shown))


def _ends_of_turns(tokenizer: PreTrainedTokenizerBase, completion: Completion) -> list[int] | None:
    """As `token_ends`, of the tokens that were written, turn by turn; their texts are joined by line breaks."""
    ends: list[int] = []
    before = 0
    for token_ids, stop, text in _written_turns(tokenizer, completion):
        turn = Completion(text, tuple(token_ids), torch.zeros(0), "stop", stop=stop)
        own = token_ends(tokenizer, turn)
        if own is None or not completion.text[before:].startswith(text):
            return None
        ends += [before + end for end in own]
        before += len(text) + 1
    return ends


def _written_turns(
    tokenizer: PreTrainedTokenizerBase, completion: Completion
) -> Iterator[tuple[list[int], int | str | None, str]]:
    """(tokens, what ended them, text) of each turn."""
    start = 0
    texts = [turn.text for turn in completion.turns]
    if completion.given[0][0] == 0:
        start = completion.given[0][1]
        del texts[0]
    rest = completion.text
    spans = [span for span in completion.given if span[0]]
    for (end, begin), text in zip(spans, texts):
        token_ids = list(completion.token_ids[start:end])
        is_ended = bool(token_ids) and len(_decode(tokenizer, token_ids)) > len(text)
        yield token_ids, token_ids[-1] if is_ended else None, text
        rest = rest[len(text) + 1 :]
        start = begin
    yield list(completion.token_ids[start:]), completion.stop, rest


def _decode(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    return str(tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))
