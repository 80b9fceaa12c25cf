"""Groups become scored groups: a thin adapter between the loop and ``rewards.service``.

A group is handed over as soon as it is sampled, so that scoring overlaps with sampling. What a score means is decided
in ``rewards``; here completions that were never finished are kept from being scored, and the recipe's rewards become
what the service takes.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import rewards
from grpo.data.columns import likely_column
from grpo.monitor import watchdog
from grpo.monitor.gate_table import GATES
from grpo.monitor.watchdog import Counts
from grpo.recipe import (
    EvaluationSetSection,
    Recipe,
    RecipeError,
    RewardSection,
    SandboxSection,
    plain,
)
from grpo.types import Completion, Group, ScoredGroup
from rewards import RewardSpec, Sample, Score
from rewards.clock import SECOND_TRY
from rewards.gold import is_missing, num_answers
from rewards.sandbox import IsolationError, SandboxOptions
from rewards.service.service import Judged, RewardService, Ticket, applies, column_value
from rewards.spelling import agree, many
from rewards.table import runs_programs

ADDED_COLUMNS = ("finish", "num_tokens")
READS_ANSWER = ("math_answer", "arithmetic", "knights_and_knaves")
"""Built-in rewards that cannot judge a row without a gold in the column answer."""
UNSCORED = {
    "cancelled": Score(None, status="not_applicable", detail="sampling was cancelled"),
    "error": Score(None, status="fault", detail="the policy's logits were not finite"),
}
"""What a completion that was never finished gets instead of a score."""


# ---- which rewards a run has ----------------------------------------------------------------------------------


def load_rewards(
    recipe: Recipe, functions: Mapping[str, Any] | None = None
) -> tuple[list[RewardSpec], str]:
    """(the rewards of a run with the lenient twin of the accurate one, the name of the accurate one).

    Refuses those whose programs cannot be confined as the recipe asks.
    """
    specs = reward_specs(recipe, functions)
    accurate = accurate_reward(recipe, [spec.name for spec in specs])
    _check_found(specs)
    specs = with_lenient(specs, accurate)
    check_sandbox(specs, recipe.sandbox)
    return specs, accurate


def _check_found(specs: Sequence[RewardSpec]) -> None:
    """Refuse a reward that cannot be loaded; `RecipeError` names it."""
    for spec in specs:
        try:
            rewards.load(spec.use)
        except ValueError as error:
            raise RecipeError(f"recipe: rewards.{spec.name}: {error}") from None


def reward_specs(recipe: Recipe, functions: Mapping[str, Any] | None = None) -> list[RewardSpec]:
    """The recipe's rewards, and `functions` passed from Python: added to them or in place of theirs."""
    functions = dict(functions or {})
    specs = [
        _spec(name, functions.pop(name, section.use), section)
        for name, section in recipe.rewards.items()
    ]
    specs += [_spec(name, function, RewardSection()) for name, function in functions.items()]
    if not specs:
        raise RecipeError(
            "recipe: rewards is empty; name one, e.g. rewards: {correct: {use: math_answer}}"
        )
    if not any(spec.weight for spec in specs):
        raise RecipeError(
            "recipe: every reward has weight 0, so no completion could be better than another"
        )
    return specs


def named_rewards(
    functions: Mapping[str, Any] | Sequence[Callable[..., Any]] | None,
) -> Mapping[str, Any]:
    """`functions` by name; a list of them gets the functions' own names. Raises `RecipeError` for two of one name."""
    if functions is None or isinstance(functions, Mapping):
        return dict(functions or {})
    named: dict[str, Any] = {}
    for function in functions:
        name = getattr(function, "__name__", type(function).__name__)
        if not callable(function) or name in named or name == "<lambda>":
            raise RecipeError(
                f"rewards: {function!r} needs a name of its own; pass a mapping, e.g. rewards={{'mine': f}}"
            )
        named[name] = function
    return named


def rewards_of_set(section: EvaluationSetSection) -> tuple[list[RewardSpec], str]:
    """(the rewards that a set of ``evaluate.sets`` names, with the lenient twin; the name of the accurate one)."""
    specs = [_spec(name, part.use, part) for name, part in section.rewards.items()]
    _check_found(specs)
    accurate = section.reward or specs[0].name
    return with_lenient(specs, accurate), accurate


def _spec(name: str, use: Any, section: RewardSection) -> RewardSpec:
    return RewardSpec(
        name=name,
        use=use,
        weight=section.weight,
        args=section.args,
        when=section.when,
        style=section.style,
        timeout_seconds=section.timeout_seconds or rewards.default_timeout_seconds(use),
        workers=section.workers,
    )


def accurate_reward(recipe: Recipe, names: Sequence[str]) -> str:
    """The reward whose full score counts as accurate: ``evaluate.reward``, or the first of `names`."""
    name = recipe.evaluate.reward or names[0]
    if name not in names:
        raise RecipeError(
            f"recipe: evaluate.reward names {name}, but the rewards are {', '.join(names)}"
        )
    return name


def lenient_name(reward: str) -> str:
    """The name of a reward's twin by lenient rules."""
    return f"{reward}_lenient"


def with_lenient(specs: Sequence[RewardSpec], accurate: str) -> list[RewardSpec]:
    """`specs`, and the `accurate` reward again by lenient rules, at weight 0, if it is built in and has such rules."""
    spec = next(spec for spec in specs if spec.name == accurate)
    if not _has_lenient_rules(spec) or any(s.name == lenient_name(accurate) for s in specs):
        return list(specs)
    args = {**spec.args, "lenient": True}
    return [*specs, replace(spec, name=lenient_name(accurate), weight=0.0, args=args)]


def _has_lenient_rules(spec: RewardSpec) -> bool:
    if not isinstance(spec.use, str) or spec.use not in rewards.TABLE:
        return False
    return "lenient" in inspect.signature(rewards.load(spec.use)).parameters


def watched_rewards(specs: Sequence[RewardSpec], accurate: str) -> tuple[str, tuple[str, ...]]:
    """(the metric of the most lenient accuracy, the metrics of weighted rewards that can rise without it)."""
    has_lenient = any(spec.name == lenient_name(accurate) for spec in specs)
    true = lenient_name(accurate) if has_lenient else accurate
    formal = [spec.name for spec in specs if spec.weight and spec.name != true]
    return f"rewards/{true}", tuple(f"rewards/{name}" for name in formal)


# ---- checks before anything loads -----------------------------------------------------------------------------


def check_columns(specs: Sequence[RewardSpec], rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a reward that cannot be found, or wants a column that a row it scores lacks or leaves empty."""
    for spec in specs:
        for column in spec.when:
            if not any(column in row or column_value(column, row) is not None for row in rows):
                raise RecipeError(
                    f"recipe: rewards.{spec.name}.when names the column {column}, but the data set has "
                    f"{', '.join(rows[0])}"
                )
        try:
            _check_kinds_of_rows(spec, rows)
        except RecipeError:
            raise
        except ValueError as error:
            raise RecipeError(f"recipe: rewards.{spec.name}: {error}") from None
    check_golds(specs, rows)


def _check_kinds_of_rows(spec: RewardSpec, rows: Sequence[Mapping[str, Any]]) -> None:
    function = rewards.load(spec.use)
    for columns, number in _kinds_of_rows(rows, spec.when).items():
        known = [*columns, *ADDED_COLUMNS]
        missing = rewards.missing_columns(function, known, spec.style, spec.args)
        if missing:
            raise RecipeError(
                f"recipe: rewards.{spec.name} wants the column {' and '.join(missing)}, but row {number} of "
                f"the data set has {', '.join(columns)}; map it with data.columns"
                f"{_example(rows[number - 1], missing[0])} or pass it in rewards.{spec.name}.args"
            )


def _example(row: Mapping[str, Any], column: str) -> str:
    """`` (data.columns.answer=reward_model.ground_truth)`` where a row seems to keep such a column, or nothing."""
    found = likely_column(row, column)
    return f" (data.columns.{column}={found})" if found else ""


def check_golds(specs: Sequence[RewardSpec], rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse data of which so many golds are no answers that the faults would end the run."""
    for spec in specs:
        if spec.use not in READS_ANSWER or "answer" in spec.args:
            continue
        golds = {
            number: row.get("answer")
            for number, row in enumerate(rows, 1)
            if applies(spec.when, row)
        }
        missing = [number for number, gold in golds.items() if is_missing(gold)]
        lists = [number for number, gold in golds.items() if num_answers(gold) > 1]
        limit = GATES["faults"].limits["stop"]
        if len(missing) > limit * len(golds):
            raise RecipeError(
                f"data: empty-gold: {len(missing)} of {many(len(golds), 'row')} that rewards.{spec.name} "
                "scores have no answer "
                f"in the column answer (row {missing[0]}: {golds[missing[0]]!r}), and faults in more than {limit:.0%} "
                "of a step end a run; name another column in data.columns.answer, or leave these rows out of the file"
            )
        if len(lists) > limit * len(golds) and not spec.args.get("several"):
            raise RecipeError(
                f"data: several-golds: {len(lists)} of {many(len(golds), 'row')} {agree(len(lists), 'have')} "
                f"a list of answers (row {lists[0]}: "
                f"{golds[lists[0]]!r}); set rewards.{spec.name}.args.several to any if each of them is right, to all "
                "if all are asked for"
            )


def _kinds_of_rows(
    rows: Sequence[Mapping[str, Any]], when: Mapping[str, Any]
) -> dict[tuple[str, ...], int]:
    """The different sets of columns among the rows that match `when`, each with the first such row's number."""
    kinds: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(rows, 1):
        if applies(when, row):
            kinds.setdefault(tuple(row), number)
    return kinds


def sandbox_options(section: SandboxSection) -> SandboxOptions:
    """The recipe's section, as the rewards take it."""
    return SandboxOptions(**plain(section))


def check_sandbox(specs: Sequence[RewardSpec], section: SandboxSection) -> None:
    """Refuse a recipe whose programs cannot be confined as it asks; where a reward runs programs, this is tried."""
    options = sandbox_options(section)
    programs = [spec for spec in specs if runs_programs(rewards.load(spec.use))]
    if section.engine != "local" and not section.url:
        raise RecipeError(
            f"recipe: sandbox.engine is {section.engine}, but sandbox.url is missing; give its address"
        )
    if section.engine != "local" and section.packages:
        raise RecipeError(
            f"recipe: sandbox.packages is set, but sandbox.engine is {section.engine}, where programs import what is "
            "installed on the server; take sandbox.packages out"
        )
    if programs and section.engine == "local":
        try:
            RewardService(programs[:1], workers=1, sandbox=options).close()
        except IsolationError as error:
            raise RecipeError(
                f"recipe: rewards.{programs[0].name} runs programs, but {error}"
            ) from None


# ---- scoring --------------------------------------------------------------------------------------------------


class NoService:
    """What a scorer without rewards has in place of workers; nothing can be handed to it."""

    isolation: list[str] = []
    num_from_cache = 0
    num_judged = 0
    num_open = 0

    def set_step(self, step: int) -> None:
        """Nobody reads the step."""

    def take_metrics(self) -> dict[str, list[float]]:
        """Nothing was logged."""
        return {}

    def describe(self) -> list[str]:
        return []

    def submit(self, samples: Sequence[Sample]) -> Ticket:
        raise AssertionError("a scorer without rewards is given nothing to score")

    def close(self) -> None:
        """Nothing runs."""


class Scorer:
    """Scores groups through long-lived reward workers; close it, or use it as a context."""

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        base_dir: Path | None = None,
        sandbox: SandboxSection = SandboxSection(),
    ):
        self.specs = specs
        self._num_submitted = 0
        self.service: RewardService | NoService = NoService()
        if specs:
            options = sandbox_options(sandbox)
            self.service = RewardService(specs, base_dir=base_dir, sandbox=options)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers."""
        self.service.close()

    @property
    def isolation(self) -> list[str]:
        """How programs are confined, in lines for the log; empty if no reward runs any."""
        return self.service.isolation

    @property
    def cached(self) -> float:
        """The share of scores so far that were known from an equal completion."""
        return self.service.num_from_cache / max(1, self.service.num_judged)

    def describe(self) -> list[str]:
        """How many scores cost nothing, in a line for the log; none where nothing is scored."""
        if not self.specs:
            return []
        return [f"scoring: {self.cached:.0%} of the scores were known from an equal completion"]

    def set_step(self, step: int) -> None:
        """The step whose completions come next: ``trainer_state.global_step`` of TRL's rewards, 1 in the first."""
        self.service.set_step(step)

    def take_metrics(self) -> dict[str, list[float]]:
        """What rewards logged by ``log_metric`` since the last call, by name."""
        return self.service.take_metrics()

    def submit(self, group: Group) -> Pending:
        """Hand a group over and return at once; `Pending.result` waits for its scores."""
        samples = [
            _sample(group, completion)
            for completion in group.completions
            if completion.finish not in UNSCORED
        ]
        if not self.service.num_open:
            self._num_submitted = 0
        self._num_submitted += len(samples) * len(self.specs)
        return Pending(group, self.service.submit(samples) if samples else None, self)

    def counts(self) -> Counts:
        """How many of the verdicts asked for since none was open are there."""
        total = self._num_submitted
        return Counts(max(0, total - self.service.num_open), total, "verdicts")

    def wait_for(self, ticket: Ticket) -> list[Judged]:
        """The scores of a ticket, waited for under the watchdog's eyes."""
        with watchdog.waiting(
            "judge",
            owner="rewards.service",
            at_least_seconds=self._needed_seconds(),
            progress=lambda: self.service.num_open,
            state=lambda: [*ticket.describe(), *self.service.describe()],
            counts=self.counts,
        ):
            return ticket.result()

    def _needed_seconds(self) -> float:
        """What two tries of the slowest reward, the second with `SECOND_TRY` times the time, take on a busy machine."""
        slowest = max(rewards.timeout_seconds_of(spec) for spec in self.specs)
        return 2 * (1 + SECOND_TRY) * slowest + 2


def _sample(group: Group, completion: Completion) -> Sample:
    added = {"finish": completion.finish, "num_tokens": len(completion.token_ids)}
    return Sample(
        text=completion.text,
        columns={**group.prompt.truth, **added},
        prompt=group.prompt.text,
        token_ids=completion.token_ids,
        group=group.prompt.id,
    )


class Pending:
    """A group whose scores are under way."""

    def __init__(self, group: Group, ticket: Ticket | None, scorer: Scorer):
        self.group = group
        self.ticket = ticket
        self.scorer = scorer

    def result(self) -> ScoredGroup:
        """Wait for the scores of the group."""
        judged = iter(self.scorer.wait_for(self.ticket) if self.ticket is not None else ())
        scores: list[Score] = []
        verdicts: list[Mapping[str, Score]] = []
        for completion in self.group.completions:
            if completion.finish in UNSCORED:
                scores.append(UNSCORED[completion.finish])
                verdicts.append({})
            else:
                verdict = next(judged)
                scores.append(_picklable(verdict.score))
                verdicts.append({name: _picklable(part) for name, part in verdict.parts.items()})
        return ScoredGroup(
            self.group.prompt, self.group.completions, tuple(scores), tuple(verdicts)
        )


def _picklable(score: Score) -> Score:
    """`score` with a plain dict of parts, which can travel between ranks."""
    return replace(score, parts=dict(score.parts))


def worst_fault(groups: Sequence[ScoredGroup], bad_weight: Callable[[], str]) -> str:
    """How many completions could not be scored, the reward with the most faults, and one of its reasons.

    `bad_weight` names a weight that is not finite; it is asked if the policy itself is at fault.
    """
    faulted = [score.status == "fault" for group in groups for score in group.scores]
    details_of: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        for culprit, detail in _faults(group):
            details_of[culprit].append(detail)
    if not details_of:
        return ""
    culprit, details = max(details_of.items(), key=lambda item: len(item[1]))
    weight = bad_weight() if culprit == "the policy" else ""
    advice = f"; the weight {weight} holds values that are not finite" if weight else ""
    return (
        f"{sum(faulted)} of {many(len(faulted), 'completion')} could not be judged, most of them by "
        f"{culprit}: {details[0]}{advice}"
    )


def _faults(group: ScoredGroup) -> list[tuple[str, str]]:
    """(who, why) for each fault in a group's scores."""
    faults = []
    for verdict, score in zip(group.verdicts, group.scores):
        for name, part in verdict.items():
            if part.status == "fault":
                faults.append((f"rewards.{name}", part.detail))
        if not verdict and score.status == "fault":
            faults.append(("the policy", score.detail))
    return faults
