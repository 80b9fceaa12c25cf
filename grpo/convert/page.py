"""The page of the docs that says what TRL's and verl's settings are here, from the table that `grpo convert` uses."""

from __future__ import annotations

from typing import Iterator, Sequence

from grpo.recipe.describe import escaped
from grpo.recipe.other_trainers import PRODUCTS, TABLE, UNSET, Setting

HEAD = """\
# Settings of TRL and verl

What each setting of TRL 1.16 (`GRPOConfig`, `ModelConfig`, `ScriptArguments`) and of verl 0.9.1 (`ppo_trainer.yaml`) is
here. [`grpo convert`](coming-from.md#convert-a-configuration) goes by this table."""


def settings_markdown() -> str:
    """For each trainer a table of the settings that have a key here, and of the others with the reason."""
    parts = [HEAD]
    for trainer, rows in TABLE.items():
        parts.append(f"## {PRODUCTS[trainer]}")
        parts.append("\n".join(_mapped(rows)))
        parts.append("Not here, and why:")
        parts.append("\n".join(_reasons(rows, "not here")))
        parts.append("Nothing to set:")
        parts.append("\n".join(_reasons(rows, "none needed")))
    return "\n\n".join(parts)


def _mapped(rows: Sequence[Setting]) -> Iterator[str]:
    yield "| theirs | default | here | |"
    yield "| --- | --- | --- | --- |"
    for row in rows:
        if row.fate in ("same", "joint"):
            ours = ", ".join(f"`{key}`" for key in row.ours.split(", "))
            yield f"| `{row.name}` | {_default(row)} | {ours} | {_note(row)} |"


def _default(row: Setting) -> str:
    return "" if row.default is UNSET else f"`{_word(row.default)}`"


def _note(row: Setting) -> str:
    names = [f"{_word(old)}: {_word(new)}" for old, new in row.values.items()]
    return escaped("; ".join(filter(None, [row.note, ", ".join(names)])))


def _reasons(rows: Sequence[Setting], fate: str) -> Iterator[str]:
    """One row for each reason, with all settings that it holds for."""
    names_of: dict[str, list[str]] = {}
    for row in rows:
        if row.fate == fate:
            names_of.setdefault(row.note, []).append(f"`{row.name}`")
    yield "| theirs | why |"
    yield "| --- | --- |"
    for why, names in names_of.items():
        yield f"| {', '.join(names)} | {escaped(why)} |"


def _word(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
