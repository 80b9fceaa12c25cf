"""Bounded staleness as bookkeeping: over thousands of schedules nothing is lost, doubled, or older than the bound."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from grpo.rollout.buffer import AccountError, RolloutBuffer, StepAccount, Weights, ages
from tests.support.schedules import Schedule, Trained

NUM_SCHEDULES = 10_000


def _schedule(rng: random.Random) -> Schedule:
    bound = rng.randint(0, 3)
    return Schedule(
        rng=rng,
        bound=bound,
        steps=rng.randint(1, 7),
        groups=rng.randint(1, 4),
        carries=bound >= 2 and rng.random() < 0.5,
        refills=rng.random() < 0.3,
        kills=rng.choice((0.0, 0.02)),
        stops=rng.choice((0.0, 0.02)),
    )


def _assert_sound(schedule: Schedule, trained: list[Trained]) -> None:
    times = Counter(one.name for one in trained)
    assert set(times.values()) <= {1}, "nothing trains twice"
    begun = {f"p{i}" for i in range(schedule.cursor)}
    assert begun - set(times) == set(schedule.left), "nothing is lost but what would go on now"
    for one in trained:
        oldest = min(one.parts)
        assert 0 <= one.step - 1 - oldest <= schedule.bound, one
    assert [one.step for one in trained] == sorted(one.step for one in trained)
    assert {one.step for one in trained} == set(range(1, schedule.steps + 1))


def test_nothing_is_lost_doubled_or_too_old_in_ten_thousand_schedules(seed):
    rng = random.Random(seed)
    num_deaths = 0
    oldest: Counter[int] = Counter()
    for _ in range(NUM_SCHEDULES):
        schedule = _schedule(rng)
        trained = schedule.run()
        _assert_sound(schedule, trained)
        num_deaths += schedule.num_deaths
        oldest[max(one.step - 1 - min(one.parts) for one in trained)] += 1
    assert num_deaths > NUM_SCHEDULES, "servers died"
    assert set(oldest) == {0, 1, 2, 3}, "the bounds were reached"


def test_which_weights_sample_a_step_does_not_depend_on_the_order_of_events(seed):
    rng = random.Random(seed)
    for bound in range(4):
        for kills in (0.0, 0.05):
            schedule = Schedule(rng, bound=bound, steps=6, groups=2, kills=kills, stops=kills)
            trained = schedule.run()
            expected = [
                (step, name, (max(0, step - 1 - bound),))
                for step in range(1, 7)
                for name in sorted((f"p{2 * step - 2}", f"p{2 * step - 1}"))
            ]
            assert [(one.step, one.name, one.parts) for one in trained] == expected


def test_a_bound_of_zero_is_the_synchronous_run(seed):
    trained = Schedule(random.Random(seed), bound=0, steps=5, groups=3).run()
    assert all(one.parts == (one.step - 1,) for one in trained)


class _TooFar(RolloutBuffer[list[str]]):
    """Begins one step more than the bound allows."""

    def _furthest(self, step: int) -> int:
        return min(self.last, step + 2 + self.ahead)


class _Leaky(RolloutBuffer[list[str]]):
    """Loses a group now and then."""

    def close(self, item: list[str]) -> None:
        super().close(item[1:])


@pytest.mark.parametrize("kind, message", [(_TooFar, "old when it trains"), (_Leaky, "lost")])
def test_the_schedules_notice_a_buffer_that_is_wrong(monkeypatch, kind, message):
    monkeypatch.setattr(
        Schedule, "new_buffer", lambda self: kind(self.bound, self.steps, carries=self.carries)
    )
    with pytest.raises(AssertionError, match=message):
        for seed in range(50):
            schedule = Schedule(random.Random(seed), bound=1, steps=5, groups=2)
            _assert_sound(schedule, schedule.run())


def _weights(step: int) -> Weights:
    return Weights(step, version=step, fingerprint=7, name=f"version-{step}")


def _opened(bound: int = 1, last: int = 9) -> tuple[RolloutBuffer[str], StepAccount]:
    buffer: RolloutBuffer[str] = RolloutBuffer(bound, last)
    buffer.publish(_weights(0))
    return buffer, buffer.open()


def test_at_most_the_bound_is_begun_before_newer_weights_come():
    buffer: RolloutBuffer[str] = RolloutBuffer(2, 9)
    assert buffer.next is None, "nothing without weights"
    assert buffer.publish(_weights(0)) == [1, 2, 3]
    for step in (1, 2, 3):
        assert buffer.next == step
        assert buffer.open().step == step and buffer.next is None
        buffer.close(f"step {step}")
    assert buffer.next is None and buffer.is_settled
    assert buffer.take() == (_weights(0), "step 1")
    assert not buffer.wants_weights(0) and buffer.wants_weights(1)
    assert buffer.publish(_weights(1)) == [4]
    assert [buffer.take()[1] for _ in range(2)] == ["step 2", "step 3"]
    with pytest.raises(AccountError, match="step 4 is not complete"):
        buffer.take()


def test_no_step_behind_the_last_is_begun():
    buffer: RolloutBuffer[str] = RolloutBuffer(3, 2)
    assert buffer.publish(_weights(0)) == [1, 2]
    buffer.open()
    buffer.close("one")
    buffer.open()
    buffer.close("two")
    buffer.take()
    assert not buffer.wants_weights(1)


def test_a_run_made_longer_goes_on_from_its_end_and_runs_ahead_again():
    buffer, _ = _opened(bound=1, last=1)
    buffer.close("one")
    buffer.take()
    longer: RolloutBuffer[str] = RolloutBuffer(1, 4)
    longer.restore(buffer.state(), {})
    assert longer.publish(_weights(1)) == [2, 3]


def test_what_is_under_way_at_a_stop_begins_again():
    buffer, account = _opened()
    account.begin(["a"])
    again: RolloutBuffer[str] = RolloutBuffer(1, 9)
    again.restore(buffer.state(), {})
    again.publish(_weights(0))
    assert again.open().under_way == set() and again.account is not None
    buffer.give_up()
    assert buffer.next == 1


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda account: account.begin(["a"]), "begins a twice"),
        (lambda account: account.end("b", 0), "ends b without having begun it"),
        (lambda account: (account.end("a", 0), account.end("a", 0)), "ends a twice"),
        (lambda account: account.end("a", -2), "a would be 2 steps old when it trains"),
        (lambda account: account.leave("a", -1), "2 steps old when it trains, and the bound is 1"),
    ],
)
def test_an_account_refuses_what_cannot_be(act, message):
    _, account = _opened()
    account.begin(["a"])
    with pytest.raises(AccountError, match=message):
        act(account)


def test_a_step_that_lacks_a_group_cannot_be_closed():
    buffer, account = _opened()
    account.begin(["a", "b"])
    account.end("a", 0)
    with pytest.raises(AccountError, match="step 1 ends without b"):
        buffer.close("half of it")


def test_a_group_is_carried_over_once():
    buffer: RolloutBuffer[str] = RolloutBuffer(2, 9, carries=True)
    assert buffer.publish(_weights(0)) == [1, 2], "one step less, for what is carried over"
    first = buffer.open()
    first.begin(["a"])
    first.leave("a", 0)
    buffer.close("one")
    second = buffer.open()
    assert second.carried == {"a"}
    with pytest.raises(AccountError, match="leaves a, which an earlier step left to it"):
        second.leave("a", 0)
    with pytest.raises(ValueError, match="a bound of 1 leaves no step"):
        RolloutBuffer(1, 9, carries=True)


def test_tokens_have_the_age_of_the_weights_that_wrote_them():
    step_of = {4: 2, 6: 3}
    assert ages([(4, 0, 2), (6, 2, 5)], 4, step_of.__getitem__) == [1, 1, 0, 0, 0]
    buffer, _ = _opened()
    assert buffer.step_of(0) == 0
    with pytest.raises(AccountError, match="no weights of version 5"):
        buffer.step_of(5)
