"""What an SGLang server must be to sample a policy: the fields of its ``/server_info``, and what is asked by example.

The names are those of SGLang 0.5.23 (``arg_groups/fields`` of its package, one for each flag of its command line).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Protocol

from transformers import PreTrainedTokenizerBase

from grpo.rollout.servers.handshake import Questions, of_model, of_size
from grpo.rollout.servers.server import Wanted

NEEDED = ("/generate", "/v1/tokenize", "/server_info", "/model_info", "/health", "/abort_request")
FOR_WEIGHTS = "/update_weights_from_disk"
FOR_ADAPTERS = "/load_lora_adapter"
SPARE_TOKENS = 2
"""SGLang writes no more tokens than leave room for two others in its context."""
WANTED_SETTINGS = (
    (
        "enable_deterministic_inference",
        True,
        "does not read the seeds of completions; start it with --enable-deterministic-inference",
    ),
    (
        "incremental_streaming_output",
        True,
        "sends all tokens of a completion again with each piece; start it with --incremental-streaming-output",
    ),
    (
        "skip_tokenizer_init",
        False,
        "has no tokenizer, so that it cannot stop at strings; start it without --skip-tokenizer-init",
    ),
    (
        "preferred_sampling_params",
        False,
        "has defaults of sampling of its own; start it without --preferred-sampling-params",
    ),
    (
        "rl_on_policy_target",
        False,
        "draws from logits in bfloat16; start it without --rl-on-policy-target",
    ),
    (
        "enable_watermark",
        False,
        "may draw otherwise than by its log-probs; start it without --enable-watermark",
    ),
    ("quantization", False, "holds the model quantized; start it without --quantization"),
    ("torchao_config", False, "holds the model quantized; start it without --torchao-config"),
)
"""(setting, whether it must be set, what is wrong otherwise)."""
SAME = 0.05
"""Share by which a ratio of two log-prob differences may miss a whole number; half precision misses it by less."""
LEAST_SPREAD = 1e-3
"""Differences of log-probs below this, in nats, tell nothing."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself; ``settings`` are the values of its flags by name."""

    paths: frozenset[str]
    settings: Mapping[str, Any]
    dtype: str | None
    max_tokens: int | None

    @staticmethod
    def of(paths: frozenset[str], settings: Mapping[str, Any], served: Mapping[str, Any]) -> Facts:
        """From ``/server_info`` and the first model that it serves."""
        longest = served.get("max_model_len")
        dtype = settings.get("dtype")
        return Facts(
            paths=paths,
            settings=settings,
            dtype=None if dtype is None else _SPELLINGS.get(str(dtype), str(dtype)),
            max_tokens=None if longest is None else int(longest) - SPARE_TOKENS,
        )


_SPELLINGS = {"half": "float16", "float": "float32"}


class Asked(Questions, Protocol):
    """What is asked of a server by example."""

    def spread(self, temperature: float) -> float:
        """How far the two likeliest tokens behind a prompt are apart, in nats."""
        ...


def problems(
    facts: Facts, wanted: Wanted, tokenizer: PreTrainedTokenizerBase, asked: Asked
) -> list[str]:
    """Every reason for which the server is not what is wanted, to be read behind its address."""
    missing = list(_missing(facts, wanted))
    if missing:
        return missing
    found = list(_of_settings(facts, wanted))
    if not found:
        found += of_model(wanted, tokenizer, asked)
    if not found:
        found += _of_log_probs(asked)
    return found


def _missing(facts: Facts, wanted: Wanted) -> Iterator[str]:
    lacking = [path for path in NEEDED if path not in facts.paths]
    if lacking:
        yield f"has no {', '.join(lacking)}, so it is no SGLang server that can sample here"
        return
    way = FOR_ADAPTERS if wanted.rank else FOR_WEIGHTS
    if way not in facts.paths:
        yield f"cannot take weights (no {way}); a newer SGLang can"


def _of_settings(facts: Facts, wanted: Wanted) -> Iterator[str]:
    flag = f"--context-length {wanted.max_tokens + SPARE_TOKENS}"
    yield from of_size(facts.dtype, facts.max_tokens, wanted, flag)
    for name, is_wanted, wrong in WANTED_SETTINGS:
        if bool(facts.settings.get(name)) != is_wanted:
            yield wrong
    if wanted.rank:
        yield from _of_adapters(facts.settings, wanted.rank)


def _of_adapters(settings: Mapping[str, Any], rank: int) -> Iterator[str]:
    taken = settings.get("max_lora_rank") or 0 if settings.get("enable_lora") else 0
    if taken < rank:
        yield (
            f"takes adapters of rank {taken} at most, and the policy's is {rank}; start it with --enable-lora "
            f"--max-lora-rank {rank} --lora-target-modules all"
        )


def _of_log_probs(asked: Asked) -> Iterator[str]:
    """Half the difference at twice the temperature, or log-probs are those before it."""
    cold = asked.spread(1.0)
    if cold < LEAST_SPREAD:
        return
    if abs(cold / max(asked.spread(2.0), LEAST_SPREAD) - 2) > 2 * SAME:
        yield (
            "gives log-probs of the logits as they are, which are not those that tokens are drawn by; start it "
            "without SGLANG_RETURN_ORIGINAL_LOGPROB in its environment"
        )
