"""Starting from an adapter that exists, and rank-stabilised adapters."""

import json
import math
import shutil

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer

from grpo import Recipe, RecipeError, SftTrainer
from grpo.learner.learner import Learner
from grpo.learner.optimizer import Optimizer
from grpo.model.info import load_config
from grpo.model.loading import with_adapters
from grpo.model.policy import Policy
from grpo.model.saved_adapter import check_adapter
from grpo.preflight.memory import example_rows, predict
from grpo.recipe import LoraSection, LossSection, ModelSection, OptimSection

IDS = torch.tensor([[5, 9, 40, 7, 7, 60]])


@pytest.fixture
def base(tmp_path):
    tiny_model("llama", 0).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(base, seed):
    """A folder with a trained adapter of `base`, as peft saves it, with dropout; and the logits of the two."""

    def saved(name="adapter", **options):
        config = LoraConfig(
            r=3, lora_alpha=6, lora_dropout=0.5, target_modules=["q_proj", "down_proj"], **options
        )
        adapted = get_peft_model(tiny_model("llama", 0), config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.2)
        adapted.save_pretrained(base.parent / name)
        adapted.eval()
        return base.parent / name, adapted(IDS).logits.detach()

    return saved


def section(base, adapter, **options):
    return ModelSection(name=str(base), adapter=str(adapter), **options)


def test_the_policy_begins_where_the_adapter_ended_and_only_it_trains(base, adapter):
    folder, expected = adapter()
    policy = Policy.load(section(base, folder))
    with policy.own_attention():
        assert torch.allclose(policy.model(IDS).logits, expected, atol=1e-6)
    trained = policy.trainable()
    assert trained and all("lora_" in name for name in trained)
    assert {
        parameter.shape[0 if "lora_A" in name else 1] for name, parameter in trained.items()
    } == {3}
    assert not any(
        module.p for module in policy.model.modules() if isinstance(module, torch.nn.Dropout)
    )


def test_the_reference_is_the_model_with_the_adapter(base, adapter):
    folder, _ = adapter()
    policy = Policy.load(section(base, folder))
    optimizer = Optimizer(policy.trainable(), OptimSection(), 1)
    learner = Learner(
        policy, optimizer, LossSection(beta=0.1), temperature=1.0, tokens_per_micro_batch=64
    )
    assert learner.reference is not None
    assert all(torch.equal(learner.reference[name], p) for name, p in policy.trainable().items())


def test_the_final_model_computes_what_the_policy_does(base, adapter):
    folder, expected = adapter()
    policy = Policy.load(section(base, folder))
    policy.save(base.parent / "final")
    final = Policy.load(ModelSection(name=str(base.parent / "final")))
    with final.own_attention():
        assert torch.allclose(final.model(IDS).logits, expected, atol=2e-5)


def test_an_adapter_of_the_hub_is_found_by_its_id_in_the_cache(
    base, adapter, tmp_path, monkeypatch
):
    """As a download leaves it; the hub itself is not asked."""
    folder, expected = adapter()
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--me--adapter"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    policy = Policy.load(section(base, "me/adapter"))
    with policy.own_attention():
        assert torch.allclose(policy.model(IDS).logits, expected, atol=1e-6)
    with pytest.raises(RecipeError, match="model.adapter names me/other, whose adapter_config"):
        check_adapter(section(base, "me/other"))


def test_a_run_goes_on_with_the_adapter_and_leaves_it_beside_the_merged_model(
    base, adapter, tmp_path
):
    folder, _ = adapter()
    settings = {
        "steps": 1,
        "run_dir": str(tmp_path / "run"),
        "model": {"name": str(base), "adapter": str(folder)},
        "sft": {"batch": 2},
        "data": {"template": "plain"},
    }
    rows = [{"prompt": "a b", "completion": "c d"}, {"prompt": "e f", "completion": "g h"}]
    summary = SftTrainer(Recipe.from_mapping(settings), data=rows, quiet=True).train()
    assert not summary["final"]["problems"]
    before = load_file(folder / "adapter_model.safetensors")
    after = load_file(tmp_path / "run" / "final" / "adapter" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    again = ModelSection(name=str(base), adapter=str(tmp_path / "run" / "final" / "adapter"))
    merged = Policy.load(ModelSection(name=str(tmp_path / "run" / "final")))
    policy = Policy.load(again)
    with merged.own_attention(), policy.own_attention():
        assert torch.allclose(policy.model(IDS).logits, merged.model(IDS).logits, atol=2e-5)


def test_its_memory_is_predicted(base, adapter):
    folder, _ = adapter()
    predicted = predict(
        config=load_config(section(base, folder)),
        tokenizer=tiny_tokenizer(),
        model=section(base, folder),
        optim=OptimSection(),
        loss=LossSection(),
        rows=example_rows(prompts=1, group_size=2, prompt_tokens=4, max_tokens=4),
    )
    policy = Policy.load(section(base, folder))
    assert predicted.all_gradients == 4 * sum(p.numel() for p in policy.trainable().values())


def change_config(folder, **values):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    "values, words",
    [
        ({"modules_to_save": ["lm_head"]}, "whole copies of modules"),
        ({"bias": "all"}, "trained biases"),
        ({"peft_type": "IA3"}, "an adapter of the kind IA3; only LoRA"),
        ({"peft_type": "NONE_SUCH"}, "adapter_config.json cannot be read"),
    ],
)
def test_an_adapter_that_cannot_be_trained_here_is_refused_before_the_model_loads(
    base, adapter, values, words
):
    folder, _ = adapter()
    change_config(folder, **values)
    with pytest.raises(RecipeError, match=words):
        load_config(section(base, folder))


def test_an_adapter_that_is_not_there_or_stands_for_the_model_is_named(base, adapter):
    folder, _ = adapter()
    change_config(folder, base_model_name_or_path="some/base")
    with pytest.raises(RecipeError, match="but there is no adapter_config.json in it"):
        check_adapter(section(base, base))
    with pytest.raises(
        RecipeError, match="is an adapter; set model.adapter to it and model.name to some/base"
    ):
        load_config(ModelSection(name=str(folder)))


def test_an_adapter_of_another_model_is_refused(base, adapter):
    folder, _ = adapter()
    tiny_model("llama", 0, hidden_size=64).save_pretrained(base)
    with pytest.raises(RecipeError, match="the adapter .* does not fit the model"):
        Policy.load(section(base, folder))
    change_config(folder, target_modules=["q_proj", "down_proj", "v_proj"])
    tiny_model("llama", 0).save_pretrained(base)
    with pytest.raises(
        RecipeError, match="lacks weights for the modules that its adapter_config.json names"
    ):
        Policy.load(section(base, folder))


def test_adapter_and_lora_are_not_set_together():
    with pytest.raises(RecipeError, match="model.lora would make another; remove one"):
        Recipe.from_mapping({"model": {"adapter": "a", "lora": {"rank": 2}}})
    Recipe.from_mapping({"model": {"adapter": "a", "quantize": "nf4"}})


def test_a_recipe_may_not_name_two_warm_ups():
    with pytest.raises(
        RecipeError, match="optim.warmup is 3 updates and optim.warmup_ratio 0.1 of the run"
    ):
        Recipe.from_mapping({"optim": {"warmup": 3, "warmup_ratio": 0.1}})


@pytest.mark.parametrize("rslora, scale", [(False, 8 / 4), (True, 8 / math.sqrt(4))])
def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank(rslora, scale):
    adapted = with_adapters(tiny_model("llama", 0), LoraSection(rank=4, alpha=8.0, rslora=rslora))
    layers = [module.scaling for module in adapted.modules() if hasattr(module, "lora_A")]
    assert {scaling["default"] for scaling in layers} == {scale}
