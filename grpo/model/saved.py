"""Whether a saved model is the policy: it is loaded back and compared, weights exactly and log-probs on one row.

What is compared is what another program gets: weights, configuration, tokenizer and end tokens, by
``from_pretrained`` alone.
"""

from __future__ import annotations

import math
import zlib
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Iterator, Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from grpo.model.adapters import peft_silenced
from grpo.model.loading import ONE_AT_A_TIME
from grpo.model.packing import pack
from grpo.model.policy import Policy
from grpo.monitor.redaction import first_words
from grpo.types import Row

NUM_TOKENS = 32
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
"""How far the mean log-prob of a row's tokens may be off, in nats, by the policy's dtype: what rounding can do."""
QUANTIZED_TOLERANCE = 0.2  # a 4-bit base's products are rounded, its merged weights are not


class SavedModelDiffers(RuntimeError):
    """A saved model that is not the policy; everything else of the run is written."""


@dataclass(frozen=True, slots=True)
class SavedModel:
    """What loading a saved model back has shown.

    ``difference`` is the mean of the absolute differences between its log-probs and the policy's on one row, in nats;
    NaN if they could not be taken. ``problems`` are sentences, none if the folder holds the policy. ``unchecked`` says
    why it was not loaded back, empty if it was.
    """

    difference: float = math.nan
    problems: tuple[str, ...] = ()
    unchecked: str = ""

    def describe(self, folder: Path) -> str:
        """One line for the log."""
        if self.unchecked:
            return f"saved model: {folder} was not loaded back, since {self.unchecked}"
        if self.problems:
            return f"saved model: {folder} is not the trained policy: {'; '.join(self.problems)}"
        return f"saved model: {folder} loads back as the policy, log-probs of one row within {self.difference:.1e} nats"


@torch.no_grad()
def check_saved(policy: Policy, folder: Path) -> SavedModel:
    """Load `folder` back as any program would, and compare it with `policy`; what differs is named, never raised."""
    try:
        return _compared(policy, folder)
    except Exception as error:  # noqa: BLE001  a damaged folder can fail in any reader and in any layer
        if is_memory(error):
            return SavedModel(unchecked=f"memory ran out ({first_words(error)})")
        return SavedModel(problems=(f"it cannot be loaded and run ({first_words(error)})",))


def is_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "allocate memory" in str(error)


def _compared(policy: Policy, folder: Path) -> SavedModel:
    expected = checksums(policy.plain_model())
    with _quiet():
        model = _load(policy, folder)
    problems = [*_other_weights(expected, checksums(model))]
    if _is_tied(model) and not _is_tied(policy.base):
        problems.append("its configuration ties the output layer to the embedding")
    difference = math.nan
    if not problems or _has_shapes_of(policy, model):
        difference = _difference(policy, model)
        if not difference <= _tolerance(policy):
            problems.append(f"its log-probs differ by {difference:.2g} nats")
    problems += _other_tokens(policy, folder)
    problems += _other_adapters(policy, folder)
    return SavedModel(difference, tuple(problems))


def _has_shapes_of(policy: Policy, model: PreTrainedModel) -> bool:
    """Whether `model` takes the policy's tokens, so that its log-probs can be compared."""
    return model.config.get_text_config().vocab_size >= policy.vocab_size


@torch.no_grad()
def checksums(model: PreTrainedModel) -> dict[str, int]:
    """CRC-32 of the bytes of each tensor of `model`'s state, by name."""
    return {name: _checksum(tensor) for name, tensor in model.state_dict().items()}


def _checksum(tensor: Tensor) -> int:
    values = tensor.detach().cpu().contiguous().reshape(-1)
    return zlib.crc32(values.view(torch.uint8).numpy().data)


class _quiet:
    """Inside the block transformers' report of a load, warnings and progress bars stay off the console."""

    def __enter__(self) -> None:
        self.verbosity = logging.get_verbosity()
        self.parts: list[Any] = [peft_silenced(), redirect_stderr(StringIO())]
        logging.set_verbosity_error()
        for part in self.parts:
            part.__enter__()

    def __exit__(self, *error: Any) -> None:
        for part in reversed(self.parts):
            part.__exit__(*error)
        logging.set_verbosity(self.verbosity)


def _load(policy: Policy, folder: Path) -> PreTrainedModel:
    """The model in `folder`, in the dtypes of its files; beside the policy if there is room, else on the CPU.

    A class of the user's own, which transformers does not find, loads itself.
    """
    own: Any = type(policy.base)
    is_known = own.__module__.partition(".")[0] in ("transformers", "transformers_modules")
    loader = AutoModelForCausalLM if is_known else own
    options: dict[str, Any] = {"trust_remote_code": True} if policy.trusts_remote_code else {}
    if getattr(policy.base.config.get_text_config(), "attn_logit_softcapping", None):
        options["attn_implementation"] = "eager"  # transformers before 5.20 or so caps in no other
    with ONE_AT_A_TIME:
        model: Any = loader.from_pretrained(folder, dtype="auto", **options)
    try:
        return model.to(policy.device).eval()
    except torch.OutOfMemoryError:
        return model.to("cpu").eval()


def _other_weights(expected: Mapping[str, int], found: Mapping[str, int]) -> Iterator[str]:
    wrong = [name for name in expected if expected[name] != found.get(name)]
    wrong += [name for name in found if name not in expected]
    if wrong:
        yield f"{len(wrong)} of {len(expected)} tensors hold other values, such as {wrong[0]}"


def _is_tied(model: PreTrainedModel) -> bool:
    return bool(model.config.get_text_config().tie_word_embeddings)


def _tolerance(policy: Policy) -> float:
    if getattr(policy.base, "is_quantized", False):
        return QUANTIZED_TOLERANCE
    return TOLERANCE[policy.base.dtype]


def _difference(policy: Policy, model: PreTrainedModel) -> float:
    """The mean |log-prob - the policy's| of the tokens of one row, the saved model's by its own forward."""
    num_tokens = min(NUM_TOKENS, policy.context or NUM_TOKENS)
    ids = [(7919 * i + 13) % policy.vocab_size for i in range(1, num_tokens + 1)]
    row = Row(
        index=0,
        group=0,
        prompt_ids=tuple(ids[:1]),
        token_ids=tuple(ids[1:]),
        sampled_logps=torch.zeros(0),
        advantage=0.0,
        mask=True,
        forwarded=True,
        outcome="trained",
    )
    expected_T = policy.token_stats(pack([row], policy.device), 1.0).logp_T.double().cpu()
    input_ids = torch.tensor([ids], device=model.device)
    with policy.precision():
        logits_TV = model(input_ids=input_ids, use_cache=False).logits[0, :-1]
    logits_TV = logits_TV[:, : policy.vocab_size].double().cpu()
    logp_T = logits_TV.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    return float((logp_T - expected_T).abs().mean())


def _other_tokens(policy: Policy, folder: Path) -> Iterator[str]:
    """What a program that reads the folder would tokenize, pad or end otherwise."""
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=policy.trusts_remote_code
            )
            generation = GenerationConfig.from_pretrained(folder)
    except Exception as error:  # noqa: BLE001  a damaged file can fail in any reader
        yield f"its tokenizer or generation_config.json cannot be loaded ({first_words(error)})"
        return
    ours = policy.tokenizer
    theirs = tokenizer.get_vocab()
    # transformers may add a token of the model's family to a tokenizer of another; no text of ours holds it
    if any(theirs.get(token) != number for token, number in ours.get_vocab().items()):
        yield "its tokenizer has another vocabulary"
    elif _splitting(tokenizer) != _splitting(ours):
        yield "its tokenizer splits text otherwise"
    for name in ("chat_template", "eos_token", "pad_token", "bos_token"):
        if getattr(tokenizer, name) != getattr(ours, name):
            yield f"its tokenizer has another {name}"
    configured = generation.eos_token_id
    ends = set(configured if isinstance(configured, list) else [configured])
    missing = policy.stop_ids - ends
    if missing:
        yield f"its generation_config.json lacks the end token {min(missing)}"
    if generation.pad_token_id != ours.pad_token_id:
        yield "its generation_config.json has another pad_token_id"


def _splitting(tokenizer: Any) -> str | None:
    """What a fast tokenizer does to a text before its vocabulary is looked up; None for others."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else f"{backend.normalizer} {backend.pre_tokenizer}"


def _other_adapters(policy: Policy, folder: Path) -> Iterator[str]:
    """Whether the file of the adapters alone holds others than the policy's."""
    if policy.model is policy.base:
        return
    try:
        found = load_file(folder / "adapter" / "adapter_model.safetensors")
    except Exception as error:  # noqa: BLE001  a damaged file can fail in any way
        yield f"its adapters cannot be read ({first_words(error)})"
        return
    name = policy.adapter_name
    state = policy.model.state_dict()
    expected = {
        key.replace(f".{name}.", "."): _checksum(tensor)
        for key, tensor in state.items()
        if "lora_" in key
    }
    if expected != {key: _checksum(tensor) for key, tensor in found.items()}:
        yield "its adapters hold other values"
