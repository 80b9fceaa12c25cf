"""One evaluation: sample and score the prompts of a set that never trains.

The same prompts, seeds and temperature serve every evaluation of a run, so that before and after differ by the weights
alone. The statistics are those of ``accuracy``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Sequence

from grpo.environments import RunEnvironment, turns_of
from grpo.rollout.engine import Engine
from grpo.run.accuracy import Evaluation, reward_bounds, summarise
from grpo.run.evaluation_sets import EvaluationSet
from grpo.run.metrics import tool_record
from grpo.scoring import Scorer
from grpo.types import ScoredGroup


def evaluate(
    engine: Engine,
    scorer: Scorer,
    of: EvaluationSet,
    *,
    seed: int,
    environment: RunEnvironment | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Sample and score the completions of each prompt; None if interrupted before the end.

    The `environment` answers their turns, where there is one.
    """
    sampled = engine.sample(
        of.prompts,
        group_size=of.samples,
        max_tokens=of.max_tokens,
        sampling=of.sampling,
        seed=("evaluate", seed),
        interrupted=interrupted,
        turns=turns_of(environment, of.templates),
    )
    pending = {index: scorer.submit(group) for index, group in sampled}
    if interrupted():
        return None
    groups = [pending[index].result() for index in sorted(pending)]
    result = summarise(
        groups,
        of.accurate,
        tokens=engine.stats.tokens,
        seconds=engine.stats.seconds,
        bounds=reward_bounds(scorer.specs),
        threshold=of.threshold,
    )
    if environment is None:
        return result
    return replace(result, details={**result.details, **_called(groups)})


def _called(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """How many completions call, and how often."""
    record = tool_record(groups)
    return {name: record[name] for name in ("tool/share", "tool/calls")}
