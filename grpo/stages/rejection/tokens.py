"""Whether supervised training of accepted rows trains the tokens that were sampled: asked of its own code, row by row.

A text may be spelt by other tokens than the policy chose ("th" and "e" for "the"), and supervised training appends the
token that ends a completion where the policy was stopped otherwise. The rows are right all the same; how many there are
is counted.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from grpo.data.example_rows import load_example_rows
from grpo.data.examples import Example, load_examples
from grpo.data.sources import SourceRows
from grpo.model.info import ModelInfo
from grpo.recipe import Recipe, RowsSection
from grpo.stages.rejection.candidates import Candidate

SUPERVISED = {"stage": "sft", "sft": {"too_long": "drop"}}


def read_section(section: RowsSection) -> RowsSection:
    """How rows that `section` has read are read again, by the names that they have now."""
    return RowsSection(
        template=section.template, system=section.system, template_args=section.template_args
    )


def kinds_of_tokens(
    candidates: Sequence[Candidate],
    rows: Sequence[Mapping[str, Any]],
    section: RowsSection,
    info: ModelInfo,
) -> list[str]:
    """What each of `rows`, made of `candidates` of one source, trains as: one of ``TOKENS`` of ``books``."""
    kinds = ["others"] * len(candidates)
    usable = [
        number
        for number, candidate in enumerate(candidates)
        if candidate.completion.text.strip() and _fits(candidate, info.context)
    ]
    if not usable:
        return kinds
    shown = read_section(section)
    given = [dict(rows[number]) for number in usable]
    loaded = load_example_rows(shown, given, form="completion")
    source = SourceRows("", shown, train=loaded.rows, rows=loaded.rows)
    examples = load_examples(Recipe.from_mapping(SUPERVISED), info, [source])
    for example in examples.train:
        number = usable[int(example.prompt.id.removeprefix("train-"))]
        kinds[number] = _kind(candidates[number], example)
    return kinds


def _fits(candidate: Candidate, context: int | None) -> bool:
    """Whether a completion leaves room for the token that supervised training may append."""
    length = len(candidate.prompt.token_ids) + candidate.num_tokens
    return context is None or length < context


def _kind(candidate: Candidate, example: Example) -> str:
    trained = example.prompt.token_ids
    prompt_ids = candidate.prompt.token_ids
    whole = (*prompt_ids, *candidate.completion.token_ids)
    if not candidate.has_token_ids:
        is_as_long = len(trained) == len(prompt_ids) + candidate.num_tokens
        return "unknown" if is_as_long else "others"
    if example.learnt != ((len(prompt_ids), len(trained)),):
        return "others"
    if trained == whole:
        return "same"
    return "end_added" if trained[:-1] == whole else "others"
