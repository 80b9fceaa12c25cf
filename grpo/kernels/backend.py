"""Where Triton kernels run."""

import os

from torch import Tensor


def runs_triton(x: Tensor) -> bool:
    """Whether Triton kernels take `x`: on CUDA, or anywhere in Triton's interpreter (``TRITON_INTERPRET=1``)."""
    return x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
