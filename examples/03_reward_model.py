"""A reward that holds a model: loaded once in a separate worker process, on a GPU if there is one.

    python examples/03_reward_model.py [key=value ...]

A class is instantiated once in each worker, with the recipe's ``args``, and then called for
each completion. Here the model is the quickstart's own base, and the reward is how likely it finds the text, so
that the policy keeps to its language; a classifier loads the same way.
"""

import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo import Recipe, Trainer

BASE = Path(__file__).resolve().parent.parent / "recipes" / "quickstart_base"


class Fluency:
    """exp of the mean log-probability of a completion's tokens after its prompt, under a frozen model: 0 to 1."""

    def __init__(self, model: str):
        torch.set_num_threads(1)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        loaded: torch.nn.Module = AutoModelForCausalLM.from_pretrained(model)
        self.model = loaded.to(self.device).eval()

    @torch.no_grad()
    def __call__(self, text: str, prompt: str) -> float | None:
        start = self.tokenizer(prompt)["input_ids"]
        rest = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not rest:
            return None
        ids = torch.tensor([start + rest], device=self.device)
        logp = self.model(input_ids=ids).logits[0, len(start) - 1 : -1].log_softmax(-1)
        return logp.gather(-1, ids[0, len(start) :, None]).mean().exp().item()


def main(*overrides: str) -> None:
    recipe = Recipe.load(
        "quickstart",
        time.strftime("run_dir=runs/reward-model-%Y%m%d-%H%M%S"),
        "steps=10",
        f"rewards.fluency.use={Path(__file__).resolve()}:Fluency",
        f"rewards.fluency.args={{model: '{BASE}'}}",
        "rewards.fluency.weight=0.1",
        "rewards.fluency.workers=1",
        *overrides,
    )
    for record in Trainer(recipe):
        print(
            f"   correct {record['rewards/correct']:.3f}   fluency {record['rewards/fluency']:.3f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
