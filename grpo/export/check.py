"""Whether an exported file is the model: loaded back through the library and compared, weights and log-probs.

Each weight must be the policy's but for what its format rounds, so a matrix in the wrong place is found however few
bits it has; the log-probs of a row of arbitrary tokens must be as close as the precision allows; tokenizer, end tokens
and chat template must be the same.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from grpo.model.policy import Policy
from grpo.model.saved import NUM_TOKENS, SavedModelDiffers
from grpo.recipe import ModelSection, RecipeError

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids that are read, and those whose log-probs are taken."""
WEIGHT_LIMITS = {
    "F64": 1e-6,
    "F32": 1e-6,
    "F16": 2e-3,
    "BF16": 8e-3,
    "int8": 0.05,
    "Q8_0": 0.03,
    "Q4_K": 0.2,
}
"""How far a weight may be off, as the root mean square of its error over that of its values."""
TEXTS = ("Hello, world 123!", "3 5 7 make 56 :", "<think>\n1 + 1 = 2\n</think>\n\n\\boxed{2}")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: a GGUF file, or a folder, at a precision.

    ``limit`` is how far the mean log-prob of arbitrary tokens may be off, in nats. ``formats`` counts the tensors of a
    file by format; ``notes`` are sentences on what its readers do otherwise.
    """

    precision: str
    path: Path
    num_bytes: int
    limit: float
    formats: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drift:
    """How far log-probs are off over ``tokens`` tokens, in nats, and how often the likeliest token is the same."""

    mean: float
    largest: float
    agreement: float
    tokens: int


def loaded_back(path: Path) -> Policy:
    """The model in `path` as the library reads it, in float32 on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Policy.load(ModelSection(name=str(path), dtype="float32"), "cpu")


def check_export(policy: Policy, other: Policy, written: Written) -> Drift:
    """How far `other`, loaded back from what was written, is off on one row of arbitrary tokens.

    Raises `SavedModelDiffers` if it is another model, and `RecipeError` if it is off by more than `limit` nats, which
    that precision does to few models.
    """
    precision = written.precision
    problems = [*_other_weights(policy, other, precision), *_other_tokens(policy, other)]
    if problems:
        raise SavedModelDiffers(
            f"export: at {precision} it is not the model: {'; '.join(problems)}"
        )
    found = drift(policy, other, [arbitrary_row(policy)])
    if not found.mean <= written.limit:
        raise RecipeError(
            f"export: at {precision} the log-probs of a row of arbitrary tokens are off by {found.mean:.2g} nats in "
            f"the mean, more than the {written.limit:g} that this precision should cost; nothing was kept; "
            "take a finer one"
        )
    return found


def arbitrary_row(policy: Policy) -> Row:
    """A row that no text has, spread over the vocabulary."""
    length = min(NUM_TOKENS + 1, policy.context or NUM_TOKENS + 1)
    ids = [(7919 * i + 13) % policy.vocab_size for i in range(1, length + 1)]
    return ids[:1], ids[1:]


@torch.no_grad()
def _other_weights(policy: Policy, other: Policy, precision: str) -> Iterator[str]:
    expected = _weights(policy)
    found = _weights(other)
    missing = [name for name in expected if name not in found]
    if missing or len(found) != len(expected):
        yield f"it has {len(found)} tensors, not {len(expected)}" + "".join(missing[:1])
        return
    limit = WEIGHT_LIMITS[precision]
    errors = {name: _error(found[name], weight) for name, weight in expected.items()}
    wrong = [name for name, error in errors.items() if not error <= limit]
    if wrong:
        yield f"{len(wrong)} of {len(errors)} weights differ by more than {limit:g} of their size, such as {wrong[0]}"


def _weights(policy: Policy) -> dict[str, Tensor]:
    """The weights by name, without the rows of embedding and output layer that no token has."""
    model = policy.plain_model()
    of_tokens = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {f"{name}.weight" for name, module in model.named_modules() if module in of_tokens}
    return {
        name: weight[: policy.vocab_size] if name in names else weight
        for name, weight in model.state_dict().items()
    }


def _error(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    whole = expected.float()
    size = float(whole.norm())
    return float((found.float() - whole).norm()) / (size or 1.0)


def _other_tokens(policy: Policy, other: Policy) -> Iterator[str]:
    ours = policy.tokenizer
    theirs = other.tokenizer
    if any(ours(text)["input_ids"] != theirs(text)["input_ids"] for text in TEXTS):
        yield "its tokenizer makes other tokens"
    if other.stop_ids != policy.stop_ids:
        yield f"its end tokens are {sorted(other.stop_ids)}, not {sorted(policy.stop_ids)}"
    if theirs.chat_template != ours.chat_template:
        yield "its chat template is another"


@torch.no_grad()
def drift(policy: Policy, other: Policy, rows: Sequence[Row]) -> Drift:
    """How far `other` is off from `policy` on the tokens of `rows`."""
    differences: list[Tensor] = []
    agreements: list[Tensor] = []
    for row in rows:
        expected_TV = log_probs(policy, row)
        found_TV = log_probs(other, row)
        token_T = torch.tensor(row[1])[:, None]
        off_TV = found_TV.gather(1, token_T) - expected_TV.gather(1, token_T)
        differences.append(off_TV[:, 0].abs())
        agreements.append(found_TV.argmax(1) == expected_TV.argmax(1))
    off_T = torch.cat(differences)
    return Drift(
        mean=float(off_T.mean()),
        largest=float(off_T.max()),
        agreement=float(torch.cat(agreements).double().mean()),
        tokens=len(off_T),
    )


@torch.no_grad()
def log_probs(policy: Policy, row: Row) -> Tensor:
    """Log-probs [T, V] before each token of the second part of `row`, by the model as transformers runs it."""
    before, tokens = row
    with policy.own_attention(), policy.precision():
        input_ids = torch.tensor([[*before, *tokens]], device=policy.device)
        logits_TV = policy.model(input_ids=input_ids, use_cache=False).logits[0]
    kept_TV = logits_TV[len(before) - 1 : -1, : policy.vocab_size]
    return kept_TV.double().cpu().log_softmax(-1)
