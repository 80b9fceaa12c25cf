"""A step is booked whole: every completion, finite JSON, a line that leads with the reward."""

import ast
import io
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from grpo.recipe import Recipe, RecipeError
from grpo.report.console.numbers import interval
from grpo.report.trackers import Life, Trackers
from grpo.report.trackers.registry import KINDS
from grpo.run.accuracy import summarise
from grpo.run.log import Log, finite
from grpo.run.sample_rows import sample_rows
from grpo.types import Completion, Prompt, ScoredGroup
from rewards import Score

ROOT = Path(__file__).resolve().parents[3]
RECORD = {
    "step": 3,
    "reward/mean": 0.25,
    "completion/length": 12.5,
    "group/flat": 0.5,
    "policy/entropy": 0.75,
    "policy/drift": 3e-7,
    "update/made": 1,
    "update/loss": 1e-9,
    "ledger/faulted": 0,
    "seconds/step": 1.5,
}
ONE, TWO = (
    Score(1.0, parts={"inner": 0.5}),
    Score(None, status="fault", detail="RuntimeError: broken"),
)


def scored(*verdicts: Score, text: str = "x") -> ScoredGroup:
    completions = tuple(
        Completion(f"{text}{i}", (5, 6, 2), torch.zeros(3), "stop", 2) for i in range(len(verdicts))
    )
    return ScoredGroup(
        Prompt("p7", (1,), {"secret": "truth"}, "the prompt"),
        completions,
        verdicts,
        tuple({"mine": verdict} for verdict in verdicts),
    )


def rows(file: Path) -> list[dict]:
    """The lines of a JSONL file as strict JSON, which has no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [
        json.loads(line, parse_constant=refuse)
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path)
    yield made
    made.close()


def test_a_step_writes_its_record_and_every_completion_with_parts_and_status(log, tmp_path):
    log.step(RECORD, [scored(ONE, TWO), scored(ONE)], 10)
    assert rows(tmp_path / "metrics.jsonl") == [RECORD]
    found = rows(tmp_path / "samples.jsonl")
    assert [(row["prompt_id"], row["index"]) for row in found] == [("p7", 0), ("p7", 1), ("p7", 0)]
    assert found[0] == {
        "step": 3,
        "prompt_id": "p7",
        "index": 0,
        "prompt": "the prompt",
        "completion": "x0",
        "finish": "stop",
        "stop": 2,
        "num_tokens": 3,
        "reward": 1.0,
        "status": "scored",
        "parts": {"mine": 1.0},
        "statuses": {"mine": "scored"},
        "detail": "",
        "reported": {"mine": {"inner": 0.5}},
    }
    assert (found[1]["reward"], found[1]["status"], found[1]["parts"]) == (
        None,
        "fault",
        {"mine": None},
    )
    assert found[1]["detail"] == {"mine": "RuntimeError: broken"}


def test_steps_are_added_at_the_end(log, tmp_path):
    for step in (1, 2):
        log.step({**RECORD, "step": step}, [scored(ONE)], 2)
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [1, 2]
    assert [row["step"] for row in rows(tmp_path / "samples.jsonl")] == [1, 2]


def test_a_completion_that_was_never_judged_is_written_too():
    group = scored(ONE)
    unjudged = ScoredGroup(
        group.prompt, group.completions, (Score(None, status="not_applicable", detail="cancelled"),)
    )
    (row,) = sample_rows(1, unjudged)
    assert (row["status"], row["parts"], row["detail"]) == ("not_applicable", {}, "cancelled")


def test_what_is_not_finite_becomes_null(log, tmp_path):
    log.step(
        {**RECORD, "policy/kl": math.nan, "x": [math.inf, {"y": -math.inf, "z": 1}]},
        [scored(ONE)],
        1,
    )
    (found,) = rows(tmp_path / "metrics.jsonl")
    assert found["policy/kl"] is None and found["x"] == [None, {"y": None, "z": 1}]
    assert finite((1, True, None, "s", 2.5)) == [1, True, None, "s", 2.5]


def test_any_text_is_one_line_of_json_and_comes_back_as_it_was(log, tmp_path):
    texts = [
        "a\nb\r\tc",
        "\u2028\u2029\x85",
        '"\\',
        "\x00\x1b[31m",
        "雪 \U0001f600",
        "half \ud83d a pair",
    ]
    log.step(RECORD, [scored(ONE, text=text) for text in texts], 1)
    lines = (tmp_path / "samples.jsonl").read_bytes().split(b"\n")
    assert [json.loads(line)["completion"] for line in lines if line] == [
        text + "0" for text in texts
    ]


def test_the_line_leads_with_the_reward_and_never_says_loss(log):
    line = log.line(RECORD, 100)
    assert (
        line
        == "step   3/100  reward 0.250  length 12.5  zero-variance groups 50%  entropy 0.75  mismatch 3e-07  1.5 s"
    )
    assert "loss" not in line


def test_the_line_shows_the_held_out_accuracy_after_an_evaluation_and_faults_where_there_are(log):
    result = summarise([scored(ONE, ONE), scored(Score(0.0), ONE)], "mine", 0, 0.0)
    log.evaluation(2, {"heldout": result}, "after step 2")
    line = log.line(RECORD, 9)
    assert line.startswith("step 3/9  reward 0.250  held-out 75.0 % [6.7, 99.2]  length"), line
    assert "4 not scored" in log.line({**RECORD, "ledger/faulted": 4}, 9)


def test_a_step_without_update_and_without_scores_has_a_line(log):
    line = log.line(
        {
            **RECORD,
            "update/made": 0,
            "policy/entropy": math.nan,
            "policy/drift": None,
            "reward/mean": math.nan,
        },
        9,
    )
    assert "reward nan" in line and "entropy" not in line and "mismatch" not in line


def test_an_evaluation_is_said_and_its_completions_written_apart(log, tmp_path, capsys):
    log.evaluation(0, {"heldout": summarise([scored(ONE, TWO)], "mine", 6, 1.0)}, "before training")
    said = capsys.readouterr().out
    assert said.startswith("held-out before training: 100.0 % [0.0, 100.0] (1 prompt x 2 samples)")
    assert "1 not scored" in said and "loss" not in said
    assert [row["status"] for row in rows(tmp_path / "evaluations.jsonl")] == ["scored", "fault"]
    assert not (tmp_path / "samples.jsonl").exists()


def test_an_evaluation_of_which_nothing_was_scored_is_said_in_words(log, capsys):
    result = summarise([scored(TWO)], "mine", 3, 1.0)
    log.evaluation(0, {"heldout": result}, "before training")
    assert "before training: nothing scored" in capsys.readouterr().out
    assert interval(finite(result.to_mapping())) == "nothing scored"
    assert "held-out" not in log.line(RECORD, 1)


def test_a_silent_log_writes_and_says_nothing(tmp_path, capsys):
    section = Recipe.from_mapping({}, "log.wandb={mode: offline}").log
    trackers = Trackers(section, tmp_path, patience_seconds=60)
    log = Log(tmp_path, trackers, silent=True)
    log.open(Life({}, "x"), steps=1)
    log.step(RECORD, [scored(ONE)], 1)
    log.evaluation(0, {"heldout": summarise([scored(ONE)], "mine", 3, 1.0)}, "before")
    log.say("words")
    log.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_a_console_that_lacks_a_character_gets_its_escape(log, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    log.say("雪 a \ud83d")
    assert raw.getvalue() == b"\\u96ea a \\ud83d\n"


# ---- trackers --------------------------------------------------------------------------------------------------


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
            names.add(node.module)
    return names


def test_a_tracker_is_imported_in_one_file_which_nothing_imports():
    files = [
        file
        for folder in ("grpo", "rewards", "examples", "recipes")
        for file in (ROOT / folder).rglob("*.py")
    ]
    imports = {file: imported(file) for file in files}
    for kind in KINDS.values():
        own = ROOT / f"{kind.module.replace('.', '/')}.py"
        assert [file for file, names in imports.items() if kind.package in names] == [own]
        assert not [file for file, names in imports.items() if kind.module in names]


def test_only_the_log_and_the_command_print():
    def prints(file: Path) -> bool:
        return any(
            isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        )

    files = [file for file in (ROOT / "grpo").rglob("*.py") if prints(file)]
    assert {file.name for file in files if file.parent.name not in ("commands", "startup")} <= {
        "cli.py",
        "sample.py",
        "reading.py",  # on what it left out of the rows, on standard error
        "terminal.py",  # a chat
    }


@pytest.fixture
def wandb_offline(monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_API_KEY", "5ec2e7" * 7)
    monkeypatch.setenv("HF_TOKEN", "hf_5ec2e7")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-own"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb.teardown()  # it keeps the key that an earlier run of this process used
    yield wandb
    wandb.teardown()


def tracked(folder: Path, *overrides: str) -> Log:
    section = Recipe.from_mapping({}, *overrides).log
    return Log(folder, Trackers(section, folder, patience_seconds=60))


def test_wandb_offline_writes_under_the_run_folder_keeps_its_run_and_holds_no_secret(
    wandb_offline, tmp_path
):
    run = tmp_path / "run"
    run.mkdir()
    log = tracked(run, "log.wandb={project: p, mode: offline, tags: [a]}")
    log.open(Life({"seed": 3}, "name"), steps=1)
    log.evaluation(0, {"heldout": summarise([scored(ONE)], "mine", 3, 1.0)}, "before training")
    log.step({**RECORD, "step": 1, "policy/drift": None, "policy/kl": math.nan}, [scored(ONE)], 1)
    kept = log.tracker_ids["wandb"]
    log.close()
    wandb_offline.teardown()  # waits until all is written, as the end of a process does
    (written,) = run.glob(f"wandb/offline-run-*/run-{kept}.wandb")
    assert b"reward/mean" in written.read_bytes()
    assert json.loads((run / "trackers.json").read_text())["wandb"]["closed_step"] == 1
    secrets = [file for file in run.rglob("*") if file.is_file() and b"5ec2e7" in file.read_bytes()]
    assert secrets == []


def test_wandb_online_without_a_key_is_refused_in_a_sentence(monkeypatch, wandb_offline, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    log = tracked(tmp_path, "log.wandb=true")
    with pytest.raises(
        RecipeError, match="recipe: log.wandb: .*API key.*set log.wandb.mode=offline"
    ):
        log.open(Life({}, "x"), steps=1)
    log.close()


def test_what_is_said_is_kept_in_console_log_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "very-secret-value")
    console = tmp_path / "console.log"
    log = Log(tmp_path)
    log.say("resume: a note on the folder")
    assert not console.exists()  # the folder is not prepared yet
    (tmp_path / "recipe.yaml").write_text("steps: 1\n")
    for _ in range(2):
        log.open(Life({}, "x"), steps=1)
        log.say("a key: very-secret-value", "half a pair: \ud83d")
        log.close()
    lines = console.read_text().splitlines()
    assert [line for line in lines if not line.startswith("--- 2")] == [
        "resume: a note on the folder",
        *["a key: [hidden]", "half a pair: \\ud83d"] * 2,
    ]
    assert len(lines) == 7


def test_a_console_log_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    (tmp_path / "recipe.yaml").write_text("steps: 1\n")
    (tmp_path / "console.log").mkdir()
    log = Log(tmp_path)
    log.open(Life({}, "x"), steps=1)
    log.say("goes on")
    log.close()
