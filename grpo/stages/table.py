"""The table of a recipe's models: a row for the base and for each stage that makes a model, a column for each set.

A column holds figures that compare: the same rows, sampled as often, by the same settings and seeds, scored by the same
reward. They come from stages that evaluate, and from the evaluations that training runs make of their final models.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Iterator, Mapping

from grpo.recipe import Recipe, plain
from grpo.recipe.plan import Plan, Stage
from grpo.recipe.shorthands import HELD_OUT
from grpo.recipe.stage_list import BASE
from grpo.report.folder import RunFolder
from grpo.run.tables import percent
from rewards.spelling import many

FIGURES = ("accuracy", "low", "high", "length", "truncated")


@dataclass(frozen=True, slots=True)
class Column:
    """One set, evaluated in one way; ``label`` is its name, numbered where a set was evaluated in several ways."""

    label: str
    set: str
    prompts: int | None
    samples: int
    temperature: float
    max_tokens: int
    reward: str
    seed: int

    def describe(self) -> str:
        """How its figures were made, in words."""
        samples = many(self.samples, "sample")
        rows = f"{many(self.prompts, 'prompt')} x {samples}" if self.prompts else samples
        way = "greedy" if self.temperature == 0 else f"temperature {self.temperature:g}"
        return (
            f"{self.label}: {rows} of at most {many(self.max_tokens, 'token')}, {way}, seed {self.seed}, "
            f"accurate by {self.reward}"
        )


@dataclass(frozen=True, slots=True)
class TableRow:
    """One model: ``name`` of the stage that made it, ``kind`` of that stage, figures by column's label."""

    name: str
    kind: str
    cells: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class StageTable:
    """Models by sets; a cell that is missing was not measured."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "columns": [asdict(column) for column in self.columns],
            "rows": [asdict(row) for row in self.rows],
            "interval": "95 %, for new prompts of the same kind",
        }

    def lines(self) -> Iterator[str]:
        """The table as text."""
        lines = [
            ["model", "stage", *(column.label for column in self.columns)],
            *([row.name, row.kind, *self._shown(row)] for row in self.rows),
        ]
        widths = [max(map(len, cells)) for cells in zip(*lines)]
        for cells in lines:
            padded = [cell.ljust(width) for cell, width in zip(cells, widths)]
            yield f"  {'  '.join(padded)}".rstrip()
        yield ""
        yield from self.notes()

    def to_markdown(self) -> str:
        """The table as Markdown."""
        heads = ["model", "stage", *(column.label for column in self.columns)]
        lines = [heads, ["---"] * len(heads)]
        lines += [[row.name, row.kind, *self._shown(row)] for row in self.rows]
        rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        notes = "\n".join(f"- {note}" for note in self.notes())
        return f"{rows}\n\n{notes}\n"

    def notes(self) -> Iterator[str]:
        """What the columns mean."""
        for column in self.columns:
            yield column.describe()
        if self.columns:
            yield "95 % intervals, for new prompts of the same kind"
        else:
            yield "no model was evaluated; hold rows out by data.held_out, or add a stage evaluate"

    def _shown(self, row: TableRow) -> list[str]:
        return [_cell(row.cells.get(column.label)) for column in self.columns]


def _cell(figures: Mapping[str, Any] | None) -> str:
    if figures is None or figures.get("accuracy") is None:
        return "-"
    low = figures.get("low")
    high = figures.get("high")
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{percent(figures['accuracy'])}{interval}"


# ---- collecting ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """Figures by way of evaluation and model, the last one that was found; ``chosen`` are the ways of stages."""

    recipe_of: dict[str, tuple[str, Recipe]] = field(default_factory=dict)
    figures: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)
    chosen: set[str] = field(default_factory=set)

    def add(self, recipe: Recipe, set_name: str, model: str, figures: Mapping[str, Any]) -> None:
        """Figures of `model` on a set, as `recipe` evaluates it."""
        key = way_of(recipe, set_name)
        self.recipe_of.setdefault(key, (set_name, recipe))
        self.figures.setdefault(key, {})[model] = figures


def table_of(plan: Plan) -> StageTable:
    """The table of what the stages of `plan` have come to."""
    found = _Found()
    evaluations = [stage for stage in plan.stages if stage.kind == "evaluate"]
    for stage in plan.stages:
        if stage.model is not None:
            _add_training(found, stage)
    for stage in evaluations:
        _add_evaluation(found, stage, plan)
    models = _models(plan, found)
    kept = _that_compare(found)
    labels = _labels([found.recipe_of[key][0] for key in kept])
    columns = [_column(label, key, found) for label, key in zip(labels, kept)]
    kind_of = {stage.name: stage.kind for stage in plan.stages}
    rows = []
    for name in models:
        cells = {
            label: found.figures[key][name]
            for label, key in zip(labels, kept)
            if name in found.figures[key]
        }
        rows.append(TableRow(name, kind_of.get(name, BASE if name == BASE else "model"), cells))
    return StageTable(tuple(columns), tuple(rows))


def _add_training(found: _Found, stage: Stage) -> None:
    """What a training run measured before its first step, of the base, and of its final model."""
    summary = RunFolder(stage.folder).summary()
    sets = {HELD_OUT: summary, **(summary.get("sets") or {})}
    for name, both in sets.items():
        before = both.get("before")
        after = both.get("after")
        if before and stage.model_from == BASE:
            found.add(stage.recipe, name, BASE, _figures(before))
        if after:
            found.add(stage.recipe, name, stage.name, _figures(after))


def _add_evaluation(found: _Found, stage: Stage, plan: Plan) -> None:
    recipe = stage.recipe
    name_of = {str(other.model): other.name for other in plan.stages if other.model is not None}
    for label, reports in (RunFolder(stage.folder).summary().get("evaluations") or {}).items():
        place = recipe.evaluate.models.get(label)
        for report in reports:
            figures = _figures({**report, **report["strict"]})
            found.add(recipe, report["set"], name_of.get(str(place), label), figures)
            found.chosen.add(way_of(recipe, report["set"]))


def _figures(values: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: values.get(name) for name in FIGURES}
    return {**figures, "prompts": values.get("prompts")}


def way_of(recipe: Recipe, set_name: str) -> str:
    """Everything that decides what an evaluation of a set measures, but the model, as text that can be compared."""
    section = recipe.evaluate.sets.get(set_name)
    rewards = (section and section.rewards) or recipe.rewards
    rows = recipe.data if section is None else section
    evaluate = recipe.evaluate
    ours = {
        "set": set_name,
        "rows": plain(rows),
        "seed": recipe.seed,
        "rewards": plain(rewards),
        "evaluate": [
            evaluate.samples,
            evaluate.temperature,
            evaluate.reward,
            evaluate.threshold,
        ],
        "sample": [
            getattr(recipe.sample, name)
            for name in ("max_tokens", "top_k", "top_p", "min_p", "stop")
        ],
    }
    return json.dumps(ours, sort_keys=True, default=str)


def _models(plan: Plan, found: _Found) -> list[str]:
    """The rows: the base if it was measured, every stage that makes a model, and what else was measured.

    A model that a stage began with stands before that stage.
    """
    measured = dict.fromkeys(model for figures in found.figures.values() for model in figures)
    place_of: dict[str, Any] = {}
    for stage in plan.stages:
        place_of.update(stage.recipe.evaluate.models)
    rows = dict.fromkeys([BASE] if BASE in measured else [])
    for stage in plan.stages:
        if stage.model is not None:
            begun = [name for name in measured if place_of.get(name) == stage.recipe.model.name]
            rows.update(dict.fromkeys([*begun, stage.name]))
    return [*rows, *(name for name in measured if name not in rows)]


def _that_compare(found: _Found) -> list[str]:
    """The ways of evaluation that make columns: those that stages chose; else of each set the one of most models."""
    by_set: dict[str, list[str]] = {}
    for key, (set_name, _) in found.recipe_of.items():
        by_set.setdefault(set_name, []).append(key)
    kept = []
    for keys in by_set.values():
        chosen = [key for key in keys if key in found.chosen]
        kept += chosen or [max(keys, key=lambda key: len(found.figures[key]))]
    several = [key for key in kept if len(found.figures[key]) > 1]
    return several or kept


def _labels(names: list[str]) -> list[str]:
    """The names of sets; numbered from the second time that one occurs."""
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return labels


def _column(label: str, key: str, found: _Found) -> Column:
    set_name, recipe = found.recipe_of[key]
    section = recipe.evaluate.sets.get(set_name)
    prompts = [figures.get("prompts") for figures in found.figures[key].values()]
    rewards = (section and section.rewards) or recipe.rewards
    reward = (section and section.reward) or recipe.evaluate.reward or next(iter(rewards), "")
    samples = (section and section.samples) or recipe.evaluate.samples
    own_temperature = None if section is None else section.temperature
    return Column(
        label=label,
        set=set_name,
        prompts=next((number for number in prompts if number), None),
        samples=samples,
        temperature=recipe.evaluate.temperature if own_temperature is None else own_temperature,
        max_tokens=(section and section.max_tokens) or recipe.sample.max_tokens,
        reward=reward,
        seed=recipe.seed,
    )
