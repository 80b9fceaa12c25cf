"""All checks in their order, what they are made on, and what a report of a fault should hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Sequence

import torch

from grpo.distributed.process_group import Ranks
from grpo.kernels.cpu import ops
from grpo.model.policy import Policy
from grpo.monitor import waits
from grpo.recipe import ModelSection, Recipe
from grpo.recipe.target import model_recipe
from grpo.run import setup
from grpo.run.environment import environment
from grpo.selftest import kernels, model_checks, reward_checks
from grpo.selftest import run_checks as runs
from grpo.selftest.check import Check, Finding, finding_of
from rewards import RewardSpec
from rewards.sandbox import IsolationError, SandboxOptions
from rewards.service.service import RewardService


@dataclass
class Subject:
    """The model that checks are made on, loaded when the first of them asks for it, and the device."""

    section: ModelSection
    device: torch.device

    @cached_property
    def policy(self) -> Policy:
        """The model as a recipe would train it."""
        return Policy.load(self.section, self.device)


CHECKS: Sequence[Check[Subject]] = (
    Check(
        "head",
        "the fused log-prob head gives the values and gradients of whole logits",
        lambda subject: kernels.head_values_and_gradients(subject.device),
    ),
    Check(
        "sampler",
        "the sampler's log-probs are those of the filtered distribution",
        lambda subject: kernels.sampled_log_probs(subject.device),
    ),
    Check(
        "draws",
        "tokens are drawn as often as their probability says",
        lambda subject: kernels.sampled_frequencies(subject.device),
    ),
    Check(
        "native",
        "the compiled CPU kernels give torch's numbers",
        lambda subject: kernels.native_kernels(subject.device),
    ),
    Check(
        "attention",
        "paged decode attention gives the definition's numbers",
        lambda subject: kernels.paged_attention(subject.device),
    ),
    Check(
        "gradient",
        "micro-batches, packing and order do not change the gradient, and it is the plain definition's",
        lambda subject: model_checks.gradient_invariance(subject.section, subject.device),
    ),
    Check(
        "mismatch",
        "sampler and trainer give a token the same log-prob",
        lambda subject: model_checks.sampler_and_trainer(subject.policy),
    ),
    Check(
        "seeds",
        "a completion depends on its seed alone, not on order or neighbours",
        lambda subject: model_checks.repeats(subject.policy),
    ),
    Check(
        "save",
        "the saved model is the trained one",
        lambda subject: runs.saved_model(subject.policy),
    ),
    Check(
        "resume",
        "a run that is stopped and resumed ends as one that never was",
        lambda subject: runs.resumed_run(),
    ),
    Check(
        "answers",
        "right answers score 1 and wrong ones 0",
        lambda subject: reward_checks.labelled_answers(),
    ),
    Check(
        "faults",
        "a reward that fails is a fault of its own, never a 0 and never another's",
        lambda subject: reward_checks.failing_rewards_are_faults(),
    ),
    Check(
        "programs",
        "programs are confined and judged by their tests",
        lambda subject: reward_checks.programs(),
    ),
)


def chosen(names: Sequence[str] = ()) -> list[Check[Subject]]:
    """The checks of those `names`, in the table's order; all of them without names."""
    return [check for check in CHECKS if not names or check.name in names]


def make(check: Check[Subject], subject: Subject) -> Finding:
    """Make one check, shown under its name while it goes on."""
    with waits.doing(f"checking {check.name}"):
        return finding_of(check, subject)


def subject_of(target: str | None, overrides: Sequence[str], command: str) -> Subject:
    """What to check: a model or a run's final model, by default the quickstart's base; else `RecipeError`."""
    if target is not None and "=" in target:
        overrides = [target, *overrides]
        target = None
    setup.hide_progress_bars()
    if target is None:
        recipe = Recipe.load("quickstart", *overrides)
    else:
        recipe = model_recipe(target, None, overrides, command)
    return Subject(recipe.model, setup.default_device())


def for_a_bug_report(subject: Subject) -> dict[str, Any]:
    """Versions, hardware and what was chosen here, as plain values; the model's line where it could be loaded."""
    try:
        found = environment(subject.policy, Ranks(), 0)
    except Exception as error:  # noqa: BLE001  a model that does not load is one of the findings
        return {"model": f"not loaded: {type(error).__name__}: {error}"}
    found.pop("step")
    found["head"] = subject.policy.describe_head()
    found["native_kernels"] = ops.reason() or "compiled"
    found["sandbox"] = sandbox_line()
    return found


def sandbox_line() -> str:
    """How programs of the policy are confined here."""
    options = SandboxOptions(min_isolation="L1")
    try:
        with RewardService([RewardSpec("code", "code_tests")], sandbox=options) as service:
            return "; ".join(service.isolation)
    except IsolationError as error:
        return str(error)
