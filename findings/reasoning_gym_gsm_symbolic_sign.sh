#!/bin/sh
# Pinned: reasoning-gym==0.1.25
# reasoning-gym's gsm_symbolic does not see a minus sign.
#
# Guess: score_answer extracts with the pattern \b-?\d+(?:\.\d+)?\b, which names the sign, so the negative of the
# right answer is wrong. A word boundary cannot lie before a "-" at the start of the text or after a space, so the
# match begins at the digits: the negative of the right answer scores 1, and to an entry with a negative answer the
# answer itself scores 0.01.
#
# Seen:
#     reasoning-gym 0.1.25
#     answer 288: -288 scores: expected 0.01, seen 1.0
#     answer -5 (entry altered): -5 scores: expected 1.0, seen 0.01
#     as recorded
set -eu
VERSION=${VERSION:-0.1.25}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv venv || exit 2
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    "reasoning-gym==$VERSION" >&2 || exit 2
venv/bin/python -I - <<'END'
import sys
from importlib.metadata import version

import reasoning_gym

task = reasoning_gym.create_dataset("gsm_symbolic", seed=1, size=1)
entry = task[0]
answer = entry["answer"]
wrong = task.score_answer("-" + answer, entry)
negative = dict(entry, answer="-5")
right = task.score_answer("-5", negative)
print("reasoning-gym", version("reasoning-gym"))
print(f"answer {answer}: -{answer} scores: expected 0.01, seen {wrong}")
print(f"answer -5 (entry altered): -5 scores: expected 1.0, seen {right}")
as_before = wrong == 1.0 and right == 0.01
print("as recorded" if as_before else "CHANGED")
sys.exit(not as_before)
END
