"""Fixtures shared by the tests; the models themselves are in ``tiny.py``."""

from __future__ import annotations

import os
import random

import pytest
import torch

from grpo.kernels.cpu import native

torch.set_num_threads(1)  # models of the tests are small: a second thread costs more than it gives


@pytest.fixture
def seed() -> int:
    """A fresh seed for random inputs, printed with a failure; GRPO_TEST_SEED repeats one."""
    value = int(os.environ.get("GRPO_TEST_SEED", random.SystemRandom().randrange(2**31)))
    print(f"GRPO_TEST_SEED={value}")
    random.seed(value)
    torch.manual_seed(value)
    return value


@pytest.fixture(params=["native", "torch"])
def kernels(request, monkeypatch) -> str:
    """A test runs both ways: decoding by the native kernels, where they can be built, and by torch's operations."""
    if request.param == "torch":
        monkeypatch.setattr(native, "_library", lambda: "a test runs torch's operations")
    elif not native.available():
        pytest.skip(native.reason())
    return request.param


@pytest.fixture
def threads():
    """Sets the number of torch's threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
