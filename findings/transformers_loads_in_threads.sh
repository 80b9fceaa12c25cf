#!/bin/sh
# Two models that are loaded at once in threads leave a process in which no weights are tied.
#
# Guess: from_pretrained in two threads is slow at worst; each call returns the model of its folder. It switches tying
# off while it loads, on the class PreTrainedModel and therefore for all threads. Where the second call begins before the
# first has ended, it takes the switched-off state for the original and restores that. From then on every model
# of the process with tied embeddings, also one that is loaded alone, has an output layer of its own with random
# weights. A load report names lm_head.weight as missing; nothing is raised.
#
# Seen:
#     transformers 5.23.0
#     alone, before:         tied True, largest difference of a logit 0
#     alone, after threads:  expected tied True, seen tied False, logits apart
#     as recorded
set -eu
VERSION=${VERSION:-5.23.0}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
cd "$folder"
"${PYTHON:-python3}" -m venv venv || exit 2
venv/bin/python -m pip install --quiet --disable-pip-version-check "transformers==$VERSION" torch==2.13.0 >&2 || exit 2
HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 venv/bin/python -I - 2> log <<'END' || { status=$?; tail -5 log >&2; exit "$status"; }
import sys
from threading import Barrier, Thread

import torch
import transformers
from transformers import AutoModelForCausalLM, Qwen2Config

IDS = torch.arange(20)[None]
FOLDER = "model"


def load():
    model = AutoModelForCausalLM.from_pretrained(FOLDER).eval()
    tied = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    with torch.no_grad():
        return tied, model(input_ids=IDS).logits


def load_two_at_once():
    barrier = Barrier(2)

    def wait_and_load():
        barrier.wait()
        AutoModelForCausalLM.from_pretrained(FOLDER)

    threads = [Thread(target=wait_and_load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


torch.manual_seed(0)
config = Qwen2Config(
    vocab_size=100, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, tie_word_embeddings=True,
)
saved = AutoModelForCausalLM.from_config(config).eval()
saved.save_pretrained(FOLDER)
with torch.no_grad():
    expected = saved(input_ids=IDS).logits
tied, logits = load()
difference = float((logits - expected).abs().max())
print("transformers", transformers.__version__)
print(f"alone, before:         tied {tied}, largest difference of a logit {difference:.0g}")
as_recorded = tied and difference < 1e-5
for _ in range(100):
    load_two_at_once()
    tied, logits = load()
    if not tied:
        break
apart = float((logits - expected).abs().max()) > 1e-3
print(f"alone, after threads:  expected tied True, seen tied {tied}, logits {'apart' if apart else 'equal'}")
as_recorded = as_recorded and not tied and apart
print("as recorded" if as_recorded else "CHANGED")
sys.exit(not as_recorded)
END
