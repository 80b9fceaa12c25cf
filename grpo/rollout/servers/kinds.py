"""The kinds of servers that a recipe may name by ``sample.engine``: what each is called, and what speaks to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping

from grpo.rollout.servers.server import Server
from grpo.rollout.servers.sglang import SglangServer
from grpo.rollout.servers.vllm import VllmServer


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of server: its project's ``name``, and ``speaks``, the client of one by (url, seconds to load)."""

    name: str
    speaks: Callable[[str, float], Server]


KINDS: Mapping[str, Kind] = {
    "vllm": Kind("vLLM", VllmServer),
    "sglang": Kind("SGLang", SglangServer),
}
"""By the recipe's ``sample.engine``."""
LOAD_SECONDS = 600.0


def server_at(engine: str, url: str, load_seconds: float = LOAD_SECONDS) -> Server:
    """The client of the server at `url`."""
    return KINDS[engine].speaks(url, load_seconds)
