"""The model being trained: log-probs of packed rows, the reference, saving.

Dropout is off wherever a log-prob is taken, and log-probs are taken in training too, so it is off for good. Where a
model comes from is up to ``loading``, how a completion is sampled up to ``grpo.rollout``, how weights change up to
``grpo.learner``.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.distributed.fsdp import Shards, local_part
from grpo.distributed.process_group import Ranks
from grpo.kernels import linear
from grpo.kernels.log_prob import backend, logprob, statistics_dtype
from grpo.kernels.log_prob.chunked import product
from grpo.kernels.log_prob.full_logits import entropy, token_logprob
from grpo.kernels.log_prob.spec import aligned_rows, buffer_dtype, logits_of
from grpo.model import attention
from grpo.model.adapters import merged, save_adapters, tell_tie, with_adapters
from grpo.model.experts import fill_experts
from grpo.model.float64_mode import Float64Mode
from grpo.model.info import check_vocabulary, load_tokenizer, longest_sequence
from grpo.model.loading import load_model
from grpo.model.output_head import OutputHead, find_head
from grpo.model.packing import PackedRows, pack
from grpo.model.routing import Routes, find_routing, joined, without_balance_loss
from grpo.model.saved_adapter import load_adapter
from grpo.recipe import ModelSection, RecipeError
from grpo.types import Row
from rewards.spelling import many

FINGERPRINT_VALUES = 2**14
"""Values of each parameter that are hashed: below the number from which torch shares an operation among threads."""
CHAT_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>")
"""Tokens that end a turn of a chat, by model family."""
DROPOUT_ATTRIBUTES = (
    "attention_dropout",
    "dropout",
    "hidden_dropout",
    "resid_dropout",
    "router_jitter_noise",
)
"""Names under which modules keep a probability or strength of noise as a number."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenStats:
    """Of each completion token: log-prob under the policy at the sampling temperature, and entropy.

    The entropy carries a gradient only if it was asked for.
    """

    logp_T: Tensor
    entropy_T: Tensor


class Policy:
    """A causal language model with its tokenizer, as the trainer and the engine use it.

    ``version`` counts weight changes. ``vocab_size`` is the number of tokens that can be sampled: ids that the
    tokenizer does not know (padding of the embedding) are left out on both sides. ``context`` is the longest sequence
    in tokens that the model takes, None if it has no limit. ``stop_ids`` end a completion. ``unsupported_reason`` says
    why the model's attention cannot be replaced by this library's, empty if it can; if not, rows are forwarded whole,
    each with its prompt, and sampled by transformers' `generate`. ``routing`` are the routers of a mixture of experts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device | str = "cpu",
        *,
        gradient_checkpointing: bool = False,
    ):
        self.device = torch.device(device)
        check_device(self.device)
        check_vocabulary(tokenizer, model.config)
        moved: PreTrainedModel = cast(Any, model).to(self.device)  # typed as a method of no class
        self.model = moved
        self.tokenizer = tokenizer
        self.version = 0
        self.shards: Shards | None = None
        self.trusts_remote_code = type(self.base).__module__.startswith("transformers_modules")
        self._take_over_attention()
        self.routing, self._routing_reason = find_routing(self.base)
        fill_experts(self.base)
        if self.device.type == "cpu":
            linear.use_in(self.model)
        turn_dropout_off(self.model)
        self.model.eval()
        is_float64 = next(self.model.parameters()).dtype == torch.float64
        self.precision = Float64Mode if is_float64 else nullcontext
        self._checkpointed: list[nn.Module] = []
        if gradient_checkpointing:
            self._checkpoint_activations()
        config = self.base.config.get_text_config()
        num_known = max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)
        self.vocab_size = min(config.vocab_size, num_known)
        self.context = longest_sequence(config)
        self.stop_ids = stop_ids(self.base, tokenizer)
        self._cache_keyword = cache_keyword(self.base)

    def _take_over_attention(self) -> None:
        configured = self.base.config._attn_implementation
        is_usable = configured and configured != attention.NAME
        self._own_attention = configured if is_usable else "sdpa"
        self.unsupported_reason = _own_attention_needed(self.base)
        if not self.unsupported_reason:
            self.base.set_attn_implementation(attention.NAME)

    def _checkpoint_activations(self) -> None:
        options = {
            "use_reentrant": False,
            "context_fn": lambda: (nullcontext(), self._recomputing()),
        }
        base: Any = self.base
        # the name since transformers 5.20 or so; the old one warns
        enable = getattr(
            base, "activation_checkpointing_enable", base.gradient_checkpointing_enable
        )
        enable(options)
        self._checkpointed = [
            module
            for module in self.base.modules()
            if isinstance(module, GradientCheckpointingLayer)
        ]

    def _recomputing(self) -> AbstractContextManager[None]:
        """What a layer of the forward in progress is computed in once more, later."""
        routed = nullcontext() if self.routing is None else self.routing.again()
        return _both(self.precision(), routed)

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model itself, with adapters inside."""
        model: Any = self.model
        base: PreTrainedModel = (
            model.get_base_model() if hasattr(model, "get_base_model") else model
        )
        return base

    @property
    def adapter_name(self) -> str:
        """The name under which peft keeps the adapters that train."""
        adapted: Any = self.model
        name: str = adapted.active_adapter
        return name

    @staticmethod
    def load(
        section: ModelSection,
        device: torch.device | str = "cpu",
        *,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Policy:
        """The policy that a recipe's ``model`` section describes; a `model` or `tokenizer` passed in is used as it is.

        Raises `RecipeError` if the model cannot be loaded.
        """
        if tokenizer is None:
            tokenizer = load_tokenizer(section)
        if model is None:
            model = load_model(section, device)
        check_vocabulary(tokenizer, model.config)
        if section.lora is not None:
            model = cast(PreTrainedModel, with_adapters(model, section.lora))
        if section.adapter is not None:
            model = cast(PreTrainedModel, load_adapter(model, section.adapter))
        policy = Policy(
            model, tokenizer, device, gradient_checkpointing=section.gradient_checkpointing
        )
        policy.trusts_remote_code |= section.trust_remote_code
        if policy.routing is not None:
            policy.routing.is_replayed = section.routing_replay
        return policy

    def fall_back_because(self, reason: str) -> None:
        """Leave the model its own attention if there is a `reason`: why this library's does not do."""
        if reason:
            self.unsupported_reason = reason
            self.base.set_attn_implementation(self._own_attention)

    @contextmanager
    def own_attention(self) -> Iterator[None]:
        """Inside the block, the model as transformers itself runs it."""
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

        Tokens are [P] (packed) or [R, 1] (one a row). ``keep`` are indices, or how many positions from the end.
        """
        if self.unsupported_reason:
            assert isinstance(layout, attention.PackedLayout), "the engine decodes what it serves"
            assert isinstance(keep, Tensor), "whole rows are read by index"
            whole = self._run_whole(self.model, token_P, layout)
            return whole.index_select(1, keep)[..., : self.vocab_size]
        shape = (1, -1) if token_P.dim() == 1 else token_P.shape
        output = self._run(
            self.model,
            token_P.view(shape),
            position_P.view(shape),
            layout=layout,
            cache=cache,
            logits_to_keep=keep,
        )
        return output.logits[..., : self.vocab_size]

    def next_logits(self, token_R1: Tensor, position_R1: Tensor, cache: Any) -> Tensor:
        """Logits [R, vocab_size] after one token a row; those of half-precision models as precise as in training."""
        dtype = self.base.dtype
        is_half_precision = dtype.is_floating_point and dtype.itemsize <= 2
        if not is_half_precision or self.head is None:
            return self.logits(token_R1, position_R1, cache, keep=1, cache=cache)[:, -1]
        output = self._run(self.base.base_model, token_R1, position_R1, layout=cache, cache=cache)
        hidden_RD = output.last_hidden_state[:, -1]
        head = self.head.at(1.0)
        buffer_RV = aligned_rows(
            len(hidden_RD), self.vocab_size, buffer_dtype(head), hidden_RD.device
        )
        return logits_of(product(hidden_RD, head, buffer_RV), head)

    def hidden(self, packed: PackedRows) -> Tensor:
        """The hidden states [T, D] that the head takes for each completion token of `packed`, with gradient."""
        layout = attention.PackedLayout(packed)
        if self.unsupported_reason:
            whole = self._run_whole(self.base.base_model, packed.token_P, layout)
            return whole[0].index_select(0, packed.source_T)
        body: Callable[..., Any] = self.base.base_model
        if self.shards is not None and self.is_split:
            body = self.shards.body
        output = self._run(
            body,
            packed.token_P[None],
            packed.position_P[None],
            layout=layout,
            cache=None,
        )
        return output.last_hidden_state[0].index_select(0, packed.source_T)

    def _run(
        self,
        model: Callable[..., Any],
        token_ids: Tensor,
        position_ids: Tensor,
        *,
        layout: attention.Layout,
        cache: Any,
        **options: Any,
    ) -> Any:
        for layer in self._checkpointed:  # a layer in training mode drops the cache it is given
            layer.training = cache is None and torch.is_grad_enabled()
        if cache is not None:
            options[self._cache_keyword] = cache
        with self.precision(), self._routes(layout, records=cache is not None):
            return model(
                input_ids=token_ids,
                position_ids=position_ids,
                layout=layout,
                use_cache=cache is not None,
                **options,
            )

    def _run_whole(
        self, model: nn.Module, token_P: Tensor, layout: attention.PackedLayout
    ) -> Tensor:
        """What `model` gives for each packed token, [1, P, ..]; rows are padded at the end, where nothing sees it."""
        for layer in self._checkpointed:
            layer.training = torch.is_grad_enabled()
        packed = layout.packed
        outputs = []
        routes: list[tuple[Routes, Tensor]] = []
        for bucket in packed.buckets:
            with self.precision(), self._routes(layout, bucket.gather_RL.reshape(-1)) as kept:
                output = model(input_ids=token_P[bucket.gather_RL], use_cache=False)
            values = output.logits if hasattr(output, "logits") else output.last_hidden_state
            outputs.append(values.flatten(0, 1).index_select(0, bucket.take))
            routes.append((kept, bucket.take))
        if self.routing is not None and self.routing.keeps:
            self.routing.last = joined(routes, packed.output_index_P)
        return torch.cat(outputs).index_select(0, packed.output_index_P)[None]

    @contextmanager
    def _routes(
        self, layout: attention.Layout, taken: Tensor | None = None, records: bool = False
    ) -> Iterator[Routes]:
        """Inside the block, one forward of a mixture of experts: the record of packed tokens (those `taken`) holds."""
        routing = self.routing
        if routing is None:
            yield Routes()
            return
        packed = layout.packed if isinstance(layout, attention.PackedLayout) else None
        replayed_PLK = None
        if packed is not None and routing.is_replayed:
            replayed_PLK = packed.routing_PLK
        if replayed_PLK is not None and taken is not None:
            replayed_PLK = replayed_PLK.index_select(0, taken)
        keep = "chosen" if records and routing.is_replayed else routing.keeps
        with routing.forward(replayed_PLK, keep=keep) as kept:
            yield kept
        if keep:
            routing.last = kept

    def token_stats(
        self, packed: PackedRows, temperature: float, entropy_gradient: bool = False
    ) -> TokenStats:
        """Log-prob and entropy of each completion token of `packed`, with gradient where it is enabled."""
        if self.head is not None:
            with self.one_pass() if not torch.is_grad_enabled() else nullcontext():
                hidden_TD = self.hidden(packed)
                head = self.head.at(temperature)
                logp_T, entropy_T = logprob(hidden_TD, head, packed.target_T)
            return TokenStats(logp_T, entropy_T if entropy_gradient else entropy_T.detach())
        logits_TV = self._packed_logits(packed)
        logp_T, entropy_T = token_logprob(logits_TV, packed.target_T, temperature)
        if entropy_gradient:
            entropy_T = entropy(logits_TV, temperature)
        return TokenStats(logp_T, entropy_T)

    def _packed_logits(self, packed: PackedRows) -> Tensor:
        """Logits [T, V] before each completion token, through the model's own head."""
        layout = attention.PackedLayout(packed)
        return self.logits(packed.token_P, packed.position_P, layout, packed.source_T)[0]

    @property
    def statistics_dtype(self) -> torch.dtype:
        """The dtype of log-probs: float32, or float64 for a float64 model."""
        return statistics_dtype(next(self.model.parameters()).dtype)

    @property
    def head(self) -> OutputHead | None:
        """The head whose log-probs are taken without whole logits; None if the model's own has to be used."""
        head = self._head_and_reason[0]
        if head is None or self.shards is None or not self.is_split:
            return head
        return replace(head, linear=cast(nn.Linear, self.base.get_output_embeddings()))

    @property
    def trains_head(self) -> bool:
        """Whether there is such a head, and its weight is trained."""
        head = self._head_and_reason[0]
        return head is not None and head.linear.weight.requires_grad

    @cached_property
    def _head_and_reason(self) -> tuple[OutputHead | None, str]:
        return find_head(self.base, self.vocab_size, self._probe)

    def _probe(self, token_P: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden states and the model's own logits before each token but the first."""
        row = Row(
            index=0,
            group=0,
            prompt_ids=(int(token_P[0]),),
            token_ids=tuple(token_P[1:].tolist()),
            sampled_logps=torch.zeros(0),
            advantage=0.0,
            mask=True,
            forwarded=True,
            outcome="trained",
        )
        packed = pack([row], self.device)
        logits_TV = self._packed_logits(packed)
        return self.hidden(packed), logits_TV

    def describe_fallback(self) -> list[str]:
        """A line if the model keeps its own attention: what that means, and why. Otherwise nothing."""
        if not self.unsupported_reason:
            return []
        return [
            "slower: sampled by transformers' generate, trained in whole rows, since "
            f"{self.unsupported_reason}"
        ]

    def describe_routing(self) -> list[str]:
        """A line for a mixture of experts: how its tokens are routed in training."""
        if self._routing_reason:
            return [f"experts: the trainer chooses its own, since {self._routing_reason}"]
        if self.routing is None:
            return []
        layers, experts_a_token = self.routing.shape
        size = f"{experts_a_token} of {self.routing.num_experts} a token in {many(layers, 'layer')}"
        if not self.routing.is_replayed:
            return [f"experts: {size}; the trainer chooses its own (model.routing_replay)"]
        return [f"experts: {size}; the trainer repeats the sampler's choice"]

    def no_load_balance(self) -> str:
        """Why the model has no load-balancing loss; empty if it has one."""
        if self.routing is not None:
            return without_balance_loss(self.base)
        return self._routing_reason or f"{type(self.base).__name__} has no experts"

    def describe_head(self) -> str:
        """One line: how log-probs are taken, and why if through whole logits."""
        head, reason = self._head_and_reason
        if head is None:
            return f"log-probs: through whole logits of the model's own head, since {reason}"
        size = f"{head.vocab_size} tokens x {head.linear.in_features}"
        return f"log-probs: head {backend(self.device)}, {size}"

    # -- weights that are divided over ranks ----------------------------------------------------------------

    def shard(self, ranks: Ranks) -> None:
        """Divide the weights over `ranks`: from here on the learner works with slices, after `split`.

        Raises `RecipeError` for a model of which that cannot be done.
        """
        reason = self.no_shards()
        if reason:
            raise RecipeError(
                f"model: its weights cannot be divided, since {reason}; set distributed.shard to false"
            )
        self.shards = Shards(self.model, ranks)
        twins = [
            m for m in self.shards.model.modules() if isinstance(m, GradientCheckpointingLayer)
        ]
        self._checkpointed += twins if self._checkpointed else []

    def no_shards(self) -> str:
        """Why the weights cannot be divided over ranks; empty if they can."""
        if self.unsupported_reason:
            return self.unsupported_reason
        if self.routing is not None or self._routing_reason:
            return f"{type(self.base).__name__} is a mixture of experts"
        if getattr(self.base, "is_quantized", False):
            return f"{type(self.base).__name__} is quantized"
        layers = [m for m in self.base.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            return f"{type(self.base).__name__} has no layers that could be gathered one at a time"
        head, why = self._head_and_reason
        return "" if head is not None else f"log-probs are taken through whole logits: {why}"

    @property
    def is_split(self) -> bool:
        """Whether each rank has but its slices of the weights at the moment."""
        return self.shards is not None and self.model is self.shards.model

    def gather(self) -> None:
        """Have all weights on every rank, to sample, evaluate or save; all ranks call it. Nothing if they are there."""
        if self.shards is not None:
            self.shards.gather()
            self.model = cast(PreTrainedModel, self.shards.plain)

    def split(self) -> None:
        """Free all weights but this rank's slices, to learn. Nothing if they are not divided."""
        if self.shards is not None:
            self.shards.drop()
            self.model = cast(PreTrainedModel, self.shards.model)

    def _check_whole(self) -> None:
        """Refuse what reads all weights while this rank has but its slices of them."""
        if self.is_split:
            raise RuntimeError(
                "policy: each process holds a slice of the weights after an update (distributed.shard); call "
                "policy.gather() in all processes before you sample, save or read them"
            )

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """A forward, and its backward if there is one; what they gather of divided weights is freed at the end."""
        yield
        if self.shards is not None and self.is_split:
            self.shards.end_pass()

    # -- weights ------------------------------------------------------------------------------------------

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def held(self) -> dict[str, nn.Parameter]:
        """The trainable parameters as the learner holds them, by name: distributed tensors if they are divided."""
        return self.trainable() if self.shards is None else self.shards.trainable()

    def held_part(self, weight: Tensor) -> Tensor:
        """What the learner holds on this rank of a weight: all of it, or a copy of its slice."""
        return weight if self.shards is None else self.shards.slice_of(weight).clone()

    def all_of(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of which `held` are what the learner holds; if divided, on the first rank, and all ranks call it."""
        if self.shards is None:
            return dict(held)
        weights = {}
        for name, part in held.items():
            whole = self.shards.whole(self.shards.parameters[name], part)
            weights[name] = whole if self.shards.ranks.main else whole.new_empty(0)
        return weights

    @torch.no_grad()
    def load_held(self, weights: Mapping[str, Tensor]) -> None:
        """Set the trainable parameters, given whole."""
        for name, parameter in self.held().items():
            local_part(parameter).copy_(self.held_part(weights[name]))
        if self.shards is not None:
            self.shards.drop()
            self.gather()

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the trainable parameters, or of this rank's slices of them."""
        return {name: local_part(p).clone() for name, p in self.held().items()}

    @contextmanager
    def as_if(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside the block, the policy with `weights` in place of its own: how the reference's log-probs are taken."""
        if self.shards is not None:
            with self.shards.swapped(weights):
                yield
            return
        current = {name: p.data for name, p in self.trainable().items()}
        try:
            for name, p in self.trainable().items():
                p.data = weights[name]
            yield
        finally:
            for name, p in self.trainable().items():
                p.data = current[name]

    def weights_changed(self) -> None:
        """Count a change of the weights; to be called after every one."""
        self.version += 1
        self.split()  # what was gathered before is old

    def fingerprint(self) -> int:
        """64 bits that change when the trained weights do: a hash of the first values of each parameter.

        Raises `RuntimeError` while the weights are in slices.
        """
        self._check_whole()
        hashes = [
            torch.hash_tensor(p.detach().reshape(-1)[:FINGERPRINT_VALUES]).view(torch.int64)
            for p in self.trainable().values()
            if p.numel()
        ]
        values = torch.stack(hashes).tolist() if hashes else []
        digest = hashlib.blake2b(repr(values).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    def not_finite(self) -> str:
        """The name of the first parameter that has values that are not finite; empty if there is none."""
        for name, p in self.model.named_parameters():
            if p.is_floating_point() and not bool(p.detach().isfinite().all()):
                return name
        return ""

    def save(self, folder: Path) -> None:
        """Write a folder that ``AutoModelForCausalLM.from_pretrained`` loads, adapters merged.

        Its generation configuration names every token that ends a completion here, and the tokenizer's padding. Raises
        `RuntimeError` while the weights are in slices.
        """
        self._check_whole()
        if self.model is not self.base:
            save_adapters(self.model, folder / "adapter")
        model = self.plain_model()
        implementation = model.config._attn_implementation
        generation = model.generation_config
        try:
            model.config._attn_implementation = self._own_attention
            model.generation_config = self.generation_config()
            with _saved_by_any_rank(model):
                model.save_pretrained(folder)
        finally:
            model.config._attn_implementation = implementation
            model.generation_config = generation
        self.tokenizer.save_pretrained(folder)

    def plain_model(self) -> PreTrainedModel:
        """The model without adapters: with their changes merged into a copy if it has some, else itself."""
        if self.model is not self.base:
            return merged(self.model)
        tell_tie(self.base)
        return self.base

    def generation_config(self) -> GenerationConfig:
        """The model's, with the end tokens and the padding that completions are sampled with here."""
        configured = self.base.generation_config
        config = GenerationConfig() if configured is None else copy.deepcopy(configured)
        ends = sorted(self.stop_ids)
        config.eos_token_id = ends[0] if len(ends) == 1 else ends or None
        config.pad_token_id = self.tokenizer.pad_token_id
        try:
            config.validate(strict=True)
        except ValueError:
            config.do_sample = True  # published ones set temperature without it
        return config

    def describe(self) -> str:
        """One line: architecture, sizes, dtype, device."""
        total = sum(p.numel() for p in self.model.parameters())
        trained = sum(p.numel() for p in self.trainable().values())
        dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        share = "" if trained == total else f", {count(trained)} of them trained (LoRA)"
        kind = type(self.base).__name__
        return f"{kind}, {count(total)} parameters{share}, {dtype} on {self.device}"

    def describe_frozen(self) -> str:
        """One line on a model of which nothing trains: architecture, size, dtype."""
        total = sum(p.numel() for p in self.model.parameters())
        dtype = str(self.base.dtype).removeprefix("torch.")
        return f"{type(self.base).__name__}, {count(total)} parameters, {dtype}"


@contextmanager
def _both(
    first: AbstractContextManager[Any], second: AbstractContextManager[Any]
) -> Iterator[None]:
    with first, second:
        yield


@contextmanager
def _saved_by_any_rank(model: Any) -> Iterator[None]:
    """Inside the block transformers writes what it is told to on every rank, not on the first alone."""
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    try:
        yield
    finally:
        del model.should_save_on_this_rank


def check_device(device: torch.device) -> None:
    """Refuse a device on which sampling and training have not been proven."""
    if device.type not in ("cpu", "cuda"):
        raise RecipeError(
            f"device: models run on cpu and cuda here, not on {device.type} (the sampler's noise and the "
            "statistics need 64-bit arithmetic, which Apple's MPS lacks); unset "
            "ACCELERATE_TORCH_DEVICE, or set it to cpu"
        )


def count(number: float) -> str:
    """1234567 as 1.23M.

    >>> count(1234567), count(999)
    ('1.23M', '999')
    """
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.0f}"


# ---- what a model's class and configuration say -----------------------------------------------------------------


def _own_attention_needed(base: PreTrainedModel) -> str:
    """Why the model's attention cannot be replaced, as far as class and configuration tell; empty if it can."""
    name = type(base).__name__
    config = base.config.get_text_config()
    if not getattr(base, "_supports_attention_backend", False):
        return f"{name} does not take its attention from transformers' attention interface"
    layer_types = set(getattr(config, "layer_types", None) or ())
    unsupported = layer_types - {"full_attention", "sliding_attention"}
    if unsupported:
        return f"{name} has layers of {' and '.join(sorted(unsupported))}"
    if getattr(config, "kv_lora_rank", None):
        return f"{name} caches compressed keys and values (latent attention)"
    return ""


def cache_keyword(model: PreTrainedModel) -> str:
    """The name under which the model's forward takes a cache: transformers 5.24 renamed it."""
    names = inspect.signature(model.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def turn_dropout_off(model: nn.Module) -> None:
    """Set every dropout probability in `model` to 0; its configuration keeps its values."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in DROPOUT_ATTRIBUTES:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends a completion: the model's and tokenizer's eos, and the end of a chat turn."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = set(configured if isinstance(configured, list) else [configured])
    ids.add(tokenizer.eos_token_id)
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    ends = {vocabulary[end] for end in CHAT_ENDS if end in vocabulary}
    ids |= ends & special
    size = model.config.get_text_config().vocab_size
    return frozenset(int(token) for token in ids if token is not None and token < size)
