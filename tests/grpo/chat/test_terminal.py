"""`grpo chat`: piped questions get plain answers; at a terminal thinking is set apart and Ctrl-C ends a reply only."""

from __future__ import annotations

import io
import os
import signal
import sys

import pytest
import quick_runs
import torch
from exports import random_policy

from grpo import cli
from grpo.chat import terminal
from grpo.chat.conversation import Conversation, Reply, Settings
from grpo.chat.reply import ANSWER, THINKING, Piece
from grpo.chat.terminal import Display, talk
from grpo.data.templates import Template
from grpo.kernels.sampling.spec import Sampling
from grpo.rollout.engine import Engine
from grpo.types import Completion

BASE = quick_runs.ROOT / "recipes" / "quickstart_base"


def reply(finish: str = "stop") -> Reply:
    return Reply(Completion("", (1, 2, 3), torch.zeros(3), finish), seconds=0.1, num_dropped=0)


def shown(mode: str, is_rich: bool, *pieces: Piece, finish: str = "stop") -> str:
    out = io.StringIO()
    display = Display(out, mode, is_rich)
    display.begin()
    for piece in pieces:
        display.show(piece)
    display.end(reply(finish))
    return out.getvalue()


THOUGHT = (
    Piece(THINKING, "one "),
    Piece(THINKING, "two"),
    Piece(ANSWER, "Three"),
    Piece(ANSWER, "."),
)


def test_thinking_is_dimmed_folded_or_hidden_and_the_answer_is_not():
    assert shown("show", True, *THOUGHT).startswith("\x1b[2mone two\x1b[0m\n\nThree.\n")
    folded = shown("fold", True, *THOUGHT)
    assert "\r\x1b[K\x1b[2mthought for 2 words\x1b[0m\nThree.\n" in folded and "one" not in folded
    assert shown("hide", True, *THOUGHT).startswith("Three.\n\x1b[2m3 tokens, 30 a second")
    assert "cut off at --max-tokens" in shown("hide", True, *THOUGHT, finish="length")


def test_what_is_piped_on_holds_no_colours_and_no_remarks(capsys):
    assert shown("hide", False, *THOUGHT) == "Three.\n"
    assert shown("show", False, *THOUGHT) == "one two\n\nThree.\n"
    assert capsys.readouterr().err == ""
    assert shown("hide", False, *THOUGHT, finish="length") == "Three.\n"
    assert capsys.readouterr().err == "cut off at --max-tokens\n"


def test_a_reply_cannot_command_the_terminal():
    found = shown("show", True, Piece(ANSWER, "a\x1b[2Jb\x07\tc\nd"))
    assert found.startswith("a[2Jb\tc\nd\n")


def chat(monkeypatch, capsys, lines: str, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    code = cli.main(["chat", str(BASE), *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_piped_questions_get_an_answer_a_line(monkeypatch, capsys):
    questions = "3 5 7 make 56 :\n\n/reset\n2 4 7 make 56 :\n/exit\n1 1 1 make 3 :\n"
    code, out, err = chat(monkeypatch, capsys, questions, "--temperature", "0")
    first, second = out.splitlines()
    assert code == 0 and first.endswith(" answer ( 3 + 7 ) * 5") and " answer " in second
    assert "template plain, each question by itself; temperature 0" in err
    again = chat(monkeypatch, capsys, "2 4 7 make 56 :\n", "--temperature", "0")
    assert again[1] == f"{second}\n"


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--top-p", "2"], "--top-p is 2; it must be at least 1e-06 and at most 1"),
        (["--max-tokens", "0"], "--max-tokens is 0; it must be at least 1"),
        (["--system", "be kind"], "read by the chat template"),
        (["--template", "chat"], "the tokenizer has no chat template"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_in_a_line(monkeypatch, capsys, arguments, reason):
    code, out, err = chat(monkeypatch, capsys, "1\n", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and reason in err


class Pressing(Display):
    """A display before which someone presses Ctrl-C twice, some text into each reply."""

    presses = 0

    def show(self, piece: Piece) -> None:
        super().show(piece)
        if self.presses < 2 and len(self.out.getvalue()) > 60 * (1 + 2 * self.presses):
            Pressing.presses += 1
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_the_reply_and_the_next_question_is_answered(monkeypatch):
    policy = random_policy("qwen2", max_position_embeddings=4096, peak=1.0)
    settings = Settings(
        template=Template("plain"),
        sampling=Sampling(temperature=1.0),
        max_tokens=2000,
        seed=0,
        keeps_turns=False,
    )
    questions = iter(["1", "2", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(questions))
    before = signal.getsignal(signal.SIGINT)
    display = Pressing(io.StringIO(), "show", is_rich=True)
    talk(Conversation(Engine(policy), settings), display, is_terminal=True)
    assert display.out.getvalue().count("a second, stopped") == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_at_the_prompt_says_how_to_leave_and_the_end_of_input_leaves(monkeypatch):
    out = io.StringIO()
    answers = iter([KeyboardInterrupt, EOFError])

    def ask(prompt: str) -> str:
        raise next(answers)

    monkeypatch.setattr("builtins.input", ask)
    assert list(terminal._lines(True, Display(out, "show", is_rich=True))) == []
    assert "/exit or Ctrl-D leaves" in out.getvalue()
