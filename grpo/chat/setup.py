"""What a chat starts from: the model, and how it is asked and sampled, from a run's recipe or the model's own files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Sequence

from grpo.chat.conversation import Conversation, Settings
from grpo.data.templates import Template, template_of
from grpo.kernels.sampling.spec import Sampling
from grpo.model.policy import Policy
from grpo.recipe import Recipe
from grpo.recipe.target import final_stage, is_run_folder, model_recipe
from grpo.rollout.compatibility import check_support
from grpo.run import setup
from rewards.spelling import many

RECOMMENDED = Sampling(temperature=0.6, top_p=0.95)
"""What DeepSeek-R1 is sampled with (arXiv 2501.12948), where a model says nothing of its own."""
MAX_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for; None where the run or the model decides."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    template: str | None = None
    system: str | None = None
    seed: int = 0
    single: bool = False


def open_conversation(target: str, overrides: Sequence[str], wishes: Wishes) -> Conversation:
    """A conversation with a run's final model, or with a model folder, .gguf file or hub id. Raises `RecipeError`."""
    target = final_stage(target)
    is_run = is_run_folder(target)
    recipe = model_recipe(target, None, overrides, command="chat")
    setup.prepare_torch(recipe)
    policy = Policy.load(recipe.model, setup.default_device())
    check_support(policy)
    template = _template(recipe, policy, is_run, wishes)
    sampling = setup.sampling_of(recipe.sample) if is_run else _sampling_of_model(policy)
    given = {
        name: getattr(wishes, name)
        for name in ("temperature", "top_k", "top_p", "min_p")
        if getattr(wishes, name) is not None
    }
    max_tokens = recipe.sample.max_tokens if is_run else MAX_TOKENS
    settings = Settings(
        template=template,
        sampling=replace(sampling, **given),
        max_tokens=wishes.max_tokens or max_tokens,
        seed=wishes.seed,
        keeps_turns=template.pattern == "chat" and not wishes.single,
    )
    return Conversation(setup.open_engine(recipe, policy), settings)


def _template(recipe: Recipe, policy: Policy, is_run: bool, wishes: Wishes) -> Template:
    """A run's own; of a model its chat template, if it has one."""
    section = next(iter(recipe.data.each().values()))
    if not is_run:
        section = replace(section, template="chat" if policy.tokenizer.chat_template else "plain")
    if wishes.template is not None:
        section = replace(section, template=wishes.template)
    if wishes.system is not None:
        section = replace(section, system=wishes.system)
    return template_of(section, policy.tokenizer, policy.stop_ids)


def _sampling_of_model(policy: Policy) -> Sampling:
    """By the generation configuration that comes with a model, if it says how to sample."""
    config: Any = policy.generation_config()
    if not config.do_sample or config.temperature is None:
        return RECOMMENDED
    return Sampling(
        temperature=float(config.temperature),
        top_k=int(config.top_k or 0),
        top_p=float(1.0 if config.top_p is None else config.top_p),
        min_p=float(config.min_p or 0.0),
    )


def describe(conversation: Conversation) -> list[str]:
    """What one talks to, and how."""
    settings = conversation.settings
    sampling = settings.sampling
    drawn = {
        "temperature": f"{sampling.temperature:g}",
        "top-p": f"{sampling.top_p:g}" if sampling.top_p < 1 else None,
        "top-k": str(sampling.top_k) if sampling.top_k else None,
        "min-p": f"{sampling.min_p:g}" if sampling.min_p else None,
    }
    parts = [f"{name} {value}" for name, value in drawn.items() if value is not None]
    history = "with the turns before" if settings.keeps_turns else "each question by itself"
    shown = settings.template.pattern.replace("\n", " ")[:40]
    return [
        conversation.engine.policy.describe(),
        *conversation.engine.policy.describe_fallback(),
        f"template {shown}, {history}; {', '.join(parts)}, at most {many(settings.max_tokens, 'token')}",
    ]
