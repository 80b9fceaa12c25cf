"""How much memory an update will take, before it is made: weights, gradients, moments, activations, the head's chunk.

Activations are counted, not estimated: the model's forward runs with fake tensors over the largest micro-batch, and
each storage that autograd saves is counted once. So it holds for any architecture, layout and adapter. What a sampler
holds (keys and values) is passed in by the caller. Temporary memory of the backward is bounded by a formula.

These are bytes in use. On a CPU, glibc keeps some of what was freed: resident memory was 10 to 75 % above them
(MALLOC_MMAP_THRESHOLD_=131072 in the environment makes it give memory back, at a cost in time).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.kernels.log_prob.chunked import by_onednn, slices
from grpo.kernels.log_prob.spec import Head, buffer_dtype, chunk_rows
from grpo.learner.lean_adamw import BLOCK
from grpo.model.loading import with_adapters
from grpo.model.packing import PackedRows, micro_batches, pack
from grpo.model.policy import Policy
from grpo.model.saved_adapter import without_weights
from grpo.recipe import LossSection, ModelSection, OptimSection
from grpo.types import Row

GIB = 2**30
MIN_GRADIENT_BYTES = 4
"""Gradients and moments are at least float32."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the device. ``activations`` are of the largest micro-batch, ``head`` and ``backward`` are temporary.

    ``gradients`` are those that exist while activations do: all of them if a step has several micro-batches.
    ``teacher`` is held throughout, ``teacher_pass`` a teacher that is offloaded, for its forward once a step. Where
    weights are divided over processes, the terms are of the largest slices; ``gathered`` is then what a process has of
    the others' slices in an update, and ``whole`` all weights, for sampling.
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
    teacher: int = 0
    teacher_pass: int = 0
    gathered: int = 0
    whole: int = 0

    @property
    def permanent(self) -> int:
        """What is held from the first step to the last."""
        return self.weights + self.masters + self.moments + self.reference + self.teacher

    @property
    def update_peak(self) -> int:
        """The most that an update holds: at the top of the backward, or in the optimizer's step."""
        backward = self.gradients + self.activations + max(self.head, self.backward) + self.gathered
        return self.permanent + max(backward, self.all_gradients)

    @property
    def sample_peak(self) -> int:
        """What is held while completions are sampled."""
        return self.permanent + self.sampler + self.whole

    @property
    def peak(self) -> int:
        """The most that is held at once: in an update, in sampling, or in the teacher's pass."""
        return max(self.update_peak, self.sample_peak, self.permanent + self.teacher_pass)

    def lines(self) -> Iterator[str]:
        """The peak and its terms in words."""
        names = [field.name for field in fields(self) if field.name != "all_gradients"]
        terms = [
            f"{name.replace('_', ' ')} {getattr(self, name) / GIB:.2f}"
            for name in names
            if getattr(self, name)
        ]
        yield f"memory of an update at its peak, on top of the programs themselves: {self.peak / GIB:.2f} GiB"
        yield f"  in GiB: {', '.join(terms)}"


def predict(
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    model: ModelSection,
    optim: OptimSection,
    loss: LossSection,
    rows: Sequence[Row],
    *,
    device: str = "cpu",
    sampler_bytes: int = 0,
    teacher_bytes: int = 0,
    processes: int = 1,
) -> Memory:
    """The memory of one update over `rows`, for a model of `config` as the recipe's sections say.

    `device` is where it will run; nothing is allocated there. `teacher_bytes` are the weights of ``loss.teacher``.
    The weights are divided over so many `processes`.
    """
    chunks = micro_batches(rows, optim.tokens_per_micro_batch)
    packed = pack(max(chunks, key=_num_packed_tokens))
    if device != "cpu":
        packed = replace(packed, shared=None)  # only the CPU attends without copies of the prompts
    leaves = loss.teacher_offload and device != "cpu"
    held_teacher = 0 if leaves else teacher_bytes
    with FakeTensorMode(allow_non_fake_inputs=True):
        policy = _fake_policy(config, tokenizer, model)
        trained = _slices(policy.trainable().values(), processes)
        all_gradients = _gradient_bytes(trained)
        some_gradients = all_gradients if processes > 1 else _head_gradient_bytes(policy)
        of_one = Memory(
            weights=_bytes(_slices(policy.model.parameters(), processes)),
            masters=_master_bytes(trained),
            gradients=all_gradients if len(chunks) > 1 else some_gradients,
            moments=_moment_bytes(trained, optim, device),
            reference=_reference_bytes(trained, loss),
            activations=_activation_bytes(policy, packed, model.gradient_checkpointing),
            head=_head_bytes(policy, len(packed.target_T), device),
            backward=_backward_bytes(policy, packed.num_tokens),
            sampler=sampler_bytes,
            all_gradients=all_gradients,
            teacher=held_teacher,
            teacher_pass=teacher_bytes - held_teacher,
        )
        if processes == 1:
            return of_one
        whole = _bytes(policy.model.parameters()) + _kept_bytes(policy)
        gathered = _gathered_bytes(policy, processes, device)
        return replace(of_one, whole=whole, gathered=gathered)


def example_rows(
    prompts: int, group_size: int, prompt_tokens: int, max_tokens: int, given_tokens: int = 0
) -> list[Row]:
    """The rows of an update in which every completion has its full length, and was given so many tokens more."""
    sampled_logps = torch.zeros(max_tokens)
    return [
        Row(
            index=index,
            group=index // group_size,
            prompt_ids=(0,) * prompt_tokens,
            token_ids=(0,) * (max_tokens + given_tokens),
            given=((0, given_tokens),) if given_tokens else (),
            sampled_logps=sampled_logps,
            advantage=1.0,
            mask=True,
            forwarded=True,
            outcome="trained",
        )
        for index in range(prompts * group_size)
    ]


def _num_packed_tokens(rows: Sequence[Row]) -> int:
    """Tokens of a micro-batch: each completion's, and each group's prompt once."""
    prompts = {row.group: len(row.prompt_ids) for row in rows}
    return sum(len(row.token_ids) for row in rows) + sum(prompts.values())


# ---- a model without memory -----------------------------------------------------------------------------------


def _fake_policy(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, section: ModelSection
) -> Policy:
    """The policy with fake parameters. They cannot be moved, and need not be: modules stay on their device."""
    dtype = getattr(torch, section.dtype)
    with _replaced(nn.Module, "to", lambda self, *arguments, **options: self):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if section.lora is not None:
            model = with_adapters(model, section.lora)
        if section.adapter is not None:
            model = without_weights(model, section.adapter)
        return Policy(model, tokenizer)


def _first_expert(tokens: Tensor, weights: Tensor, **options: Any) -> Tensor:
    """All tokens go through the first expert: how many each would get is not known, and does not change the sum."""
    return tokens @ weights[0]


@contextmanager
def _replaced(owner: object, name: str, function: Callable[..., Any]) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, original)


# ---- the terms ------------------------------------------------------------------------------------------------


def _bytes(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _slices(parameters: Iterable[Tensor], processes: int) -> list[Tensor]:
    """The first process's slice of each parameter, which no other's exceeds."""
    return [parameter[: -(-len(parameter) // processes)] for parameter in parameters]


def _gathered_bytes(policy: Policy, processes: int, device: str) -> int:
    """What an update with divided weights has of others' slices: weights and gradients on their way, at the most.

    What is in no layer stays for a whole pass. Beside it there are either two layers, one of which is on its way, with
    their gradients; or the head's gradient, and its weight if that is its own; or the gradient of the embedding, when
    a tied weight is freed. A gradient is copied to be summed, and by gloo once more.
    """
    copies = 2 if device == "cpu" else 1
    layers = [m for m in policy.base.modules() if isinstance(m, GradientCheckpointingLayer)]
    embedding, head = _ends(policy)
    own = [embedding, head] if head is not embedding else []
    in_units = sum(_bytes(layer.parameters()) for layer in layers) + _bytes(own)
    rest = _bytes(policy.model.parameters()) - in_units
    of_layers = [
        2 * _bytes(layer.parameters()) + (1 + copies) * _trained_bytes(layer.parameters())
        for layer in layers
    ]
    of_head = _bytes(own[1:])
    if head.requires_grad:
        of_head += int((copies + 1 / processes) * _gradient_bytes([head]))
    of_embedding = int((1 + copies + 1 / processes) * _trained_bytes([embedding]))
    if not own:
        of_embedding -= _bytes([embedding])
    return rest + max(*of_layers, of_head, of_embedding)


def _kept_bytes(policy: Policy) -> int:
    """The gradients that were summed last, of what is in no layer: their copy stays until the next backward."""
    embedding, head = _ends(policy)
    return _trained_bytes([embedding]) if head is embedding else 0


def _ends(policy: Policy) -> tuple[Tensor, Tensor]:
    """The weights of embedding and head, which may be one."""
    embedding: Any = policy.base.get_input_embeddings()
    head: Any = policy.base.get_output_embeddings()
    return embedding.weight, head.weight


def _trained_bytes(parameters: Iterable[Tensor]) -> int:
    return _bytes(parameter for parameter in parameters if parameter.requires_grad)


def _reference_bytes(trained: Sequence[Tensor], loss: LossSection) -> int:
    return _bytes(trained) if loss.beta else 0


def _gradient_bytes(trained: Sequence[Tensor]) -> int:
    return sum(
        parameter.numel() * max(MIN_GRADIENT_BYTES, parameter.element_size())
        for parameter in trained
    )


def _master_bytes(trained: Sequence[Tensor]) -> int:
    """Float32 copies of weights in half precision."""
    return sum(4 * parameter.numel() for parameter in trained if parameter.element_size() < 4)


def _moment_bytes(trained: Sequence[Tensor], optim: OptimSection, device: str) -> int:
    if optim.offload and device != "cpu":
        return 0
    if optim.state == "8bit":
        number = sum(parameter.numel() for parameter in trained)
        return 2 * number + 8 * (number // BLOCK)
    return 2 * _gradient_bytes(trained)


def _head_weight(policy: Policy) -> Tensor:
    """[vocabulary, width]; only the tokens that can be sampled."""
    return policy.base.get_output_embeddings().weight[: policy.vocab_size]


def _head_gradient_bytes(policy: Policy) -> int:
    """The one gradient that exists while activations do, in a single micro-batch: that of the head."""
    if not policy.base.get_output_embeddings().weight.requires_grad:
        return 0
    return _gradient_bytes([_head_weight(policy)])


def _head_bytes(policy: Policy, num_targets: int, device: str) -> int:
    """A chunk's logits, the gradient of its hidden states, and a part of both in oneDNN's own order."""
    weight_VD = _head_weight(policy)
    vocabulary, width = weight_VD.shape
    head = Head(weight_VD)
    rows = min(chunk_rows(head, device), num_targets)
    logits = rows * vocabulary * buffer_dtype(head, device).itemsize
    hidden_gradient = 2 * num_targets * width * 4
    reordered = slices(weight_VD)[0][1] if device == "cpu" and by_onednn(weight_VD) else 0
    return logits + hidden_gradient + 4 * reordered * (width + rows)


def _backward_bytes(policy: Policy, num_tokens: int) -> int:
    """A bound of what the backward of one layer holds for a moment."""
    width = _widest(policy.base, policy.base.config.get_text_config())
    return 4 * num_tokens * width * _element_size(policy)


def _element_size(policy: Policy) -> int:
    return next(iter(policy.model.parameters())).element_size()


def _widest(base: nn.Module, config: PretrainedConfig) -> int:
    """The most numbers a token has at once within a layer."""
    dense = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    num_routed = getattr(config, "num_experts_per_tok", None) or 0
    if not num_routed:
        return max(dense, config.hidden_size)
    expert = getattr(config, "moe_intermediate_size", None) or dense
    routed = num_routed * max(expert, config.hidden_size)
    return max(routed, dense if _has_linear(base, dense) else 0)


def _has_linear(base: nn.Module, out_features: int) -> bool:
    return any(
        isinstance(module, nn.Linear) and module.out_features == out_features
        for module in base.modules()
    )


# ---- activations ----------------------------------------------------------------------------------------------


def _activation_bytes(policy: Policy, packed: PackedRows, checkpointing: bool) -> int:
    """What autograd keeps of a forward: all of it, or one layer's and every layer's input if it is recomputed."""
    saved = _saved_bytes(policy, packed)
    if not checkpointing:
        return saved
    config = policy.base.config.get_text_config()
    layers = config.num_hidden_layers
    inputs = layers * packed.num_tokens * config.hidden_size * _element_size(policy)
    return saved // layers + inputs


def _saved_bytes(policy: Policy, packed: PackedRows) -> int:
    """Bytes of all storages that autograd keeps of a forward, without weights, each once."""
    weights = {parameter.untyped_storage()._cdata for parameter in policy.model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage
        return tensor

    def load(tensor: Tensor) -> Tensor:
        return tensor

    checkpointed = policy._checkpointed
    policy._checkpointed = []
    for layer in checkpointed:
        layer.training = False
    with (
        _replaced(nn.functional, "grouped_mm", _first_expert),
        torch.autograd.graph.saved_tensors_hooks(save, load),
    ):
        hidden_TD = policy.hidden(packed)
    policy._checkpointed = checkpointed
    assert hidden_TD.requires_grad
    return sum(storage.nbytes() for storage in saved.values())
