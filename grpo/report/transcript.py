"""A completion of several turns as a person reads it: what was written, and after each turn what was observed."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

OBSERVED = "> "
"""Begins each line that the policy did not write."""


def transcript(written: str, turns: Sequence[Mapping[str, Any]]) -> str:
    r"""The text of a completion with the observations between its turns; what went wrong is named.

    `written` are the texts of the turns and of what follows the last of them, joined by newlines.
    >>> transcript("2 + 2\nIt is 4.", [{"text": "2 + 2", "observed": "4", "status": "ok"}])
    '2 + 2\n> 4\nIt is 4.'
    """
    parts = []
    for turn in turns:
        if turn["text"]:
            parts.append(turn["text"])
        parts += _observed(turn)
    rest = behind(written, [turn["text"] for turn in turns])
    if rest:
        parts.append(rest)
    return "\n".join(parts)


def told_by(row: Mapping[str, Any]) -> str:
    """The text of a record with the columns ``completion`` and, where it was answered, ``turns``."""
    return transcript(row["completion"], row.get("turns") or ())


def behind(written: str, texts: Sequence[str]) -> str:
    """What was written behind the turns; the first of them has no text where it is the environment's beginning."""
    for told in (texts, texts[1:]):
        said = "".join(text + "\n" for text in told)
        if (written + "\n").startswith(said):
            return written[len(said) :]
    return ""  # the last turn goes on behind the stop string that ends what counts as written


def _observed(turn: Mapping[str, Any]) -> list[str]:
    lines = [] if turn.get("status", "ok") == "ok" else [f"{OBSERVED}[{turn['status']}]"]
    if turn.get("observed") is not None:
        lines += [OBSERVED + line for line in turn["observed"].splitlines() or [""]]
    return lines
