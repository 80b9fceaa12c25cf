"""What the GPU's benchmarks expect, by hand; and their code, tried on a CPU at sizes that mean nothing."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from benchmarks import answers, decode_kernels, expected, rollouts
from benchmarks.expected import ASSUMED, BANDWIDTH, RATE

ROOT = Path(__file__).resolve().parents[1]
QWEN = rollouts.SHAPES["qwen2.5-0.5b"][1]


# ---- what is expected ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b", "qwen3-0.6b"])
def test_the_weights_counted_are_those_of_the_models_products(name: str) -> None:
    kind, shape = rollouts.SHAPES[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(kind(**shape))
    counted = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert expected.body_weights(shape) + expected.head_weights(shape) == counted


def test_the_bytes_of_keys_are_the_published_ones() -> None:
    found = {name: expected.key_bytes(shape) for name, (_, shape) in rollouts.SHAPES.items()}
    assert (
        found["qwen2.5-0.5b"],
        found["qwen2.5-1.5b"],
        found["qwen2.5-7b"],
        found["qwen3-0.6b"],
    ) == (12_288, 28_672, 57_344, 114_688)
    assert expected.key_bytes(expected.SMOLLM2) == 2 * 2 * 30 * 3 * 64


def test_a_steps_time_is_its_bytes_and_its_launches_by_hand() -> None:
    weights = 24 * (896 * 64 * (2 * 14 + 2 * 2) + 3 * 896 * 4864) + 896 * 151936
    keys = 12288 * (32 * 200 + 256 * 256)
    assert expected.roofline_step(QWEN, 256, 32, 200, 256) == pytest.approx(
        (2 * weights + keys) / 3.35e12, rel=1e-12
    )
    moving = (
        2 * weights / ASSUMED.weights + keys / ASSUMED.keys + 8 * 256 * 151936 / ASSUMED.bandwidth
    ) / BANDWIDTH
    launches = (24 * ASSUMED.kernels_a_layer + ASSUMED.kernels_a_step) * ASSUMED.kernel_seconds
    by_hand = moving + launches + ASSUMED.read_seconds / 8
    assert expected.step_seconds(QWEN, 256, 32, 200, 256) == pytest.approx(by_hand, rel=1e-12)
    many = expected.step_seconds(
        QWEN, 8192, 1024, 0, 0
    )  # enough rows for operations to be the larger
    assert many - launches - ASSUMED.read_seconds / 8 == pytest.approx(
        2 * 8192 * weights / RATE / ASSUMED.narrow
    )


def test_the_heads_time_is_its_products_and_its_passes_by_hand() -> None:
    case = {"N": 8192, "H": 4096, "V": 151936, "kind": "score"}
    product, each = 2 * 8192 * 4096 * 151936 / (0.8 * 989e12), 8192 * 151936 / (0.9 * 3.35e12)
    assert expected.head_seconds(case)["ms"] == pytest.approx(1e3 * (product + 4 * each))
    assert expected.head_seconds({**case, "kind": "frozen"})["ms"] == pytest.approx(
        1e3 * (2 * product + 10 * each)
    )
    rows = 2400 * 2**20 // (151936 * 4) // 64 * 64
    added = -(-8192 // rows) * 8 * 151936 * 4096 / (0.9 * 3.35e12)
    train = expected.head_seconds({**case, "kind": "train"})
    assert train["ms"] == pytest.approx(1e3 * (3 * product + 10 * each + added))
    assert train["bare_ms"] == pytest.approx(3e3 * product)


def test_every_row_of_the_tables_is_marked_unmeasured() -> None:
    rows = [line for line in expected.tables() if re.match(r"\| (?!case|figure)", line)]
    assert len(rows) == 5 + 12 + 8 + 3 and all(
        line.endswith(f"{expected.UNMEASURED} |") for line in rows
    )


# ---- the code, tried ----------------------------------------------------------------------------------------


def small(name: str, **options) -> dict:
    torch.manual_seed(0)
    given = argparse.Namespace(**{"device": "cpu", "small": True, "model": None, **options})
    return json.loads(json.dumps(answers.ITEMS[name](answers.SMALL, given)))


@pytest.mark.parametrize("name", ["products", "attention", "sampler", "head", "floor"])
def test_an_item_runs_at_small_shapes_without_a_failure(name: str) -> None:
    found = small(name)
    assert found and not answers.failures(found)


def test_a_decoding_step_is_timed_and_drift_is_small() -> None:
    step = small("step-0.5B")
    assert not answers.failures(step) and len(step["eager_ms"]) == 4 and step["kernels_a_step"] > 50
    assert step["eager_because"] and list(step["captured_ms"]) == ["own=56", "own=72"]
    drift = small("drift", model=str(ROOT / "recipes" / "quickstart_base"))
    assert not answers.failures(drift)
    assert all(
        part["tokens"] == 320 and part["mean"] < 0.05 and part["entropy"] > 0.1
        for part in drift.values()
    )


def test_what_fails_is_named_and_hides_nothing() -> None:
    found = decode_kernels.attempts(
        {"one": lambda: 1 / 0, "other": lambda: {"deep": {"error": "of its own"}, "x": 1}}
    )
    assert found["other"]["x"] == 1 and "test_gpu_benchmarks" in " ".join(found["one"]["at"])
    assert answers.failures(found) == [
        "one: ZeroDivisionError: division by zero",
        "other/deep: of its own",
    ]


def test_rollouts_on_one_model_compare_engine_and_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 2100,
        "max_position_embeddings": 512,
    }
    monkeypatch.setitem(rollouts.SHAPES, "tiny", (Qwen2Config, shape))
    case = rollouts.Case("tiny", 3, 4, 30, 24, "lognormal")
    options = argparse.Namespace(
        device="cpu",
        one_model=True,
        model=None,
        no_batch=True,
        vllm_python=None,
        rounds=1,
        compile=False,
    )
    found = rollouts.measure(case, options)
    assert found["tokens"] == sum(map(sum, case.targets())) and not found["errors"]
    assert set(found["tokens_per_second"]) == {"ours", "generate"} and found["steps"] > 0


def script(*parts: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "benchmarks/gpu.sh", *parts],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, **environment},
    )


def test_the_script_names_the_parts_it_knows_and_says_what_is_missing(tmp_path: Path) -> None:
    text = (ROOT / "benchmarks" / "gpu.sh").read_text()
    known = set(re.search(r'known=" (.*?) "', text, re.S)[1].replace("\\\n", "").split())
    assert known == set(re.findall(r"^        ([\w-]+)\) ", text, re.M))
    assert all(f"`{name}`" in (ROOT / "docs" / "gpu.md").read_text() for name in known)
    done = script(
        "e2e", "e2e-trl", str(tmp_path / "out"), SCRATCH=str(tmp_path / "scratch"), MODEL=""
    )
    assert (
        done.returncode == 1
        and "MODEL is not set" in done.stderr
        and "failed: e2e e2e-trl" in done.stderr
    )


def test_named_cases_exist_and_every_part_ends_in_eight_minutes() -> None:
    from benchmarks.head import CASES as head_cases
    from benchmarks.learner import CASES as learner_cases

    text = (ROOT / "benchmarks" / "gpu.sh").read_text()
    for word, cases in (
        ("head", head_cases),
        ("learner", learner_cases),
        ("rollouts", rollouts.CASES),
        ("rollouts_compiled", rollouts.CASES),
    ):
        for names in re.findall(rf"\) {word} ((?:[\w.-]+ ?)+)", text):
            assert set(names.split()) <= set(cases), names
    assert all(int(limit) <= 480 for limit in re.findall(r"\brun (\d+)", text))


@pytest.mark.slow
def test_answers_and_runs_are_made_by_the_script(tmp_path: Path) -> None:
    rows = "".join(
        json.dumps({"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"}) + "\n"
        for i in range(99)
    )
    (tmp_path / "train.jsonl").write_text(rows)
    done = script(
        "answers",
        "e2e",
        "e2e-gsm8k",
        str(tmp_path),
        SCRATCH=str(tmp_path / "scratch"),
        TRY="1",
        MODEL=str(ROOT / "recipes" / "quickstart_base"),
        GSM8K=str(tmp_path / "train.jsonl"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    runs = {name: run for part in found for name, run in part.get("runs", {}).items()}
    assert set(runs) == {"sums-full", "sums-lora", "gsm8k-full", "gsm8k-lora"}
    for run in runs.values():
        assert (
            run["steps"] >= 1
            and run["points"][0]["step"] == 0
            and run["points"][-1]["step"] == run["steps"]
        )
        assert all(
            0 <= point["low"] <= point["accuracy"] <= point["high"] <= 1 for point in run["points"]
        )
    assert any(part.get("items") and not part["failed"] for part in found)
