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
        help="run only the tests that take a seed, each function with this many seeds, spread over its cases "
        "(0: every test, one seed)",
    )
    parser.addoption("--first-seed", type=int, default=0, help="the first of --seeds")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    number = metafunc.config.getoption("--seeds")
    given = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if number and "seed" in metafunc.fixturenames and "seed" not in given:
        first = metafunc.config.getoption("--first-seed")
        metafunc.parametrize("seed", range(first, first + number), indirect=True)


@pytest.hookimpl(tryfirst=True)  # before -m selects by the marks that are set here
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number = config.getoption("--seeds")
    if number:
        items[:] = [item for item in items if "seed" in getattr(item, "fixturenames", ())]
        items[:] = _spread_seeds(items, number)
    else:
        _thin_out(items)


def _spread_seeds(items: list[pytest.Item], number: int) -> list[pytest.Item]:
    """Of each function's cases times seeds, `number` that cover both: every seed, and every case at least once."""
    cases_of: dict[str, dict[str, int]] = {}
    kept = []
    for item in items:
        function = item.nodeid.partition("[")[0]
        values = {name: value for name, value in item.callspec.params.items() if name != "seed"}
        cases = cases_of.setdefault(function, {})
        case = cases.setdefault(repr(sorted(values.items())), len(cases))
        kept.append((item, function, case))
    return [
        item
        for item, function, case in kept
        if (item.callspec.params["seed"] - case) % min(number, len(cases_of[function])) == 0
    ]


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
