"""Records what fixed seeds give, as hashes, so that a refactoring can show that it changed nothing.

    python tests/support/replay.py record OUT.json [--tree CHECKOUT]
    python tests/support/replay.py compare OLD.json NEW.json

Small runs go through the commands alone, so the same script measures any commit. The hashes hold for one processor and
one version of torch: record both trees on the same machine. Metrics are hashed without the keys that hold times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Iterable

SMALL = [
    "steps=6",
    "sample.prompts=8",
    "sample.group_size=4",
    "data.held_out=16",
    "evaluate.samples=1",
    "evaluate.every=3",
    "checkpoint.every=3",
    "checkpoint.keep=4",
    "optim.tokens_per_micro_batch=512",
]
RUNS: dict[str, list[str]] = {
    "gguf": [],
    "plain": [],
    "plain, seed 1": ["seed=1"],
    "two updates, two epochs": [
        "optim.updates=2",
        "optim.epochs=2",
        "loss.beta=0.05",
        "loss.entropy=0.01",
    ],
    "dapo with refill": ["loss.preset=dapo", "advantage.flat=refill"],
    "lora": ["model.lora.rank=4", "loss.beta=0.01"],
    "partial rollouts": ["sample.over_request=0.5"],
    "bfloat16": ["model.dtype=bfloat16"],
    "tight memory": ["sample.max_rows=8", "sample.top_p=0.9", "sample.top_k=20"],
    "two rewards": ["rewards.short.use=repetition", "rewards.short.weight=0.1"],
}
RUN_FILES = ("samples.jsonl", "evaluations.jsonl")
PROGRAMS = {
    "right": "a = int(input())\nprint(a * 2)",
    "wrong": "a = int(input())\nprint(a * 3)",
    "raises": "raise ValueError('no')",
    "syntax": "def (",
    "no output": "pass",
    "reads too much": "input()\ninput()\nprint(1)",
    "endless": "while True: pass",
    "memory": "x = bytearray(1 << 36)\nprint(len(x))",
    "exits": "import sys\na = int(input())\nprint(a * 2)\nsys.exit(0)",
    "exits badly": "import sys\na = int(input())\nprint(a * 2)\nsys.exit(3)",
}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def untimed(record: Any) -> Any:
    """`record` without what depends on the clock or the memory of the machine."""
    if isinstance(record, dict):
        return {
            key: untimed(value)
            for key, value in record.items()
            if not key.startswith(("seconds", "memory"))
            and "_per_second" not in key
            and key != "time"
        }
    if isinstance(record, list):
        return [untimed(item) for item in record]
    return record


def hash_of_lines(path: Path) -> str:
    """Of a run's file; of its metrics the records of its steps, as the first trees had no others."""
    records = [untimed(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name == "metrics.jsonl":
        records = [record for record in records if "reward/mean" in record]
    return digest(json.dumps(records, sort_keys=True).encode())


def call(
    tree: Path, arguments: Iterable[str], native: bool, **options: Any
) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(tree), "GRPO_NATIVE": "1" if native else "0"}
    environment["PYTHONHASHSEED"] = "0"
    return subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, text=True, **options
    )


def train(tree: Path, folder: Path, overrides: list[str], native: bool, *flags: str) -> None:
    arguments = ["-m", "grpo.train", "quickstart", *SMALL, f"run_dir={folder}", *overrides, *flags]
    done = call(tree, arguments, native, capture_output=True)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )


def hashes_of_run(folder: Path) -> dict[str, str]:
    found = {"metrics.jsonl": hash_of_lines(folder / "metrics.jsonl")}
    for name in RUN_FILES:
        found[name] = hash_of_lines(folder / name)
    for path in sorted((folder / "final").glob("*.safetensors")):
        found[f"final/{path.name}"] = digest(path.read_bytes())
    return found


def write_gguf(path: Path) -> None:
    """A tiny Llama over bytes as a GGUF file, its weights fixed here."""
    import gguf
    import numpy
    from tokenizers.pre_tokenizers import ByteLevel

    rng = numpy.random.default_rng(0)
    width, hidden, layers, heads = 32, 48, 2, 4
    alphabet = sorted(ByteLevel.alphabet())
    words = ["<pad>", "<s>", "</s>", *alphabet, "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3] + [1] * (len(words) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)

    def add(name: str, *shape: int, scale: float) -> None:
        writer.add_tensor(name, (rng.standard_normal(shape) * scale).astype(numpy.float32))

    add("token_embd.weight", len(words), width, scale=0.5)
    add("output.weight", len(words), width, scale=0.5)
    writer.add_tensor("output_norm.weight", numpy.ones(width, numpy.float32))
    for i in range(layers):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", numpy.ones(width, numpy.float32))
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", numpy.ones(width, numpy.float32))
        for name, rows, columns in [
            ("attn_q", width, width),
            ("attn_k", width // 2, width),
            ("attn_v", width // 2, width),
            ("attn_output", width, width),
            ("ffn_gate", hidden, width),
            ("ffn_up", hidden, width),
            ("ffn_down", width, hidden),
        ]:
            add(f"blk.{i}.{name}.weight", rows, columns, scale=columns**-0.5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def runs(tree: Path, native: bool) -> dict[str, dict[str, str]]:
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, overrides in RUNS.items():
            folder = Path(scratch) / name.replace(" ", "_").replace(",", "")
            if name == "gguf":
                model = Path(scratch) / "tiny.gguf"
                write_gguf(model)
                overrides = [f"model.name={model}", "steps=3", "sample.max_tokens=24"]
                overrides += ["rewards.correct.use=repetition", "checkpoint.every=0"]
            train(tree, folder, overrides, native)
            found[name] = hashes_of_run(folder)
            print(name, found[name], flush=True)
        folder = Path(scratch) / "resumed"
        train(tree, folder, ["optim.updates=2", "steps=3"], native)
        train(tree, folder, ["optim.updates=2", "steps=6"], native, "--resume")
        found["resumed at 3"] = hashes_of_run(folder)
    return found


def scores(tree: Path, name: str, rows: list[dict[str, Any]], *flags: str) -> str:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    done = call(tree, ["-m", "rewards.score", name, *flags], True, input=lines, capture_output=True)
    if done.returncode:
        raise SystemExit(f"rewards.score {name} ended with {done.returncode}:\n{done.stderr}")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    kept = [
        [record.get(key) for key in ("id", "value", "status", "extracted")] for record in records
    ]
    assert len(kept) == len(rows)
    return digest(json.dumps(kept).encode())


def rewards(tree: Path, pairs: list[Path]) -> dict[str, str]:
    found = {}
    for path in pairs:
        rows = [json.loads(line) for line in path.read_text().splitlines()][:100]
        found[f"{path.name}, strict"] = scores(tree, "math_answer", rows, "--pairs")
        found[f"{path.name}, lenient"] = scores(tree, "math_answer", rows, "--pairs", "--lenient")
    tests = json.dumps({"inputs": ["1\n", "5\n"], "outputs": ["2\n", "10\n"]})
    programs = [
        {"id": name, "completion": f"```python\n{text}\n```", "tests": tests}
        for name, text in PROGRAMS.items()
    ]
    found["sandbox"] = scores(tree, "code_tests", programs)
    return found


def record(arguments: argparse.Namespace) -> int:
    tree = Path(arguments.tree).resolve()
    native = {"native": [True], "torch": [False], "both": [True, False]}[arguments.kernels]
    found: dict[str, Any] = {"rewards": rewards(tree, [Path(path) for path in arguments.pairs])}
    for is_native in native:
        found["native kernels" if is_native else "torch"] = runs(tree, is_native)
    Path(arguments.out).write_text(json.dumps(found, indent=1) + "\n")
    return 0


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {name: tree}
    return {
        path: value
        for key, item in tree.items()
        for path, value in flat(item, f"{name}/{key}").items()
    }


def compare(arguments: argparse.Namespace) -> int:
    old, new = (flat(json.loads(Path(path).read_text())) for path in (arguments.old, arguments.new))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    print(f"{len(old)} hashes, {len(changed)} changed", *changed, sep="\n")
    return int(bool(changed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    recording = commands.add_parser("record")
    recording.add_argument("out")
    recording.add_argument("--tree", default=".")
    recording.add_argument("--kernels", choices=["native", "torch", "both"], default="both")
    recording.add_argument(
        "--pairs",
        nargs="*",
        default=[],
        help="files of labelled pairs, as rewards.score takes them",
    )
    recording.set_defaults(run=record)
    comparing = commands.add_parser("compare")
    comparing.add_argument("old")
    comparing.add_argument("new")
    comparing.set_defaults(run=compare)
    arguments = parser.parse_args()
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
