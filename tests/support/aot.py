"""Kernels compiled ahead of time for a GPU that is not there: registers, spills, shared memory, instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}


@dataclass(frozen=True)
class Compiled:
    registers: int
    spilled: int
    shared: int
    sass: str

    def count(self, instruction: str) -> int:
        return len(re.findall(rf"\b{instruction}\b", self.sass))

    def wide(self, instruction: str) -> int:
        """How many of it move 16 bytes a thread."""
        return len(re.findall(rf"\b{instruction}\.\S*128\b", self.sass))


def compile_kernel(
    kernel,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    options: Mapping[str, Any],
    capability: int,
    unaligned: tuple[str, ...] = (),
) -> Compiled:
    """`types` of the run-time arguments in order; pointers and ints are 16-aligned but for those named."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    missing = set(kernel.arg_names) - set(types) - set(constants)
    assert not missing, missing
    attrs = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if name in types and name not in unaligned and not types[name].startswith("fp")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=dict(constants), attrs=attrs)
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(options))
    return Compiled(
        *_resources(done.asm["cubin"]), done.metadata.shared, _tool("nvdisasm", done.asm["cubin"])
    )


def _resources(cubin: bytes) -> tuple[int, int]:
    text = _tool("cuobjdump", cubin, "--dump-resource-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+).* LOCAL:(\d+)", text)
    assert found, text
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def _tool(name: str, cubin: bytes, *options: str) -> str:
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [tool, *options, file.name], check=True, capture_output=True, text=True
        ).stdout
