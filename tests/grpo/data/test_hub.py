"""Data sets of the hub come at the commit that was asked for, and say at which they came; here from a cache of our own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hub_cache import add_commit, use_cache

from grpo.data.reading import read_table
from grpo.data.rows import load_rows
from grpo.recipe import DataSection, Recipe, RecipeError
from grpo.recipe.benchmarks import BENCHMARKS, REVISIONS

OLD, NEW, OTHER = "a" * 40, "b" * 40, "c" * 40


def rows(name: str, number: int = 2) -> list[dict[str, str]]:
    return [{"prompt": f"{name} {i}?", "answer": str(i)} for i in range(number)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds a data set at two commits, the newer one with other rows."""
    use_cache(tmp_path, monkeypatch)
    add_commit(tmp_path, "o/Sums", OLD, {"train": rows("old"), "test": rows("old test")}, age=60)
    add_commit(tmp_path, "o/Sums", NEW, {"train": rows("new"), "test": rows("new test")})
    return tmp_path


def test_the_commit_that_was_asked_for_is_read_also_where_a_newer_one_is_cached(
    cache: Path,
) -> None:
    said: list[str] = []
    for commit, name in ((OLD, "old"), (NEW, "new")):
        section = DataSection(source="o/Sums", split="test", revision=commit)
        table = read_table(section, report=said.append)
        assert (table.rows, table.revision) == (rows(f"{name} test"), commit)
    assert said == []


@pytest.mark.parametrize("revision", [None, "main"])
def test_without_a_commit_the_one_that_was_read_is_said(cache: Path, revision: str | None) -> None:
    said: list[str] = []
    section = DataSection(source="o/Sums", revision=revision)
    assert load_rows(section, report=said.append).rows == rows("new")
    assert said == [
        f"data: o/Sums was read at commit {NEW}; set data.revision to it to have the same rows again"
    ]


def test_a_commit_that_cannot_be_had_is_refused_and_the_cached_one_named(cache: Path) -> None:
    section = DataSection(source="o/Sums", revision=OTHER)
    with pytest.raises(
        RecipeError, match=f"data.revision is {OTHER}, which is neither cached .* of commit {NEW}"
    ):
        load_rows(section)
    with pytest.raises(RecipeError, match="o/Sums is not a file or task, and the hub does not"):
        load_rows(DataSection(source="o/Sums", revision=OLD, split="validation"))


def test_every_hub_benchmark_names_a_commit_unless_another_source_does() -> None:
    for name, benchmark in BENCHMARKS.items():
        source = benchmark.keys["source"]
        assert benchmark.keys.get("revision") == REVISIONS.get(source), name
        if "/" in source:
            assert re.fullmatch("[0-9a-f]{40}", REVISIONS[source]), name
        entry = {"benchmark": name, "source": "mine.jsonl"}
        made = Recipe.from_mapping({"evaluate": {"sets": {"it": entry}}})
        assert made.evaluate.sets["it"].revision is None
