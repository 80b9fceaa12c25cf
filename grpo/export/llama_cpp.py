"""A GGUF file run by llama.cpp itself, the program that most users load it with, through the package xllamacpp.

The server inside that package listens on this machine alone; token ids go in and come out, so that no rendering or
splitting of text lies between the two models that are compared.
"""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

from grpo.recipe import RecipeError

PACKAGE = "xllamacpp"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SECONDS = 600.0
"""The longest that an answer may take."""


def is_installed() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec(PACKAGE) is not None


@dataclass(frozen=True, slots=True)
class Continuation:
    """What llama.cpp wrote: tokens, an end token included, and by their index the log-probs that it gave.

    A token that ends inside of a character has none.
    """

    token_ids: tuple[int, ...]
    logps: Mapping[int, float]


class LlamaCpp:
    """llama.cpp with the model in `path` and room for `context` tokens.

    With ``exact``, keys and values are kept in fp32 and attention is computed step by step; otherwise as llama.cpp
    chooses, which rounds both to 16 bits. Raises `RecipeError` if it cannot load the file.
    """

    def __init__(self, path: Path, context: int, *, exact: bool = False, threads: int = 1):
        import xllamacpp  # noqa: PLC0415  optional

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context
        params.n_parallel = 1
        params.warmup = False
        params.verbosity = -1
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        if exact:
            kinds = xllamacpp.llama_flash_attn_type
            params.flash_attn_type = kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
            params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise RecipeError(f"export: llama.cpp cannot load {path}: {error}") from None

    def greedy(self, token_ids: Sequence[int], num_tokens: int) -> Continuation:
        """The likeliest continuation of at most `num_tokens` tokens, each with its log-prob."""
        answer = self._ask(
            "/completion",
            prompt=list(token_ids),
            n_predict=num_tokens,
            temperature=0,
            n_probs=1,
            return_tokens=True,
            cache_prompt=False,
        )
        written = answer["tokens"]
        entries = answer.get("completion_probabilities", ())  # none if an end token is all
        places = places_of([entry["id"] for entry in entries], written)
        logps = {
            place: entry["logprob"] for place, entry in zip(places, entries) if place is not None
        }
        return Continuation(tuple(written), logps)

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        """The tokens of `text`; with `add_special`, and what it puts around a text."""
        answer = self._ask("/tokenize", content=text, add_special=add_special, parse_special=True)
        ids: list[int] = answer["tokens"]
        return ids

    def write(self, token_ids: Sequence[int]) -> str:
        """The text of tokens."""
        text: str = self._ask("/detokenize", tokens=list(token_ids))["content"]
        return text

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation by the file's chat template."""
        text: str = self._ask("/apply-template", messages=list(messages))["prompt"]
        return text

    def _ask(self, path: str, **values: Any) -> Any:
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(values).encode(),
            {"Content-Type": "application/json"},
        )
        with _DIRECT.open(request, timeout=SECONDS) as answer:
            return json.load(answer)


def places_of(ids: Sequence[int], written: Sequence[int]) -> list[int | None]:
    """Where each of `ids` stands in `written`, which holds them in this order among others; None where that is open.

    >>> places_of([5, 7], [5, 6, 7]), places_of([5, 7], [5, 5, 7])
    ([0, 2], [None, 2])
    """
    first = _leftmost(ids, written)
    reversed_last = _leftmost(ids[::-1], written[::-1])
    last = [len(written) - 1 - place for place in reversed_last[::-1]]
    return [place if place == other else None for place, other in zip(first, last)]


def _leftmost(ids: Sequence[int], written: Sequence[int]) -> list[int]:
    places: list[int] = []
    for token in ids:
        begin = places[-1] + 1 if places else 0
        places.append(begin + list(written[begin:]).index(token))
    return places
