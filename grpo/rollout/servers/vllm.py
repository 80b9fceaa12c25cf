"""One vLLM server, over its HTTP API. The package vLLM is not imported; what it can do is asked of the server itself.

Tokens go in and come out; text is never read. The endpoints that take weights are there only if the server runs with
``VLLM_SERVER_DEV_MODE=1``, those for adapters with ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.rollout.servers.adapters import of_earlier_runs, swap
from grpo.rollout.servers.connection import (
    Address,
    ServerFault,
    ServerRefused,
    Stream,
)
from grpo.rollout.servers.handshake import Facts, problems
from grpo.rollout.servers.server import Answer, Asked, Piece, Wanted, Written
from rewards.spelling import many

COMPLETIONS = "/v1/completions"
CONTROL_SECONDS = 60.0
"""How long an endpoint may take that moves no weights."""
CACHE_SECONDS = 20.0
"""How long requests that were broken off may keep blocks of the prefix cache."""
IMPOSSIBLE = -9999.0
"""What the API says for a log-prob of minus infinity."""
NO_DEFAULTS: Mapping[str, Any] = {
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "min_tokens": 0,
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "add_special_tokens": False,
    "logprobs": 0,
    "return_token_ids": True,
}
"""What is the same for all completions; a server or a model may have other defaults."""
MOST_PIECES = 8
"""Tokens that a piece of an answer holds at most."""


@dataclass(slots=True, eq=False)
class VllmServer:
    """A server at ``url``; taking weights may last ``load_seconds``."""

    url: str
    load_seconds: float = 600.0
    address: Address = field(init=False)
    model: str = ""
    adapter: str = ""
    is_adapted: bool = False

    def __post_init__(self) -> None:
        self.address = Address(self.url)
        self.url = self.address.url

    # -- what it is -------------------------------------------------------------------------------------------

    def is_alive(self, timeout_seconds: float) -> bool:
        """Whether it answers, and says that it is well."""
        try:
            self.address.get("/health", timeout_seconds)
        except ServerFault:
            return False
        return True

    def problems(self, wanted: Wanted, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Everything that keeps it from what is wanted, a sentence each."""
        self.is_adapted = wanted.rank > 0
        facts = self.facts()
        self.model = facts.name
        found = problems(facts, wanted, tokenizer, self)
        if not found and self.is_adapted:
            found = list(of_earlier_runs(self._whole_weights()))
        return found

    def _whole_weights(self) -> str:
        return str(self.address.get("/weight_info", CONTROL_SECONDS).get("weight_version") or "")

    def facts(self) -> Facts:
        """What it says of itself."""
        described = self.address.get("/openapi.json", CONTROL_SECONDS)
        paths = (
            frozenset(described.get("paths", ())) if isinstance(described, dict) else frozenset()
        )
        config: Mapping[str, Any] = {}
        if "/server_info" in paths:
            info = self.address.get("/server_info?config_format=json", CONTROL_SECONDS)
            config = info.get("vllm_config") or {}
        models = self.address.get("/v1/models", CONTROL_SECONDS).get("data") or [{}]
        version = self.address.get("/version", CONTROL_SECONDS)
        return Facts.of(
            paths,
            config,
            models[0],
            version.get("version", "") if isinstance(version, dict) else "",
        )

    def tokenized(self, text: str) -> list[int]:
        """The ids of a text, without those that begin or end one."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        answer = self.address.post("/tokenize", body, CONTROL_SECONDS)
        return [int(token) for token in answer["tokens"]]

    def knows(self, token: int) -> bool:
        """Whether it takes a token in a prompt."""
        body = {"model": self.model, "prompt": [token], "max_tokens": 1}
        try:
            self.address.post(COMPLETIONS, body, self.load_seconds)
        except ServerRefused as refusal:
            if refusal.status == 400:
                return False
            raise
        return True

    # -- weights ----------------------------------------------------------------------------------------------

    def load(self, folder: Path, name: str) -> None:
        """Take the weights, or the adapter, in `folder`, forget keys of earlier ones, and bear `name` from then on."""
        path = str(folder.resolve())
        if self.is_adapted:
            self._load_adapter(path, name)
            return
        body = {"method": "reload_weights", "kwargs": {"weights_path": path}}
        self.address.post("/collective_rpc", body, self.load_seconds)
        self._forget_keys()
        self.address.post("/update_weight_version", {"new_version": name}, CONTROL_SECONDS)

    def _load_adapter(self, path: str, name: str) -> None:
        """Each version is an adapter of its own: keys of earlier ones belong to other names."""
        body = {"lora_name": name, "lora_path": path}
        swap(
            name,
            self._names(),
            load=lambda: self.address.post("/v1/load_lora_adapter", body, self.load_seconds),
            unload=self._unload,
        )
        self.adapter = name

    def _unload(self, name: str) -> None:
        self.address.post("/v1/unload_lora_adapter", {"lora_name": name}, CONTROL_SECONDS)

    def _names(self) -> list[str]:
        models = self.address.get("/v1/models", CONTROL_SECONDS)
        return [str(one["id"]) for one in models["data"]]

    def _forget_keys(self) -> None:
        """Empty the prefix cache; requests that were broken off hold blocks of it for a moment."""
        deadline = time.monotonic() + CACHE_SECONDS
        while True:
            answer = self.address.post("/reset_prefix_cache", {}, CONTROL_SECONDS)
            if not isinstance(answer, dict) or answer.get("success", True):
                return
            if time.monotonic() > deadline:
                raise ServerFault(
                    f"{self.url} keeps keys of earlier weights: its prefix cache is not empty "
                    f"{CACHE_SECONDS:.0f} s after it was told to; does another client use it?"
                )
            time.sleep(0.05)

    def holds(self) -> str:
        """The name of the weights that it was given last; empty if it was given none since it started."""
        if self.is_adapted:
            return self.adapter if self.adapter in self._names() else ""
        return self._whole_weights()

    # -- completions ------------------------------------------------------------------------------------------

    def ask(self, asked: Asked) -> Answer:
        """The completion, piece by piece; nothing is sent before the first piece is asked for."""
        body = self._body(asked) | {"stream": True, "stream_interval": MOST_PIECES}
        return _Pieces(Stream(self.address, COMPLETIONS, body))

    def _body(self, asked: Asked) -> dict[str, Any]:
        """Every parameter that a server may have a default of its own for is named."""
        sampling = asked.sampling
        body = {
            "model": self.adapter or self.model,
            "prompt": list(asked.prompt_ids),
            "max_tokens": asked.max_tokens,
            "seed": asked.seed,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "stop_token_ids": list(asked.stop_ids),
            "stop": list(asked.stop_strings),
            **NO_DEFAULTS,
        }
        if asked.bias:
            body["logit_bias"] = {str(token): bias for token, bias in asked.bias.items()}
        return body

    def write(self, asked: Asked) -> Written:
        """The whole completion at once; for a probe."""
        answer = self.address.post(COMPLETIONS, self._body(asked), self.load_seconds)
        piece = _piece(answer, self.url)
        return Written(piece.token_ids, piece.logps, piece.prompt_ids)

    def score(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        """The log-probs of `token_ids` behind `prompt_ids`, at temperature 1 and without filters."""
        body = {
            "model": self.adapter or self.model,
            "prompt": [*prompt_ids, *token_ids],
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
            "add_special_tokens": False,
        }
        answer = self.address.post(COMPLETIONS, body, self.load_seconds)
        scores = answer["choices"][0].get("prompt_logprobs") or []
        if len(scores) != len(prompt_ids) + len(token_ids):
            raise ServerFault(
                f"{self.url} gave {len(scores)} log-probs of {len(prompt_ids) + len(token_ids)} prompt tokens"
            )
        pairs = zip(token_ids, scores[len(prompt_ids) :])
        return [_finite((score or {}).get(str(token), {}).get("logprob")) for token, score in pairs]


class _Pieces:
    """The pieces of a streamed answer."""

    def __init__(self, stream: Stream):
        self.stream = stream

    def __iter__(self) -> Iterator[Piece]:
        for event in self.stream:
            if event.get("choices") or "error" in event:
                yield _piece(event, self.stream.address.url)

    def close(self) -> None:
        """Ask for no more of it."""
        self.stream.close()


def _piece(event: Mapping[str, Any], url: str) -> Piece:
    """What one event of an answer holds."""
    if "error" in event:
        raise ServerFault(f"{url} failed in the middle of an answer: {event['error']}")
    choice = event["choices"][0]
    tokens = choice.get("token_ids") or []
    scores = (choice.get("logprobs") or {}).get("token_logprobs") or []
    if len(tokens) != len(scores):
        raise ServerFault(
            f"{url} gave {many(len(tokens), 'token')} and {many(len(scores), 'log-prob')}"
        )
    prompt_ids = choice.get("prompt_token_ids")
    return Piece(
        token_ids=tuple(tokens),
        logps=tuple(map(_finite, scores)),
        prompt_ids=None if prompt_ids is None else tuple(prompt_ids),
        finish=choice.get("finish_reason") or "",
        stop=choice.get("stop_reason"),
    )


def _finite(logp: float | None) -> float:
    """A log-prob; NaN where the server has none."""
    return math.nan if logp is None or logp <= IMPOSSIBLE else float(logp)
