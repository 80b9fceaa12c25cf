"""The token that completes a call in the middle of a turn. Asked for every token that is sampled, so it is quick."""

from __future__ import annotations

from typing import Callable, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from rewards.environments import CallFormat


class CallEnds:
    """Looks for the ends of a format's calls.

    ``may_end`` says of each token whether it has a letter that calls end with: most have none. What it learns of tokens
    is kept, so one serves a whole run.
    """

    def __init__(self, format: CallFormat | None, tokenizer: PreTrainedTokenizerBase):
        self.format = format
        self.tokenizer = tokenizer
        self._ends = () if format is None else format.ends
        # A token may be a single byte: the tail has one for each byte of the longest end, and a few before them.
        self._tail = 8 + max((len(end.encode()) for end in self._ends), default=0)
        self.may_end: Mapping[int, bool] = _Learnt(self._has_last_letter)

    def find(self, tokens: Sequence[int], turn_start: int) -> str:
        """The string by which the last of `tokens` completes a call of the turn; empty where it does not.

        The tail of the turn is read, and the whole turn only where an end stands in it.
        """
        if self.format is None:
            return ""
        tail = self._decoded(tokens[max(turn_start, len(tokens) - self._tail) :])
        found = next((end for end in self._ends if end in tail), "")
        if not found:
            return ""
        return found if self.format.is_complete(self._decoded(tokens[turn_start:])) else ""

    def _has_last_letter(self, token: int) -> bool:
        if not self._ends:
            return False
        text = self._decoded([token])
        return any(end[-1] in text for end in self._ends)

    def _decoded(self, token_ids: Sequence[int]) -> str:
        token_ids = list(token_ids)
        return str(self.tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))


class _Learnt(dict[int, bool]):
    """Values that are found when they are first asked for."""

    def __init__(self, find: Callable[[int], bool]):
        super().__init__()
        self._find = find

    def __missing__(self, token: int) -> bool:
        self[token] = self._find(token)
        return self[token]
