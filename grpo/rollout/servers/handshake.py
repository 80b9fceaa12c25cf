"""What a server must be to sample a policy, and what it says of itself: asked once, before anything is sampled.

A refusal names the flag that mends it. What a server says may be wrong: whether it does what it says is found out by
the probe (``grpo.learner.probe``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Protocol

from transformers import PreTrainedTokenizerBase

from grpo.rollout.servers.server import Wanted
from rewards.spelling import many

NEEDED = ("/v1/completions", "/tokenize", "/health")
FOR_WEIGHTS = ("/collective_rpc", "/reset_prefix_cache", "/update_weight_version", "/weight_info")
FOR_ADAPTERS = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
TEXTS = (
    "Let me think: 12 + 30 = 42.\n\nSo x² ≥ 0, naïve café, 漢字.",
    "<think>\n  def f(x):\n\treturn x\n</think>",
)
"""Texts by which two tokenizers are told apart."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself; None or empty where it does not say."""

    name: str
    version: str
    paths: frozenset[str]
    dtype: str | None = None
    max_tokens: int | None = None
    logprobs_mode: str | None = None
    generation_config: str | None = None
    quantization: str | None = None
    lora_rank: int | None = None
    prefix_caching: bool | None = None

    @staticmethod
    def of(
        paths: frozenset[str], config: Mapping[str, Any], served: Mapping[str, Any], version: str
    ) -> Facts:
        """From vLLM's configuration as JSON and the first model that it serves."""
        model = config.get("model_config") or {}
        lora = config.get("lora_config") or {}
        dtype = model.get("dtype")
        cache = config.get("cache_config") or {}
        return Facts(
            name=str(served.get("id", "")),
            version=version,
            paths=paths,
            dtype=None if dtype is None else str(dtype).removeprefix("torch."),
            max_tokens=model.get("max_model_len") or served.get("max_model_len"),
            logprobs_mode=model.get("logprobs_mode"),
            generation_config=model.get("generation_config"),
            quantization=model.get("quantization"),
            lora_rank=lora.get("max_lora_rank"),
            prefix_caching=cache.get("enable_prefix_caching"),
        )


def problems(
    facts: Facts,
    wanted: Wanted,
    tokenizer: PreTrainedTokenizerBase,
    asked: Questions,
) -> list[str]:
    """Every reason for which the server is not what is wanted, to be read behind its address."""
    missing = list(_missing(facts, wanted))
    if missing:
        return missing
    return [*_of_settings(facts, wanted), *of_model(wanted, tokenizer, asked)]


def _missing(facts: Facts, wanted: Wanted) -> Iterator[str]:
    lacking = [path for path in NEEDED if path not in facts.paths]
    if lacking:
        yield f"has no {', '.join(lacking)}, so it is no vLLM server that can sample here"
        return
    weights = FOR_ADAPTERS if wanted.rank else FOR_WEIGHTS
    lacking = [path for path in weights if path not in facts.paths]
    if lacking and wanted.rank:
        yield (
            f"cannot take adapters (no {lacking[0]}); start it with --enable-lora and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
        )
    elif lacking:
        yield f"cannot take weights (no {lacking[0]}); start it with VLLM_SERVER_DEV_MODE=1 in its environment"
    if "/server_info" not in facts.paths:
        yield "does not tell its settings (no /server_info); start it with VLLM_SERVER_DEV_MODE=1 in its environment"


def of_size(
    dtype: str | None, max_tokens: int | None, wanted: Wanted, length_flag: str
) -> Iterator[str]:
    """What is wrong with a server's precision, or with the longest sequence that it takes."""
    if dtype != wanted.dtype:
        yield f"computes in {dtype}, and model.dtype is {wanted.dtype}; start it with --dtype {wanted.dtype}"
    if max_tokens is not None and max_tokens < wanted.max_tokens:
        yield (
            f"takes sequences of {many(max_tokens, 'token')} at most, and prompts with completions have up to "
            f"{wanted.max_tokens}; start it with {length_flag}"
        )


def _of_settings(facts: Facts, wanted: Wanted) -> Iterator[str]:
    flag = f"--max-model-len {wanted.max_tokens}"
    yield from of_size(facts.dtype, facts.max_tokens, wanted, flag)
    if facts.logprobs_mode != "processed_logprobs":
        yield (
            f"gives {facts.logprobs_mode}, which are not those that tokens are drawn by; start it with "
            "--logprobs-mode processed_logprobs"
        )
    if facts.generation_config not in (None, "vllm"):
        yield (
            f"takes defaults of sampling from the model ({facts.generation_config}); start it with "
            "--generation-config vllm"
        )
    if facts.quantization:
        yield f"holds the model quantized ({facts.quantization}); start it without --quantization"
    if wanted.rank and (facts.lora_rank or 0) < wanted.rank:
        yield (
            f"takes adapters of rank {facts.lora_rank or 0} at most, and the policy's is {wanted.rank}; start it with "
            f"--enable-lora --max-lora-rank {wanted.rank}"
        )


class Questions(Protocol):
    """What is asked of a server by example, since it does not say it."""

    def tokenized(self, text: str) -> list[int]:
        """The ids of a text, without those that begin or end one."""
        ...

    def knows(self, token: int) -> bool:
        """Whether its vocabulary has a token."""
        ...


def of_model(wanted: Wanted, tokenizer: PreTrainedTokenizerBase, asked: Questions) -> Iterator[str]:
    """What shows that a server has another model or tokenizer than the policy."""
    last = wanted.vocab_size - 1
    if not asked.knows(last) or asked.knows(last + 1):
        yield (
            f"serves another model: its vocabulary does not have {many(wanted.vocab_size, 'token')} as the policy's "
            "has; start it with the recipe's model.name"
        )
        return
    for text in TEXTS:
        ours = tokenizer(text, add_special_tokens=False)["input_ids"]
        theirs = asked.tokenized(text)
        if list(ours) != theirs:
            yield (
                f"has another tokenizer: it makes {many(len(theirs), 'token')} of {text[:20]!r}..., the policy's makes "
                f"{len(ours)} or others; start it with the recipe's model.name"
            )
            return
