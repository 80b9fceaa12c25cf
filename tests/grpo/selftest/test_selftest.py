"""``grpo selftest`` holds on a sound library, and each of its checks can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Callable

import pytest
import torch
from torch import Tensor

from grpo.cli import main
from grpo.commands.selftest import CHECK_NAMES
from grpo.kernels.log_prob import chunked
from grpo.kernels.sampling import torch_sampler
from grpo.learner.learner import Learner
from grpo.rollout.engine import Engine
from grpo.selftest import kernels, model_checks, reward_checks, run_checks, suite
from grpo.selftest.check import Check, Measured, Skipped, all_of, below, finding_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subject() -> suite.Subject:
    return suite.subject_of(None, [], "selftest")


def test_the_command_knows_the_checks_without_importing_them() -> None:
    assert CHECK_NAMES == tuple(check.name for check in suite.CHECKS)


def test_kernels_and_answers_hold_and_are_printed_as_json(capsys: pytest.CaptureFixture) -> None:
    assert main(["selftest", "-q", "--json", "--only", "head", "sampler", "answers"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [check["status"] for check in report["checks"]] == ["holds"] * 3
    assert report["versions"]["torch"] == torch.__version__
    assert "namespaces" in report["sandbox"] or "sandbox" in report["sandbox"]


def test_a_model_of_ones_own_is_checked(tmp_path: Path, subject: suite.Subject) -> None:
    subject.policy.save(tmp_path / "model")
    own = suite.subject_of(str(tmp_path / "model"), ["model.dtype=bfloat16"], "selftest")
    finding = finding_of(suite.chosen(["mismatch"])[0], own)
    assert finding.status == "holds" and "bfloat16" in finding.found


def test_gradient_and_seeds_hold_on_the_base_model(subject: suite.Subject) -> None:
    for check in suite.chosen(["gradient", "seeds", "save"]):
        finding = finding_of(check, subject)
        assert finding.status == "holds", finding


def test_failing_rewards_and_programs_hold() -> None:
    assert reward_checks.failing_rewards_are_faults().holds
    try:
        assert reward_checks.programs().holds
    except Skipped as reason:
        pytest.skip(str(reason))


def test_an_error_or_a_nan_is_a_failure_and_a_skip_has_its_reason() -> None:
    def broken(_: None) -> Measured:
        raise RuntimeError("no such kernel")

    def absent(_: None) -> Measured:
        raise Skipped("no device")

    def found(measure: Callable[[None], Measured]) -> tuple[str, str]:
        finding = finding_of(Check("name", "promise", measure), None)
        return finding.status, finding.found

    assert found(broken) == ("fails", "RuntimeError: no such kernel")
    assert found(absent) == ("skipped", "no device")
    assert not below(float("nan"), 1.0, "a difference").holds
    assert not all_of(0, 0, "of nothing").holds


# ---- every check can fail -----------------------------------------------------------------------------------------


def test_a_wrong_head_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = chunked.product

    def slightly_off(*arguments: Tensor) -> Tensor:
        return right(*arguments) * 1.001

    monkeypatch.setattr(chunked, "product", slightly_off)
    assert not kernels.head_values_and_gradients(CPU).holds


def test_a_sampler_that_ignores_the_temperature_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch_sampler.sample
    monkeypatch.setattr(
        torch_sampler,
        "sample",
        lambda logits, seeds, at, sampling: right(
            logits, seeds, at, replace(sampling, temperature=1.0)
        ),
    )
    assert not kernels.sampled_log_probs(CPU).holds


def test_a_sampler_that_favours_a_token_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch_sampler.sample

    def biased(logits_RV, seed_R, position_R, sampling):
        lifted_RV = logits_RV.clone()
        lifted_RV[:, logits_RV[0].argmax()] += 0.1
        return right(lifted_RV, seed_R, position_R, sampling)

    monkeypatch.setattr(torch_sampler, "sample", biased)
    assert not kernels.sampled_frequencies(CPU).holds


def test_a_denominator_of_a_micro_batch_fails(
    monkeypatch: pytest.MonkeyPatch, subject: suite.Subject
) -> None:
    right = model_checks._gradient

    def per_micro_batch(policy, update, budget):
        found = right(policy, update, budget)
        return found if budget == 10**6 else found * 1.0001

    monkeypatch.setattr(model_checks, "_gradient", per_micro_batch)
    measured = model_checks.gradient_invariance(subject.section, CPU)
    assert not measured.holds and "1.0e-04" in measured.found


def test_a_sampler_of_other_weights_fails(
    monkeypatch: pytest.MonkeyPatch, subject: suite.Subject
) -> None:
    right = Engine.sample

    def stale(self, *arguments, **options):
        weight = self.policy.base.get_input_embeddings().weight
        with torch.no_grad():
            weight.mul_(1.05)
        try:
            yield from right(self, *arguments, **options)
        finally:
            with torch.no_grad():
                weight.div_(1.05)

    monkeypatch.setattr(Engine, "sample", stale)
    assert not model_checks.sampler_and_trainer(subject.policy).holds


def test_a_seed_that_depends_on_the_company_fails(
    monkeypatch: pytest.MonkeyPatch, subject: suite.Subject
) -> None:
    right = Engine.sample
    monkeypatch.setattr(
        Engine,
        "sample",
        lambda self, prompts, *, seed, **options: right(
            self, prompts, seed=(*seed, len(prompts)), **options
        ),
    )
    measured = model_checks.repeats(subject.policy)
    assert not measured.holds and "differ: alone" in measured.found


def test_a_judge_that_takes_everything_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_checks, "WRONG", {"18": ("18.0", "19")})
    measured = reward_checks.labelled_answers()
    assert not measured.holds and "18.0}$. for 18 gets 1.0" in measured.found


@pytest.mark.slow
def test_a_resumed_run_equals_a_whole_one_and_one_that_forgets_its_optimizer_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run_checks.resumed_run().holds
    monkeypatch.setattr(Learner, "restore", lambda self, state: None)
    measured = run_checks.resumed_run()
    assert not measured.holds and "final/model.safetensors" in measured.found
