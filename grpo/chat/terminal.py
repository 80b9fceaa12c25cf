"""The loop of ``grpo chat``: reads questions, shows replies as they are written, obeys commands and Ctrl-C.

At a terminal, thinking is dimmed, folded into a line or hidden, and Ctrl-C ends the reply, not the program. Where the
input is piped, each line is a question and only answers are written, without colours.
"""

from __future__ import annotations

import signal
import sys
import unicodedata
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Callable, Iterator, TextIO

from grpo.chat.conversation import Conversation, Reply
from grpo.chat.reply import CALL, OBSERVED, THINKING, Piece
from grpo.recipe import RecipeError
from grpo.report.transcript import OBSERVED as MARGIN
from rewards.spelling import many

SHOW = "show"
FOLD = "fold"
HIDE = "hide"
MODES = (SHOW, FOLD, HIDE)
DIM = "\x1b[2m"
PLAIN = "\x1b[0m"
CLEAR_LINE = "\r\x1b[K"
HELP = (
    "/reset forgets the conversation, /thinking show|fold|hide changes how thinking and calls are shown, /exit or "
    "Ctrl-D leaves; "
    "Ctrl-C ends a reply. A question that begins with a slash is asked with a space before it."
)


@dataclass(slots=True)
class Display:
    """Writes a reply to `out` as it comes; ``mode`` is how its thinking is shown, ``is_rich`` allows colours."""

    out: TextIO
    mode: str
    is_rich: bool
    last: str = ""
    thought: int = field(default=0)
    is_within_line: bool = False
    is_parted: bool = False

    def begin(self) -> None:
        """Before a reply."""
        self.last = ""
        self.thought = 0
        self.is_within_line = False
        self.is_parted = False

    def show(self, piece: Piece) -> None:
        """One piece of the reply."""
        if piece.kind != self.last:
            self._change(piece.kind)
        text = _printable(piece.text) if self.is_rich else piece.text
        if piece.kind in (CALL, OBSERVED):
            self._show_called(piece.kind, text)
            return
        if piece.kind != THINKING:
            self._part()
            self._write(text)
            return
        self.thought += len(piece.text.split())
        if self.mode == SHOW:
            self._write(text)
        elif self.mode == FOLD and self.is_rich:
            self._write(f"{CLEAR_LINE}{DIM}thinking: {self.thought} words{PLAIN}")

    def _show_called(self, kind: str, text: str) -> None:
        """A call on lines of its own, and what was observed on lines that begin with a margin; folded, its first."""
        self.is_parted = self.is_within_line
        lines = text.splitlines() or [""]
        if kind == OBSERVED:
            lines = [MARGIN + line for line in lines]
        if self.mode == FOLD:
            lines = lines[: kind == OBSERVED]
        if self.mode == HIDE or not lines or (self.mode == FOLD and not self.is_rich):
            return
        self._part()
        shown = "\n".join(lines)
        self._write(f"{DIM}{shown}{PLAIN}\n" if self.is_rich else f"{shown}\n")

    def _part(self) -> None:
        """Begin a line if a call, shown or not, stands between what was written and what is."""
        if self.is_parted and self.is_within_line:
            self._write("\n")
        self.is_parted = False

    def end(self, reply: Reply) -> None:
        """After the reply: what ended it, where that is not its own end, and on a terminal how fast it was."""
        self._change("")
        self._write("\n")
        if reply.num_dropped:
            self.note(f"{reply.num_dropped} older messages found no room and were forgotten")
        ended = reply.completion.finish
        words = {
            "length": "cut off at --max-tokens",
            "context": "cut off at the end of the model's context",
            "cancelled": "stopped",
            "error": "the model's logits are not finite",
        }
        if reply.ends_in_call:
            words[ended] = (
                "its last call found no answer: calls are used up (environment.max_calls)"
            )
        speed = f"{many(reply.num_tokens, 'token')}, {reply.num_tokens / max(reply.seconds, 1e-9):.0f} a second"
        if self.is_rich:
            self.note(", ".join([speed, *([words[ended]] if ended in words else [])]))
        elif ended in words:
            self.note(words[ended])

    def note(self, line: str) -> None:
        """A remark of the program's own: dimmed on a terminal, on standard error elsewhere."""
        if self.is_rich:
            self._write(f"{DIM}{line}{PLAIN}\n")
        else:
            print(line, file=sys.stderr, flush=True)

    def _change(self, kind: str) -> None:
        """From one part of a reply to the next."""
        if self.last == THINKING and self.mode == SHOW:
            is_answer = kind and kind not in (CALL, OBSERVED)
            self._write(PLAIN * self.is_rich + ("\n\n" if is_answer else ""))
        elif self.last == THINKING and self.mode == FOLD and self.is_rich:
            self._write(f"{CLEAR_LINE}{DIM}thought for {self.thought} words{PLAIN}\n")
        if kind == THINKING and self.mode == SHOW and self.is_rich:
            self._write(DIM)
        self.last = kind

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()
        seen = text.replace(DIM, "").replace(PLAIN, "")
        if seen:
            self.is_within_line = not seen.endswith("\n")


def _printable(text: str) -> str:
    """Without characters by which a text could command the terminal."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) != "Cc")


def talk(conversation: Conversation, display: Display, *, is_terminal: bool) -> None:
    """Ask the questions that come in until they end."""
    if is_terminal:
        with suppress(ImportError):  # gives input() its editing and history
            import readline  # noqa: F401, PLC0415  not on every system
    for line in _lines(is_terminal, display):
        if line.startswith("/"):
            if not _obey(line, conversation, display):
                return
            continue
        if line.strip():
            _ask(line.strip(), conversation, display, is_terminal=is_terminal)


def _lines(is_terminal: bool, display: Display) -> Iterator[str]:
    """Each line of the input; Ctrl-C at an empty prompt only says how to leave."""
    if not is_terminal:
        for line in sys.stdin:
            yield line.rstrip("\r\n")
        return
    while True:
        try:
            yield input("> ")
        except EOFError:
            display.note("")
            return
        except KeyboardInterrupt:
            display.note("\n/exit or Ctrl-D leaves")


def _obey(line: str, conversation: Conversation, display: Display) -> bool:
    """Do what a command says; False if it ends the program."""
    command, _, value = line.strip().partition(" ")
    if command in ("/exit", "/quit"):
        return False
    if command == "/reset":
        conversation.reset()
        display.note("the conversation is forgotten")
    elif command == "/thinking" and value in MODES:
        display.mode = value
    else:
        display.note(HELP)
    return True


def _ask(question: str, conversation: Conversation, display: Display, *, is_terminal: bool) -> None:
    display.begin()
    with _interrupting() if is_terminal else _never() as stopped:
        try:
            reply = conversation.ask(question, display.show, stopped)
        except KeyboardInterrupt:
            display.note("\nstopped")
            return
        except RecipeError as error:
            display.note(" ".join(str(error).split()))
            return
    display.end(reply)


@contextmanager
def _interrupting() -> Iterator[Callable[[], bool]]:
    """Inside the block the first Ctrl-C asks the reply to end between two tokens, a second one ends it at once."""
    presses = 0

    def pressed(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield lambda: presses > 0
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _never() -> Iterator[Callable[[], bool]]:
    yield lambda: False
