"""Norms and MLPs of the decoder layers through torch.compile, in the engine's decoding steps alone.

The blocks are found by what they are, not by their classes' names, and blocks of equal shape share one compiled
artefact, made for any number of rows. Parameters are its arguments, so that weights trained between two calls and live
adapters are read as they stand. Training, prefill and saving never see it: the blocks' forwards are replaced for the
length of a step. A block that cannot be compiled, or gives other numbers, runs as it is, and a line says so.
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
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.model.policy import Policy
from grpo.recipe import Recipe, RecipeError
from grpo.rollout.contiguous_decoder import is_out_of_memory, row_step

Forward = Callable[..., Tensor]
ROWS = 64  # by which a block is compiled and tried: what the compiler tunes for must not hang on who comes first
OPTIONS = {
    "emulate_precision_casts": True,  # half-precision values are rounded where the trainer's forward rounds them
    "compile_threads": 1,
}  # else worker processes are started, and stay
ALLOWED = {
    torch.float32: 1e-4,
    torch.bfloat16: 0.05,
    torch.float16: 0.01,
}  # differences, in standard deviations


def check_compiler(recipe: Recipe) -> None:
    """Refuse ``sample.compile`` where nothing can compile."""
    cxx = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if torch.cuda.is_available():
        missing = "Triton is not installed" if importlib.util.find_spec("triton") is None else ""
    else:
        missing = f"there is no C++ compiler here ({cxx} was looked for; $CXX names another)" * (
            not shutil.which(cxx)
        )
    if recipe.sample.compile and missing:
        raise RecipeError(
            f"recipe: sample.compile is true, but {missing}; install it, or set sample.compile to false"
        )


class CompiledBlocks:
    """The blocks of `policy`'s layers; compiled in `next_logits`, as they are everywhere else.

    `say` is given a line for what is left out, once.
    """

    def __init__(self, policy: Policy, say: Callable[[str], None]):
        self.policy, self.say = policy, say
        self._refused: dict[tuple[Any, ...], str] = {}
        self._said: set[str] = set()
        blocks = found(policy.base) if policy.base.dtype in ALLOWED else []
        self._forwards: dict[nn.Module, Forward] = {
            block: partial(self._first, block) for block in blocks
        }
        if not blocks:
            self._leave_out(
                type(policy.base).__name__,
                f"no blocks to compile were found in {policy.base.dtype}",
            )
        if any(_mixes_experts(module) for module in policy.base.modules()):
            self._leave_out(
                "mixtures of experts", "which expert takes a token is known at run time alone"
            )

    def next_logits(self, token_R1: Tensor, position_R1: Tensor, cache: Any) -> Tensor:
        """`Policy.next_logits`, through the compiled blocks."""
        for block, forward in self._forwards.items():
            block.__dict__["forward"] = forward
        try:
            return self.policy.next_logits(token_R1, position_R1, cache)
        finally:
            for block in self._forwards:
                block.__dict__.pop("forward", None)

    def _first(self, block: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """A block's first call: decides how it runs from here on."""
        reason = (
            "it is not called with a tensor alone"
            if kwargs or len(args) != 1
            else self._why_not(block, args[0])
        )
        if reason:
            return self._as_it_is(block, reason)(*args, **kwargs)
        self._forwards[block] = block.__dict__["forward"] = partial(
            self._run, block, compiled(type(block))
        )
        return self._forwards[block](*args)

    def _run(self, block: nn.Module, run: Forward, x: Tensor) -> Tensor:
        try:
            return run(block, x)
        except Exception as error:  # noqa: BLE001  a compiler may raise anything; what is not its fault, comes again
            return self._as_it_is(block, _words(error))(x)

    def _why_not(self, block: nn.Module, x: Tensor) -> str:
        """Why blocks of this kind are not compiled; empty if they are."""
        kind = (
            type(block),
            x.shape[1:],
            x.dtype,
            *((name, p.shape) for name, p in block.named_parameters()),
        )
        if kind not in self._refused:
            self._refused[kind] = why_not_compiled(block, x)
        return self._refused[kind]

    def _as_it_is(self, block: nn.Module, reason: str) -> Forward:
        self._leave_out(type(block).__name__, reason)
        self._forwards[block] = block.__dict__["forward"] = partial(type(block).forward, block)
        return self._forwards[block]

    def _leave_out(self, what: str, reason: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self.say(f"sample.compile leaves out {what}: {reason}")


def found(model: nn.Module) -> list[nn.Module]:
    """The norms of all decoder layers, and their MLPs: children called with one tensor, attention and experts not."""
    layers = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    wholes = [child for layer in layers for child in layer.children() if _is_mlp(child)]
    inside = {module for whole in wholes for module in whole.modules()}
    norms = [
        module
        for layer in layers
        for module in layer.modules()
        if module not in inside and _is_norm(module)
    ]
    return [block for block in [*wholes, *norms] if "forward" not in block.__dict__]


def _is_norm(module: nn.Module) -> bool:
    return (
        {p.dim() for p in module.parameters()} == {1}
        and not any(module.children())
        and _takes_one(module)
    )


def _is_mlp(module: nn.Module) -> bool:
    attends = hasattr(module, "layer_idx")  # where its keys lie in a cache
    return (
        any(module.children())
        and _takes_one(module)
        and not attends
        and not any(_mixes_experts(part) for part in module.modules())
    )


def _takes_one(module: nn.Module) -> bool:
    wanted = inspect.signature(module.forward).parameters.values()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in wanted) == 1


def _mixes_experts(module: nn.Module) -> bool:
    """Whether it holds stacked matrices, one an expert, or bears transformers' mark."""
    return hasattr(module, "_apply_gate") or any(
        p.dim() == 3 for p in module.parameters(recurse=False)
    )


def compiled(kind: type[nn.Module]) -> Forward:
    """The forward of a class, (module, x) -> Tensor, compiled at its first call; equal shapes share the code."""
    return torch.compile(kind.forward, fullgraph=True, options=OPTIONS)


def why_not_compiled(block: nn.Module, like: Tensor) -> str:
    """Compile `block` for inputs [rows, ..] such as `like`, and hold it against itself; what is wrong, or nothing."""
    noise = torch.Generator(like.device).manual_seed(0)
    x = torch.randn(ROWS, *like.shape[1:], generator=noise, dtype=like.dtype, device=like.device)
    torch._dynamo.mark_dynamic(x, 0)
    step = row_step(like.dtype)
    try:
        run, exact = compiled(type(block)), type(block).forward(block, x)
        whole, few = run(block, x), [run(block, x[:rows]) for rows in (step, 3 * step)]
    except Exception as error:  # noqa: BLE001  a compiler may raise anything
        return _words(error)
    off = float((whole - exact).abs().max() / exact.std())
    if not off <= ALLOWED[like.dtype]:
        return f"its compiled code gives other numbers (off by {off:.2g} of their spread)"
    if like.device.type == "cpu" and not all(torch.equal(part, whole[: len(part)]) for part in few):
        return "its compiled code rounds a row otherwise beside other rows"
    return ""


def _words(error: Exception) -> str:
    """An error in a line; raised again where memory ran out, which is no fault of the compiler's."""
    if is_out_of_memory(error):
        raise error
    return f"{type(error).__name__}: {[*str(error).strip().splitlines(), ''][0][:200]}"
