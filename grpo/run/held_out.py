"""One evaluation: sample and score the prompts of a set that never trains.

The same prompts, seeds and temperature serve every evaluation of a run, so that before and after differ by the weights
alone. Of several ranks each takes a share of the prompts, and all have the whole result. The statistics are those of
``accuracy``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Sequence

from grpo.distributed.process_group import Ranks
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
    ranks: Ranks = Ranks(),
    environment: RunEnvironment | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Sample and score the completions of each prompt; None if some rank is interrupted before the end.

    All `ranks` call it with the same set. The `environment` answers their turns, where there is one.
    """
    mine = range(len(of.prompts))[ranks.rank :: ranks.world]
    sampled = engine.sample(
        [of.prompts[index] for index in mine],
        group_size=of.samples,
        max_tokens=of.max_tokens,
        sampling=of.sampling,
        seed=("evaluate", seed),
        interrupted=interrupted,
        turns=turns_of(environment, of.templates),
    )
    pending = {mine[index]: scorer.submit(group) for index, group in sampled}
    if ranks.any(interrupted()):
        return None
    scored = ranks.gather([(index, group.result()) for index, group in pending.items()])
    groups = [group for _, group in sorted(scored, key=lambda item: item[0])]
    shares = ranks.gather([engine.stats])
    result = summarise(
        groups,
        of.accurate,
        tokens=sum(share.tokens for share in shares),
        seconds=max(share.seconds for share in shares),
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
