"""What preflight knows of a run, and the findings that it reports."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Sequence

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase

from grpo.data.prompts import PromptSet
from grpo.data.sources import load_sources
from grpo.data.templates import Template
from grpo.environments import EnvironmentPlan
from grpo.monitor.gate_table import GATES
from grpo.recipe import Recipe, RecipeError
from grpo.run.evaluation_sets import EvaluationSet
from grpo.run.inputs import check_recipe, load_inputs
from grpo.run.reward_specs import reward_specs
from rewards import RewardSpec
from rewards.conventions import TRUTH_COLUMNS
from rewards.service.functions import applies
from rewards.table import judges_without_gold, load

WRONG = "wrong"
WARNING = "warning"
NOTE = "note"
MAX_FAULTS = GATES["faults"].limits["stop"]
"""Share of a step's completions above which faults stop a run."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check: ``wrong`` ends preflight with exit code 2, a ``warning`` or ``note`` does not."""

    level: str
    name: str
    message: str


def wrong(name: str, message: str) -> Finding:
    return Finding(WRONG, name, message)


def warning(name: str, message: str) -> Finding:
    return Finding(WARNING, name, message)


def note(name: str, message: str) -> Finding:
    return Finding(NOTE, name, message)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run before its model loads; a field keeps its default if what it holds did not load.

    ``answers`` is who answers between turns, ``accurate`` names the reward that means accuracy, ``rows`` are
    all rows of the data set, ``repairs`` say what was changed in them.
    """

    recipe: Recipe
    specs: Sequence[RewardSpec] = ()
    accurate: str = ""
    rows: Sequence[Mapping[str, Any]] = ()
    tokenizer: PreTrainedTokenizerBase | None = None
    config: PretrainedConfig | None = None
    prompts: PromptSet = PromptSet((), (), 0, 0)
    sets: Sequence[EvaluationSet] = ()
    num_parameters: int | None = None
    repairs: Sequence[str] = ()
    answers: EnvironmentPlan | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def gold(self) -> str | None:
        """The column with the gold answers of the rows that the accurate reward judges, if it has a usual name."""
        spec = self.accurate_spec
        judged = (row for row in self.rows if spec is None or applies(spec.when, row))
        columns = next(judged, {})
        return next((name for name in TRUTH_COLUMNS if name in columns), None)

    @property
    def accurate_spec(self) -> RewardSpec | None:
        """The reward that means accuracy, if it loaded."""
        return next((spec for spec in self.specs if spec.name == self.accurate), None)

    @property
    def needs_gold(self) -> bool:
        """Whether no reward can judge a row whose gold is None."""
        try:
            return not any(judges_without_gold(load(spec.use)) for spec in self.specs)
        except ValueError:
            return True  # a reward that is not found has been reported already

    def golds(self) -> list[Any]:
        """The gold answers of all rows; an entry of a mapping where they are kept in one."""
        column = self.gold
        if column is None:
            return []
        return [_ground_truth(row.get(column)) for row in self.rows]

    @property
    def templates(self) -> set[str]:
        """What the sources' templates came to: chat, r1, plain or texts of the user's."""
        loaded = {template.pattern for template in self.prompts.templates.values()}
        return loaded or {section.template for section in self.recipe.data.each().values()}

    def template_of(self, row: Mapping[str, Any]) -> Template:
        """The template that shows `row`, for stages that are reached only if prompts loaded."""
        templates = self.prompts.templates
        return templates.get(row.get("source", ""), next(iter(templates.values())))

    def loaded_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, for stages that are reached only if it loaded."""
        assert self.tokenizer is not None
        return self.tokenizer

    def loaded_config(self) -> PretrainedConfig:
        """The model's configuration, for stages that are reached only if it loaded."""
        assert self.config is not None
        return self.config

    def weights(self) -> dict[str, float]:
        """The weight of each reward by name."""
        return {spec.name: spec.weight for spec in self.specs}


def _ground_truth(value: Any) -> Any:
    return value.get("ground_truth") if isinstance(value, Mapping) else value


def collect_facts(recipe: Recipe) -> RunFacts:
    """The facts of a recipe that can run; `RecipeError` for one that is refused."""
    check_recipe(recipe, resume=False, has_model=False)
    repairs: list[str] = []
    needs_rewards = recipe.stage != "distill"
    inputs = load_inputs(recipe, report=repairs.append, needs_rewards=needs_rewards)
    return RunFacts(
        inputs.recipe,
        repairs=repairs,
        specs=inputs.specs,
        accurate=inputs.accurate,
        rows=inputs.rows,
        tokenizer=inputs.tokenizer,
        config=inputs.config,
        prompts=inputs.prompts,
        sets=inputs.sets,
        num_parameters=number_of_parameters(inputs.config, recipe.model.trust_remote_code),
        answers=inputs.environment,
    )


def collect_partial_facts(recipe: Recipe) -> RunFacts:
    """What loads although the recipe as a whole is refused: the rewards' weights and the data set."""
    repairs: list[str] = []
    facts = RunFacts(recipe, repairs=repairs)
    try:
        specs = reward_specs(recipe)
        facts = replace(facts, specs=specs, accurate=recipe.evaluate.reward or specs[0].name)
        sources = load_sources(recipe.data, report=repairs.append)
        return replace(facts, rows=[row for source in sources for row in source.rows])
    except RecipeError:
        return facts  # the refusal has been reported already


def number_of_parameters(config: PretrainedConfig, trust_remote_code: bool = False) -> int:
    """How many parameters a model of this configuration has; no weights are allocated."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        return sum(parameter.numel() for parameter in model.parameters())
