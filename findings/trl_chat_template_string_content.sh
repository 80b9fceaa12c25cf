#!/bin/sh
# Chat templates that ship with TRL drop the user's message when its content is a string.
#
# Guess: content may be a string or a list of parts in every chat template, or the template raises. TRL's templates
# for idefics3, llava_next and smolvlm go over the content's parts; a string's characters are none, so the prompt is
# an empty turn, and nothing is said. qwen2_5_vl renders both forms. Only TRL's template files are used.
#
# Seen:
#     trl 1.16.0
#     idefics3: expected '<|begin_of_text|>User: What is 6 times 7?<end_of_utterance>\n'
#     idefics3: seen     '<|begin_of_text|>User: <end_of_utterance>\n'
#     llava_next: expected '[INST] What is 6 times 7? [/INST]'
#     llava_next: seen     '[INST]  [/INST]'
#     smolvlm: expected '<|im_start|>User: What is 6 times 7?<end_of_utterance>\n'
#     smolvlm: seen     '<|im_start|>User: <end_of_utterance>\n'
#     qwen2_5_vl: expected '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is 6 times 7?<|im_end|>\n'
#     qwen2_5_vl: seen     '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is 6 times 7?<|im_end|>\n'
#     as recorded
set -eu
VERSION=${VERSION:-1.16.0}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv venv || exit 2
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6 >&2 || exit 2
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --no-deps "trl==$VERSION" >&2 || exit 2
venv/bin/python -I - <<'END'
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

QUESTION = "What is 6 times 7?"
DROPS = {"idefics3": True, "llava_next": True, "smolvlm": True, "qwen2_5_vl": False}
templates = Path(find_spec("trl").origin).parent / "chat_templates"
backend = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)


def render(name, content):
    template = (templates / f"{name}.jinja").read_text()
    turn = [{"role": "user", "content": content}]
    return tokenizer.apply_chat_template(turn, chat_template=template, tokenize=False)


print("trl", version("trl"))
as_before = True
for name, drops in DROPS.items():
    parts = render(name, [{"type": "text", "text": QUESTION}])
    text = render(name, QUESTION)
    as_before = as_before and QUESTION in parts and (QUESTION not in text) == drops
    print(f"{name}: expected {parts!r}")
    print(f"{name}: seen     {text!r}")
print("as recorded" if as_before else "CHANGED")
sys.exit(not as_before)
END
