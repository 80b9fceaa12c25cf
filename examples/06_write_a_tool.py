"""A tool of your own: a function with type hints and a docstring, which the policy calls in the middle of an answer.

    python examples/06_write_a_tool.py [key=value ...]

What it returns stands behind the call, in the context and in no loss; what it raises is a text that the policy reads. A
recipe names it as ``tools: ["examples/06_write_a_tool.py:work_out"]`` or takes it from Python, as here.
"""

import operator
import re
import sys
import time

from grpo import Recipe, Trainer

SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def work_out(expression: str) -> int:
    """Works out one step.

    Args:
        expression: Two whole numbers with +, - or * between them, such as 37*48
    """
    step = re.fullmatch(r"(-?\d+)([-+*])(-?\d+)", expression)
    if step is None:
        raise ValueError("only two whole numbers with +, - or * between them")
    left, sign, right = step.groups()
    return SIGNS[sign](int(left), int(right))


def main(*overrides: str) -> None:
    run_dir = time.strftime("runs/tool-%Y%m%d-%H%M%S")
    settings = [f"run_dir={run_dir}", "tools=[]", "steps=10", *overrides]
    for record in Trainer(Recipe.load("arithmetic_tools", *settings), tools=[work_out]):
        print(
            f"   right {record['rewards/correct']:.3f}   call {record['tool/share']:.3f}   "
            f"errors {record['tool/errors']:.3f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
