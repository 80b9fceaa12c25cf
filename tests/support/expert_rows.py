"""Updates of tiny mixtures of experts with recorded routing, and their gradient by formulas written out."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from small_updates import TEMPERATURE, batch_of
from tiny import tiny_policy
from torch import Tensor, nn

from grpo.model.float64_mode import Float64Mode
from grpo.model.policy import Policy
from grpo.rollout.compatibility import check_support
from grpo.types import Completion, Prompt, Row, ScoredGroup, Update
from rewards import Score

SHAPES = ("qwen3_moe", "mixtral", "deepseek_v3")


def mixture(family: str, dtype: torch.dtype = torch.float32, **options) -> Policy:
    """A tiny mixture of experts, sampled and trained as a run would."""
    policy = tiny_policy(family, dtype=dtype, **options)
    check_support(policy)
    return policy


def random_record(policy: Policy, num_tokens: int, generator: torch.Generator) -> Tensor:
    """Experts [T, L, K], any but different ones for each token and layer."""
    layers, experts_a_token = policy.routing.shape
    scores = torch.rand(num_tokens, layers, policy.routing.num_experts, generator=generator)
    return scores.topk(experts_a_token).indices.to(policy.routing.dtype)


def recorded_update(policy: Policy, seed: int = 0, sizes=((3, 4), (1, 9), (2, 5))) -> Update:
    """An update whose completions were sampled with other experts than the trainer would choose."""
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for number, (group_size, longest) in enumerate(sizes):
        prompt = Prompt(f"p{number}", _tokens(3 + 2 * number, generator), {})
        completions, scores = [], []
        for i in range(group_size):
            tokens = _tokens(max(1, longest - i), generator)
            record = random_record(policy, len(tokens) - 1, generator)
            logps = torch.full((len(tokens),), -2.0)
            completions.append(Completion("", tokens, logps, "stop", routing=record))
            scores.append(Score(float(i % 2) + 0.25 * number))
        groups.append(ScoredGroup(prompt, tuple(completions), tuple(scores)))
    return batch_of(groups, kl=True, rule="group_std").updates[0]


def _tokens(number: int, generator: torch.Generator) -> tuple[int, ...]:
    return tuple(torch.randint(3, 80, (number,), generator=generator).tolist())


def with_routing_of(update: Update, change) -> Update:
    """`update` with each row's record changed."""
    rows = tuple(replace(row, routing=change(row.routing)) for row in update.rows)
    return replace(update, rows=rows)


# ---- formulas written out ---------------------------------------------------------------------------------------


class WrittenRouter(nn.Module):
    """A router as its paper has it, told what to choose: weights of the chosen experts, of their sum."""

    def __init__(self, router: nn.Module, is_sigmoid: bool):
        super().__init__()
        self.router = router
        self.is_sigmoid = is_sigmoid
        self.record_PK: Tensor | None = None
        self.logits_PE: Tensor | None = None
        self.index_PK: Tensor | None = None

    def forward(self, hidden: Tensor):
        hidden_PD = hidden.reshape(-1, hidden.shape[-1])
        _, _, natural_PK = self.router(hidden_PD)
        self.index_PK = torch.where(self.record_PK < 0, natural_PK, self.record_PK)
        self.logits_PE = hidden_PD @ self.router.weight.T
        score_PE = self.logits_PE.sigmoid() if self.is_sigmoid else self.logits_PE.softmax(-1)
        chosen_PK = score_PE.gather(-1, self.index_PK)
        weight_PK = chosen_PK / chosen_PK.sum(-1, keepdim=True)
        scale = self.router.routed_scaling_factor if self.is_sigmoid else 1.0
        return self.logits_PE, weight_PK * scale, self.index_PK


def written_model(policy: Policy) -> tuple[nn.Module, list[WrittenRouter]]:
    """A copy of the plain model with `WrittenRouter`s."""
    model = copy.deepcopy(policy.model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.set_attn_implementation("eager")
    routers = []
    for block in base.modules():
        gate = getattr(block, "gate", None)
        if isinstance(gate, nn.Module) and hasattr(block, "experts"):
            block.gate = WrittenRouter(gate, hasattr(gate, "e_score_correction_bias"))
            routers.append(block.gate)
    return model, routers


def written_forward(
    model: nn.Module, routers: list[WrittenRouter], row: Row
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Of one row alone: log-probs [T], and each layer's router logits and choices at completion tokens but the last."""
    ids = torch.tensor([[*row.prompt_ids, *row.token_ids]])
    start = len(row.prompt_ids)
    end = start + len(row.token_ids) - 1
    for number, router in enumerate(routers):
        record_PK = torch.full((ids.shape[1], row.routing.shape[2]), -1)
        record_PK[start:end] = row.routing[:, number].long()
        router.record_PK = record_PK
    with Float64Mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1]
    logp_TV = (logits[:, :84] / TEMPERATURE).log_softmax(-1)
    logp_T = logp_TV.gather(-1, torch.tensor(row.token_ids)[:, None])[:, 0]
    logits_of = [router.logits_PE[start:end] for router in routers]
    return logp_T, logits_of, [router.index_PK[start:end] for router in routers]


def written_gradient(policy: Policy, update: Update, load_balance: float = 0.0) -> Tensor:
    """The gradient of ``sequence_mean`` and the load-balancing loss, from one row at a time."""
    model, routers = written_model(policy)
    total = torch.zeros((), dtype=torch.float64)
    logits, chosen = [], []
    for row in update.rows:
        logp_T, logits_of, chosen_of = written_forward(model, routers, row)
        ratio_T = (logp_T - logp_T.detach()).exp()
        total = total - row.advantage * ratio_T.mean() / len(update.rows)
        logits += logits_of
        chosen += chosen_of
    if load_balance:
        total = total + load_balance * balance_loss(torch.cat(logits), torch.cat(chosen))
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, trained)])


def balance_loss(logits_NE: Tensor, chosen_NK: Tensor) -> Tensor:
    """Switch Transformers' loss over N pairs of token and layer."""
    experts = logits_NE.shape[-1]
    frequency_E = torch.bincount(chosen_NK.reshape(-1), minlength=experts).double() / len(chosen_NK)
    return experts * (frequency_E * logits_NE.softmax(-1).mean(0)).sum()
