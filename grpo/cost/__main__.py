"""``python -m grpo.cost``, the same as ``grpo cost``."""

from __future__ import annotations

from grpo.startup import command_line

if __name__ == "__main__":
    command_line.leave_working_folder()
    raise SystemExit(command_line.run_process("cost"))
