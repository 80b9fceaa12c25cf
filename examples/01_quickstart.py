"""R1-Zero in miniature, from Python: train the tiny model of the quickstart and watch it learn to check itself.

    python examples/01_quickstart.py [key=value ...]

The same run as ``make quickstart``; overrides are those of the command line, e.g. ``steps=10``.
"""

import sys
import time

from grpo import Recipe, Trainer


def main(*overrides: str) -> None:
    run_dir = time.strftime("runs/example-%Y%m%d-%H%M%S")
    trainer = Trainer(Recipe.load("quickstart", f"run_dir={run_dir}", *overrides))
    for record in trainer:  # one step an iteration; break and iterate again as you like
        if record["step"] % 10 == 0:
            best = max(trainer.groups[0].completions, key=lambda completion: len(completion.text))
            print(f"   the longest try at {trainer.groups[0].prompt.text} {best.text}")
    before, after = trainer.before, trainer.after
    assert before and after, "the run was evaluated before and after"
    print(
        f"accuracy {before['accuracy']:.1%} -> {after['accuracy']:.1%} on {after['prompts']} held-out problems"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
