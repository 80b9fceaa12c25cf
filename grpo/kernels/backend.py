"""Where Triton kernels run."""

import os

from torch import Tensor


def interpreting() -> bool:
    """Whether Triton's interpreter is on (``TRITON_INTERPRET=1``): kernels then run on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def runs_triton(x: Tensor) -> bool:
    """Whether Triton kernels take `x`: on CUDA, or on any device under Triton's interpreter."""
    return x.is_cuda or interpreting()
