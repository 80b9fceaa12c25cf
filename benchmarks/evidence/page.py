"""The tables of docs/evidence.md, written between marks from the files of results."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any, Mapping

from benchmarks.evidence import frame
from benchmarks.evidence.frame import Part
from benchmarks.evidence.parts import PARTS
from rewards.spelling import many

PAGE = frame.ROOT / "docs" / "evidence.md"
UNMEASURED = "unmeasured"
QUESTIONS = "questions"


def put(text: str, name: str, content: str) -> str:
    """`text` with what stands between the marks of `name` replaced; `ValueError` where they are missing."""
    begin = f"<!-- evidence: {name} -->"
    end = f"<!-- end of {name} -->"
    head, found, rest = text.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"docs/evidence.md: the marks of {name} are missing")
    return f"{head}{begin}\n\n{content}\n\n{end}{tail}"


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    """What each part's file holds, with its summary made anew; parts without a result are left out."""
    found = {}
    for name, part in PARTS.items():
        content = frame.read(folder / f"{name}.json")
        if content is not None and frame.good_rows(content):
            found[name] = {**content, "summary": frame.summary_of(part, content, folder)}
    return found


def questions(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a question: what was found, from how many seeds."""
    lines = ["| part | question | found | seeds |", "|---|---|---|---|"]
    for name, part in PARTS.items():
        content = found.get(name)
        answer = UNMEASURED if content is None else part.answer(content["summary"])
        seeds = 0 if content is None else len(seeds_of(content))
        lines.append(f"| [{name}](#{name}) | {part.question} | {answer} | {seeds} |")
    return "\n".join(lines)


def seeds_of(content: Mapping[str, Any]) -> set[int]:
    """Those of the rows that have a result."""
    return {row["job"]["seed"] for row in frame.good_rows(content)}


def section(part: Part, content: Mapping[str, Any] | None) -> str:
    """The table of a part with where and when it was measured."""
    if content is None:
        return f"**{UNMEASURED.capitalize()}**: `{command(part)}` runs it."
    return f"{picture(part)}\n\n{part.table(content['summary'])}\n\n{provenance(part, content)}"


def command(part: Part) -> str:
    """What runs the part."""
    return f"python -m benchmarks.evidence --only {part.name}"


def picture(part: Part) -> str:
    """The part's picture, for light and for dark pages."""
    file = f"images/evidence-{part.name.replace('_', '-')}"
    light = f"![{part.question}]({file}.svg#only-light)"
    return f"{light}\n![{part.question}]({file}-dark.svg#only-dark)"


def provenance(part: Part, content: Mapping[str, Any]) -> str:
    """When, where and with what the rows were made, in a sentence or two."""
    rows = frame.good_rows(content)
    days = sorted({row["at"][:10] for row in rows})
    cpus = {machine["cpu"] for machine in content["machines"]}
    loads = sorted(row["load"] for row in rows)
    versions = content["machines"][-1]["versions"]
    span = " to ".join(dict.fromkeys((days[0], days[-1])))
    failed = len(content["rows"]) - len(rows)
    without = f" {many(failed, 'run')} gave no result." if failed else ""
    return (
        f"{many(len(rows), 'run')}, {span}, on {' and '.join(sorted(cpus))}, "
        f"torch {versions['torch']}, transformers {versions['transformers']}; load of the machine when a run began "
        f"{loads[0]:.0f} to {loads[-1]:.0f}.{without} All are in `benchmarks/results/evidence/{part.name}.json`; "
        f"`{command(part)}` adds to them."
    )


def text(folder: Path, page: str) -> str:
    """The page with every table written anew."""
    found = contents(folder)
    page = put(page, QUESTIONS, questions(found))
    for name, part in PARTS.items():
        page = put(page, name, section(part, found.get(name)))
    return page


def write(folder: Path, file: Path = PAGE) -> None:
    """Write the tables, and each summary into its file."""
    for name, content in contents(folder).items():
        frame.write(folder / f"{name}.json", content)
    file.write_text(text(folder, file.read_text(encoding="utf-8")), encoding="utf-8")


def draw() -> None:
    """Draw the pictures of the parts that were run; nothing without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        print("the pictures are left as they are: they need matplotlib")
        return
    script = frame.ROOT / "docs" / "pictures.py"
    subprocess.run([sys.executable, str(script), "--only", "evidence-"], check=True)
