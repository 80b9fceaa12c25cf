"""A run, fully described: frozen dataclasses filled from YAML and ``key=value``, checked before anything loads.

Precedence: field defaults < preset < YAML < overrides. Relative paths are taken from the recipe's folder in YAML and
from the working folder in overrides. Loading a recipe executes nothing, and needs no torch. What it leaves out: whether
files, columns and models that a recipe names exist, which is checked where they are loaded.

``sections`` has the keys, ``presets`` the published objectives, ``files`` reads YAML and overrides, ``build`` makes the
sections, ``constraints`` has the rules between keys, ``describe`` the help.
"""

from __future__ import annotations

import math
import os
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from functools import wraps
from typing import Any, Callable, Mapping

from grpo.monitor.redaction import redacted
from grpo.notebook.cards import recipe_card
from grpo.recipe.build import build_section, check_keys, check_values, merge, plain, preset_values
from grpo.recipe.constraints import check_combinations, check_loss
from grpo.recipe.data_sections import (
    DataSection,
    EvaluateSection,
    EvaluationSetSection,
    RewardSection,
    RowsSection,
    SourceSection,
)
from grpo.recipe.describe import (
    as_typed,
    changed_keys,
    describe_keys,
    differences,
    keys_help,
    keys_markdown,
    step_size,
)
from grpo.recipe.distill_section import DistillSection
from grpo.recipe.environment_section import EnvironmentSection
from grpo.recipe.files import (
    find_recipe,
    parse_override,
    parse_yaml,
    read_yaml,
    resolve_paths,
    to_yaml,
    with_shipped_models,
)
from grpo.recipe.objectives import (
    AGGREGATIONS,
    KLS,
    LEVELS,
    POLICY_LOSSES,
    RULES,
    WHOLE_POLICY_LOSSES,
)
from grpo.recipe.presets import PRESETS
from grpo.recipe.reject_section import RejectSection
from grpo.recipe.sections import (
    AdvantageSection,
    CheckpointSection,
    CostSection,
    DistributedSection,
    ExportSection,
    GateSection,
    LogSection,
    LoraSection,
    LossSection,
    MlflowSection,
    ModelSection,
    OptimSection,
    RewardsServiceSection,
    SampleSection,
    SandboxSection,
    Sections,
    SftSection,
    TensorboardSection,
    TrackioSection,
    WandbSection,
    WatchdogSection,
)
from grpo.recipe.shorthands import name_entries, write_out
from grpo.recipe.values import RecipeError
from rewards.spelling import nearest

__all__ = [
    "AGGREGATIONS",
    "KLS",
    "LEVELS",
    "POLICY_LOSSES",
    "PRESETS",
    "RULES",
    "WHOLE_POLICY_LOSSES",
    "AdvantageSection",
    "CheckpointSection",
    "CostSection",
    "DistributedSection",
    "DataSection",
    "DistillSection",
    "EnvironmentSection",
    "EvaluateSection",
    "EvaluationSetSection",
    "ExportSection",
    "GateSection",
    "LogSection",
    "LoraSection",
    "LossSection",
    "MlflowSection",
    "ModelSection",
    "OptimSection",
    "Recipe",
    "RecipeError",
    "RejectSection",
    "RewardSection",
    "RowsSection",
    "SampleSection",
    "RewardsServiceSection",
    "SandboxSection",
    "Sections",
    "SftSection",
    "SourceSection",
    "TensorboardSection",
    "TrackioSection",
    "WandbSection",
    "WatchdogSection",
    "check_combinations",
    "check_loss",
    "describe_keys",
    "differences",
    "find_recipe",
    "keys_help",
    "keys_markdown",
    "nearest",
    "parse_yaml",
    "plain",
    "read_yaml",
    "resolve_paths",
    "step_size",
    "to_yaml",
]


@dataclass(frozen=True)
class Recipe(Sections):
    """Everything that decides a run. Make one with `Recipe.load` or `Recipe.from_mapping`; it never changes."""

    @staticmethod
    def load(path: str | os.PathLike[str], *overrides: str) -> Recipe:
        """The recipe in the YAML file `path` with ``a.b=value`` overrides applied, checked.

        `path` may also be the name of a recipe that ships with the library. Raises `RecipeError`.
        """
        file = find_recipe(path)
        values = resolve_paths(read_yaml(file), file.parent)
        values.setdefault("name", file.stem)
        return Recipe.from_mapping(values, *overrides)

    @staticmethod
    def from_mapping(values: Mapping[str, Any], *overrides: str) -> Recipe:
        """The recipe that a nested mapping describes, with ``a.b=value`` overrides applied, checked.

        Raises `RecipeError`.
        """
        if "stages" in values:
            raise RecipeError(
                "recipe: stages makes several runs of it, and this is about one; run them by grpo train, or from "
                "Python by grpo.Pipeline"
            )
        layered = name_entries(values)
        for override in overrides:
            layered = merge(layered, name_entries(parse_override(override)), empties=True)
        layered = with_shipped_models(write_out(layered))
        recipe: Recipe = build_section(Recipe, merge(preset_values(layered), layered), "")
        return recipe

    def to_mapping(self) -> dict[str, Any]:
        """The resolved recipe as plain values; `from_mapping` of it gives the same recipe."""
        values = plain(self)
        if self.epochs is not None:
            del values["steps"]
        if self.stage != "export":
            del values["export"]
        if self.stage != "evaluate":
            del values["evaluate"]["models"]
        return values

    def with_steps(self, num_prompts: int) -> Recipe:
        """The recipe with the steps that its ``epochs`` over so many training prompts come to, if it has epochs."""
        if self.epochs is None:
            return self
        num_drawn = math.ceil(self.epochs * num_prompts)
        return replace(self, steps=max(1, math.ceil(num_drawn / self.rows_a_step()[0])))

    def rows_a_step(self) -> tuple[int, str]:
        """(how many rows of the data a step takes, the key that says so)."""
        if self.learns_rows:
            return self.sft.batch, "sft.batch"
        return self.sample.prompts, "sample.prompts"

    def __post_init__(self) -> None:
        """Make sections of mappings, as in ``Recipe(model={"name": ...})``, and check every value."""
        if all(_is_built(getattr(self, part.name), part) for part in fields(self)):
            check_values(self, "")
            check_combinations(self)
            return
        given = {part.name: getattr(self, part.name) for part in fields(self)}
        default = Sections()
        changed = {
            name: plain(value) for name, value in given.items() if value != getattr(default, name)
        }
        built = Recipe.from_mapping(changed)
        for name in given:
            object.__setattr__(self, name, getattr(built, name))

    def _repr_html_(self) -> str:
        """What a notebook shows: the keys that are not at their defaults, and the resolved recipe, without secrets."""
        changed = [
            (name, redacted(as_typed(value)), as_typed(default))
            for name, value, default in changed_keys(self)
        ]
        resolved = redacted(to_yaml(self.to_mapping()))
        return recipe_card(self.name, list(step_size(self)), changed, resolved)

    def __repr__(self) -> str:
        """The keys that are not at their defaults."""
        return f"Recipe({', '.join(f'{name}={value!r}' for name, value, _ in changed_keys(self))})"


def _refusing_unknown(init: Callable[..., None]) -> Callable[..., None]:
    """`init` for keys that exist; of another, as ``learning_rate``, a `RecipeError` that says what it is here."""

    @wraps(init)
    def checked(self: Recipe, *values: Any, **keys: Any) -> None:
        check_keys(Recipe, keys)
        init(self, *values, **keys)

    return checked


Recipe.__init__ = _refusing_unknown(Recipe.__init__)  # type: ignore[method-assign]


def _is_built(value: Any, part: Field[Any]) -> bool:
    """Whether `value` is a section, where the field `part` is one, and each entry of a mapping of sections too."""
    if is_dataclass(part.default) or part.name == "data":
        return is_dataclass(value)
    if part.metadata["entry"] is not None:
        return isinstance(value, Mapping) and all(map(is_dataclass, value.values()))
    return True
