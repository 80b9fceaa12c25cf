"""A step on paper: closed forms where there are any, what must grow and fall, what does not fit."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from grpo.plan.assumed import Assumed
from grpo.plan.device import device_named
from grpo.plan.sampling import Sampler, sample, segments
from grpo.plan.scaling import counts, largest_useful, scaled, scaling, stretches, verdict_limit
from grpo.plan.shape import known_shape
from grpo.plan.step import Site, plan_step
from grpo.plan.update import Trainer, held_bytes, micro_batches, update
from grpo.plan.work import Work, lengths
from grpo.recipe import RecipeError

SMALL = known_shape("qwen2.5-0.5b")
LARGE = known_shape("qwen2.5-7b")
H100 = device_named("h100")
ASSUMED = Assumed()
IDEAL = replace(
    ASSUMED,
    weights=1.0,
    keys=1.0,
    product=1.0,
    training=1.0,
    head=1.0,
    kernel_seconds=0.0,
    row_seconds=0.0,
    launch_seconds=0.0,
    optimizer_bytes=0.0,
    element_passes=0.0,
    logit_bytes=0.0,
    spread=0.0,
)
WORK = Work(prompts=32, group=8, prompt_tokens=256, mean=512, longest=1024, max_rows=256)
EQUAL = replace(WORK, mean=1024)


# ---- lengths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [10.0, 300.0, 512.0, 900.0])
def test_lengths_have_the_mean_asked_for_and_none_is_above_the_longest(mean):
    found = lengths(500, mean, 1024, 0.6)
    assert sum(found) / len(found) == pytest.approx(mean, rel=1e-6)
    assert max(found) <= 1024 and found == sorted(found)


def test_without_spread_all_lengths_are_equal():
    assert lengths(3, 7.0, 10, 0.0) == [7.0] * 3


def test_stretches_of_decoding_decode_every_token_once():
    known = lengths(100, 300.0, 1024, 0.6)
    for slots in (1, 7, 100, 1000):
        tokens = sum(span * rows for span, rows, _ in segments(known, slots))
        assert tokens >= sum(known) * (1 - 1e-9)
        assert tokens == pytest.approx(sum(known), rel=0.06)
        assert max(rows for _, rows, _ in segments(known, slots)) <= slots


# ---- sampling -----------------------------------------------------------------------------------------------------


def test_few_rows_decode_at_the_rate_at_which_weights_and_keys_are_read():
    work = replace(EQUAL, prompts=1, group=1)
    found = sample(LARGE, Sampler(H100), work, IDEAL, completions=1)
    weights = 2 * (LARGE.body + LARGE.head)
    keys = 2 * LARGE.layers * LARGE.key_numbers * (256 + 512)
    logits = 2 * 4 * LARGE.vocabulary
    expected = 1024 * (weights + keys + logits) / H100.bandwidth
    assert found.decode == pytest.approx(expected, rel=1e-3)
    assert found.prefill == pytest.approx(2 * LARGE.active_body * 256 / H100.operations)
    assert found.bound == "reading weights"


def test_many_rows_decode_at_the_rate_of_products():
    work = replace(EQUAL, prompts=1, group=4096, longest=8, mean=8, prompt_tokens=1, max_rows=4096)
    found = sample(LARGE, Sampler(H100, rows=4096), work, IDEAL, completions=4096)
    products = 8 * 2 * 4096 * LARGE.active / H100.operations
    assert found.parts.products == pytest.approx(products, rel=1e-6)
    assert found.bound == "products"


def test_a_prompts_keys_are_read_once_for_its_group_where_they_are_shared():
    together = sample(LARGE, Sampler(H100), EQUAL, IDEAL, completions=256)
    apart = sample(LARGE, Sampler(H100, shares_prompts=False), EQUAL, IDEAL, completions=256)
    assert apart.parts.keys > together.parts.keys


def test_rows_that_have_no_room_wait_and_the_same_tokens_are_decoded():
    few = sample(LARGE, Sampler(H100, rows=16), WORK, ASSUMED, completions=256)
    many = sample(LARGE, Sampler(H100, rows=256), WORK, ASSUMED, completions=256)
    assert few.slots == 16 and many.slots == 256
    assert few.steps > 8 * many.steps and few.seconds > many.seconds
    assert few.steps * few.slots * few.alive == pytest.approx(
        many.steps * many.slots * many.alive, rel=0.06
    )


def test_keys_bound_the_rows_by_the_memory_that_weights_leave():
    work = replace(WORK, longest=32768, mean=16384, max_rows=4096)
    found = sample(LARGE, Sampler(H100, rows=4096), work, ASSUMED, completions=4096)
    each = 2 * LARGE.layers * LARGE.key_numbers
    room = 0.9 * 80e9 - 2 * LARGE.total
    assert found.slots == int(room / (each * (32768 + 256 / 8)))


def test_a_model_without_room_is_said_not_to_fit():
    found = sample(known_shape("deepseek-v3"), Sampler(H100), WORK, ASSUMED, completions=8)
    assert not found.fits


# ---- the update ---------------------------------------------------------------------------------------------------


def test_an_update_takes_six_operations_a_number_and_token_and_three_products_of_the_head():
    work = replace(WORK, prompt_tokens=0.0, micro_batch=10**9)
    found = update(SMALL, Trainer(H100), work, IDEAL)
    tokens = 256 * 512
    attention = 6 * SMALL.layers * SMALL.scores * tokens * 256
    assert found.operations == pytest.approx(
        6 * SMALL.body * tokens + 6 * SMALL.head * tokens + attention
    )
    assert found.seconds == pytest.approx(found.operations / H100.operations)


def test_adapters_leave_out_the_products_of_the_weights_gradients():
    full = update(SMALL, Trainer(H100), WORK, IDEAL)
    adapted = update(SMALL, Trainer(H100), replace(WORK, lora=SMALL.adapters(16)), IDEAL)
    assert adapted.layers / full.layers == pytest.approx(4 / 6)
    assert adapted.head / full.head == pytest.approx(2 / 3)


def test_recomputing_and_a_reference_cost_a_forward_each():
    plain = update(SMALL, Trainer(H100), WORK, IDEAL).layers
    assert update(SMALL, Trainer(H100), replace(WORK, checkpointing=True), IDEAL).layers == (
        pytest.approx(plain * 8 / 6)
    )
    assert update(SMALL, Trainer(H100), replace(WORK, forwards=1), IDEAL).layers == (
        pytest.approx(plain * 8 / 6)
    )


def test_devices_share_whole_micro_batches_so_that_some_have_none():
    batches = micro_batches(WORK, 1)
    assert batches == 9  # 139,264 tokens by 16,384
    one = update(SMALL, Trainer(H100), WORK, IDEAL).layers
    eight = update(SMALL, Trainer(H100, devices=8), WORK, IDEAL).layers
    many = update(SMALL, Trainer(H100, devices=64), WORK, IDEAL).layers
    assert one / eight == pytest.approx(9 / 2)
    assert one / many == pytest.approx(9)


def test_full_training_in_half_precision_holds_eighteen_bytes_a_number():
    assert held_bytes(LARGE, WORK, 2, shards=1) == 18 * LARGE.total
    assert held_bytes(LARGE, WORK, 2, shards=4) == 18 * LARGE.total / 4
    assert held_bytes(LARGE, WORK, 4, shards=1) == 16 * LARGE.total


# ---- the step -----------------------------------------------------------------------------------------------------


def test_the_phases_sum_to_the_step():
    step = plan_step(SMALL, WORK, Site(H100, 8), ASSUMED)
    assert step.seconds == pytest.approx(sum(step.phases().values()))
    assert step.push.seconds == 0


def test_sampling_ahead_costs_the_longer_half():
    site = Site(H100, 16, servers=8)
    behind = plan_step(SMALL, WORK, site, ASSUMED)
    ahead = plan_step(SMALL, WORK, replace(site, ahead=True), ASSUMED)
    halves = behind.sample_seconds, behind.seconds - behind.sample_seconds - behind.push.seconds
    assert ahead.seconds == pytest.approx(max(halves) + behind.push.seconds)


def test_servers_get_their_weights_through_a_folder_written_by_every_trainer():
    one = plan_step(SMALL, WORK, Site(H100, 3, servers=2), ASSUMED)
    two = plan_step(SMALL, WORK, Site(H100, 4, servers=2), ASSUMED)
    size = 2 * SMALL.total
    assert one.push.seconds == pytest.approx(size / 2e9 + size / 2e9)
    assert two.push.seconds == pytest.approx(2 * size / 2e9 + size / 2e9)
    adapted = replace(WORK, lora=SMALL.adapters(16))
    assert plan_step(SMALL, adapted, Site(H100, 3, servers=2), ASSUMED).push.seconds < (
        one.push.seconds / 20
    )


def test_a_model_that_does_not_fit_one_device_is_split_or_refused():
    work = replace(WORK, checkpointing=True)
    assert "4 devices are needed" in plan_step(LARGE, work, Site(H100, 2), ASSUMED).problem
    step = plan_step(LARGE, work, Site(H100, 8), ASSUMED)
    assert not step.problem and step.trainer.shards == 4
    huge = plan_step(known_shape("llama-3.1-70b"), work, Site(H100, 64), ASSUMED)
    assert "let servers sample" in huge.problem
    served = plan_step(known_shape("llama-3.1-70b"), work, Site(H100, 64, servers=32), ASSUMED)
    assert not served.problem and served.sampler.devices == 4
    assert (
        "none is left to train" in plan_step(SMALL, WORK, Site(H100, 2, servers=2), ASSUMED).problem
    )


def test_activations_that_do_not_fit_name_the_key_that_helps():
    work = replace(WORK, micro_batch=10**6)
    assert "gradient_checkpointing" in plan_step(LARGE, work, Site(H100, 8), ASSUMED).problem


def test_more_devices_never_make_a_step_much_slower_and_cost_grows():
    steps = [step for step in scaling(SMALL, WORK, Site(H100, 8), ASSUMED) if not step.problem]
    seconds = [step.seconds for step in steps]
    assert all(after <= 1.1 * before for before, after in zip(seconds, seconds[1:]))
    held = [step.seconds * step.site.devices for step in steps]
    assert held == sorted(held)


def test_the_bottleneck_moves_from_the_update_to_the_longest_completions():
    found = list(stretches(scaling(SMALL, WORK, Site(H100, 8), ASSUMED)))
    assert found[-1].bottleneck == "sampling: the longest completions"
    assert found[-1].last == 4096 and found[0].first == 1
    assert len({stretch.bottleneck for stretch in found}) == len(found)


def test_judging_becomes_the_bottleneck_where_a_verdict_takes_longer_than_its_limit():
    site = Site(H100, 8)
    limit = verdict_limit(plan_step(SMALL, WORK, site, ASSUMED), ASSUMED)
    below = replace(ASSUMED, verdict_seconds=0.99 * limit)
    above = replace(ASSUMED, verdict_seconds=10 * limit)
    assert plan_step(SMALL, WORK, site, below).left_to_judge == 0
    assert plan_step(SMALL, WORK, site, above).bottleneck == "judging"


def test_a_slow_folder_makes_the_push_the_bottleneck():
    slow = replace(ASSUMED, write=1e7)
    assert plan_step(SMALL, WORK, Site(H100, 16, servers=8), slow).bottleneck == "push"


def test_the_numbers_of_devices_are_powers_of_two_and_the_one_asked_for():
    assert counts(6)[:4] == [1, 2, 4, 6] and counts(6)[-1] == 4096
    assert scaled(Site(H100, 8, servers=2), 64).servers == 16
    assert scaled(Site(H100, 8, servers=2), 2).servers == 1


def test_the_largest_useful_number_halves_a_step_by_at_least_a_third():
    steps = scaling(SMALL, replace(WORK, prompts=512), Site(H100, 8), ASSUMED)
    useful = largest_useful(steps)
    by_number = {step.site.devices: step.seconds for step in steps}
    assert by_number[useful // 2] >= 1.5 * by_number[useful]
    assert by_number[useful] < 1.5 * by_number[2 * useful]


def test_an_odd_number_of_devices_that_is_asked_for_is_not_useful_because_it_is_asked_for():
    steps = scaling(SMALL, WORK, Site(H100, 8), ASSUMED)
    assert largest_useful(scaling(SMALL, WORK, Site(H100, 4095), ASSUMED)) == largest_useful(steps)
    assert largest_useful([step for step in steps if step.site.devices == 512]) == 512
    assert largest_useful([]) is None


def test_every_assumption_is_said_with_its_value():
    lines = list(ASSUMED.lines())
    assert len(lines) == len(fields(Assumed))
    changed = replace(ASSUMED, spread=0.123)
    assert any("0.123" in line for line in changed.lines())


def test_an_unknown_gpu_is_refused_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean h100"):
        device_named("h10")
