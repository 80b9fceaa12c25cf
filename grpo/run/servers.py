"""The servers of a recipe as a decoder: found, asked what they are, probed after each push of weights.

What is refused here costs nothing yet: no weights were sent and nothing was sampled.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Sequence

from torch import Tensor

from grpo.distributed.process_group import Ranks
from grpo.kernels.sampling.spec import Sampling
from grpo.learner.drift import LIMIT
from grpo.learner.parity import Verdict
from grpo.learner.probe import Probe
from grpo.model.loading import load_model
from grpo.model.policy import Policy
from grpo.monitor.gates import Gates
from grpo.recipe import ModelSection, Recipe, RecipeError
from grpo.rollout.engine import OpenDecoder
from grpo.rollout.memory import EngineStats
from grpo.rollout.servers.decoder import ServerDecoder
from grpo.rollout.servers.fleet import Fleet, Member
from grpo.rollout.servers.server import Server, Wanted
from grpo.rollout.servers.vllm import VllmServer
from grpo.types import Prompt


def open_servers(
    recipe: Recipe,
    policy: Policy,
    *,
    longest_prompt: int = 0,
    gates: Gates | None = None,
    ranks: Ranks = Ranks(),
) -> OpenDecoder:
    """What opens the decoder that samples at the recipe's servers, those of this rank.

    `longest_prompt` is in tokens, `gates` are those of a run; without them weights travel through a folder that ends
    with the process, unless the recipe names one. Raises `RecipeError` for servers that do not answer or cannot sample
    the policy.
    """
    sample = recipe.sample
    longest = longest_prompt + sample.max_tokens
    fleet = Fleet(
        members=[Member(VllmServer(url, sample.server_load)) for url in _addresses(recipe, ranks)],
        policy=policy,
        folder=_folder(recipe, ranks, is_run=gates is not None),
        wanted=Wanted.by(policy, _within(policy, longest)),
    )
    problems = fleet.check()
    if problems:
        raise RecipeError(f"sample.servers: {'; '.join(problems)}")
    if policy.routing is not None:
        policy.routing.is_replayed = False  # servers do not say which experts they chose
    probing = _Probing(recipe, policy, gates or _own_gates(recipe, policy))

    def open_decoder(stats: EngineStats) -> ServerDecoder:
        return ServerDecoder(
            fleet,
            stats,
            max_rows=sample.max_rows,
            silence_seconds=sample.server_silence,
            after_push=probing.after_push,
        )

    return open_decoder


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


class _Probing:
    """Probes servers after every k-th push, and lets the gates judge what is found."""

    def __init__(self, recipe: Recipe, policy: Policy, gates: Gates):
        self.every = recipe.sample.probe_every
        self.gates = gates
        self.num_pushes = 0
        limits = gates.limits("server_parity")
        self.probe = Probe(
            policy,
            limit=limits.get("stop", LIMIT),
            first_head=lambda: first_head(recipe.model),
        )

    def after_push(
        self, servers: Sequence[Server], prompts: Sequence[Prompt], sampling: Sampling
    ) -> None:
        """Raise `grpo.monitor.gates.GateStop` for servers that do not sample the policy."""
        self.num_pushes += 1
        if not self.every or (self.num_pushes - 1) % self.every:
            return
        for verdict in self.probe.verdicts(servers, prompts, sampling):
            self.judge(verdict)

    def judge(self, verdict: Verdict) -> None:
        """Let the gates judge one server."""
        record = {
            "server/distance": min(verdict.distance, LIMIT),
            "server/likeness": verdict.likeness,
        }
        self.gates.probed(record, lambda gate: verdict.sentence())


def first_head(section: ModelSection) -> Tensor | None:
    """The output layer's weights [V, D] of the model that a run begins with, read anew; None if it cannot be read."""
    try:
        model = load_model(section, "cpu")
    except RecipeError:
        return None
    layer = model.get_output_embeddings()
    weight = getattr(layer, "weight", None)
    return weight.detach() if isinstance(weight, Tensor) else None
