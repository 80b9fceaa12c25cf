"""Policies and engines over fake servers, and what they sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from grpo.kernels.sampling.spec import Sampling
from grpo.learner.drift import LIMIT
from grpo.learner.probe import Probe
from grpo.model.policy import Policy
from grpo.monitor.gates import Gates
from grpo.rollout.engine import Engine
from grpo.rollout.servers.decoder import ServerDecoder
from grpo.rollout.servers.fleet import Fleet, Member
from grpo.rollout.servers.kinds import server_at
from grpo.rollout.servers.server import Server, Wanted
from tests.support.tiny import random_prompts, tiny_policy

PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
PROMPTS = random_prompts(0, [9, 12, 5])


def served_policy(folder: Path, **options: Any) -> Policy:
    """A tiny policy, saved without its adapter into `folder` for servers to begin with."""
    policy = tiny_policy("llama", 0, **options)
    base = policy.base
    if policy.model is base:
        base.save_pretrained(folder)
    else:
        tiny_policy("llama", 0).base.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return policy


def client_of(server: Any, load_seconds: float = 20.0) -> Server:
    """What speaks to a server, by its kind."""
    return server_at(getattr(server, "engine", "vllm"), server.url, load_seconds)


def fleet_of(
    policy: Policy, servers: list[Any], folder: Path, *, load_seconds: float = 20.0
) -> Fleet:
    """A fleet of servers that were found to fit."""
    fleet = Fleet(
        members=[Member(client_of(server, load_seconds)) for server in servers],
        policy=policy,
        folder=folder / "pushed",
        wanted=Wanted.by(policy, 64),
    )
    fleet.folder.mkdir()
    assert fleet.check() == []
    return fleet


def engine_of(
    policy: Policy, fleet: Fleet, *, silence: float = 20.0, after_push: Any = None, **options: Any
) -> Engine:
    """An engine that samples at the fleet's servers."""
    more = {} if after_push is None else {"after_push": after_push}
    return Engine(
        policy,
        open_decoder=lambda stats: ServerDecoder(
            fleet, stats, max_rows=8, silence_seconds=silence, **more
        ),
        **options,
    )


def sampled(engine: Engine, **options: Any) -> dict[int, Any]:
    """The groups of a call by index."""
    settings = {
        "group_size": 3,
        "max_tokens": 12,
        "sampling": PLAIN,
        "seed": ("test", 0),
        **options,
    }
    return dict(engine.sample(PROMPTS, **settings))


def tokens_of(groups: dict[int, Any]) -> dict[int, list[tuple[int, ...]]]:
    return {index: [one.token_ids for one in group.completions] for index, group in groups.items()}


def moved(policy: Policy, by: float = 0.02, seed: int = 0) -> None:
    """Change what trains, as an update does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.trainable().values():
            p.add_(by * torch.randn(p.shape, generator=generator))
    policy.weights_changed()


def probe_of(policy: Policy, first: Policy | None = None) -> Probe:
    """A probe with the limits of fp32 on a CPU."""
    limit = Gates({}, dtype="float32", device="cpu").limits("server_parity").get("stop", LIMIT)
    weight = None if first is None else first.base.get_output_embeddings().weight.detach().clone()
    return Probe(policy, limit=limit, first_head=lambda: weight)
