"""A server for a recipe: the command that starts it, its environment, and the wait until it is what the run wants.

The server runs in an environment of its own, whose Python is named; its package is never imported here.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping

from grpo.model.info import ModelInfo, load_info
from grpo.model.location import locate
from grpo.recipe import Recipe, RecipeError
from grpo.rollout.servers.connection import ServerFault
from grpo.rollout.servers.kinds import KINDS, server_at
from grpo.rollout.servers.server import Wanted
from grpo.rollout.servers.sglang_handshake import SPARE_TOKENS

MODULES = {"vllm": "vllm.entrypoints.openai.api_server", "sglang": "sglang.launch_server"}
"""What is started, by the kind of server; the package bears the kind's name."""
FIND = "import importlib.util as util, sys; sys.exit(util.find_spec(sys.argv[1]) is None)"
VARIABLES: Mapping[str, Mapping[str, str]] = {
    "vllm": {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    },
    "sglang": {
        "SGLANG_RETURN_ORIGINAL_LOGPROB": "0",
        "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1",
        "DO_NOT_TRACK": "1",
    },
}
"""Of each kind: endpoints that take weights, log-probs of what is drawn from, no reports to its makers."""
POLL_SECONDS = 0.5
WELL_SECONDS = 5.0
"""How long one may take to say that it is well: SGLang writes a token first."""
PATIENCE_SECONDS = 30.0
"""How long a server may take to end when it is asked to."""
TIED = (
    "note: the model's output layer is tied to its embedding. vLLM 0.32 on a CPU keeps such a layer as it was when new "
    "weights are pushed, and a run stops by its probe (wrong head); train an adapter (model.lora), or a model with an "
    "output layer of its own"
)
CPU_TOKENS = 16384
"""On a CPU vLLM 0.32 cannot draw with seeds while it reads a prompt in parts, so that no prompt may be parted."""


class ServerEnded(RuntimeError):
    """The server ended by itself, or what it computes with did; its own words are above."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What is to be started: an interpreter with its package, where it listens, and arguments that are passed on."""

    python: str
    engine: str = "vllm"
    host: str = "127.0.0.1"
    port: int = 8000
    max_tokens: int | None = None
    on_cpu: bool = False
    arguments: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """The address for ``sample.servers``."""
        return f"http://{self.host}:{self.port}"

    def command(self, recipe: Recipe) -> list[str]:
        """The command line, with every setting that a run checks."""
        words = [self.python, "-m", MODULES[self.engine]]
        of_kind = self._of_sglang if self.engine == "sglang" else self._of_vllm
        return [*words, *of_kind(recipe), *_of_hub(recipe), *self.arguments]

    def _of_vllm(self, recipe: Recipe) -> list[str]:
        words = ["--model", model_of(recipe)]
        words += ["--dtype", recipe.model.dtype, "--host", self.host, "--port", str(self.port)]
        words += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
        longest = self.longest(recipe)
        if longest is not None:
            words += ["--max-model-len", str(longest)]
        rank = rank_of(recipe)
        if rank:
            words += [
                "--enable-lora",
                "--max-lora-rank",
                str(_served_rank(rank)),
                "--max-loras",
                "2",
            ]
        if self.on_cpu:
            words += ["--max-num-batched-tokens", str(max(CPU_TOKENS, longest or 0))]
        return words

    def _of_sglang(self, recipe: Recipe) -> list[str]:
        words = ["--model-path", model_of(recipe)]
        words += ["--dtype", recipe.model.dtype, "--host", self.host, "--port", str(self.port)]
        words += ["--enable-deterministic-inference", "--incremental-streaming-output"]
        longest = self.longest(recipe)
        if longest is not None:
            words += ["--context-length", str(longest + SPARE_TOKENS)]
        rank = rank_of(recipe)
        if rank:
            words += ["--enable-lora", "--max-lora-rank", str(rank)]
            words += ["--lora-target-modules", "all", "--max-loras-per-batch", "3"]
        return words

    def longest(self, recipe: Recipe) -> int | None:
        """The longest sequence in tokens; None leaves it to the model."""
        if self.max_tokens is not None:
            return self.max_tokens
        prompt = recipe.data.max_prompt_tokens
        return None if prompt is None else prompt + recipe.sample.max_tokens

    def variables(self) -> dict[str, str]:
        """What its environment has in addition to ours."""
        return dict(VARIABLES[self.engine])

    def shown(self, recipe: Recipe) -> str:
        """The command as one would type it."""
        variables = [f"{name}={value}" for name, value in self.variables().items()]
        return " ".join([*variables, shlex.join(self.command(recipe))])


def _of_hub(recipe: Recipe) -> list[str]:
    """What both kinds say alike of a model of the hub."""
    words = []
    if recipe.model.revision is not None:
        words += ["--revision", recipe.model.revision]
    if recipe.model.trust_remote_code:
        words += ["--trust-remote-code"]
    return words


def model_of(recipe: Recipe) -> str:
    """The hub id or folder that a server loads."""
    files = locate(recipe.model)
    if files.gguf is not None:
        raise RecipeError(
            f"serve: model.name is the GGUF file {files.name}, which a server would hold at the file's precision; name "
            "a folder or a hub id"
        )
    return str(files.path)


def rank_of(recipe: Recipe) -> int:
    """The rank of the recipe's adapter; 0 without one."""
    if recipe.model.lora is not None:
        return recipe.model.lora.rank
    if recipe.model.adapter is None:
        return 0
    file = Path(recipe.model.adapter).expanduser() / "adapter_config.json"
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError):
        raise RecipeError(
            f"serve: the rank of model.adapter cannot be read from {file}; name a folder with it"
        ) from None


def _served_rank(rank: int) -> int:
    """The smallest rank that vLLM can be started with and that holds `rank`."""
    sizes = (1, 8, 16, 32, 64, 128, 256, 320, 512)
    return next((size for size in sizes if size >= rank), rank)


def check(recipe: Recipe, serving: Serving) -> None:
    """Refuse what cannot be served; `RecipeError`."""
    if recipe.model.name is None:
        raise RecipeError("serve: the recipe has no model.name")
    if recipe.model.quantize:
        raise RecipeError("serve: model.quantize is set, and a server would hold another base")
    name = KINDS[serving.engine].name
    if serving.on_cpu and serving.engine == "sglang":
        raise RecipeError(
            "serve: SGLang draws with seeds on accelerators only; leave out --cpu, or serve with --engine vllm"
        )
    command = [serving.python, "-c", FIND, serving.engine]
    try:
        found = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise RecipeError(f"serve: {serving.python} cannot be run: {error.strerror}") from None
    if found.returncode:
        raise RecipeError(
            f"serve: {serving.python} has no {name}; install it in an environment of its own, and name its "
            "Python by --python"
        )


def serve(
    recipe: Recipe, serving: Serving, say: Callable[[str], None], timeout_seconds: float
) -> bool:
    """Start the server, wait until it is what the recipe wants, and stay with it; whether it ended by a signal.

    Raises `ServerEnded` if it ends by itself or fails when it is asked, `RecipeError` if it is not what is wanted.
    """
    info = load_info(recipe.model)
    if serving.engine == "vllm" and serving.on_cpu and keeps_its_head(recipe, info):
        say(TIED)
    process = subprocess.Popen(
        serving.command(recipe), env={**os.environ, **serving.variables()}, start_new_session=True
    )
    stopping = _Stopping(process)
    try:
        _wait_until_well(process, serving, timeout_seconds, stopping)
        if stopping.asked:
            return True
        problems = _asked(recipe, info, serving)
        if problems:
            raise RecipeError(f"serve: {serving.url} {'; '.join(problems)}")
        say(f"ready: sample.engine={serving.engine} 'sample.servers=[{serving.url}]'")
        process.wait()
    finally:
        _end(process)
        stopping.restore()
    if not stopping.asked:
        raise ServerEnded(f"the server at {serving.url} ended with code {process.returncode}")
    return True


def keeps_its_head(recipe: Recipe, info: ModelInfo) -> bool:
    """Whether pushes would have to reach an output layer that is tied to the embedding."""
    is_tied = bool(info.config.get_text_config().tie_word_embeddings)
    return is_tied and not rank_of(recipe)


def problems_of(recipe: Recipe, info: ModelInfo, serving: Serving) -> list[str]:
    """What keeps the server from sampling the recipe's policy; `ServerFault` if it cannot be asked."""
    longest = serving.longest(recipe)
    wanted = Wanted(
        dtype=recipe.model.dtype,
        max_tokens=recipe.sample.max_tokens + 1 if longest is None else longest,
        vocab_size=info.config.get_text_config().vocab_size,
        rank=rank_of(recipe),
    )
    return server_at(serving.engine, serving.url).problems(wanted, info.tokenizer)


def _asked(recipe: Recipe, info: ModelInfo, serving: Serving) -> list[str]:
    try:
        return problems_of(recipe, info, serving)
    except ServerFault as fault:
        raise ServerEnded(f"the server said that it is well, and then: {fault}") from fault


class _Stopping:
    """Passes the signals that end a command on to the server, which then ends in its own way."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self.process = process
        self.asked = False
        self.before: Mapping[signal.Signals, object] = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _stop(self, number: int, frame: object) -> None:
        self.asked = True
        self.process.terminate()

    def restore(self) -> None:
        """Signals as they were."""
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave


def _wait_until_well(
    process: subprocess.Popen[bytes],
    serving: Serving,
    timeout_seconds: float,
    stopping: _Stopping,
) -> None:
    deadline = time.monotonic() + timeout_seconds
    server = server_at(serving.engine, serving.url)
    while not server.is_alive(WELL_SECONDS):
        if process.poll() is not None and not stopping.asked:
            raise ServerEnded(f"the server ended with code {process.returncode} before it was well")
        if stopping.asked:
            return
        if time.monotonic() > deadline:
            raise ServerEnded(f"the server was not well after {timeout_seconds:.0f} s (--timeout)")
        time.sleep(POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
