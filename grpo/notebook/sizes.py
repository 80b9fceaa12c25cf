"""How large an evaluation was, in words."""

from __future__ import annotations

from typing import Any, Mapping

from rewards.spelling import many


def size_of(evaluation: Mapping[str, Any], times: str) -> str:
    """The prompts of an evaluation and the samples of each; of a reward of one source, how many prompts it applies to.

    >>> size_of({"prompts": 16, "samples": 30, "faults": 2, "rated": 16, "per_prompt": 2}, "x")
    '16 prompts x 2 samples'
    >>> size_of({"prompts": 16, "samples": 8, "faults": 0, "rated": 8, "per_prompt": 1}, "x")
    '8 of 16 prompts x 1 sample'
    """
    num_prompts = evaluation["prompts"]
    prompts = many(num_prompts, "prompt")
    tried = evaluation["samples"] + evaluation["faults"]
    per_prompt = evaluation.get("per_prompt") or round(tried / max(1, num_prompts))
    rated = evaluation.get("rated") or num_prompts
    part = f"{rated} of " if rated < num_prompts else ""
    return f"{part}{prompts} {times} {many(per_prompt, 'sample')}"
