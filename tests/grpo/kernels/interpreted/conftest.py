"""Triton's kernels in its interpreter; collected only where it is on, which ``tests/grpo/kernels/test_interpreted.py`` sees to."""

import os
import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).parents[1])
)  # the tests beside this folder hold what is shared

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
