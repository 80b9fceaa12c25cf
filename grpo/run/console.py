"""The first and the last words of a run: what runs on what, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping

import torch

from grpo import __version__
from grpo.kernels.cpu import ops as native
from grpo.objective.formula import describe_objective
from grpo.recipe.describe import step_size
from grpo.run.log import interval

if TYPE_CHECKING:
    from grpo.train import Trainer


def header(trainer: Trainer, num_dropped: int) -> list[str]:
    """What runs on what."""
    recipe = trainer.recipe
    ranks = (
        f", {trainer.ranks.world} processes"
        if trainer.ranks.world > 1
        else f", {torch.get_num_threads()} threads"
    )
    dropped = f", {num_dropped} too long and dropped" if num_dropped else ""
    lines = [
        f"grpo {__version__}  {recipe.name}  ->  {trainer.folder}",
        f"  policy    {trainer.policy.describe()}{ranks}",
        f"            {trainer.policy.describe_head()}",
        *(
            f"            {line}"
            for line in [*trainer.policy.describe_fallback(), *_decoding(trainer)]
        ),
        f"  prompts   {recipe.data.source}: {len(trainer.stream.prompts)} train, {len(trainer.held_out)} held out"
        f"{dropped}",
        f"  rewards   {', '.join(f'{spec.weight:g} x {spec.name}' for spec in trainer.specs)}"
        f"; accurate means {trainer._accurate} = 1",
        *(
            "  objective " + line if i == 0 else "            " + line
            for i, line in enumerate(next(iter(describe_objective(recipe))).splitlines())
        ),
        *("  " + line for line in step_size(recipe)),
    ]
    if trainer.num_steps:
        lines.append(f"  resumed after step {trainer.num_steps}")
    return lines


def _decoding(trainer: Trainer) -> list[str]:
    """Which kernels sample on a CPU, and why if not the fast ones."""
    policy = trainer.policy
    if policy.device.type != "cpu" or policy.unsupported_reason:
        return []
    why = native.reason() or (
        None if policy.base.dtype == torch.float32 else f"the model is in {policy.base.dtype}"
    )
    if why is not None:
        return [f"decoding: torch's operations, since {why}"]
    return [
        "decoding: native kernels"
        if native.reads_fast()
        else "decoding: the native sampler, and torch's attention, since the processor has no AVX-512"
    ]


def closing(summary: Mapping[str, Any], folder: Path) -> list[str]:
    """The last words of a run: before and after, side by side, and examples of both."""
    lines = []
    before, after = summary["before"], summary["after"]
    if before and after:
        lines.append(f"held-out accuracy  {interval(before)}  ->  {interval(after)}")
        lines.append(f"length             {before['length']:.1f}  ->  {after['length']:.1f} tokens")
        for name in sorted({*before["details"], *after["details"]}):
            values = [part["details"].get(name) for part in (before, after)]
            if None not in values:
                lines.append(f"{name:<18} {values[0]:.3f}  ->  {values[1]:.3f}")
    for when, examples in summary["examples"].items():
        for example in examples:
            lines.append(
                f"{when:>6} | {example['prompt']} {example['completion']}   ({example['reward']})"
            )
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in summary["ledger"].items())
    lines.append(f"ledger: {outcomes}")
    lines.append(
        f"{summary['steps']} steps, {summary['seconds']:.0f} s, {summary['tokens']['sampled']} tokens "
        f"sampled; the model is in {folder / 'final'}"
    )
    return lines


def many_hours(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
