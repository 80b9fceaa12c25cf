"""Every test here draws from the printed seed."""

from __future__ import annotations

import random

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
