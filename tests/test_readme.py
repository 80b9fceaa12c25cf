"""The README in Japanese says what the English one says: the same chapters, commands, figures, links and pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
JAPANESE = (ROOT / "README.ja.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    return BLOCK.sub("", text)


def outline(text: str) -> list[str]:
    """What stands in each line, by kind: heading and its level, item, row of a table."""
    kinds = (r"#+(?= )", r"- (?=\S)", r"\|")
    found = (re.match("|".join(kinds), line) for line in without_code(text).splitlines())
    return [match.group() for match in found if match]


def code(text: str) -> list[tuple[str, str]]:
    """The language and the code of each block, without comments."""
    blocks = []
    for language, body in BLOCK.findall(text):
        lines = (re.sub(r"(^|\s+)#.*", "", line) for line in body.splitlines())
        blocks.append((language, "\n".join(lines)))
    return blocks


def targets(text: str) -> list[str]:
    """Where links and pictures lead, in their order, but for those from one language to the other."""
    found = re.findall(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    return [one or other for one, other in found if not one.startswith("README")]


def names_in_code(text: str) -> list[str]:
    return sorted(re.findall(r"`([^`\n]+)`", without_code(text)))


def numbers(text: str) -> list[str]:
    """The numbers with a dot, an exponent, or more than one digit; words for small ones differ."""
    text = re.sub(r"\]\([^)]+\)|`[^`]*`", "", without_code(text))
    found = re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?k?", text)
    return sorted(number for number in found if len(number) > 1)


@pytest.mark.parametrize("part", [outline, code, targets, names_in_code, numbers])
def test_the_japanese_readme_has_what_the_english_one_has(part) -> None:
    assert part(JAPANESE) == part(ENGLISH)
    assert len(part(ENGLISH)) > 5


def test_each_readme_links_to_the_other() -> None:
    assert "(README.ja.md)" in ENGLISH and "(README.md)" in JAPANESE


def test_what_the_readmes_link_to_is_there() -> None:
    for target in targets(ENGLISH):
        assert (ROOT / target.partition("#")[0]).exists(), target


def test_the_readme_stays_short() -> None:
    assert len(ENGLISH.encode()) <= 10_000
