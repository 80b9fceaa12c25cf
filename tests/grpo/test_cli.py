"""`python -m grpo.train`: a mistake is one clear line and exit code 2, before a model loads or a file is written.

The model of these recipes has a configuration and a tokenizer but no weights, so that whatever loads it fails
with another sentence.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import grpo
from grpo import cli
from grpo.recipe import Recipe, describe_keys
from grpo.train import main

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "recipes" / "quickstart_base"
QUICK = [
    "steps=1",
    "data.args.count=400",
    "sample.prompts=4",
    "sample.group_size=4",
    "sample.max_tokens=16",
    "data.held_out=8",
    "evaluate.samples=1",
]
TITLE = f"grpo {grpo.__version__}  r  ->  runs/r\n"
"""What stands on the screen before anything that takes time is checked."""
RECIPE = """\
steps: 1
model: {name: base}
data: {source: countdown, args: {style: symbols}, template: plain}
sample: {prompts: 4, group_size: 4, max_tokens: 40}
rewards: {correct: {use: countdown}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a recipe and a model that has no weights."""
    (tmp_path / "base").mkdir()
    for file in BASE.glob("*.json"):
        shutil.copy(file, tmp_path / "base")
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refusal(folder, capsys):
    """The one line that a command says; but for its title nothing else is said, and nothing written."""

    def refused(*arguments: str) -> str:
        before = sorted(folder.rglob("*"))
        try:
            code = main(["r.yaml", *arguments])
        except SystemExit as stopped:
            code = stopped.code
        out, err = capsys.readouterr()
        assert code == 2 and out in ("", TITLE) and err.count("\n") == 1, (code, out, err)
        assert "Traceback" not in err and sorted(folder.rglob("*")) == before
        return err.strip()

    return refused


def test_without_a_mistake_the_missing_weights_are_what_is_said(refusal):
    assert "base cannot be loaded: Error no file named model.safetensors" in refusal()


def write(name: str, content: str):
    def change(folder: Path) -> None:
        (folder / name).write_text(content)

    return change


def rows(*prompts, **columns) -> str:
    return "".join(json.dumps({"prompt": prompt, **columns}) + "\n" for prompt in prompts)


FILE = [
    "data.args={}",
    "data.source=rows.jsonl",
    "rewards.correct.use=think_format",
    "sample.prompts=2",
]
MANY = rows(*(f"{n} 2 3 make 4" for n in range(1, 9)), answer="1")
REFUSED = {
    "a key nobody knows": (
        [],
        ["sample.groupsize=3"],
        "recipe: unknown key sample.groupsize; did you mean group_size?",
    ),
    "a number as text": (
        [],
        ["optim.lr='1e-6'"],
        "optim.lr must be a number, not the text '1e-6'; write it without quotes",
    ),
    "a value out of range": ([], ["sample.top_p=2"], "sample.top_p is 2.0; it must lie between"),
    "a group of one": ([], ["sample.group_size=1"], "sample.group_size is 1"),
    "no model": ([], ["model.name=null"], "model.name is missing; name a hub id or a folder"),
    "a model folder that is not there": ([], ["model.name=./nope"], "model.name names "),
    "a model without configuration": (
        [lambda f: (f / "base/config.json").unlink()],
        [],
        "base is neither a folder with",
    ),
    "a configuration that is no JSON": (
        [write("base/config.json", "{")],
        [],
        "is not a valid JSON file",
    ),
    "a model without tokenizer": (
        [
            lambda f: (f / "base/tokenizer.json").unlink(),
            lambda f: (f / "base/tokenizer_config.json").unlink(),
        ],
        [],
        "base has no tokenizer that can be loaded",
    ),
    "a damaged tokenizer": (
        [write("base/tokenizer.json", "{}")],
        [],
        "base has no tokenizer that can be loaded",
    ),
    "no data": ([], ["data.source=null"], "data.source is missing; name a hub data set, a .jsonl"),
    "a file that is not there": (
        [],
        ["data.args={}", "data.source=no.jsonl"],
        "data: there is no file ",
    ),
    "a line that is no JSON": ([write("rows.jsonl", rows("1") + "{oops\n")], FILE, "line 2 of "),
    "no rows": ([write("rows.jsonl", "\n")], FILE, "rows.jsonl holds no rows"),
    "a missing prompt column": (
        [write("rows.jsonl", '{"question": "1"}\n')],
        FILE,
        "has no column prompt; its columns are question; set data.columns.prompt to one of them",
    ),
    "a mapped column that is missing": (
        [write("rows.jsonl", rows("1"))],
        [*FILE, "data.columns.answer=gold"],
        "has no column gold, which data.columns.answer names; its columns are prompt",
    ),
    "a column that a reward wants": (
        [write("rows.jsonl", rows("1", "2", "3"))],
        [*FILE, "rewards.correct.use=math_answer"],
        "rewards.correct wants the column answer, but row 1 of the data set has prompt",
    ),
    "an empty prompt": ([write("rows.jsonl", rows("1", "2", ""))], FILE, "the prompt in row 3 of "),
    "all prompts too long": (
        [write("rows.jsonl", MANY)],
        [*FILE, "data.max_prompt_tokens=3"],
        "data: every prompt is longer than 3 tokens (the longest has 6)",
    ),
    "too few prompts short enough": (
        [write("rows.jsonl", rows("1", "2", "3 4 5 6 7"))],
        [*FILE, "sample.prompts=3", "data.max_prompt_tokens=3"],
        "data: 1 prompt is too long, which leaves 2, fewer than sample.prompts (3)",
    ),
    "no room beside the completion": (
        [],
        ["sample.max_tokens=128"],
        "sample.max_tokens is 128, but the model's context is 128",
    ),
    "too few rows": (
        [write("rows.jsonl", MANY)],
        [*FILE, "sample.prompts=9"],
        "sample.prompts is 9, but only 8 rows train; lower sample.prompts or data.held_out",
    ),
    "everything held out": (
        [],
        ["data.held_out=100000"],
        "data.held_out: cannot hold out 100000 of",
    ),
    "an argument no task takes": (
        [],
        ["data.args.stile=words"],
        "does not suit countdown: task countdown: unknown argument stile; did you mean style?",
    ),
    "a task's argument for a file": (
        [write("rows.jsonl", MANY)],
        ["data.source=rows.jsonl"],
        "take data.args out",
    ),
    "chat without a chat template": (
        [],
        ["data.template=chat"],
        "the tokenizer has no chat template; use r1, plain",
    ),
    "a template that is none": (
        [],
        ["data.template=r2"],
        "data.template is 'r2'; it must be r1, chat, plain, auto or",
    ),
    "no reward": (
        [write("r.yaml", RECIPE.rpartition("rewards")[0])],
        [],
        "rewards is empty; name one, e.g. rewards:",
    ),
    "a reward nobody knows": (
        [],
        ["rewards.correct.use=countdwn"],
        "no reward is called 'countdwn'; did you mean countdown?",
    ),
    "a reward's file that is not there": (
        [],
        ["rewards.mine.use=mine.py:f"],
        "rewards.mine: reward ",
    ),
    "a reward's file that does not run": (
        [write("mine.py", "1 +\n")],
        ["rewards.mine.use=mine.py:f"],
        "SyntaxError",
    ),
    "a reward that says too much": (
        [write("mine.py", "raise RuntimeError('a\\nb')\n")],
        ["rewards.mine.use=mine.py:f"],
        "RuntimeError: a b",
    ),
    "weights that are all 0": ([], ["rewards.correct.weight=0"], "every reward has weight 0"),
    "an accuracy of no reward": ([], ["evaluate.reward=corect"], "did you mean correct?"),
    "a run folder in use": (
        [lambda f: (f / "runs/r/x").mkdir(parents=True)],
        [],
        "exists; continue it with --resume",
    ),
    "a run folder that is a file": ([write("out", "")], ["run_dir=out"], "out exists"),
    "a run folder below a file": (
        [write("out", "")],
        ["run_dir=out/run"],
        "out is not a folder; choose another run_dir",
    ),
    "nothing to resume": ([], ["--resume"], "there is no run to resume in "),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_one_line_and_exit_code_2_before_a_model_loads(refusal, folder, mistake):
    changes, arguments, words = REFUSED[mistake]
    for change in changes:
        change(folder)
    assert words in refusal(*arguments)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_refused(refusal, folder):
    (folder / "locked").mkdir(mode=0o500)
    assert "locked is read-only; choose another run_dir" in refusal("run_dir=locked/run")


@pytest.mark.parametrize(
    "weights, words",
    [
        (b"not weights" * 50, "base cannot be loaded: Error while deserializing"),
        (
            BASE.joinpath("model.safetensors").read_bytes()[:100_000],
            "base cannot be loaded: Error while deserializing",
        ),
    ],
)
def test_damaged_weights_are_a_mistake_too(refusal, folder, weights, words):
    (folder / "base" / "model.safetensors").write_bytes(weights)
    assert words in refusal()


@pytest.mark.parametrize(
    "key, value, words",
    [
        (
            "num_hidden_layers",
            4,
            "base lacks 18 of the weights that its config.json asks for, such as model.layers.2",
        ),
        ("hidden_size", 128, "base, but its config.json asks for ["),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused_and_not_made_up(
    refusal, folder, key, value, words
):
    shutil.copy(BASE / "model.safetensors", folder / "base")
    config = json.loads((BASE / "config.json").read_text())
    config.pop("layer_types", None)
    (folder / "base" / "config.json").write_text(json.dumps({**config, key: value}))
    assert words in refusal()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "name a recipe: a YAML file, or one of those that ship: arithmetic_tools, "),
        (["r.yaml", "--reusme"], "unrecognized arguments: --reusme"),
        (["r.yaml", "--dry-run=yes"], "ignored explicit argument 'yes'"),
        (["nowhere.yaml"], "there is no file nowhere.yaml"),
        (["r.yaml", "steps"], "'steps' is not an override; write section.key=value"),
        (["r.yaml", "steps=2", "r.yaml"], "'r.yaml' is not an override"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(folder, capsys, arguments, words):
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1 and words in err


# ---- the command grpo ------------------------------------------------------------------------------------------


def test_grpo_alone_lists_every_command_with_a_line(capsys):
    assert cli.main([]) == 0
    listed = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert f"grpo {command.name}" in listed and command.summary in listed
    assert cli.main(["--help"]) == 0 and capsys.readouterr().out == listed


def test_the_version_is_that_of_the_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"grpo {grpo.__version__}\n"


def test_a_command_nobody_knows_is_one_line_that_names_the_others(capsys):
    assert cli.main(["tran", "r.yaml"]) == 2
    assert capsys.readouterr().err == (
        "grpo: there is no command tran; did you mean train?; the commands are "
        f"{', '.join(command.name for command in cli.COMMANDS)}\n"
    )


def without_forecast(shown: str) -> str:
    """A dry run's text without what it reckons from this moment's speed of the machine."""
    lines = shown.splitlines(keepends=True)
    assert any(line.startswith("cost ") for line in lines)
    return "".join(line for line in lines if not line.startswith("cost "))


def test_a_command_is_the_same_by_either_way(folder, capsys):
    shown = []
    for run in (lambda a: cli.main(["train", *a]), main):
        assert run(["r.yaml", "seed=1", "--dry-run"]) == 0
        shown.append(without_forecast(capsys.readouterr().out))
        assert run(["r.yaml", "seed=-x"]) == 2
        shown[-1] += capsys.readouterr().err
    assert shown[0] == shown[1]


def test_score_and_check_are_those_of_the_rewards(capsys):
    assert cli.main(["check", "nowhere.jsonl"]) == 2
    assert capsys.readouterr().err.startswith("rewards.check: ")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["score", "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0 and "usage: grpo score" in shown and "--pairs" in shown


@pytest.mark.parametrize("shell", cli.SHELLS)
def test_a_shell_completes_commands_and_their_options(shell, capsys):
    pytest.importorskip("shtab")
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("train", "evaluate", "--resume", "--temperature"))


def test_without_shtab_completion_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 2
    assert "install it with: pip install shtab" in capsys.readouterr().err


QUICK_CODE = """
import sys, time
began = time.perf_counter()
import grpo
seconds = time.perf_counter() - began
from grpo.cli import main
for arguments in ([], ["--version"], ["train", "--help"], ["completion", "bash"]):
    try:
        main(arguments)
    except SystemExit:
        pass
print(seconds, "torch" in sys.modules, file=sys.stderr)
"""


def test_help_and_version_import_no_torch_and_the_package_comes_at_once():
    done = subprocess.run(
        [sys.executable, "-c", QUICK_CODE],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, has_torch = done.stderr.split()
    assert has_torch == "False" and float(seconds) < 0.3


def test_the_public_names_can_be_imported_and_are_documented():
    for name in grpo.__all__:
        assert name.startswith("__") or getattr(grpo, name).__doc__


# ---- help and dry run ------------------------------------------------------------------------------------------


def test_the_help_lists_every_key_with_its_docstring(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and "--resume" in text and "--dry-run" in text
    for name, _, help in describe_keys():
        assert f"  {name} = " in text and help in text


def test_a_dry_run_shows_everything_and_writes_nothing(folder, capsys):
    before = sorted(folder.rglob("*"))
    assert main(["r.yaml", "optim.updates=2", "--dry-run", "loss.preset=dapo"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and sorted(folder.rglob("*")) == before
    assert "  epsilon_high: 0.28\n" in out and f"name: {folder / 'base'}\n" in out
    assert (
        "clip(r, 0.8, 1.28)" in out
        and "4 prompts x 4 = 16 completions of at most 40 tokens, 2 updates" in out
    )
    assert f"written to {folder / 'runs' / 'r'}:" in out and "recipe.yaml (first)" in out


def test_a_dry_run_refuses_a_model_that_is_not_there_and_notes_one_that_it_cannot_ask_for(
    folder, capsys, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("./nowhere", "/no/such/folder"):
        assert main(["r.yaml", "--dry-run", f"model.name={name}"]) == 2
        err = capsys.readouterr().err
        assert "nowhere" in err or "/no/such" in err
        assert "but there is no such folder" in err and err.count("\n") == 1
    (folder / "empty").mkdir()
    assert main(["r.yaml", "--dry-run", "model.name=./empty"]) == 2
    assert "is neither a folder with a config.json nor" in capsys.readouterr().err
    for more in ([], ["stage=sft", "data.args={style: symbols, traces: direct}", "sample={}"]):
        assert main(["r.yaml", "--dry-run", "model.name=nobody/has-this-model", *more]) == 0
        out, err = capsys.readouterr()
        assert "since the hub cannot be reached: model: nobody/has-this-model" in out and not err


def test_flags_may_stand_before_between_and_after(folder, capsys):
    shown = []
    for arguments in (
        ["--dry-run", "r.yaml", "seed=1", "steps=2"],
        ["r.yaml", "seed=1", "--dry-run", "steps=2"],
        ["r.yaml", "seed=1", "steps=2", "--dry-run"],
    ):
        assert main(arguments) == 0
        shown.append(without_forecast(capsys.readouterr().out))
    assert (
        shown[0] == shown[1] == shown[2]
        and "seed: 1\n" in shown[0]
        and "the run: 2 steps" in shown[0]
    )


# ---- a real process --------------------------------------------------------------------------------------------


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    own = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "WANDB_SILENT": "true",
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-m", "grpo.train", *arguments],
        cwd=folder,
        env=own,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.slow
def test_a_process_says_a_mistake_in_one_line_and_exits_with_2(folder):
    done = command(folder, "r.yaml", "sample.prompts=1000000")
    assert (done.returncode, done.stdout) == (2, TITLE)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(
        "recipe: sample.prompts is 1000000, but only"
    )


def test_a_whole_run_exits_with_0_and_leaves_no_secret(tmp_path):
    done = command(
        tmp_path,
        "quickstart",
        *QUICK,
        "run_dir=run",
        HF_TOKEN="hf_5ec2e7",
        WANDB_API_KEY="5ec2e7" * 7,
        PYTHONIOENCODING="ascii",
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("grpo ") and any(
        line.startswith("step 1/1  reward ") for line in lines
    )
    assert not any(line.lower().startswith("loss") for line in lines)
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert files and not [file for file in files if b"5ec2e7" in file.read_bytes()]
    assert Recipe.load(tmp_path / "run" / "recipe.yaml").steps == 1
    for file in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl"):
        assert (
            "NaN" not in (tmp_path / "run" / file).read_text()
            and "Infinity" not in (tmp_path / "run" / file).read_text()
        )


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder in which nothing can be made")
def test_a_place_where_nothing_can_be_made_is_found_out_before_the_run(refusal):
    assert refusal("run_dir=/proc/run") == (
        "run folder: /proc/run cannot be made, since nothing can be made in /proc (No such file or directory); "
        "choose another run_dir"
    )
