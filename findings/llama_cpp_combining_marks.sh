#!/bin/sh
# llama.cpp splits combining marks off their letters under tokenizer.ggml.pre "gpt-4o" and "tekken".
#
# Guess: a byte-level BPE tokenizer written as GGUF under the name that llama.cpp has for its splitting of text gives
# llama.cpp the tokens of its tokenizer.json, for any valid text. Under "qwen35" and "deepseek-v3", whose patterns also
# count combining marks (\p{M}) among the letters, it does. Under "gpt-4o" (gpt-oss, Llama 4) and "tekken" (Mistral
# NeMo and later) a mark ends the word: Hindi, and accents that are not composed, become other and more tokens.
#
# Seen:
#     xllamacpp 2026.10.11549
#     gpt-4o: expected [269], seen [267, 116, 257, 263, 97, 257, 229]
#     qwen35: expected [269], seen [269]
#     as recorded
set -eu
VERSION=${VERSION:-2026.10.11549}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
cd "$folder"
"${PYTHON:-python3}" -m venv venv || exit 2
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    "xllamacpp==$VERSION" gguf==0.19.0 tokenizers==0.23.3 >&2 || exit 2
VERSION=$VERSION venv/bin/python -I - <<'END'
import json
import os
import sys
import urllib.request

import gguf
import numpy
import xllamacpp
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

TEXT = " \u0928\u092e\u0938\u094d\u0924\u0947"  # a word of Hindi with two combining marks
MARK_IS_LETTER = {
    "gpt-4o": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen35": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


def trained(pattern):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return tokenizer


def write(tokenizer, pre):
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    writer = gguf.GGUFWriter("model.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(vocabulary))
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    shapes = {"token_embd": (len(vocabulary), 32), "output_norm": (32,)}
    shapes |= {"blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for name, shape in {**shapes, **{f"blk.0.{part}": (32, 32) for part in parts}}.items():
        writer.add_tensor(f"{name}.weight", numpy.ones(shape, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_llama_cpp():
    params = xllamacpp.CommonParams()
    params.model.path = "model.gguf"
    params.n_ctx = 64
    params.warmup = False
    params.verbosity = -1
    server = xllamacpp.Server(params)
    data = json.dumps({"content": TEXT}).encode()
    request = urllib.request.Request(
        f"{server.listening_address}/tokenize", data, {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return json.load(opener.open(request))["tokens"]


print("xllamacpp", os.environ["VERSION"])
same = {}
for pre, pattern in MARK_IS_LETTER.items():
    tokenizer = trained(pattern)
    write(tokenizer, pre)
    expected = tokenizer.encode(TEXT).ids
    seen = by_llama_cpp()
    same[pre] = expected == seen
    print(f"{pre}: expected {expected}, seen {seen}")
as_before = same == {"gpt-4o": False, "qwen35": True}
print("as recorded" if as_before else "CHANGED")
sys.exit(not as_before)
END
