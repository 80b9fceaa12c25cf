"""Every kernel compiled ahead of time for A100 and H100: nothing spills, shared memory holds, tensor cores work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("triton")

from aot import SHARED_LIMIT, compile_kernel  # noqa: E402

from grpo.kernels.decode_attention import triton_kernels as decode_triton  # noqa: E402
from grpo.kernels.sampling import triton_kernels as sampler_triton  # noqa: E402

CAPABILITIES = [pytest.param(80, marks=pytest.mark.slow), 90]
SIZES = {"bf16": 2, "fp16": 2, "fp32": 4}
POINTERS = {
    "page_RN": "*i32",
    "seen_R": "*i32",
    "prompt_R": "*i32",
    "prefix_PN": "*i32",
    "prefix_length_P": "*i32",
    "block_BG": "*i32",
    "part": "*fp32",
    "part_top": "*fp32",
    "part_total": "*fp32",
}
LOOSE = (
    "window",
    "num_blocks",
    "prefix_splits",
    "own_splits",
    "own_pages",
    "stride_row",
    "stride_prefix",
    "heads",
    "pages",
)


def attend(dtype, repeats, group, width, capability, **options):
    types = {
        **{name: f"*{dtype}" for name in ("query", "keys", "values")},
        **POINTERS,
        "scale": "fp32",
        "softcap": "fp32",
    }
    types |= {
        name: "i32"
        for name in decode_triton.attend_kernel.arg_names
        if name.startswith("stride") or name in LOOSE[:5] + ("heads",)
    }
    flags = {"windowed": False, "softcapped": False, **options}
    return compile_kernel(
        decode_triton.attend_kernel,
        types,
        decode_triton.constants(repeats, group, width, SIZES[dtype], **flags),
        decode_triton.launch_options(width, SIZES[dtype], capability),
        capability,
        LOOSE,
    )


# (dtype, query heads a kv head, rows a block, width): what the engine launches for the models that are measured
ENGINE = {
    "SmolLM2-135M": ("bf16", 3, 8, 64),
    "Qwen2.5-0.5B": ("bf16", 7, 8, 64),
    "Qwen2.5-1.5B": ("bf16", 6, 8, 128),
    "Qwen2.5-7B": ("bf16", 7, 8, 128),
    "Qwen3-0.6B": ("bf16", 2, 8, 128),
    "Llama-3.1-8B": ("bf16", 4, 8, 128),
}
FAST = [
    *((*ENGINE[name], {}) for name in ("Qwen2.5-0.5B", "Qwen3-0.6B")),
    ("bf16", 2, 32, 128, {"windowed": True}),
]
SLOW = [
    *((*case, {}) for case in ENGINE.values()),
    ("bf16", 7, 9, 64, {}),
    ("fp16", 1, 64, 80, {}),
    ("bf16", 8, 8, 128, {"softcapped": True}),
    ("bf16", 3, 21, 96, {}),
    ("bf16", 2, 8, 256, {"windowed": True, "softcapped": True}),
    ("bf16", 1, 8, 32, {}),
    ("bf16", 4, 16, 256, {"windowed": True}),
    ("fp32", 4, 16, 64, {}),
    ("fp32", 4, 16, 128, {}),
]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    "dtype, repeats, group, width, options",
    FAST + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW],
)
@pytest.mark.slow
def test_decode_attention_fits_and_uses_tensor_cores(
    dtype, repeats, group, width, options, capability
):
    found = attend(dtype, repeats, group, width, capability, **options)
    assert found.spilled == 0 and found.shared <= SHARED_LIMIT[capability]
    assert found.count("HGMMA") + found.count("HMMA") >= 8
    if capability == 90 and dtype != "fp32" and group * repeats > 32 and width <= 128:
        assert found.count("HGMMA"), "64 stacked queries of a prompt take the warp group's products"
    staged = decode_triton.launch_options(width, SIZES[dtype], capability)["num_stages"] > 1
    assert ".128" in found.sass and ("LDGSTS" in found.sass or not staged), (
        "16 bytes at a time, ahead of their use"
    )


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("kv_heads, width", [(2, 64), (8, 128)])
def test_merging_and_writing_fit(kv_heads, width, capability):
    merge = compile_kernel(
        decode_triton.merge_kernel,
        {
            **{name: "*fp32" for name in ("part", "part_top", "part_total")},
            "output": "*bf16",
            "seen_R": "*i32",
            "prompt_R": "*i32",
            "prefix_length_P": "*i32",
            "prefix_splits": "i32",
            "own_splits": "i32",
            "own_pages": "i32",
            "heads": "i32",
        },
        {
            "WIDTH": width,
            "BLOCK_W": width,
            "PAGE": 64,
            "MIN_PAGES": decode_triton.MIN_PAGES,
            "MAX_SPLITS": decode_triton.MAX_SPLITS,
        },
        {"num_warps": 4},
        capability,
        LOOSE,
    )
    types = {
        **{name: "*bf16" for name in ("key", "value", "keys", "values")},
        "page_RN": "*i32",
        "seen_R": "*i32",
    }
    types |= {
        name: "i32"
        for name in decode_triton.write_kernel.arg_names
        if name.startswith(("stride", "pages"))
    }
    write = compile_kernel(
        decode_triton.write_kernel,
        types,
        {"HEADS": kv_heads, "WIDTH": width, "BLOCK": kv_heads * width, "PAGE": 64},
        {"num_warps": 4},
        capability,
        LOOSE,
    )
    for found in (merge, write):
        assert found.spilled == 0 and found.registers <= 64 and found.shared <= 48 * 1024
    assert ".128" in merge.sass


LOGITS = {"fp32": "*fp32", "bf16": "*bf16"}


def sampler_types(kernel, dtype):
    wide = (
        "seed_R",
        "position_R",
        "state",
        "new_state",
        "counts",
        "masses",
        "old_counts",
        "old_masses",
    )
    types = {}
    for name in kernel.arg_names:
        if name == "logits":
            types[name] = LOGITS[dtype]
        elif name in wide or (name == "token_R" and kernel is sampler_triton.finish_kernel):
            types[name] = "*i64"
        elif name == "part_token":
            types[name] = "*i32"
        elif name.startswith("part_") or name in ("top_RS", "logp_R", "log_kept_R", "entropy_R"):
            types[name] = "*fp32"
        elif name in ("num_rows", "stride_row", "chunks", "top_k"):
            types[name] = "i32"
        elif name in ("inverse_temperature", "high", "low", "lowest_fall"):
            types[name] = "fp32"
    return types


def compile_sampler(kernel, constants, options, capability, dtype="fp32"):
    return compile_kernel(
        kernel,
        sampler_types(kernel, dtype),
        constants,
        {"enable_fp_fusion": False, **options},
        capability,
        ("num_rows", "chunks", "top_k"),
    )


# a tokenizer's size is no multiple of 16, but its logits' rows have room for one; 19 chunks of 8,192 ids
SIZES_OF = {
    "Qwen2.5": {"VOCAB": 151665, "ROOM": 151680, "CHUNK": 8192, "RB": 1, "SB": 32},
    "padded": {"VOCAB": 151936, "ROOM": 151936, "CHUNK": 8192, "RB": 1, "SB": 32},
    "SmolLM2": {"VOCAB": 49152, "ROOM": 49152, "CHUNK": 8192, "RB": 1, "SB": 8},
}
DRAW = {
    "VB": 2048,
    "ROUNDS": 8,
    "GREEDY": False,
    "CUT": False,
    "BY_MASS": False,
    "GIVEN": False,
    "MIN_P": False,
    "ENTROPY": False,
}


def without(size, *names):
    return {name: value for name, value in SIZES_OF[size].items() if name not in names}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    "size", ["Qwen2.5", "SmolLM2", pytest.param("padded", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_draw_fits_and_nothing_that_decides_is_contracted(dtype, size, capability):
    found = compile_sampler(
        sampler_triton.draw_kernel,
        {**SIZES_OF[size], **DRAW},
        {"num_warps": sampler_triton.draw_warps(False)},
        capability,
        dtype,
    )
    assert found.spilled == 0 and found.registers <= 168 and found.shared <= SHARED_LIMIT[80] // 4
    assert found.wide("LDG") == SIZES[dtype] and not found.count("FFMA"), (
        "2,048 logits by 128 threads, 16 bytes at a time; a product fused into its sum has other bits"
    )


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("size", ["Qwen2.5", pytest.param("SmolLM2", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_the_search_for_a_cut_fits(size, capability):
    flags = {"COUNTS": False, "MASSES": True, "BY_MASS": True, "GIVEN": False, "ROUND": 3}
    search = compile_sampler(
        sampler_triton.search_kernel,
        {**SIZES_OF[size], **flags, "VB": 512},
        {"num_warps": 8},
        capability,
    )
    draw = compile_sampler(
        sampler_triton.draw_kernel,
        {**SIZES_OF[size], **DRAW, "CUT": True, "BY_MASS": True, "MIN_P": True, "ENTROPY": True},
        {"num_warps": sampler_triton.draw_warps(True)},
        capability,
    )
    scan = compile_sampler(
        sampler_triton.scan_kernel,
        {**without(size, "SB"), "VB": 2048},
        {"num_warps": 4},
        capability,
    )
    target = compile_sampler(
        sampler_triton.target_kernel, {"RB": 1, "SB": 32, "ROUNDS": 8}, {"num_warps": 4}, capability
    )
    finish = compile_sampler(
        sampler_triton.finish_kernel,
        {"FILTERED": True, "ENTROPY": True, "RB": 1, "SB": 32},
        {"num_warps": 1},
        capability,
    )
    for found in (search, draw, scan, target, finish):
        assert found.spilled == 0 and found.shared <= SHARED_LIMIT[80]
        assert found is finish or not found.count("FFMA"), "log-probs alone may be contracted"
    assert scan.wide("LDG") and draw.wide("LDG")


def test_every_kernel_that_is_launched_is_compiled_here_or_with_the_head():
    tests = Path(__file__).parent
    kernels = Path(__file__).resolve().parents[3] / "grpo" / "kernels"
    launched = {
        name
        for file in (
            "decode_attention/triton_kernels.py",
            "sampling/triton_kernels.py",
            "log_prob/fused.py",
        )
        for name in re.findall(r"(\w+)\[(?:grid|\(.*\))\]\(", (kernels / file).read_text())
    }
    text = "".join(
        (tests / name).read_text()
        for name in ("test_triton_compiles.py", "test_log_prob_triton.py")
    )
    assert len(launched) == 13 and not {name for name in launched if name not in text}, launched
