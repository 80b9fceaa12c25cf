"""The rows of the files of rejection sampling, plain values.

``accepted.jsonl`` has a row a completion: the source row's columns, ``completion``, ``pass_rate`` of its prompt, and
``sampled``, a mapping with what is known of the completion. ``pass_rates.jsonl`` has a row a prompt. A column of the
source that has the name of one of ours is kept as ``source_NAME``.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.run.log import finite
from grpo.run.sample_rows import sample_rows
from grpo.stages.rejection.candidates import Candidate, CandidateGroup

OWN_COLUMNS = ("completion", "pass_rate", "sampled")
RATE_COLUMNS = ("prompt_id", "k", "judged", "passed", "pass_rate", "accepted")


def _source_columns(truth: Mapping[str, Any], own: Sequence[str]) -> dict[str, Any]:
    """The columns of the data row, those of our own names kept under another."""
    columns: dict[str, Any] = finite(truth)
    return {
        f"source_{name}" if name in own else name: value
        for name, value in columns.items()
        if name != "sft_form"
    }


def pass_rate_of(group: CandidateGroup) -> float | None:
    """The share of right completions among those judged; None if none was."""
    judged = group.judged
    return sum(judged) / len(judged) if judged else None


def accepted_row(
    candidate: Candidate, pass_rate: float | None, tokenizer: PreTrainedTokenizerBase | None
) -> dict[str, Any]:
    """A row to learn from."""
    completion = candidate.completion
    sampled: dict[str, Any] = {
        "prompt_id": candidate.prompt.id,
        **asdict(candidate.origin),
        "finish": completion.finish,
        "stop": _stop_text(completion.stop, tokenizer),
        "num_tokens": candidate.num_tokens,
        "right": candidate.right,
        "reward": candidate.score.value,
        "parts": {name: part.value for name, part in candidate.verdict.items()},
        "statuses": {name: part.status for name, part in candidate.verdict.items()},
    }
    row = _source_columns(candidate.prompt.truth, OWN_COLUMNS)
    row["completion"] = candidate.completion.text
    row["pass_rate"] = pass_rate
    row["sampled"] = finite(sampled)
    return row


def _stop_text(stop: int | str | None, tokenizer: PreTrainedTokenizerBase | None) -> str | None:
    """What ended a completion as text: a token or a string."""
    if isinstance(stop, int) and tokenizer is not None:
        return str(tokenizer.convert_ids_to_tokens(stop))
    return None if stop is None else str(stop)


def pass_rate_row(group: CandidateGroup, outcomes: Sequence[str]) -> dict[str, Any]:
    """A row of ``pass_rates.jsonl``: a prompt, how many completions were judged and right, how many accepted."""
    judged = group.judged
    row = _source_columns(group.prompt.truth, RATE_COLUMNS)
    row["prompt_id"] = group.prompt.id
    row["k"] = len(group.candidates)
    row["judged"] = len(judged)
    row["passed"] = sum(judged)
    row["pass_rate"] = pass_rate_of(group)
    row["accepted"] = sum(outcome == "accepted" for outcome in outcomes)
    return row


def counts_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row of ``pass_rates.jsonl`` is a count or a rate."""
    return {name: row[name] for name in RATE_COLUMNS}


def candidate_rows(
    step: int,
    group: CandidateGroup,
    outcomes: Sequence[str],
    caught: Sequence[Sequence[str]],
) -> Iterator[dict[str, Any]]:
    """The rows of ``samples.jsonl``: as those of reinforcement learning, with the outcome and what catches each."""
    for index, row in enumerate(sample_rows(step, group.scored())):
        candidate = group.candidates[index]
        origin = candidate.origin
        row["index"] = origin.index
        row["num_tokens"] = candidate.num_tokens
        row["right"] = candidate.right
        row["outcome"] = outcomes[index]
        row["caught"] = list(caught[index])
        if origin.run is not None:
            row["stored"] = {"run": origin.run, "step": origin.step}
        yield row
