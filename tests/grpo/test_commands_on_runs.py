"""Every command that takes a run folder, on a run of every kind: it does what is meant, or says why not and what to do."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from run_kinds import RunFolders

from grpo import cli

KINDS = (
    "sft",
    "sft_text",
    "sft_chat",
    "sft_unscored",
    "grpo",
    "reject",
    "distill",
    "traces",
    "evaluate",
    "export",
    "pipeline",
)
COMMANDS = {
    "evaluate": ["--samples", "1"],
    "sample": ["--rows", "2"],
    "chat": ["--seed", "0"],
    "export": ["--to", "safetensors", "--out"],
    "cost": [],
    "report": ["--out"],
    "watch": [],
}
NEEDS_MODEL = ("evaluate", "sample", "chat", "export")
WITHOUT_MODEL = {
    "reject": "which leaves rows (accepted.jsonl) and no model; name",
    "evaluate": "is a stage that evaluates, and leaves no model",
    "export": "keeps its files in files/: name",
}
REFUSED = {
    ("sft_text", "evaluate"): "names no reward",
    ("sft_text", "sample"): "are texts, which ask nothing",
    ("sft_unscored", "evaluate"): "names no reward",
    ("evaluate", "report"): "its accuracies are in summary.json",
    ("export", "report"): "its files and the model card are in files/",
    **{(kind, command): words for kind, words in WITHOUT_MODEL.items() for command in NEEDS_MODEL},
}
"""What a command says of a kind of run that it can do nothing with."""
SHOWN = {
    "evaluate": "accuracy",
    "sample": '"completion":',
    "chat": "",
    "export": "loads back as the model",
    "cost": "wall",
    "report": "report.html",
    "watch": "",
}
"""What a command shows of every other."""
WATCHED = {
    "reject": "16 candidates: ",
    "evaluate": "rl: held-out accuracy ",
    "export": "rl-F32.gguf",
    "sft": "24 rows drawn: 24 trained",
    "grpo": "held-out accuracy",
    "pipeline": "| rl | grpo |",
}
"""What watching a run that is over ends with."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> RunFolders:
    return RunFolders(tmp_path_factory.mktemp("kinds"))


def arguments_of(command: str, out: Path) -> list[str]:
    place = {"export": str(out / "exported"), "report": str(out / "report.html")}
    return [*COMMANDS[command], *([place[command]] if command in place else [])]


@pytest.mark.thin(30)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_is_meant_or_says_what_to_do(
    folders, kind, command, tmp_path, monkeypatch, capsys
):
    target = str(folders.of(kind))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("1 , 2 make 3 :\n"))
    capsys.readouterr()
    code = cli.main([command, target, *arguments_of(command, tmp_path)])
    out, err = capsys.readouterr()
    words = REFUSED.get((kind, command))
    if words is None:
        assert code == 0, err
        assert (WATCHED.get(kind, "") if command == "watch" else SHOWN[command]) in out
    else:
        assert code == 2
        *progress, last = err.strip().splitlines()
        assert words in last and progress in ([], [f"loading {target}"])


def test_the_recipe_in_a_run_folder_means_the_run(folders, monkeypatch, tmp_path, capsys):
    target = str(folders.of("sft_chat") / "recipe.yaml")
    for command in ("evaluate", "sample", "chat", "export"):
        monkeypatch.setattr("sys.stdin", io.StringIO("1 , 2 make 3 :\n"))
        assert cli.main([command, target, *arguments_of(command, tmp_path)]) == 0
        assert SHOWN[command] in capsys.readouterr().out
    alone = tmp_path / "recipe.yaml"
    alone.write_text("model: {name: quickstart_base}")
    assert cli.main(["chat", str(alone)]) == 2


def test_a_run_on_chats_is_evaluated_on_the_rows_it_held_out_as_in_training(
    folders, monkeypatch, tmp_path, capsys
):
    run = folders.of("sft_chat")
    assert cli.main(["evaluate", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    after = json.loads((run / "summary.json").read_text())["after"]
    assert report["prompts"] == 4
    for name in ("length", "truncated"):
        assert report[name] == after[name]
    assert report["strict"]["accuracy"] == after["accuracy"]
    assert report["mean_reward"]["value"] == after["reward"] != 0


def test_a_run_on_rows_to_learn_from_is_sampled_on_rows_with_prompts_alone(
    folders, tmp_path, capsys
):
    other = tmp_path / "asked.jsonl"
    other.write_text(json.dumps({"prompt": "1 , 2 make 3 :"}) + "\n")
    for kind in ("sft_unscored", "sft_text", "sft_chat"):
        assert cli.main(["sample", str(folders.of(kind)), "--data", str(other)]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert json.loads(line)["prompt"] == "1 , 2 make 3 :", kind


def test_a_default_cap_that_the_context_does_not_hold_is_lowered_and_said(folders, capsys):
    run = folders.of("sft_unscored")
    assert cli.main(["sample", str(run), "--rows", "3"]) == 0
    out, err = capsys.readouterr()
    assert "the default of sample.max_tokens, 1024, is more than the model's context of 128" in err
    assert len(out.splitlines()) == 3
    assert cli.main(["sample", str(run), "sample.max_tokens=300"]) == 2
    assert "lower sample.max_tokens" in capsys.readouterr().err


def test_a_run_without_rewards_is_evaluated_where_some_are_named(folders, tmp_path, capsys):
    run = str(folders.of("sft_unscored"))
    assert cli.main(["evaluate", run, "rewards.correct.use=countdown", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"] == 4
    rows = tmp_path / "sums.jsonl"
    rows.write_text(json.dumps({"prompt": "1 + 2 =", "answer": "3"}) + "\n")
    own = f"evaluate.sets.sums={{source: {rows}, max_tokens: 8, rewards: {{c: {{use: math_answer}}}}}}"
    assert cli.main(["evaluate", run, own, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["set"] == "sums" and "names no reward" in err


def test_texts_are_talked_to_as_they_were_learnt_and_chats_through_their_template(
    folders, monkeypatch, capsys
):
    for kind, template in (("sft_text", "plain"), ("sft_chat", "chat")):
        monkeypatch.setattr("sys.stdin", io.StringIO("1 , 2 make 3 :\n"))
        assert cli.main(["chat", str(folders.of(kind)), "--seed", "0"]) == 0
        assert f"template {template}," in capsys.readouterr().err


def test_the_page_of_a_run_that_samples_nothing_to_train_on_says_what_became_of_its_rows(
    folders, tmp_path
):
    said = {
        "reject": "Rejection sampling trains nothing. 16 candidates: ",
        "sft": "nothing is sampled for training. 24 rows drawn: 24 trained.",
    }
    for kind, words in said.items():
        page = tmp_path / f"{kind}.html"
        assert cli.main(["report", str(folders.of(kind)), "--out", str(page)]) == 0
        text = page.read_text()
        assert words in text and "No step is done yet, so nothing" not in text, kind
        assert "<small> of 100</small>" not in text, kind


def test_the_card_of_a_run_says_how_its_stage_trained(folders, tmp_path):
    cards = {}
    for kind in ("sft_text", "sft_chat", "traces", "distill", "pipeline"):
        out = tmp_path / kind
        assert (
            cli.main(["export", str(folders.of(kind)), "--to", "safetensors", "-o", str(out)]) == 0
        )
        cards[kind] = (out / "README.md").read_text()
    rl = "reinforcement learning with group-relative policy optimisation (GRPO)"
    assert f"trained further by supervised fine-tuning; then {rl};" in cards["pipeline"]
    assert cards["pipeline"].count("quickstart_base (LlamaForCausalLM") == 1
    for kind, card in cards.items():
        assert ("- grpo" in card or '"grpo"' in card) == (kind == "pipeline"), kind
        assert ("KL weight" in card) == (kind == "pipeline"), kind
    assert "by supervised fine-tuning; trained and exported" in cards["sft_text"]
    assert "None: nothing that it wrote was scored." in cards["sft_text"]
    assert "nothing was trained by them" in cards["sft_chat"]
    assert "held-out loss after: " in cards["sft_chat"]
    assert "- steps: 2 of 4 rows, of 20 rows" in cards["sft_chat"]
    assert "on a teacher's traces" in cards["traces"]
    assert "the sampled reverse KL to the teacher" in cards["distill"]
