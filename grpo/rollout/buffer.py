"""What is sampled ahead of the trainer: which steps may begin and by which weights, and what has become of each.

Pure bookkeeping: no threads, no servers, no tensors. A step is begun, its groups end in any order, it is closed once
all are there, and the trainer takes it. Every rule of bounded staleness is kept here and nowhere else: nothing is begun
that would be too old when it trains, and nothing is lost, taken twice or taken too old.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Generic, Iterable, Mapping, Sequence, TypeVar

from rewards.spelling import many

Item = TypeVar("Item")


class AccountError(AssertionError):
    """Something was lost, doubled, or is too old: a bug of this library, never of a recipe."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that steps are sampled with: those after ``step`` steps, and how servers and policy call them."""

    step: int
    version: int
    fingerprint: int
    name: str = ""

    @property
    def identity(self) -> tuple[int, int]:
        """What an engine says it sampled with."""
        return self.version, self.fingerprint

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True, eq=False)
class StepAccount:
    """The groups of one step while they are sampled; an id is that of a prompt.

    ``weights`` write what the step begins. ``carried`` groups were begun by the step before, and must end in this one.
    ``oldest`` of a group is the number of steps that its oldest weights had behind them.
    """

    step: int
    weights: Weights
    bound: int
    carried: frozenset[str] = frozenset()
    under_way: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.under_way |= self.carried

    def begin(self, ids: Iterable[str]) -> None:
        """Sampling of groups begins; a step may begin further ones later."""
        for name in ids:
            if name in self.under_way or name in self.ended:
                raise AccountError(f"step {self.step} begins {name} twice")
            self.under_way.add(name)

    def end(self, name: str, oldest: int) -> None:
        """A group is sampled to its end, and will train in this step."""
        self._close(name)
        self._check_age(name, self.step - 1 - oldest)
        self.ended.add(name)

    def leave(self, name: str, oldest: int) -> None:
        """A group is unfinished when the step has enough; the next step goes on with it and trains it."""
        self._close(name)
        if name in self.carried:
            raise AccountError(f"step {self.step} leaves {name}, which an earlier step left to it")
        self._check_age(name, self.step - oldest)
        self.left.add(name)

    def _close(self, name: str) -> None:
        if name not in self.under_way:
            how = "twice" if name in self.ended or name in self.left else "without having begun it"
            raise AccountError(f"step {self.step} ends {name} {how}")
        self.under_way.remove(name)

    def _check_age(self, name: str, age: int) -> None:
        if age > self.bound:
            raise AccountError(
                f"{name} would be {many(age, 'step')} old when it trains, and the bound is {self.bound}"
            )


class RolloutBuffer(Generic[Item]):
    """Steps sampled and not yet trained, at most ``bound`` of them beside the one that the trainer is at.

    ``last`` is the run's last step, ``taken`` the last that the trainer took, ``complete`` what is sampled, by step.
    With ``carries`` steps may leave groups to the next, whose oldest tokens are then one step older; so each step is
    begun one step later.
    """

    def __init__(self, bound: int, last: int, *, carries: bool = False):
        if carries and bound < 2:
            raise ValueError(f"a bound of {bound} leaves no step for groups that are carried over")
        self.bound = bound
        self.last = last
        self.ahead = bound - 1 if carries else bound
        self.taken = 0
        self.complete: dict[int, Item] = {}
        self.weights_of: dict[int, Weights] = {}
        self.account: StepAccount | None = None
        self._closed = 0
        self._left: frozenset[str] = frozenset()
        self._step_of: dict[int, int] = {}

    # -- what may begin -------------------------------------------------------------------------------------

    def wants_weights(self, step: int) -> bool:
        """Whether weights after `step` steps would sample any step."""
        return self._assigned < self._furthest(step)

    def publish(self, weights: Weights) -> list[int]:
        """Let the trainer's newest weights sample every step that they may and that no older ones do; those steps."""
        if weights.step < self.taken:
            raise AccountError(f"weights of step {weights.step} come after step {self.taken} began")
        steps = list(range(self._assigned + 1, self._furthest(weights.step) + 1))
        self.weights_of |= dict.fromkeys(steps, weights)
        if steps:
            self._step_of[weights.version] = weights.step
        return steps

    @property
    def _assigned(self) -> int:
        return max(self.weights_of, default=self._closed)

    def _furthest(self, step: int) -> int:
        """The last step that weights after `step` steps may sample: trained at once it would have the age ``ahead``."""
        return min(self.last, step + 1 + self.ahead)

    @property
    def next(self) -> int | None:
        """The step to be begun; None while one is sampled, or none may be begun."""
        step = self._closed + 1
        return step if self.account is None and step in self.weights_of else None

    # -- sampling -------------------------------------------------------------------------------------------

    def open(self) -> StepAccount:
        """Begin the next step."""
        step = self.next
        if step is None:
            raise AccountError("no step may be begun")
        self.account = StepAccount(step, self.weights_of[step], self.bound, self._left)
        return self.account

    def step_of(self, version: int) -> int:
        """How many steps weights of this version have behind them."""
        if version not in self._step_of:
            raise AccountError(f"no weights of version {version} were published")
        return self._step_of[version]

    def close(self, item: Item) -> None:
        """The step under way is sampled, and `item` is what the trainer will take."""
        account = self.account
        if account is None:
            raise AccountError("no step is under way")
        if account.under_way:
            lost = ", ".join(sorted(account.under_way))
            raise AccountError(f"step {account.step} ends without {lost}")
        self.complete[account.step] = item
        self._closed = account.step
        self._left = frozenset(account.left)
        self.account = None

    def give_up(self) -> None:
        """Forget the step under way, which begins again as if it had not."""
        self.account = None

    # -- training -------------------------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether everything that may be begun is complete."""
        return self.account is None and self.next is None

    def take(self) -> tuple[Weights, Item]:
        """The next step's weights and what they sampled, once it is complete."""
        step = self.taken + 1
        if step not in self.complete:
            raise AccountError(f"step {step} is not complete")
        weights = self.weights_of[step]
        age = step - 1 - weights.step
        if age > self.bound:
            raise AccountError(f"step {step} is {many(age, 'step')} old; the bound is {self.bound}")
        self.taken = step
        self._forget()
        return weights, self.complete.pop(step)

    def _forget(self) -> None:
        """Drop what no later step can refer to."""
        self.weights_of = {
            step: weights for step, weights in self.weights_of.items() if step > self.taken
        }
        oldest = self.taken - 1 - self.bound
        self._step_of = {version: at for version, at in self._step_of.items() if at >= oldest}

    # -- over a stop ----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Plain values but for the items of ``complete``; what is under way begins anew."""
        return {
            "taken": self.taken,
            "closed": self._closed,
            "left": sorted(self._left),
            "weights": {str(step): one.to_mapping() for step, one in self.weights_of.items()},
            "versions": [list(pair) for pair in self._step_of.items()],
        }

    def restore(self, state: Mapping[str, Any], complete: Mapping[int, Item]) -> None:
        """Continue from a `state` with what was complete then.

        Steps that had weights and were not complete are given newer ones: a stop leaves none where it first waits
        until the buffer is settled.
        """
        self.taken = state["taken"]
        self.complete = dict(complete)
        self.account = None
        self._closed = state["closed"]
        self._left = frozenset(state["left"])
        self._step_of = {version: step for version, step in state["versions"]}
        self.weights_of = {
            int(step): Weights(**one)
            for step, one in state["weights"].items()
            if int(step) <= self._closed
        }

    def reset(self, taken: int = 0) -> None:
        """The beginning of a run, or of what follows `taken` steps that were not sampled ahead."""
        self.restore(
            {"taken": taken, "closed": taken, "left": [], "weights": {}, "versions": []}, {}
        )


def ages(
    spans: Sequence[tuple[int, int, int]], step: int, step_of: Callable[[int], int]
) -> list[int]:
    """How many steps old each token is that trains in `step`, from the spans of its completion's versions."""
    found: list[int] = []
    for version, first, end in spans:
        found += [step - 1 - step_of(version)] * (end - first)
    return found
