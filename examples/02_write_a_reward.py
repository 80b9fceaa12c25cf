"""A reward of your own: a function of the completion's text and the data set's columns.

    python examples/02_write_a_reward.py [key=value ...]

A recipe names it as ``use: examples/02_write_a_reward.py:few_tries`` or takes it from Python, as here.
"""

import sys
import time

from grpo import Recipe, Trainer


def few_tries(text: str, numbers: list[int], num_tokens: int) -> float | None:
    """Up to 0.2 for coming to the point. None would mean: this part does not count for this row.

    ``numbers`` is a column of the task; ``num_tokens`` (and ``finish``) are offered in addition to the columns.
    """
    if len(numbers) < 3:
        return None
    return 0.2 * max(0.0, 1 - num_tokens / 80)


def main(*overrides: str) -> None:
    run_dir = time.strftime("runs/reward-%Y%m%d-%H%M%S")
    recipe = Recipe.load("quickstart", f"run_dir={run_dir}", "steps=20", *overrides)
    trainer = Trainer(
        recipe, rewards={"few_tries": few_tries}
    )  # in addition to the recipe's `correct`
    for record in trainer:
        print(
            f"   correct {record['rewards/correct']:.3f}   few_tries {record['rewards/few_tries']:.3f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
