"""The model being trained: log-probs of packed rows, the reference, saving.

Dropout is off wherever a log-prob is taken, and log-probs are taken in training too, so it is off for good.
Where a model comes from is the matter of ``loading``, how a completion is sampled the engine's, how weights
change the optimizer's.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.kernels import linear
from grpo.kernels.log_prob import backend, logprob, statistics_dtype
from grpo.kernels.log_prob.chunked import product
from grpo.kernels.log_prob.full_logits import entropy, token_logprob
from grpo.kernels.log_prob.spec import aligned_rows, buffer_dtype, logits_of
from grpo.model import attention
from grpo.model.loading import load_model, load_tokenizer, merged, with_adapters
from grpo.model.output_head import OutputHead, find_head
from grpo.model.packing import PackedRows, pack
from grpo.recipe import ModelSection, RecipeError
from grpo.types import Row

MIN_ROWS_PER_EXPERT = 12  # MKL rounds products of 5 to 7 and 9 to 11 rows in a way of their own
HASHED = 2**14  # below the number from which torch shares an operation among threads
CHAT_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>")


@dataclass(frozen=True, slots=True, eq=False)
class TokenStats:
    """Of each completion token: log-prob under the policy at the sampling temperature, and entropy.

    The entropy carries a gradient only where it was asked for.
    """

    logp_T: Tensor
    entropy_T: Tensor


class Float64Mode(TorchFunctionMode):
    """Lets a float64 model compute in float64: its norms' own casts to float32 are left out.

    Only the proofs use float64; there a cast in the middle would hide differences below 1e-7.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float or (
                func is Tensor.to and torch.float32 in (*args[1:], kwargs.get("dtype"))
            ):
                return args[0]
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
            if (
                func is Tensor.matmul and args[1].dtype == torch.float32
            ):  # rotary angles, whose positions are float32
                args = (args[0], args[1].double())
        return func(*args, **kwargs)


class Policy:
    """A causal language model with its tokenizer, as the trainer and the engine use it.

    ``version`` counts weight changes. ``vocab_size`` is the number of tokens that can be sampled: ids that
    the tokenizer does not know (padding of the embedding) are left out on both sides. ``context`` is the
    longest sequence the model takes, None if it has no limit. ``stop_ids`` end a completion. ``plain`` says why the
    model's attention cannot be taken over, empty if it can: then rows are forwarded whole, each with its prompt, and
    sampled by transformers' `generate`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device | str = "cpu",
        *,
        gradient_checkpointing: bool = False,
    ):
        check_device(torch.device(device))
        self.model, self.tokenizer, self.device = model.to(device), tokenizer, torch.device(device)
        self.version = 0
        base = self.base
        given = base.config._attn_implementation
        self._own_attention = given if given and given != attention.NAME else "sdpa"
        self.unsupported_reason = _own_attention_needed(base)
        if not self.unsupported_reason:
            base.set_attn_implementation(attention.NAME)
        for module in base.modules():
            if hasattr(module, "_apply_gate"):  # transformers' mark of every mixture of experts
                module.register_forward_pre_hook(_fill_experts)
                module.register_forward_hook(_drop_filling)
        if self.device.type == "cpu":
            linear.use_in(model)
        turn_dropout_off(model)
        model.eval()
        self._checkpointed: list[nn.Module] = []
        self._precision = (
            Float64Mode if next(model.parameters()).dtype == torch.float64 else nullcontext
        )
        if gradient_checkpointing:
            base.gradient_checkpointing_enable(
                {"use_reentrant": False, "context_fn": lambda: (nullcontext(), self._precision())}
            )
            self._checkpointed = [
                m for m in base.modules() if isinstance(m, GradientCheckpointingLayer)
            ]
        config = base.config.get_text_config()
        self.vocab_size = min(
            config.vocab_size, max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)
        )
        self.context = longest_sequence(config)
        self.stop_ids = stop_ids(base, tokenizer)

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model itself, adapters within."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @staticmethod
    def load(
        section: ModelSection,
        device: torch.device | str = "cpu",
        *,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Policy:
        """The policy a recipe's ``model`` section describes; a model or tokenizer in hand is used as it is."""
        if tokenizer is None:
            tokenizer = load_tokenizer(section)
        if model is None:
            model = load_model(section, device)
        if section.lora is not None:
            model = with_adapters(model, section.lora)
        return Policy(
            model, tokenizer, device, gradient_checkpointing=section.gradient_checkpointing
        )

    def fall_back_because(self, reason: str) -> None:
        """Leave the model its own attention if there is a `reason`: why this library's does not do."""
        if reason:
            self.unsupported_reason = reason
            self.base.set_attn_implementation(self._own_attention)

    @contextmanager
    def own_attention(self) -> Iterator[None]:
        """The model as transformers itself runs it."""
        self.base.set_attn_implementation(self._own_attention)
        try:
            yield
        finally:
            if not self.unsupported_reason:
                self.base.set_attn_implementation(attention.NAME)

    # -- forward ------------------------------------------------------------------------------------------

    def logits(
        self,
        token_P: Tensor,
        position_P: Tensor,
        layout: attention.Layout,
        keep: Tensor | int,
        cache: Any = None,
    ) -> Tensor:
        """Logits [.., vocab_size] of the positions ``keep``, through the model's own head, scales and caps.

        Tokens are [P] (packed) or [R, 1] (one a slot).
        """
        shape = (1, -1) if token_P.dim() == 1 else token_P.shape
        if self.unsupported_reason:
            assert isinstance(layout, attention.PackedLayout), "the engine decodes what it serves"
            return self._run_whole(self.model, token_P, layout).index_select(1, keep)[
                ..., : self.vocab_size
            ]
        output = self._run(
            self.model,
            token_P.view(shape),
            position_P.view(shape),
            layout,
            cache,
            logits_to_keep=keep,
        )
        return output.logits[..., : self.vocab_size]

    def next_logits(self, token_R1: Tensor, position_R1: Tensor, cache: Any) -> Tensor:
        """Logits [R, vocab_size] after one token a slot; of half-precision models in the precision of training's."""
        if (
            not self.base.dtype.is_floating_point
            or self.base.dtype.itemsize > 2
            or self.head is None
        ):
            return self.logits(token_R1, position_R1, cache, 1, cache)[:, -1]
        hidden_RD = self._run(
            self.base.base_model, token_R1, position_R1, cache, cache
        ).last_hidden_state[:, -1]
        head = self.head.at(1.0)
        buffer_RV = aligned_rows(
            len(hidden_RD), self.vocab_size, buffer_dtype(head), hidden_RD.device
        )
        return logits_of(product(hidden_RD, head, buffer_RV), head)

    def hidden(self, packed: PackedRows) -> Tensor:
        """The hidden states [T, D] that the head takes for each completion token of `packed`, with gradient."""
        if self.unsupported_reason:
            whole = self._run_whole(
                self.base.base_model, packed.token_P, attention.PackedLayout(packed)
            )
            return whole[0].index_select(0, packed.source_T)
        output = self._run(
            self.base.base_model,
            packed.token_P[None],
            packed.position_P[None],
            attention.PackedLayout(packed),
            None,
        )
        return output.last_hidden_state[0].index_select(0, packed.source_T)

    def _run(
        self,
        model: nn.Module,
        token_ids: Tensor,
        position_ids: Tensor,
        layout: attention.Layout,
        cache: Any,
        **options: Any,
    ) -> Any:
        for layer in self._checkpointed:  # a layer in training mode drops the cache it is given
            layer.training = cache is None and torch.is_grad_enabled()
        with self._precision():
            return model(
                input_ids=token_ids,
                position_ids=position_ids,
                layout=layout,
                past_key_values=cache,
                use_cache=cache is not None,
                **options,
            )

    def _run_whole(
        self, model: nn.Module, token_P: Tensor, layout: attention.PackedLayout
    ) -> Tensor:
        """What `model` gives for each packed token, [1, P, ..], from rows padded where no token of theirs looks."""
        for layer in self._checkpointed:
            layer.training = torch.is_grad_enabled()
        kept = []
        for bucket in layout.packed.buckets:
            with self._precision():
                output = model(input_ids=token_P[bucket.gather_RL], use_cache=False)
            found = output.logits if hasattr(output, "logits") else output.last_hidden_state
            kept.append(found.flatten(0, 1).index_select(0, bucket.take))
        return torch.cat(kept).index_select(0, layout.packed.place_P)[None]

    def token_stats(
        self, packed: PackedRows, temperature: float, entropy_gradient: bool = False
    ) -> TokenStats:
        """Log-prob and entropy of each completion token of `packed`, with gradient where it is enabled."""
        if self.head is not None:
            logp_T, entropy_T = logprob(
                self.hidden(packed), self.head.at(temperature), packed.target_T
            )
            return TokenStats(logp_T, entropy_T if entropy_gradient else entropy_T.detach())
        logits = self.logits(
            packed.token_P, packed.position_P, attention.PackedLayout(packed), packed.source_T
        )
        logp_T, entropy_T = token_logprob(logits[0], packed.target_T, temperature)
        return TokenStats(
            logp_T, entropy(logits[0], temperature) if entropy_gradient else entropy_T
        )

    @property
    def statistics_dtype(self) -> torch.dtype:
        """The dtype of log-probs: float32, or float64 for a float64 model."""
        return statistics_dtype(next(self.model.parameters()).dtype)

    @property
    def head(self) -> OutputHead | None:
        """The head whose log-probs are taken without whole logits; None if the model's own has to be used."""
        return self._found_head[0]

    @cached_property
    def _found_head(self) -> tuple[OutputHead | None, str]:
        return find_head(self.base, self.vocab_size, self._probe)

    def _probe(self, token_P: Tensor) -> tuple[Tensor, Tensor]:
        row = Row(
            0,
            0,
            (int(token_P[0]),),
            tuple(token_P[1:].tolist()),
            torch.zeros(0),
            0.0,
            True,
            True,
            "trained",
        )
        packed = pack([row], self.device)
        logits = self.logits(
            packed.token_P, packed.position_P, attention.PackedLayout(packed), packed.source_T
        )
        return self.hidden(packed), logits[0]

    def describe_fallback(self) -> list[str]:
        """A line where the model keeps its own attention: what that means, and why."""
        return (
            [
                f"slower: sampled by transformers' generate, trained in whole rows, since {self.unsupported_reason}"
            ]
            if self.unsupported_reason
            else []
        )

    def describe_head(self) -> str:
        """One line: how log-probs are taken, and why if not without whole logits."""
        head, reason = self._found_head
        if head is None:
            return f"log-probs: through whole logits of the model's own head, since {reason}"
        return f"log-probs: head {backend(self.device)}, {head.vocab_size} tokens x {head.linear.in_features}"

    # -- weights ------------------------------------------------------------------------------------------

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the trainable parameters."""
        return {name: p.detach().clone() for name, p in self.trainable().items()}

    @contextmanager
    def as_if(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """The policy with `weights` in place of its own; how the reference's log-probs are taken."""
        own = {name: p.data for name, p in self.trainable().items()}
        try:
            for name, p in self.trainable().items():
                p.data = weights[name]
            yield
        finally:
            for name, p in self.trainable().items():
                p.data = own[name]

    def weights_changed(self) -> None:
        self.version += 1

    def fingerprint(self) -> int:
        """64 bits that change when the trained weights do: a hash of the first `HASHED` values of each of them."""
        parts = [
            torch.hash_tensor(p.detach().reshape(-1)[:HASHED]).view(torch.int64)
            for p in self.trainable().values()
            if p.numel()
        ]
        digest = hashlib.blake2b(
            repr(torch.stack(parts).tolist() if parts else []).encode(), digest_size=8
        ).digest()
        return int.from_bytes(digest, "little")

    def not_finite(self) -> str:
        """The name of the first parameter that holds values which are not finite; empty if none does."""
        return next(
            (
                name
                for name, p in self.model.named_parameters()
                if p.is_floating_point() and not bool(p.detach().isfinite().all())
            ),
            "",
        )

    def save(self, folder: Path) -> None:
        """Write a folder that ``AutoModelForCausalLM.from_pretrained`` loads, adapters merged."""
        model = self.base
        if self.model is not model:
            self.model.save_pretrained(folder / "adapter")
            model = merged(self.model, folder / "adapter")
        implementation = model.config._attn_implementation
        model.config._attn_implementation = self._own_attention
        model.save_pretrained(folder)
        model.config._attn_implementation = implementation
        self.tokenizer.save_pretrained(folder)

    def describe(self) -> str:
        """One line: architecture, sizes, dtype, device."""
        total = sum(p.numel() for p in self.model.parameters())
        learnt = sum(p.numel() for p in self.trainable().values())
        dtype = str(next(iter(self.model.parameters())).dtype).removeprefix("torch.")
        part = "" if learnt == total else f", {count(learnt)} of them trained (LoRA)"
        return (
            f"{type(self.base).__name__}, {count(total)} parameters{part}, {dtype} on {self.device}"
        )


def check_device(device: torch.device) -> None:
    """Refuse a device on which sampling and training have not been proven."""
    if device.type not in ("cpu", "cuda"):
        raise RecipeError(
            f"device: models run on cpu and cuda here, not on {device.type} (the sampler's noise and the "
            "statistics need 64-bit arithmetic, which Apple's MPS lacks); unset "
            "ACCELERATE_TORCH_DEVICE, or set it to cpu"
        )


def count(number: float) -> str:
    """1234567 as 1.2M."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.0f}"


def _own_attention_needed(base: PreTrainedModel) -> str:
    """Why the model's attention cannot be taken over, as far as its class and configuration tell; empty if it can."""
    name, config = type(base).__name__, base.config.get_text_config()
    if not getattr(base, "_supports_attention_backend", False):
        return f"{name} does not take its attention from transformers' attention interface"
    kinds = set(getattr(config, "layer_types", None) or ()) - {
        "full_attention",
        "sliding_attention",
    }
    if kinds:
        return f"{name} has layers of {' and '.join(sorted(kinds))}"
    if getattr(config, "kv_lora_rank", None):
        return f"{name} caches compressed keys and values (latent attention)"
    return ""


def _fill_experts(
    experts: nn.Module, args: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Route MIN_ROWS_PER_EXPERT rows of zeros to each expert, with weight 0.

    A product of fewer rows, in whatever number, may round differently, and how many come to an expert depends on the
    neighbours.
    """
    hidden_TD, index_TK, weight_TK = args
    filling = torch.arange(_filling(experts, index_TK) * index_TK.shape[-1], device=index_TK.device)
    index_FK = (filling % experts.num_experts).view(-1, index_TK.shape[-1]).to(index_TK.dtype)
    return (
        torch.cat([hidden_TD, hidden_TD.new_zeros(len(index_FK), hidden_TD.shape[-1])]),
        torch.cat([index_TK, index_FK]),
        torch.cat([weight_TK, weight_TK.new_zeros(index_FK.shape)]),
    )


def _drop_filling(
    experts: nn.Module, args: tuple[Tensor, Tensor, Tensor], output_TD: Tensor
) -> Tensor:
    return output_TD[: len(output_TD) - _filling(experts, args[1])]


def _filling(experts: nn.Module, index_TK: Tensor) -> int:
    return -(-MIN_ROWS_PER_EXPERT * experts.num_experts // index_TK.shape[-1])


def longest_sequence(config: Any) -> int | None:
    """How many tokens a sequence may have; None if the configuration sets no limit.

    Rotary embeddings of type dynamic and longrope change for a whole batch once one row is longer than the
    original context, so the limit is that context: beyond it a row's log-probs would hang on its neighbours.
    """
    context: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *rope.values()):
        if isinstance(part, Mapping) and part.get("rope_type") in ("dynamic", "longrope"):
            original = part.get("original_max_position_embeddings")
            context = min((n for n in (context, original) if n), default=None)
    return context


def turn_dropout_off(model: nn.Module) -> None:
    """Set every dropout probability in `model` to 0; its configuration keeps what it says."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in (
            "attention_dropout",
            "dropout",
            "hidden_dropout",
            "resid_dropout",
            "router_jitter_noise",
        ):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends a completion: the model's and tokenizer's eos, and the end of a chat turn."""
    listed = getattr(model.generation_config, "eos_token_id", None)
    found = set(listed if isinstance(listed, list) else [listed]) | {tokenizer.eos_token_id}
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    found |= {
        vocabulary[end] for end in CHAT_ENDS if end in vocabulary and vocabulary[end] in special
    }
    return frozenset(int(token) for token in found if token is not None)
