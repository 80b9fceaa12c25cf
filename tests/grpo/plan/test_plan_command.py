"""``grpo plan``: from a recipe and a configuration alone, in lines or JSON; mistakes are one sentence and exit code 2."""

from __future__ import annotations

import json
import sys

import pytest

from grpo import cli

CHECKPOINTING = "model.gradient_checkpointing=true"


@pytest.fixture
def plan(capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["plan", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_plan_shows_phases_scaling_and_every_assumption(plan):
    code, out, err = plan("r1zero_qwen2.5_1.5b", "--gpus", "64", "--price", "2")
    assert code == 0 and err == ""
    assert "64 x h100: predicted from data sheets and assumptions, not measured" in out
    for word in ("sampling ", "judging ", "gather ", "update ", "push ", "a step ", "USD a step"):
        assert word in out
    assert "decoding reads weights at 80% of the memory's bandwidth" in out
    assert "a verdict takes 0.005 processor seconds" in out
    assert "\n 4096 " in out and "longest  " in out


def test_the_json_has_the_same_step_with_cost_free_numbers(plan):
    code, out, _ = plan("r1zero_qwen2.5_1.5b", "--gpus", "16", "--nodes", "2", "--json")
    found = json.loads(out)
    assert code == 0 and "predicted" in found["caution"]
    assert found["step"]["seconds"] == pytest.approx(sum(found["step"]["phases"].values()))
    assert found["device"]["name"] == "h100" and found["assumed"]["training"] == 0.5
    assert [row["gpus"] for row in found["scaling"]][-1] == 4096


def test_a_local_configuration_is_enough(plan, tmp_path):
    (tmp_path / "model").mkdir()
    config = {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "tie_word_embeddings": True,
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    name = f"model.name={tmp_path / 'model'}"
    code, out, _ = plan("quickstart", name, "--gpus", "1", "--json")
    body = 2 * (64 * 16 * 12 + 3 * 64 * 128)
    assert code == 0 and json.loads(out)["model"]["parameters"] == body + 64 * 1000


def test_a_known_model_needs_no_torch(plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, out, _ = plan("quickstart", "model.name=Qwen/Qwen3-8B", "--gpus", "8")
    assert code == 0 and "8.19B parameters" in out


def test_an_assumption_may_be_replaced(plan):
    updates = []
    for share in ("0.2", "0.4"):
        _, out, _ = plan("r1zero_qwen2.5_1.5b", "--assume", f"training={share}", "--json")
        updates.append(json.loads(out)["step"]["phases"]["update"])
    assert 1 < updates[0] / updates[1] < 2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--gpu", "h10"], "did you mean h100"),
        (["--gpus", "0"], "--gpus is 0, and must be at least 1"),
        (["--gpus", "9", "--nodes", "2"], "9 GPUs do not share out equally over 2 machines"),
        (["--assume", "trainin=1"], "did you mean training"),
        (["--assume", "training=no"], "must be a number above 0"),
        (["--assume", "weights=0"], "must be a number above 0"),
        (["--length", "4096"], "above sample.max_tokens (80)"),
        (["--servers", "-1"], "--servers is -1"),
        (["--length", "nan"], "--length is nan, and must be at least 1, and finite"),
        (["--prompt-tokens", "inf"], "--prompt-tokens is inf"),
        (["--price", "nan"], "--price is nan, and must be at least 0, and finite"),
        (["--price", "-1"], "--price is -1"),
        (["--servers", "8"], "8 of 8 GPUs are servers, and none is left to train"),
        (["--servers", "9"], "9 of 8 GPUs are servers"),
        (["--servers", "2", "--tensor-parallel", "4"], "only 2 GPUs sample"),
        (["--tensor-parallel", "2"], "--tensor-parallel is set, but no GPU is a server"),
        (["--ahead"], "no GPU samples apart; name --servers N"),
        (["model.name=qwen2.5-8b"], "did you mean qwen2.5-"),
    ],
)
def test_a_mistake_is_one_sentence(plan, arguments, words):
    code, out, err = plan("quickstart", *arguments)
    assert code == 2 and out == "" and words in err and err.count("\n") == 1


def test_a_run_that_samples_nothing_is_refused(plan):
    code, out, err = plan("sft_countdown")
    assert code == 2 and out == "" and "plans runs that sample and update; the stage is sft" in err


def test_what_does_not_fit_is_said_with_what_to_do(plan):
    code, out, _ = plan("quickstart", "model.name=llama-3.1-70b", CHECKPOINTING)
    assert code == 0 and "does not fit on 8 x h100" in out and "devices are needed" in out
