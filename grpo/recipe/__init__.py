"""A run, fully described: frozen dataclasses filled from YAML and ``key=value``, checked before anything loads.

Precedence: field defaults < preset < YAML < overrides. Relative paths are taken from the recipe's folder in YAML and
from the working folder in overrides. Loading a recipe executes nothing, and needs no torch. What it leaves out: whether
files, columns and models that a recipe names exist, which is checked where they are loaded.

``sections`` has the keys, ``presets`` the published objectives, ``files`` reads YAML and overrides, ``build`` makes the
sections, ``constraints`` has the rules between keys, ``describe`` the help.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Mapping

from grpo.recipe.build import build_section, merge, plain, preset_values
from grpo.recipe.constraints import check_combinations, check_loss
from grpo.recipe.describe import describe_keys, differences, keys_help, keys_markdown, step_size
from grpo.recipe.files import (
    find_recipe,
    parse_override,
    parse_yaml,
    read_yaml,
    resolve_paths,
    to_yaml,
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
from grpo.recipe.sections import (
    AdvantageSection,
    CheckpointSection,
    DataSection,
    EvaluateSection,
    GateSection,
    LogSection,
    LoraSection,
    LossSection,
    ModelSection,
    OptimSection,
    RewardSection,
    SampleSection,
    SandboxSection,
    Sections,
    WandbSection,
    WatchdogSection,
)
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
    "DataSection",
    "EvaluateSection",
    "GateSection",
    "LogSection",
    "LoraSection",
    "LossSection",
    "ModelSection",
    "OptimSection",
    "Recipe",
    "RecipeError",
    "RewardSection",
    "SampleSection",
    "SandboxSection",
    "Sections",
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
        layered = dict(values)
        for override in overrides:
            layered = merge(layered, parse_override(override), empties=True)
        recipe = build_section(Recipe, merge(preset_values(layered), layered), "")
        check_combinations(recipe)
        return recipe

    def to_mapping(self) -> dict[str, Any]:
        """The resolved recipe as plain values; `from_mapping` of it gives the same recipe."""
        return plain(self)
