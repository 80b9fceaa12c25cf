"""Supervised fine-tuning as a command: ``python -m grpo.sft RECIPE``, the same as ``grpo sft``.

The trainer is `grpo.stages.SftTrainer`; a recipe of stage sft also runs by ``grpo train``.
"""

from __future__ import annotations

from grpo.startup import command_line

if __name__ == "__main__":  # as a command: its arguments are read before torch is imported
    command_line.leave_working_folder()
    raise SystemExit(command_line.run_process("sft"))

from typing import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m grpo.sft``, the same as ``grpo sft``; returns the exit code."""
    return command_line.run("sft", arguments)
