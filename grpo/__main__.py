"""``python -m grpo``, the same as the command ``grpo``."""

from __future__ import annotations

import sys

from grpo.cli import main

if __name__ == "__main__":
    sys.exit(main())
