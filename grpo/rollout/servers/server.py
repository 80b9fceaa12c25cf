"""What the decoder and a fleet ask of one server, whatever speaks to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Mapping, Protocol, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.kernels.sampling.spec import Sampling
from grpo.model.adapters import adapter_ranks
from grpo.model.policy import Policy


@dataclass(frozen=True, slots=True)
class Asked:
    """One completion to be written: ``max_tokens`` behind ``prompt_ids``, ended by ids or strings.

    ``bias`` are logits to be added, by token: those of ids that no tokenizer knows.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    seed: int
    sampling: Sampling
    stop_ids: tuple[int, ...]
    stop_strings: tuple[str, ...]
    bias: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens that a server wrote, with their log-probs; ``finish`` (and what ended it) with the last ones."""

    token_ids: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    prompt_ids: tuple[int, ...] | None = None
    finish: str = ""
    stop: int | str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What a server wrote behind a prompt: its tokens, their log-probs, and the prompt that it says it read."""

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    prompt_ids: tuple[int, ...] | None


class Answer(Protocol):
    """The pieces of one completion as they come."""

    def __iter__(self) -> Iterator[Piece]: ...

    def close(self) -> None:
        """Ask for no more of it; from any thread."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a server must be to sample a policy.

    ``max_tokens`` is the longest sequence, prompt and completion, ``vocab_size`` that of the model's embedding, and
    ``rank`` that of the adapter, 0 without one.
    """

    dtype: str
    max_tokens: int
    vocab_size: int
    rank: int = 0

    @staticmethod
    def by(policy: Policy, max_tokens: int) -> Wanted:
        """What sampling a policy wants."""
        rank = 0
        if policy.model is not policy.base:
            rank = max(adapter_ranks(policy.model).values(), default=1)
        return Wanted(
            dtype=str(policy.base.dtype).removeprefix("torch."),
            max_tokens=max_tokens,
            vocab_size=policy.base.config.get_text_config().vocab_size,
            rank=rank,
        )


class Server(Protocol):
    """One inference server. Methods raise `grpo.rollout.servers.connection.ServerFault`."""

    @property
    def url(self) -> str: ...

    def is_alive(self, timeout_seconds: float) -> bool:
        """Whether it answers, and says that it is well."""
        ...

    def problems(self, wanted: Wanted, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Everything that keeps it from what is wanted, a sentence each."""
        ...

    def load(self, folder: Path, name: str) -> None:
        """Take the weights, or the adapter, in `folder`, forget keys of earlier ones, and bear `name` from then on."""
        ...

    def holds(self) -> str:
        """The `name` of the weights that it was given last; empty if it was given none since it started."""
        ...

    def ask(self, asked: Asked) -> Answer:
        """The completion, piece by piece; nothing is sent before the first piece is asked for."""
        ...

    def write(self, asked: Asked) -> Written:
        """The whole completion at once; for a probe."""
        ...

    def score(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        """The log-probs of `token_ids` behind `prompt_ids`, at temperature 1 and without filters."""
        ...


PREFIX = "version-"
"""How names of weights begin."""
MOST_BIASES = 1000
"""Ids that no tokenizer knows are kept out one by one; of more, a server is trusted not to draw them."""
FORBIDDEN = -100.0


def unknown_ids(policy: Policy) -> dict[int, float]:
    """A bias against the ids that only pad the model's embedding: they are left out in training too."""
    size = policy.base.config.get_text_config().vocab_size
    unknown = range(policy.vocab_size, size)
    return dict.fromkeys(unknown, FORBIDDEN) if len(unknown) <= MOST_BIASES else {}
