"""`grpo export` of a trained run: files, table and card are whole, and a failure leaves nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import quick_runs
import torch
import yaml
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer

import rewards.tasks
from grpo import cli
from grpo.export import llama_cpp
from grpo.export.record import stated_licence
from grpo.model.policy import Policy
from grpo.recipe import LoraSection, ModelSection

pytest.importorskip("gguf")
ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "recipes" / "quickstart_base"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short run of the quickstart."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    quick_runs.run(folder, "steps=2")
    return folder


def export(*arguments: object) -> int:
    return cli.main(["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "both"
    names = ["--precision", "F32", "Q8_0"]
    code = export(run, "--to", "gguf", "-o", out, *names, "--compare", "--license", "apache-2.0")
    assert code == 0
    return out


def test_the_folder_holds_a_file_for_each_precision_with_card_and_details(exported, run):
    names = {"short-F32.gguf", "short-Q8_0.gguf", "README.md", "export.json"}
    assert {file.name for file in exported.iterdir()} == names
    details = json.loads((exported / "export.json").read_text())
    files = {file["precision"]: file for file in details["files"]}
    for name, file in files.items():
        assert file["num_bytes"] == (exported / f"short-{name}.gguf").stat().st_size
    assert files["F32"]["check"]["largest"] < 1e-5 < files["Q8_0"]["check"]["mean"]


def test_the_table_has_log_probs_and_accuracy_of_each_precision(exported):
    details = json.loads((exported / "export.json").read_text())
    model, whole, eight = details["compared"]
    assert (whole["name"], eight["name"]) == ("F32", "Q8_0")
    assert whole["accuracy"] == model["accuracy"] and whole["change"]["difference"] == 0
    assert whole["drift"]["mean"] < 1e-5 < eight["drift"]["mean"] < 0.1
    assert whole["drift"]["tokens"] > 100 and whole["drift"]["agreement"] == 1
    if llama_cpp.is_installed():
        assert whole["greedy"]["same"] == whole["greedy"]["prompts"] == 12
        assert eight["greedy"]["tokens"] > 0.9


def test_the_card_states_data_rewards_licence_results_cost_and_limits(exported, run):
    card = (exported / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "apache-2.0" and "gguf" in head["tags"]
    made_of = json.loads(max(run.glob("checkpoints/step-*/state.json")).read_text())["state"]
    number, digest = made_of["made_of"]["train"].split()
    assert (
        f"rows that trained: {number} (SHA-256 over ids, prompts and columns: `{digest}`)" in card
    )
    source = Path(rewards.tasks.__file__).read_bytes()
    hashed = hashlib.sha256(len(source).to_bytes(8, "little") + source).hexdigest()[:32]
    assert f"| correct | `countdown` | 1 | - | `{hashed}` |" in card
    summary = json.loads((run / "summary.json").read_text())
    accuracy, low, high = (100 * summary["after"][name] for name in ("accuracy", "low", "high"))
    assert f"{accuracy:.1f} % [{low:.1f}, {high:.1f}] (12 prompts x 2 samples)" in card
    assert f"{summary['ledger']['sampled']:,} sampled" in card
    assert f"wrong on {100 - accuracy:.1f} % of the held-out completions" in card
    seconds = summary["cost"]["total"]["wall_seconds"]
    assert (
        f"in all, 1 attempt, loading and saving too: {seconds:,.0f} s by the clock (load " in card
    )
    assert "Reasoning models are easier to jailbreak" in card
    assert "A completion ends with `<eos>`" in card
    for heading in ("Data", "Rewards", "Training", "Results", "Cost", "Safety", "Licence"):
        assert f"\n## {heading}\n" in card
    assert str(run.parent) not in card and str(ROOT) not in card


def test_a_run_that_asked_by_a_pattern_leaves_with_it_as_its_chat_template(exported, run, tmp_path):
    out = tmp_path / "plain"
    assert export(run, "--to", "safetensors", "-o", out) == 0
    tokenizer = AutoTokenizer.from_pretrained(out)
    turns = [{"role": "user", "content": "3 5 7 make 56 :"}]
    asked = tokenizer.apply_chat_template(turns, return_dict=False, add_generation_prompt=True)
    assert asked == tokenizer("3 5 7 make 56 :")["input_ids"]
    if llama_cpp.is_installed():
        runner = llama_cpp.LlamaCpp(exported / "short-F32.gguf", 128)
        assert runner.render(turns) == "3 5 7 make 56 :"
        assert runner.tokenize("3 5 7 make 56 :", add_special=True) == asked


def test_safetensors_are_the_final_model_bit_for_bit_or_in_another_dtype(run, tmp_path):
    final = AutoModelForCausalLM.from_pretrained(run / "final").state_dict()
    for precision, dtype in ((), "float32"), (("--precision", "BF16"), "bfloat16"):
        out = tmp_path / dtype
        assert export(run, "--to", "safetensors", "-o", out, *precision) == 0
        found = AutoModelForCausalLM.from_pretrained(out, dtype="auto").state_dict()
        for name, weight in final.items():
            assert found[name].equal(weight.to(found[name].dtype)), name
        assert str(found["model.norm.weight"].dtype) == f"torch.{dtype}"
        assert (out / "README.md").is_file()


def test_an_adapter_is_merged_into_the_folder(tmp_path):
    section = ModelSection(name=str(BASE), lora=LoraSection(rank=2))
    policy = Policy.load(section)
    for name, parameter in policy.trainable().items():
        torch.nn.init.normal_(parameter, std=0.2 if "lora_B" in name else 0.1)
    policy.save(tmp_path / "trained")
    adapter = f"model.adapter={tmp_path / 'trained' / 'adapter'}"
    assert export(BASE, adapter, "--to", "safetensors", "-o", tmp_path / "out") == 0
    assert not (tmp_path / "out" / "adapter").exists()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, weight in policy.plain_model().state_dict().items():
        torch.testing.assert_close(found[name], weight)


def test_int8_is_compared_too(run, tmp_path, capsys):
    out = tmp_path / "int8"
    assert export(run, "--to", "int8", "-o", out, "--compare") == 0
    assert "| int8 | " in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text())["quantization_config"]["format"]


def test_a_model_that_is_no_run_is_exported_to_one_file_with_its_card_beside_it(tmp_path, capsys):
    out = tmp_path / "base.gguf"
    assert export(BASE, "--to", "gguf", "-o", out) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"base.gguf", "base.md", "base.json"}
    assert (
        "nothing is known here of how this model was trained" in (tmp_path / "base.md").read_text()
    )
    assert "base.gguf: F16, " in capsys.readouterr().out


REFUSED = {
    "a precision of another form": (["--to", "int8", "--precision", "F16"], "none of --to int8"),
    "an unknown precision": (["--to", "gguf", "--precision", "Q3_K"], "it takes one of F32, F16"),
    "a place in no folder": (["--to", "gguf", "-o", "no/where"], "there is no folder"),
    "rows that nobody named": (["--to", "gguf", "--compare"], "give --recipe"),
    "a name that is no repository": (["--to", "gguf", "--push", "mine"], "written OWNER/NAME"),
    "several in one file": (
        ["--to", "gguf", "-o", "one.gguf", "--precision", "F16", "F32"],
        "takes one precision",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_a_line_and_leaves_nothing(
    case, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments, reason = REFUSED[case]
    place = [] if "-o" in arguments else ["-o", "out"]
    assert export(BASE, *arguments, *place) == 2
    said = capsys.readouterr().err.splitlines()
    assert reason in said[-1] and said[-1].startswith("export: ")
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_taken_and_a_run_that_is_not_over_are_refused(run, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert export(BASE, "--to", "gguf", "-o", tmp_path / "mine") == 2
    assert "mine exists; name another place" in capsys.readouterr().err
    half = tmp_path / "half"
    half.mkdir()
    (half / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    assert export(half, "--to", "gguf", "-o", tmp_path / "out") == 2
    assert "has no final model yet" in capsys.readouterr().err
    (half / "final").symlink_to(run / "final")
    assert export(half, "--to", "gguf", "-o", tmp_path / "out") == 2
    assert "has no summary.json" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {"mine", "half"}


def test_an_upload_without_a_hub_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert export(BASE, "--to", "gguf", "--push", "me/mine", "-o", tmp_path / "out") == 2
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err.splitlines() == [
        "export: --push needs the hub, and HF_HUB_OFFLINE is set; unset it, or leave --push out and upload later"
    ]


@pytest.mark.parametrize(
    "text, found",
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\ntags: [a]\nlicense: 'apache-2.0'\n---\n", "apache-2.0"),
        ("license: mit\n", None),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
    ],
)
def test_the_licence_is_read_from_the_head_of_the_base_models_card(tmp_path, text, found):
    (tmp_path / "README.md").write_text(text)
    assert stated_licence(str(tmp_path)) == found
