"""Rewards on gold answers: completions with the right answer, a wrong one and none, scored by the run's own scorer.

A reward that cannot tell them apart would teach nothing, or the wrong thing. No model is involved.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any, Iterator, Mapping, Sequence, TypeVar

from grpo.preflight.facts import MAX_FAULTS, WARNING, WRONG, Finding, RunFacts, note, warning, wrong
from grpo.run.setup import open_scorer
from grpo.scoring import Scorer
from rewards import RewardSpec, Sample, Score
from rewards.check import TEMPLATE, wrong_answer
from rewards.gold import gold_items, stated_gold
from rewards.mathematics.bare_values import bare_value
from rewards.mathematics.extraction import bare_answer
from rewards.reasoning import continuing
from rewards.service.service import Judged
from rewards.spelling import agree, many
from rewards.table import load

MAX_ROWS = 64
ROWS_TO_CHOOSE_FORM = 8
KINDS = ("gold", "wrong", "empty", "without unit")
FORMS = (
    TEMPLATE,
    "<think>\nso\n</think>\n\\boxed{{gold}}",
    "{gold}",
    "#### {gold}",
    "The answer is {gold}",
)
"""Ways to write a completion around an answer."""
NOT_JUDGED = "not_applicable"
CODE_FORM = "```python\n{gold}\n```"

Row = Mapping[str, Any]
Pair = tuple[str, Row]
"""A completion's text, and the row whose prompt it answers."""
Value = TypeVar("Value")


def check_gold(facts: RunFacts) -> Iterator[Finding | str]:
    """Lines on the scores of gold, wrong and empty completions, and findings on the rewards that gave them."""
    yield from _unchecked(facts)
    of_turns = [spec.name for spec in facts.specs if _reads_turns(spec)]
    if of_turns:
        yield note(
            "turns-not-checked",
            f"{many(len(of_turns), 'reward')} ({', '.join(of_turns)}) {agree(len(of_turns), 'read')} the turns of a "
            "completion, which a gold answer has none of, and so was not tried on any",
        )
    if facts.accurate in of_turns:
        return
    facts = replace(facts, specs=[spec for spec in facts.specs if spec.name not in of_turns])
    with open_scorer(facts.recipe, facts.specs) as scorer:
        scores = score_gold(facts, scorer)
    yield from scores.lines(facts)
    yield from scores.findings(facts)


def _reads_turns(spec: RewardSpec) -> bool:
    """Whether a reward judges what was answered, not the text alone."""
    return "turns" in inspect.signature(load(spec.use)).parameters


def _unchecked(facts: RunFacts) -> Iterator[Finding]:
    """Rows without a gold, which are tried on empty completions alone."""
    golds = facts.golds()
    num_without = sum(gold is None for gold in golds)
    if facts.gold is None:
        yield note(
            "gold-not-checked",
            "no column holds a gold answer by a usual name (answer, solution, ground_truth, "
            "label), so rewards were tried on empty completions alone",
        )
    elif num_without and not facts.needs_gold:
        yield note(
            "gold-not-checked",
            f"{num_without} of {many(len(golds), 'row')} {agree(num_without, 'have')} no gold in the column "
            f"{facts.gold}; their task is judged by rule "
            "alone, and was tried on empty completions only",
        )


@dataclass(frozen=True, slots=True)
class GoldScores:
    """Scores by kind of completion (gold, wrong, empty, gold without its unit), in the order of the rows.

    ``whole`` are the scores of gold completions that repeat a worked solution as a whole, where the column has such.
    """

    by_kind: Mapping[str, list[Judged]]
    whole: list[Judged]

    def of(self, reward: str, kind: str) -> list[Score]:
        """The scores that one reward gave to the completions of a kind, where it applies."""
        return _applicable(self.by_kind.get(kind, ()), reward)

    def all_of(self, reward: str) -> list[Score]:
        """The scores that one reward gave to the completions of all kinds."""
        scores: list[Score] = []
        for kind in KINDS:
            scores += self.of(reward, kind)
        return scores

    def lines(self, facts: RunFacts) -> Iterator[str]:
        """For each reward, how many completions of each kind have its full score; its means where none has."""
        for spec in facts.specs:
            counts = []
            means = []
            for kind in KINDS:
                scores = self.of(spec.name, kind)
                if scores:
                    counts.append(f"{kind} {_num_full(scores)}/{len(scores)}")
                    means.append(f"{kind} {_mean(scores):.3g}")
            if counts:
                line = f"rewards  {spec.name}: full score for {', '.join(counts)}"
                is_dense = self._prefers_gold(spec.name) and not _num_full(
                    self.of(spec.name, "gold")
                )
                yield f"{line}; on average {', '.join(means)}" if is_dense else line

    def findings(self, facts: RunFacts) -> Iterator[Finding]:
        """What the scores say about the rewards."""
        for spec in facts.specs:
            if (
                spec.use != "code_tests" or spec.name == facts.accurate
            ):  # else no completion was a program
                yield from self._constant(spec.name, facts)
        yield from self._faults(facts)
        yield from self._gold_without_full_score(facts)
        yield from self._unit_demanded(facts)
        yield from self._paid_for_nothing(facts.accurate)

    def _constant(self, reward: str, facts: RunFacts) -> Iterator[Finding]:
        values = {score.value for score in self.all_of(reward) if score.status != "fault"}
        weighted = [spec.name for spec in facts.specs if spec.weight]
        if len(values) == 1 and self.by_kind.get("gold"):
            yield Finding(
                WRONG if weighted == [reward] else WARNING,
                "constant-reward",
                f"rewards.{reward} gives {values.pop()} to right, wrong and empty "
                "completions alike: every group would have zero variance and nothing be learnt",
            )

    def _faults(self, facts: RunFacts) -> Iterator[Finding]:
        for spec in facts.specs:
            scores = self.all_of(spec.name)
            faults = [score for score in scores if score.status == "fault"]
            slow = [score for score in scores if score.status == "timeout"]
            if faults:
                stops_the_run = spec.weight and len(faults) > MAX_FAULTS * len(scores)
                yield Finding(
                    WRONG if stops_the_run else WARNING,
                    "faults",
                    f"rewards.{spec.name} could not judge {len(faults)} of "
                    f"{many(len(scores), 'completion')} (above {MAX_FAULTS:.0%} of a step ends a run): "
                    f"{faults[0].detail[:200]}",
                )
            if slow:
                yield warning(
                    "slow-judge",
                    f"rewards.{spec.name} ran out of its time on {len(slow)} of "
                    f"{many(len(scores), 'completion')}: {slow[0].detail[:160]}",
                )

    def _gold_without_full_score(self, facts: RunFacts) -> Iterator[Finding]:
        name = facts.accurate
        gold = self.of(name, "gold")
        failed = [score for score in gold if not _is_full(score)]
        whole = _applicable(self.whole, name)
        most_failed = len(failed) > 0.5 * len(gold)
        count = f"rewards.{name} gives {len(failed)} of {len(gold)} gold answers less than its full score"
        if most_failed and whole and _num_full(whole) > 0.5 * len(whole):
            yield wrong(
                "solution-not-extracted",
                f"the column {facts.gold} holds worked solutions, and rewards.{name} "
                "compares with the whole of them: it scores a completion that repeats the solution and not one "
                "that gives the answer; use math_answer, or a column with bare answers",
            )
        elif most_failed and self._prefers_gold(name):
            best = max(_values(gold))
            if best < facts.recipe.evaluate.threshold:
                yield warning(
                    "gold-below-full-score",
                    f"{count}, but more than wrong and empty ones: a dense reward, whose best for gold is "
                    f"{best:.3g}; it can be learnt, but no completion like these counts as accurate; set "
                    "evaluate.threshold to what counts as right, or watch the mean reward",
                )
        elif most_failed:
            yield wrong(
                "gold-scores-zero",
                f"{count}; the column {facts.gold} may be the wrong one. It says: {_reason(failed)}",
            )
        elif failed:
            yield warning("some-gold-scores-zero", f"{count}, e.g.: {_reason(failed)}")

    def _prefers_gold(self, reward: str) -> bool:
        """Whether gold answers mostly have more than the wrong and the empty completions of their rows."""
        gold = self.of(reward, "gold")
        wrong_ones = self.of(reward, "wrong")
        empty = self.of(reward, "empty")
        if not gold or not len(gold) == len(wrong_ones) == len(empty):
            return False
        bars = map(max, _values(wrong_ones), _values(empty))
        better = [value for value, bar in zip(_values(gold), bars) if value > bar]
        return len(better) > 0.5 * len(gold)

    def _unit_demanded(self, facts: RunFacts) -> Iterator[Finding]:
        """Gold answers with a unit, whose number alone has less than the full score though they have it."""
        scores = self.of(facts.accurate, "without unit")
        failed = [score for score in scores if not _is_full(score)]
        if failed and _num_full(self.of(facts.accurate, "gold")):
            yield warning(
                "unit-demanded",
                f"rewards.{facts.accurate} gives {len(failed)} of {many(len(scores), 'answer')} less than "
                "its full score when "
                f"they leave out the unit of the gold one in {facts.gold}: {_reason(failed)}",
            )

    def _paid_for_nothing(self, reward: str) -> Iterator[Finding]:
        """Wrong answers with the full score, and empty completions with any."""
        scores = self.of(reward, "wrong")
        if _num_full(scores) > 0.1 * len(scores):
            yield wrong(
                "wrong-answers-paid",
                f"rewards.{reward} gives its full score to {_num_full(scores)} of "
                f"{len(scores)} wrong answers (the gold one with a digit changed)",
            )
        if any((score.value or 0) > 0 for score in self.of(reward, "empty")):
            yield warning(
                "empty-is-paid", f"rewards.{reward} gives more than 0 to an empty completion"
            )


def _applicable(judged: Sequence[Judged], reward: str) -> list[Score]:
    scores = [one.parts[reward] for one in judged]
    return [score for score in scores if score.status != NOT_JUDGED]


def _reason(failed: Sequence[Score]) -> str:
    reasons = (score.detail or score.status for score in failed)
    return next(filter(None, reasons), "")[:160]


def _is_full(score: Score) -> bool:
    return score.value is not None and score.value >= 1


def _mean(scores: Sequence[Score]) -> float:
    """The mean of `scores`, a fault as 0."""
    return sum(_values(scores)) / len(scores)


def _values(scores: Sequence[Score]) -> list[float]:
    """What `scores` are worth, a fault 0."""
    return [score.value or 0.0 for score in scores]


def _num_full(scores: Sequence[Score]) -> int:
    return sum(map(_is_full, scores))


# ---- the completions, and their scores ------------------------------------------------------------------------


def score_gold(facts: RunFacts, scorer: Scorer) -> GoldScores:
    """Score completions for some rows: empty ones, and gold and wrong ones for those rows that have a gold answer."""
    rows = spread(facts.rows, MAX_ROWS)
    golds = spread(facts.golds(), MAX_ROWS) or [None] * len(rows)
    spec = facts.accurate_spec
    several = spec.args.get("several") if spec else None
    solutions = []
    for gold, row in zip(golds, rows):
        if gold is not None:
            solutions.append((stated_gold(gold, several), row))
    answers = [(_bare(gold, facts), row) for gold, row in solutions]
    pairs = {"empty": [("", row) for row in rows]}
    whole: list[Judged] = []
    if answers:
        form = _best_form(scorer, facts, answers[:ROWS_TO_CHOOSE_FORM])
        pairs["gold"] = _written(form, answers)
        pairs["wrong"] = _written(form, _wrong_answers(answers, facts))
        numbers = [(bare_value(answer), row) for answer, row in answers if not _runs_code(facts)]
        bare = [(number, row) for number, row in numbers if number is not None]
        if bare:
            pairs["without unit"] = _written(form, bare)
        if answers != solutions:
            whole = _score(scorer, facts, _written(form, solutions))
    by_kind = {kind: _score(scorer, facts, texts) for kind, texts in pairs.items()}
    return GoldScores(by_kind, whole)


def _wrong_answers(answers: Sequence[Pair], facts: RunFacts) -> list[Pair]:
    """For each row an answer that is wrong, also where the row has several right ones."""
    pairs = []
    for answer, row in answers:
        right = gold_items(row.get(facts.gold)) if facts.gold else []
        pairs.append((wrong_answer(answer, right), row))
    return pairs


def spread(values: Sequence[Value], number: int) -> list[Value]:
    """At most `number` of `values`, evenly spread."""
    step = max(1.0, len(values) / number)
    return [values[int(i * step)] for i in range(min(number, len(values)))]


def _bare(gold: str, facts: RunFacts) -> str:
    """The answer alone, where the column holds a whole solution that ends in one."""
    if _runs_code(facts):
        return gold
    return bare_answer(gold, lenient=True).text or gold


def _runs_code(facts: RunFacts) -> bool:
    return any(spec.name == facts.accurate and spec.use == "code_tests" for spec in facts.specs)


def _best_form(scorer: Scorer, facts: RunFacts, answers: Sequence[Pair]) -> str:
    """The way to write an answer that the accurate reward understands best, tried on some rows."""
    forms = (CODE_FORM,) if _runs_code(facts) else FORMS
    merit: dict[str, tuple[int, float]] = {}
    for form in forms:
        judged = _score(scorer, facts, _written(form, answers))
        scores = [one.parts[facts.accurate] for one in judged]
        merit[form] = (_num_full(scores), _mean(scores))
    return max(forms, key=lambda form: merit[form])


def _written(form: str, answers: Sequence[Pair]) -> list[Pair]:
    return [(form.replace("{gold}", answer), row) for answer, row in answers]


def _score(scorer: Scorer, facts: RunFacts, pairs: Sequence[Pair]) -> list[Judged]:
    samples = [_sample(text, row, facts, group=str(i)) for i, (text, row) in enumerate(pairs)]
    return scorer.service.judge(samples)


def _sample(text: str, row: Row, facts: RunFacts, group: str) -> Sample:
    """A completion as the run would hand it over: behind the rendered prompt, and on from what that has opened."""
    shown, _ = facts.template_of(row).render(row["prompt"], facts.loaded_tokenizer())
    return Sample(
        text=continuing(text, shown),
        columns={**row, "finish": "stop", "num_tokens": max(1, len(text.split()))},
        prompt=shown,
        token_ids=(0,),
        group=group,
    )
