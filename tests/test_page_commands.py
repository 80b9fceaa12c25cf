"""The commands that README, docs and recipes show can be run: programs, options, keys, recipes and files are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_commands import commands_of, mistake

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("recipes/*/README.md"),
]


def shown() -> dict[str, str]:
    """Each command with the first page that shows it. A changelog also names what is no more."""
    found: dict[str, str] = {}
    for page in sorted(PAGES):
        if page.name != "CHANGELOG.md":
            for command in commands_of(page.read_text("utf-8")):
                found.setdefault(command, page.relative_to(ROOT).as_posix())
    for recipe in sorted(ROOT.glob("recipes/*.yaml")):
        for line in re.findall(r"^# +command +(.+?)(?:  .*)?$", recipe.read_text("utf-8"), re.M):
            for command in commands_of(f"`{line}`"):
                found.setdefault(command, recipe.relative_to(ROOT).as_posix())
    return found


def test_every_command_on_a_page_could_be_run() -> None:
    commands = shown()
    assert len(commands) > 150
    wrong = {(page, command): mistake(command) for command, page in commands.items()}
    assert not {place: what for place, what in wrong.items() if what}


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("grpo trian recipe.yaml", "no command trian"),
        ("grpo train recipe.yaml --no-such-option", "--no-such-option"),
        ("grpo train recipe.yaml sample.groupsize=3", "no key sample.groupsize"),
        ("grpo train arithmetic_toolz", "no recipe arithmetic_toolz"),
        ("grpo train recipes/none.yaml", "no recipes/none.yaml"),
        ("grpo plan recipe.yaml --gpus many", "refused"),
        ("python -m benchmarks.head --cases none", "refused"),
        ("python -m benchmarks.head --no-such-option", "refused"),
        ("python benchmarks/none.py", "there is no benchmarks/none.py"),
        ("python docs/pictures.py --no-such-option", "refused"),
        ("torchrun --nproc-per-node 8 -m grpo train recipe.yaml --no-such-option", "such-option"),
        ("make nothing", "does not make nothing"),
        ("bash benchmarks/gpu.sh answers nothing", "no part nothing"),
    ],
)
def test_a_command_that_could_not_be_run_is_found(command: str, why: str, capsys) -> None:
    assert why in mistake(command)


def test_commands_are_read_from_shell_blocks_and_inline_code() -> None:
    page = "Run `make\n test`.\n```sh\nX=1 grpo a \\\n  b  # why\ngrpo c > f && grpo d < g\n```\n```python\ngrpo = 1\n```\n"
    assert list(commands_of(page)) == ["grpo a    b", "grpo c", "grpo d", "make test"]
