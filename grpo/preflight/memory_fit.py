"""Whether a recipe's largest update fits in the memory that the device has free.

The prediction is made by ``memory``; here are the rows it is made for, what the sampler holds, and the findings.
"""

from __future__ import annotations

import math
from typing import Iterator

import psutil
import torch

from grpo.model.info import load_config, longest_sequence
from grpo.model.loading import DTYPES
from grpo.preflight.facts import (
    Finding,
    RunFacts,
    note,
    number_of_parameters,
    warning,
    wrong,
)
from grpo.preflight.memory import GIB, Memory, example_rows, predict
from grpo.recipe import Recipe
from grpo.run.teacher import teacher_section
from rewards.spelling import many


def check_memory(facts: RunFacts) -> Iterator[Finding | str]:
    """Lines on the predicted and the free memory, and a finding if the one comes near the other."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    free = free_bytes(device)
    processes = num_dividing(facts)
    memory = largest_update(facts, device, processes)
    for line in memory.lines():
        yield f"memory   {line.strip()}"
    if processes > 1:
        yield (
            f"memory   of each of {many(processes, 'process')}, which divide the weights: an update "
            f"{memory.update_peak / GIB:.2f} GiB, sampling with all weights {memory.sample_peak / GIB:.2f} GiB"
        )
    yield f"memory   free on the {device}: {free / GIB:.2f} GiB; all completions taken as long as sample.max_tokens"
    if facts.recipe.model.quantize:
        yield note(
            "memory-of-a-plain-base",
            "model.quantize holds the base at 4 bits; the prediction counts it whole",
        )
    elif memory.peak > free:
        yield wrong(
            "not-enough-memory",
            f"an update may take {memory.peak / GIB:.1f} GiB, and {free / GIB:.1f} GiB are "
            "free; lower optim.tokens_per_micro_batch, set model.gradient_checkpointing: true, model.lora, "
            "optim.state: 8bit, or take a smaller model",
        )
    elif memory.peak > 0.9 * free:
        yield warning(
            "little-memory",
            f"an update may take {memory.peak / GIB:.1f} of {free / GIB:.1f} GiB; lower "
            "optim.tokens_per_micro_batch to be safe",
        )


def num_dividing(facts: RunFacts) -> int:
    """Over how many processes the weights are divided: those of the launcher that preflight was started by."""
    world = int(facts.environment.get("WORLD_SIZE", "1"))
    return world if facts.recipe.distributed.shard else 1


def free_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def largest_update(facts: RunFacts, device: str = "cpu", processes: int = 1) -> Memory:
    """The memory of the recipe's update if its prompts were the longest and its completions of full length."""
    recipe = facts.recipe
    longest = max(len(prompt.token_ids) for prompt in facts.prompts.train)
    rows = example_rows(
        prompts=math.ceil(recipe.sample.prompts / recipe.optim.updates),
        group_size=recipe.sample.group_size,
        prompt_tokens=longest,
        max_tokens=recipe.sample.max_tokens,
        given_tokens=_given_tokens(facts, longest),
    )
    return predict(
        config=facts.loaded_config(),
        tokenizer=facts.loaded_tokenizer(),
        model=recipe.model,
        optim=recipe.optim,
        loss=recipe.loss,
        rows=rows,
        device=device,
        sampler_bytes=sampler_bytes(facts, longest, processes),
        teacher_bytes=teacher_bytes(recipe),
        processes=processes,
    )


def _given_tokens(facts: RunFacts, prompt_tokens: int) -> int:
    """The tokens of the observations of a completion that makes all its calls, as far as the context holds them."""
    if facts.answers is None:
        return 0
    section = facts.answers.section
    wanted = min(section.max_calls, section.max_turns) * section.observation_tokens
    context = longest_sequence(facts.loaded_config().get_text_config())
    if context is None:
        return wanted
    return max(0, min(wanted, context - prompt_tokens - facts.recipe.sample.max_tokens))


def teacher_bytes(recipe: Recipe) -> int:
    """The weights of the recipe's teacher, 0 without one; `RecipeError` if its configuration cannot be opened."""
    section = teacher_section(recipe)
    if section is None:
        return 0
    number = number_of_parameters(load_config(section), section.trust_remote_code)
    return number * DTYPES[section.dtype].itemsize


def sampler_bytes(facts: RunFacts, prompt_tokens: int, processes: int = 1) -> int:
    """Keys and values of the completions that a process decodes at a time, their prompts once a group."""
    sample = facts.recipe.sample
    prompts = math.ceil(sample.prompts / processes)
    rows = min(sample.max_rows, prompts * sample.group_size)
    groups = math.ceil(rows / sample.group_size)
    tokens = rows * sample.max_tokens + groups * prompt_tokens
    return tokens * _bytes_of_a_token(facts)


def _bytes_of_a_token(facts: RunFacts) -> int:
    """Keys and values of one token in all layers."""
    config = facts.loaded_config().get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    element = torch.empty((), dtype=DTYPES[facts.recipe.model.dtype]).element_size()
    return 2 * config.num_hidden_layers * heads * width * element
