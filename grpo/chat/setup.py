"""What a chat starts from: the model, and how it is asked and sampled, from a run's recipe or the model's own files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Iterator, Sequence

from grpo.chat.conversation import Conversation, Settings
from grpo.data.templates import Template, template_of
from grpo.environments import EnvironmentPlan, open_environment, plan_environment
from grpo.kernels.sampling.spec import Sampling
from grpo.model.info import ModelInfo, load_info
from grpo.model.policy import Policy
from grpo.recipe import Recipe, RecipeError
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
    tools: Sequence[str] | None = None


def open_conversation(target: str, overrides: Sequence[str], wishes: Wishes) -> Conversation:
    """A conversation with a run's final model, or with a model folder, .gguf file or hub id. Raises `RecipeError`.

    The tools of the run are offered, or those that are wished for; close the conversation to stop their workers.
    """
    target = final_stage(target)
    is_run = is_run_folder(target)
    named = [] if wishes.tools is None else [f"tools={json.dumps(list(wishes.tools))}"]
    if wishes.tools is not None and not wishes.tools:
        named.append("environment={}")
    recipe = model_recipe(target, None, [*named, *overrides], command="chat")
    setup.prepare_torch(recipe)
    info = load_info(recipe.model)
    plan = _plan(recipe, info)
    template = _template(recipe, info, is_run, wishes)
    if plan is not None:
        template = plan.shown_by(template, info.tokenizer)
        plan.check_templates(info.tokenizer, [template], info.end_ids)
    policy = Policy.load(recipe.model, setup.default_device(), tokenizer=info.tokenizer)
    check_support(policy)
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
    engine = setup.open_engine(recipe, policy)
    return Conversation(engine, settings, open_environment(recipe, plan, policy))


def _plan(recipe: Recipe, info: ModelInfo) -> EnvironmentPlan | None:
    """Who answers the model's calls; what begins with a row of the data has none here."""
    plan = plan_environment(recipe, info.tokenizer)
    if plan is not None and plan.begins:
        raise RecipeError(
            f"chat: the environment {recipe.environment.use} begins with a row of the data, and a chat has none; see "
            "its completions with grpo sample, or chat without it: --tools none"
        )
    return plan


def _template(recipe: Recipe, info: ModelInfo, is_run: bool, wishes: Wishes) -> Template:
    """A run's own; of a model its chat template, if it has one."""
    section = next(iter(recipe.data.each().values()))
    if not is_run:
        section = replace(section, template="chat" if info.tokenizer.chat_template else "plain")
    if wishes.template is not None:
        section = replace(section, template=wishes.template)
    if wishes.system is not None:
        section = replace(section, system=wishes.system)
    return template_of(section, info.tokenizer, info.end_ids)


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
        *_answers(conversation),
    ]


def _answers(conversation: Conversation) -> Iterator[str]:
    """Who answers the model's calls, and how programs are confined, where somebody does."""
    environment = conversation.environment
    if environment is not None:
        yield environment.plan.describe()
        yield from environment.pool.isolation
