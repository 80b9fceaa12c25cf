"""The completions of a page: a small index to filter by, and their texts in deflated blocks that open on demand.

What does not fit is left out evenly over the run, by whole groups, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterable, Sequence

from grpo.report.html.embed import deflated, in_base64
from grpo.report.samples import Sample
from grpo.report.transcript import transcript

BLOCK_CHARACTERS = 1 << 17
"""A block is closed behind the first whole group that makes it longer than this."""
LONGEST_TEXT = 200_000
"""Characters of a completion or prompt that a page shows; the rest is cut, and said to be."""
COLUMNS = (
    "run",
    "set",
    "step",
    "prompt",
    "index",
    "source",
    "finish",
    "status",
    "outcome",
    "right",
    "reward",
    "advantage",
    "tokens",
)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Neighbouring completions: their rows of the index, by `COLUMNS`, and their deflated texts."""

    facts: Sequence[tuple[Any, ...]]
    data: bytes


@dataclass(slots=True, eq=False)
class Packer:
    """Packs the completions of one run, given group by group, into blocks."""

    run: int
    blocks: list[Block] = field(default_factory=list)
    _samples: list[Sample] = field(default_factory=list)
    _characters: int = 0

    def add(self, sample: Sample) -> None:
        """Take one more completion; those of a group must be neighbours."""
        last = self._samples[-1] if self._samples else None
        is_new_group = last is not None and last.prompt_id != sample.prompt_id
        if is_new_group and self._characters > BLOCK_CHARACTERS:
            self.close()
        self._samples.append(sample)
        self._characters += len(sample.completion) + 200
        if last is None or is_new_group:
            self._characters += len(sample.prompt)

    def close(self) -> None:
        """End the block under way."""
        if self._samples:
            facts = [facts_of(sample, self.run) for sample in self._samples]
            self.blocks.append(Block(facts, deflated(texts_of(self._samples))))
        self._samples = []
        self._characters = 0


def facts_of(sample: Sample, run: int) -> tuple[Any, ...]:
    """What of a completion can be filtered by without its text, by `COLUMNS`."""
    return (
        run,
        sample.set,
        sample.step,
        sample.prompt_id,
        sample.index,
        sample.source,
        sample.finish,
        sample.status,
        sample.outcome,
        None if sample.right is None else int(sample.right),
        rounded(sample.reward),
        rounded(sample.advantage),
        sample.num_tokens,
    )


def rounded(value: float | None) -> float | None:
    """`value` to six significant digits."""
    return None if value is None else float(f"{value:.6g}")


def texts_of(samples: Sequence[Sample]) -> dict[str, Any]:
    """The texts and verdicts of a block: each prompt once, then a row for each completion."""
    prompts: dict[str, int] = {}
    rows = []
    for sample in samples:
        prompt = prompts.setdefault(_cut(sample.prompt), len(prompts))
        told = transcript(sample.completion, sample.turns)
        rows.append([prompt, _cut(told), len(told), _verdicts(sample)])
    return {"prompts": list(prompts), "rows": rows}


def _cut(text: str) -> str:
    return text[:LONGEST_TEXT]


def _verdicts(sample: Sample) -> dict[str, Any]:
    """What the rewards said, and the tokens; what is empty is left out."""
    values = {
        "parts": dict(sample.parts),
        "statuses": dict(sample.statuses),
        "detail": dict(sample.detail),
        "reported": dict(sample.reported),
        "extracted": dict(sample.extracted),
        "tokens": _tokens(sample),
    }
    return {name: value for name, value in values.items() if value}


def _tokens(sample: Sample) -> dict[str, Any]:
    """The tokens as lengths, which are shorter to write than ends; none where they do not fit the text."""
    ends = [int(end) for end in sample.tokens.get("ends", ())]
    if not ends or ends[-1] != len(sample.completion) or len(sample.completion) > LONGEST_TEXT:
        return {}
    if sample.turns:  # the text that is shown has what was observed in it
        return {}
    lengths = [end - start for start, end in zip([0, *ends], ends)]
    others = {name: values for name, values in sample.tokens.items() if name != "ends"}
    return {"lengths": lengths, **others}


# ---- what fits ------------------------------------------------------------------------------------------------


def fitting(blocks: Sequence[Block], limit_bytes: int) -> list[Block]:
    """As many blocks as fit, the first and the last among them, the others evenly between."""
    number = len(blocks)
    kept = list(blocks)
    while number > 1 and sum(len(block.data) for block in kept) > limit_bytes:
        total = sum(len(block.data) for block in kept)
        number = max(1, min(number - 1, int(number * limit_bytes / total)))
        step = (len(blocks) - 1) / max(1, number - 1)
        kept = [blocks[round(place * step)] for place in range(number)]
    return kept


def shared_out(
    evaluated: Sequence[Block], trained: Sequence[Block], limit_bytes: int
) -> tuple[list[Block], list[Block]]:
    """Both kinds within one limit: two fifths for evaluations, or what training leaves."""
    trained_bytes = sum(len(block.data) for block in trained)
    kept = fitting(evaluated, max(2 * limit_bytes // 5, limit_bytes - trained_bytes))
    left = limit_bytes - sum(len(block.data) for block in kept)
    return kept, fitting(trained, left)


# ---- the index ------------------------------------------------------------------------------------------------


def index_of(blocks: Sequence[Block]) -> dict[str, Any]:
    """The index by columns; text is a number into ``words``. ``sizes`` are the completions of each block."""
    words: dict[str, int] = {}
    columns: list[list[Any]] = [[] for _ in COLUMNS]
    for block in blocks:
        for facts in block.facts:
            for column, value in zip(columns, facts):
                if isinstance(value, str):
                    value = words.setdefault(value, len(words))
                column.append(value)
    return {
        "words": list(words),
        "columns": dict(zip(COLUMNS, columns)),
        "sizes": [len(block.facts) for block in blocks],
    }


def packed_index(blocks: Sequence[Block]) -> str:
    """`index_of`, deflated and in base64."""
    return in_base64(deflated(index_of(blocks)))


def num_completions(blocks: Iterable[Block]) -> int:
    """How many completions the blocks hold."""
    return sum(len(block.facts) for block in blocks)
