"""``python -m grpo.selftest``, the same as ``grpo selftest``."""

from __future__ import annotations

from grpo.startup import command_line

if __name__ == "__main__":
    command_line.leave_working_folder()
    raise SystemExit(command_line.run_process("selftest"))
