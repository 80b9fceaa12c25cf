#!/bin/sh
# TRL's accuracy_reward misreads a gold answer in LaTeX that stands without dollar signs.
#
# Guess: the docstring's example has bare gold answers (\frac{1}{3}), so any bare LaTeX works, or none does and
# the row is skipped (None). \frac{1}{2} works and \sqrt{2} is skipped, but of 2\pi and 2\sqrt{3} only the 2 is
# read: the right answer earns 0 and a boxed 2 earns 1. Takes some minutes, for it installs torch.
#
# Seen:
#     trl 1.16.0
#     gold \frac{1}{2}: right answer and a boxed 2: expected [1.0, 0.0], seen [1.0, 0.0]
#     gold $2\pi$: right answer and a boxed 2: expected [1.0, 0.0], seen [1.0, 0.0]
#     gold 2\pi: right answer and a boxed 2: expected [1.0, 0.0], seen [0.0, 1.0]
#     gold 2\sqrt{3}: right answer and a boxed 2: expected [1.0, 0.0], seen [0.0, 1.0]
#     gold \sqrt{2}: right answer and a boxed 2: expected [1.0, 0.0], seen [None, None]
#     as recorded
set -eu
VERSION=${VERSION:-1.16.0}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv venv || exit 2
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    "trl==$VERSION" math-verify==0.9.0 latex2sympy2_extended==1.11.0 \
    transformers==5.23.0 datasets==5.2.0 torch==2.13.0 >&2 || exit 2
venv/bin/python -I - <<'END'
import sys
from importlib.metadata import version

from trl.rewards import accuracy_reward

GOLDS = [  # gold, rewards of: the right answer, a boxed 2
    (r"\frac{1}{2}", [1.0, 0.0]),
    (r"$2\pi$", [1.0, 0.0]),
    (r"2\pi", [0.0, 1.0]),
    (r"2\sqrt{3}", [0.0, 1.0]),
    (r"\sqrt{2}", [None, None]),
]


def completion(answer):
    return [{"role": "assistant", "content": rf"The answer is \boxed{{{answer}}}."}]


print("trl", version("trl"))
as_before = True
for gold, recorded in GOLDS:
    answers = [completion(gold.strip("$")), completion("2")]
    seen = accuracy_reward(answers, [gold, gold])
    as_before = as_before and seen == recorded
    print(f"gold {gold}: right answer and a boxed 2: expected [1.0, 0.0], seen {seen}")
print("as recorded" if as_before else "CHANGED")
sys.exit(not as_before)
END
