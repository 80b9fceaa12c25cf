"""Completions of several turns, as a person reads them."""

from __future__ import annotations

import pytest

from grpo.report.transcript import told_by


def turn(text: str, observed: str | None = "yes") -> dict:
    return {"text": text, "observed": observed, "status": "ok"}


@pytest.mark.parametrize(
    ("written", "turns", "told"),
    [
        ("\na\nb", [turn("", "go"), turn("\na")], "> go\n\na\n> yes\nb"),
        ("\nb", [turn("")], "> yes\nb"),
        ("\nb", [], "\nb"),
        ("a", [turn("", "go")], "> go\na"),
        ("a\nb", [turn("a"), turn("b", None)], "a\n> yes\nb"),
        ("a\nb.", [turn("a"), turn("b. and", None)], "a\n> yes\nb. and"),
    ],
)
def test_nothing_is_told_twice_or_lost(written, turns, told):
    assert told_by({"completion": written, "turns": turns}) == told
