"""Where a model keeps its head: weight, bias, scale and soft-cap, proven against the model's own logits.

Models differ in what they do after the product (Granite divides, Cohere multiplies, Gemma caps, vocabularies are
padded). What the configuration says is tried on a few tokens; unless the log-probs are the model's own, its own head
goes on being used, through whole logits, and the reason is said. That is also so where an adapter lies on the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import torch
from torch import Tensor, nn

from grpo.kernels.log_prob import Head, reference
from grpo.kernels.log_prob.spec import statistics_dtype

PROBE = 16
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 1e-2}


@dataclass(frozen=True, slots=True, eq=False)
class OutputHead:
    """The model's output layer with what its forward does to the product; read anew for each use."""

    linear: nn.Linear
    vocab_size: int
    scale: float
    softcap: float

    def at(self, temperature: float) -> Head:
        """The head at a sampling temperature, over the tokens that can be sampled."""
        bias = self.linear.bias
        return Head(
            self.linear.weight[: self.vocab_size],
            None if bias is None else bias[: self.vocab_size],
            self.scale,
            self.softcap,
            temperature,
        )


def find_head(
    base: nn.Module, vocab_size: int, forward: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[OutputHead | None, str]:
    """(the head, "") or (None, why the model's own is used).

    `forward` takes token ids and returns the hidden states [T, D] before the head and the model's own logits [T, V].
    """
    linear = _linear(base.get_output_embeddings())
    if linear is None:
        return (
            None,
            f"its output layer is {type(base.get_output_embeddings()).__name__}, not one plain matrix",
        )
    config = base.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
        getattr(config, "logits_scaling", None) or 1.0
    )
    head = OutputHead(
        linear, vocab_size, scale, float(getattr(config, "final_logit_softcapping", None) or 0.0)
    )
    apart = _apart(head, forward)
    if apart <= TOLERANCE[linear.weight.dtype]:
        return head, ""
    return (
        None,
        f"from its hidden states and weights its logits differ by {apart:.1e} of their size",
    )


def _linear(module: Any) -> nn.Linear | None:
    """The matrix that acts: of a head that PEFT trains whole, the trained copy; None where an adapter lies on it."""
    if hasattr(module, "modules_to_save") and hasattr(module, "active_adapters"):
        names = module.active_adapters
        module = module.modules_to_save[names[0]] if len(names) == 1 else None
    hooked = module is not None and (module._forward_hooks or module._forward_pre_hooks)
    return module if type(module) is nn.Linear and not hooked else None


@torch.no_grad()
def _apart(head: OutputHead, forward: Callable[[Tensor], tuple[Tensor, Tensor]]) -> float:
    """The largest difference between our logits and the model's own, relative to the largest of these."""
    device = head.linear.weight.device
    ids = torch.randint(head.vocab_size, (PROBE,), generator=torch.Generator().manual_seed(0)).to(
        device
    )
    hidden_TD, own_TV = forward(ids)
    if hidden_TD.shape[-1] != head.linear.in_features:
        return float("inf")
    dtype = statistics_dtype(own_TV.dtype)
    ours_TV = reference.logits(hidden_TD, head.at(1.0)).to(dtype)
    own_TV = own_TV.to(dtype)
    return float((ours_TV - own_TV).abs().max() / own_TV.abs().max().clamp_min(1e-30))
