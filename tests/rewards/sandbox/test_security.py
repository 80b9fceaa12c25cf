"""What must not happen: foreign code that runs unasked, tokens in logs, ports that others can reach."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from grpo.model.info import load_config
from grpo.model.loading import load_model
from grpo.model.location import refusal
from grpo.monitor.redaction import HIDDEN, Redactor, known_secrets, secret_keys
from grpo.recipe import ModelSection, Recipe, RecipeError
from grpo.train import main

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "recipes" / "quickstart_base"
QUICK = [
    "quickstart",
    "steps=2",
    "data.args.count=400",
    "sample.prompts=2",
    "sample.group_size=4",
    "sample.max_tokens=12",
    "data.held_out=2",
    "evaluate.samples=1",
    "checkpoint.every=1",
]
SECRETS = {
    "HF_TOKEN": "hf_" + "Q7" * 17,
    "WANDB_API_KEY": "9f" * 20,
    "OPENAI_API_KEY": "sk-proj-" + "Ab3" * 9,
    "MY_SERVICE_PASSWORD": 'corr"ect-horse\\battery',
}


class Evil:
    """A pickle of this writes a file when it is read."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A folder that exists once foreign code has run."""
    place = tmp_path / "foreign-code-ran"
    pickle.loads(pickle.dumps(Evil(place)))
    assert place.is_dir()  # the payload works where nothing holds it
    place.rmdir()
    return place


def model_folder(place: Path, **changes: Any) -> Path:
    """The quickstart's base without its weights, its configuration changed."""
    place.mkdir()
    for file in BASE.glob("*.json"):
        shutil.copy(file, place)
    config = json.loads((place / "config.json").read_text()) | changes
    (place / "config.json").write_text(json.dumps(config))
    return place


# ---- pickles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["torch", "bare"])
def test_a_model_whose_weights_are_a_malicious_pickle_is_refused_and_runs_nothing(
    tmp_path, marker, protocol
) -> None:
    folder = model_folder(tmp_path / "model")
    weights = {"model.embed_tokens.weight": torch.zeros(3), "more": Evil(marker)}
    if protocol == "torch":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(weights, protocol=2))
    with pytest.raises(
        RecipeError, match="holds its weights as a pickle, which may run code"
    ) as found:
        load_model(ModelSection(name=str(folder)))
    assert not marker.exists() and "safetensors" in str(found.value)


def test_an_adapter_that_is_a_malicious_pickle_runs_nothing(tmp_path, marker) -> None:
    folder = model_folder(tmp_path / "model")
    shutil.copy(BASE / "model.safetensors", folder)
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "r": 2,
                "target_modules": ["q_proj"],
                "base_model_name_or_path": str(BASE),
            }
        )
    )
    torch.save({"x": Evil(marker)}, folder / "adapter_model.bin")
    with pytest.raises(RecipeError):
        load_model(ModelSection(name=str(folder)))
    assert not marker.exists()


def test_a_checkpoint_that_someone_put_a_pickle_into_runs_nothing(tmp_path, marker) -> None:
    assert main([*QUICK, f"run_dir={tmp_path / 'run'}"]) == 0
    files = [
        file
        for file in (tmp_path / "run" / "checkpoints").rglob("*")
        if file.is_file() and file.suffix != ".json"
    ]
    assert len(files) >= 4
    for file in files:
        torch.save({"x": Evil(marker)}, file)
    assert main([*QUICK, f"run_dir={tmp_path / 'run'}", "steps=3", "--resume"]) == 2
    assert not marker.exists()


ALLOWED = {  # where pickle may be named, and why
    "rewards/service/process.py": "writes to its own workers",
    "rewards/service/worker.py": "reads its own parent",
    "rewards/environments/worker.py": "reads its own parent",
    "rewards/service/service.py": "writes to its own workers",
    "rewards/programs/formats.py": "an unpickler that refuses every class",
}


def test_nothing_unpickles_but_what_this_library_itself_has_pickled() -> None:
    for file in [
        *ROOT.glob("grpo/**/*.py"),
        *ROOT.glob("rewards/**/*.py"),
        *ROOT.glob("recipes/**/*.py"),
    ]:
        name = str(file.relative_to(ROOT))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found = {alias.name.split(".")[0] for alias in node.names} | {
                    getattr(node, "module", None)
                }
                assert not found & {"joblib", "dill", "cloudpickle", "shelve", "marshal"}, name
                assert "pickle" not in found or name in ALLOWED, name
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                keywords = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                assert keywords.get("allow_pickle") is not True, name
                if node.func.attr == "load" and getattr(node.func.value, "id", None) == "torch":
                    assert keywords.get("weights_only") is True, name


# ---- code that comes with a model, or is named by a recipe ----------------------------------------------------


def test_code_that_comes_with_a_model_runs_only_if_asked_for(tmp_path, marker) -> None:
    folder = model_folder(
        tmp_path / "model",
        model_type="own",
        architectures=["Own"],
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"},
    )
    (folder / "own.py").write_text(
        f"import os\nos.mkdir({str(marker)!r})\nfrom transformers import PretrainedConfig\n"
        "class OwnConfig(PretrainedConfig):\n    model_type = 'own'\n"
    )
    with pytest.raises(RecipeError, match="comes with Python code of its own, which was not run"):
        load_config(ModelSection(name=str(folder)))
    assert not marker.exists()
    load_config(ModelSection(name=str(folder), trust_remote_code=True))
    assert marker.exists()


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir [MARKER]",
        "!!python/object/new:os.mkdir [MARKER]",
        "!!python/name:os.mkdir",
        "!!python/module:this",
        "!!python/object:os.mkdir {}",
    ],
)
def test_a_recipe_cannot_name_code_by_a_yaml_tag(tmp_path, marker, capsys, tag: str) -> None:
    (tmp_path / "r.yaml").write_text(
        "name: " + tag.replace("MARKER", json.dumps(str(marker))) + "\n"
    )
    with pytest.raises(RecipeError, match="not valid YAML"):
        Recipe.load(tmp_path / "r.yaml")
    assert (
        main(["quickstart", "name=" + tag.replace("MARKER", json.dumps(str(marker))), "--dry-run"])
        == 2
    )
    assert "Traceback" not in capsys.readouterr().err and not marker.exists()


def test_a_rewards_file_is_run_when_the_run_starts_and_not_by_reading_the_recipe(
    tmp_path, marker, capsys
) -> None:
    (tmp_path / "mine.py").write_text(
        f"import os\nos.makedirs({str(marker)!r}, exist_ok=True)\n"
        "def mine(text):\n    return float(len(text) % 2)\n"
    )
    recipe = [
        *QUICK,
        f"rewards.mine.use={tmp_path / 'mine.py'}:mine",
        f"run_dir={tmp_path / 'run'}",
    ]
    Recipe.load(*recipe)
    assert main([*recipe, "--dry-run"]) == 0
    assert not marker.exists()
    assert main(recipe) == 0 and marker.exists()


# ---- tokens ---------------------------------------------------------------------------------------------------


REWARD = """
import os
def leaks(text, num_tokens):
    raise ValueError(f"401 for https://me:{os.environ['WANDB_API_KEY']}@api with {os.environ['HF_TOKEN']}, "
                     f"{os.environ['OPENAI_API_KEY']} and {os.environ['MY_SERVICE_PASSWORD']}")
"""


def assert_no_secret(where: str, text: str) -> None:
    for name, value in SECRETS.items():
        assert value not in text and json.dumps(value)[1:-1] not in text, f"{name} in {where}"


def assert_no_secret_in(folder: Path, output: str) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"samples.jsonl", "recipe.yaml", "summary.json"} <= {file.name for file in files}
    for file in files:
        assert_no_secret(str(file), file.read_bytes().decode("utf-8", "replace"))
    assert HIDDEN in (folder / "samples.jsonl").read_text()
    assert_no_secret("the output", output)


LEAKING = "rewards.mine={use: mine.py:leaks, weight: 0}"


def test_tokens_stand_nowhere_in_the_output_or_the_run_folder(tmp_path, monkeypatch, capfd) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(REWARD)
    assert main([*QUICK, "run_dir=run", LEAKING]) == 0
    captured = capfd.readouterr()
    assert_no_secret_in(tmp_path / "run", captured.out + captured.err)


@pytest.mark.slow
def test_tokens_stand_nowhere_in_what_a_process_with_a_tracker_leaves(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(REWARD)
    wandb = "log.wandb={mode: offline}"
    command = [sys.executable, "-m", "grpo.train", *QUICK, "run_dir=run", LEAKING, wandb]
    environment = {**os.environ, **SECRETS, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert any("wandb" in file.parts for file in (tmp_path / "run").rglob("*"))
    assert_no_secret_in(tmp_path / "run", done.stdout + done.stderr)


def test_a_fault_that_ends_a_run_is_told_without_the_tokens_in_it(
    tmp_path, capsys, monkeypatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "mine.py").write_text(REWARD)
    assert (
        main(
            [
                *QUICK,
                f"run_dir={tmp_path / 'run'}",
                f"rewards.mine.use={tmp_path / 'mine.py'}:leaks",
            ]
        )
        == 1
    )
    said = capsys.readouterr().err
    assert "8 of 8 completions could not be judged" in said and said.count(HIDDEN) >= len(SECRETS)
    assert_no_secret("an error", said)


def test_errors_of_the_hub_lose_the_tokens_they_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    said = refusal(
        "someone/model",
        OSError("Invalid user token " + " ".join(SECRETS.values())),
        "cannot be loaded",
    )
    assert_no_secret("a refusal", said)
    assert said.count(HIDDEN) == len(SECRETS)


def test_a_recipe_that_holds_a_token_is_refused_and_not_written(
    tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "a-key-of-no-usual-form")
    for value in (SECRETS["HF_TOKEN"], "a-key-of-no-usual-form", "https://me:password@host/judge"):
        assert (
            main(
                [*QUICK, f"run_dir={tmp_path / 'run'}", f"rewards.correct.args={{key: '{value}'}}"]
            )
            == 2
        )
        said = capsys.readouterr().err
        assert "rewards.correct.args.key holds a key or token" in said and value not in said
    assert not (tmp_path / "run").exists()


def test_what_is_hidden_are_secrets_and_nothing_else(tmp_path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "token").write_text("hf_saved-by-the-login\n")
    (tmp_path / ".netrc").write_text(
        "machine api.wandb.ai\n  login user\n  password 0123456789abcdef\n"
    )
    environment = {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hub"),
        "A_TOKEN": "abcdefghijkl",
        "SHORT_TOKEN": "abc",
        "TOKENIZERS_PARALLELISM": "falsefalsefalse",
        "PATH": "/usr/bin:/usr/local/bin",
        "SSH_KEY": str(tmp_path / "hub" / "token"),
    }
    assert set(known_secrets(environment)) == {
        "hf_saved-by-the-login",
        "0123456789abcdef",
        "abcdefghijkl",
    }
    hide = Redactor(environment)
    text = '{"x": "12 * abc = 7, falsefalsefalse, https://host:80/path?a=b, user@host"}'
    assert hide(text) == text
    assert (
        hide("abcdefghijkl Bearer a1b2c3d4e5f6a7b8c9, http://u:p@h")
        == f"{HIDDEN} Bearer {HIDDEN}, http://{HIDDEN}@h"
    )
    assert list(secret_keys({"a": {"b": ["x", "hf_" + "a" * 30]}, "c": 3})) == ["a.b"]


# ---- ports ----------------------------------------------------------------------------------------------------


def listening(process: psutil.Process) -> set[str]:
    """The addresses at which a process and its children take connections."""
    found = set()
    for one in [process, *process.children(recursive=True)]:
        try:
            found |= {
                c.laddr.ip for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN
            }
        except psutil.Error:
            pass
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_listens_to_nobody(tmp_path) -> None:
    command = [
        sys.executable,
        "-m",
        "grpo.train",
        *QUICK,
        "steps=1000",
        f"run_dir={tmp_path / 'run'}",
    ]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        metrics, found = tmp_path / "run" / "metrics.jsonl", set()
        while process.poll() is None and not (
            metrics.exists() and metrics.read_text().count("\n") >= 2
        ):
            found |= listening(psutil.Process(process.pid))
            time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
        assert found | listening(psutil.Process(process.pid)) == set()
    finally:
        process.kill()
        process.communicate()


LISTENS = ROOT / "rewards/remote/server.py"
"""The reward server, which `grpo serve-rewards` starts and nothing else does."""


def test_no_file_of_the_library_but_the_reward_server_opens_a_port() -> None:
    files = {*ROOT.glob("grpo/**/*.py"), *ROOT.glob("rewards/**/*.py")}
    assert LISTENS in files
    for file in files - {LISTENS}:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = (
                    node.func.attr
                    if isinstance(node.func, ast.Attribute)
                    else getattr(node.func, "id", "")
                )
                assert name not in (
                    "create_server",
                    "start_server",
                    "listen",
                    "HTTPServer",
                    "ThreadingHTTPServer",
                ), file


def test_ranks_of_one_machine_talk_over_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo.distributed.process_group import keep_to_this_machine

    for world, local, expected in (("2", "2", "lo"), ("4", "2", None), (None, None, None)):
        for name, value in (
            ("WORLD_SIZE", world),
            ("LOCAL_WORLD_SIZE", local),
            ("GLOO_SOCKET_IFNAME", None),
        ):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        keep_to_this_machine()
        assert os.environ.get("GLOO_SOCKET_IFNAME") == (
            expected if sys.platform == "linux" else None
        )
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
