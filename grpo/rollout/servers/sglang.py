"""One SGLang server, over its own HTTP API. The package sglang is not imported; what it can do is asked of the server.

Paths and fields are those of SGLang 0.5.23: ``entrypoints/http_server.py``, ``managers/io_struct.py`` and
``sampling/sampling_params.py`` of its package. Tokens go in and come out; text is never read.
"""

from __future__ import annotations

import math
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.rollout.servers.adapters import of_earlier_runs, swap
from grpo.rollout.servers.connection import Address, ServerFault, ServerRefused, Stream
from grpo.rollout.servers.server import Answer, Asked, Piece, Wanted, Written
from grpo.rollout.servers.sglang_handshake import Facts, problems
from rewards.spelling import many

GENERATE = "/generate"
KEY = "SGLANG_API_KEY"
"""The environment variable with the servers' key, if they ask for one."""
CONTROL_SECONDS = 60.0
"""How long an endpoint may take that moves no weights."""
ABORT_SECONDS = 5.0
"""How long a server may take to hear that a completion is not wanted any more."""
MOST_PIECES = 8
"""Tokens that a piece of an answer holds at most."""
NO_DEFAULTS: Mapping[str, Any] = {
    "n": 1,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "min_new_tokens": 0,
    "ignore_eos": False,
    "no_stop_trim": True,
    "skip_special_tokens": False,
    "stream_interval": MOST_PIECES,
}
"""What is the same for all completions. With ``ignore_eos`` SGLang would not stop at ids that it is told either."""
GREEDY = {"max_new_tokens": 1, "temperature": 0.0}


@dataclass(slots=True, eq=False)
class SglangServer:
    """A server at ``url``; taking weights may last ``load_seconds``."""

    url: str
    load_seconds: float = 600.0
    address: Address = field(init=False)
    adapter: str = ""
    is_adapted: bool = False

    def __post_init__(self) -> None:
        self.address = Address(self.url, KEY)
        self.url = self.address.url

    # -- what it is -------------------------------------------------------------------------------------------

    def is_alive(self, timeout_seconds: float) -> bool:
        """Whether it answers, and says that it is well; SGLang writes a token first and takes a second for it."""
        try:
            self.address.get("/health", timeout_seconds)
        except ServerFault:
            return False
        return True

    def problems(self, wanted: Wanted, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Everything that keeps it from what is wanted, a sentence each."""
        self.is_adapted = wanted.rank > 0
        found = problems(self.facts(), wanted, tokenizer, self)
        if not found and self.is_adapted:
            found = list(of_earlier_runs(self._whole_weights()))
        return found

    def _whole_weights(self) -> str:
        return str(self.address.get("/model_info", CONTROL_SECONDS).get("weight_version") or "")

    def facts(self) -> Facts:
        """What it says of itself."""
        described = self.address.get("/openapi.json", CONTROL_SECONDS)
        paths = frozenset(described.get("paths", ()) if isinstance(described, dict) else ())
        settings: Mapping[str, Any] = {}
        if "/server_info" in paths:
            settings = self.address.get("/server_info", CONTROL_SECONDS)
        models = self.address.get("/v1/models", CONTROL_SECONDS).get("data") or [{}]
        return Facts.of(paths, settings, models[0])

    def tokenized(self, text: str) -> list[int]:
        """The ids of a text, without those that begin or end one."""
        body = {"prompt": text, "add_special_tokens": False}
        answer = self.address.post("/v1/tokenize", body, CONTROL_SECONDS)
        return [int(token) for token in answer["tokens"]]

    def knows(self, token: int) -> bool:
        """Whether its vocabulary has a token; prompts are not held against it, biases are."""
        parameters = {**GREEDY, "logit_bias": {str(token): 0.0}}
        body = {"input_ids": [0], "sampling_params": parameters}
        try:
            self.address.post(GENERATE, body, self.load_seconds)
        except ServerRefused as refusal:
            if refusal.status == 400:
                return False
            raise
        return True

    def spread(self, temperature: float) -> float:
        """How far the two likeliest tokens behind a prompt are apart, in nats."""
        body = {
            "input_ids": [0, 1],
            "sampling_params": {"max_new_tokens": 1, "temperature": temperature},
            "return_logprob": True,
            "top_logprobs_num": 2,
        }
        answer = self.address.post(GENERATE, body, self.load_seconds)
        first, second = answer["meta_info"]["output_top_logprobs"][0]
        return float(first[0]) - float(second[0])

    # -- weights ----------------------------------------------------------------------------------------------

    def load(self, folder: Path, name: str) -> None:
        """Take the weights, or the adapter, in `folder`, forget keys of earlier ones, and bear `name` from then on."""
        path = str(folder.resolve())
        if self.is_adapted:
            self._load_adapter(path, name)
            return
        body = {"model_path": path, "weight_version": name, "flush_cache": True}
        answer = self.address.post("/update_weights_from_disk", body, self.load_seconds)
        if not answer.get("success"):
            raise ServerFault(f"{self.url} did not take new weights: {answer.get('message')}")

    def _load_adapter(self, path: str, name: str) -> None:
        """Each version is an adapter of its own: keys of earlier ones belong to other names."""
        body = {"lora_name": name, "lora_path": path}
        swap(
            name,
            self._names(),
            load=lambda: self.address.post("/load_lora_adapter", body, self.load_seconds),
            unload=self._unload,
        )
        self.adapter = name

    def _unload(self, name: str) -> None:
        self.address.post("/unload_lora_adapter", {"lora_name": name}, CONTROL_SECONDS)

    def _names(self) -> list[str]:
        models = self.address.get("/v1/models", CONTROL_SECONDS)
        return [str(one["id"]) for one in models["data"]]

    def holds(self) -> str:
        """The name of the weights that it was given last; empty if it was given none since it started."""
        if self.is_adapted:
            return self.adapter if self.adapter in self._names() else ""
        return self._whole_weights()

    # -- completions ------------------------------------------------------------------------------------------

    def ask(self, asked: Asked) -> Answer:
        """The completion, piece by piece; nothing is sent before the first piece is asked for."""
        return _Pieces(self.address, asked, self._body(asked))

    def _body(self, asked: Asked) -> dict[str, Any]:
        """Every parameter that a server may have a default of its own for is named."""
        sampling = asked.sampling
        parameters = {
            "max_new_tokens": asked.max_tokens,
            "sampling_seed": asked.seed,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k or -1,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "stop_token_ids": list(asked.stop_ids),
            "stop": list(asked.stop_strings),
            **NO_DEFAULTS,
        }
        if asked.bias:
            parameters["logit_bias"] = {str(token): bias for token, bias in asked.bias.items()}
        body = {
            "input_ids": list(asked.prompt_ids),
            "sampling_params": parameters,
            "return_logprob": True,
            "return_prompt_token_ids": True,
        }
        return body | self._adapted()

    def _adapted(self) -> dict[str, str]:
        """What names the adapter; empty without one."""
        return {"lora_path": self.adapter} if self.adapter else {}

    def write(self, asked: Asked) -> Written:
        """The whole completion at once; for a probe."""
        answer = self.address.post(GENERATE, self._body(asked), self.load_seconds)
        piece = _piece(answer, self.url)
        return Written(piece.token_ids, piece.logps, piece.prompt_ids)

    def score(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        """The log-probs of `token_ids` behind `prompt_ids`, at temperature 1 and without filters."""
        body = {
            "input_ids": [*prompt_ids, *token_ids],
            "sampling_params": GREEDY,
            "return_logprob": True,
            "logprob_start_len": len(prompt_ids) - 1,
        }
        answer = self.address.post(GENERATE, body | self._adapted(), self.load_seconds)
        rows = (answer["meta_info"].get("input_token_logprobs") or [])[-len(token_ids) :]
        if [row[1] for row in rows] != list(token_ids):
            raise ServerFault(
                f"{self.url} gave log-probs of other prompt tokens than the {len(token_ids)} it was asked for"
            )
        return [_finite(row[0]) for row in rows]


class _Pieces:
    """The pieces of a streamed answer; one that is closed before its end is taken back from the server."""

    def __init__(self, address: Address, asked: Asked, body: Mapping[str, Any]):
        self.address = address
        self.asked = asked
        self.id = uuid.uuid4().hex
        self.stream = Stream(address, GENERATE, {**body, "stream": True, "rid": self.id})

    def __iter__(self) -> Iterator[Piece]:
        num_tokens = 0
        finish = ""
        try:
            for event in self.stream:
                piece = _piece(event, self.address.url)
                num_tokens += len(piece.token_ids)
                self._check(piece, event, num_tokens)
                finish = piece.finish
                yield piece
        finally:
            if self.stream.is_closed and not finish:
                self._abort()

    def _check(self, piece: Piece, event: Mapping[str, Any], num_tokens: int) -> None:
        """Refuse pieces that do not follow each other, and ends that nobody asked for."""
        counted = event["meta_info"].get("completion_tokens", num_tokens)
        if counted != num_tokens:
            raise ServerFault(
                f"{self.address.url} wrote {many(counted, 'token')} and sent {num_tokens}; start it with "
                "--incremental-streaming-output"
            )
        ends = (*self.asked.stop_ids, *self.asked.stop_strings)
        if piece.finish == "stop" and piece.stop not in ends:
            raise ServerFault(
                f"{self.address.url} ended a completion at {piece.stop!r}, which ends none here; is it the recipe's "
                "model with its tokenizer?"
            )

    def _abort(self) -> None:
        """The server would notice by itself, some seconds later."""
        with suppress(ServerFault):
            self.address.post("/abort_request", {"rid": self.id}, ABORT_SECONDS)

    def close(self) -> None:
        """Ask for no more of it."""
        self.stream.close()


def _piece(event: Mapping[str, Any], url: str) -> Piece:
    """What one event of an answer holds."""
    if "error" in event:
        raise _failure(event["error"], url)
    about = event["meta_info"]
    tokens = event.get("output_ids") or []
    rows = about.get("output_token_logprobs") or []
    if [row[1] for row in rows] != tokens:
        raise ServerFault(
            f"{url} gave {many(len(tokens), 'token')} and {many(len(rows), 'log-prob')} that are not of them"
        )
    prompt_ids = event.get("prompt_token_ids")
    reason = about.get("finish_reason") or {}
    return Piece(
        token_ids=tuple(tokens),
        logps=tuple(_finite(row[0]) for row in rows),
        prompt_ids=None if prompt_ids is None else tuple(prompt_ids),
        finish=reason.get("type", ""),
        stop=reason.get("matched"),
    )


def _failure(error: Any, url: str) -> ServerFault:
    """An answer that turned into an error; SGLang has begun it with a yes by then."""
    said = error if isinstance(error, dict) else {"message": error}
    status = said.get("code")
    message = f"{url} failed in the middle of an answer: {said.get('message')}"
    if isinstance(status, int) and 400 <= status < 500:
        return ServerRefused(message, status)
    return ServerFault(message)


def _finite(logp: float | None) -> float:
    """A log-prob; NaN where the server has none."""
    return math.nan if logp is None else float(logp)
