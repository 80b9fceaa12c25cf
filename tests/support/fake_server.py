"""An inference server over a tiny model, with vLLM's HTTP interface or another ``wire``, and with faults that such have had.

It keeps keys of prompts as a prefix cache does, loads folders of weights and of adapters, and draws by a generator a
request. ``FakeServer(folder, fault="stale weights")`` answers as if nothing were wrong.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator
from urllib.parse import urlsplit

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

PATHS = (
    "/health /version /v1/models /v1/completions /tokenize /server_info /collective_rpc /reset_prefix_cache "
    "/update_weight_version /weight_info /v1/load_lora_adapter /v1/unload_lora_adapter"
).split()
SETTINGS = {
    "dtype": "torch.float32",
    "max_model_len": 256,
    "logprobs_mode": "processed_logprobs",
    "generation_config": "vllm",
}


@dataclass(frozen=True)
class Wire:
    """How a kind of server speaks: its paths, what it says of itself, what answers completions and all else."""

    engine: str
    paths: frozenset[str]
    settings: dict[str, Any]
    completions: str
    complete: Callable[..., None]
    control: Callable[..., tuple[int, Any]]


class FakeServer:
    """A server of the model in a folder, at ``url``; ``fault`` names what is wrong with it.

    ``requests`` are the bodies of all requests for completions, ``loaded`` the folders it was told to load. After
    ``dies_after`` tokens it closes its doors; ``hangs_after`` them it sends no more; ``seconds`` a token takes.
    """

    def __init__(
        self,
        folder: Path,
        fault: str = "",
        *,
        settings: dict | None = None,
        lora_rank: int = 0,
        wire: Wire | None = None,
    ):
        self.wire = wire or VLLM
        self.engine = self.wire.engine
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.first = copy.deepcopy(self.model)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.fault = fault
        self.settings = {**self.wire.settings, **(settings or {})}
        self.lora_rank = lora_rank
        self.paths = set(self.wire.paths)
        self.requests: list[dict[str, Any]] = []
        self.loaded: list[str] = []
        self.aborted: list[str] = []
        self.adapters: dict[str, Any] = {}
        self.weight_version = "default"
        self.cache: dict[Any, Any] = {}
        self.lock = threading.Lock()
        self.num_tokens = 0
        self.num_broken_off = 0
        self.num_failures = 0
        self.dies_after: int | None = None
        self.hangs_after: int | None = None
        self.seconds = 0.0
        self.fails = 0
        self.is_dead = False
        self.start()

    def start(self, port: int = 0) -> None:
        """Answer, at any free port or at `port`."""
        self.http = _Http(("127.0.0.1", port), _handler_of(self))
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.is_dead = False
        threading.Thread(target=self.http.serve_forever, args=[0.02], daemon=True).start()

    def stop(self) -> None:
        """Answer no more, in the middle of whatever is answered."""
        self.is_dead = True
        self.http.shutdown()
        self.http.server_close()

    def start_again(self) -> None:
        """As a supervisor does: at the same address, with the weights of the beginning and none of the adapters."""
        self.model = copy.deepcopy(self.first)
        self.adapters.clear()
        self.cache.clear()
        self.weight_version = "default"
        self.dies_after = None
        self.start(self.http.server_address[1])

    # -- what it is told ----------------------------------------------------------------------------------------

    def load(self, path: str) -> None:
        self.loaded.append(path)
        if self.fault == "stale weights":
            return
        # Not by `from_pretrained`: two of them at once, in threads, leave transformers without `tie_weights`.
        fresh = copy.deepcopy(self.model)
        fresh.load_state_dict(load_file(Path(path) / "model.safetensors"), strict=False)
        if self.fault == "wrong head":
            fresh.lm_head.weight.data = self.model.lm_head.weight.data
        self.model = fresh

    def reset(self) -> bool:
        if self.fault == "full cache":
            return False
        if self.fault != "stale prefix cache":
            self.cache.clear()
        return True

    def load_adapter(self, name: str, path: str) -> None:
        self.loaded.append(path)
        self.adapters[name] = PeftModel.from_pretrained(copy.deepcopy(self.first), path).eval()

    # -- tokens ---------------------------------------------------------------------------------------------------

    def model_of(self, name: str) -> Any:
        if name not in self.adapters:
            return self.model
        return self.model if self.fault == "adapter ignored" else self.adapters[name]

    def _prefill(self, body: dict[str, Any]) -> Any:
        """The keys of all prompt tokens but the last, kept by model and prompt."""
        prompt = tuple(body["prompt"][:-1])
        key = (body["model"], prompt)
        if key not in self.cache or not prompt:
            cache = DynamicCache()
            if prompt:
                self.model_of(body["model"])(
                    input_ids=torch.tensor([prompt]), past_key_values=cache
                )
            self.cache[key] = cache
        return copy.deepcopy(self.cache[key])

    @torch.no_grad()
    def completion(self, body: dict[str, Any]) -> Iterator[tuple[int, float, str, Any]]:
        """(token, log-prob, finish, what ended it), a token at a time."""
        model = self.model_of(body["model"])
        generator = torch.Generator().manual_seed(body["seed"])
        with self.lock:
            cache = self._prefill(body)
        token = body["prompt"][-1]
        text = ""
        for number in range(body["max_tokens"]):
            with self.lock:
                logits_V = model(input_ids=torch.tensor([[token]]), past_key_values=cache).logits[
                    0, -1
                ]
            token, logp = self._draw(logits_V, body, generator)
            text += self.tokenizer.decode([token])
            stop = token if token in body["stop_token_ids"] else None
            stop = next((one for one in body["stop"] if one in text), stop)
            finish = (
                "stop" if stop is not None else "length" if number + 1 == body["max_tokens"] else ""
            )
            yield token, logp, finish, stop
            if finish:
                return

    def _draw(
        self, logits_V: Tensor, body: dict[str, Any], generator: torch.Generator
    ) -> tuple[int, float]:
        for token, bias in body.get("logit_bias", {}).items():
            logits_V[int(token)] += bias
        temperature = body["temperature"] or 1.0
        if self.fault == "wrong temperature":
            temperature *= 1.3
        unscaled_V = logits_V
        logits_V = logits_V / temperature
        if self.fault == "wrong filter":
            logits_V = logits_V.masked_fill(logits_V < logits_V.topk(5).values[-1], -torch.inf)
        logp_V = logits_V.log_softmax(-1)
        if not body["temperature"]:
            token = int(logp_V.argmax())
        else:
            token = int(logp_V.exp().multinomial(1, generator=generator))
        shown = logp_V.roll(3) if self.fault == "wrong tokens" else logp_V
        if self.fault == "raw log-probs":
            shown = unscaled_V.log_softmax(-1)
        return token, float(shown[token])

    @torch.no_grad()
    def scores(self, body: dict[str, Any]) -> list[dict[str, Any] | None]:
        prompt = body["prompt"]
        with self.lock:
            logits_TV = self.model_of(body["model"])(input_ids=torch.tensor([prompt])).logits[0]
        logp_TV = logits_TV.log_softmax(-1)
        scores = [{str(b): {"logprob": float(logp_TV[i, b])}} for i, b in enumerate(prompt[1:])]
        return [None, *scores]

    def prompt_of(self, body: dict[str, Any]) -> list[int]:
        """The prompt that is read."""
        return [1, *body["prompt"]] if self.fault == "wrong template" else body["prompt"]


@contextmanager
def fake_servers(folder: Path, *faults: str, **options: Any) -> Iterator[list[FakeServer]]:
    """A server a fault, empty for a right one."""
    servers = [FakeServer(folder, fault, **options) for fault in faults]
    try:
        yield servers
    finally:
        for server in servers:
            if not server.is_dead:
                server.stop()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are no news."""


def _handler_of(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            """Nothing is logged."""

        def do_GET(self) -> None:  # noqa: N802  the name that the library wants
            self.answer(urlsplit(self.path).path, {})

        def do_POST(self) -> None:  # noqa: N802
            size = int(self.headers.get("Content-Length", 0))
            self.answer(urlsplit(self.path).path, json.loads(self.rfile.read(size) or b"{}"))

        def answer(self, path: str, body: dict[str, Any]) -> None:
            if path == server.wire.completions:
                server.wire.complete(self, server, body)
            elif path == "/openapi.json":
                self.send(200, {"paths": dict.fromkeys(server.paths, {})})
            elif path not in server.paths:
                self.send(404, {"detail": "Not Found"})
            else:
                self.send(*server.wire.control(server, path, body))

        def send(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def stream(self, answers: Iterable[Any]) -> None:
            """Send each of the answers, a token each, while the server lives."""
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for answer in answers:
                    self.pause()
                    self.event(json.dumps(answer))
                    server.num_tokens += 1
                self.event("[DONE]")
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                server.num_broken_off += 1
                self.close_connection = True

        def pause(self) -> None:
            time.sleep(server.seconds)
            if server.dies_after is not None and server.num_tokens >= server.dies_after:
                if not server.is_dead:
                    server.stop()
            while server.hangs_after is not None and server.num_tokens >= server.hangs_after:
                time.sleep(0.02)
            if server.is_dead:
                self.connection.close()
                raise OSError("the server is dead")

        def event(self, data: str) -> None:
            line = f"data: {data}\n\n".encode()
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")

    return Handler


def complete(http: Any, server: FakeServer, body: dict[str, Any]) -> None:
    """Answer a request for a completion."""
    names = {"tiny", *server.adapters}
    if server.fault == "dead engine":
        error = {"message": "EngineCore encountered an issue.", "code": 500}
        http.send(500, {"error": error})
    elif body["model"] not in names:
        error = {"message": f"The model `{body['model']}` does not exist.", "code": 404}
        http.send(404, {"error": error})
    elif max(body["prompt"]) >= server.model.config.vocab_size:
        http.send(400, {"error": {"message": "Token id is out of vocabulary", "code": 400}})
    elif "return_token_ids" not in body and "prompt_logprobs" not in body:
        http.send(200, {"choices": [{"text": "", "finish_reason": "length"}]})
    elif "prompt_logprobs" in body:
        http.send(200, {"choices": [{"prompt_logprobs": server.scores(body)}]})
    elif server.fails:
        server.fails -= 1
        http.send(500, {"error": {"message": "EngineCore encountered an issue", "code": 500}})
    else:
        server.requests.append(body)
        body = {**body, "prompt": server.prompt_of(body)}
        if body.get("stream"):
            http.stream(
                {"choices": [choice_of([token], [logp], finish, stop)]}
                for token, logp, finish, stop in server.completion(body)
            )
        else:
            whole(http, server, body)


def whole(http: Any, server: FakeServer, body: dict[str, Any]) -> None:
    """All tokens in one answer."""
    tokens, logps, finishes, stops = zip(*server.completion(body))
    choice = choice_of(list(tokens), list(logps), finishes[-1], stops[-1])
    http.send(200, {"choices": [{**choice, "prompt_token_ids": body["prompt"]}]})


def choice_of(tokens: list[int], logps: list[float], finish: str, stop: Any) -> dict[str, Any]:
    return {
        "token_ids": tokens,
        "logprobs": {"token_logprobs": logps},
        "finish_reason": finish or None,
        "stop_reason": stop,
    }


def control(server: FakeServer, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """What every other endpoint answers."""
    return 200, said(server, path, body)


def said(server: FakeServer, path: str, body: dict[str, Any]) -> Any:
    """What an endpoint says that takes everything."""
    if path == "/collective_rpc":
        server.load(body["kwargs"]["weights_path"])
        return {"results": [None]}
    if path == "/reset_prefix_cache":
        return {"success": server.reset()}
    if path == "/update_weight_version":
        server.weight_version = body["new_version"]
        return {"success": True, "new_version": body["new_version"]}
    if path == "/weight_info":
        return {"weight_version": server.weight_version}
    if path == "/v1/load_lora_adapter":
        server.load_adapter(body["lora_name"], body["lora_path"])
        return f"Success: LoRA adapter '{body['lora_name']}' added successfully."
    if path == "/v1/unload_lora_adapter":
        del server.adapters[body["lora_name"]]
        return "Success"
    if path == "/v1/models":
        return {"data": [{"id": name} for name in ("tiny", *server.adapters)]}
    if path == "/tokenize":
        return {"tokens": server.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]}
    if path == "/server_info":
        lora = {"max_lora_rank": server.lora_rank} if server.lora_rank else None
        return {"vllm_config": {"model_config": server.settings, "lora_config": lora}}
    return {"version": "0.32.0"}


VLLM = Wire("vllm", frozenset(PATHS), SETTINGS, "/v1/completions", complete, control)
