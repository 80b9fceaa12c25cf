"""A tool of your own: a function with type hints and a docstring, which the policy calls in the middle of an answer.

    python examples/06_write_a_tool.py [key=value ...]

What it returns stands behind the call, in the context and never in the loss. What it raises is text that the policy
reads, too. A recipe names it as ``tools: ["examples/06_write_a_tool.py:multiply"]`` or takes it from Python, as here.
"""

import sys
import time

from grpo import Recipe, Trainer


def multiply(expression: str) -> int:
    """Multiply two whole numbers.

    Args:
        expression: the two numbers with a star between them, such as 37*48
    """
    left, star, right = expression.partition("*")
    if not star:
        raise ValueError("only products")  # so sums are left to the policy's head
    return int(left) * int(right)


def main(*overrides: str) -> None:
    run_dir = time.strftime("runs/tool-%Y%m%d-%H%M%S")
    recipe = Recipe.load(
        "arithmetic_tools", f"run_dir={run_dir}", "tools=[]", "steps=10", *overrides
    )
    for record in Trainer(recipe, tools=[multiply]):
        print(
            f"   right {record['rewards/correct']:.3f}   call {record['tool/share']:.3f}   "
            f"refused {record['tool/errors']:.3f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
