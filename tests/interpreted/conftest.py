"""Triton's kernels in its interpreter; collected only where it is on, which ``tests/test_interpreted.py`` sees to."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
