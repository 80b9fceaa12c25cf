#!/bin/sh
# save_pretrained on any rank but the first writes no weights, whatever is_main_process says.
#
# Guess: save_pretrained(folder) writes the model wherever it is called; is_main_process (True by default) is how a
# caller says which processes shall not. Where torch.distributed is initialised, the rank counts too: each rank that saves
# its own model to a folder of its own gets an empty one from rank 1 on, without an error or a warning. Passing
# is_main_process=True changes nothing.
#
# Seen:
#     transformers 5.23.0
#     rank 0: expected weights, seen config.json generation_config.json model.safetensors
#     rank 1: expected weights, seen nothing
#     rank 1 with is_main_process=True: expected weights, seen nothing
#     as recorded
set -eu
VERSION=${VERSION:-5.23.0}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
cd "$folder"
"${PYTHON:-python3}" -m venv venv || exit 2
venv/bin/python -m pip install --quiet --disable-pip-version-check "transformers==$VERSION" torch==2.13.0 >&2 || exit 2
cat > run.py <<'END'
import os
import sys
import warnings

import torch
import torch.distributed as dist
import transformers
from transformers import AutoModelForCausalLM, Qwen2Config


def saved(rank):
    dist.init_process_group("gloo", init_method="file://" + os.path.abspath("meeting"), rank=rank, world_size=2)
    config = Qwen2Config(
        vocab_size=100, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = AutoModelForCausalLM.from_config(config)
    warnings.simplefilter("error")
    model.save_pretrained(f"default-{rank}")
    model.save_pretrained(f"named-{rank}", is_main_process=True)
    dist.barrier()
    dist.destroy_process_group()


def files(folder):
    return " ".join(sorted(os.listdir(folder))) or "nothing"


if __name__ == "__main__":
    torch.multiprocessing.spawn(saved, nprocs=2)
    print("transformers", transformers.__version__)
    print("rank 0: expected weights, seen", files("default-0"))
    print("rank 1: expected weights, seen", files("default-1"))
    print("rank 1 with is_main_process=True: expected weights, seen", files("named-1"))
    as_recorded = "model.safetensors" in files("default-0") and files("default-1") == files("named-1") == "nothing"
    print("as recorded" if as_recorded else "CHANGED")
    sys.exit(not as_recorded)
END
HF_HUB_OFFLINE=1 venv/bin/python run.py 2> log || {
    status=$?
    tail -5 log >&2
    exit "$status"
}
