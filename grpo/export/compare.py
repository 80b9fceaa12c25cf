"""What each precision costs: log-probs and accuracy beside the model's own, and what llama.cpp answers.

Accuracy is taken by the library, from the weights that the file holds: the same prompts, seeds and rewards as of the
run, so the difference is paired by prompt. llama.cpp rounds activations too; how far its greedy answers are the
model's is counted apart, where the package xllamacpp is installed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

import torch

from grpo.data.templates import template_of
from grpo.evaluate import compare_reports, evaluate_recipe
from grpo.export import llama_cpp
from grpo.export.check import Drift, Row, drift, log_probs
from grpo.export.source import Source
from grpo.model.policy import Policy
from grpo.recipe import ModelSection, Recipe
from rewards.spelling import many

NUM_ROWS = 64
"""Completions whose log-probs are compared, each of another prompt."""
NUM_PROMPTS = 50
"""Prompts that llama.cpp continues greedily."""
Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Greedy:
    """llama.cpp's greedy continuations of ``prompts`` prompts beside the model's.

    ``same`` are equal to their end, ``tokens`` is the share of its tokens that are the model's likeliest there;
    ``mean`` and ``largest`` are differences of their log-probs, in nats.
    """

    prompts: int
    same: int
    tokens: float
    mean: float
    largest: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One line of the table: a precision beside the model itself.

    ``accuracy`` has ``accuracy``, ``low`` and ``high``; ``change`` the paired difference with its interval, None of the
    model itself.
    """

    name: str
    drift: Drift | None
    accuracy: Mapping[str, Any]
    change: Mapping[str, Any] | None = None
    greedy: Greedy | None = None


class Comparison:
    """Evaluates the model once, then each export against it."""

    def __init__(self, source: Source, reference: Policy, say: Callable[[str], None]):
        self.recipe = source.recipe
        self.reference = reference
        self.say = say
        say(f"evaluating {source.target}")
        self.report: Report = evaluate_recipe(source.recipe)
        self.rows = list(_first_rows(source, self.report["completions"]))

    def original(self) -> Compared:
        """The line of the model itself."""
        return Compared("the model", None, self.report["strict"])

    def add(self, name: str, path: Path, other: Policy, gguf: Path | None) -> Compared:
        """The line of an export, loaded as `other` from `path`; `gguf` is a file that llama.cpp reads."""
        self.say(f"evaluating {name}")
        report = evaluate_recipe(_with_model(self.recipe, path))
        greedy = None
        if gguf is not None and llama_cpp.is_installed():
            self.say(f"continuing {many(min(NUM_PROMPTS, len(self.rows)), 'prompt')} by llama.cpp")
            limit = self.recipe.sample.max_tokens
            greedy = greedy_agreement(self.reference, gguf, self.prompts, limit)
        return Compared(
            name=name,
            drift=drift(self.reference, other, self.rows),
            accuracy=report["strict"],
            change=compare_reports(self.report, report)["accuracy"],
            greedy=greedy,
        )

    @property
    def prompts(self) -> list[Sequence[int]]:
        """The token ids of the prompts that llama.cpp continues."""
        return [before for before, _ in self.rows[:NUM_PROMPTS]]


def _with_model(recipe: Recipe, path: Path) -> Recipe:
    return replace(recipe, model=ModelSection(name=str(path), dtype="float32"))


def _first_rows(source: Source, completions: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """The first completion of each of the first prompts."""
    policy = source.policy
    sections = source.recipe.data.each()
    firsts = {row["prompt_id"]: row for row in reversed(completions) if row["token_ids"]}
    ordered = [row for row in completions if firsts.get(row["prompt_id"]) is row]
    for row in ordered[:NUM_ROWS]:
        section = sections[row["prompt_id"].rpartition(":")[0]]
        template = template_of(section, policy.tokenizer, policy.stop_ids)
        adds = template.pattern != "chat"
        ids = policy.tokenizer(row["prompt"], add_special_tokens=adds)["input_ids"]
        ends = adds and len(ids) > 1 and ids[-1] == policy.tokenizer.eos_token_id
        yield ids[:-1] if ends else ids, row["token_ids"]


@torch.no_grad()
def greedy_agreement(
    policy: Policy,
    path: Path,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    *,
    exact: bool = False,
) -> Greedy:
    """llama.cpp's greedy continuations, at most `num_tokens` long, by the file in `path`, beside `policy`'s.

    Both are the same as long as each token of llama.cpp's is the likeliest of the policy's after those before it.
    """
    longest = max(map(len, prompts)) + num_tokens
    runner = llama_cpp.LlamaCpp(path, longest + 1, exact=exact)
    agreed: list[bool] = []
    off: list[float] = []
    same = 0
    for ids in prompts:
        written = runner.greedy(ids, num_tokens)
        logp_TV = log_probs(policy, (ids, written.token_ids))
        token_T = torch.tensor(written.token_ids)
        is_likeliest = (logp_TV.argmax(1) == token_T).tolist()
        agreed += is_likeliest
        same += all(is_likeliest)
        logps = logp_TV.gather(1, token_T[:, None])[:, 0].tolist()
        off += [abs(logps[index] - logp) for index, logp in written.logps.items()]
    return Greedy(
        prompts=len(prompts),
        same=same,
        tokens=sum(agreed) / len(agreed),
        mean=sum(off) / len(off),
        largest=max(off),
    )
