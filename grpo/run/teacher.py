"""The teacher of a recipe: found, held against the policy's tokenizer before any weights load, and loaded.

What is learnt from it is up to ``grpo.objective.kl``, how its log-probs are taken to ``grpo.learner.teacher``.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

from transformers import PreTrainedTokenizerBase

from grpo.data.prompts import PromptSet
from grpo.learner.teacher import Teacher
from grpo.model.info import load_config, load_tokenizer, longest_sequence
from grpo.model.policy import Policy
from grpo.monitor import watchdog
from grpo.recipe import ModelSection, Recipe, RecipeError
from grpo.rollout.compatibility import check_support
from rewards.spelling import many


def teacher_key(recipe: Recipe) -> str:
    """The key that names the teacher of a recipe."""
    return "distill.teacher" if recipe.stage == "distill" else "loss.teacher"


def check_teacher(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, prompts: PromptSet) -> None:
    """Refuse a teacher whose tokens are not the policy's, or that cannot read the longest completion.

    Nothing if the recipe has no teacher. Raises `RecipeError`.
    """
    section = teacher_section(recipe)
    if section is None:
        return
    with _named(recipe), watchdog.loading("grpo.run.teacher, configuration and tokenizer"):
        config = load_config(section)
        theirs = load_tokenizer(section)
    _check_tokens(recipe, theirs, tokenizer)
    context = longest_sequence(config.get_text_config())
    longest = prompts.longest + recipe.sample.max_tokens
    if context is not None and longest > context:
        raise RecipeError(
            f"recipe: {teacher_key(recipe)} {section.name} reads {many(context, 'token')}, but a prompt with its "
            f"completion may have {longest}; lower sample.max_tokens or data.max_prompt_tokens"
        )


def load_teacher(recipe: Recipe, policy: Policy) -> Teacher | None:
    """The teacher of a recipe, frozen, in ``loss.teacher_dtype``; None if it has none. Raises `RecipeError`."""
    section = teacher_section(recipe)
    if section is None:
        return None
    with _named(recipe), watchdog.loading("grpo.run.teacher, the teacher"):
        teacher = Policy.load(section, policy.device)
        check_support(teacher)
    _check_tokens(recipe, teacher.tokenizer, policy.tokenizer)
    return Teacher(teacher, recipe.loss.teacher_offload)


def teacher_section(recipe: Recipe) -> ModelSection | None:
    """The teacher as a section ``model``; None if the recipe has none."""
    loss = recipe.loss
    if loss.teacher is None:
        return None
    return ModelSection(
        name=loss.teacher,
        dtype=loss.teacher_dtype or recipe.model.dtype,
        trust_remote_code=recipe.model.trust_remote_code,
        routing_replay=False,  # the policy's experts are not the teacher's
    )


@contextmanager
def _named(recipe: Recipe) -> Iterator[None]:
    """Let sentences on a model that cannot be loaded name the teacher's key."""
    key = teacher_key(recipe)
    try:
        yield
    except RecipeError as error:
        sentence = str(error).replace("model.name", key)
        if sentence.startswith("model: "):
            sentence = f"{key}: {sentence.removeprefix('model: ')}"
        raise RecipeError(sentence) from None


def _check_tokens(
    recipe: Recipe, theirs: PreTrainedTokenizerBase, ours: PreTrainedTokenizerBase
) -> None:
    their_ids = theirs.get_vocab()
    our_ids = ours.get_vocab()
    if their_ids == our_ids:
        return
    other = min(token for token, _ in their_ids.items() ^ our_ids.items())
    raise RecipeError(
        f"recipe: {teacher_key(recipe)} {recipe.loss.teacher} has another tokenizer than the policy, so its "
        f"log-probs are of other tokens: {other!r} is {their_ids.get(other, 'unknown')} there and "
        f"{our_ids.get(other, 'unknown')} here; name a teacher of the same family"
    )
