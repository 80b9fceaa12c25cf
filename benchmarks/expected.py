"""What each row of the GPU goals should take on an H100, from bytes and floating-point operations alone.

    python -m benchmarks.expected              prints the tables of benchmarks/results/notes.md

Nothing here was measured on a GPU. A time is the larger of bytes over bandwidth and operations over rate, each at the
fraction of the data sheet that is stated, plus what is neither: the launches of a captured step. The fractions are
assumptions: 0.90 of 3.35 TB/s and 0.80 of 989 TFLOP/s are what large copies and large products are known to reach on
such devices; narrower ones are set lower and named in `Assumed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Sequence

from benchmarks.head import GPU_CASES
from benchmarks.learner import CASES as LEARNER_CASES
from benchmarks.learner import counts
from benchmarks.rollouts import CASES as ROLLOUT_CASES
from benchmarks.rollouts import SHAPES, Case

BANDWIDTH, RATE = 3.35e12, 989e12


@dataclass(frozen=True)
class Assumed:
    """Fractions of the data sheet that are reached, and what a launch costs."""

    bandwidth: float = 0.90  # a large copy
    weights: float = 0.80  # products of at most 256 rows read their weights at this
    keys: float = 0.70  # decode attention
    product: float = 0.80  # products of thousands of rows and columns
    narrow: float = 0.70  # those of width 1,536 and less in their inner or outer dimension
    training: float = 0.45  # forward and backward of whole layers, element-wise work included
    kernel_seconds: float = 2e-6  # of a small kernel inside a graph
    kernels_a_layer: int = 22
    kernels_a_step: int = 25
    read_every: int = 8
    read_seconds: float = 0.4e-3  # the host between two reads


ASSUMED = Assumed()
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def shape_of(name: str) -> Mapping[str, Any]:
    return SMOLLM2 if name.startswith("smollm2") else SHAPES[name][1]


# ---- formulas -----------------------------------------------------------------------------------------------


def width_of(shape: Mapping[str, Any]) -> int:
    return shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"]


def layer_weights(shape: Mapping[str, Any]) -> int:
    """Numbers in one layer's products: queries, keys, values, output; gate, up, down."""
    hidden, width = shape["hidden_size"], width_of(shape)
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    return hidden * width * (2 * heads + 2 * kv_heads) + 3 * hidden * shape["intermediate_size"]


def body_weights(shape: Mapping[str, Any]) -> int:
    return shape["num_hidden_layers"] * layer_weights(shape)


def head_weights(shape: Mapping[str, Any]) -> int:
    return shape["hidden_size"] * shape["vocab_size"]


def key_bytes(shape: Mapping[str, Any]) -> int:
    """Of one token in all layers, bfloat16."""
    return 4 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * width_of(shape)


def step_bytes(
    shape: Mapping[str, Any], rows: int, groups: int, prompt: int, own: float
) -> dict[str, float]:
    """What a decoding step has to read or write: weights, keys (a prompt's once for its group), fp32 logits twice."""
    return {
        "weights": 2.0 * (body_weights(shape) + head_weights(shape)),
        "keys": key_bytes(shape) * (groups * prompt + rows * own),
        "logits": 2 * 4.0 * rows * shape["vocab_size"],
    }


def roofline_step(
    shape: Mapping[str, Any], rows: int, groups: int, prompt: int, own: float
) -> float:
    """Seconds of a step at the data sheet's bandwidth, weights and keys alone."""
    parts = step_bytes(shape, rows, groups, prompt, own)
    return (parts["weights"] + parts["keys"]) / BANDWIDTH


def step_seconds(
    shape: Mapping[str, Any],
    rows: int,
    groups: int,
    prompt: int,
    own: float,
    assumed: Assumed = ASSUMED,
) -> float:
    """Seconds of a captured step as expected: its bytes at the assumed fractions, its launches, its share of a read."""
    parts = step_bytes(shape, rows, groups, prompt, own)
    moving = (
        parts["weights"] / assumed.weights
        + parts["keys"] / assumed.keys
        + parts["logits"] / assumed.bandwidth
    ) / BANDWIDTH
    flops = 2.0 * rows * (body_weights(shape) + head_weights(shape)) / (RATE * assumed.narrow)
    launches = shape["num_hidden_layers"] * assumed.kernels_a_layer + assumed.kernels_a_step
    return (
        max(moving, flops)
        + launches * assumed.kernel_seconds
        + assumed.read_seconds / assumed.read_every
    )


def rollout(name: str, case: Case, assumed: Assumed = ASSUMED) -> dict[str, float]:
    """A case's whole decoding: rows fall as completions end, each step costing what its bucket of rows costs."""
    from grpo.rollout.cuda_graphs import bucket

    shape, lengths = shape_of(name), sorted(sum(case.targets(), []))
    rows, seconds, ideal, computed = len(lengths), 0.0, 0.0, 0
    every = assumed.read_every
    for step in range(0, lengths[-1], every):
        alive = sum(length > step for length in lengths)
        used = bucket(alive)
        groups = min(case.prompts, alive)
        seconds += every * step_seconds(
            shape, used, groups, case.prompt_tokens, step + every / 2, assumed
        )
        ideal += every * roofline_step(shape, alive, groups, case.prompt_tokens, step + every / 2)
        computed += every * used
    prompts = (
        2.0 * case.prompts * case.prompt_tokens * body_weights(shape) / (RATE * assumed.training)
    )
    tokens = sum(lengths)
    at_full = step_seconds(shape, rows, case.prompts, case.prompt_tokens, 256, assumed)
    roof = roofline_step(shape, rows, case.prompts, case.prompt_tokens, 256)
    return {
        "step_ms": 1e3 * at_full,
        "roofline_ms": 1e3 * roof,
        "full_rate": rows / at_full,
        "of_roofline": roof / at_full,
        "seconds": seconds + prompts,
        "useful": tokens / (seconds + prompts),
        "alive": tokens / computed,
    }


def head_seconds(case: Mapping[str, Any], assumed: Assumed = ASSUMED) -> dict[str, float]:
    """The log-prob head in its default form: products in chunks, the row kernel between, the weight's gradient in fp32.

    Per kept token and vocabulary entry the row kernel reads 4 bytes twice and writes 2 (reads them once without
    gradient); the first product writes 4, the others read 2 each. The weight's gradient is read and written (8 bytes
    a number) a chunk. A product takes the larger of its operations and its bytes.
    """
    from grpo.kernels.log_prob.spec import CHUNK_BYTES, MAX_CHUNK, MIN_CHUNK

    kept, width, size = case["N"] * case.get("kept", 1.0), case["H"], case["V"]
    rows = max(MIN_CHUNK, min(MAX_CHUNK["cuda"], CHUNK_BYTES["cuda"] // (size * 4) // 64 * 64))
    chunks = -(-kept // rows)
    rate = RATE * (assumed.narrow if width <= 1536 else assumed.product)
    bandwidth = BANDWIDTH * assumed.bandwidth
    product = 2.0 * kept * width * size / rate
    first = max(product, 4 * kept * size / bandwidth)
    row_kernel = (4 if case["kind"] == "score" else 10) * kept * size / bandwidth
    back = 0.0 if case["kind"] == "score" else max(product, 2 * kept * size / bandwidth)
    weight = (product + chunks * 8 * size * width / bandwidth) if case["kind"] == "train" else 0.0
    bare = (
        {"score": 1, "frozen": 2, "train": 3}[case["kind"]] * 2.0 * case["N"] * width * size / rate
    )
    return {
        "ms": 1e3 * (first + row_kernel + back + weight),
        "bare_ms": 1e3 * bare,
        "over_bare": (first + row_kernel + back + weight) / bare,
    }


def learner_seconds(case: Mapping[str, Any], assumed: Assumed = ASSUMED) -> dict[str, float]:
    """One update: 6 operations a weight and forwarded token in the layers, attention over prompts and own tokens, the
    head, the optimizer's bytes; TRL's forwards every row padded with its own prompt, and takes a fourth product.
    """
    shape, found = case["config"], counts(case)
    size = body_weights(shape) + head_weights(shape)
    head = (
        head_seconds(
            {
                "N": found["completion_tokens"],
                "H": shape["hidden_size"],
                "V": shape["vocab_size"],
                "kind": "train",
            },
            assumed,
        )["ms"]
        / 1e3
    )
    longest = case["prompt"] + found["completion_tokens"] / (case["prompts"] * case["group"])

    def layers(tokens: float, length: float) -> float:
        wide = shape["num_attention_heads"] * width_of(shape) * shape["num_hidden_layers"]
        return (6.0 * tokens * body_weights(shape) + 6.0 * tokens * length * wide) / (
            RATE * assumed.training
        )

    optimizer = (
        30.0 * size / (BANDWIDTH * assumed.bandwidth)
    )  # masters, moments, gradients, weights: read and written
    ours = layers(found["ours_forwarded"], longest) + head + optimizer
    trl = layers(found["trl_forwarded"], longest) + head * 4 / 3 + optimizer / 2
    return {"ours_ms": 1e3 * ours, "trl_ms": 1e3 * trl, "trl_over_ours": trl / ours}


def end_to_end(assumed: Assumed = ASSUMED) -> dict[str, float]:
    """A step of the comparison with TRL: SmolLM2, 32 prompts of 200 tokens, 8 completions of 256 each."""
    prompts, group, prompt, new = 32, 8, 200, 256
    rows, shape = prompts * group, SMOLLM2
    sample = new * step_seconds(shape, rows, prompts, prompt, new / 2, assumed)
    head = (
        head_seconds({"N": rows * new, "H": 576, "V": 49152, "kind": "train"}, assumed)["ms"] / 1e3
    )
    tokens = rows * new + prompts * prompt
    update = 6.0 * tokens * body_weights(shape) / (RATE * assumed.training / 2) + head + 0.05
    eager = 0.028  # seconds of a decoding step by `generate`, some 1,300 launches at 10 to 20 us and the processors
    trl_sample = new * eager
    trl_update = (
        rows / 8 * 0.25
    )  # 32 micro-batches of 8 rows with checkpointing, each bound by its launches
    useful = rows * new
    return {
        "ours_sample_s": sample,
        "ours_update_s": update,
        "ours_tokens_s": useful / (sample + update + 0.2),
        "trl_sample_s": trl_sample,
        "trl_update_s": trl_update,
        "trl_tokens_s": useful / (trl_sample + trl_update + 0.2),
        "step_ratio": (trl_sample + trl_update + 0.2) / (sample + update + 0.2),
        "update_ratio": trl_update / update,
    }


# ---- tables -------------------------------------------------------------------------------------------------

GOALS = {
    "qwen2.5-0.5b-32x8": ">= 80k, 30 %",
    "qwen2.5-1.5b-32x8": ">= 55k, 45 %",
    "qwen2.5-7b-32x8": "60 %",
    "qwen3-0.6b-32x8": "",
    "smollm2-32x8": "",
}
HEAD_GOALS = {
    "4096-train": "<= 49, then 45",
    "4096-frozen": "<= 32, then 30",
    "4096-score": "<= 16, then 14.5",
    "896-train": "<= 15, then 11.5",
    "896-frozen": "<= 10.5, then 7.5",
    "896-score": "<= 5.5, then 4",
}
UNMEASURED = "unmeasured"


def table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(titles) + " |"
    yield "|" + "---|" * len(titles)
    for row in rows:
        yield "| " + " | ".join(str(cell) for cell in row) + " |"


def tables() -> Iterator[str]:
    """All tables, a measured column empty in each."""
    yield from (
        "### Rollouts: 32 prompts of 200 tokens x 8, at most 1,022 new, log-normal, bfloat16",
        "",
    )
    rows: list[Sequence[Any]] = []
    for name, goal in GOALS.items():
        rolled = ROLLOUT_CASES[name]
        e = rollout(rolled.model, rolled)
        rows.append(
            (
                name,
                f"{e['roofline_ms']:.2f}",
                f"{e['step_ms']:.2f}",
                f"{e['full_rate'] / 1e3:.0f}k",
                f"{e['of_roofline']:.0%}",
                f"{e['useful'] / 1e3:.0f}k",
                f"{e['alive']:.0%}",
                goal,
                UNMEASURED,
            )
        )
    yield from table(
        (
            "case",
            "roofline, ms a step",
            "expected, ms a step",
            "tokens/s at 256 rows, 256 own",
            "of roofline",
            "useful tokens/s, whole case",
            "rows alive",
            "goal",
            "measured",
        ),
        rows,
    )
    yield from (
        "",
        "### Head: N = 8,192 unless the name says otherwise, bfloat16, milliseconds",
        "",
    )
    rows = []
    for name, case in GPU_CASES.items():
        e = head_seconds(case)
        rows.append(
            (
                name,
                f"{case['N']:,} x {case['H']:,} x {case['V']:,}",
                f"{e['bare_ms']:.1f}",
                f"{e['ms']:.1f}",
                f"{e['over_bare']:.2f}",
                HEAD_GOALS.get(name, ""),
                UNMEASURED,
            )
        )
    yield from table(
        ("case", "N x H x V", "bare products", "expected", "over bare", "goal", "measured"), rows
    )
    yield from (
        "",
        "### Learner: 64 completions of log-normal length (median 512), bfloat16, milliseconds",
        "",
    )
    rows = []
    for name, case in LEARNER_CASES.items():
        if name.startswith(("0.5B", "1.5B")):
            e = learner_seconds(case)
            rows.append(
                (
                    name,
                    f"{counts(case)['ours_forwarded']:,}",
                    f"{counts(case)['trl_forwarded']:,}",
                    f"{e['ours_ms']:.0f}",
                    f"{e['trl_ms']:.0f}",
                    f"{e['trl_over_ours']:.1f}",
                    ">= 2",
                    UNMEASURED,
                )
            )
    yield from table(
        (
            "case",
            "tokens forwarded, ours",
            "TRL",
            "expected, ours",
            "TRL",
            "TRL / ours",
            "goal",
            "measured",
        ),
        rows,
    )
    yield from ("", "### End to end: SmolLM2-135M, 32 x 8 completions of 256 tokens", "")
    e = end_to_end()
    yield from table(
        ("figure", "expected, ours", "expected, TRL's defaults", "ratio", "goal", "measured"),
        [
            (
                "sampling, s",
                f"{e['ours_sample_s']:.2f}",
                f"{e['trl_sample_s']:.1f}",
                f"{e['trl_sample_s'] / e['ours_sample_s']:.0f}",
                "",
                UNMEASURED,
            ),
            (
                "update, s",
                f"{e['ours_update_s']:.2f}",
                f"{e['trl_update_s']:.1f}",
                f"{e['update_ratio']:.0f}",
                ">= 2",
                UNMEASURED,
            ),
            (
                "useful tokens/s of the whole step",
                f"{e['ours_tokens_s']:,.0f}",
                f"{e['trl_tokens_s']:,.0f}",
                f"{e['step_ratio']:.0f}",
                ">= 8",
                UNMEASURED,
            ),
        ],
    )


if __name__ == "__main__":
    print(*tables(), sep="\n")
