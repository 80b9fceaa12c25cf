"""The pictures of README and docs are those that the committed runs give, for light and for dark pages."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parent.parent


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_drawing_the_pictures_again_changes_nothing(tmp_path: Path) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    if f"matplotlib=={matplotlib.__version__} " not in pins:
        pytest.skip("another matplotlib draws other bytes")
    pictures = script()
    for file in pictures.draw(tmp_path):
        committed = pictures.IMAGES / file.name
        assert committed.read_bytes() == file.read_bytes(), f"{file.name}: run make pictures"


def test_every_picture_shown_is_there_in_light_and_in_dark() -> None:
    images = {path.name for path in (ROOT / "docs" / "images").glob("quickstart-*.svg")}
    names = {name.removesuffix(".svg").removesuffix("-dark") for name in images}
    assert names == set(script().PICTURES)
    assert images == {f"{name}{dark}.svg" for name in names for dark in ("", "-dark")}
    pages = [ROOT / "README.md", ROOT / "README.ja.md", *(ROOT / "docs").glob("*.md")]
    shown = set()
    for page in pages:
        found = re.findall(r"images/([\w-]+\.svg)(#\S+)?[)\"]", page.read_text(encoding="utf-8"))
        for name, only in found:
            assert only in (("", "#only-dark") if "-dark" in name else ("", "#only-light")), page
        shown |= {name for name, _ in found}
    assert shown == images


def test_make_pictures_runs_the_script() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^pictures: .*stamp-docs\n\t\$\(RUN\) docs/pictures.py$", makefile, re.M)
