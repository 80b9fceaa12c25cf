#!/bin/sh
# Pinned: reasoning-gym==0.1.25
# reasoning-gym's coin_flip pays in full for the first character of the answer.
#
# Guess: "partial reward for a matching prefix" is part of 1, so that "0" for 0.234375 earns little or nothing. The
# length of the common prefix is divided by the length of the shorter text: "0" scores 1 for every probability
# below 1, and 1000000 scores 1 where the answer is 1.
#
# Seen:
#     reasoning-gym 0.1.25
#     answers: 0.234375, 0.003173828125, 0.109375, 0.65625 ...
#     "0" scores 1: expected for 0 of 43, seen for 43
#     answer 1 (entry altered): 1000000 scores: expected 0, seen 1.0
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

task = reasoning_gym.create_dataset("coin_flip", seed=3, size=50)
below_one = [entry for entry in task if 0.001 < float(entry["answer"]) < 1]
paid = sum(task.score_answer("0", entry) == 1 for entry in below_one)
certain = dict(below_one[0], answer="1")
million = task.score_answer("1000000", certain)
print("reasoning-gym", version("reasoning-gym"))
print("answers:", ", ".join(entry["answer"] for entry in below_one[:4]), "...")
print(f'"0" scores 1: expected for 0 of {len(below_one)}, seen for {paid}')
print(f"answer 1 (entry altered): 1000000 scores: expected 0, seen {million}")
as_before = paid == len(below_one) and million == 1.0
print("as recorded" if as_before else "CHANGED")
sys.exit(not as_before)
END
