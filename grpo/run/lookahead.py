"""Sampling ahead of the trainer: a thread that samples the next steps at servers while the trainer updates.

Which step may begin, by which weights, is decided by ``grpo.rollout.buffer``; what a step samples and scores is given
as a function. The thread never touches the model: weights are written and copied by the trainer's thread between two
steps, and what a probe finds is judged there, before anything of it trains.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Any, Callable, Generic, Iterator, Mapping, TypeVar

from grpo.monitor import watchdog
from grpo.rollout.buffer import RolloutBuffer, StepAccount, Weights
from grpo.run.servers import ServedPolicy
from rewards.spelling import many

Item = TypeVar("Item")
Collect = Callable[[StepAccount], Item]
"""Samples and scores a step; whatever it reads of the run is left alone by others until the buffer is settled."""
JOIN_SECONDS = 20.0
"""How long a thread that was told to stop is waited for; a server that loads weights may take longer."""


class Lookahead(Generic[Item]):
    """Steps of a run, sampled at servers by a thread of its own at most ``buffer.bound`` steps ahead.

    `take` gives them to the trainer one by one. `settle` waits until nothing is sampled any more, so that others may
    use the servers, and a checkpoint holds everything. The servers hold the policy's own weights between.
    """

    def __init__(self, buffer: RolloutBuffer[Item], served: ServedPolicy):
        self.buffer = buffer
        self.served = served
        self.is_closing = False
        self._collect: Collect[Item] | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._num_done = 0

    # -- the trainer's thread -------------------------------------------------------------------------------

    def take(self, step: int, collect: Collect[Item]) -> tuple[Weights, Item]:
        """The weights and the completions of `step`, after ``step - 1`` steps were made; `collect` samples others.

        Raises what sampling raised, and `grpo.monitor.gates.GateStop` for servers that held other weights.
        """
        self._collect = collect
        self._publish(step - 1)
        self._start()
        with self._waiting(f"the completions of step {step}"):
            self._wait_until(lambda: step in self.buffer.complete)
        with self._changed:
            weights, item = self.buffer.take()
            staying = {weights, *self.buffer.weights_of.values()}
        self.served.judge(weights.step)
        self.served.release(staying)
        return weights, item

    def settle(self) -> None:
        """Wait until all steps that may begin are sampled, and judge the servers' weights of all of them."""
        if self._thread is None or self.is_closing:
            return
        with self._waiting("completions that are sampled ahead"):
            self._wait_until(lambda: self.buffer.is_settled)
        self.served.judge(self.buffer.last)
        self.served.unpin()

    def stop(self) -> None:
        """Give up what is under way; nothing further is begun."""
        with self._changed:
            self.is_closing = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the end of a thread that was stopped."""
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)

    def _publish(self, step: int) -> None:
        """Let the policy's weights as they are sample what they may."""
        if not self.buffer.wants_weights(step):
            return
        weights = self.served.publish(step)
        with self._changed:
            self.buffer.publish(weights)
            self._changed.notify_all()

    def _start(self) -> None:
        if self._thread is None:
            name = "sampling ahead"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or is_so())
            if self._failure is not None:
                raise self._failure

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        """A wait that progresses as the thread's own waits do, which have their deadlines."""
        thread = self._thread
        number = None if thread is None else thread.ident
        with watchdog.waiting(
            "engine",
            owner=f"grpo.run.lookahead, {what}",
            progress=lambda: (self._num_done, watchdog.signatures_of(number)),
            state=self.describe,
        ):
            yield

    def describe(self) -> list[str]:
        """How far sampling is ahead, for a watchdog's report."""
        complete = len(self.buffer.complete)
        return [f"{many(complete, 'step')} sampled ahead of step {self.buffer.taken + 1}"]

    # -- the thread that samples ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._next():
                self._sample()
        except BaseException as error:  # noqa: BLE001  raised again where the trainer waits
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _next(self) -> bool:
        """Wait until a step may begin; False once this is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_closing or self.buffer.next is not None)
            return not self.is_closing

    def _sample(self) -> None:
        with self._changed:
            account = self.buffer.open()
        self.served.pin(account.weights)
        assert self._collect is not None, "the trainer asked for a step"
        item = self._collect(account)
        with self._changed:
            if self.is_closing:
                self.buffer.give_up()
                return
            self.buffer.close(item)
            self._num_done += 1
            self._changed.notify_all()

    # -- over a stop ----------------------------------------------------------------------------------------

    def state(self, to_mapping: Callable[[Item], Any]) -> dict[str, Any]:
        """Plain values; call `settle` before."""
        items = {str(step): to_mapping(item) for step, item in self.buffer.complete.items()}
        return {"buffer": self.buffer.state(), "complete": items}

    def restore(self, state: Mapping[str, Any], from_mapping: Callable[[Any], Item]) -> None:
        """Continue from a `state`."""
        items = {int(step): from_mapping(item) for step, item in state["complete"].items()}
        self.buffer.restore(state["buffer"], items)
