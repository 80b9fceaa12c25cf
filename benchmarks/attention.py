"""Attention over groups for training on a GPU: three exact forms of the same pattern, forward and backward.

    python -m benchmarks.attention [--cases g8-p200 ...] [--check]

``rectangles`` is what `grpo.model.attention.PackedLayout` does: each completion's rectangle repeats its prompt (SDPA).
``flex`` is FlexAttention with a block mask over the packed tokens, compiled. ``varlen`` are two variable-length flash
attentions, each stretch to itself and each completion to its prompt, merged by their log-sum-exps (see
``grpo/model/shared_prefix.py``; its backward is given the merged statistics). All are compared with a masked float64
softmax on a small layout. Written for CUDA; `--check` runs the comparison of what a CPU can run.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor

from grpo.model.attention import PackedLayout
from grpo.model.packing import PackedRows, pack
from grpo.types import Row

ROOT = Path(__file__).resolve().parent.parent
CASES = {
    f"g{group}-p{prompt}": {
        "groups": 32 // group,
        "group": group,
        "prompt": prompt,
        "mean": 512,
        "heads": 12,
        "kv_heads": 2,
        "width": 128,
    }
    for group in (8, 16)
    for prompt in (200, 2000)
}
SMALL = {"groups": 2, "group": 3, "prompt": 37, "mean": 40, "heads": 4, "kv_heads": 2, "width": 32}


def rows_of(case: dict[str, Any]) -> list[Row]:
    """Groups of completions of ragged lengths around the mean."""
    rng = random.Random(0)
    rows: list[Row] = []
    for g in range(case["groups"]):
        for _ in range(case["group"]):
            length = rng.randint(case["mean"] // 4, 2 * case["mean"])
            rows.append(
                Row(
                    len(rows),
                    g,
                    (1,) * case["prompt"],
                    (1,) * length,
                    torch.zeros(0),
                    1.0,
                    True,
                    True,
                    "",
                )
            )
    return rows


def stretches(rows: list[Row]) -> list[tuple[int, int, int]]:
    """(start, end, start of its group's prompt) of each prompt and completion in the packed order."""
    found, at, prompt_at = [], 0, {}
    for row in rows:
        if row.group not in prompt_at:
            prompt_at[row.group] = at
            found.append((at, at + len(row.prompt_ids), at))
            at += len(row.prompt_ids)
        found.append((at, at + row.num_tokens, prompt_at[row.group]))
        at += row.num_tokens
    return found


def rectangles(packed: PackedRows, rows: list[Row]) -> Callable[..., Tensor]:
    from dataclasses import replace

    layout = PackedLayout(replace(packed, shared=None))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        query, key, value = (part.transpose(0, 1)[None] for part in (q, k, v))
        return layout.attend(query, key, value, q.shape[-1] ** -0.5, None, None, 0)[0]

    return attend


def flex(packed: PackedRows, rows: list[Row]) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    device, number = packed.token_P.device, packed.num_tokens
    part_P, prompt_P = (torch.zeros(number, dtype=torch.int32, device=device) for _ in range(2))
    for i, (start, end, prompt) in enumerate(stretches(rows)):
        part_P[start:end] = i
        prompt_P[start:end] = part_P[prompt] if start != prompt else i

    def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ((part_P[q] == part_P[k]) | (prompt_P[q] == part_P[k])) & (q >= k)

    mask = create_block_mask(seen, None, None, number, number, device=device.type)
    compiled = torch.compile(flex_attention) if device.type == "cuda" else flex_attention

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        query, key, value = (part.transpose(0, 1)[None] for part in (q, k, v))
        out = compiled(query, key, value, block_mask=mask, enable_gqa=True)
        return out[0].transpose(0, 1)

    return attend


class _Varlen(torch.autograd.Function):
    """Each stretch to itself, causally, and each completion to its prompt; merged by log-sum-exps."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: dict[str, Any]) -> Tensor:
        own = torch.ops.aten._flash_attention_forward(
            q, k, v, plan["own"], plan["own"], plan["longest"], plan["longest"], 0.0, True, False
        )
        out, lse, across = own[0].clone(), own[1].clone(), None
        chosen = plan["completions"]
        across = torch.ops.aten._flash_attention_forward(
            q[chosen],
            k[plan["prompts"]],
            v[plan["prompts"]],
            plan["queries"],
            plan["keys"],
            plan["most"],
            plan["widest"],
            0.0,
            False,
            False,
        )
        mine = lse[:, chosen]
        both = torch.logaddexp(mine, across[1])
        first, second = ((part - both).exp().T[..., None] for part in (mine, across[1]))
        out[chosen] = (out[chosen] * first + across[0] * second).to(out.dtype)
        lse[:, chosen] = both
        ctx.save_for_backward(q, k, v, out, lse, *own[2:4], *across[2:4])
        ctx.plan = plan
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        q, k, v, out, lse, seed, offset, other_seed, other_offset = ctx.saved_tensors
        plan, grad = ctx.plan, grad.contiguous()
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            grad,
            q,
            k,
            v,
            out,
            lse.contiguous(),
            plan["own"],
            plan["own"],
            plan["longest"],
            plan["longest"],
            0.0,
            True,
            seed,
            offset,
        )
        chosen, prompts = plan["completions"], plan["prompts"]
        found = torch.ops.aten._flash_attention_backward(
            grad[chosen],
            q[chosen],
            k[prompts],
            v[prompts],
            out[chosen],
            lse[:, chosen].contiguous(),
            plan["queries"],
            plan["keys"],
            plan["most"],
            plan["widest"],
            0.0,
            False,
            other_seed,
            other_offset,
        )
        dq[chosen] += found[0]
        dk[prompts] += found[1]
        dv[prompts] += found[2]
        return dq, dk, dv, None


def varlen(packed: PackedRows, rows: list[Row]) -> Callable[..., Tensor]:
    device, parts = packed.token_P.device, stretches(rows)
    bounds = [0, *(end for _, end, _ in parts)]
    groups: dict[int, list[tuple[int, int]]] = {}
    for start, end, prompt in parts:
        groups.setdefault(prompt, []).append((start, end))
    prompts = [members[0] for members in groups.values()]
    texts = [(members[1][0], members[-1][1]) for members in groups.values()]

    def ends(spans: list[tuple[int, int]]) -> Tensor:
        return torch.tensor([0, *(b - a for a, b in spans)], device=device).cumsum(0).int()

    def places(spans: list[tuple[int, int]]) -> Tensor:
        return torch.cat([torch.arange(a, b, device=device) for a, b in spans])

    plan = {
        "own": torch.tensor(bounds, dtype=torch.int32, device=device),
        "longest": max(b - a for a, b, _ in parts),
        "completions": places(texts),
        "prompts": places(prompts),
        "queries": ends(texts),
        "keys": ends(prompts),
        "most": max(b - a for a, b in texts),
        "widest": max(b - a for a, b in prompts),
    }
    return lambda q, k, v: _Varlen.apply(q, k, v, plan)


FORMS = {"rectangles": rectangles, "flex": flex, "varlen": varlen}


def inputs(case: dict[str, Any], number: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(number, heads, case["width"], device=device, dtype=dtype, requires_grad=True)
        for heads in (case["heads"], case["kv_heads"], case["kv_heads"])
    ]


def expected(rows: list[Row], parts: list[Tensor]) -> Tensor:
    """The definition: a mask, a softmax, in float64."""
    q, k, v = (part.double().transpose(0, 1) for part in parts)
    k, v = (part.repeat_interleave(len(q) // len(part), 0) for part in (k, v))
    seen = torch.zeros(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device)
    for start, end, prompt in stretches(rows):
        seen[start:end, start:end] = True
        first = next(b for a, b, _ in stretches(rows) if a == prompt)
        seen[start:end, prompt:first] = True
    scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~seen.tril(), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1)


def errors(form: str, device: str, dtype: torch.dtype) -> dict[str, float]:
    """Relative errors of the output and the three gradients on a small layout."""
    rows = rows_of(SMALL)
    packed = pack(rows, device)
    parts = inputs(SMALL, packed.num_tokens, device, dtype)
    weight = torch.randn(packed.num_tokens, SMALL["heads"], SMALL["width"], device=device)
    out, exact = FORMS[form](packed, rows)(*parts), expected(rows, parts)
    found, wanted = (
        torch.autograd.grad((value * weight).sum(), parts) for value in (out.float(), exact)
    )
    pairs = zip(("out", "dq", "dk", "dv"), (out, *found), (exact, *wanted))
    return {
        name: float((one.double() - other.double()).norm() / other.double().norm())
        for name, one, other in pairs
    }


def timed(case: dict[str, Any], form: str, repeats: int) -> dict[str, float]:
    """Milliseconds of forward and backward, and bytes beyond the inputs, on CUDA in bfloat16."""
    rows = rows_of(case)
    packed = pack(rows, "cuda")
    parts = inputs(case, packed.num_tokens, "cuda", torch.bfloat16)
    attend, taken = FORMS[form](packed, rows), []
    for number in range(repeats + 5):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        attend(*parts).sum().backward()
        ended.record()
        torch.cuda.synchronize()
        if number >= 5:
            taken.append(begun.elapsed_time(ended))
        peak = torch.cuda.max_memory_allocated() - before
        for part in parts:
            part.grad = None
    return {
        "ms": statistics.median(taken),
        "spread_ms": max(taken) - min(taken),
        "peak_bytes": peak,
        "tokens": packed.num_tokens,
    }


def attempted(action: Callable[[], dict[str, float]]) -> dict[str, Any]:
    try:
        return action()
    except (
        Exception
    ) as error:  # a form that this device or version lacks is named, the others continue
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--check", action="store_true", help="compare only, on the CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    if options.check:
        for form in ("rectangles", "flex"):
            print(form, attempted(partial(errors, form, "cpu", torch.float32)))
        return
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "errors": {
            form: attempted(partial(errors, form, "cuda", torch.bfloat16)) for form in FORMS
        },
        "cases": {},
    }
    print(json.dumps(report["errors"]), flush=True)
    for name in options.cases:
        report["cases"][name] = {
            form: attempted(partial(timed, CASES[name], form, options.repeats)) for form in FORMS
        }
        print(name, json.dumps(report["cases"][name]), flush=True)
    now = datetime.now(timezone.utc)
    options.out.mkdir(exist_ok=True)
    file = options.out / f"attention-{now:%Y-%m-%d-%H%M%S}.json"
    file.write_text(
        json.dumps({"date": now.isoformat(timespec="seconds"), **report}, indent=1) + "\n"
    )
    print(f"written to {file}")


if __name__ == "__main__":
    main()
