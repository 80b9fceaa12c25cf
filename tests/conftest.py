"""Fixtures shared by the tests; the models themselves are in ``support/tiny.py``."""

from __future__ import annotations

import os
import random

import pytest
import torch

from grpo.kernels.cpu import ops

FIXED_SEED = 20261127

torch.set_num_threads(1)  # models of the tests are small: a second thread costs more than it gives


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seeds",
        type=int,
        default=0,
        help="run only the tests that take a seed, each with this many seeds (0: every test, one seed)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    number = metafunc.config.getoption("--seeds")
    if number and "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(number), indirect=True)


@pytest.hookimpl(tryfirst=True)  # before -m selects by the marks that are set here
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _thin_out(items)
    if config.getoption("--seeds"):
        items[:] = [item for item in items if "seed" in getattr(item, "fixturenames", ())]


def _thin_out(items: list[pytest.Item]) -> None:
    """Of a test marked ``thin(n)`` keep n of its cases, spread over their list, and mark the others slow."""
    cases_of: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("thin") and not item.get_closest_marker("slow"):
            cases_of.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in cases_of.values():
        number = cases[0].get_closest_marker("thin").args[0]
        kept = {index * len(cases) // number for index in range(number)}
        for index, item in enumerate(cases):
            if index not in kept:
                item.add_marker(pytest.mark.slow)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fixed seed for random inputs, printed with a failure; GRPO_TEST_SEED sets another, --seeds many."""
    value = int(getattr(request, "param", os.environ.get("GRPO_TEST_SEED", FIXED_SEED)))
    print(f"GRPO_TEST_SEED={value}")
    random.seed(value)
    torch.manual_seed(value)
    return value


@pytest.fixture(params=["native", "torch"])
def kernels(request, monkeypatch) -> str:
    """A test runs both ways: decoding by the native kernels, where they can be built, and by torch's operations."""
    if request.param == "torch":
        monkeypatch.setattr(ops, "_library", lambda: "a test runs torch's operations")
    elif not ops.available():
        pytest.skip(ops.reason())
    return request.param


@pytest.fixture
def threads():
    """Sets the number of torch's threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
