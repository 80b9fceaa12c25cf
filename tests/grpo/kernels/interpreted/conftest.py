"""Triton's kernels in its interpreter; collected only if it is on, as ``test_interpreted.py`` runs them."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
