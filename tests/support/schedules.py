"""A run in miniature over a `RolloutBuffer`: a trainer, a sampler and servers that act in any order, die and are resumed.

What trained is written down by the simulation itself, from the weights that each server held, so that the buffer's own
account can be held against it.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from grpo.rollout.buffer import RolloutBuffer, StepAccount, Weights


@dataclass(slots=True)
class Trained:
    """A group as it trained: in which step, and how many steps the weights had behind them that wrote each part."""

    step: int
    name: str
    parts: tuple[int, ...]


@dataclass(slots=True)
class Schedule:
    """One run of ``steps`` steps of ``groups`` groups, in an order that `rng` chooses.

    ``kills`` and ``stops`` are chances at each event; ``carries`` lets a step leave groups to the next, ``refills``
    lets it begin further ones once some have ended.
    """

    rng: random.Random
    bound: int
    steps: int
    groups: int
    carries: bool = False
    refills: bool = False
    kills: float = 0.0
    stops: float = 0.0
    buffer: RolloutBuffer[list[str]] = field(init=False)
    made: int = 0
    version: int = 0
    cursor: int = 0
    trained: list[Trained] = field(default_factory=list)
    parts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    at_servers: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    account: StepAccount | None = None
    num_deaths: int = 0
    saved: str = ""

    def __post_init__(self) -> None:
        self.buffer = self.new_buffer()
        self.save()

    def new_buffer(self) -> RolloutBuffer[list[str]]:
        return RolloutBuffer(self.bound, self.steps, carries=self.carries)

    def run(self) -> list[Trained]:
        """Act until all steps are made."""
        rng = self.rng
        while self.made < self.steps:
            if self.kills and rng.random() < self.kills:
                self.restore()
            elif self.stops and rng.random() < self.stops:
                self.settle()
                self.save()
                self.restore()
            elif rng.random() < 0.5:
                self.train()
            else:
                self.sample()
        return self.trained

    # -- the trainer ----------------------------------------------------------------------------------------

    def train(self) -> None:
        """Publish the weights as they are, and make the next step if its completions are there."""
        buffer = self.buffer
        if buffer.wants_weights(self.made):
            buffer.publish(Weights(self.made, self.version, 0))
        if self.made + 1 not in buffer.complete:
            return
        _, names = buffer.take()
        self.made += 1
        self.trained += [Trained(self.made, name, self.parts[name]) for name in names]
        self.version += self.rng.choice((0, 1, 1, 2))
        if self.rng.random() < 0.3:
            self.settle()
            self.save()

    # -- the sampler ----------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Begin a step, or let something happen at the servers."""
        if self.account is None:
            if self.buffer.next is not None:
                self.begin()
        elif self.at_servers and self.rng.random() < 0.15:
            self.num_deaths += (
                1  # what was written is forgotten, and begins anew elsewhere, in another order
            )
            self.rng.shuffle(self.at_servers)
        elif self.at_servers:
            self.end_one()
        else:
            self.close()

    def begin(self) -> None:
        self.account = self.buffer.open()
        wrote = self.account.weights.step
        for name in self.left:
            self.parts[name] = (*self.parts[name], wrote)
        self.at_servers = list(self.left)
        self.left = []
        self.ended: list[str] = []
        self.draw(self.groups + self.carries * self.rng.randint(0, 2))

    def draw(self, number: int) -> None:
        """The next prompts of the stream begin; the newest weights of the servers write them."""
        assert self.account is not None
        names = [f"p{self.cursor + i}" for i in range(number)]
        self.cursor += number
        self.account.begin(names)
        self.parts |= dict.fromkeys(names, (self.account.weights.step,))
        self.at_servers += names

    def end_one(self) -> None:
        """Whichever comes first; once there are enough, a step that may do so leaves the others."""
        assert self.account is not None
        name = self.at_servers.pop(self.rng.randrange(len(self.at_servers)))
        self.account.end(name, min(self.parts[name]))
        self.ended.append(name)
        if self.refills and self.rng.random() < 0.1:
            self.draw(1)
        owed = self.account.carried.intersection(self.at_servers)
        if self.carries and len(self.ended) >= self.groups and not owed:
            for other in self.at_servers:
                self.account.leave(other, min(self.parts[other]))
            self.left = self.at_servers
            self.at_servers = []

    def close(self) -> None:
        self.buffer.close(sorted(self.ended))
        self.account = None

    # -- stopping -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let the sampler do all that it may."""
        while not self.buffer.is_settled:
            self.sample()

    def save(self) -> None:
        """What a checkpoint holds of all this."""
        values = {
            "buffer": self.buffer.state(),
            "complete": self.buffer.complete,
            "run": [self.made, self.version, self.cursor, self.left],
            "parts": self.parts,
            "trained": [[one.step, one.name, one.parts] for one in self.trained],
        }
        self.saved = json.dumps(values)

    def restore(self) -> None:
        """Another process goes on from what was saved."""
        values: dict[str, Any] = json.loads(self.saved)
        self.buffer = self.new_buffer()
        complete = {int(step): names for step, names in values["complete"].items()}
        self.buffer.restore(values["buffer"], complete)
        self.made, self.version, self.cursor, self.left = values["run"]
        self.parts = {name: tuple(parts) for name, parts in values["parts"].items()}
        self.trained = [Trained(step, name, tuple(of)) for step, name, of in values["trained"]]
        self.at_servers = []
        self.account = None
