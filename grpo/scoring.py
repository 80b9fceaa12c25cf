"""Groups become scored groups: a thin adapter between the loop and ``rewards.service``.

A group is handed over as soon as it is sampled, so that judging overlaps with sampling. What a verdict
means is decided in ``rewards``; here completions that were never finished are kept from being judged.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping, Sequence

import rewards
from grpo.monitor import watchdog
from grpo.recipe import Recipe, RecipeError, RewardSection, SandboxSection, plain
from grpo.types import Group, ScoredGroup
from rewards import RewardSpec, Sample, Score
from rewards.sandbox import IsolationError, SandboxOptions
from rewards.service.programs import runs_programs
from rewards.service.service import RewardService, applies

ADDED_COLUMNS = ("finish", "num_tokens")
BUILT_IN_SECONDS, PROGRAM_SECONDS, USER_SECONDS = 2.0, 6.0, 10.0


def reward_specs(recipe: Recipe, given: Mapping[str, Any] | None = None) -> list[RewardSpec]:
    """The recipe's rewards and those passed from Python, as the service takes them."""
    given = dict(given or {})
    specs = [_spec(name, given.pop(name, part.use), part) for name, part in recipe.rewards.items()]
    specs += [_spec(name, function, RewardSection()) for name, function in given.items()]
    if not specs:
        raise RecipeError(
            "recipe: rewards is empty; name one, e.g. rewards: {correct: {use: math_answer}}"
        )
    if not any(spec.weight for spec in specs):
        raise RecipeError(
            "recipe: every reward has weight 0, so no completion could be better than another"
        )
    return specs


def _spec(name: str, use: Any, part: RewardSection) -> RewardSpec:
    built_in = isinstance(use, str) and use in rewards.TABLE
    if built_in and runs_programs(rewards.load(use)):
        default = PROGRAM_SECONDS
    else:
        default = BUILT_IN_SECONDS if built_in else USER_SECONDS
    seconds = part.timeout_seconds or default
    return RewardSpec(
        name, use, part.weight, part.args, part.when, part.style, seconds, part.workers
    )


def check_rewards(specs: Sequence[RewardSpec], rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a reward that cannot be found, or that wants a column which a row it judges does not have."""
    for spec in specs:
        for column in spec.when:
            if not any(column in row for row in rows):
                raise RecipeError(
                    f"recipe: rewards.{spec.name}.when names the column {column}, but the data set has "
                    f"{', '.join(rows[0])}"
                )
        try:
            function = rewards.load(spec.use)
            for columns, number in _kinds_of_rows(rows, spec.when).items():
                missing = rewards.missing_columns(
                    function, [*columns, *ADDED_COLUMNS], spec.style, spec.args
                )
                if missing:
                    raise RecipeError(
                        f"recipe: rewards.{spec.name} wants the column {' and '.join(missing)}, but row {number} of "
                        f"the data set has {', '.join(columns)}; map it with data.columns or pass it in "
                        f"rewards.{spec.name}.args"
                    )
        except RecipeError:
            raise
        except ValueError as error:
            raise RecipeError(f"recipe: rewards.{spec.name}: {error}") from None


def sandbox_options(section: SandboxSection) -> SandboxOptions:
    """The recipe's section, as the rewards take it."""
    return SandboxOptions(**plain(section))


def check_sandbox(specs: Sequence[RewardSpec], section: SandboxSection) -> None:
    """Refuse a recipe whose programs cannot be held as well as it asks. Tries it, where a reward runs programs."""
    programs = [spec for spec in specs if runs_programs(rewards.load(spec.use))]
    if section.engine != "local" and not section.url:
        raise RecipeError(
            f"recipe: sandbox.engine is {section.engine}, but sandbox.url is missing; give its address"
        )
    if programs and section.engine == "local":
        try:
            RewardService(programs[:1], workers=1, sandbox=sandbox_options(section)).close()
        except IsolationError as error:
            raise RecipeError(
                f"recipe: rewards.{programs[0].name} runs programs, but {error}"
            ) from None


def _kinds_of_rows(
    rows: Sequence[Mapping[str, Any]], when: Mapping[str, Any]
) -> dict[tuple[str, ...], int]:
    """The different sets of columns among the rows that match `when`, each with the first such row's number."""
    found: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(rows, 1):
        if applies(when, row):
            found.setdefault(tuple(row), number)
    return found


class Scorer:
    """Scores groups through long-lived reward workers; close it, or use it as a context."""

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        base_dir: Path | None = None,
        sandbox: SandboxSection = SandboxSection(),
    ):
        self.specs = specs
        self.service = RewardService(specs, base_dir=base_dir, sandbox=sandbox_options(sandbox))

    def __enter__(self) -> Scorer:
        self.service.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.service.__exit__(*error)

    @property
    def isolation(self) -> list[str]:
        """How programs are held, in lines for the log; empty where no reward runs any."""
        return self.service.isolation

    @property
    def cached(self) -> float:
        """The share of verdicts so far that an equal completion had already been given."""
        return self.service.num_from_cache / max(1, self.service.num_judged)

    def submit(self, group: Group) -> Pending:
        """Hand a group over and go on; its verdicts are waited for in `Pending.result`."""
        samples = [
            Sample(
                text=completion.text,
                columns={
                    **group.prompt.truth,
                    "finish": completion.finish,
                    "num_tokens": len(completion.token_ids),
                },
                prompt=group.prompt.text,
                token_ids=completion.token_ids,
                group=group.prompt.id,
            )
            for completion in group.completions
            if completion.finish not in ("cancelled", "error")
        ]
        return Pending(group, self.service.submit(samples) if samples else None, self)

    def wait_for(self, ticket: Any) -> list[Any]:
        """The verdicts of a ticket, waited for under the watchdog's eyes."""
        with watchdog.waiting(
            "judge",
            owner="rewards.service",
            at_least_seconds=self._needed_seconds(),
            progress=lambda: self.service.num_open,
            state=lambda: [*ticket.describe(), *self.service.describe()],
        ):
            return ticket.result()

    def _needed_seconds(self) -> float:
        """What two tries of the slowest reward may take on a machine that has other work (``rewards.service.pool``'s Clock)."""
        return 10 * max(spec.timeout_seconds for spec in self.specs) + 2


class Pending:
    """A group whose verdicts are under way."""

    def __init__(self, group: Group, ticket: Any, judge: Scorer):
        self.group, self.ticket, self.judge = group, ticket, judge

    def result(self) -> ScoredGroup:
        judged = iter(self.judge.wait_for(self.ticket) if self.ticket is not None else ())
        scores, verdicts = [], []
        for completion in self.group.completions:
            if completion.finish == "cancelled":
                scores.append(Score(None, status="not_applicable", detail="sampling was cancelled"))
                verdicts.append({})
            elif completion.finish == "error":
                scores.append(
                    Score(None, status="fault", detail="the policy's logits were not finite")
                )
                verdicts.append({})
            else:
                verdict = next(judged)
                scores.append(_own(verdict.score))
                verdicts.append({name: _own(part) for name, part in verdict.parts.items()})
        return ScoredGroup(
            self.group.prompt, self.group.completions, tuple(scores), tuple(verdicts)
        )


def _own(score: Score) -> Score:
    """`score` with parts of its own, which can travel between ranks."""
    return replace(score, parts=dict(score.parts))
