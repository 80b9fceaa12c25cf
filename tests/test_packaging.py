"""Packaging: what a wheel carries, what the constraints pin, and that the two commands are spelt out."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import grpo

ROOT = Path(__file__).resolve().parent.parent
BASE = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the checkout, so that no build folder is left behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("grpo", "rewards", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    return next(folder.glob("*.whl"))


def listed(config: configparser.ConfigParser, section: str, key: str) -> list[str]:
    return config[section][key].split("\n")[1:]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~; \[]", line, maxsplit=1)[0].lower() for line in requirements}


def test_every_package_of_the_tree_is_listed(setup_cfg):
    found = {
        str(init.parent.relative_to(ROOT)).replace(os.sep, ".")
        for top in ("grpo", "rewards")
        for init in (ROOT / top).rglob("__init__.py")
    }
    assert set(listed(setup_cfg, "options", "packages")) == found | {"grpo.recipes"}


def test_every_module_of_the_tree_and_every_recipe_is_in_the_wheel(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    for top in ("grpo", "rewards"):
        assert {str(file.relative_to(ROOT)) for file in (ROOT / top).rglob("*.py")} <= packed
    assert {f"grpo/recipes/{file.name}" for file in (ROOT / "recipes").glob("*.yaml")} <= packed
    for folder in ("quickstart_base", "arithmetic_tools"):
        files = BASE | {"pretrain.py", "README.md"}
        assert {f"grpo/recipes/{folder}/{name}" for name in files} <= packed


def test_the_wheel_carries_nothing_that_is_not_ours_to_install(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"grpo", "rewards", f"grpo_reasoner-{grpo.__version__}.dist-info"}
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "__pycache__" in name]


def test_the_wheel_says_what_it_is(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(f"grpo_reasoner-{grpo.__version__}.dist-info/METADATA").decode()
    assert "Name: grpo-reasoner" in metadata
    assert f"Version: {grpo.__version__}" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.10" in metadata
    assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


@pytest.mark.slow
def test_an_installed_wheel_brings_the_recipes_and_the_base(wheel, tmp_path):
    installed = tmp_path / "site"
    options = ["--no-deps", "--quiet", "--target", str(installed)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    script = (
        "import pathlib, grpo, rewards.tasks\n"
        "from transformers import AutoModelForCausalLM\n"
        "folder = pathlib.Path(grpo.__file__).parent\n"
        "model = AutoModelForCausalLM.from_pretrained(folder / 'recipes' / 'quickstart_base')\n"
        "print(folder.parent, sum(p.numel() for p in model.parameters()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(installed), "138752"]


def test_every_dependency_is_pinned(setup_cfg):
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = names([line for line in pins if "==" in line])
    wanted = listed(setup_cfg, "options", "install_requires")
    for extra in setup_cfg["options.extras_require"]:
        wanted += listed(setup_cfg, "options.extras_require", extra)
    assert names(wanted) <= pinned
    assert "torch==2.13.0" in pins


def test_pyproject_holds_only_what_cannot_stand_in_setup_cfg():
    tables = re.findall(
        r"^\[([\w.-]+)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert tables == [
        "build-system",
        "tool.ruff",
        "tool.ruff.lint",
        "tool.ruff.lint.per-file-ignores",
    ]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_quickstart_takes_the_next_free_run_folder(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    for taken in ("runs/quickstart-1", "runs/quickstart-2", ".venv/bin"):
        (tmp_path / taken).mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / ".venv/bin/python").chmod(0o755)
    for stamp in ("venv", "run"):
        (tmp_path / ".venv" / f".stamp-{stamp}").touch()
    outside_make = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE")
    }
    done = subprocess.run(
        ["make", "quickstart", "ARGS=seed=1"],
        cwd=tmp_path,
        env=outside_make,
        check=True,
        capture_output=True,
        text=True,
    )
    assert (
        done.stdout.strip()
        == "-m grpo.train recipes/quickstart.yaml run_dir=runs/quickstart-3 seed=1"
    )


def test_ci_runs_both_kinds_of_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = script.read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in commands
    assert "tested test 1500" in commands and "tested test-slow 3600" in commands


@pytest.mark.parametrize(
    "first, second, code, runs",
    [
        (0, 0, 0, 1),  # all pass
        (2, 0, 0, 2),  # what failed passes alone
        (2, 2, 2, 2),  # it fails again
        (124, 0, 124, 1),  # out of time
    ],
)
@pytest.mark.parametrize("target", ["test", "test-slow"])
def test_ci_fails_where_a_test_fails_twice(
    tmp_path: Path, target: str, first: int, second: int, code: int, runs: int
) -> None:
    """The script with a `make` that only counts its calls for the tests and ends as it is told."""
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    programs = tmp_path / "programs"
    programs.mkdir()
    make = programs / "make"
    make.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = {target} ] || exit 0\n'
        "echo call >> calls\n"
        f'[ "$(wc -l < calls)" = 1 ] && exit {first}\n'
        f"exit {second}\n"
    )
    chromium = programs / "chromium"
    chromium.write_text("")
    for program in (make, chromium):
        program.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([script], env={**os.environ, "PATH": path}, capture_output=True)
    assert done.returncode == code
    assert len((tmp_path / "calls").read_text().split()) == runs


def test_the_license_is_the_whole_apache_text():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


def test_no_two_test_files_have_one_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
