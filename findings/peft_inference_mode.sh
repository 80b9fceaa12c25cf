#!/bin/sh
# get_peft_model with the configuration of a saved adapter makes an adapter that cannot train.
#
# Guess: a LoraConfig read from a saved adapter describes its shape (rank, targets), so a new adapter from it
# trains like the first one; at worst there is a warning. save_pretrained writes inference_mode true, also in the
# middle of training, and get_peft_model obeys it: no parameter requires a gradient, not after train() either, and
# nothing is said.
#
# Seen:
#     peft 0.21.2
#     expected: 16 trainable parameters, as in the first adapter
#     seen:     0 trainable parameters; inference_mode: True; warnings: 0
#     as recorded
set -eu
VERSION=${VERSION:-0.21.2}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv venv || exit 2
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    "peft==$VERSION" transformers==5.23.0 torch==2.13.0 >&2 || exit 2
venv/bin/python -I - <<'END'
import sys
import warnings

import peft
from peft import LoraConfig, get_peft_model
from torch import nn


def trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def base():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


first = get_peft_model(base(), LoraConfig(r=2, target_modules=["0"]))
first.save_pretrained("adapter")
again = LoraConfig.from_pretrained("adapter")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    second = get_peft_model(base(), again).train()
print("peft", peft.__version__)
print("expected:", trainable(first), "trainable parameters, as in the first adapter")
print("seen:    ", trainable(second), "trainable parameters; inference_mode:", again.inference_mode, end="; ")
print("warnings:", len(said))
as_before = trainable(first) == 16 and trainable(second) == 0 and not said
print("as recorded" if as_before else "CHANGED")
sys.exit(not as_before)
END
