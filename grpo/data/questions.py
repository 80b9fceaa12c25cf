"""What rows for supervised training ask: the prompts that a model which learns them is sampled on.

How such rows are read is up to ``example_rows``, how a prompt becomes tokens to ``prompts``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Collection, Iterable, Mapping

from grpo.data.example_rows import FORM, load_example_rows
from grpo.data.rows import load_rows
from grpo.data.sources import Load, SourceRows
from grpo.recipe import Recipe, RecipeError


class NoQuestions(RecipeError):
    """Rows that ask nothing, so that nothing can be sampled on them."""


def loader_of(recipe: Recipe) -> Load:
    """What reads the recipe's rows as its stage does, so that the same ones are held out."""
    if recipe.learns_rows:
        return partial(load_example_rows, form=recipe.sft.form)
    return load_rows


def asked(recipe: Recipe, source: SourceRows) -> SourceRows:
    """The source as it is sampled: of rows to learn from, what they ask. Raises `NoQuestions` if all are texts."""
    if not recipe.learns_rows:
        return source
    found = questions_of(source, {tool.rpartition(":")[2] for tool in recipe.tools})
    if not found.train and not found.held_out:
        raise NoQuestions(
            f"data: the rows of {source.section.label} are texts, which ask nothing, so nothing is sampled on them; "
            "name rows with prompts by --data"
        )
    return found


def questions_of(source: SourceRows, offered: Collection[str]) -> SourceRows:
    """Those rows of a source that ask something; chats through the chat template, whatever the model's kind.

    `offered` are the names of the tools that sampled prompts show. Raises `RecipeError` for rows that have others.
    """
    train = [row for row in source.train if row[FORM] != "text"]
    held_out = [row for row in source.held_out if row[FORM] != "text"]
    for row in (*train, *held_out):
        others = names_of(row.get("tools") or ()) - set(offered)
        if others:
            raise RecipeError(
                f"data: rows have tools ({', '.join(sorted(others))}) which sampled prompts here do not show, so "
                "completions of them would mean nothing; offer them by the recipe's tools, or leave the rewards of a "
                "training run out and sample other rows (evaluate.sets, --data)"
            )
    section = source.section
    if any(row[FORM] == "chat" for row in (*train, *held_out)):
        section = replace(section, template="chat")
    return replace(source, section=section, train=train, held_out=held_out)


def names_of(tools: Iterable[Any]) -> set[str]:
    """The names of tools by their schemas, with or without the layer that says that they are functions."""
    functions = [tool.get("function", tool) for tool in tools if isinstance(tool, Mapping)]
    return {str(function.get("name")) for function in functions}
