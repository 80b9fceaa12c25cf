"""Faults of the numbers, put into the running engine and trainer: each is found within a step, and named.

Nothing here touches a metric or a gate. A step or more runs clean, then sampler, trainer or weights are changed under
the loop's feet as a bug would change them, and the loop goes on. The table in docs/gates.md is printed by
``python -m pytest tests/faults/test_numerics.py -s``.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any, Callable

import pytest
import torch

import grpo.learner.learner
import grpo.rollout.contiguous_decoder
from grpo import Recipe, Trainer
from grpo.kernels.log_prob import chunked
from grpo.kernels.sampling.spec import Sampling
from grpo.monitor.gates import GateStop
from grpo.rollout.engine import EngineFailed
from grpo.train import main

ROOT = Path(__file__).resolve().parent.parent.parent
QUICK = [
    "steps=6",
    "data.args.count=400",
    "sample.prompts=6",
    "sample.max_tokens=48",
    "data.held_out=0",
    "checkpoint.every=1",
]
EVERY_ROW = ["loss.beta=1e-9"]  # flat groups are forwarded too


def quick(folder: Path, *overrides: str, **options: Any) -> Trainer:
    return Trainer(
        Recipe.load(
            ROOT / "recipes" / "quickstart.yaml", *QUICK, f"run_dir={folder / 'run'}", *overrides
        ),
        **options,
    )


def faulty(
    trainer: Trainer,
    inject: Callable[[Trainer], object],
    after: int = 1,
    more: int = 1,
    again: Callable[[Trainer], object] = lambda trainer: None,
) -> list[dict[str, Any]]:
    """The records of a run into which a fault is put `after` so many clean steps, up to `more` steps later."""
    records = []
    try:
        for record in trainer:
            records.append(record)
            if record["step"] <= after:
                assert record["gate/level"] <= 1, (
                    f"an alarm without a fault: {trainer.gates.alarms}"
                )
            if record["step"] == after:
                inject(trainer)
            if record["step"] == after + more:
                break
            again(trainer)
    finally:
        trainer.close()
    return records


def stopped(
    trainer: Trainer,
    inject: Callable[[Trainer], object],
    *,
    more: int = 1,
    again: Callable[[Trainer], object] = lambda trainer: None,
) -> GateStop:
    """What the run stops with; the weights are those of before, nothing is half done, a checkpoint stands."""
    before: dict[str, torch.Tensor] = {}

    def remember(trainer: Trainer) -> None:
        again(trainer)
        before.update(trainer.policy.snapshot())

    with pytest.raises(GateStop) as found:
        faulty(trainer, inject, more=more, again=remember)
    print(f"\n{found.value}")
    assert all(
        torch.equal(p, before[name]) or not p.isfinite().all()
        for name, p in trainer.policy.trainable().items()
    )
    assert all(p.grad is None for p in trainer.policy.trainable().values())
    assert (trainer.folder / "checkpoints" / f"step-{trainer.num_steps:06d}").is_dir()
    alarms = [
        json.loads(line) for line in (trainer.folder / "alarms.jsonl").read_text().splitlines()
    ]
    assert alarms[-1]["step"] == trainer.num_steps + 1 and found.value.gate in [
        alarm["gate"] for alarm in alarms if alarm["level"] == "stop"
    ]
    return found.value


# ---- the sampler's weights are not the trainer's ----------------------------------------------------------------


def read_a_copy(trainer: Trainer) -> None:
    trainer.engine.policy = trainer.engine.stops.policy = copy.deepcopy(trainer.policy)


def test_a_sampler_that_reads_a_copy_of_old_weights_is_found_by_its_version(tmp_path: Path) -> None:
    found = stopped(quick(tmp_path), read_a_copy, more=2)
    assert found.gate == "stale" and found.alarm.step == 3  # at step 2 the copy was still right
    assert (
        "did not sample: 48;" in str(found)
        and "version 1" in str(found)
        and "trainer holds version 2" in str(found)
    )


def test_stale_weights_that_claim_the_right_version_are_found_by_their_fingerprint(
    tmp_path: Path,
) -> None:
    def claim(trainer: Trainer) -> None:
        trainer.engine.policy.version = trainer.policy.version

    found = stopped(quick(tmp_path), read_a_copy, more=2, again=claim)
    assert found.gate == "stale" and "version 2 (fingerprint" in str(found)


def test_stale_weights_that_claim_everything_are_found_by_their_log_probs(tmp_path: Path) -> None:
    def lie(trainer: Trainer) -> None:
        old, own = trainer.engine.policy, trainer.policy
        if old is not own:
            old.version, old.fingerprint = own.version, own.fingerprint

    found = stopped(quick(tmp_path), read_a_copy, more=2, again=lie)
    assert found.gate == "drift" and found.alarm.step == 3 and 1e-3 < found.alarm.value < 0.1
    assert "so the sampler is wrong: first suspect weights that are not the trainer's" in str(found)


def test_weights_that_change_while_completions_are_written_break_the_call_off(
    tmp_path: Path,
) -> None:
    def change(trainer: Trainer) -> None:
        submit = trainer.scorer.submit
        trainer.scorer.submit = lambda group: (trainer.policy.weights_changed(), submit(group))[1]

    with pytest.raises(
        EngineFailed, match="weights changed from version 1 to 2 while completions were written"
    ):
        faulty(quick(tmp_path), change)


# ---- the two sides compute different things ---------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.9, 1.2])
@pytest.mark.thin(1)
def test_another_temperature_in_the_trainer_is_measured_and_named(
    tmp_path: Path, temperature: float
) -> None:
    found = stopped(
        quick(tmp_path), lambda trainer: setattr(trainer.learner, "temperature", temperature)
    )
    assert found.gate in (
        "drift",
        "temperature",
    ) and "so the trainer is wrong: it looks like a temperature" in str(found)
    measured = float(str(found).partition("the sampler's is ")[2].partition(" times")[0])
    assert measured == pytest.approx(1 / temperature, abs=0.04)


def test_labels_shifted_by_one_in_the_trainer_are_named(tmp_path: Path, monkeypatch) -> None:
    pack = grpo.learner.learner.pack

    def shifted(*arguments: Any) -> Any:
        packed = pack(*arguments)
        return dataclasses.replace(packed, target_T=packed.target_T.roll(1))

    found = stopped(
        quick(tmp_path), lambda _: monkeypatch.setattr(grpo.learner.learner, "pack", shifted)
    )
    assert found.gate == "drift" and found.alarm.value > 1
    assert "so the trainer is wrong" in str(
        found
    ) and "off-by-one between tokens and labels" in str(found)


def test_a_half_precision_head_in_the_sampler_is_named(tmp_path: Path) -> None:
    def halve(trainer: Trainer) -> None:
        policy = trainer.policy
        head = policy.base.get_output_embeddings()

        def next_logits(token_R1: Any, position_R1: Any, cache: Any) -> torch.Tensor:
            hidden = policy._run(
                policy.base.base_model, token_R1, position_R1, layout=cache, cache=cache
            ).last_hidden_state[:, -1]
            return (hidden.bfloat16() @ head.weight.bfloat16().T)[:, : policy.vocab_size]

        policy.next_logits = next_logits

    found = stopped(quick(tmp_path), halve)
    assert found.gate == "drift" and found.alarm.value < 1e-2
    assert "so the sampler is wrong: its error is that of half-precision logits" in str(found)


def test_a_half_precision_head_in_the_trainer_is_named(tmp_path: Path, monkeypatch) -> None:
    product = chunked.product
    found = stopped(
        quick(tmp_path),
        lambda _: monkeypatch.setattr(
            chunked, "product", lambda *arguments: product(*arguments).bfloat16().float()
        ),
    )
    assert found.gate == "drift"
    assert "so the trainer is wrong: its error is that of half-precision logits" in str(found)


@pytest.mark.parametrize("filters", [{"top_p": 0.9}, {"top_k": 2}])
@pytest.mark.thin(1)
def test_a_filter_that_only_the_sampler_knows_is_named(
    tmp_path: Path, monkeypatch, filters: dict[str, float]
) -> None:
    draw = grpo.rollout.contiguous_decoder.sample

    def filtered(logits_RV: Any, seed_R: Any, position_R: Any, sampling: Sampling) -> Any:
        return (
            *draw(logits_RV, seed_R, position_R, dataclasses.replace(sampling, **filters))[:2],
            None,
        )

    found = stopped(
        quick(tmp_path),
        lambda _: monkeypatch.setattr(grpo.rollout.contiguous_decoder, "sample", filtered),
    )
    assert found.gate in ("drift", "support") and "so the sampler is wrong" in str(found)
    assert "a filter (sample.top_p, top_k, min_p) that the sampler applies" in str(found)


@pytest.mark.parametrize(
    "settings",
    [
        ["sample.top_p=0.9", "sample.temperature=0.8"],
        [
            "sample.over_request=0.5",
            "sample.max_rows=16",
        ],  # tokens of older weights are there, and are no drift
        ["optim.updates=2", "optim.epochs=2", "loss.old=sampler"],
        ["model.dtype=bfloat16"],
        ["model.lora.rank=4", "loss.beta=0.01"],
    ],
    ids=lambda settings: settings[0],
)
@pytest.mark.thin(2)
def test_what_may_differ_between_the_sides_raises_no_alarm(
    tmp_path: Path, settings: list[str]
) -> None:
    records = faulty(quick(tmp_path, *settings), lambda _: None, more=2)
    assert len(records) == 3 and all(record["gate/level"] <= 1 for record in records)


def test_one_slot_of_the_sampler_that_goes_wrong_costs_its_completion_alone(tmp_path: Path) -> None:
    def disturb(trainer: Trainer) -> None:
        logits, calls = trainer.policy.next_logits, iter(range(10))

        def wrong(*arguments: Any) -> torch.Tensor:
            found = logits(*arguments).clone()
            if next(calls, None) is not None:
                found[0] = found[0].roll(1)
            return found

        trainer.policy.next_logits = wrong

    record = faulty(quick(tmp_path, *EVERY_ROW), disturb)[-1]
    assert (
        record["gate/drift_rows"] == 3 and record["update/masked"] == record["ledger/faulted"] == 1
    )
    assert (
        record["update/made"] == 1
        and record["policy/drift"] < 1e-5
        and record["ledger/trained"] + record["ledger/flat"] == 47
    )


def test_a_step_that_a_gate_skips_before_its_update_is_booked_and_changes_no_weight(
    tmp_path: Path,
) -> None:
    trainer = quick(tmp_path, "sample.max_tokens=12", "gates.truncated={note: 0, skip: 0.01}")
    record = next(iter(trainer))
    trainer.close()
    assert (
        record["gate/truncated"] == 3 and record["update/made"] == 0 and trainer.policy.version == 0
    )
    assert (
        record["ledger/trained"] == 0
        and record["ledger/correction_masked"] + record["ledger/flat"] == 48
    )


# ---- numbers that are none --------------------------------------------------------------------------------------


def spoil_a_row(trainer: Trainer) -> None:
    """The hidden states of the second row that is packed become NaN in the trainer's forward."""
    hidden, chosen = trainer.policy.hidden, []

    def spoilt(packed: Any) -> torch.Tensor:
        found, rows = hidden(packed), [row.index for row in packed.rows]
        chosen.extend([] if chosen else rows[1:2])
        of_T = torch.tensor(rows).repeat_interleave(
            torch.tensor([row.num_tokens for row in packed.rows])
        )
        return torch.where((of_T == chosen[0])[:, None], float("nan"), found)

    trainer.policy.hidden = spoilt


@pytest.mark.parametrize("budget", [200, 100_000])
@pytest.mark.thin(1)
def test_a_row_of_nan_in_the_trainer_is_masked_and_the_others_go_on(
    tmp_path: Path, budget: int
) -> None:
    trainer = quick(tmp_path, *EVERY_ROW, f"optim.tokens_per_micro_batch={budget}")
    record = faulty(trainer, spoil_a_row)[-1]
    assert (
        record["gate/nonfinite"] == 3 and record["update/masked"] == record["ledger/faulted"] == 1
    )
    assert record["update/made"] == 1 and record["ledger/trained"] + record["ledger/flat"] == 47
    assert all(p.isfinite().all() for p in trainer.policy.trainable().values())
    alarm = trainer.gates.alarms[-1]
    assert alarm["gate"] == "nonfinite" and "the first is completion 1 of the step" in alarm["says"]


def test_a_weight_that_becomes_nan_before_an_update_stops_the_run_and_is_named(
    tmp_path: Path,
) -> None:
    def spoil(trainer: Trainer) -> None:
        begin = trainer.learner.begin

        def spoilt(batch: Any) -> None:
            with torch.no_grad():
                trainer.policy.model.model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
            begin(batch)

        trainer.learner.begin = spoilt

    found = stopped(quick(tmp_path), spoil)
    assert (
        found.gate == "nonfinite"
        and "the weight model.layers.1.mlp.up_proj.weight holds values" in str(found)
    )


def test_a_weight_that_is_nan_in_sampling_stops_the_run_and_is_named(tmp_path: Path) -> None:
    def spoil(trainer: Trainer) -> None:
        with torch.no_grad():
            trainer.policy.model.model.norm.weight[0] = float("nan")

    found = stopped(quick(tmp_path), spoil)
    assert found.gate == "faults" and "48 of 48 completions could not be judged" in str(found)
    assert "the policy's logits were not finite; the weight model.norm.weight holds values" in str(
        found
    )


def test_one_row_of_nan_logits_costs_its_completion_alone_and_is_noted(tmp_path: Path) -> None:
    def spoil(trainer: Trainer) -> None:
        logits, calls = trainer.policy.next_logits, iter(range(1))

        def wrong(*arguments: Any) -> torch.Tensor:
            found = logits(*arguments).clone()
            if next(calls, None) is not None:
                found[5, 7] = float("nan")
            return found

        trainer.policy.next_logits = wrong

    record = faulty(quick(tmp_path, *EVERY_ROW), spoil)[-1]
    assert (
        record["gate/faults"] == 1
        and record["ledger/faulted"] == 1
        and record["ledger/trained"] + record["ledger/flat"] == 47
    )


def test_a_gradient_that_is_not_finite_is_not_used_and_stops_the_run_if_it_goes_on(
    tmp_path: Path,
) -> None:
    def overflow(trainer: Trainer) -> None:
        trainer.policy.model.model.layers[0].mlp.down_proj.weight.register_hook(
            lambda g: g * float("inf")
        )

    found = stopped(quick(tmp_path), overflow, more=3)
    assert found.gate == "overflow" and found.alarm.step == 4  # two updates are skipped before
    assert "gradient that is not finite is that of model.layers.0.mlp.down_proj.weight" in str(
        found
    )


def test_a_gradient_that_explodes_is_not_used(tmp_path: Path) -> None:
    trainer = quick(tmp_path)
    weights: list[dict[str, torch.Tensor]] = []

    def explode(trainer: Trainer) -> None:
        weights.append(trainer.policy.snapshot())
        trainer.policy.model.model.layers[0].mlp.down_proj.weight.register_hook(lambda g: g * 1e5)

    record = faulty(trainer, explode, after=3)[-1]
    assert (
        record["gate/gradient"] == 3
        and record["update/made"] == 0
        and record["update/skipped"] == 1
    )
    assert all(torch.equal(p, weights[0][name]) for name, p in trainer.policy.trainable().items())
    assert "times its usual size" in trainer.gates.alarms[-1]["says"]


def test_a_policy_that_has_only_one_thing_to_say_is_warned_of_at_once(tmp_path: Path) -> None:
    def sharpen(trainer: Trainer) -> None:
        with torch.no_grad():
            trainer.policy.base.get_output_embeddings().weight.mul_(100)

    trainer = quick(tmp_path)
    record = faulty(trainer, sharpen)[-1]
    assert record["gate/entropy"] == 2 and record["completion/surprisal"] < 0.005
    assert any("entropy has collapsed" in alarm["says"] for alarm in trainer.gates.alarms)


# ---- rewards and engine -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, words",
    [
        ("return float('nan')", "nan"),
        ("return 1 / 0", "division by zero"),
        ("import os; os._exit(3)", ""),
    ],
)
@pytest.mark.thin(1)
def test_a_reward_that_fails_stops_the_run_before_the_update_and_is_named(
    tmp_path: Path, body: str, words: str
) -> None:
    (tmp_path / "mine.py").write_text(f"def bad(text):\n    {body}\n")
    trainer = quick(tmp_path, "sample.prompts=2", f"rewards.mine.use={tmp_path / 'mine.py'}:bad")
    with pytest.raises(GateStop) as found:
        next(iter(trainer))
    trainer.close()
    assert found.value.gate == "faults" and "16 of 16 completions could not be judged" in str(
        found.value
    )
    assert "most of them by rewards.mine" in str(found.value) and words in str(found.value)
    assert trainer.policy.version == 0


def test_an_engine_that_raises_ends_the_run_with_exit_code_1_and_its_name(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    step, calls = grpo.rollout.contiguous_decoder.ContiguousDecoder._step, iter(range(60))

    def breaks(self: Any, *arguments: Any) -> Any:
        if next(calls, None) is None:
            raise ValueError("a slot was lost")
        return step(self, *arguments)

    monkeypatch.setattr(grpo.rollout.contiguous_decoder.ContiguousDecoder, "_step", breaks)
    assert main(["quickstart", *QUICK, f"run_dir={tmp_path / 'run'}"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        last.startswith("stopped: the engine failed with ")
        and "of 48 completions unfinished" in last
    )
    assert "ValueError: a slot was lost" in last
    assert (tmp_path / "run" / "checkpoints" / "step-000001").is_dir()


def test_a_stop_is_exit_code_1_with_the_gate_and_what_to_do_in_one_line(
    tmp_path: Path, capsys
) -> None:
    (tmp_path / "mine.py").write_text("def bad(text):\n    raise KeyError('no column')\n")
    assert (
        main(
            [
                "quickstart",
                *QUICK,
                f"run_dir={tmp_path / 'run'}",
                f"rewards.mine.use={tmp_path / 'mine.py'}:bad",
            ]
        )
        == 1
    )
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(
        "stopped: step 1: gate faults: 100.0% of the step's completions"
    )
    assert "fix what is named above" in said


# ---- a resumed run ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_resumed_run_raises_the_alarms_that_it_would_have_raised(tmp_path: Path) -> None:
    easy = [
        "gates.gradient={note: 0.5, warn: 1.01, skip: 100}",
        "gates.entropy={note: 0.99, warn: 1.02}",
        "gates.drift={note: 2e-7, warn: 2.4e-7}",
        "gates.length={note: 0.9, warn: 1}",
        "steps=5",
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for _ in quick(whole, *easy):
        pass
    trainer = quick(cut, *easy)
    for record in trainer:
        if record["step"] == 3:
            break
    trainer.close()
    for _ in quick(cut, *easy, resume=True):
        pass

    def told(folder: Path) -> list[str]:
        return (folder / "run" / "alarms.jsonl").read_text().splitlines()

    assert told(whole) == told(cut) and len(told(whole)) > 3
    summaries = [
        json.loads((folder / "run" / "summary.json").read_text()) for folder in (whole, cut)
    ]
    assert (
        summaries[0]["alarms"] == summaries[1]["alarms"]
        and summaries[0]["gates"] == summaries[1]["gates"]
    )
