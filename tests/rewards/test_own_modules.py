"""What a reward's file imports of the user's own is found without running it, and is what workers import."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rewards.own_modules import OwnModule, digest_of, imported_by, own_module
from rewards.table import load, sources_of


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A package, a module beside it, and a namespace package, on the path."""
    files = {
        "kit/__init__.py": "from kit import units\n",
        "kit/units.py": "from . import tables\nfrom .deep.inner import LIMIT\n",
        "kit/tables.py": "TABLE = {}\n",
        "kit/deep/__init__.py": "",
        "kit/deep/inner.py": "from ..tables import TABLE\nLIMIT = 3\ndef f():\n    from ...nowhere import x\n",
        "kit/unused.py": "raise SystemExit\n",
        "beside.py": "import json, numpy\nimport kit.tables as t\n",
        "space/part.py": "import beside\n",
        "broken.py": "def (:\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


KIT = {"kit", "kit.units", "kit.tables", "kit.deep", "kit.deep.inner"}


@pytest.mark.parametrize(
    "text, found",
    [
        ("import os, sys, torch, sympy, grpo.types, rewards", set()),
        ("import beside", {"beside", *KIT}),
        ("from beside import t as other", {"beside", *KIT}),
        ("import kit.deep.inner", KIT),
        ("from kit.deep import *", KIT),
        ("def f(text):\n    from space import part\n", {"space.part", "beside", *KIT}),
        ("try:\n    import absent\nexcept ImportError:\n    import broken\n", {"broken"}),
        ("import kit.absent", KIT),
        ("from . import beside", set()),  # a file named by path lies in no package
        ("import importlib; importlib.import_module('beside')", set()),
        ("not python", set()),
    ],
)
def test_import_statements_are_followed_into_what_is_the_users_own(house, text, found):
    modules = imported_by(house / "mine.py", text.encode())
    assert set(modules) == found
    for name, module in modules.items():
        assert Path(module.path).read_bytes() == module.source
        assert module.is_package == (name in ("kit", "kit.deep"))


def test_relative_imports_are_followed_from_the_name_that_a_file_has(house):
    path = house / "kit" / "units.py"
    assert set(imported_by(path, path.read_bytes(), "kit.units")) == KIT  # kit itself imports units
    assert set(own_module("kit.units")) == KIT
    assert own_module("json.decoder") == {} and own_module("rewards.table") == {}
    assert own_module("absent.module") == {}
    assert set(own_module("space.part")) == {"space.part", "beside", *KIT}


def test_neighbours_of_a_file_are_found_though_their_folder_is_not_on_the_path(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("VALUE = 1\n")
    (tmp_path / "mine.py").write_text("import neighbour_of_mine\ndef f(text): return 1.0\n")
    sources = sources_of("mine.py:f", tmp_path)
    expected = OwnModule(str(tmp_path / "neighbour_of_mine.py"), b"VALUE = 1\n")
    assert sources.modules == {"neighbour_of_mine": expected}
    assert sources.file == (tmp_path / "mine.py").read_bytes()
    assert load("mine.py:f", base_dir=tmp_path)("a") == 1.0
    assert sources_of("math_answer") is None and sources_of("absent.py:f", tmp_path) is None


def test_a_digest_changes_with_any_file_that_is_imported_and_no_other(house):
    mine = house / "mine.py"
    mine.write_text("import beside\n")
    first = digest_of(mine)
    (house / "kit" / "unused.py").write_text("changed = 1\n")
    assert digest_of(mine) == first
    (house / "kit" / "deep" / "inner.py").write_text("from ..tables import TABLE\nLIMIT = 4\n")
    assert digest_of(mine) != first


def test_a_process_imports_what_was_read_and_not_what_files_hold_now(house):
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from rewards.own_modules import own_module, serve

        house = Path(sys.argv[1])
        sys.path.insert(0, str(house))
        modules = own_module("beside")
        for file in [house / "kit" / "deep" / "inner.py", house / "beside.py"]:
            file.write_text("raise SystemExit('what is there now was run')")
        (house / "kit" / "units.py").unlink()
        serve(modules)
        serve({"kit.tables": modules["kit"]})  # a second one of a name does not replace the first
        import beside, inspect, kit.deep.inner
        assert kit.deep.inner.LIMIT == 3 and kit.units.LIMIT == 3 and kit.tables.TABLE == {}
        assert kit.deep.inner.__file__ == str(house / "kit" / "deep" / "inner.py")
        import kit.unused  # was not read: comes from its file
    """)
    done = subprocess.run([sys.executable, "-c", code, house], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
