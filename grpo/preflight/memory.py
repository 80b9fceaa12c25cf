"""How much memory an update will take, before it is made: weights, gradients, moments, activations, the head's chunk.

Activations are counted, not estimated: the model's forward runs with fake tensors over the largest micro-batch, and
every storage that autograd saves is added up once. So it holds for any architecture, layout and adapter. What a
sampler keeps (keys and values) is the caller's to say. Temporary memory of the backward is bounded by a formula.

These are bytes in use. On a CPU, glibc keeps some of what was freed: the resident memory was seen 10 to 75 % above them
(MALLOC_MMAP_THRESHOLD_=131072 in the environment makes it give memory back, for some time).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from grpo.kernels.log_prob.chunked import by_onednn, slices
from grpo.kernels.log_prob.spec import Head, buffer_dtype, chunk_rows
from grpo.learner.lean_adamw import BLOCK
from grpo.model.loading import with_adapters
from grpo.model.packing import PackedRows, micro_batches, pack
from grpo.model.policy import Policy
from grpo.recipe import LossSection, ModelSection, OptimSection
from grpo.types import Row

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the device. ``activations`` are of the largest micro-batch, ``head`` and ``backward`` come and go.

    ``gradients`` are those that exist while activations do: all of them if a step has several micro-batches.
    """

    weights: int
    masters: int
    gradients: int
    moments: int
    reference: int
    activations: int
    head: int
    backward: int
    sampler: int
    all_gradients: int

    @property
    def peak(self) -> int:
        """The most that is held at once: at the top of the backward, in the optimizer's step, or in sampling."""
        still = self.weights + self.masters + self.moments + self.reference
        top = self.gradients + self.activations + max(self.head, self.backward)
        return still + max(top, self.all_gradients, self.sampler)

    def lines(self) -> Iterator[str]:
        """The terms and their peak in words."""
        shown = [
            f"{f.name.replace('_', ' ')} {getattr(self, f.name) / GIB:.2f}"
            for f in fields(self)
            if getattr(self, f.name) and f.name != "all_gradients"
        ]
        yield f"memory of an update at its peak, beside the programs themselves: {self.peak / GIB:.2f} GiB"
        yield f"  in GiB: {', '.join(shown)}"


def predict(
    config: Any,
    tokenizer: PreTrainedTokenizerBase,
    model: ModelSection,
    optim: OptimSection,
    loss: LossSection,
    rows: Sequence[Row],
    *,
    device: str = "cpu",
    sampler_bytes: int = 0,
) -> Memory:
    """The memory of one update over `rows`, for a model of `config` as the recipe's sections say.

    `device` is where it will run; nothing is allocated there.
    """
    chunks = micro_batches(rows, optim.tokens_per_micro_batch)
    largest = max(
        chunks,
        key=lambda chunk: (
            sum(r.num_tokens for r in chunk)
            + sum({r.group: len(r.prompt_ids) for r in chunk}.values())
        ),
    )
    packed = pack(largest)
    if device != "cpu":
        packed = replace(
            packed, shared=None
        )  # attention without copies of the prompts is the CPU's
    with FakeTensorMode(allow_non_fake_inputs=True):
        policy = _fake_policy(config, tokenizer, model)
        return _counted(policy, packed, model, optim, loss, len(chunks), device, sampler_bytes)


def example_rows(prompts: int, group_size: int, prompt_tokens: int, max_tokens: int) -> list[Row]:
    """The rows of an update in which every completion has its full length."""
    logps = torch.zeros(max_tokens)
    return [
        Row(
            g * group_size + i,
            g,
            (0,) * prompt_tokens,
            (0,) * max_tokens,
            logps,
            1.0,
            True,
            True,
            "trained",
        )
        for g in range(prompts)
        for i in range(group_size)
    ]


def _fake_policy(config: Any, tokenizer: PreTrainedTokenizerBase, section: ModelSection) -> Policy:
    dtype = getattr(torch, section.dtype)
    with _unmoved():
        made = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if section.lora is not None:
            made = with_adapters(made, section.lora)
        return Policy(made, tokenizer)


@contextmanager
def _unmoved() -> Iterator[None]:
    """Modules stay where they are: fake parameters cannot be moved, and have no need to be."""
    move, nn.Module.to = nn.Module.to, lambda self, *arguments, **options: self
    try:
        yield
    finally:
        nn.Module.to = move


@contextmanager
def _one_expert() -> Iterator[None]:
    """The tokens of all experts go through the first: how many each would get is not known, and changes nothing."""
    grouped, nn.functional.grouped_mm = (
        nn.functional.grouped_mm,
        lambda x, weight, **options: x @ weight[0],
    )
    try:
        yield
    finally:
        nn.functional.grouped_mm = grouped


def _counted(
    policy: Policy,
    packed: PackedRows,
    model: ModelSection,
    optim: OptimSection,
    loss: LossSection,
    num_chunks: int,
    device: str,
    sampler_bytes: int,
) -> Memory:
    every, learnt = (
        list(parts) for parts in (policy.model.parameters(), policy.trainable().values())
    )
    linear = policy.base.get_output_embeddings()
    weight_VD = linear.weight[: policy.vocab_size]
    numbers = sum(p.numel() for p in learnt)
    all_gradients = sum(p.numel() * max(4, p.element_size()) for p in learnt)
    saved = _saved(policy, packed)
    width = policy.base.config.get_text_config()
    if model.gradient_checkpointing:
        layers = width.num_hidden_layers
        saved = (
            saved // layers
            + layers * packed.num_tokens * width.hidden_size * every[0].element_size()
        )
    first = (
        weight_VD.numel() * max(4, weight_VD.element_size()) if linear.weight.requires_grad else 0
    )
    widest = _widest(policy.base, width)
    return Memory(
        weights=sum(p.numel() * p.element_size() for p in every),
        masters=sum(4 * p.numel() for p in learnt if p.element_size() < 4),
        gradients=all_gradients if num_chunks > 1 else first,
        moments=_moments(numbers, learnt, optim, device),
        reference=sum(p.numel() * p.element_size() for p in learnt) if loss.beta else 0,
        activations=saved,
        head=_head(weight_VD, len(packed.target_T), device),
        backward=4 * packed.num_tokens * widest * every[0].element_size(),
        sampler=sampler_bytes,
        all_gradients=all_gradients,
    )


def _widest(base: nn.Module, config: Any) -> int:
    """The most numbers a token has at once within a layer."""
    dense = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    routed = getattr(config, "num_experts_per_tok", None) or 0
    if not routed:
        return max(dense, config.hidden_size)
    expert = routed * max(
        getattr(config, "moe_intermediate_size", None) or dense, config.hidden_size
    )
    has_dense = any(
        isinstance(module, nn.Linear) and module.out_features == dense for module in base.modules()
    )
    return max(expert, dense if has_dense else 0)


def _moments(number: int, learnt: Sequence[Tensor], optim: OptimSection, device: str) -> int:
    if optim.offload and device != "cpu":
        return 0
    if optim.state == "8bit":
        return 2 * number + 8 * (number // BLOCK)
    return sum(2 * p.numel() * max(4, p.element_size()) for p in learnt)


def _head(weight_VD: Tensor, number: int, device: str) -> int:
    """A chunk's logits, the gradient of its hidden states, and a part of both in oneDNN's own order."""
    head = Head(weight_VD)
    rows = min(chunk_rows(head, device), number)
    part = slices(weight_VD)[0][1] if device == "cpu" and by_onednn(weight_VD) else 0
    ordered = 4 * part * (weight_VD.shape[1] + rows)
    return (
        rows * len(weight_VD) * buffer_dtype(head, device).itemsize
        + 2 * number * weight_VD.shape[1] * 4
        + ordered
    )


def _saved(policy: Policy, packed: PackedRows) -> int:
    """Bytes of all storages that autograd keeps of a forward, weights left out, each once."""
    own = {p.untyped_storage()._cdata for p in policy.model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    checkpointed, policy._checkpointed = policy._checkpointed, []
    for layer in checkpointed:
        layer.training = False
    with _one_expert(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden_TD = policy.hidden(packed)
    policy._checkpointed = checkpointed
    assert hidden_TD.requires_grad
    return sum(storage.nbytes() for storage in kept.values())
