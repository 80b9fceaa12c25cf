"""What a new user meets in the first hour: files of the same name, commands to paste, run folders, words before keys.

Commands that load no model run in processes of their own, from a folder that holds the user's files.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from quick_runs import records

import grpo
from grpo import cli
from grpo.recipe.files import shipped_recipes
from grpo.recipe.target import recipe_of_run, run_of
from grpo.run.folder import is_finished

ROOT = Path(__file__).resolve().parents[2]
QUICK = [
    "steps=2",
    "sample.prompts=3",
    "sample.group_size=3",
    "sample.max_tokens=8",
    "data.held_out=3",
    "evaluate.samples=1",
    "evaluate.every=0",
]
MINE = "def mine(text):\n    return float(len(text) % 3 == 0)\n"
SHADOWS = (
    "random",
    "logging",
    "token",
    "queue",
    "secrets",
    "inspect",
    "json",
    "torch",
    "yaml",
    "datasets",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*command: str, folder: Path, text: str = "") -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture
def console_script(tmp_path_factory):
    """What an installer makes of the entry point: a file in another folder, which is then first on the path."""
    script = tmp_path_factory.mktemp("bin") / "grpo"
    script.write_text("import sys\nfrom grpo.cli import main\nsys.exit(main())\n")
    return str(script)


# ---- (a) the user's own files ----------------------------------------------------------------------------------


def own_files(folder: Path, kind: str) -> Path:
    """The user's own module ``rewards``, and files named like modules of Python and of others."""
    own = folder / "rewards.py"
    if kind == "package":
        own = folder / "rewards" / "__init__.py"
        own.parent.mkdir()
    own.write_text(MINE)
    for name in SHADOWS:
        (folder / f"{name}.py").write_text("raise RuntimeError('shadowed')\n")
    return own


@pytest.mark.parametrize("kind", ["file", "package"])
@pytest.mark.parametrize("module", ["grpo", "grpo.train"])
def test_a_module_rewards_in_the_working_folder_is_not_ours_and_a_line_says_so(
    folder, kind, module
):
    own = own_files(folder, kind)
    first = ["train"] if module == "grpo" else []
    done = run("-m", module, *first, "quickstart", "optim.lrr=1", folder=folder)
    note, mistake = done.stderr.splitlines()
    assert done.returncode == 2 and mistake == "recipe: unknown key optim.lrr; did you mean lr?"
    assert (
        note.startswith(f"note: {own} is not imported as the package rewards") and "by path" in note
    )


def test_its_functions_are_used_by_path_in_worker_processes_too(folder):
    own_files(folder, "file")
    line = json.dumps({"completion": "abc"}) + "\n"
    done = run("-m", "grpo", "score", "rewards.py:mine", folder=folder, text=line)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["value"] == 1.0


def test_without_such_a_file_nothing_is_said(folder):
    (folder / "rewards").mkdir()  # without __init__.py it is no package that wins
    done = run("-m", "grpo.train", "quickstart", "optim.lrr=1", folder=folder)
    assert done.stderr.count("\n") == 1


def test_the_console_script_does_not_see_the_working_folder(folder, console_script):
    own_files(folder, "file")
    (folder / "mymod.py").write_text(MINE)
    line = json.dumps({"completion": "abc"}) + "\n"
    done = run(console_script, "score", "mymod:mine", folder=folder, text=line)
    assert done.returncode == 2 and "so name it by path: mymod.py:mine" in done.stderr, done.stderr
    assert "note:" not in done.stderr
    done = run(console_script, "score", "mymod.py:mine", folder=folder, text=line)
    assert done.returncode == 0 and json.loads(done.stdout)["value"] == 1.0, done.stderr


def test_python_m_still_finds_the_users_modules_by_name(folder):
    (folder / "mymod.py").write_text(MINE)
    line = json.dumps({"completion": "abc"}) + "\n"
    done = run("-m", "grpo", "score", "mymod:mine", folder=folder, text=line)
    assert done.returncode == 0 and json.loads(done.stdout)["value"] == 1.0, done.stderr


def test_another_package_rewards_that_is_loaded_already_is_named(folder):
    (folder / "rewards.py").write_text(MINE)
    done = run("-c", "import rewards, grpo", folder=folder)
    assert "grpo needs its own package rewards, but" in done.stderr and "by path" in done.stderr
    done = run("-c", "import grpo, rewards; print(rewards.Score)", folder=folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_whole_run_beside_such_files(folder):
    own_files(folder, "file")
    done = run(
        "-m", "grpo.train", "quickstart", *QUICK, "rewards.mine.use=rewards.py:mine", folder=folder
    )
    assert done.returncode == 0, done.stderr
    steps = records(folder / "runs" / "quickstart")
    assert steps and all("rewards/mine" in record for record in steps)


# ---- (b) going on ----------------------------------------------------------------------------------------------

SIGNALS = """
import os, signal

def stops(text):
    if not os.path.exists("stopped"):
        open("stopped", "w").close()
        os.kill(os.getppid(), signal.SIGTERM)
    return float(len(text) % 3 == 0)
"""


@pytest.fixture
def stopped(folder, capfd):
    """A run with a folder and a name that need quoting, stopped in its first step: the words that it printed."""
    (folder / "it's mine.py").write_text(SIGNALS)
    overrides = [
        *QUICK,
        "run_dir=my runs/a b",
        "name=it's",
        'rewards={mine: {use: "it\'s mine.py:stops"}}',
    ]
    assert cli.main(["train", "quickstart", *overrides]) == 3
    return capfd.readouterr().err


def test_the_printed_command_can_be_pasted_and_finishes_the_run(folder, stopped, capfd):
    words = shlex.split(stopped.rpartition("To resume: ")[2])
    assert words[:3] == ["grpo", "train", "quickstart"] and words[-1] == "--resume"
    assert "run_dir=my runs/a b" in words and "name=it's" in words
    log = (folder / "my runs" / "a b" / "console.log").read_text()
    assert "To resume: " in log
    assert cli.main(words[1:]) == 0
    assert (folder / "my runs" / "a b" / "summary.json").is_file()
    log = (folder / "my runs" / "a b" / "console.log").read_text()
    out = capfd.readouterr().out
    assert all(line in log for line in out.splitlines()) and log.count("--- ") == 2
    assert "step 2/2  reward" in log and "the model is in" in log


def test_a_run_folder_is_gone_on_with_by_itself_even_moved(folder, stopped, capfd):
    moved = folder / "elsewhere"
    (folder / "my runs" / "a b").rename(moved)
    assert cli.main(["train", "elsewhere"]) == 2
    said = capfd.readouterr().err
    assert "elsewhere is a run folder; go on with it by: grpo train elsewhere --resume" in said
    assert recipe_of_run("elsewhere").folder() == moved
    assert run_of("elsewhere/recipe.yaml") == "elsewhere" and run_of("recipe.yaml") is None
    assert cli.main(["train", "--resume", "elsewhere"]) == 0
    assert (
        is_finished(moved, recipe_of_run("elsewhere")) and not (folder / "my runs" / "a b").exists()
    )


def test_resume_auto_begins_goes_on_and_then_has_nothing_to_do(folder, capfd):
    command = ["train", "quickstart", "run_dir=r", *QUICK, "--resume=auto"]
    assert cli.main([*command, "steps=1"]) == 0
    assert cli.main(command) == 0
    assert "resumed after step 1" in capfd.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (folder / "r").rglob("*")}
    assert cli.main(command) == 0
    assert capfd.readouterr().out == f"the run in {folder / 'r'} is finished, with 2 steps made\n"
    assert {path: path.stat().st_mtime_ns for path in (folder / "r").rglob("*")} == before


def test_another_word_after_resume_is_refused(folder, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["train", "quickstart", "--resume=always"])
    assert exit.value.code == 2 and "auto" in capsys.readouterr().err


# ---- (c) where nothing is there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["evaluate", "sample"])
@pytest.mark.parametrize(
    "target, words",
    [
        (
            "nonexistent",
            "there is no run folder and no model nonexistent here; if it is a model of the hub",
        ),
        ("./nonexistent", "there is no ./nonexistent; name a run folder, a model folder"),
        ("here", "here is not a run folder (it has no recipe.yaml), so it names no data"),
        ("begun", "has no final model yet; finish it with: grpo train begun --resume"),
    ],
)
def test_a_target_that_is_not_there_is_what_is_named(folder, capsys, command, target, words):
    (folder / "here").mkdir()
    (folder / "begun").mkdir()
    (folder / "begun" / "recipe.yaml").write_text("steps: 1\n")
    assert cli.main([command, target]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{command}: ") and words in said and "data.source" not in said


# ---- (d) answers without a run, and other trainers' keys ---------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_grpo_alone_and_help_list_the_commands(capsys, words):
    assert cli.main(words) == 0
    listed = capsys.readouterr().out
    assert all(f"grpo {command.name}" in listed for command in cli.COMMANDS)


@pytest.mark.parametrize("name", ["", *cli.BY_NAME])
def test_every_command_says_its_version(capsys, name):
    for word in ("--version", "-V"):
        assert cli.main([*filter(None, [name]), word]) == 0
        assert capsys.readouterr().out == f"grpo {grpo.__version__}\n"


def test_an_unknown_recipe_is_answered_with_those_that_ship(folder, capsys):
    names = shipped_recipes()
    assert {"quickstart", "gsm8k_smollm2"} <= set(names)
    assert cli.main(["train", "quikstart"]) == 2
    said = capsys.readouterr().err
    assert "did you mean quickstart?" in said and ", ".join(names) in said
    (folder / "empty").mkdir()
    assert cli.main(["train", "empty"]) == 2
    assert "is a folder that holds no run" in capsys.readouterr().err
    assert cli.main(["train", "steps=3"]) == 2
    assert "name one before the keys to set" in capsys.readouterr().err


ANSWERS = {
    "learning_rate=1e-6": "TRL's learning_rate is optim.lr here",
    "optim.learning_rate=1e-6": "TRL's learning_rate is optim.lr here",
    "num_generations=8": "TRL's num_generations is sample.group_size here",
    "sample.num_generations=8": "TRL's num_generations is sample.group_size here",
    "loss_type=dr_grpo": "dr_grpo: constant",
    "loss.loss_type=dapo": "TRL's loss_type is set by loss.aggregation and loss.policy here",
    "kl_loss_coef=0.001": "verl's actor_rollout_ref.actor.kl_loss_coef is loss.beta here",
    "loss.kl_loss_coef=0.001": "kl_loss_coef is loss.beta here",
    "actor_rollout_ref.rollout.n=8": "verl's actor_rollout_ref.rollout.n is sample.group_size here",
    "data.train_batch_size=8": "verl's data.train_batch_size is set by sample.prompts and optim.updates here",
    "trainer.total_epochs=3": "verl's trainer.total_epochs is epochs here",
    "algorithm.adv_estimator=grpo": "verl's algorithm.adv_estimator is advantage.rule here",
    "max_completion_length=9": "is sample.max_tokens here",
    "temperature=1": "TRL's temperature is sample.temperature here",
    "epsilon=0.2": "TRL's epsilon is set by loss.epsilon_low and loss.epsilon_high here",
    "beta=0.1": "TRL's beta is loss.beta here",
    "use_vllm=true": "TRL's use_vllm is not needed: there is no vLLM engine yet",
    "push_to_hub=true": "TRL's push_to_hub has no counterpart: upload the folder final/",
    "model.attn_implementation=sdpa": "attn_implementation is not needed: the library brings its own",
    "model.lora.lora_dropout=0.1": "lora_dropout has no counterpart: a token's log-prob in training",
    "model.lora.modules_to_save=[lm_head]": "only low-rank matrices train beside a frozen base",
    "model.lora_modules_to_save=[lm_head]": "only low-rank matrices train beside a frozen base",
    "fsdp=full_shard": "distributed.shard: true divides the model",
    "lr=1e-6": "did you mean optim.lr?",
}


@pytest.mark.parametrize("override", ANSWERS)
def test_another_trainers_key_is_answered_with_ours_or_the_reason(folder, capsys, override):
    assert cli.main(["train", "quickstart", override]) == 2
    said = capsys.readouterr().err
    assert said.startswith("recipe: unknown key ") and ANSWERS[override] in said, said


def test_another_trainers_option_is_answered_too(folder, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["train", "quickstart", "--num_generations", "8"])
    assert exit.value.code == 2
    assert "TRL's num_generations is sample.group_size here" in capsys.readouterr().err


# ---- (e) what is quick -------------------------------------------------------------------------------------------

QUICK_COMMANDS = [
    ["--help"],
    ["--version"],
    ["tran"],
    *([name, "--help"] for name in cli.BY_NAME),
    ["train"],
    ["train", "nowhere"],
    ["train", "quickstart", "optim.lrr=1"],
    ["train", "quickstart", "--reusme"],
    ["train", "quickstart", "run_dir=used"],
    ["train", "quickstart", "--resume"],
    ["evaluate", "nowhere"],
    ["sample", "nowhere"],
    ["score", "--lenientt"],
    ["check", "nowhere.jsonl"],
    ["watch", "nowhere"],
    ["watch", "used"],
    ["convert", "nowhere.yaml"],
]
IMPORTED = """
import json, sys
from grpo.cli import main
heavy = []
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit:
        pass
    loaded = [name for name in ("torch", "transformers", "peft", "datasets", "numpy") if name in sys.modules]
    heavy.append([arguments, loaded])
print(json.dumps(heavy), file=sys.stderr)
"""


def test_help_and_mistakes_load_nothing_heavy(folder):
    (folder / "used").mkdir()
    (folder / "used" / "file").write_text("x")
    done = run("-c", IMPORTED, json.dumps(QUICK_COMMANDS), folder=folder)
    for arguments, loaded in json.loads(done.stderr.splitlines()[-1]):
        assert not loaded, arguments


@pytest.mark.parametrize("module", ["grpo.train", "grpo.evaluate", "grpo.sample"])
def test_modules_run_as_commands_read_their_arguments_before_torch(folder, module):
    code = f"import runpy, sys; sys.argv[1:] = ['--help']; runpy.run_module({module!r}, run_name='__main__')"
    report = (
        "; import atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))"
    )
    done = run("-c", f"import sys{report}; {code}", folder=folder)
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert f"usage: python -m {module}" in done.stdout
