"""What is exported: a run's final model or any other, loaded on the CPU.

A run that showed its questions by a pattern, not by the tokenizer's chat template, leaves with that pattern as its chat
template: a program that renders a conversation then asks as the model was trained to be asked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Sequence

import torch

from grpo.data.templates import TEMPLATES, Template, template_of
from grpo.model.info import load_config
from grpo.model.loading import DTYPES
from grpo.model.policy import Policy
from grpo.recipe import ModelSection, Recipe
from grpo.recipe.target import final_stage, is_run_folder, model_recipe


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A loaded model and where it came from.

    ``target`` is what the user named; ``run`` the folder of the run, None for a model; ``recipe`` has the model's
    section, and data and rewards where they are known. ``template`` is how its questions are shown, None where nothing
    says it.
    """

    target: str
    recipe: Recipe
    run: Path | None
    policy: Policy
    template: Template | None

    @property
    def name(self) -> str:
        """What the export is called: the run, or the last part of the model's name."""
        if self.run is not None:
            return self.run.name
        return Path(self.target).name.removesuffix(".gguf")


def open_source(
    target: str, recipe_file: str | None, overrides: Sequence[str], *, dtype: str | None = None
) -> Source:
    """Load what `target` names, a run folder, a model folder, a .gguf file or a hub id, in `dtype`.

    None means the dtype that the model is kept in. Raises `RecipeError`.
    """
    target = final_stage(target)
    recipe = model_recipe(target, recipe_file, overrides, command="export")
    run = Path(target).expanduser().absolute() if is_run_folder(target) else None
    dtype = dtype or stored_dtype(recipe.model)
    recipe = replace(recipe, model=replace(recipe.model, dtype=dtype))
    policy = Policy.load(recipe.model, "cpu")
    template = None
    if run is not None or recipe_file is not None:
        section = next(iter(recipe.data.each().values()))
        template = template_of(section, policy.tokenizer, policy.stop_ids)
        if template.pattern != "chat":
            policy.tokenizer.chat_template = as_chat_template(template.pattern)
    return Source(target=target, recipe=recipe, run=run, policy=policy, template=template)


def stored_dtype(section: ModelSection) -> str:
    """The dtype that a model's configuration names, float32 where it names none that is known."""
    dtype: Any = load_config(section).get_text_config().dtype
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else str(dtype)
    return name if name in DTYPES else "float32"


def as_chat_template(pattern: str) -> str:
    r"""The Jinja template that shows the last turn of a conversation by `pattern`, a name of `TEMPLATES` or a text.

    >>> as_chat_template("Q: {prompt} A:")
    '{{ bos_token or "" }}{{ "Q: " }}{{ messages[-1]["content"] }}{{ " A:" }}'
    """
    before, _, after = TEMPLATES.get(pattern, pattern).partition("{prompt}")
    parts = ['{{ bos_token or "" }}']
    parts += [f"{{{{ {json.dumps(before, ensure_ascii=False)} }}}}"] if before else []
    parts += ['{{ messages[-1]["content"] }}']
    parts += [f"{{{{ {json.dumps(after, ensure_ascii=False)} }}}}"] if after else []
    return "".join(parts)
