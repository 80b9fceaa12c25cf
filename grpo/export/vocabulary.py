"""A tokenizer as GGUF keeps it: tokens with their kinds, merges, the name of its splitting, special tokens.

Two kinds are written. Byte-level BPE is llama.cpp's ``gpt2``; how it splits text before it merges is known there by a
name, which is found by behaviour: the tokenizer splits `PROBE` as one of the named ways does, or is refused. A
vocabulary of whole words between spaces is written as a unigram model (``t5``) with a space before each word. The
tokenizer's own tokenizer.json is kept beside them, from which this library reads it back.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any, Collection, Mapping, Sequence

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase

from grpo.model.gguf_metadata import split_patterns, splitting
from grpo.model.policy import CHAT_ENDS
from grpo.recipe import RecipeError

NORMAL = 1
UNKNOWN = 2
CONTROL = 3
USER_DEFINED = 4
UNUSED = 5
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
BLANKS = "\t\n\r"
PROBE = (
    "Hello  world, it's I'M we'll   a\n\n  b\r\n\tc  \n d 1 12 123 1234567 3.14 x2y a/b //c\n/ (f)_g __h "
    "camelCaseHTTPServer XMLHttp\u00c9tat \u00e9t\u00e9 na\u00efve e\u0303x 'S 'tis can't\u00a0you "
    "\u4e2d\u6587\u5b57 \u3072\u3089\u304c\u306a\u30ab\u30bf \ud55c\uae00 \u0440\u0443\u0441\u0441 "
    "\u0661\u0662\u0663 \u00b2\u00bd \u2167 \u20ac5 $10,000.00 !?!? ...\n... <|x|> `a` {b} [c] ^d ~e |f "
    "\U0001f600\U0001f44d\U0001f3fd a\u200db !\nABC+def=ghi 100\u4e2d \u0e44\u0e17\u0e22 "
    "\u0928\u092e\u0938\u094d\u0924\u0947 -5 --- \u2014x\u201cq\u201d #tag @me a_b A.B.C. x\u0301y  "
)
"""A text in which any two of the named ways of splitting differ."""
NAMES: tuple[tuple[str, bool], ...] = (
    ("llama-bpe", True),
    ("dbrx", False),
    ("qwen2", False),
    ("gpt-2", False),
    ("smollm", False),
    ("tekken", True),
    ("gpt-4o", False),
    ("deepseek-v3", False),
    ("qwen35", False),
    ("seed-coder", False),
    ("falcon", False),
)
"""Names of ``tokenizer.ggml.pre``, and whether llama.cpp then takes a whole word that is a token without merging."""
MARKS_APART = ("tekken", "gpt-4o")
"""Names under which llama.cpp takes a combining mark from its letter."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a file says of a tokenizer.

    ``kind`` is ``tokenizer.ggml.model``, ``pre`` the name of its splitting; ``kinds`` has a kind for each token.
    ``add_bos`` and ``add_eos`` say what is put around a text. ``notes`` are sentences on what llama.cpp does otherwise.
    """

    kind: str
    tokens: Sequence[str]
    kinds: Sequence[int]
    tokenizer_json: str
    add_bos: bool
    add_eos: bool
    pre: str | None = None
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    charsmap: bytes = b""
    notes: tuple[str, ...] = ()
    special_ids: Mapping[str, int] = field(default_factory=dict)


def vocabulary_of(
    tokenizer: PreTrainedTokenizerBase,
    size: int,
    end_ids: Collection[int] = (),
    pre: str | None = None,
) -> Vocabulary:
    """The vocabulary of a model with `size` embeddings, in which `end_ids` end a completion.

    `pre` names the splitting in place of the one that is found. Raises `RecipeError` for a tokenizer that cannot be
    written.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refused("it is not one of the package tokenizers (no tokenizer.json)")
    state = json.loads(backend.to_str())
    before, after = _added(tokenizer)
    written = {
        "tokenizer_json": backend.to_str(),
        "add_bos": before,
        "add_eos": after,
        "special_ids": special_ids(tokenizer, end_ids),
    }
    _check_ends(tokenizer, end_ids)
    kind = state["model"]["type"]
    if kind == "BPE" and _is_byte_level(state):
        return _byte_level(tokenizer, state, size, pre, written=written)
    if kind == "WordLevel":
        return _word_level(tokenizer, state, size, written)
    raise _refused(f"its model is {kind}, and byte-level BPE and whole words are written")


def _refused(reason: str) -> RecipeError:
    return RecipeError(
        f"export: the tokenizer cannot be written as GGUF, since {reason}; export with --to safetensors"
    )


def _added(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Whether the tokenizer puts its first token before a text, and its end token behind it."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for before in (False, True):
        for after in (False, True):
            first = [tokenizer.bos_token_id] if before else []
            last = [tokenizer.eos_token_id] if after else []
            if whole == [*first, *plain, *last]:
                return before, after
    raise _refused("it adds other tokens to a text than its first and its end token")


def special_ids(tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int]) -> dict[str, int]:
    """The ids of special tokens by the names that GGUF has for them: bos, eos, unknown, padding, eot, eom.

    llama.cpp ends at eos, eot and eom; a model may have further ends only where it knows them by their text.
    """
    named = {
        "bos": tokenizer.bos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    eos = tokenizer.eos_token_id
    others = sorted(set(end_ids) - {eos})
    ends = [eos, *others] if eos is not None else others
    named |= dict(zip(("eos", "eot", "eom"), ends))
    return {name: int(token) for name, token in named.items() if token is not None}


def _check_ends(tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int]) -> None:
    """Refuse an end token that llama.cpp would read on over: it is told three, and knows some by their text."""
    named = set(special_ids(tokenizer, end_ids).values())
    for number in sorted(set(end_ids) - named):
        token = tokenizer.convert_ids_to_tokens(number)
        if token not in CHAT_ENDS:
            raise _refused(
                f"it has more than three end tokens, and llama.cpp would not end at {token!r}"
            )


def _table(
    tokenizer: PreTrainedTokenizerBase, state: Mapping[str, Any], size: int
) -> tuple[list[str], list[int]]:
    """Tokens and kinds by id; an id without a token gets a name of its own, as the embedding has a row for it."""
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [UNUSED] * size
    for token, number in tokenizer.get_vocab().items():
        if number < size:
            tokens[number] = token
            kinds[number] = NORMAL
    for added in state["added_tokens"]:
        if added["id"] < size:
            kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    return tokens, kinds


# ---- byte-level BPE ---------------------------------------------------------------------------------------------


def _is_byte_level(state: Mapping[str, Any]) -> bool:
    return (state["decoder"] or {}).get("type") == "ByteLevel" or "ByteLevel" in json.dumps(
        state["pre_tokenizer"]
    )


def _byte_level(
    tokenizer: PreTrainedTokenizerBase,
    state: Mapping[str, Any],
    size: int,
    pre: str | None,
    *,
    written: Mapping[str, Any],
) -> Vocabulary:
    model = state["model"]
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise _refused(f"its {key} is {model[key]!r}")
    notes = _normalizer_notes(state)
    if pre is None:
        pre = name_of_splitting(tokenizer, bool(model.get("ignore_merges")))
    else:
        notes += (f"the splitting of text was named {pre} by hand, unchecked",)
    if pre in MARKS_APART:
        notes += (
            "llama.cpp takes combining marks from their letters, so text with them (Hindi, accents that are not "
            "composed) becomes other tokens there",
        )
    tokens, kinds = _table(tokenizer, state, size)
    return Vocabulary(
        kind="gpt2",
        pre=pre,
        tokens=tokens,
        kinds=kinds,
        merges=list(map(_merge, model["merges"])),
        notes=notes,
        **written,
    )


def _merge(pair: str | Sequence[str]) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)


def _normalizer_notes(state: Mapping[str, Any]) -> tuple[str, ...]:
    normalizer = state["normalizer"]
    if normalizer is None:
        return ()
    if normalizer["type"] == "NFC":
        return (
            "llama.cpp does not compose characters (NFC) as the tokenizer does: hand it composed text",
        )
    raise _refused(f"its normalizer is {normalizer['type']}, which llama.cpp does not apply")


def name_of_splitting(tokenizer: PreTrainedTokenizerBase, ignores_merges: bool) -> str:
    """The name of ``tokenizer.ggml.pre`` under which llama.cpp splits text as `tokenizer` does.

    Found by `PROBE`, not by what the tokenizer is called; `ignores_merges` says that it takes a whole word that is a
    token. Raises `RecipeError` if no name is known.
    """
    backend: Any = tokenizer
    own = backend.backend_tokenizer.pre_tokenizer
    found = None if own is None else own.pre_tokenize_str(PROBE)
    for name, ignores in NAMES:
        patterns = split_patterns(name)
        assert patterns is not None, "each name has its patterns"
        if splitting(patterns).pre_tokenize_str(PROBE) == found and ignores == ignores_merges:
            return name
    raise _refused(
        "it splits text in a way that has no name in llama.cpp that is known here; name one with --pre if you know it"
    )


# ---- whole words ------------------------------------------------------------------------------------------------


def _word_level(
    tokenizer: PreTrainedTokenizerBase,
    state: Mapping[str, Any],
    size: int,
    written: Mapping[str, Any],
) -> Vocabulary:
    if state["normalizer"] is not None:
        raise _refused(f"its normalizer is {state['normalizer']['type']}")
    isolates = _isolates_punctuation(tokenizer)
    tokens, kinds = _table(tokenizer, state, size)
    unknown_id = tokenizer.get_vocab().get(state["model"]["unk_token"])
    if unknown_id is not None:
        kinds[unknown_id] = UNKNOWN
    words = [number for number, kind in enumerate(kinds) if kind == NORMAL]
    _check_decoding(tokenizer, words[:2])
    for number in words:
        tokens[number] = SPACE + tokens[number]
    return Vocabulary(
        kind="t5",
        tokens=tokens,
        kinds=kinds,
        scores=[-1.0 if kind == NORMAL else 0.0 for kind in kinds],
        charsmap=spaced_map(isolates),
        notes=(
            "a word that is not in the vocabulary becomes its longest known beginning in llama.cpp, not one "
            "unknown token",
        ),
        **written,
    )


def _isolates_punctuation(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether signs are words of their own, or only what stands between spaces is one."""
    backend: Any = tokenizer
    own = backend.backend_tokenizer.pre_tokenizer
    spaces = pre_tokenizers.WhitespaceSplit()
    signs = pre_tokenizers.Sequence([spaces, pre_tokenizers.Punctuation("isolated")])
    text = "a b  c\td\n(e+f)*g, h:i -j k_l 10=2.5 #m $n<o> `p` {q} [r] ^s ~t |u \"v\" 'w' x/y \\z @! ?&%"
    found = None if own is None else own.pre_tokenize_str(text)
    for isolates, candidate in ((False, spaces), (True, signs)):
        if found == candidate.pre_tokenize_str(text):
            return isolates
    raise _refused("its words are not what stands between spaces and signs")


def _check_decoding(tokenizer: PreTrainedTokenizerBase, words: Sequence[int]) -> None:
    names = [tokenizer.convert_ids_to_tokens(number) for number in words]
    joined = tokenizer.decode(list(words), clean_up_tokenization_spaces=False)
    if joined != " ".join(map(str, names)):
        raise _refused("it joins words otherwise than by spaces")


def spaced_map(isolates: bool) -> bytes:
    """A map of characters for llama.cpp's unigram tokenizer: tabs and line ends become spaces, signs stand alone.

    As sentencepiece keeps it: a trie as a double array of 32-bit units with its size before it, then the replacements,
    each ending in a zero. Here every key is one byte, so the trie is a root, a unit for each key, and its value.
    """
    replacements = {blank: " " for blank in BLANKS}
    if isolates:
        replacements |= {sign: f" {sign} " for sign in PUNCTUATION}
    units = [0] * 1024
    units[0] = _offset(256)
    texts = b""
    for key, text in replacements.items():
        byte = ord(key)
        unit = 256 ^ byte
        value = 512 + byte
        units[unit] = _offset(unit ^ value) | HAS_VALUE | byte
        units[value] = IS_VALUE | len(texts)
        texts += text.encode() + b"\0"
    array = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(array)) + array + texts


HAS_VALUE = 1 << 8
IS_VALUE = 1 << 31


def _offset(distance: int) -> int:
    """Where a unit's children are: a distance in the upper 22 bits."""
    return distance << 10
