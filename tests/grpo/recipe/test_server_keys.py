"""Settings for servers that contradict each other are refused with the reason."""

from __future__ import annotations

import pytest

from grpo import Recipe, RecipeError

SERVED = "{engine: vllm, servers: ['http://127.0.0.1:8000']}"
REFUSED = {
    "sample.servers=['http://127.0.0.1:8000']": "sample.servers is set, but sample.engine is embedded",
    "sample.probe_every=0": "sample.probe_every is set, but sample.engine is embedded",
    "sample.engine=sglang": "sample.engine is sglang, but sample.servers is empty",
    "sample={engine: sglang, servers: ['http://a:1'], top_k: 9}": "sample.top_k is set, but servers do not tell",
    "sample={engine: sglang, servers: ['http://a:1'], compile: true}": "servers sample \\(sample.engine sglang\\)",
    "sample.engine=vllm": "sample.servers is empty; start one with grpo serve",
    "sample={engine: vllm, servers: ['http://a:1', 'http://a:1']}": "names a server twice",
    "sample={engine: vllm, servers: ['http://a:1'], top_p: 0.9}": "sample.top_p is set, but servers do not tell",
    "sample={engine: vllm, servers: ['http://a:1'], compile: true}": "sample.compile is set, but servers sample",
}
OF_THE_MODEL = {
    "model.dtype=float64": "model.dtype is float64, which no server computes in",
    "model={quantize: nf4, lora: {}, name: x}": "a server would hold another base",
    "tools=[calculator]": "tools is set, but a server's completion ends with its first turn",
}


@pytest.mark.parametrize("override", REFUSED)
def test_keys_that_do_not_go_together_are_refused(override):
    with pytest.raises(RecipeError, match=REFUSED[override]):
        Recipe.load("quickstart", override)


@pytest.mark.parametrize("override", OF_THE_MODEL)
def test_models_that_no_server_holds_are_refused(override):
    with pytest.raises(RecipeError, match=OF_THE_MODEL[override]):
        Recipe.load("quickstart", f"sample={SERVED}", override)


def test_a_served_recipe_is_taken():
    recipe = Recipe.load("quickstart", f"sample={SERVED}", "sample.probe_every=0")
    assert recipe.sample.servers == ["http://127.0.0.1:8000"]


def test_the_folder_of_weights_is_relative_to_the_recipe(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "sample: {engine: vllm, servers: ['http://a:1'], server_folder: shared/weights}\n"
    )
    assert Recipe.load(str(file)).sample.server_folder == str(tmp_path / "shared" / "weights")
