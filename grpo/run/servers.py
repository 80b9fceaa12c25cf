"""The servers of a recipe as a decoder: found, asked what they are, probed after each push of weights.

What is refused here costs nothing yet: no weights were sent and nothing was sampled. Weights that are sampled ahead of
the trainer (``lookahead``) are written and copied when they are the policy's own, and judged by the copy.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Collection, Mapping, Sequence

from torch import Tensor

from grpo.distributed.process_group import Ranks
from grpo.kernels.sampling.spec import Sampling
from grpo.learner.drift import LIMIT
from grpo.learner.parity import Verdict
from grpo.learner.probe import Asked, Probe
from grpo.model.loading import load_model
from grpo.model.policy import Policy
from grpo.monitor.gates import Gates
from grpo.recipe import ModelSection, Recipe, RecipeError
from grpo.rollout.buffer import Weights
from grpo.rollout.memory import EngineStats
from grpo.rollout.servers.decoder import ServerDecoder
from grpo.rollout.servers.fleet import Fleet, Member
from grpo.rollout.servers.kinds import server_at
from grpo.rollout.servers.server import Server, Wanted
from grpo.types import Prompt


def open_servers(
    recipe: Recipe,
    policy: Policy,
    *,
    longest_prompt: int = 0,
    gates: Gates | None = None,
    ranks: Ranks = Ranks(),
) -> ServedPolicy:
    """The policy at the recipe's servers, those of this rank.

    `longest_prompt` is in tokens, `gates` are those of a run; without them weights travel through a folder that ends
    with the process, unless the recipe names one. Raises `RecipeError` for servers that do not answer or cannot sample
    the policy.
    """
    sample = recipe.sample
    longest = longest_prompt + sample.max_tokens
    fleet = Fleet(
        members=[
            Member(server_at(sample.engine, url, sample.server_load))
            for url in _addresses(recipe, ranks)
        ],
        policy=policy,
        folder=_folder(recipe, ranks, is_run=gates is not None),
        wanted=Wanted.by(policy, _within(policy, longest)),
    )
    problems = fleet.check()
    if problems:
        raise RecipeError(f"sample.servers: {'; '.join(problems)}")
    if policy.routing is not None:
        policy.routing.is_replayed = False  # servers do not say which experts they chose
    return ServedPolicy(recipe, policy, fleet, gates or _own_gates(recipe, policy))


def _addresses(recipe: Recipe, ranks: Ranks) -> Sequence[str]:
    """The servers of this rank: no two ranks share one."""
    servers = recipe.sample.servers
    if len(servers) < ranks.world:
        raise RecipeError(
            f"sample.servers names {len(servers)}, but {ranks.world} processes train; each needs a server of its own"
        )
    return servers[ranks.rank :: ranks.world]


def _folder(recipe: Recipe, ranks: Ranks, is_run: bool) -> Path:
    """Where this rank's weights lie; the run's own folder is made by the first push."""
    chosen = recipe.sample.server_folder
    if chosen is not None:
        folder = Path(chosen).expanduser().absolute()
        _make(folder)
    elif is_run:
        folder = recipe.folder() / "servers"
    else:
        folder = Path(tempfile.mkdtemp(prefix="grpo-servers-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / f"rank-{ranks.rank}" if ranks.world > 1 else folder


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(
            f"sample.server_folder: {folder} cannot be written: {error.strerror}"
        ) from None


def _within(policy: Policy, num_tokens: int) -> int:
    """The longest sequence that is sampled: none is longer than the model's context."""
    return num_tokens if policy.context is None else min(num_tokens, policy.context)


def _own_gates(recipe: Recipe, policy: Policy) -> Gates:
    """Gates for commands that have no run: they stop, and report nothing."""
    return Gates(
        recipe.gates,
        dtype=str(policy.base.dtype).removeprefix("torch."),
        device=policy.device.type,
    )


class ServedPolicy:
    """The policy at servers: what opens a decoder, which weights it samples from, and what probes found of them.

    Servers are given the policy's weights as it is, and probed at once, after every k-th push; the gates judge what is
    found. Between `pin` and `unpin` they are given weights that `publish` wrote, in another thread than the policy's if
    need be; what a probe finds then waits for `judge`.
    """

    def __init__(self, recipe: Recipe, policy: Policy, fleet: Fleet, gates: Gates):
        self.sample = recipe.sample
        self.policy = policy
        self.fleet = fleet
        self.gates = gates
        self.num_pushes = 0
        self.probe = Probe(
            policy,
            limit=gates.limits("server_parity").get("stop", LIMIT),
            first_head=lambda: first_head(recipe.model),
        )
        self._pinned: Weights | None = None
        self._unjudged: list[tuple[Weights, Asked]] = []
        self._copies: dict[str, Mapping[str, Tensor]] = {}

    def open_decoder(self, stats: EngineStats) -> ServerDecoder:
        """The decoder of one call of the engine."""
        return ServerDecoder(
            self.fleet,
            stats,
            max_rows=self.sample.max_rows,
            silence_seconds=self.sample.server_silence,
            after_push=self.after_push,
        )

    # -- weights that are sampled ahead -----------------------------------------------------------------------

    def publish(self, step: int) -> Weights:
        """Write the policy's weights as they are after `step` steps, to be pinned later; `release` ends that."""
        name = self.fleet.publish()
        if self.sample.probe_every and name not in self._copies:
            trainable = self.policy.trainable()
            self._copies[name] = {
                of: p.detach().to("cpu", copy=True) for of, p in trainable.items()
            }
        return Weights(step, self.policy.version, self.policy.fingerprint(), name)

    def pin(self, weights: Weights) -> None:
        """Sample from published weights from here on."""
        self._pinned = weights
        self.fleet.pinned = weights.name

    def unpin(self) -> None:
        """Sample from the policy's weights as they are."""
        self._pinned = None
        self.fleet.pinned = ""

    def release(self, staying: Collection[Weights]) -> None:
        """Forget published weights but those that are `staying`."""
        names = {weights.name for weights in staying}
        for name in self.fleet.kept - names:
            self.fleet.release(name)
        self._copies = {name: copy for name, copy in self._copies.items() if name in names}

    def judge(self, step: int) -> None:
        """Judge what probes found of weights after at most `step` steps; `GateStop` for servers that hold others."""
        while self._unjudged and self._unjudged[0][0].step <= step:
            weights, asked = self._unjudged.pop(0)
            copies = self._copies[weights.name]
            device = self.policy.device
            with self.policy.as_if({name: copy.to(device) for name, copy in copies.items()}):
                self._refuse(self.probe.judge(asked))

    # -- the probe --------------------------------------------------------------------------------------------

    def after_push(
        self, servers: Sequence[Server], prompts: Sequence[Prompt], sampling: Sampling
    ) -> None:
        """Raise `grpo.monitor.gates.GateStop` for servers that do not sample the policy."""
        self.num_pushes += 1
        if not self.sample.probe_every or (self.num_pushes - 1) % self.sample.probe_every:
            return
        pinned = self._pinned
        if pinned is None:
            self._refuse(self.probe.verdicts(servers, prompts, sampling))
            return
        asked = self.probe.ask(servers, prompts, sampling, pinned.version)
        self._unjudged.append((pinned, asked))

    def _refuse(self, verdicts: Sequence[Verdict]) -> None:
        """Let the gates judge each server."""
        for verdict in verdicts:
            record = {
                "server/distance": min(verdict.distance, LIMIT),
                "server/likeness": verdict.likeness,
            }
            self.gates.probed(record, partial(_sentence_of, verdict))


def _sentence_of(verdict: Verdict, gate: str) -> str:
    return verdict.sentence()


def first_head(section: ModelSection) -> Tensor | None:
    """The output layer's weights [V, D] of the model that a run begins with, read anew; None if it cannot be read."""
    try:
        model = load_model(section, "cpu")
    except RecipeError:
        return None
    layer = model.get_output_embeddings()
    weight = getattr(layer, "weight", None)
    return weight.detach() if isinstance(weight, Tensor) else None
