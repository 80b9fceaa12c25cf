"""Whether an update's gradient changes with how its rows are split, packed and ordered: all objectives, in fp64.

    python -m benchmarks.invariance [--docs docs/objectives.md]

Takes the gradient of one update under every legal (policy loss x aggregation x correction), whole, and again under
other micro-batch sizes, another order of rows and other neighbours in the packing; writes the largest relative
difference of each as a table. The policies are off-policy in all three senses (logp, old_logp and sampled_logp
differ by more than the clips), so that every limit, mask and selection is at work.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator, Mapping

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from tokenizers import Tokenizer, models  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

from grpo.learner.batch import make_batch  # noqa: E402
from grpo.learner.learner import Learner  # noqa: E402
from grpo.learner.optimizer import Optimizer  # noqa: E402
from grpo.model.packing import pack
from grpo.model.policy import Policy  # noqa: E402
from grpo.objective.advantage import advantages  # noqa: E402
from grpo.recipe import AdvantageSection, LossSection, OptimSection, RecipeError, check_loss  # noqa: E402
from grpo.recipe.objectives import AGGREGATIONS, POLICY_LOSSES  # noqa: E402
from grpo.types import Completion, Prompt, ScoredGroup, Update  # noqa: E402
from rewards import Score  # noqa: E402

VOCABULARY = 23
SETTINGS: Mapping[str, Any] = {
    "cov_share": 0.1,
    "cov_low": 0.02,
    "cov_high": 4.0,
    "divergence": 0.02,
}
CORRECTIONS: Mapping[str, Mapping[str, Any]] = {
    "none": {"correction": "none"},
    "token, truncated": {"correction": "token", "correction_cap": 1.1},
    "token, masked": {
        "correction": "token",
        "correction_cap": 0.0,
        "correction_mask": "token",
        "correction_low": 0.9,
        "correction_high": 1.15,
    },
    "sequence, truncated": {"correction": "sequence", "correction_cap": 1.1},
    "sequence, masked": {
        "correction": "sequence",
        "correction_cap": 0.0,
        "correction_mask": "sequence",
        "correction_low": 0.6,
        "correction_high": 1.5,
    },
    "geometric, truncated": {"correction": "geometric", "correction_cap": 1.01},
    "geometric, masked": {
        "correction": "geometric",
        "correction_cap": 0.0,
        "correction_mask": "geometric",
        "correction_low": 0.97,
        "correction_high": 1.03,
    },
    "token in a geometric band": {
        "correction": "token",
        "correction_mask": "geometric",
        "correction_low": 0.97,
        "correction_high": 1.03,
    },
}
VARIANTS = (
    ("one row at a time", 1, False),
    ("37 tokens", 37, False),
    ("110 tokens, rows and groups shuffled", 110, True),
)


def tiny_policy(seed: int = 0) -> Policy:
    """A random fp64 Llama of one layer."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            eos_token_id=1,
            initializer_range=0.3,
        )
    ).double()
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    return Policy(
        model, PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", unk_token="w0")
    )


def ragged_update(policy: Policy, seed: int = 0) -> tuple[Update, dict[int, torch.Tensor]]:
    """An update of ragged groups, one of them flat, and the old log-probs of its rows."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for g in range(4):
        prompt = Prompt(str(g), tuple(rng.choices(range(2, VOCABULARY), k=rng.randint(1, 7))), {})
        texts = tuple(
            Completion(
                "",
                tuple(rng.choices(range(1, VOCABULARY), k=rng.randint(1, 12))),
                torch.zeros(0),
                "stop",
            )
            for _ in range(3 + g % 2)
        )
        scores = [Score(1.0 if g == 2 else rng.random()) for _ in texts]
        groups.append(ScoredGroup(prompt, texts, tuple(scores)))
    batch = make_batch(
        groups,
        advantages(groups, AdvantageSection()),
        num_updates=1,
        epochs=1,
        max_tokens=12,
        mask_truncated=False,
        forward_flat=True,
    )
    packed = pack(batch.rows)
    with torch.no_grad():
        logps = policy.token_stats(packed, 1.0).logp_T.split([row.num_tokens for row in batch.rows])

    def near(logp: torch.Tensor, scale: float) -> torch.Tensor:
        return (
            logp + scale * torch.randn(len(logp), generator=generator, dtype=torch.float64)
        ).clamp(max=-1e-3)

    old = {row.index: near(logp, 0.25) for row, logp in zip(batch.rows, logps)}
    rows = tuple(replace(row, sampled_logps=near(old[row.index], 0.1)) for row in batch.rows)
    return replace(batch.updates[0], rows=rows), old


def shuffled(update: Update, seed: int) -> Update:
    """The same rows in another order, their groups under other numbers, so that others stand beside them."""
    rng = random.Random(seed)
    numbers = sorted({row.group for row in update.rows})
    other = dict(zip(numbers, rng.sample(range(100), len(numbers))))
    rows = [replace(row, group=other[row.group]) for row in update.rows]
    rng.shuffle(rows)
    tokens = {other[g]: n for g, n in update.denominators.group_tokens.items()}
    return Update(tuple(rows), replace(update.denominators, group_tokens=tokens))


def gradient(
    policy: Policy, update: Update, old: Mapping[int, torch.Tensor], loss: LossSection, budget: int
) -> torch.Tensor:
    """The gradient of one update as the optimizer would get it."""
    optimizer = Optimizer(policy.trainable(), OptimSection(max_grad_norm=0.0), 1)
    learner = Learner(policy, optimizer, loss, temperature=1.0, tokens_per_micro_batch=budget)
    if learner.reference is not None:
        learner.reference = {name: value * 1.1 for name, value in learner.reference.items()}
    learner._old_logps = dict(old)
    found: list[torch.Tensor] = []
    optimizer.step = lambda: found.append(  # type: ignore[method-assign]
        torch.cat([part.flatten() for part in optimizer.gradients()]).clone()
    )
    learner.update(update)
    optimizer.drop_gradients()
    return found[0]


def combinations() -> Iterator[tuple[str, str, str, LossSection]]:
    """Every legal (policy loss, aggregation, correction) with its settings."""
    for policy in POLICY_LOSSES:
        for aggregation in AGGREGATIONS:
            for name, keys in CORRECTIONS.items():
                loss = LossSection(policy=policy, aggregation=aggregation, **SETTINGS, **keys)
                try:
                    check_loss(loss, AdvantageSection())
                except RecipeError:
                    continue
                yield policy, aggregation, name, loss


def deviation(
    policy: Policy, update: Update, old: Mapping[int, torch.Tensor], loss: LossSection
) -> float:
    """The largest relative difference of the gradient over the variants."""
    whole = gradient(policy, update, old, loss, 10**6)
    assert whole.norm() > 1e-6, "a gradient of 0 would be the same for every split"
    found = [
        gradient(policy, shuffled(update, 1) if mixed else update, old, loss, budget)
        for _, budget, mixed in VARIANTS
    ]
    return max(float((part - whole).norm() / whole.norm()) for part in found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = tiny_policy()
    update, old = ragged_update(policy)
    found: dict[tuple[str, str], dict[str, float]] = {}
    for name, aggregation, correction, loss in combinations():
        found.setdefault((name, aggregation), {})[correction] = deviation(policy, update, old, loss)
    lines = [
        "| policy loss | aggregation | " + " | ".join(CORRECTIONS) + " |",
        "|" + "---|" * (2 + len(CORRECTIONS)),
    ]
    lines += [
        f"| `{name}` | `{aggregation}` | "
        + " | ".join(f"{row[c]:.0e}" if c in row else "refused" for c in CORRECTIONS)
        + " |"
        for (name, aggregation), row in found.items()
    ]
    worst = max(value for row in found.values() for value in row.values())
    number = sum(map(len, found.values()))
    lines += ["", f"{number} combinations, the largest deviation {worst:.1e}."]
    print("\n".join(lines[-1:] if options.docs else lines))
    if options.docs:
        begin, end = "<!-- invariance: begin -->", "<!-- invariance: end -->"
        head, _, rest = options.docs.read_text().partition(begin)
        options.docs.write_text(
            f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{rest.partition(end)[2]}"
        )


if __name__ == "__main__":
    main()
