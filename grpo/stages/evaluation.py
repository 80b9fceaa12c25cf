"""The stage ``evaluate``: several models on the same rows with the same seeds, by the machinery of ``grpo evaluate``.

What a report holds is up to ``grpo.evaluate``; how the figures become the table of all stages is up to ``table``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Mapping, Sequence

from grpo.cost.meter import EVALUATE
from grpo.evaluate import evaluate_sets
from grpo.recipe import ModelSection, Recipe, RecipeError
from grpo.recipe.shorthands import HELD_OUT
from grpo.run.stored import write_rows
from grpo.stages.task import Task


class EvaluationStage(Task):
    """Evaluates each of ``evaluate.models`` on the held-out rows and on every set of ``evaluate.sets``.

    A model's report is in ``done/NAME.json``, its completions in ``completions/NAME.jsonl``, which ``grpo evaluate
    --rescore`` reads.
    """

    stage = "evaluate"
    phase = EVALUATE

    def _pieces(self, recipe: Recipe) -> Sequence[str]:
        return list(recipe.evaluate.models)

    def _do(self, piece: str) -> Mapping[str, Any]:
        recipe = recipe_of_model(self.recipe, piece)
        reports = evaluate_sets(recipe, say=self.say)
        rows = [{**row, "model": piece} for report in reports for row in report.pop("completions")]
        folder = self.folder / "completions"
        folder.mkdir(exist_ok=True)
        write_rows(rows, folder / f"{piece}.jsonl")
        for report in reports:
            report["set"] = report.get("set", HELD_OUT)
        self.cost.count(evaluated=sum(report["tokens"] for report in reports))
        return {"reports": reports}

    def _summary(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        reports = {name: record["reports"] for name, record in records.items()}
        tokens = sum(report["tokens"] for found in reports.values() for report in found)
        return {
            "evaluations": reports,
            "tokens": {"evaluated": tokens},
            "output": {"model": None, "data": None},
        }


def recipe_of_model(recipe: Recipe, label: str) -> Recipe:
    """The recipe that evaluates one of ``evaluate.models`` alone, on the rows that are held out, if any are."""
    place = recipe.evaluate.models[label]
    model = recipe.model
    if place != model.name:
        model = ModelSection(
            name=place, dtype=model.dtype, trust_remote_code=model.trust_remote_code
        )
    data = recipe.data
    if not any(source.held_out for source in data.each().values()):
        data = replace(data, source=None, sources={})  # rows that train are no measure
    if data.source is None and not data.sources and not recipe.evaluate.sets:
        raise RecipeError(
            "recipe: there is nothing to evaluate on; hold rows out by data.held_out, or name sets in evaluate.sets"
        )
    evaluate = replace(recipe.evaluate, models={})
    return replace(recipe, stage="grpo", model=model, data=data, evaluate=evaluate)
