"""Norms and MLPs of the decoder layers through torch.compile, only in the engine's decoding steps.

Blocks are recognised by their structure, not by their classes' names, and blocks of equal shape share one compiled
artefact for any number of rows. Parameters are its arguments, so that weights trained between two calls and live
adapters are read as they are. Training, prefill and saving never see it: the blocks' forwards are replaced only during
a step. A block that cannot be compiled, or gives other numbers, runs uncompiled, and a note says so.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import sys
from functools import partial
from typing import Any, Callable

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.model.policy import Policy
from grpo.recipe import Recipe, RecipeError
from grpo.rollout.contiguous_decoder import row_multiple
from grpo.rollout.memory import is_out_of_memory

Forward = Callable[..., Tensor]
ROWS = 64  # a block is compiled and tried with: fixed, so that tuning does not depend on the first batch
OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {
    # half-precision values are rounded where the trainer's forward rounds them
    "emulate_precision_casts": True,
    # with more threads worker processes are started, and stay
    "compile_threads": 1,
}
TOLERANCE = {  # differences, in standard deviations
    torch.float32: 1e-4,
    torch.bfloat16: 0.05,
    torch.float16: 0.01,
}


def check_compiler(recipe: Recipe) -> None:
    """Refuse ``sample.compile`` with a RecipeError where nothing can compile."""
    if not recipe.sample.compile:
        return
    missing = _missing_compiler()
    if missing:
        raise RecipeError(
            f"recipe: sample.compile is true, but {missing}; install it, or set sample.compile to false"
        )


def _missing_compiler() -> str:
    if torch.cuda.is_available():
        has_triton = importlib.util.find_spec("triton") is not None
        return "" if has_triton else "Triton is not installed"
    cxx = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(cxx):
        return ""
    return f"there is no C++ compiler here ({cxx} was looked for; $CXX names another)"


class CompiledBlocks:
    """The blocks of `policy`'s layers, compiled in `next_logits` and uncompiled everywhere else.

    `note` is called with a line, once, for each kind of block that is left out.
    """

    def __init__(self, policy: Policy, note: Callable[[str], None]):
        self.policy = policy
        self.note = note
        self._reasons: dict[
            tuple[Any, ...], str
        ] = {}  # by kind of block; empty where it is compiled
        self._noted: set[str] = set()
        blocks = find_blocks(policy.base) if policy.base.dtype in TOLERANCE else []
        self._forwards: dict[nn.Module, Forward] = {
            block: partial(self._first_call, block) for block in blocks
        }
        if not blocks:
            name = type(policy.base).__name__
            self._leave_out(name, f"no blocks to compile were found in {policy.base.dtype}")
        if any(_mixes_experts(module) for module in policy.base.modules()):
            self._leave_out(
                "mixtures of experts", "which expert takes a token is known only at run time"
            )

    def next_logits(self, token_R1: Tensor, position_R1: Tensor, cache: Cache) -> Tensor:
        """`Policy.next_logits`, through the compiled blocks."""
        for block, forward in self._forwards.items():
            block.__dict__["forward"] = forward
        try:
            return self.policy.next_logits(token_R1, position_R1, cache)
        finally:
            for block in self._forwards:
                block.__dict__.pop("forward", None)

    def _first_call(self, block: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """A block's first call decides how it runs from here on."""
        if kwargs or len(args) != 1:
            reason = "it is not called with a tensor alone"
        else:
            reason = self._reason(block, args[0])
        if reason:
            return self._uncompiled(block, reason)(*args, **kwargs)
        run = partial(self._run, block, compiled(type(block)))
        self._forwards[block] = block.__dict__["forward"] = run
        return run(*args)

    def _run(self, block: nn.Module, run: Forward, x: Tensor) -> Tensor:
        try:
            return run(block, x)
        except Exception as error:  # noqa: BLE001  a compiler may raise anything; a fault of the block comes again
            return self._uncompiled(block, _reason_of(error))(x)

    def _reason(self, block: nn.Module, x: Tensor) -> str:
        """Why blocks of this kind are not compiled; empty if they are."""
        shapes = ((name, p.shape) for name, p in block.named_parameters())
        kind = (type(block), x.shape[1:], x.dtype, *shapes)
        if kind not in self._reasons:
            self._reasons[kind] = why_not_compiled(block, x)
        return self._reasons[kind]

    def _uncompiled(self, block: nn.Module, reason: str) -> Forward:
        self._leave_out(type(block).__name__, reason)
        forward: Forward = partial(type(block).forward, block)
        self._forwards[block] = block.__dict__["forward"] = forward
        return forward

    def _leave_out(self, name: str, reason: str) -> None:
        if name not in self._noted:
            self._noted.add(name)
            self.note(f"sample.compile leaves out {name}: {reason}")


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """MLPs and norms of all decoder layers: modules called with one tensor, neither attention nor experts."""
    layers = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    mlps = [child for layer in layers for child in layer.children() if _is_mlp(child)]
    in_mlps = {module for mlp in mlps for module in mlp.modules()}
    norms: list[nn.Module] = []
    for layer in layers:
        norms += [m for m in layer.modules() if m not in in_mlps and _is_norm(m)]
    return [block for block in [*mlps, *norms] if "forward" not in block.__dict__]


def _is_norm(module: nn.Module) -> bool:
    has_only_vectors = {p.dim() for p in module.parameters()} == {1}
    return has_only_vectors and not any(module.children()) and _takes_one_tensor(module)


def _is_mlp(module: nn.Module) -> bool:
    attends = hasattr(module, "layer_idx")  # its index in a cache
    if attends or not any(module.children()) or not _takes_one_tensor(module):
        return False
    return not any(_mixes_experts(part) for part in module.modules())


def _takes_one_tensor(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return len(required) == 1


def _mixes_experts(module: nn.Module) -> bool:
    """Whether it holds matrices stacked by expert, or has transformers' mark of a mixture."""
    if hasattr(module, "_apply_gate"):
        return True
    return any(p.dim() == 3 for p in module.parameters(recurse=False))


def compiled(kind: type[nn.Module]) -> Forward:
    """The forward of a class, (module, x) -> Tensor, compiled at its first call; equal shapes share the code."""
    return torch.compile(kind.forward, fullgraph=True, options=OPTIONS)


def why_not_compiled(block: nn.Module, like: Tensor) -> str:
    """Compile `block` for inputs [rows, ..] such as `like`, and compare it with itself; empty if they agree."""
    noise = torch.Generator(like.device).manual_seed(0)
    x = torch.randn(ROWS, *like.shape[1:], generator=noise, dtype=like.dtype, device=like.device)
    torch._dynamo.mark_dynamic(x, 0)
    multiple = row_multiple(like.dtype)
    try:
        run = compiled(type(block))
        expected = type(block).forward(block, x)
        whole = run(block, x)
        parts = [run(block, x[:rows]) for rows in (multiple, 3 * multiple)]
    except Exception as error:  # noqa: BLE001  a compiler may raise anything
        return _reason_of(error)
    off = float((whole - expected).abs().max() / expected.std())
    if not off <= TOLERANCE[like.dtype]:  # NaN too
        return f"its compiled code gives other numbers (off by {off:.2g} of their spread)"
    is_invariant = all(torch.equal(part, whole[: len(part)]) for part in parts)
    if like.device.type == "cpu" and not is_invariant:
        return "its compiled code rounds a row differently among other rows"
    return ""


def _reason_of(error: Exception) -> str:
    """An error in one line; raised again where memory ran out, which is not the compiler's fault."""
    if is_out_of_memory(error):
        raise error
    first_line = [*str(error).strip().splitlines(), ""][0]
    return f"{type(error).__name__}: {first_line[:200]}"
