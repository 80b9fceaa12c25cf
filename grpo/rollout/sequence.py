"""A completion while it is being written: its tokens so far, what ends it, and what is carried to a later step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

import torch
from torch import Tensor

from grpo.model.policy import Policy
from grpo.types import Completion, Prompt


@dataclass(frozen=True, slots=True, eq=False)
class PartialGroup:
    """A group that was not complete when a step had enough: it goes on in a later step, with its own seeds.

    A completion that is unfinished has the finish "cancelled"; its tokens keep the log-probs and weight
    versions that they were sampled with.
    """

    prompt: Prompt
    seeds: tuple[int, ...]
    completions: tuple[Completion, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "prompt": self.prompt.id,
            "seeds": self.seeds,
            "completions": [
                {
                    "token_ids": c.token_ids,
                    "sampled_logps": c.sampled_logps.tolist(),
                    "finish": c.finish,
                    "stop": c.stop,
                    "versions": c.versions,
                    "log_kept": None if c.log_kept is None else c.log_kept.tolist(),
                }
                for c in self.completions
            ],
        }

    @staticmethod
    def from_mapping(values: Mapping[str, Any], prompts: Mapping[str, Prompt]) -> PartialGroup:
        return PartialGroup(
            prompts[values["prompt"]],
            tuple(values["seeds"]),
            tuple(
                Completion(
                    "",
                    tuple(c["token_ids"]),
                    torch.tensor(c["sampled_logps"]),
                    c["finish"],
                    c["stop"],
                    tuple(map(tuple, c["versions"])),
                    None if c["log_kept"] is None else torch.tensor(c["log_kept"]),
                )
                for c in values["completions"]
            ),
        )


@dataclass(slots=True, eq=False)
class RolloutSequence:
    """A completion being written.

    ``fed`` counts the tokens whose keys are stored behind those of all prompt tokens but the last, ``known``
    the tokens that an earlier call sampled, ``given`` those that are prefilled behind the prompt when it starts. A
    sequence that lost its slot is fed its own tokens again, or given them.
    """

    place: int
    index: int
    prompt: Prompt
    seed: int
    limit: int
    limit_is_context: bool
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    log_kept: list[float] = field(default_factory=list)
    spans: list[tuple[int, int, int]] = field(default_factory=list)
    finish: str = ""
    stop: int | str | None = None
    fed: int = 0
    known: int = 0
    given: int = 0
    carried: bool = False

    @property
    def next_input(self) -> int:
        """The token that the next forward reads."""
        return self.tokens[self.fed - 1] if self.fed else self.prompt.token_ids[-1]

    @property
    def length(self) -> int:
        return len(self.prompt.token_ids) + len(self.tokens)

    def carry(self, completion: Completion) -> None:
        """Go on from what an earlier call sampled."""
        self.tokens, self.logps = list(completion.token_ids), completion.sampled_logps.tolist()
        self.log_kept = [] if completion.log_kept is None else completion.log_kept.tolist()
        self.spans = [span for span in completion.versions if span[1] < span[2]]
        self.known = self.given = len(self.tokens)
        self.carried = True
        if completion.finish != "cancelled":
            self.finish, self.stop = completion.finish, completion.stop

    def take(self, token: int, logp: float, log_kept: float | None, stops: Stops) -> None:
        """Book what was sampled after ``fed`` tokens were read; a sequence that reads its own again learns nothing."""
        self.fed += 1
        if self.fed <= len(self.tokens):
            return
        if token < 0:
            self.finish = "error"
            return
        self.tokens.append(token)
        self.logps.append(logp)
        if log_kept is not None:
            self.log_kept.append(log_kept)
        self.finish, self.stop = stops.found(self.tokens)
        if not self.finish and len(self.tokens) >= self.limit:
            self.finish = "context" if self.limit_is_context else "length"

    def completion(self, policy: Policy) -> Completion:
        spoken = self.tokens[:-1] if isinstance(self.stop, int) else self.tokens
        text = policy.tokenizer.decode(spoken, clean_up_tokenization_spaces=False)
        if isinstance(self.stop, str):
            text = text.partition(self.stop)[0]
        new = [(policy.version, self.known, len(self.tokens))]
        spans = self.spans if self.spans and self.known == len(self.tokens) else self.spans + new
        return Completion(
            text=text,
            token_ids=tuple(self.tokens),
            sampled_logps=torch.tensor(self.logps, dtype=torch.float32),
            finish=self.finish,
            stop=self.stop,
            versions=tuple(spans),
            log_kept=torch.tensor(self.log_kept, dtype=torch.float32) if self.log_kept else None,
        )


class Stops:
    """What ends a completion: token ids, and strings that its text comes to hold."""

    def __init__(self, policy: Policy, strings: Sequence[str] = ()):
        self.policy, self.strings = policy, tuple(strings)
        # a token may be a single byte, so the tail has a token for each byte of the longest, and some to start
        self.tail = 8 + max((len(string.encode()) for string in self.strings), default=0)

    def found(self, tokens: list[int]) -> tuple[str, int | str | None]:
        """("stop", what) if the last token ended the completion, else ("", None); only the tail is decoded."""
        if tokens[-1] in self.policy.stop_ids:
            return "stop", tokens[-1]
        if self.strings:
            text = self.policy.tokenizer.decode(
                tokens[-self.tail :], clean_up_tokenization_spaces=False
            )
            for string in self.strings:
                if string in text:
                    return "stop", string
        return "", None


def tensor_of(values: Sequence[int], rows: int, device: torch.device) -> Tensor:
    """`values` as int64, zeros behind them up to `rows`."""
    return torch.tensor([*values, *[0] * (rows - len(values))], dtype=torch.long, device=device)
