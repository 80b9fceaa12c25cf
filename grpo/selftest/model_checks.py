"""Gradient and sampler on a model: what must not change with how work is split, packed, ordered or kept company."""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

import torch
from torch import Tensor

from grpo.kernels.sampling.spec import Sampling
from grpo.learner.batch import make_batch
from grpo.learner.learner import Learner
from grpo.learner.optimizer import Optimizer
from grpo.model.packing import pack
from grpo.model.policy import Policy
from grpo.monitor.gate_table import default_limits
from grpo.objective.advantage import advantages
from grpo.recipe import AdvantageSection, LossSection, ModelSection, OptimSection
from grpo.rollout.engine import Engine
from grpo.selftest.check import Measured, Skipped, below
from grpo.types import Batch, Completion, Group, Prompt, Row, ScoredGroup, Update
from rewards import Score
from rewards.spelling import many

MAX_PARAMETERS_IN_FLOAT64 = 600_000_000
"""Models with more are not copied to float64: 8 bytes a weight, and as much again for the gradient."""
QUESTIONS = (
    "Question: what is 17 + 25? Answer:",
    "Using the numbers 3, 8 and 11, make 22.",
    "def double(x):",
    "The capital of France is",
)
NUM_TOKENS = 24
GROUP_SIZE = 4


# ---- the gradient -------------------------------------------------------------------------------------------------


def gradient_invariance(section: ModelSection, device: torch.device) -> Measured:
    """The gradient of one update in float64: whole, in micro-batches, reordered, and by transformers' own forward."""
    policy = _float64_policy(section, device)
    batch = _batch(_random_groups(policy))
    update = batch.updates[0]
    whole = _gradient(policy, update, budget=10**6)
    longest = max(len(row.prompt_ids) + len(row.token_ids) for row in update.rows)
    variants = {
        "micro-batches": _gradient(policy, update, budget=2 * longest),
        "a row at a time": _gradient(policy, update, budget=1),
        "another order": _gradient(policy, _reversed(update), budget=2 * longest),
        "transformers, whole logits": _plain_gradient(policy, update),
    }
    distance_of = {name: _relative(found, whole) for name, found in variants.items()}
    worst = max(distance_of, key=lambda name: distance_of[name])
    return below(distance_of[worst], 1e-10, f"largest relative difference ({worst})")


def _float64_policy(section: ModelSection, device: torch.device) -> Policy:
    plain = replace(section, lora=None, adapter=None, quantize=None, dtype="float64")
    policy = Policy.load(plain, device)
    number = sum(p.numel() for p in policy.model.parameters())
    if number > MAX_PARAMETERS_IN_FLOAT64:
        raise Skipped(f"{number / 1e9:.1f}e9 weights are too many for float64")
    return policy


def _random_groups(policy: Policy) -> list[ScoredGroup]:
    """Groups of arbitrary tokens and rewards, of several lengths, none flat."""
    generator = torch.Generator().manual_seed(0)

    def tokens(number: int) -> tuple[int, ...]:
        return tuple(torch.randint(policy.vocab_size, (number,), generator=generator).tolist())

    groups = []
    for index in range(3):
        completions = []
        for member in range(GROUP_SIZE):
            ids = tokens(1 + 5 * member + index)
            completions.append(Completion("", ids, torch.zeros(len(ids)), "stop"))
        scores = [Score(float(member % 3)) for member in range(GROUP_SIZE)]
        prompt = Prompt(str(index), tokens(3 + 4 * index), {})
        groups.append(ScoredGroup(prompt, tuple(completions), tuple(scores)))
    return groups


def _batch(groups: Sequence[ScoredGroup]) -> Batch:
    values = advantages(groups, AdvantageSection(rule="group_std"))
    return make_batch(
        groups,
        values,
        num_updates=1,
        epochs=1,
        max_tokens=64,
        mask_truncated=False,
        forward_flat=False,
    )


def _reversed(update: Update) -> Update:
    return replace(update, rows=tuple(reversed(update.rows)))


def _gradient(policy: Policy, update: Update, budget: int) -> Tensor:
    """The gradient that the optimizer would be given, flattened; no weight is changed."""
    loss = LossSection(aggregation="sequence_mean", correction="none")
    optimizer = _Recorder(policy)
    learner = Learner(policy, optimizer, loss, temperature=1.0, tokens_per_micro_batch=budget)
    learner.begin(Batch(update.rows, (update,)))
    learner.update(update)
    optimizer.drop_gradients()
    assert optimizer.taken is not None, "an update makes a step"
    return optimizer.taken


class _Recorder(Optimizer):
    """An optimizer that notes the gradient instead of taking a step."""

    def __init__(self, policy: Policy):
        super().__init__(policy.trainable(), OptimSection(max_grad_norm=0.0), 1)
        self.taken: Tensor | None = None

    def step(self) -> None:
        parts = [gradient.double().flatten() for gradient in self.gradients()]
        self.taken = torch.cat(parts).clone()


def _plain_gradient(policy: Policy, update: Update) -> Tensor:
    """The same by the definition: each row through the model as transformers runs it, its loss by autograd."""
    number = update.denominators.num_completions
    names = policy.trainable()
    total = torch.zeros((), dtype=torch.float64, device=policy.device)
    with policy.own_attention(), policy.precision():
        for row in update.rows:
            logp_T = _row_logps(policy, row)
            total = total - row.advantage * logp_T.sum() / (number * row.num_tokens)
        found = torch.autograd.grad(total, list(names.values()))
    return torch.cat([gradient.double().flatten() for gradient in found])


def _row_logps(policy: Policy, row: Row) -> Tensor:
    ids = torch.tensor([*row.prompt_ids, *row.token_ids], device=policy.device)
    logits_TV = policy.base(input_ids=ids[None], use_cache=False).logits[0, :, : policy.vocab_size]
    at = len(row.prompt_ids) - 1
    logp_TV = logits_TV[at:-1].log_softmax(-1)
    return logp_TV.gather(-1, ids[at + 1 :, None])[:, 0]


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# ---- the sampler --------------------------------------------------------------------------------------------------


def sampler_and_trainer(policy: Policy) -> Measured:
    """Log-probs of sampled tokens by the engine against the trainer's: the mean |difference|, in nats."""
    dtype = str(policy.base.dtype).removeprefix("torch.")
    bound = default_limits("drift", dtype, policy.device.type)["warn"]
    groups = _sampled(policy)
    rows = _rows_of(groups)
    with torch.no_grad():
        packed = pack(rows, policy.device)
        logp_T = policy.token_stats(packed, 1.0).logp_T.float().cpu()
    sampled_T = torch.cat([row.sampled_logps for row in packed.rows])
    mean = float((logp_T - sampled_T).abs().mean())
    return below(mean, bound, f"mean difference in nats ({dtype}, {many(len(logp_T), 'token')})")


def repeats(policy: Policy) -> Measured:
    """The tokens of a seed: drawn again, in another order, alone, and beside fewer others."""
    first = _tokens(_sampled(policy))
    variants = {
        "again": _sampled(policy),
        "in another order": _sampled(policy, QUESTIONS[::-1]),
        "alone": _sampled(policy, QUESTIONS[1:2]),
        "fewer rows at a time": _sampled(policy, max_rows=GROUP_SIZE),
    }
    wrong = []
    for name, groups in variants.items():
        found = _tokens(groups)
        if any(first[key] != tokens for key, tokens in found.items()):
            wrong.append(name)
    number = sum(map(len, first.values()))
    words = f"{many(number, 'token')} drawn again, in another order, alone and in a narrower batch"
    differing = f"; differ: {', '.join(wrong)}" if wrong else ""
    return Measured(holds=not wrong, found=words + differing)


def _sampled(
    policy: Policy, questions: Sequence[str] = QUESTIONS, max_rows: int = 64
) -> list[Group]:
    prompts = [_prompt(policy, question) for question in questions]
    engine = Engine(policy, max_rows=max_rows)
    sampled = engine.sample(
        prompts,
        group_size=GROUP_SIZE,
        max_tokens=NUM_TOKENS,
        sampling=Sampling(1.0),
        seed=("selftest",),
    )
    groups = [group for _, group in sampled]
    engine.release()
    return groups


def _prompt(policy: Policy, question: str) -> Prompt:
    ids = policy.tokenizer(question)["input_ids"]
    return Prompt(question, tuple(ids), {}, question)


def _tokens(groups: Sequence[Group]) -> dict[tuple[str, int], tuple[int, ...]]:
    tokens_of = {}
    for group in groups:
        for index, completion in enumerate(group.completions):
            tokens_of[group.prompt.id, index] = completion.token_ids
    return tokens_of


def _rows_of(groups: Sequence[Group]) -> list[Row]:
    rows: list[Row] = []
    for number, group in enumerate(groups):
        for completion in group.completions:
            row = Row(
                index=len(rows),
                group=number,
                prompt_ids=group.prompt.token_ids,
                token_ids=completion.token_ids,
                sampled_logps=completion.sampled_logps,
                advantage=0.0,
                mask=True,
                forwarded=True,
                outcome="trained",
            )
            rows.append(row)
    return rows
