"""Writes ``report.html``: gathers each run's data, renders the template, and seals the page against any request.

The page holds its own scripts and styles. Its Content-Security-Policy allows those by their hashes, and nothing else:
no request, no script from text that a model wrote. Such text travels as data, deflated, and is shown as text only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from grpo import __version__
from grpo.report.folder import RunFolder, State
from grpo.report.html import figures
from grpo.report.html.answer import (
    alarms_of,
    books_of,
    cost_of,
    examples_of,
    outcomes_of,
    results_of,
    without_books,
)
from grpo.report.html.cards import cards_of
from grpo.report.html.curves import axes_of, chart_data, charts_of
from grpo.report.html.embed import in_base64, json_in_script, source_hash
from grpo.report.html.packing import packed_index
from grpo.report.html.reflection import reflection_of
from grpo.report.html.run_data import RunData, read_run

HERE = Path(__file__).parent
REPORT = "report.html"
LIMIT_BYTES = 16 << 20
"""Of the deflated completions of a page; in base64 they take a third more."""
SCRIPTS = (
    "vendor/uplot/uPlot.iife.min.js",
    "static/data.js",
    "static/charts.js",
    "static/text.js",
    "static/completions.js",
    "static/page.js",
)
STYLES = ("vendor/uplot/uPlot.min.css", "static/report.css")
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src {styles}; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the recipe with each run's value, as YAML; ``differs`` if they are not all the same."""

    key: str
    values: Sequence[str]
    differs: bool


def write_report(folders: Sequence[RunFolder], out: Path, state: State | None = None) -> Path:
    """Write the page about the runs in `folders` to `out`; returns it.

    `state` is what became of the runs, where the caller knows better than their files (it is one of them).
    """
    limit = LIMIT_BYTES // len(folders)
    runs = [
        read_run(folder, label, number, limit)
        for number, (folder, label) in enumerate(zip(folders, labels_of(folders)))
    ]
    if state is not None:
        runs = [replace(run, state=state) for run in runs]
    text = rendered(runs)
    writing = out.with_name(f".writing-{out.name}")
    writing.write_text(text, encoding="utf-8", errors="backslashreplace")
    writing.replace(out)
    return out


def labels_of(folders: Sequence[RunFolder]) -> list[str]:
    """A short name for each run: its recipe's, or where several share one, that of its folder."""
    names = [folder.name for folder in folders]
    for finer in (lambda path: path.name, str):
        shared = {name for name, number in Counter(names).items() if number > 1}
        names = [
            finer(folder.path.resolve()) if name in shared else name
            for name, folder in zip(names, folders)
        ]
    return names


def rendered(runs: Sequence[RunData]) -> str:
    """The page as HTML."""
    template = _environment().get_template("report.html.j2")
    return template.render(
        **_parts(),
        **_facts(runs),
        **_data(runs),
        title=" · ".join(run.label for run in runs),
        version=__version__,
        written=datetime.now().astimezone(),
    )


def _parts() -> dict[str, Any]:
    """The page's scripts and styles, and the policy that allows no others."""
    scripts = [_source(name) for name in SCRIPTS]
    styles = [_source(name) for name in STYLES]
    policy = POLICY.format(
        scripts=" ".join(map(source_hash, scripts)), styles=" ".join(map(source_hash, styles))
    )
    return {
        "scripts": [Markup(script) for script in scripts],
        "styles": [Markup(style) for style in styles],
        "policy": policy,
    }


def _facts(runs: Sequence[RunData]) -> dict[str, Any]:
    """What the template shows of the runs."""
    books = [books_of(run) for run in runs]
    unsampled = dict.fromkeys(without_books(run) for run in runs)
    examples = examples_of(runs[0]) if len(runs) == 1 else []
    return {
        "runs": runs,
        "unsampled": unsampled,
        "cards": cards_of([results_of(run) for run in runs]),
        "books": books,
        "outcomes": outcomes_of(books),
        "examples": examples,
        "costs": [cost_of(run) for run in runs],
        "alarms": [alarms_of(run) for run in runs],
        "reflections": [reflection_of(run) for run in runs],
        "settings": list(settings_of(runs)),
    }


def _data(runs: Sequence[RunData]) -> dict[str, Any]:
    """What the scripts read: the curves, the index of the completions, their texts."""
    blocks = [block for run in runs for block in run.blocks]
    return {
        "data": json_in_script(_page_data(runs)),
        "index": packed_index(blocks),
        "blocks": [in_base64(block.data) for block in blocks],
    }


@cache
def _source(name: str) -> str:
    """A file of this package whose text goes into the page, where no parser may find the end of its element."""
    text = (HERE / name).read_text(encoding="utf-8")
    assert "</script" not in text and "</style" not in text, f"{name} would end its own element"
    return text


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figures.FILTERS)
    return environment


def _page_data(runs: Sequence[RunData]) -> dict[str, Any]:
    """What the scripts draw from at once."""
    return {
        "runs": [{"label": run.label, "axes": axes_of(run)} for run in runs],
        "charts": chart_data(charts_of(runs)),
        "kept": [
            {"trained": _extent(run.trained), "evaluated": _extent(run.evaluated)} for run in runs
        ],
    }


def _extent(extent: Any) -> dict[str, int]:
    return {"written": extent.written, "kept": extent.kept}


def settings_of(runs: Sequence[RunData]) -> Iterator[Setting]:
    """Every key of the recipes, dotted."""
    flat = [dict(_leaves(run.recipe)) for run in runs]
    for key in dict.fromkeys(key for values in flat for key in values):
        values = [_shown(values[key]) if key in values else "" for values in flat]
        yield Setting(key, values, differs=len(set(values)) > 1)


def _leaves(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{where}.{name}" if where else str(name)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, key)
        else:
            yield key, value


def _shown(value: Any) -> str:
    """A value as YAML in one line; text as it is."""
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
