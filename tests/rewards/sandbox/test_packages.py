"""Programs and tests may import the packages that are named, nothing else, and arrays reach the tests as what they are."""

from __future__ import annotations

import asyncio
from typing import Any, Iterator

import pytest

from grpo.recipe import Recipe, RecipeError
from grpo.run.reward_specs import check_sandbox
from rewards import RewardSpec, Sample
from rewards.sandbox import IsolationError, Program, Sandbox, SandboxOptions
from rewards.service import RewardService


@pytest.fixture(scope="module")
def service() -> Iterator[RewardService]:
    options = SandboxOptions(packages=["numpy"], slots=2)
    with RewardService([RewardSpec("tests", "code_tests")], workers=1, sandbox=options) as running:
        yield running


@pytest.fixture(scope="module")
def bare() -> Iterator[RewardService]:
    options = SandboxOptions(slots=2)
    with RewardService([RewardSpec("tests", "code_tests")], workers=1, sandbox=options) as running:
        yield running


def verdict(service: RewardService, code: str, **columns: Any) -> Any:
    return service.judge([Sample(f"```python\n{code}\n```", columns=columns)])[0].parts["tests"]


NUMPY = "import numpy as np\n"
RANGE = NUMPY + "def f(n): return np.arange(n)\n"
LIAR = (
    NUMPY
    + "class Liar(np.ndarray):\n    def __eq__(self, other): return True\n"
    + "def f(n): return np.arange(n).view(Liar)\n"
)
NUMBERS = NUMPY + "def f(n): return [np.int64(n), np.float32(0.5), np.bool_(n > 0)]\n"
SUM = "def f(n): return n * (n - 1) // 2\n"
SORT = "def f(a): a.sort()\n"
CLOSE = NUMPY + "assert np.isclose(f(4), 6)"
CHECK = NUMPY + "def check(f):\n    assert np.isclose(f(4), 6)\n"


@pytest.mark.parametrize(
    "code, columns, value",
    [
        (RANGE, {"test_list": [NUMPY + "assert np.allclose(f(3), [0, 1, 2])"]}, 1),
        (RANGE, {"test_list": [NUMPY + "assert np.allclose(f(3), [0, 1, 3])"]}, 0),
        (RANGE, {"test_list": ["assert f(3).dtype.kind == 'i' and f(3).shape == (3,)"]}, 1),
        (LIAR, {"test_list": [NUMPY + "assert np.all(f(3) == [7, 8, 9])"]}, 0),
        (SUM, {"test_list": [CLOSE]}, 1),
        (SUM, {"test": CHECK, "entry_point": "f"}, 1),
        (SORT, {"test_list": [NUMPY + "a = np.array([2, 1]); f(a)\nassert a.tolist() == [1, 2]"]}, 1),
        (NUMBERS, {"inputs": ["4"], "outputs": ["[4, 0.5, true]"], "fn_name": "f"}, 1),
        (NUMBERS, {"inputs": ["4"], "outputs": ["[4, 0.5, 1]"], "fn_name": "f"}, 0),
        (RANGE, {"inputs": ["2"], "outputs": ["[0, 1]"], "fn_name": "f"}, 0),  # == of both is no bool
        (NUMPY + "print(np.linalg.det(np.eye(2)) * int(input()))", {"inputs": ["4"], "outputs": ["4"]}, 1),
        (NUMPY + "print(np.random.rand())", {"inputs": [""], "outputs": ["0.5488135"]}, 1),
        (NUMPY + "import numpy.polynomial.chebyshev\nprint(1)", {"inputs": [""], "outputs": ["1"]}, 1),
    ],
)  # fmt: skip
def test_a_package_that_is_named_serves_programs_and_tests(service, code, columns, value):
    found = verdict(service, code, **columns)
    assert (found.value, found.status, found.parts.get("weak")) == (value, "scored", None), found


@pytest.mark.parametrize("columns", [{"test_list": [CLOSE]}, {"test": CHECK, "entry_point": "f"}])
def test_tests_that_import_a_package_which_is_not_there_are_a_fault_that_names_it(bare, columns):
    found = verdict(bare, SUM, **columns)
    assert found.status == "fault" and found.value is None
    assert "import numpy, which is not in the standard library; name it in sandbox" in found.detail
    guarded = {
        "test_list": ["try:\n    import numpy\nexcept ImportError:\n    pass\nassert f(4) == 6"]
    }
    assert verdict(bare, SUM, **guarded).value == 1


@pytest.mark.parametrize(
    "columns", [{"test_list": ["assert len(f(4)) == 4"]}, {"inputs": ["4"], "outputs": ["4"]}]
)
def test_a_program_that_imports_one_scores_0_and_is_told(bare, columns):
    found = verdict(bare, RANGE, **columns)
    assert (found.value, found.status) == (0.0, "scored")
    assert "ModuleNotFoundError: No module named 'numpy'" in found.detail
    assert "what sandbox.packages names" in found.detail


def test_no_other_package_can_be_seen(service):
    found = verdict(service, "import pytest\nprint(1)", inputs=[""], outputs=["1"])
    assert found.value == 0 and "No module named 'pytest'" in found.detail


@pytest.mark.parametrize("without", [["namespaces"], ["landlock", "namespaces"]])
@pytest.mark.thin(1)
def test_weaker_isolation_shows_the_package_too(without):
    async def run() -> Any:
        options = SandboxOptions(packages=["numpy"], slots=2, allow_unsafe=True)
        async with Sandbox(options, without=without) as sandbox:
            return await sandbox.run(Program("import numpy\nprint(numpy.arange(3).sum())"))

    result = asyncio.run(run())
    assert (result.status, result.stdout) == ("ok", b"3\n"), result


def test_a_package_that_cannot_be_imported_is_refused_before_the_run(tmp_path, monkeypatch):
    for name in ("nosuch", "no.such", "../x"):
        with pytest.raises(IsolationError, match=f"sandbox.packages names {name}, which cannot"):
            Sandbox(SandboxOptions(packages=[name]))
    (tmp_path / "broken_package.py").write_text("raise RuntimeError('not today')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = Recipe.from_mapping({"sandbox": {"packages": ["broken_package"]}})
    specs = [RewardSpec("tests", "code_tests")]
    with pytest.raises(RecipeError, match="broken_package cannot be imported: RuntimeError: not t"):
        check_sandbox(specs, recipe.sandbox)
    server = {"engine": "piston", "url": "http://localhost:1", "packages": ["numpy"]}
    recipe = Recipe.from_mapping({"sandbox": server})
    with pytest.raises(RecipeError, match="installed on the server; take sandbox.packages out"):
        check_sandbox(specs, recipe.sandbox)
