"""The exit codes of the commands; 2, the user's mistake, is shared with ``rewards``."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_STOPPED = 3
