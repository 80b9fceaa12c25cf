"""Runs that sample ahead of the updates at a fake server: equal where they must be, learning, resumed, refused."""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext

import pytest

from grpo import Recipe, RecipeError, Trainer
from grpo.distributed.process_group import Ranks
from grpo.monitor.gates import Gates, GateStop
from grpo.rollout.buffer import RolloutBuffer
from grpo.rollout.engine import EngineFailed
from grpo.run import lifecycle, setup
from grpo.run.lookahead import Lookahead
from tests.support.fake_server import fake_servers
from tests.support.fake_sglang import SGLANG
from tests.support.kills import assert_kills_change_nothing
from tests.support.lives import Lives
from tests.support.quick_runs import assert_same_run, lines, records
from tests.support.served_runs import BASE, LIGHT, SHORT, served_recipe

STEPS = ["steps=4", "sample.group_size=3"]


def _recipe(folder, servers, *overrides):
    return served_recipe(folder, servers, *STEPS, *overrides)


def _run(folder, servers, *overrides, **options):
    trainer = Trainer(_recipe(folder, servers, *overrides), quiet=True, **options)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was never stopped, by its staleness."""
    folder = tmp_path_factory.mktemp("whole")

    def run_of(staleness):
        path = folder / f"k{staleness}"
        if not path.exists():
            with fake_servers(BASE, "") as servers:
                _run(path, servers, f"sample.staleness={staleness}")
        return path

    return run_of


SLOWLY_ONE = [pytest.param(1, marks=pytest.mark.slow), 2]
"""Both bounds, of which the larger is in the fast tests."""


def _without_staleness(rows):
    return [
        {key: value for key, value in row.items() if not key.startswith("staleness/")}
        for row in rows
    ]


def _final(folder):
    return (folder / "final" / "model.safetensors").read_bytes()


def test_a_lookahead_of_no_step_is_the_synchronous_run_bit_for_bit(tmp_path, monkeypatch, whole):
    def no_step_ahead(recipe, served):
        return Lookahead(RolloutBuffer(0, recipe.steps), served)

    with fake_servers(BASE, "") as servers, monkeypatch.context() as patch:
        patch.setattr(setup, "open_lookahead", no_step_ahead)
        trainer = _run(tmp_path / "run", servers)
    assert isinstance(trainer.parts.lookahead, Lookahead)
    for file in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl"):
        ours = _without_staleness(lines(tmp_path / "run", file))
        assert ours == lines(whole(0), file), file
    assert _final(tmp_path / "run") == _final(whole(0))
    assert [row["staleness/max"] for row in records(tmp_path / "run")] == [0, 0, 0, 0]


@pytest.mark.parametrize("bound", SLOWLY_ONE)
def test_a_step_is_as_old_as_the_bound_and_everything_is_in_the_ledger(whole, bound):
    assert not any("staleness/max" in row for row in records(whole(0)))
    rows = records(whole(bound))
    assert [row["staleness/max"] for row in rows] == [min(bound, at) for at in range(4)]
    assert [row["staleness/mean"] for row in rows] == [min(bound, at) for at in range(4)]
    assert all(row["seconds/wait"] >= 0 for row in _timed(whole(bound)))
    summary = json.loads((whole(bound) / "summary.json").read_text())
    assert summary["ledger"]["sampled"] == 24
    synchronous = lines(whole(0), "samples.jsonl")
    ahead = lines(whole(bound), "samples.jsonl")
    assert [row["prompt_id"] for row in ahead] == [row["prompt_id"] for row in synchronous]
    for row in ahead:
        assert row.pop("versions") == [[max(0, row["step"] - 1 - bound), 0, row["num_tokens"]]]
    assert ahead[:6] == synchronous[:6], "the first step is of the weights that it trains"
    assert ahead[6:] != synchronous[6:]


def _timed(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "reward/mean" in row]


@pytest.mark.slow
def test_an_evaluation_is_of_the_weights_of_its_step_alone(tmp_path, monkeypatch):
    seen = []

    def watched(engine, *arguments, **options):
        lookahead = trainer.parts.lookahead
        assert lookahead.buffer.is_settled, "nothing else is sampled meanwhile"
        result = evaluate(engine, *arguments, **options)
        held = lookahead.served.fleet.held.split("-")[1]
        seen.append((trainer.num_steps, trainer.policy.version, engine.weights[0], int(held)))
        return result

    evaluate = lifecycle.evaluate
    monkeypatch.setattr(lifecycle, "evaluate", watched)
    with fake_servers(BASE, "") as servers:
        trainer = Trainer(_recipe(tmp_path / "run", servers, "sample.staleness=2"), quiet=True)
        trainer.train()
    assert {step for step, *_ in seen} == {0, 2, 4}
    assert all(step == version == read == held for step, version, read, held in seen)


def test_the_kind_of_server_does_not_change_a_run(tmp_path, whole):
    with fake_servers(BASE, "", wire=SGLANG) as servers:
        _run(tmp_path / "run", servers, "sample.staleness=2")
    assert _final(tmp_path / "run") == _final(whole(2))


@pytest.mark.parametrize("bound", SLOWLY_ONE)
def test_neither_time_nor_a_server_that_dies_changes_a_run(tmp_path, whole, bound):
    with fake_servers(BASE, "", "") as servers:
        for server in servers:
            server.seconds = 0.004
        trainer = Trainer(_recipe(tmp_path / "run", servers, f"sample.staleness={bound}"))
        for record in trainer:
            if record["step"] == 1:
                servers[1].dies_after = servers[1].num_tokens + 10
        assert servers[1].is_dead
    assert_same_run(whole(bound), tmp_path / "run")


@pytest.mark.parametrize(
    "bound, at",
    [
        (2, 1),
        pytest.param(2, 3, marks=pytest.mark.slow),
        pytest.param(1, 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_stopped_is_resumed_exactly(tmp_path, whole, bound, at):
    with fake_servers(BASE, "") as servers:
        recipe = _recipe(tmp_path / "run", servers, f"sample.staleness={bound}")
        trainer = Trainer(recipe, quiet=True)
        for record in trainer:
            if record["step"] == at:
                trainer.request_stop()
        assert trainer.stopped
    with fake_servers(BASE, "") as servers:
        again = _run(tmp_path / "run", servers, f"sample.staleness={bound}", resume=True)
    assert_same_run(whole(bound), tmp_path / "run")
    assert again.ledger["sampled"] == 24 == again.ledger.begun


@pytest.mark.slow
def test_a_run_that_broke_off_in_the_middle_of_a_step_is_resumed_exactly(
    tmp_path, whole, monkeypatch
):
    with fake_servers(BASE, "") as servers:
        trainer = Trainer(_recipe(tmp_path / "run", servers, "sample.staleness=2"), quiet=True)
        steps = iter(trainer)
        next(steps)
        next(steps)
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "_make_batch", _fails)
            with pytest.raises(MemoryError, match="on purpose"):
                next(steps)
        assert not [one for one in threading.enumerate() if one.name == "sampling ahead"]
        _run(tmp_path / "run", servers, "sample.staleness=2", resume=True)
    assert_same_run(whole(2), tmp_path / "run")


def _fails(*arguments):
    raise MemoryError("on purpose")


@pytest.mark.slow
def test_servers_that_all_die_end_the_run_which_resumes(tmp_path, whole):
    with fake_servers(BASE, "") as servers:
        trainer = Trainer(_recipe(tmp_path / "run", servers, "sample.staleness=1"), quiet=True)
        steps = iter(trainer)
        next(steps)
        servers[0].dies_after = servers[0].num_tokens + 5
        with pytest.raises(EngineFailed, match="all of 1 server are lost"):
            list(steps)
    with fake_servers(BASE, "") as servers:
        _run(tmp_path / "run", servers, "sample.staleness=1", resume=True)
    assert_same_run(whole(1), tmp_path / "run")


@pytest.mark.slow
def test_between_steps_the_engine_is_the_callers(tmp_path, whole):
    with fake_servers(BASE, "") as servers:
        recipe = _recipe(tmp_path / "run", servers, "sample.staleness=2")
        trainer = Trainer(recipe, quiet=True)
        for record in trainer:
            engine = trainer.engine
            prompt = trainer.inputs.prompts.train[0]
            sampling = setup.sampling_of(recipe.sample)
            options = {"group_size": 2, "max_tokens": 4, "sampling": sampling, "seed": ("mine",)}
            groups = dict(engine.sample([prompt], **options))
            spans = [one.versions for one in groups[0].completions]
            assert {versions[0][0] for versions in spans} == {record["step"]}
    assert_same_run(whole(2), tmp_path / "run")


@pytest.mark.slow
def test_a_run_made_longer_samples_ahead_again(tmp_path):
    with fake_servers(BASE, "") as servers:
        _run(tmp_path / "run", servers, "sample.staleness=1", "steps=2")
        _run(tmp_path / "run", servers, "sample.staleness=1", "steps=4", resume=True)
    rows = records(tmp_path / "run")
    assert [row["staleness/max"] for row in rows] == [0, 1, 0, 1]


@pytest.mark.slow
def test_the_next_step_is_sampled_while_this_one_trains(tmp_path, monkeypatch):
    """The update of step 2 waits until the server has been asked for all of step 3, which no synchronous run does."""
    with fake_servers(BASE, "") as servers:
        more = ["sample.staleness=1", "steps=3", "evaluate.every=0", "checkpoint.every=0"]
        trainer = Trainer(_recipe(tmp_path / "run", servers, *more), quiet=True)
        steps = iter(trainer)
        next(steps)
        asked = [body["seed"] for body in servers[0].requests]
        update = trainer.learner.update

        def late(*arguments):
            buffer = trainer.parts.lookahead.buffer
            deadline = time.monotonic() + 30
            while 3 not in buffer.complete and time.monotonic() < deadline:
                time.sleep(0.01)
            assert 3 in buffer.complete and buffer.taken == 2
            return update(*arguments)

        monkeypatch.setattr(trainer.learner, "update", late)
        assert next(steps)["staleness/max"] == 1
        assert len(servers[0].requests) >= len(asked) + 6
        monkeypatch.undo()
        list(steps)


@pytest.mark.slow
@pytest.mark.parametrize("bound", [0, 1, 2])
def test_a_run_learns_as_far_ahead_as_it_is(tmp_path, bound):
    more = [
        f"sample.staleness={bound}",
        f"rewards.correct.use={LIGHT}:share_of_digits",
        "optim.lr=4e-3",
        "steps=20",
        "sample.prompts=4",
        "sample.group_size=4",
        "evaluate.every=0",
        "evaluate.before=false",
        "checkpoint.every=0",
    ]
    with fake_servers(BASE, "") as servers:
        _run(tmp_path / "run", servers, *more)
    rewards = [row["reward/mean"] for row in records(tmp_path / "run")]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.15, rewards


@pytest.mark.slow
@pytest.mark.parametrize("bound", [1, 2])
def test_a_run_killed_again_and_again_is_the_run_never_killed(tmp_path, seed, bound):
    with fake_servers(BASE, "") as servers, Lives() as lives:
        url = f"sample.servers=['{servers[0].url}']"
        overrides = [*(one for one in SHORT if one != "steps=3"), "sample.group_size=3"]
        command = ["quickstart", *overrides, "steps=6", "sample.engine=vllm", url]
        command += [f"sample.staleness={bound}", f"rewards.correct.use={LIGHT}:reward_of_length"]
        assert_kills_change_nothing(lives, command, tmp_path, seed=seed, kills=5)


# -- the probe ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bound, lora",
    [
        (2, []),
        pytest.param(1, [], marks=pytest.mark.slow),
        pytest.param(2, ["model.lora.rank=2"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_probe_compares_a_server_with_the_weights_that_it_was_given(
    tmp_path, monkeypatch, bound, lora
):
    judged = []
    with fake_servers(BASE, "", lora_rank=8 * len(lora)) as servers:
        more = [f"sample.staleness={bound}", "optim.lr=3e-3", *lora]
        recipe = _recipe(tmp_path / "run", servers, *more)
        trainer = Trainer(recipe, quiet=True)
        trainer.open()
        probed = Gates.probed

        def watched(gates, record, why):
            judged.append((lookahead.served.gates is gates, record))
            probed(gates, record, why)

        lookahead = trainer.parts.lookahead
        monkeypatch.setattr(Gates, "probed", watched)
        trainer.train()
    # Once opened: the weights after step 1, which sample ahead, and those after 2 and 4, which are evaluated too.
    assert len(judged) == 3 and all(of_run for of_run, _ in judged)
    assert max(record["server/distance"] for _, record in judged) < 1e-5
    assert max(record["server/likeness"] for _, record in judged) < 0.5


@pytest.mark.slow
def test_a_probe_that_compared_with_other_weights_would_stop_the_run(tmp_path, monkeypatch):
    with fake_servers(BASE, "") as servers:
        more = ["sample.staleness=2", "optim.lr=3e-3", "evaluate.every=0", "checkpoint.every=0"]
        trainer = Trainer(_recipe(tmp_path / "run", servers, *more), quiet=True)
        trainer.open()
        monkeypatch.setattr(type(trainer.policy), "as_if", lambda policy, weights: nullcontext())
        with pytest.raises(GateStop, match="gate server_"):
            trainer.train()


@pytest.mark.parametrize("bound", SLOWLY_ONE)
def test_a_server_with_stale_weights_stops_the_run_before_anything_of_them_trains(tmp_path, bound):
    with fake_servers(BASE, "") as servers:
        recipe = _recipe(tmp_path / "run", servers, f"sample.staleness={bound}")
        trainer = Trainer(recipe, quiet=True)
        trainer.open()
        servers[0].fault = "stale weights"
        with pytest.raises(GateStop, match="gate server_.*; stale weights: http"):
            trainer.train()
    # The weights after step 1 sample step 2 + bound first; what was sampled before held the right ones.
    assert len(records(tmp_path / "run")) <= 1 + bound


# -- what carries over, and what is refused ----------------------------------------------------------------------


@pytest.mark.slow
def test_groups_that_go_on_in_the_next_step_stay_within_the_bound_over_a_stop(tmp_path):
    more = [
        "sample.staleness=2",
        "sample.over_request=1.0",
        "sample.max_rows=8",
        "sample.max_tokens=12",
        "steps=6",
    ]
    with fake_servers(BASE, "") as servers:
        servers[0].seconds = 0.002
        first = Trainer(_recipe(tmp_path / "run", servers, *more), quiet=True)
        for record in first:
            if record["step"] == 2:
                first.request_stop()
        assert first.stopped and first.progress.partial_groups
        trainer = _run(tmp_path / "run", servers, *more, resume=True)
    rows = records(tmp_path / "run")
    assert len(rows) == 6 and max(row["staleness/max"] for row in rows) == 2
    assert sum(row["completion/carried"] for row in rows) > 0
    ledger = trainer.ledger
    assert ledger["sampled"] == ledger.begun == sum(ledger[one] for one in ledger.outcomes)


REFUSED = {
    "sample.engine=embedded": "sample.staleness is set, but sample.engine is embedded",
    "loss.correction=none": "sample.staleness is 1, but loss.correction is none",
    "sample.probe_every=0": "sample.staleness is 1, but sample.probe_every is 0",
    "sample.over_request=0.5": "sample.staleness is 1, but sample.over_request is 0.5",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_cannot_be_sampled_ahead_is_refused(override):
    served = "sample={engine: vllm, servers: ['http://127.0.0.1:8000'], staleness: 1}"
    if override == "sample.engine=embedded":
        served = "sample={staleness: 1}"
    with pytest.raises(RecipeError, match=REFUSED[override]):
        Recipe.load("quickstart", served, override)


def test_several_processes_are_refused_before_a_model_loads(tmp_path, monkeypatch):
    served = "sample={engine: vllm, servers: ['http://a:1', 'http://b:1'], staleness: 1}"
    recipe = Recipe.load("quickstart", served, f"run_dir={tmp_path / 'run'}")
    monkeypatch.setattr(Ranks, "start", lambda: Ranks(0, 2))
    monkeypatch.setattr(Ranks, "watched_by", lambda ranks, dog: None)
    monkeypatch.setattr(setup, "open_policy", None)  # it is refused before a model loads
    with pytest.raises(RecipeError, match="sample.staleness is 1, but 2 processes train"):
        Trainer(recipe, quiet=True).open()
    assert setup.open_lookahead(Recipe.load("quickstart"), None) is None


def test_tokens_above_the_bound_stop_the_run():
    gates = Gates({}, dtype="float32", device="cpu")
    assert gates.sampled(3, {"staleness/max": 2, "staleness/bound": 2})
    assert gates.sampled(3, {"staleness/bound": 0}), "nothing of a run that never samples ahead"
    with pytest.raises(GateStop, match="step 4: gate staleness: .* by so many steps: 1"):
        gates.sampled(4, {"staleness/max": 3, "staleness/bound": 2})


@pytest.mark.slow
def test_a_step_above_the_bound_never_trains(tmp_path, monkeypatch):
    """The gate stands behind the buffer: with a buffer that errs, it is what stops the run."""

    def too_lax(recipe, served):
        return Lookahead(RolloutBuffer(2, recipe.steps), served)

    monkeypatch.setattr(setup, "open_lookahead", too_lax)
    with fake_servers(BASE, "") as servers:
        trainer = Trainer(_recipe(tmp_path / "run", servers, "sample.staleness=1"), quiet=True)
        with pytest.raises(GateStop, match="step 3: gate staleness"):
            trainer.train()
    assert [row["step"] for row in records(tmp_path / "run")] == [1, 2]
