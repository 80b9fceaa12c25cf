"""Where a model keeps its output head: weight, bias, scale and soft-cap, verified against the model's own logits.

Models differ in what they do after the product (Granite divides, Cohere multiplies, Gemma caps, vocabularies are
padded). What the configuration says is tried on a few tokens; unless the logits are the model's own, its own head stays
in use, through whole logits, and the reason is reported. The same holds if an adapter sits on the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grpo.kernels.log_prob import Head, reference
from grpo.kernels.log_prob.spec import statistics_dtype

NUM_PROBE_TOKENS = 16
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 1e-2}
"""How far logits may differ from the model's own, relative to the largest of these, by the weight's dtype."""

Probe = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From token ids [T] to the hidden states [T, D] before the head and the model's own logits [T, V]."""


@dataclass(frozen=True, slots=True, eq=False)
class OutputHead:
    """The model's output layer with what its forward does to the product; its weights are read at each use."""

    linear: nn.Linear
    vocab_size: int
    scale: float
    softcap: float

    def at(self, temperature: float) -> Head:
        """The head at a sampling temperature, over the tokens that can be sampled."""
        bias = self.linear.bias
        return Head(
            weight_VD=self.linear.weight[: self.vocab_size],
            bias_V=None if bias is None else bias[: self.vocab_size],
            scale=self.scale,
            softcap=self.softcap,
            temperature=temperature,
        )


def find_head(
    base: PreTrainedModel, vocab_size: int, probe: Probe
) -> tuple[OutputHead | None, str]:
    """(the head, "") or (None, why the model's own is used)."""
    output_layer = base.get_output_embeddings()
    linear = active_linear(output_layer)
    if linear is None:
        return None, f"its output layer is {type(output_layer).__name__}, not one plain matrix"
    config = base.config.get_text_config()
    multiplier = float(getattr(config, "logit_scale", None) or 1.0)
    divisor = float(getattr(config, "logits_scaling", None) or 1.0)
    head = OutputHead(
        linear=linear,
        vocab_size=vocab_size,
        scale=multiplier / divisor,
        softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
    )
    difference = largest_difference(head, probe)
    if difference <= TOLERANCE[linear.weight.dtype]:
        return head, ""
    return (
        None,
        f"from its hidden states and weights its logits differ by {difference:.1e} of their size",
    )


def active_linear(module: Any) -> nn.Linear | None:
    """The matrix that acts: the trained copy if PEFT trains the whole head; None if an adapter sits on it."""
    if hasattr(module, "modules_to_save") and hasattr(module, "active_adapters"):
        names = module.active_adapters
        module = module.modules_to_save[names[0]] if len(names) == 1 else None
    if type(module) is not nn.Linear or module._forward_hooks or module._forward_pre_hooks:
        return None
    return module


@torch.no_grad()
def largest_difference(head: OutputHead, probe: Probe) -> float:
    """The largest difference between our logits and the model's own, relative to the largest of these."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(head.vocab_size, (NUM_PROBE_TOKENS,), generator=generator)
    hidden_TD, logits_TV = probe(ids.to(head.linear.weight.device))
    if hidden_TD.shape[-1] != head.linear.in_features:
        return float("inf")
    dtype = statistics_dtype(logits_TV.dtype)
    ours_TV = reference.logits(hidden_TD, head.at(1.0)).to(dtype)
    logits_TV = logits_TV.to(dtype)
    return float((ours_TV - logits_TV).abs().max() / logits_TV.abs().max().clamp_min(1e-30))
