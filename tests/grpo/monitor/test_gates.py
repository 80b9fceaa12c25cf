"""The gates' numbers against slow twins, their ladder, their settings, and what an update does when one of them asks."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_updates import batch_of, learner_of, random_groups, tiny_policy

from grpo import Recipe, RecipeError, Trainer
from grpo.learner import drift
from grpo.learner.batch import without
from grpo.learner.diagnosis import Arbitration, suspects
from grpo.learner.learner import Learner
from grpo.model.packing import pack
from grpo.monitor.gate_table import DRIFT, GATES, LADDER, RUNGS, TABLE, level_of
from grpo.monitor.gates import Alarm, Gates, GateStop, Reading, stale_completions
from grpo.monitor.history import EARLY_STEPS, History
from grpo.recipe import GateSection
from grpo.types import Batch, Completion, Group, Prompt

ROOT = Path(__file__).resolve().parents[3]

# ---- the sums of the drift ----------------------------------------------------------------------------------------


def read(*parts: torch.Tensor) -> drift.Drift:
    """The drift of tokens given as (sampled, old, entropy), in several micro-batches."""
    sums = sum(drift.moments(*part) for part in parts)
    distances = [drift.distances(*part[:2]) for part in parts]
    return drift.read(
        dict(zip(drift.MOMENTS, sums.tolist())),
        sum(counts for _, counts in distances).tolist(),
        max(float(apart.max()) for apart, _ in distances),
    )


def near(number: int, size: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    old = -torch.rand(number).exp() + 1
    return old + size * torch.randn(number), old, torch.rand(number)


def test_the_drift_is_what_plain_arithmetic_says(seed: int) -> None:
    sampled, old, entropy = near(random.randint(50, 700), random.choice([1e-6, 1e-3, 0.3]))
    sampled[[3, 17]] = float("nan")
    present = [i for i in range(len(old)) if i not in (3, 17)]
    d = [float(sampled[i].double() - old[i].double()) for i in present]
    u = [float(old[i].double() + entropy[i].double()) for i in present]
    w, n = [math.exp(-x) for x in d], len(d)
    measured = read((sampled, old, entropy))
    assert measured.tokens == n and measured.missing == pytest.approx(2 / len(old))
    assert measured.mean == pytest.approx(sum(map(abs, d)) / n) and measured.largest == max(
        map(abs, d)
    )
    assert measured.k3 == pytest.approx(sum(math.expm1(-x) + x for x in d) / n, rel=1e-6)
    assert measured.ess == pytest.approx(
        sum(w) ** 2 / (n * sum(x * x for x in w))
    ) and measured.weight == pytest.approx(sum(w) / n)
    mu, md = sum(u) / n, sum(d) / n
    slope = sum((a - mu) * (b - md) for a, b in zip(u, d)) / sum((a - mu) ** 2 for a in u)
    assert measured.tilt == pytest.approx(slope, rel=1e-6, abs=1e-12)
    both = torch.stack([old.double()[present], sampled.double()[present]])
    assert measured.correlation == pytest.approx(float(torch.corrcoef(both)[0, 1]), abs=1e-6)
    exact = sorted(map(abs, d))[math.ceil(0.99 * n) - 1]
    assert exact <= measured.p99 * (1 + 1e-9) and measured.p99 <= exact * 2**0.25 * (1 + 1e-9)


def test_the_drift_does_not_depend_on_how_tokens_are_split(seed: int) -> None:
    whole = near(997, 0.01)
    parts = list(zip(*(part.split([400, 96, 501]) for part in whole)))
    a, b = read(whole), read(*parts)
    for name in drift.Drift.__dataclass_fields__:
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-9, abs=1e-15), name


@pytest.mark.parametrize("temperature", [0.8, 0.95, 1.1])
def test_a_temperature_is_read_off_the_drift_and_rounding_is_not_taken_for_one(
    seed: int, temperature: float
) -> None:
    logits = 3 * torch.randn(4000, 50)
    logp = logits.log_softmax(-1)
    token = torch.multinomial(logp.exp(), 1)
    other = (logits / temperature).log_softmax(-1)
    entropy = -(other.exp() * other).sum(-1)
    measured = read((logp.gather(1, token)[:, 0], other.gather(1, token)[:, 0], entropy))
    assert (
        1 / (1 + measured.tilt) == pytest.approx(1 / temperature, abs=0.05)
        and measured.tilt_share > 0.8
    )
    half = logits.bfloat16().float().log_softmax(-1)
    noise = read(
        (half.gather(1, token)[:, 0], logp.gather(1, token)[:, 0], -(logp.exp() * logp).sum(-1))
    )
    assert noise.tilt_share < 0.05 and abs(noise.weight - 1) < 5 * noise.weight_error + 1e-6


def test_a_filter_on_one_side_takes_its_mass_from_the_mean_weight(seed: int) -> None:
    logp = (2 * torch.randn(3000, 30)).log_softmax(-1)
    filtered = logp.masked_fill(logp < logp.topk(10).values[:, -1:], float("-inf"))
    mass = filtered.logsumexp(-1, keepdim=True)
    token = torch.multinomial((filtered - mass).exp(), 1)
    measured = read(
        ((filtered - mass).gather(1, token)[:, 0], logp.gather(1, token)[:, 0], torch.zeros(3000))
    )
    assert measured.weight == pytest.approx(
        float(mass.exp().mean()), rel=1e-4
    ) and measured.signed == pytest.approx(measured.mean)


def test_tokens_of_older_weights_are_no_drift() -> None:
    policy, batch = tiny_policy(), batch_of(random_groups(3))
    rows = tuple(replace(row, fresh_from=row.num_tokens // 2) for row in batch.rows)
    learner = learner_of(policy)
    learner.begin(Batch(rows, (replace(batch.updates[0], rows=rows),)))
    packed = pack([row for row in rows if row.forwarded])
    with torch.no_grad():
        logps = (
            tiny_policy()
            .token_stats(packed, learner.temperature)
            .logp_T.split([r.num_tokens for r in packed.rows])
        )
    apart = torch.cat(
        [
            (row.sampled_logps - logp).abs()[row.fresh_from :]
            for row, logp in zip(packed.rows, logps)
        ]
    )
    stats = learner.update(replace(batch.updates[0], rows=rows))
    assert stats.drift == pytest.approx(float(apart.mean()), rel=1e-6)
    assert stats.drift_max == pytest.approx(float(apart.max()), rel=1e-6)


# ---- the ladder and its settings ----------------------------------------------------------------------------------


def test_a_level_is_the_highest_rung_passed_and_never_above_what_is_allowed() -> None:
    limits = {"note": 1, "warn": 2, "stop": 4}
    assert [level_of(x, limits) for x in (None, 1, 1.5, 3, 5)] == [0, 0, 1, 2, 4]
    assert [level_of(5, limits, upto) for upto in LADDER] == [0, 1, 2, 3, 4]


def test_every_gate_has_a_rising_ladder_for_every_dtype_and_a_remedy_that_can_be_written() -> None:
    assert len({gate.name for gate in TABLE}) == len(TABLE)
    for dtype in DRIFT:
        for gate in TABLE:
            gates = Gates({}, *(dtype.split(" on ") if " on " in dtype else (dtype, "cuda")))
            limits = gates.limits(gate.name)
            values = [limits[rung] for rung in RUNGS if rung in limits]
            assert values and values == sorted(values), gate.name
            says = gates._sentence(
                gate.name,
                Reading(level=4, value=2 * max(values) + 1),
                why=lambda name: "for a reason",
                is_explained=True,
            )
            assert "; for a reason; " in says and "{" not in says


@pytest.mark.parametrize(
    "text, message",
    [
        ("{drfit: off}", "there is no gate drfit; did you mean drift?"),
        ("{flat: {wran: 1}}", "unknown key gates.flat.wran; did you mean warn?"),
        ("{flat: {note: 0.9, warn: 0.5}}", "gates.flat.note is 0.9, above its warn (0.5)"),
        (
            "{flat: mask}",
            "gates.flat.upto is 'mask'; it must be one of off, note, warn, skip, stop",
        ),
    ],
)
def test_a_wrong_setting_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("(", r"\(").replace(")", r"\)")):
        Recipe.from_mapping({}, f"gates={text}")


def test_settings_change_a_ladder_and_come_back_from_a_written_recipe() -> None:
    recipe = Recipe.from_mapping(
        {"gates": {"flat": "off"}},
        "gates.drift={warn: 0.5, upto: warn}",
        "gates.truncated.stop=0.9",
    )
    assert Recipe.from_mapping(recipe.to_mapping()) == recipe
    gates = Gates(recipe.gates, "bfloat16", "cpu")
    assert gates.limits("drift") == {**DRIFT["bfloat16 on cpu"]["drift"], "warn": 0.5}
    assert gates.limits("truncated")["stop"] == 0.9 and recipe.gates["flat"] == GateSection("off")
    assert gates.sampled(1, {"group/flat": 1.0}) and not gates.levels.get("flat")


# ---- what the gates measure ---------------------------------------------------------------------------------------


def steps(gates: Gates, number: int, **keys: Any) -> dict[str, Any]:
    """Feed `number` steps; a key's value may be a function of the step. Returns what the last one added."""
    added: dict[str, Any] = {}
    for step in range(gates.step_number + 1, gates.step_number + number + 1):
        record = {
            "step": step,
            **{
                name.replace("__", "/"): value(step) if callable(value) else value
                for name, value in keys.items()
            },
        }
        gates.sampled(step, record)
        gates.update(record)
        added = gates.step(record)
    return added


def fresh(**options: Any) -> Gates:
    return Gates({}, "float32", "cpu", **options)


def test_entropy_that_falls_as_learning_makes_it_fall_is_no_alarm_and_collapse_is() -> None:
    gates = fresh()
    assert steps(gates, 60, completion__surprisal=lambda step: 1.8 * 0.96**step)["gate/level"] == 1
    assert steps(gates, 1, completion__surprisal=0.01)["gate/entropy"] == 2


def test_length_that_grows_with_the_reward_is_no_alarm_and_alone_it_is() -> None:
    good, bad, sudden = fresh(), fresh(), fresh()
    assert (
        steps(good, 60, completion__length=lambda s: 30 + 4 * s, reward__mean=lambda s: 0.01 * s)[
            "gate/level"
        ]
        == 0
    )
    assert (
        steps(bad, 60, completion__length=lambda s: 30 * 1.06**s, reward__mean=0.3)["gate/length"]
        == 2
    )
    steps(sudden, 5, completion__length=100, reward__mean=0.3)
    assert steps(sudden, 1, completion__length=300, reward__mean=0.3)["gate/length"] == 2


def test_truncation_that_gets_better_is_noted_and_one_that_stays_is_warned_of() -> None:
    assert steps(fresh(), 20, completion__truncated=lambda step: 0.9 * 0.9**step)["gate/level"] <= 1
    stays = fresh()
    assert steps(stays, 9, completion__truncated=0.6)["gate/truncated"] == 1
    assert steps(stays, 1, completion__truncated=0.6)["gate/truncated"] == 2


def test_flat_groups_are_warned_of_after_ten_steps_without_learning() -> None:
    gates = fresh()
    assert (
        steps(gates, 9, group__flat=1.0)["gate/level"] <= 1
        and steps(gates, 1, group__flat=1.0)["gate/flat"] == 2
    )


def test_a_gradients_norm_is_compared_with_the_last_ones() -> None:
    gates = fresh()
    steps(gates, 8, update__grad_norm=lambda step: 0.2 + 0.3 * (step % 3))
    assert steps(gates, 1, update__grad_norm=15.0)["gate/gradient"] == 2
    assert gates.update({"update/grad_norm": 90.0}) == ["gradient"]


def test_drift_that_grows_is_found_before_it_reaches_its_own_limit() -> None:
    gates = fresh()
    assert steps(gates, 40, policy__drift=3e-7)["gate/level"] == 0
    assert (
        steps(gates, 30, policy__drift=lambda step: min(9e-5, 3e-7 * 1.4 ** (step - 40)))[
            "gate/drift_trend"
        ]
        == 2
    )
    assert fresh().limits("drift")["warn"] == 1e-4


def test_reward_that_rises_while_held_out_accuracy_falls_is_warned_of_and_noise_is_not() -> None:
    for last, level in ((0.30, 2), (0.39, 0)):
        gates = fresh()
        for step, accuracy in ((0, 0.3), (20, 0.42), (40, last)):
            if step:
                steps(gates, 20, reward__mean=lambda s: 0.3 + 0.005 * s)
            gates.evaluated(accuracy, accuracy - 0.04, accuracy + 0.04)
        assert gates.levels.get("heldout", 0) == level


def test_a_gain_of_form_alone_is_told_from_one_of_accuracy() -> None:
    names = {"true": "rewards/a_lenient", "formal": ("rewards/a", "rewards/format")}
    form, true, strict = fresh(**names), fresh(**names), fresh(**names)
    rising = {"rewards__format": lambda step: min(1.0, 0.1 + 0.02 * step)}
    assert steps(form, 60, rewards__a=0.2, rewards__a_lenient=0.2, **rising)["gate/format"] == 2
    assert (
        steps(
            true,
            60,
            rewards__a=lambda s: 0.2 + 0.004 * s,
            rewards__a_lenient=lambda s: 0.2 + 0.004 * s,
            **rising,
        )["gate/level"]
        == 0
    )
    assert (
        steps(strict, 60, rewards__a=lambda s: 0.1 + 0.008 * s, rewards__a_lenient=0.6)[
            "gate/format"
        ]
        == 2
    )


def test_an_alarm_is_raised_once_until_it_rises_and_of_those_on_drift_one_is_explained() -> None:
    raised: list[tuple[Alarm, bool]] = []
    gates = fresh(report=lambda alarm, printed: raised.append((alarm, printed)))
    steps(gates, 3, group__flat=0.8)
    steps(gates, 12, group__flat=1.0)
    assert [(alarm.step, alarm.level, printed) for alarm, printed in raised] == [
        (10, 1, False),
        (11, 2, True),
    ]
    assert gates.counts["flat"] == {"note": 1, "warn": 5}
    with pytest.raises(GateStop, match="gate drift: .*because of something") as caught:
        gates.update(
            {"policy/drift": 0.5, "policy/drift_p99": 2.0, "policy/drift_k3": 0.3},
            lambda name: "because of something",
        )
    family = [alarm for alarm, _ in raised if alarm.gate.startswith("drift")]
    assert (
        caught.value.gate == "drift"
        and sum("because" in alarm.says for alarm in family) == 1
        and len(family) == 3
    )


def test_the_state_is_plain_and_a_restored_gate_continues_like_the_other(seed: int) -> None:
    def feed(gates: Gates, number: int) -> list[Any]:
        rng = random.Random(gates.step_number)
        return [
            steps(
                gates,
                1,
                group__flat=rng.random(),
                completion__truncated=rng.random(),
                update__grad_norm=10 ** rng.random(),
                policy__drift=3e-5 * rng.random(),
                completion__surprisal=rng.random(),
                completion__length=30 * 9 ** rng.random(),
                reward__mean=rng.random(),
            )
            for _ in range(number)
        ]

    one, two = fresh(), fresh()
    feed(one, 37)
    two.restore(json.loads(json.dumps(one.state())))
    assert feed(one, 40) == feed(two, 40) and one.alarms == two.alarms and one.counts == two.counts
    assert len(one.recent) == 64 and len(one.early) == EARLY_STEPS


def test_a_missing_number_never_raises_an_alarm() -> None:
    for gate in TABLE:
        for value in (None, float("nan"), "text"):
            assert not gate.measure(History({key: value for key in gate.reads})), gate.name


# ---- who is at fault ----------------------------------------------------------------------------------------------


def test_weights_are_suspected_only_where_they_have_changed() -> None:
    measured = read(near(500, 1e-2))
    wrong = Arbitration(1e-2, 1e-7, 0.1, 1e-3)
    assert "weights that are not the trainer's" in suspects(measured, wrong, "float32", True)
    assert "weights that are not" not in suspects(measured, wrong, "float32", False)
    assert "so the trainer is wrong: first suspect its forward" in suspects(
        measured, Arbitration(1e-7, 1e-2, 0.1, 1e-3), "float32", True
    )


# ---- an update that a gate changes --------------------------------------------------------------------------------


def guarded(policy: Any, settings: dict[str, GateSection] | None = None, /, **loss: Any) -> Learner:
    learner = learner_of(policy, **loss)
    learner.gates = Gates(
        settings
        or {
            "drift": GateSection("off"),
            "drift_p99": GateSection("off"),
            "drift_ess": GateSection("off"),
            "support": GateSection("off"),
            "temperature": GateSection("off"),
        },
        "float64",
        "cpu",
    )
    learner.gates.sampled(1, {})
    return learner


def agreeing(policy: Any, batch: Batch) -> Batch:
    """`batch` with sampled log-probs that are the policy's own."""
    packed = pack(batch.rows)
    with torch.no_grad():
        logps = policy.token_stats(packed, 0.9).logp_T.split(
            [row.num_tokens for row in packed.rows]
        )
    rows = {row.index: replace(row, sampled_logps=logp) for row, logp in zip(packed.rows, logps)}
    updates = tuple(
        replace(update, rows=tuple(rows[row.index] for row in update.rows))
        for update in batch.updates
    )
    return replace(batch, rows=tuple(rows.values()), updates=updates)


@pytest.mark.parametrize(
    "loss",
    [
        {},
        {"aggregation": "token_mean"},
        {"beta": 0.1},
        {"entropy": 0.1, "entropy_target": 9.0},
        {"policy": "gspo"},
        {"policy": "clip_cov", "aggregation": "token_mean"},
    ],
)
@pytest.mark.parametrize("fault", ["nan", "far"])
def test_a_masked_row_leaves_the_update_as_if_it_had_never_been_in_it(
    loss: dict[str, Any], fault: str
) -> None:
    random.seed(7)
    one, two = tiny_policy(), tiny_policy()
    batch = agreeing(one, batch_of(random_groups(5), kl=True))
    victim = next(row for row in batch.rows if row.group == 2 and row.num_tokens > 3)
    learner = guarded(one, **loss)
    if fault == "nan":
        hidden = one.hidden

        def with_nan(packed: Any) -> torch.Tensor:
            of_T = torch.tensor([row.index for row in packed.rows]).repeat_interleave(
                torch.tensor([row.num_tokens for row in packed.rows])
            )
            return torch.where((of_T == victim.index)[:, None], float("nan"), hidden(packed))

        one.hidden = with_nan
        update = batch.updates[0]
    else:
        far = replace(victim, sampled_logps=victim.sampled_logps - 3)
        update = replace(
            batch.updates[0],
            rows=tuple(
                far if row is victim or row.index == victim.index else row
                for row in batch.updates[0].rows
            ),
        )
    learner.begin(Batch(update.rows, (update,)))
    stats = learner.update(update)
    assert stats.made and stats.masked == 1 and learner.masked_rows == {victim.index}
    assert victim.index not in learner.trained_rows
    plain = learner_of(two, **loss)
    update = without(batch.updates[0], {victim.index})
    assert update.denominators.num_completions == len(batch.rows) - 1
    plain.begin(Batch(update.rows, (update,)))
    plain.update(update)
    for (name, a), b in zip(one.trainable().items(), two.trainable().values()):
        assert torch.allclose(a, b, rtol=0, atol=1e-12), name
    assert learner.bonus.state() == plain.bonus.state()


def test_many_rows_that_are_far_off_stop_the_update_instead_of_being_masked() -> None:
    policy = tiny_policy()
    batch = batch_of(random_groups(4))
    learner = guarded(policy, {"drift": GateSection()})
    learner.begin(batch)
    before = policy.snapshot()
    with pytest.raises(GateStop, match="gate drift"):
        learner.update(batch.updates[0])
    assert all(
        torch.equal(p, before[name]) and p.grad is None for name, p in policy.trainable().items()
    )


def test_an_update_that_a_gate_skips_changes_nothing_and_reaches_no_row() -> None:
    policy = tiny_policy()
    batch = agreeing(policy, batch_of(random_groups(4)))
    learner = guarded(policy, {"gradient": GateSection("skip", skip=0.5)})
    for step in range(1, 5):
        learner.gates.sampled(step, {})
        learner.gates.step({"update/grad_norm": 1e-9})
    before = policy.snapshot()
    learner.begin(batch)
    stats = learner.update(batch.updates[0])
    assert (
        not stats.made
        and not learner.trained_rows
        and learner.optimizer.num_updates == 0
        and policy.version == 0
    )
    assert all(torch.equal(p, before[name]) for name, p in policy.trainable().items())


# ---- versions ---------------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_any_trained_weight_and_with_nothing_else(seed: int) -> None:
    policy, same = tiny_policy(), tiny_policy()
    assert policy.fingerprint() == same.fingerprint() == policy.fingerprint()
    seen = {policy.fingerprint()}
    for p in policy.trainable().values():
        with torch.no_grad():
            p.view(-1)[random.randrange(p.numel())] += 1e-3
        seen.add(policy.fingerprint())
    assert len(seen) == 1 + len(policy.trainable())


def test_completions_of_other_versions_are_counted_unless_their_group_began_in_an_earlier_step() -> (
    None
):
    def group(name: str, *versions: tuple[tuple[int, int, int], ...]) -> Group:
        return Group(
            Prompt(name, (1,), {}),
            tuple(
                Completion(
                    "", (1,) * spans[-1][2], torch.zeros(spans[-1][2]), "stop", versions=spans
                )
                for spans in versions
            ),
        )

    groups = [
        group("a", ((3, 0, 4),), ((3, 0, 2),)),
        group("b", ((2, 0, 4),), ((2, 0, 1), (3, 1, 5))),
    ]
    assert stale_completions(groups, {"b"}, (3, 77), {(3, 77)}) == (0, "")
    assert stale_completions(groups, set(), (3, 77), {(3, 77)}) == (
        2,
        "they were sampled with version 2, the trainer holds version 3",
    )
    number, reason = stale_completions(groups, {"b"}, (3, 77), {(3, 77), (3, 78)})
    assert number == 4 and "version 3 (fingerprint 000000000000004e)" in reason


def test_the_lenient_accuracy_is_measured_next_to_the_strict_one_at_no_weight(
    tmp_path: Path,
) -> None:
    trainer = Trainer(
        Recipe.load(
            "quickstart",
            f"run_dir={tmp_path / 'run'}",
            "rewards.correct={use: math_answer}",
            "rewards.form={use: think_format, weight: 0.1}",
            "data.source=arithmetic",
            "data.args={}",
            "data.columns={}",
        )
    )
    assert [(spec.name, spec.weight) for spec in trainer.inputs.specs] == [
        ("correct", 1.0),
        ("form", 0.1),
        ("correct_lenient", 0.0),
    ]
    assert GATES["format"].reads == ("rewards/*",)
