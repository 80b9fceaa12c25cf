"""The density script finds each kind of crowded line, and lets tables and explained exceptions pass."""

from __future__ import annotations

from pathlib import Path

import density
import pytest

LONG_SUM = " + ".join(f"x{i}" for i in range(40))
LONG_FUNCTION = "def f():\n" + "    x = 1\n" * 61
BREAKS = {
    "a comprehension inside another": "y = [[a for a in b] for b in c]\n",
    "several assignments in one": "a, b = c, d\n",
    "a call with 5 positional arguments": "f(1, 2, 3, 4, 5)\n",
    "a statement of": f"y = {LONG_SUM}\n",
    "f has 62 lines": LONG_FUNCTION,
}
FINE = {
    "a table": f"TABLE = [[a for a in b] for b in ({LONG_SUM},)]\n",
    "an exchange": "a, b = b, a\n",
    "unpacking": "a, b = f()\n",
    "keywords": "f(1, 2, 3, 4, e=5)\n",
    "a reason": "f(1, 2, 3, 4, 5)  # density: the outside function takes no names\n",
}


def broken_by(folder: Path, text: str) -> list[str]:
    (folder / "module.py").write_text(text)
    return density.measure(folder).broken


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(density, "ROOT", tmp_path)
    monkeypatch.setattr(density, "MAX_EXPRESSIONS_A_LINE", 1000.0)
    monkeypatch.setattr(density, "MAX_LINES_P90", 1000)
    return tmp_path


@pytest.mark.parametrize("reason", BREAKS)
def test_each_kind_of_crowded_line_is_found(folder: Path, reason: str) -> None:
    found = broken_by(folder, BREAKS[reason])
    assert len(found) == 1 and reason in found[0]


@pytest.mark.parametrize("name", FINE)
def test_what_is_no_crowd_passes(folder: Path, name: str) -> None:
    assert broken_by(folder, FINE[name]) == []


def test_expressions_are_counted_per_line_of_code(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(density, "ROOT", tmp_path)
    (tmp_path / "module.py").write_text('"""Not code."""\n\n# nor this\nx = 1\ny = x + 1\n')
    measured = density.measure(tmp_path)
    assert (measured.num_lines, measured.num_expressions) == (2, 7)
    assert measured.expressions_a_line == 3.5


def test_a_package_over_a_limit_fails(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(density, "ROOT", tmp_path)
    (tmp_path / "crowded").mkdir()
    (tmp_path / "crowded" / "module.py").write_text("y = a + b + c + d + e\n")
    assert density.main(["crowded"]) == 1
    assert "more than 5.0 expressions a line" in capsys.readouterr().out
