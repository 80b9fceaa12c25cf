"""Figures in prose: which numbers of a page could have been measured, and what the page says of their origin.

A *figure* is a number with a unit of time, size, speed or share (``49 s``, ``1,147 MiB``, ``6.6 x``, ``59.1 %``), with an
interval (``1.39 [1.30, 1.85]``) or with an arrow (``29 → 45``), or a number in a table whose heading has such a unit. Code
holds examples and commands, no figures. Whether a figure was measured, or is a limit, is not to be seen from
it: those that were not are listed in ``stated_figures.yaml``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
NUMBER = r"(?<![\w.,^-])\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+|k)?"
INTERVAL = r"\[[-+−]?\d[\d.]*, [-+−]?\d[\d.]*\]"
TIME = (
    r"(?:CPU[ -])?(?:s|ms|µs|seconds?|milliseconds?|microseconds?|minutes?|min|hours?|core-seconds)"
)
SPEED = r"(?:tokens/s|tokens a second|[GT]FLOP/s|[GT]B/s|steps/s|pairs/s|a second)"
SIZE = r"(?:[KMGT]i?B|bytes)"
RATIO = r"(?:times(?! out)|[x×](?! ?\d))"
UNIT = rf"(?:{TIME}|{SPEED}|{SIZE}|{RATIO}|points)(?![\w/-])"
TIMED = re.compile(rf"\b{TIME}\b|{SPEED}|{RATIO}$|\bover\b")
FIGURE = re.compile(
    rf"{NUMBER} ?% {INTERVAL}|{NUMBER} ?(?:→|->) ?{NUMBER}|{NUMBER} {INTERVAL}|{NUMBER} ?%|{NUMBER}[x×](?!\w)|{NUMBER}[ -]{UNIT}"
)
HEADING_UNIT = re.compile(rf"(?<![\w'])(?:{TIME}|accuracy|memory|over)\b|{SPEED}|\b{SIZE}\b|%")
CELL = re.compile(rf"[-+−]?\d[\d,.]*k?(?: {INTERVAL})?")
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.+)$")

RECIPES = "|".join(re.escape(file.stem) for file in sorted((ROOT / "recipes").glob("*.yaml")))
SOURCE = re.compile(
    r"python -m\s+benchmarks\.\w+|benchmarks/[\w/.*-]+\.(?:py|sh|json)|tests/[\w/]+\.py|examples/\w+\.py"
    r"|make (?:test-slow|test-server|quickstart|base)\b|grpo selftest|recipes/[\w./]+\.(?:py|yaml)"
    rf"|(?:grpo |grpo\.)(?:train|sft)\s(?:{RECIPES})\b"
)
"""What repeats a figure: a command, a script, a test, a recipe, a dated result."""
NO_SOURCE = re.compile(r"no command\s+repeats")
"""How a page says that a figure cannot be had again by a command of this repository."""
PROCESSOR = re.compile(
    r"EPYC|AVX-?\d|Xeon|Ryzen|[AH]100|H[28]00|B200|processor\s+was\s+not\s+noted"
)
DOCUMENTED = re.compile(r"docs/\w+\.md")
"""In the changelog, the page that has the figure with its source."""


@dataclass(frozen=True, slots=True)
class Section:
    """The text of a page from one heading to the next; ``above`` is that of the headings over it."""

    page: str
    title: str
    text: str
    above: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}#{self.title}"

    def figures(self) -> list[str]:
        """All figures, in order of appearance, each once."""
        prose = CODE.sub("`code`", self.text)
        found = [*figures_of_tables(prose), *(one.group() for one in FIGURE.finditer(prose))]
        return list(dict.fromkeys(found))

    def says(self, pattern: re.Pattern[str]) -> bool:
        """Whether this section, or one that it is part of, has the pattern."""
        return bool(pattern.search(self.text) or pattern.search(self.above))


def sections(page: str, text: str) -> list[Section]:
    """The sections of a page; a line that looks like a heading inside a code block is none."""
    found: list[Section] = []
    path: list[tuple[int, str, list[str]]] = [(0, "", [])]
    is_code = False
    for line in text.splitlines():
        is_code ^= line.lstrip().startswith("```")
        heading = None if is_code else HEADING.match(line)
        if heading is None:
            path[-1][2].append(line)
            continue
        found.append(_section(page, path))
        level = len(heading[1])
        while path[-1][0] >= level:
            path.pop()
        path.append((level, heading[2], []))
    found.append(_section(page, path))
    return [section for section in found if section.text.strip()]


def _section(page: str, path: list[tuple[int, str, list[str]]]) -> Section:
    texts = ["\n".join(lines) for _, _, lines in path]
    return Section(page=page, title=path[-1][1], text=texts[-1], above="\n".join(texts[:-1]))


def items(page: str, text: str) -> list[Section]:
    """The items of a list, each as a section that is named by its first words."""
    found: list[Section] = []
    for item in re.split(r"^(?=- |#)", text, flags=re.MULTILINE):
        if item.startswith("- "):
            words = re.sub(r"[`*\[\]]", "", item[2:]).split()
            found.append(Section(page=page, title=" ".join(words[:5]), text=item))
    return found


def head(page: str, text: str) -> Section:
    """The comment that a recipe begins with."""
    lines = [line for line in text.splitlines() if line.startswith("#")]
    return Section(page=page, title="head", text="\n".join(lines))


def figures_of_tables(text: str) -> list[str]:
    """Numbers that stand alone in a cell, each with the heading of its column that has the unit."""
    found: list[str] = []
    headings: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            headings = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not headings:
            headings = cells
            continue
        for cell, heading in zip(cells, headings):
            has_unit = HEADING_UNIT.search(heading) or HEADING_UNIT.match(headings[0])
            if has_unit and CELL.fullmatch(cell):
                found.append(f"{cell} ({has_unit.group()})")
    return found


def stated() -> dict[str, list[str]]:
    """Figures that nobody measured here, by the place where they stand: limits, defaults, examples, others' figures."""
    rows = yaml.safe_load((ROOT / "tests" / "support" / "stated_figures.yaml").read_text("utf-8"))
    return {place: figures for kind in rows.values() for place, figures in kind.items()}


def unsourced(section: Section, not_measured: list[str]) -> list[str]:
    """What is missing beside the measured figures of a section, one sentence each."""
    if section.page == "CHANGELOG.md" and DOCUMENTED.search(section.text):
        return []
    measured = [figure for figure in section.figures() if figure not in not_measured]
    missing = []
    if measured and not (section.says(SOURCE) or section.says(NO_SOURCE)):
        missing.append(
            f"{section.place}: {', '.join(measured)}: no command, script, test or result repeats them"
        )
    timed = [figure for figure in measured if TIMED.search(figure)]
    if timed and not section.says(PROCESSOR):
        missing.append(f"{section.place}: {', '.join(timed)}: on which processor?")
    return missing
