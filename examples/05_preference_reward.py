"""A preference reward that counts only in the last part of a run, as in the last stage of DeepSeek-R1.

    python examples/05_preference_reward.py [key=value ...]

The model of preferences is learnt from pairs of completions (Bradley and Terry, 1952): the probability that one is
preferred is a logistic function of the difference of their scores. Here a score is a sum of weights of words and pairs
of words, so that it is learnt in a second; a language model with a scalar head takes its place by the same interface: a
class that a worker makes once, called with a completion and the prompt that the policy was shown. ``from_step`` keeps
it out of the sum until then, since a policy soon learns what such a model overrates: watch the true reward beside it.
"""

import json
import math
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Iterator

from rewards.reasoning import after_reasoning
from rewards.tasks import load_task

PASSES = 5
RATE = 0.1
DECAY = 1e-3


class Preference:
    """How likely a completion is preferred to a middling one; `pairs` has lines ``{prompt, chosen, rejected}``."""

    def __init__(self, pairs: str):
        self.weights: defaultdict[str, float] = defaultdict(float)
        lines = Path(pairs).read_text(encoding="utf-8").splitlines()
        examples = [json.loads(line) for line in lines]
        self._learn(examples)
        self.middle = sum(map(self._middle, examples)) / len(examples)

    def _learn(self, pairs: list[dict[str, str]]) -> None:
        """Gradient steps on -log sigmoid(score(chosen) - score(rejected)), in an order of its own."""
        order = random.Random(0)
        for _ in range(PASSES):
            for pair in order.sample(pairs, len(pairs)):
                difference = features(pair["prompt"], pair["chosen"])
                difference.subtract(features(pair["prompt"], pair["rejected"]))
                step = RATE * (1 - sigmoid(self._sum(difference)))
                for feature, number in difference.items():
                    self.weights[feature] += step * number - RATE * DECAY * self.weights[feature]

    def _middle(self, pair: dict[str, str]) -> float:
        """The score half-way between the two completions of a pair."""
        both = features(pair["prompt"], pair["chosen"])
        both.update(features(pair["prompt"], pair["rejected"]))
        return self._sum(both) / 2

    def _sum(self, counts: Counter[str]) -> float:
        return sum(self.weights[feature] * number for feature, number in counts.items())

    def __call__(self, text: str, prompt_text: str) -> float:
        return sigmoid(self._sum(features(prompt_text, text)) - self.middle)


def features(prompt: str, completion: str) -> Counter[str]:
    """The words of a completion's answer that are not the prompt's, and its pairs of neighbouring words, counted.

    What stands in ``<think>`` is left out: R1's model of helpfulness saw the answer alone.
    """
    words = (after_reasoning(completion) or completion).split()
    asked = set(prompt.split())
    single = [word for word in words if word not in asked]
    return Counter([*single, *map(" ".join, zip(words, words[1:]))])


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, value))))


def pairs_of_countdown(number: int) -> Iterator[dict[str, str]]:
    """Who comes to the point is preferred to who tries and says no."""
    kinds = {}
    for kind in ("direct", "search"):
        kinds[kind] = load_task("countdown").rows(style="symbols", count=number, traces=kind)
    for short, long in zip(kinds["direct"], kinds["search"]):
        if short["completion"] != long["completion"]:
            yield {
                "prompt": short["prompt"],
                "chosen": short["completion"],
                "rejected": long["completion"],
            }


def main(*overrides: str) -> None:
    from grpo import Recipe, Trainer  # here: the worker that imports this file needs no torch

    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.jsonl"
        pairs.write_text("".join(json.dumps(pair) + "\n" for pair in pairs_of_countdown(300)))
        recipe = Recipe.load(
            "quickstart",
            time.strftime("run_dir=runs/preference-%Y%m%d-%H%M%S"),
            "steps=10",
            f"rewards.preference.use={Path(__file__).resolve()}:Preference",
            f"rewards.preference.args={{pairs: '{pairs}'}}",
            "rewards.preference.weight=0.2",
            "rewards.preference.from_step=7",
            *overrides,
        )
        for record in Trainer(recipe):
            preferred = record.get("rewards/preference")
            shown = "not yet" if preferred is None else f"{preferred:.3f}"
            print(f"   correct {record['rewards/correct']:.3f}   preference {shown}")


if __name__ == "__main__":
    main(*sys.argv[1:])
