"""Every measured figure of README, docs, changelog and recipes has what repeats it beside it, and where a time was taken."""

from __future__ import annotations

import re

import pytest
from figures import ROOT, SOURCE, Section, head, items, sections, stated, unsourced

PAGES = [
    "README.md",
    "README.ja.md",
    *(file.relative_to(ROOT).as_posix() for file in sorted((ROOT / "docs").glob("*.md"))),
    *(file.relative_to(ROOT).as_posix() for file in sorted(ROOT.glob("recipes/*/README.md"))),
]
FILE = re.compile(r"(?<!, )(?:benchmarks|tests|examples|recipes)/[\w/.*-]+\.(?:py|json|yaml|sh)\b")


def every_section() -> list[Section]:
    found = items("CHANGELOG.md", (ROOT / "CHANGELOG.md").read_text("utf-8"))
    for page in PAGES:
        found += sections(page, (ROOT / page).read_text("utf-8"))
    for recipe in sorted(ROOT.glob("recipes/*.yaml")):
        found.append(head(recipe.relative_to(ROOT).as_posix(), recipe.read_text("utf-8")))
    return found


def test_every_measured_figure_names_what_repeats_it_and_every_time_its_processor() -> None:
    not_measured = stated()
    missing = []
    for section in every_section():
        missing += unsourced(section, not_measured.get(section.place, []))
    assert not missing, "\n".join(missing)


def test_what_is_listed_as_not_measured_still_stands_where_the_list_says() -> None:
    found: dict[str, list[str]] = {}
    for section in every_section():
        found.setdefault(section.place, []).extend(section.figures())
    gone = [
        f"{place}: {figure}"
        for place, figures in stated().items()
        for figure in figures
        if figure not in found.get(place, [])
    ]
    assert not gone


def test_the_files_that_pages_name_are_there() -> None:
    named = {name for section in every_section() for name in FILE.findall(section.text)}
    assert len(named) > 40
    assert not [name for name in sorted(named) if not list(ROOT.glob(name))]


# ---- the finder ---------------------------------------------------------------------------------------------

BESIDE = "`python -m benchmarks.head` on an AMD EPYC"


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("It takes 49 s and 1,147 MiB.", ["49 s", "1,147 MiB"]),
        ("6.6 x as fast, or 6.6× or 1.3 times", ["6.6 x", "6.6×", "1.3 times"]),
        ("from 33.5 → 59.6 %", ["33.5 → 59.6"]),
        ("1.39 [1.30, 1.85] and 59 % [54, 63]", ["1.39 [1.30, 1.85]", "59 % [54, 63]"]),
        ("98 CPU-seconds, 20 GB/s, 771 tokens/s", ["98 CPU-seconds", "20 GB/s", "771 tokens/s"]),
        ("| case | ms |\n|---|---|\n| a | 0.39 |", ["0.39 (ms)"]),
        ("| milliseconds | a |\n|---|---|\n| all | 178 |", ["178 (milliseconds)"]),
        ("4 × 8 completions of 128 tokens, 2 x 3, 60 steps, version 0.1.0, 2026-11-22", []),
        ("| prompts | group |\n|---|---|\n| 4 | 8 |", []),
        ("`timeout: 10 s` and\n```\n49 s\n```", []),
        ("`--seeds 0 1` in 5-shot of step-000020 s", []),
    ],
)
def test_figures_are_numbers_with_a_unit_and_nothing_else(text: str, figures: list[str]) -> None:
    assert Section("page", "part", text).figures() == figures


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("It takes 49 s.", ["no command", "which processor"]),
        ("It takes 49 s on an AMD EPYC.", ["no command"]),
        ("It takes 49 s (`python -m benchmarks.head`).", ["which processor"]),
        (f"It takes 49 s ({BESIDE}).", []),
        ("59.1 % are right.", ["no command"]),
        ("59.1 % are right (`grpo train quickstart`).", []),
        ("59.1 % are right (`grpo train mine.yaml`).", ["no command"]),
        ("49 s, and no command repeats it; the processor was not noted.", []),
        ("A deadline of 10 s.", []),
        ("No figure at all.", []),
    ],
)
def test_a_section_is_asked_for_a_command_and_for_times_for_a_processor(
    text: str, missing: list[str]
) -> None:
    found = unsourced(Section("page", "part", text), ["10 s"])
    assert len(found) == len(missing)
    assert all(wanted in said for wanted, said in zip(missing, found))


def test_what_stands_over_a_section_counts_for_it_and_what_stands_beside_it_does_not() -> None:
    page = f"# A\n{BESIDE}\n## B\n49 s\n# C\n49 s\n```sh\n# no heading\n```\n"
    (above, inside, beside) = sections("page", page)
    assert [above.place, inside.place, beside.place] == ["page#A", "page#B", "page#C"]
    assert not unsourced(inside, []) and len(unsourced(beside, [])) == 2


def test_each_item_of_the_changelog_stands_alone_and_may_name_its_page() -> None:
    named, bare = items(
        "CHANGELOG.md", "- **Faster** by 49 s (docs/learner.md)\n- Also\n  by 49 s\n"
    )
    assert named.place == "CHANGELOG.md#Faster by 49 s (docs/learner.md)"
    assert not unsourced(named, []) and len(unsourced(bare, [])) == 2


def test_a_source_is_something_that_can_be_run_or_read() -> None:
    assert SOURCE.search("python -m\nbenchmarks.plan") and SOURCE.search(
        "tests/faults/test_hangs.py"
    )
    assert not SOURCE.search("grpo train recipe.yaml") and not SOURCE.search("make lint")
