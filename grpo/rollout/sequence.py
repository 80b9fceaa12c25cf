"""A completion while it is being sampled: its tokens so far, what ends it, and partial groups.

A partial group (of "partial rollouts") is one that a step left unfinished and a later step resumes.
"""

from __future__ import annotations

import base64
from bisect import bisect_left
from dataclasses import dataclass, field, fields
from typing import Any, Callable, Mapping, Sequence

import torch
from torch import Tensor

from grpo.model.policy import Policy
from grpo.model.routing import Routing
from grpo.types import Completion, Prompt
from rewards.environments import Turn


@dataclass(frozen=True, slots=True, eq=False)
class PartialGroup:
    """A group that was unfinished when its step had enough; a later step resumes it with the same seeds.

    An unfinished completion has the finish "cancelled". Its tokens keep the log-probs and weight versions that
    they were sampled with. Where it also has a ``stop``, its last turn waited for an answer, and will again.
    """

    prompt: Prompt
    seeds: tuple[int, ...]
    completions: tuple[Completion, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "prompt": self.prompt.id,
            "seeds": self.seeds,
            "completions": [completion_mapping(completion) for completion in self.completions],
        }

    @staticmethod
    def from_mapping(values: Mapping[str, Any], prompts: Mapping[str, Prompt]) -> PartialGroup:
        """What `to_mapping` wrote; `prompts` are those of the data, by id."""
        return PartialGroup(
            prompt=prompts[values["prompt"]],
            seeds=tuple(values["seeds"]),
            completions=tuple(
                completion_from_mapping(completion) for completion in values["completions"]
            ),
        )


def completion_mapping(completion: Completion) -> dict[str, Any]:
    """Plain values but for its text."""
    log_kept = completion.log_kept
    return {
        "token_ids": completion.token_ids,
        "sampled_logps": completion.sampled_logps.tolist(),
        "finish": completion.finish,
        "stop": completion.stop,
        "versions": completion.versions,
        "log_kept": None if log_kept is None else log_kept.tolist(),
        "routing": None if completion.routing is None else _packed(completion.routing),
        "given": completion.given,
        "turns": [_turn_mapping(turn) for turn in completion.turns],
    }


def _turn_mapping(turn: Turn) -> dict[str, Any]:
    values = {one.name: getattr(turn, one.name) for one in fields(turn)}
    return {**values, "parts": dict(turn.parts)}


def _turn(values: Mapping[str, Any]) -> Turn:
    return Turn(**{**values, "calls": tuple(values["calls"])})


def _packed(record: Tensor) -> dict[str, Any]:
    """A tensor of small integers in a fraction of the text that its numbers would take."""
    return {
        "shape": list(record.shape),
        "dtype": str(record.dtype).removeprefix("torch."),
        "base64": base64.b64encode(_bytes_of(record)).decode("ascii"),
    }


def _unpacked(values: Mapping[str, Any]) -> Tensor:
    data = bytearray(base64.b64decode(values["base64"]))
    return _tensor_of_bytes(data, getattr(torch, values["dtype"]), values["shape"])


def _bytes_of(record: Tensor) -> bytes:
    data: bytes = record.contiguous().numpy().tobytes()
    return data


def _tensor_of_bytes(data: bytearray, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    if not data:
        return torch.zeros(tuple(shape), dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).view(tuple(shape))


def completion_from_mapping(values: Mapping[str, Any]) -> Completion:
    """The completion; without a text where it is unfinished. Earlier versions wrote fewer values."""
    log_kept = values["log_kept"]
    routing = values.get("routing")
    given = map(tuple, values.get("given", ()))
    turns = map(_turn, values.get("turns", ()))
    return Completion(
        text=values.get("text", ""),
        token_ids=tuple(values["token_ids"]),
        sampled_logps=torch.tensor(values["sampled_logps"]),
        finish=values["finish"],
        stop=values["stop"],
        versions=tuple(map(tuple, values["versions"])),
        log_kept=None if log_kept is None else torch.tensor(log_kept),
        routing=None if routing is None else _unpacked(routing),
        given=tuple(given),
        turns=tuple(turns),
    )


@dataclass(slots=True, eq=False)
class RolloutSequence:
    """One completion being sampled.

    ``group_index`` is the group's index in the call, ``sample_index`` the completion's index in its group.
    ``num_computed`` counts the model's inputs from the last prompt token on whose keys are stored, ``num_read`` the
    most that it ever was; it trails ``len(tokens)`` while a sequence that lost its row replays its own tokens, and
    before an observation is read. ``num_prefilled`` of them are computed together with the prompt. ``num_resumed``
    tokens are those of an earlier call. ``routing`` are the experts that the first ``num_routed`` tokens went to, as
    bytes.

    ``given`` are spans of ``tokens`` that an environment wrote, ``num_given`` tokens in all, ``turns`` what it
    answered; ``logps`` and ``log_kept`` are of the other tokens. Of those there are at most ``max_written``, and
    ``room`` tokens in all, if the model has a context. While ``is_paused`` the last turn waits for its answer, the
    finish is empty, and ``stop`` is what ended the turn.
    """

    group_index: int
    sample_index: int
    prompt: Prompt
    seed: int
    max_written: int
    room: int | None
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    log_kept: list[float] = field(default_factory=list)
    spans: list[tuple[int, int, int]] = field(default_factory=list)
    finish: str = ""
    stop: int | str | None = None
    num_computed: int = 0
    num_resumed: int = 0
    num_prefilled: int = 0
    is_resumed: bool = False
    routing: bytearray = field(default_factory=bytearray)
    num_routed: int = 0
    given: list[tuple[int, int]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    is_paused: bool = False
    num_given: int = 0
    num_read: int = 0

    @property
    def num_written(self) -> int:
        """Tokens so far that the policy wrote."""
        return len(self.tokens) - self.num_given

    @property
    def limit(self) -> int:
        """How many tokens it may have, given ones included, with what it was given so far."""
        wanted = self.max_written + self.num_given
        return wanted if self.room is None else min(wanted, self.room)

    @property
    def turn_start(self) -> int:
        """Where the turn that is being written begins."""
        return self.given[-1][1] if self.given else 0

    def pause(self) -> None:
        """Wait for the answer to the turn that has ended."""
        self.finish = ""
        self.is_paused = True

    def observe(self, token_ids: Sequence[int], turn: Turn) -> None:
        """Go on behind the tokens of an observation; where no token could be written after them, end without them."""
        length = len(self.tokens) + len(token_ids)
        if self.num_written >= self.max_written:
            self.end("length", turn)
            return
        if self.room is not None and length >= self.room:
            self.end("context", turn)
            return
        self.is_paused = False
        self.turns.append(turn)
        self.stop = None
        if self.tokens or token_ids:  # an empty span still parts two turns
            self.given.append((len(self.tokens), length))
            self.tokens += token_ids
            self.num_given += len(token_ids)

    def end(self, finish: str, turn: Turn | None = None) -> None:
        """End with the answer to the last turn, if there was one, instead of going on."""
        self.is_paused = False
        self.finish = finish
        if turn is not None:
            self.turns.append(turn)

    @property
    def num_ahead(self) -> int:
        """Tokens of the observation that begins behind the next input; 0 if none does."""
        place = bisect_left(self.given, (self.num_computed,))
        if place == len(self.given) or self.given[place][0] != self.num_computed:
            return 0
        return self.given[place][1] - self.num_computed

    def inputs(self, number: int) -> list[int]:
        """The next `number` tokens that are to be read."""
        end = self.num_computed + number - 1
        if self.num_computed:
            return self.tokens[self.num_computed - 1 : end]
        return [self.prompt.token_ids[-1], *self.tokens[:end]]

    def has_read(self, number: int) -> int:
        """Count inputs whose keys were stored; returns how many of them had been read before."""
        before = self.num_computed
        self.num_computed += number
        self.num_read = max(self.num_read, before)
        again = min(self.num_read, self.num_computed) - before
        self.num_read = max(self.num_read, self.num_computed)
        return again

    @property
    def next_input(self) -> int:
        """The token that the next forward reads."""
        if self.num_computed:
            return self.tokens[self.num_computed - 1]
        return self.prompt.token_ids[-1]

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the completion so far."""
        return len(self.prompt.token_ids) + len(self.tokens)

    def resume(self, completion: Completion) -> None:
        """Continue from what an earlier call sampled."""
        self.tokens = list(completion.token_ids)
        self.logps = completion.sampled_logps.tolist()
        self.log_kept = [] if completion.log_kept is None else completion.log_kept.tolist()
        self.spans = [span for span in completion.versions if span[1] < span[2]]
        self.given = list(completion.given)
        self.num_given = len(self.tokens) - completion.num_tokens
        self.turns = list(completion.turns)
        self.num_resumed = self.num_prefilled = len(self.tokens)
        self.is_resumed = True
        if completion.routing is not None:
            self.routing = bytearray(_bytes_of(completion.routing))
            self.num_routed = len(completion.routing)
        self.stop = completion.stop
        if completion.finish != "cancelled":
            self.finish = completion.finish
        else:
            self.is_paused = completion.stop is not None

    def restart(self) -> None:
        """Forget the turn that this call has sampled, for it to be drawn again."""
        num_resumed = self.num_resumed
        if len(self.tokens) == num_resumed:
            return
        assert self.turn_start <= num_resumed, "whoever restarts sequences has no turns"
        del self.tokens[num_resumed:]
        for values in (self.logps, self.log_kept):
            del values[num_resumed - self.num_given :]
        if self.num_routed > num_resumed:
            del self.routing[len(self.routing) // self.num_routed * num_resumed :]
            self.num_routed = num_resumed
        self.finish = ""
        self.stop = None
        self.num_computed = 0

    def route(self, token_index: int, experts: bytes) -> None:
        """Record the experts that a token of the completion went to when it was read first."""
        if token_index == self.num_routed:
            self.routing += experts
            self.num_routed += 1

    def routing_record(self, routing: Routing | None, num_tokens: int) -> Tensor | None:
        """The experts [num_tokens, L, K] of the first tokens; None if they are not recorded."""
        if routing is None or not routing.is_replayed or self.num_routed < num_tokens:
            return None
        data = self.routing[: num_tokens * routing.bytes_a_token]
        return _tensor_of_bytes(data, routing.dtype, (num_tokens, *routing.shape))

    def append(self, token: int, logp: float, log_kept: float | None, stops: Stops) -> None:
        """Record the token sampled after the next input was read; one that is known already is not recorded again."""
        self.has_read(1)
        if self.num_computed <= len(self.tokens):
            return
        if token < 0:
            self.finish = "error"
            return
        self.tokens.append(token)
        self.logps.append(logp)
        if log_kept is not None:
            self.log_kept.append(log_kept)
        self.finish, self.stop = stops.match(self)
        if not self.finish and len(self.tokens) >= self.limit:
            is_at_edge = self.room is not None and len(self.tokens) >= self.room
            is_cut = is_at_edge and self.num_written < self.max_written
            self.finish = "context" if is_cut else "length"

    def completion(self, policy: Policy, version: int | None = None) -> Completion:
        """The sequence as a `Completion`, whose newest tokens carry the weight `version` (None: the policy's)."""
        log_kept = torch.tensor(self.log_kept, dtype=torch.float32) if self.log_kept else None
        return Completion(
            text=self._text(policy),
            token_ids=tuple(self.tokens),
            sampled_logps=torch.tensor(self.logps, dtype=torch.float32),
            finish=self.finish,
            stop=self.stop,
            versions=self._versions(policy.version if version is None else version),
            log_kept=log_kept,
            routing=self.routing_record(policy.routing, self._num_recorded),
            given=tuple(self.given),
            turns=tuple(self.turns),
        )

    @property
    def _num_recorded(self) -> int:
        """How many tokens have been read, and so have experts: all but the last, of one that was not cut off."""
        number = max(0, len(self.tokens) - 1)
        return min(number, self.num_routed) if self.finish == "cancelled" else number

    def _text(self, policy: Policy) -> str:
        """What the policy wrote, a turn a line; without stop tokens.

        The last turn goes up to and with a stop string, which may close what a reward looks for.
        """
        texts = []
        start = 0
        for given_start, given_end in self.given:
            if given_start:
                texts.append(_text_of_turn(policy, self.tokens[start:given_start]))
            start = given_end
        return "\n".join([*texts, self._last_text(policy, self.tokens[start:])])

    def _last_text(self, policy: Policy, token_ids: list[int]) -> str:
        if isinstance(self.stop, int):
            token_ids = token_ids[:-1]
        text = _decode(policy, token_ids)
        if not isinstance(self.stop, str):
            return text
        # A call's string may occur before: it ends the turn where the last token completes it.
        before_last = _decode(policy, token_ids[:-1]).rstrip("\ufffd")
        place = text.find(self.stop, max(0, len(before_last) - len(self.stop) + 1))
        if place < 0:
            place = text.find(self.stop)
        return text if place < 0 else text[: place + len(self.stop)]

    def _versions(self, version: int) -> tuple[tuple[int, int, int], ...]:
        """Spans of weight versions; an empty span only where there is nothing else."""
        if self.spans and self.num_resumed == len(self.tokens):
            return tuple(self.spans)
        return (*self.spans, (version, self.num_resumed, len(self.tokens)))


def _text_of_turn(policy: Policy, token_ids: list[int]) -> str:
    """The text of a turn that was answered."""
    if token_ids and token_ids[-1] in policy.stop_ids:
        token_ids = token_ids[:-1]
    return _decode(policy, token_ids)


EndsCall = Callable[[RolloutSequence], str]
"""The string by which a sequence's newest token completes a call; empty where it does not."""


class Stops:
    """What ends a turn: token ids, strings that appear in its text, and calls in the middle of it."""

    def __init__(
        self, policy: Policy, strings: Sequence[str] = (), ends_call: EndsCall | None = None
    ):
        self.policy = policy
        self.strings = tuple(strings)
        self.ends_call = ends_call
        # A token may be a single byte: the tail has one for each byte of the longest string, and a few before them.
        longest = max((len(string.encode()) for string in self.strings), default=0)
        self.tail = 8 + longest

    def match(self, sequence: RolloutSequence) -> tuple[str, int | str | None]:
        """("stop", token or string) or ("call", string) if the last token ended a turn, else ("", None).

        Only the tail of the turn is decoded.
        """
        tokens = sequence.tokens
        if tokens[-1] in self.policy.stop_ids:
            return "stop", tokens[-1]
        if self.strings:
            first = max(sequence.turn_start, len(tokens) - self.tail)
            text = _decode(self.policy, tokens[first:])
            for string in self.strings:
                if string in text:
                    return "stop", string
        string = self.ends_call(sequence) if self.ends_call is not None else ""
        return ("call", string) if string else ("", None)


def _decode(policy: Policy, token_ids: list[int]) -> str:
    text = policy.tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)
    assert isinstance(text, str), "one row of token ids decodes to one text"
    return text


def tensor_of(values: Sequence[int], rows: int, device: torch.device) -> Tensor:
    """`values` as int64 [rows], zeros behind them."""
    return torch.tensor([*values, *[0] * (rows - len(values))], dtype=torch.long, device=device)


def experts_read(routing: Routing | None, rows: int) -> list[bytes]:
    """The experts that each of the first `rows` tokens of the last decoding forward went to; [] if unrecorded."""
    if routing is None or not routing.is_replayed:
        return []
    chosen_RLK = routing.chosen(routing.last)[:rows].cpu().numpy()
    return [chosen_LK.tobytes() for chosen_LK in chosen_RLK]
