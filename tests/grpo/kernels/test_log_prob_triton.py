"""The head's Triton kernels: checked in the interpreter, and compiled for Hopper without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import pytest

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux")
SUPPORT = Path(__file__).resolve().parents[2] / "support"
F, N = "fp32", "i32"
ROWS = {
    "z_ptr": "*fp32",
    "bias_ptr": "*bf16",
    "grad_ptr": "*bf16",
    "target_ptr": "*i64",
    "logp_ptr": "*fp32",
    "entropy_ptr": "*fp32",
    "size": N,
    "stride_z": "i64",
    "stride_grad": "i64",
    "factor": F,
    "softcap": F,
    "temperature": F,
}
STATISTICS = {"peak_ptr": "*fp32", "sum_ptr": "*fp32", "moment_ptr": "*fp32", "taken_ptr": "*fp32"}


def tiles(rows: int, columns: int, depth: int) -> dict[str, str]:
    return {
        "x_desc": f"tensordesc<bf16[{rows}, {depth}]>",
        "w_desc": f"tensordesc<bf16[{columns}, {depth}]>",
        "e_ptr": "*bf16",
        "bias_ptr": "*bf16",
        "target_ptr": "*i64",
        **STATISTICS,
        "num_rows": N,
        "size": N,
        "width": N,
        "stride_e": "i64",
        "factor": F,
        "softcap": F,
        "temperature": F,
    }


@pytest.mark.skipif(
    triton.__version__ < "3.7" and numpy.__version__ >= "2.4",
    reason="the interpreter of Triton 3.6 cannot loop to a run-time bound with numpy 2.4",
)
@pytest.mark.parametrize(
    "marked, least", [("not slow", 10), pytest.param("slow", 30, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_in_the_interpreter_the_kernels_compute_the_specification(marked: str, least: int) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            marked,
            "interpreted_head.py",
        ],
        cwd=SUPPORT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(SUPPORT.parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= least


def compiled(
    name: str, signature: dict[str, str], constants: dict, **options
) -> tuple[object, str]:
    """(what Triton compiled for sm_90, its machine code as text)."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from grpo.kernels.log_prob import triton_kernels

    signature = {**signature, **dict.fromkeys(constants, "constexpr")}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, (key, kind) in enumerate(signature.items())
        if kind.startswith("*") or key.startswith("stride")
    }
    source = ASTSource(
        fn=getattr(triton_kernels, name), signature=signature, constexprs=constants, attrs=aligned
    )
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(made.asm["cubin"])
        cubin.flush()
        text = subprocess.run(
            [tools / "nvdisasm", cubin.name], capture_output=True, text=True, check=True
        ).stdout
    return made, text


def wide(text: str) -> dict[str, int]:
    """How many loads and stores move 16 bytes a thread; the vocabulary's size is not known to be a multiple of 16."""
    return {name: len(re.findall(rf"\b{name}\.\S*128\b", text)) for name in ("LDG", "STG")}


def check(made: object, text: str) -> None:
    assert not re.search(r"\b(LDL|STL)\b", text), "registers were spilled"
    assert made.metadata.shared <= 227 * 1024


@pytest.mark.skipif(
    os.environ.get("GRPO_COMPILES") != "1", reason="run by the last test, in a process of its own"
)
@pytest.mark.parametrize("form", [{"BIAS": False, "CAP": False}, {"BIAS": True, "CAP": True}])
def test_row_kernels_compile_for_hopper_without_spills(form: dict) -> None:
    from grpo.kernels.log_prob import fused

    for gradient in (True, False):
        made, text = compiled(
            "row_gradient_kernel",
            ROWS,
            {**form, "GRADIENT": gradient, "BLOCK": fused.BLOCK},
            num_warps=8,
        )
        check(made, text)
        assert wide(text) == ({"LDG": 8, "STG": 2} if gradient else {"LDG": 4, "STG": 0}), (
            "a whole pass each"
        )
    names = [*STATISTICS, "logp_ptr", "entropy_ptr", "peak_row_ptr", "total_ptr", "rest_ptr"]
    check(
        *compiled(
            "merge_tiles_kernel",
            {**dict.fromkeys(names, "*fp32"), "num_rows": N, "num_tiles": N},
            {"BM": 64},
            num_warps=2,
        )
    )
    signature = {
        "e_ptr": "*bf16",
        "target_ptr": "*i64",
        "peak_ptr": "*fp32",
        "peak_row_ptr": "*fp32",
        "total_ptr": "*fp32",
        "rest_ptr": "*fp32",
        "num_rows": N,
        "size": N,
        "stride_e": "i64",
        "softcap": F,
        "temperature": F,
    }
    made, text = compiled(
        "tile_gradient_kernel",
        signature,
        {"CAP": form["CAP"], "BM": 32, "BN": fused.TILE["BN"]},
        num_warps=4,
    )
    check(made, text)
    assert wide(text) == {"LDG": 4, "STG": 4}
    signature = {
        "grad_ptr": "*bf16",
        "target_ptr": "*i64",
        "g_ptr": "*fp32",
        "e_ptr": "*fp32",
        "logp_ptr": "*fp32",
        "entropy_ptr": "*fp32",
        "size": N,
        "stride_grad": "i64",
    }
    made, text = compiled("entropy_gradient_kernel", signature, {"BLOCK": fused.BLOCK}, num_warps=8)
    check(made, text)
    assert wide(text) == {"LDG": 2, "STG": 2}


@pytest.mark.skipif(
    os.environ.get("GRPO_COMPILES") != "1", reason="run by the last test, in a process of its own"
)
@pytest.mark.parametrize("stores", [False, True])
@pytest.mark.parametrize("form", [{"BIAS": False, "CAP": False}, {"BIAS": True, "CAP": True}])
def test_the_first_product_uses_hoppers_tensor_cores_without_spills(
    form: dict, stores: bool
) -> None:
    from grpo.kernels.log_prob import fused

    constants = {**form, "STORE": stores, **fused.TILE, "PRECISION": "ieee"}
    made, text = compiled(
        "exp_tiles_kernel",
        tiles(*fused.TILE.values()),
        constants,
        num_warps=fused.WARPS,
        num_stages=fused.STAGES,
    )
    check(made, text)
    assert "HGMMA" in text and "UTMALDG" in text


@pytest.mark.slow
def test_the_kernels_are_compiled_as_they_should_be_in_a_process_of_their_own() -> None:
    """What other tests leave in Triton's own state changes what it makes of the same source."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__, "-k", "without_spills"],
        env={**os.environ, "GRPO_COMPILES": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "6 passed" in done.stdout, done.stdout[-2000:]
