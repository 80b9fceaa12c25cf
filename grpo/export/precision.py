"""At which precision each tensor of a GGUF file is kept, by the name of the whole, and its bytes.

As in llama.cpp's own quantiser: norms, biases and routers stay in fp32; Q4_K means its mixture Q4_K_M, with Q6_K for
the output layer and for half of the value and down projections; a row that is no whole number of blocks gets the next
finer format that takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, TypeAlias

import gguf
import numpy
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from torch import Tensor

from grpo.export.k_quants import quantize_q4_k, quantize_q6_k

Kind: TypeAlias = GGMLQuantizationType
FULL = ("ffn_gate_inp",)
"""Matrices that are kept in fp32: routers of mixtures of experts."""
FINER: Mapping[Kind, Kind] = {
    Kind.Q4_K: Kind.Q5_0,
    Kind.Q6_K: Kind.Q8_0,
    Kind.Q5_0: Kind.F16,
    Kind.Q8_0: Kind.F16,
}
"""What takes the place of a format whose blocks do not fit into a row."""


@dataclass(frozen=True, slots=True)
class Precision:
    """``kind`` is the format of most matrices, ``better`` that of those that matter most.

    ``drift_limit`` is how far the mean log-prob of a row of arbitrary tokens may be off in a file that is right, in
    nats: the loss that is to be expected times a few.
    """

    name: str
    file_type: LlamaFileType
    kind: Kind
    better: Kind
    drift_limit: float


PRECISIONS: Mapping[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision("F32", LlamaFileType.ALL_F32, Kind.F32, Kind.F32, 1e-3),
        Precision("F16", LlamaFileType.MOSTLY_F16, Kind.F16, Kind.F16, 0.05),
        Precision("BF16", LlamaFileType.MOSTLY_BF16, Kind.BF16, Kind.BF16, 0.2),
        Precision("Q8_0", LlamaFileType.MOSTLY_Q8_0, Kind.Q8_0, Kind.Q8_0, 0.5),
        Precision("Q4_K", LlamaFileType.MOSTLY_Q4_K_M, Kind.Q4_K, Kind.Q6_K, 2.0),
    )
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands: its name in the file, its shape, and how many layers the model has.

    ``is_output`` is true of the matrix that makes the logits, which may be the embedding.
    """

    name: str
    shape: tuple[int, ...]
    num_layers: int
    is_output: bool


def kind_of(place: Place, precision: Precision) -> Kind:
    """The format of one tensor."""
    part = place.name.split(".")[-2]
    if len(place.shape) < 2 or part in FULL:
        return Kind.F32
    kind = precision.better if _matters_most(place, part) else precision.kind
    while place.shape[-1] % GGML_QUANT_SIZES[kind][0]:
        kind = FINER[kind]
    return kind


def _matters_most(place: Place, part: str) -> bool:
    if place.is_output:
        return True
    if part not in ("attn_v", "ffn_down", "ffn_down_exps"):
        return False
    layer = int(place.name.split(".")[1])
    eighth = place.num_layers // 8
    is_at_an_end = layer < eighth or layer >= 7 * place.num_layers // 8
    return is_at_an_end or (layer - eighth) % 3 == 2


def num_bytes(shape: tuple[int, ...], kind: Kind) -> int:
    """Bytes of a tensor."""
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    num_values = int(numpy.prod(shape))
    return num_values // block_size * block_bytes


def encoded(values: Tensor, kind: Kind) -> numpy.ndarray:
    """A tensor in the format `kind`: as many bytes as `num_bytes` says."""
    whole = values.detach().to("cpu", torch.float32).contiguous()
    rows = whole.reshape(-1, whole.shape[-1])
    if kind is Kind.Q4_K:
        return quantize_q4_k(rows).numpy()
    if kind is Kind.Q6_K:
        return quantize_q6_k(rows).numpy()
    return gguf.quantize(rows.numpy(), kind)
