"""Held-out evaluation: sample and score prompts that never train.

The same prompts, seeds and temperature serve every evaluation of a run, so that before and after differ by the weights
alone. The statistics are those of ``accuracy``.
"""

from __future__ import annotations

from typing import Callable, Sequence

from grpo.kernels.sampling.spec import Sampling
from grpo.rollout.engine import Engine
from grpo.run.accuracy import Evaluation, reward_bounds, summarise
from grpo.scoring import Scorer
from grpo.types import Prompt


def evaluate(
    engine: Engine,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    max_tokens: int,
    sampling: Sampling,
    seed: int,
    reward: str,
    interrupted: Callable[[], bool] = lambda: False,
    sampled_one: Callable[[], object] = lambda: None,
) -> Evaluation | None:
    """Sample and score `samples` completions of each prompt; None if interrupted before the end.

    A completion is accurate if the part `reward` gave it its full score, 1. `sampled_one` is called after each prompt.
    """
    sampled = engine.sample(
        prompts,
        group_size=samples,
        max_tokens=max_tokens,
        sampling=sampling,
        seed=("evaluate", seed),
        interrupted=interrupted,
    )
    pending = {}
    for index, group in sampled:
        pending[index] = scorer.submit(group)
        sampled_one()
    if interrupted():
        return None
    groups = [pending[index].result() for index in sorted(pending)]
    return summarise(
        groups,
        reward,
        tokens=engine.stats.tokens,
        seconds=engine.stats.seconds,
        bounds=reward_bounds(scorer.specs),
    )
