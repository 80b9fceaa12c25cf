"""The pictures of README and docs are those that the committed runs give, for light and for dark pages."""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parent.parent


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        spec.loader.exec_module(module)
    return module


def test_drawing_the_pictures_again_changes_nothing(tmp_path: Path) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    if (
        f"matplotlib=={matplotlib.__version__} " not in pins
        or f"rich=={version('rich')}" not in pins
    ):
        pytest.skip("another matplotlib or rich draws other bytes")
    pictures = script()
    for file in pictures.draw(tmp_path):
        committed = pictures.IMAGES / file.name
        assert committed.read_bytes() == file.read_bytes(), f"{file.name}: run make pictures"


def test_every_picture_shown_is_there_in_light_and_in_dark() -> None:
    images = {path.name for path in (ROOT / "docs" / "images").iterdir()}
    pictures = script()
    drawn = {f"{name}{dark}.svg" for name in pictures.PICTURES for dark in ("", "-dark")}
    assert images == drawn | {f"{pictures.REPORT}{dark}.png" for dark in ("", "-dark")}
    pages = [ROOT / "README.md", ROOT / "README.ja.md", *(ROOT / "docs").glob("*.md")]
    shown = set()
    for page in pages:
        found = re.findall(
            r"images/([\w-]+\.(?:svg|png))(#\S+)?[)\"]", page.read_text(encoding="utf-8")
        )
        for name, only in found:
            assert only in (("", "#only-dark") if "-dark" in name else ("", "#only-light")), page
        shown |= {name for name, _ in found}
    assert shown == images


def test_the_picture_of_the_console_asks_for_nothing_and_is_what_the_console_draws() -> None:
    text = (script().IMAGES / "quickstart-console.svg").read_text(encoding="utf-8")
    assert "url(http" not in text and "@font-face" not in text and "<script" not in text
    words = re.sub(r"<[^>]*>", "", text).replace("&#160;", " ")
    for shown in ("held-out after step 20: 57.9 %", "zero-var", "sampling 130/256", "43% · "):
        assert shown in words


def test_pictures_of_the_report_are_small_and_left_alone_without_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = script()
    for dark in ("", "-dark"):
        assert (pictures.IMAGES / f"{pictures.REPORT}{dark}.png").stat().st_size <= 150_000
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["pictures.py", str(tmp_path)])
    monkeypatch.setattr(pictures, "PICTURES", {})
    pictures.main()
    assert "pictures of the report are left as they are" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_make_pictures_runs_the_script() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^pictures: .*stamp-docs\n\t\$\(RUN\) docs/pictures.py$", makefile, re.M)
