"""A real SGLang: the handshake, log-probs, seeds, stops, weights, adapters, what is cut off.

``GRPO_SGLANG_PYTHON`` names the Python of an environment with it, ``GRPO_SGLANG_ARGS`` further words for its command.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch
from served import client_of, engine_of, fleet_of, moved, probe_of
from tiny import byte_tokenizer, plain_logits, random_prompts, tiny_model

from grpo import Recipe
from grpo.kernels.sampling.spec import Sampling
from grpo.model.adapters import with_adapters
from grpo.model.info import load_info
from grpo.model.policy import Policy
from grpo.recipe import LoraSection
from grpo.run.serving import Serving, problems_of

PYTHON = os.environ.get("GRPO_SGLANG_PYTHON", "")
ARGUMENTS = tuple(shlex.split(os.environ.get("GRPO_SGLANG_ARGS", "")))
pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON, reason="GRPO_SGLANG_PYTHON names no Python with SGLang"),
]
START_SECONDS = 600
LIMIT = 1e-5
"""Distance of log-probs in fp32."""
PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
SIZE = {"hidden_size": 128, "intermediate_size": 128, "max_position_embeddings": 512}
PROMPTS = random_prompts(0, [9, 12, 5], 250)


def _policy(lora: bool = False) -> Policy:
    tokenizer = byte_tokenizer()
    vocabulary = len(tokenizer) + 5
    model = tiny_model("qwen2", 0, vocabulary=vocabulary, tie_word_embeddings=False, **SIZE)
    if lora:
        model = with_adapters(model, LoraSection(rank=4, alpha=8.0))
    return Policy(model, tokenizer)


def _started(folder, port, *overrides):
    recipe = Recipe.load(
        "quickstart",
        f"model.name={folder / 'model'}",
        "data.max_prompt_tokens=160",
        "sample.max_tokens=96",
        *overrides,
    )
    serving = Serving(PYTHON, "sglang", port=port, arguments=ARGUMENTS)
    log = folder / f"{port}.log"
    process = subprocess.Popen(
        serving.command(recipe),
        env={**os.environ, **serving.variables(), "HF_HUB_OFFLINE": "1"},
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    server = SimpleNamespace(
        process=process, url=serving.url, engine="sglang", serving=serving, recipe=recipe
    )
    deadline = time.monotonic() + START_SECONDS
    while not client_of(server).is_alive(5.0):
        if process.poll() is not None or time.monotonic() > deadline:
            _end(server)
            pytest.fail("SGLang did not start:\n" + log.read_text(errors="replace")[-3000:])
        time.sleep(1.0)
    return server


def _end(server) -> None:
    if server.process.poll() is None:
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the model lies."""
    folder = tmp_path_factory.mktemp("sglang")
    policy = _policy()
    policy.base.save_pretrained(folder / "model")
    policy.tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """A server of full weights."""
    server = _started(folder, 8331)
    yield server
    _end(server)


@pytest.fixture(scope="module")
def adapted(folder):
    """A server that takes adapters."""
    server = _started(folder, 8332, "model.lora.rank=4")
    yield server
    _end(server)


def _sampled(engine, **options):
    settings = {
        "group_size": 3,
        "max_tokens": 24,
        "sampling": PLAIN,
        "seed": ("test", 0),
        **options,
    }
    return dict(engine.sample(PROMPTS, **settings))


def _completions(groups):
    return [one for _, group in sorted(groups.items()) for one in group.completions]


def _tokens(groups):
    return [one.token_ids for one in _completions(groups)]


def _error(policy, groups, temperature=1.0) -> float:
    """The largest distance of log-probs from those of one plain forward a completion."""
    largest = 0.0
    for group in groups.values():
        for one in group.completions:
            logits = plain_logits(policy, group.prompt.token_ids, one.token_ids) / temperature
            ids = torch.tensor(one.token_ids)
            logp_T = logits.log_softmax(-1).detach()[torch.arange(len(ids)), ids]
            largest = max([largest, *(logp_T - one.sampled_logps).abs().tolist()])
    return largest


def _engine(policy, server, folder, **options):
    return engine_of(policy, fleet_of(policy, [server], folder), silence=120.0, **options)


def test_grpo_serve_starts_what_the_handshake_wants(whole):
    info = load_info(whole.recipe.model)
    assert problems_of(whole.recipe, info, whole.serving) == []


def test_log_probs_are_the_policys_before_and_after_reloads(whole, tmp_path):
    policy = _policy()
    engine = _engine(policy, whole, tmp_path)
    first = _sampled(engine)
    assert _error(policy, first) < LIMIT
    for number in range(2):
        moved(policy, seed=number)
        later = _sampled(engine)
        assert _error(policy, later) < LIMIT and _tokens(later) != _tokens(first)
    assert _error(policy, _sampled(engine, sampling=Sampling(0.7, 0, 1.0, 0.0)), 0.7) < LIMIT
    assert _error(policy, _sampled(engine, sampling=Sampling(0.0, 0, 1.0, 0.0))) < LIMIT


def test_log_probs_are_the_policys_after_a_swap_of_adapters_and_one_left_out_is_named(
    adapted, tmp_path
):
    policy = _policy(lora=True)
    fleet = fleet_of(policy, [adapted], tmp_path)
    engine = engine_of(policy, fleet, silence=120.0)
    first = _sampled(engine)
    for number in range(2):
        moved(policy, by=0.05, seed=number)
        later = _sampled(engine)
        assert _error(policy, later) < LIMIT and _tokens(later) != _tokens(first)
    server = fleet.members[0].server
    assert len([name for name in server._names() if name.startswith("version-")]) == 1
    assert probe_of(policy).verdicts([server], PROMPTS, PLAIN)[0].distance < LIMIT
    server.adapter = ""
    verdict = probe_of(policy).verdicts([server], PROMPTS, PLAIN)[0]
    assert verdict.fault == "adapter ignored" and verdict.likeness > 0.5


def test_seeds_repeat_completions_and_neighbours_share_none(whole, tmp_path):
    policy = _policy()
    engine = _engine(policy, whole, tmp_path)
    first = _sampled(engine, group_size=8)
    assert _tokens(first) == _tokens(_sampled(engine, group_size=8))
    other = _sampled(engine, group_size=8, seed=("test", 1))
    long = {tokens for tokens in _tokens(first) if len(tokens) > 4}
    assert len(long) > 8 and not long & set(_tokens(other))


def test_ids_and_strings_stop_and_belong_to_the_completion(whole, tmp_path):
    policy = _policy()
    engine = _engine(policy, whole, tmp_path)
    plain = _completions(_sampled(engine))
    place = min(2, len(plain[0].token_ids) - 1)
    policy.stop_ids |= {plain[0].token_ids[place]}
    cut = _completions(_sampled(engine))[0]
    place = plain[0].token_ids.index(plain[0].token_ids[place])
    assert cut.token_ids == plain[0].token_ids[: place + 1]
    assert (cut.finish, cut.stop) == ("stop", cut.token_ids[-1])
    text = next(one.text for one in plain if len(one.text) > 6 and one.text[3:5].isascii())
    (tmp_path / "b").mkdir()
    engine = _engine(_policy(), whole, tmp_path / "b", stop=[text[3:5]])
    stopped = [one for one in _completions(_sampled(engine)) if one.stop == text[3:5]]
    assert stopped and all(one.text.endswith(text[3:5]) and one.finish == "stop" for one in stopped)


def test_what_is_cut_off_stays_and_the_server_goes_on(whole, tmp_path):
    policy = _policy()
    policy.stop_ids = frozenset({2})
    engine = _engine(policy, whole, tmp_path)
    groups = _sampled(engine, max_tokens=96, interrupted=lambda: engine.stats.rows_alive > 60)
    assert "cancelled" in {one.finish for one in _completions(groups)}
    moved(policy)
    assert _error(policy, _sampled(engine)) < LIMIT
