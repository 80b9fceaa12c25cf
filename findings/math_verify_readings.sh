#!/bin/sh
# What math-verify reads in short answers.
#
# Guess: a subscript after digits is a base or makes the text unreadable, never nothing; 3e8 is the number in
# scientific notation, at least without dollar signs; pi between dollar signs is the constant; 2(3) is 6.
# The base is dropped, so 101 in base 2 equals 101 in base 3; 3e8 is three times Euler's number times eight between
# dollar signs, and 3 without; pi is the imaginary unit times a variable p; 2(3) is read as a mixed number, 5.
#
# Seen:
#     math-verify 0.9.0
#     $101_2$ = $101_3$: expected False, seen True; $101_2$ reads as 101
#     $1111_2$ = $15$: expected True, seen False; $1111_2$ reads as 1111
#     $3e8$ = $300000000$: expected True, seen False; $3e8$ reads as 3*E*8
#     3e8 = 300000000: expected True, seen False; 3e8 reads as 3
#     3e8 = 3: expected False, seen True; 3e8 reads as 3
#     $pi/2$ = $\frac{\pi}{2}$: expected True, seen False; $pi/2$ reads as (i*p)/2
#     $2(3)$ = $6$: expected True, seen False; $2(3)$ reads as 5
#     $2(3)$ = $5$: expected False, seen True; $2(3)$ reads as 5
#     as recorded
set -eu
VERSION=${VERSION:-0.9.0}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv venv || exit 2
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    "math-verify==$VERSION" latex2sympy2_extended==1.11.0 sympy==1.14.0 \
    antlr4-python3-runtime==4.13.2 >&2 || exit 2
venv/bin/python -I - <<'END'
import sys
from importlib.metadata import version

from math_verify import parse, verify

PAIRS = [  # gold, answer, expected, seen
    ("$101_2$", "$101_3$", False, True),
    ("$1111_2$", "$15$", True, False),
    ("$3e8$", "$300000000$", True, False),
    ("3e8", "300000000", True, False),
    ("3e8", "3", False, True),
    ("$pi/2$", r"$\frac{\pi}{2}$", True, False),
    ("$2(3)$", "$6$", True, False),
    ("$2(3)$", "$5$", False, True),
]
print("math-verify", version("math-verify"))
as_before = True
for gold, answer, expected, recorded in PAIRS:
    reading = parse(gold)
    seen = verify(reading, parse(answer))
    as_before = as_before and seen == recorded
    print(f"{gold} = {answer}: expected {expected}, seen {seen}; {gold} reads as {reading[0]}")
print("as recorded" if as_before else "CHANGED")
sys.exit(not as_before)
END
