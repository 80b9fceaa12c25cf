#!/bin/sh
# AutoTokenizer lets a folder's model_type overrule the tokenizer that is stored in it.
#
# Guess: AutoTokenizer loads the class that tokenizer_config.json names ("TokenizersBackend", what a plain
# fast tokenizer saves), with the vocabulary and the splitting of tokenizer.json, whatever model lies beside it.
# It does so for llama, mistral and gpt2. Beside a config.json with model_type qwen2 it builds a Qwen2Tokenizer:
# a token <|endoftext|> is added, its id past the model's embedding, and numbers are split digit by digit though
# the stored tokenizer has a token for them. Nothing is said.
#
# Seen:
#     transformers 5.23.0
#     saved by: TokenizersBackend 259 {} [64, 220, 257]
#     expected: TokenizersBackend 259 {} [64, 220, 257] (beside a llama)
#     seen:     Qwen2Tokenizer 260 {'<|endoftext|>': 259} [64, 220, 16, 17, 18] (beside a qwen2); messages: 0
#     as recorded
set -eu
VERSION=${VERSION:-5.23.0}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv venv || exit 2
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    "transformers==$VERSION" tokenizers==0.23.3 >&2 || exit 2
venv/bin/python -I - <<'END'
import json
import logging
import sys
import warnings
from pathlib import Path

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

said = []
handler = logging.Handler(logging.WARNING)
handler.emit = said.append
logging.getLogger("transformers").addHandler(handler)
warnings.showwarning = lambda *message: said.append(message)

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
vocabulary = {token: i for i, token in enumerate([*alphabet, "12", "123", "<eos>"])}
backend = Tokenizer(models.BPE(vocabulary, [("1", "2"), ("12", "3")]))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
stored = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")


def load(model_type):
    folder = Path(model_type)
    stored.save_pretrained(folder)
    config = {"model_type": model_type, "vocab_size": len(stored)}
    (folder / "config.json").write_text(json.dumps(config))
    said.clear()
    return AutoTokenizer.from_pretrained(folder)


def view(tokenizer):
    added = {t: i for t, i in tokenizer.get_vocab().items() if t not in vocabulary}
    return len(tokenizer), added, tokenizer("a 123").input_ids


print("transformers", transformers.__version__)
print("saved by:", type(stored).__name__, *view(stored))
llama = load("llama")
print("expected:", type(llama).__name__, *view(llama), "(beside a llama)")
qwen2 = load("qwen2")
print("seen:    ", type(qwen2).__name__, *view(qwen2), "(beside a qwen2); messages:", len(said))
as_before = (
    view(llama) == view(stored)
    and type(qwen2).__name__ == "Qwen2Tokenizer"
    and qwen2.get_vocab().get("<|endoftext|>") == len(stored)
    and len(qwen2("a 123").input_ids) > len(stored("a 123").input_ids)
    and not said
)
print("as recorded" if as_before else "CHANGED")
sys.exit(not as_before)
END
