"""The table of words of reflection, a text statistic: how often each stands in completions at first and at last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from grpo.report.html.curves import shown_set
from grpo.report.html.run_data import RunData
from grpo.report.tally import Sums
from grpo.report.words import WORDS


@dataclass(frozen=True, slots=True)
class WordLine:
    """One word (or all of them): how often it stands in a thousand tokens, first and last."""

    word: str
    first: float
    last: float

    @property
    def factor(self) -> float | None:
        """Last over first; None where the word did not stand there at first."""
        return self.last / self.first if self.first else None


@dataclass(frozen=True, slots=True)
class Reflection:
    """The words of one run between two points that the same kind of completions come from.

    ``of`` names those completions; the shares are those of completions with one or more of the words, and the
    accuracies those with and without them at the last point (None where nothing was judged).
    """

    of: str
    first_step: int
    last_step: int
    lines: Sequence[WordLine]
    first_share: float
    last_share: float
    accuracy_with: float | None
    accuracy_without: float | None


def reflection_of(run: RunData) -> Reflection | None:
    """The table of a run: of its first evaluated set, else of training; None unless there are two points to compare."""
    sums_of, of = _sums_of(run)
    steps = sorted(step for step, sums in sums_of.items() if sums.tokens)
    if len(steps) < 2:
        return None
    first = sums_of[steps[0]]
    last = sums_of[steps[-1]]
    used = [word for word in WORDS if first.words[word] or last.words[word]]
    lines = [WordLine("all words", first.rate() or 0.0, last.rate() or 0.0)]
    lines += [WordLine(word, first.rate(word) or 0.0, last.rate(word) or 0.0) for word in used]
    return Reflection(
        of=of,
        first_step=steps[0],
        last_step=steps[-1],
        lines=lines,
        first_share=first.reflecting / first.completions,
        last_share=last.reflecting / last.completions,
        accuracy_with=_ratio(last.reflecting_right, last.reflecting_judged),
        accuracy_without=_ratio(
            last.right - last.reflecting_right, last.right + last.wrong - last.reflecting_judged
        ),
    )


def _sums_of(run: RunData) -> tuple[dict[int, Sums], str]:
    """(the sums by step, of which completions) of what is evaluated again and again, else of training."""
    for name in dict.fromkeys(name for name, _ in run.tally.sets):
        sums = run.tally.of_set(name)
        if len(sums) > 1:
            return sums, f"{shown_set(name)} completions"
    return dict(run.tally.steps), "training completions"


def _ratio(number: int, of: int) -> float | None:
    return number / of if of else None
