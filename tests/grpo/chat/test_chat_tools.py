"""A chat with tools: calls run, shown apart from the answer, and every token of the conversation stays as it was."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

import pytest
from chat_templates import QWEN_TOOLS
from test_terminal import shown
from tool_runs import calling_model, chat_model, hermes_call, recipe_file, recipe_values, tag_call
from transformers import AutoTokenizer

from grpo import Recipe, cli
from grpo.chat.conversation import Conversation
from grpo.chat.reply import ANSWER, CALL, OBSERVED, THINKING, Piece, Splitter
from grpo.chat.setup import Wishes, describe, open_conversation
from grpo.environments.opening import plan_environment
from grpo.recipe import EnvironmentSection, RecipeError, to_yaml
from grpo.recipe.target import evaluation_recipe
from rewards.environments import format_of

HERMES = hermes_call(1)
CODE = "```python\nprint(2)\n```"
LLAMA = '{"name": "calculator", "parameters": {"expression": "1"}}'
# (format, what is written up to the answer, what stands behind it, pieces)
TURNS = {
    "at the end of a turn": (
        "hermes",
        f"I look.\n{HERMES}",
        "It is 2.",
        [(ANSWER, "I look."), (CALL, HERMES), (OBSERVED, "2"), (ANSWER, "It is 2.")],
    ),
    "behind its reasoning": (
        "hermes",
        f"<think>\n{HERMES}?\n</think>\n\n{HERMES}",
        "<think>\nso\n</think>2",
        [
            (THINKING, f"{HERMES}?"),
            (CALL, HERMES),
            (OBSERVED, "2"),
            (THINKING, "so"),
            (ANSWER, "2"),
        ],
    ),
    "several calls": (
        "hermes",
        f"{HERMES}\n{HERMES}",
        "2",
        [(CALL, f"{HERMES}\n{HERMES}"), (OBSERVED, "2"), (ANSWER, "2")],
    ),
    "a whole turn": ("llama3", LLAMA, "2", [(CALL, LLAMA), (OBSERVED, "2"), (ANSWER, "2")]),
    "braces that are none": (
        "llama3",
        r"It is \boxed{2",
        "}.",
        [(ANSWER, r"It is \boxed{2"), (OBSERVED, "2"), (ANSWER, "}.")],
    ),
    "within a turn": (
        "<calc>",
        "1 + 1 is <calc>1+1</calc>",
        ", so\n2",
        [(ANSWER, "1 + 1 is"), (CALL, "<calc>1+1</calc>"), (OBSERVED, "2"), (ANSWER, ", so\n2")],
    ),
    "within its reasoning": (
        "fenced",
        f"<think>so {CODE}",
        " right</think>2",
        [(THINKING, "so"), (CALL, CODE), (OBSERVED, "2"), (THINKING, "right"), (ANSWER, "2")],
    ),
}


def together(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Neighbouring pieces of one kind as one, without the white space around them."""
    found: list[list[str]] = []
    for piece in pieces:
        if found and found[-1][0] == piece.kind:
            found[-1][1] += piece.text
        else:
            found.append([piece.kind, piece.text])
    return [(kind, text.strip()) for kind, text in found if text.strip()]


def cut(text: str, draw: random.Random):
    while text:
        size = draw.randint(1, 7)
        yield text[:size]
        text = text[size:]


@pytest.mark.parametrize("name", TURNS)
def test_a_call_that_is_answered_is_told_from_the_text_wherever_that_is_cut(name, seed):
    format, before, behind, expected = TURNS[name]
    draw = random.Random(seed)
    for _ in range(20):
        splitter = Splitter(False, format_of(format))
        pieces = [piece for part in cut(before, draw) for piece in splitter.push(part)]
        pieces += splitter.observed("2", opened=False)
        pieces += [piece for part in cut(behind, draw) for piece in splitter.push(part)]
        assert together([*pieces, *splitter.close()]) == expected


@pytest.mark.parametrize(
    "text, format",
    [
        ("write <tool_call> for a sum", "hermes"),
        ("a <calc> tag", "<calc>"),
        ('{"a": 1}', "llama3"),
        ("```python\nprint(1)", "fenced"),
        ("half a <tool_c", "hermes"),
    ],
)
def test_what_nobody_answered_is_text_of_the_answer(text, format, seed):
    draw = random.Random(seed)
    splitter = Splitter(False, format_of(format))
    pieces = [piece for part in cut(text, draw) for piece in splitter.push(part)]
    assert together([*pieces, *splitter.close()]) == [(ANSWER, text)]


def test_a_call_that_nobody_answers_any_more_is_a_call_still(seed):
    draw = random.Random(seed)
    splitter = Splitter(False, format_of("hermes"))
    pieces = [piece for part in cut(f"so {HERMES}", draw) for piece in splitter.push(part)]
    assert together([*pieces, *splitter.close()]) == [(ANSWER, "so"), (CALL, HERMES)]


def test_an_observation_that_opens_the_reasoning_is_followed_by_thinking():
    splitter = Splitter(True, format_of("hermes"))
    pieces = [*splitter.push(f"a</think>{HERMES}"), *splitter.observed("2", opened=True)]
    pieces += [*splitter.push("b</think>c"), *splitter.close()]
    assert [kind for kind, _ in together(pieces)] == [THINKING, CALL, OBSERVED, THINKING, ANSWER]


# ---- whole conversations ------------------------------------------------------------------------------------------


def asked(talk: Conversation, question: str):
    pieces: list[Piece] = []
    return talk.ask(question, pieces.append, lambda: False), pieces


def chatting(model: Path, *overrides: str, seed: int = 0, **wishes) -> Conversation:
    wanted = {"tools": ["calculator"], "max_tokens": 12, "temperature": 1.0, "seed": seed}
    return open_conversation(str(model), overrides, Wishes(**{**wanted, **wishes}))


def test_calls_run_and_the_next_question_stands_behind_the_very_tokens_before_it(tmp_path):
    talk = chatting(chat_model(tmp_path / "model"))
    kinds = set()
    before: tuple[int, ...] = ()
    for question in ("one", "two <|im_end|>", "three"):
        prompt, _ = talk._prompt(question)
        assert prompt.token_ids[: len(before)] == before
        text = talk.engine.policy.tokenizer.decode(prompt.token_ids[len(before) :])
        assert text.endswith(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
        reply, pieces = asked(talk, question)
        written = "".join(text for kind, text in together(pieces) if kind not in (OBSERVED,))
        squeezed = "".join(reply.completion.text.split())
        assert "".join(written.split()) == squeezed
        for turn in reply.completion.turns:
            assert turn.status != "ok" or turn.observed in [p.text for p in pieces]
        kinds |= {piece.kind for piece in pieces}
        before = (*prompt.token_ids, *reply.completion.token_ids)
    assert {CALL, OBSERVED} <= kinds
    assert "at most 8 calls" in "\n".join(describe(talk))
    talk.close()


def test_what_finds_no_room_is_forgotten_and_the_conversation_begins_anew(tmp_path):
    talk = chatting(chat_model(tmp_path / "model"))
    talk.engine.policy.context = 1100
    dropped = []
    for number in range(8):
        reply, _ = asked(talk, f"{number} " + "word " * 12)
        dropped.append(reply.num_dropped)
    assert any(dropped) and len(talk.turns) < 16
    talk.reset()
    prompt, _ = talk._prompt("anew")
    assert prompt.text.count("<|im_start|>user") == 1 and "calculator" in prompt.text
    with pytest.raises(RecipeError, match="chat: the question has .* tokens"):
        asked(talk, "word " * 300)
    talk.close()


def test_a_model_of_single_questions_calls_within_its_answer(tmp_path):
    model = calling_model(tmp_path / "model", tag_call)
    with_tag = ("environment.format=<calc>",)
    talk = chatting(model, *with_tag, template="plain", max_tokens=40)
    reply, pieces = asked(talk, "what is 3 * 4?")
    assert [turn.calls for turn in reply.completion.turns][0] == ("calculator",)
    results = [piece.text for piece in pieces if piece.kind == OBSERVED]
    assert results[0].startswith("<result>") and talk.turns == []
    talk.close()


# ---- what is shown ------------------------------------------------------------------------------------------------

PIECES = (
    Piece(ANSWER, "It is"),
    Piece(CALL, "<calc>2+2</calc>"),
    Piece(OBSERVED, "4\n(exact)"),
    Piece(ANSWER, "so 4."),
)


def test_calls_are_dimmed_folded_into_what_they_gave_or_hidden():
    whole = shown("show", True, *PIECES)
    dim = "\x1b[2m<calc>2+2</calc>\x1b[0m\n\x1b[2m> 4\n> (exact)\x1b[0m\n"
    assert whole.startswith(f"It is\n{dim}so 4.\n")
    assert shown("fold", True, *PIECES).startswith("It is\n\x1b[2m> 4\x1b[0m\nso 4.\n")
    assert shown("hide", False, *PIECES) == "It is\nso 4.\n"
    assert shown("show", False, *PIECES) == "It is\n<calc>2+2</calc>\n> 4\n> (exact)\nso 4.\n"


def test_a_call_between_thoughts_ends_their_colour():
    pieces = (Piece(THINKING, "so"), *PIECES[1:3], Piece(THINKING, "yes"), Piece(ANSWER, "4"))
    text = shown("show", True, *pieces)
    assert text.startswith("\x1b[2mso\x1b[0m\n\x1b[2m<calc>")
    assert "> (exact)\x1b[0m\n\x1b[2myes\x1b[0m\n\n4\n" in text


# ---- the command --------------------------------------------------------------------------------------------------


def chat(monkeypatch, capsys, *arguments: str, lines: str = "what is 3 * 4?\n") -> tuple:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    code = cli.main(["chat", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def run_folder(folder: Path, **changed) -> Path:
    """The folder of a finished run with tools."""
    run = folder / "run"
    calling_model(run / "final")
    values = recipe_values(folder, run / "final", **changed)
    (run / "recipe.yaml").write_text(to_yaml(Recipe.from_mapping(values).to_mapping()))
    return run


def test_a_run_is_talked_to_with_its_own_tools_and_pipes_get_answers_alone(
    tmp_path, monkeypatch, capsys
):
    run = str(run_folder(tmp_path))
    code, out, err = chat(monkeypatch, capsys, run, "--seed", "1", "--max-tokens", "40")
    assert code == 0 and "tools calculator, calls written as <calc>" in err
    assert "<calc>" not in out and "> " not in out
    code, whole, _ = chat(
        monkeypatch, capsys, run, "--seed", "1", "--max-tokens", "40", "--thinking", "show"
    )
    assert code == 0 and "</calc>\n> <result>" in whole
    assert "no answer: calls are used up" in err
    code, bare, err = chat(
        monkeypatch, capsys, run, "--seed", "1", "--max-tokens", "40", "--tools", "none"
    )
    assert code == 0 and "calculator" not in err and "> <result>" not in bare


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--tools", "calculater"], "no tool is called 'calculater'; did you mean calculator?"),
        (["environment.format=hermes"], "tools are shown to the policy by the chat template"),
        (["environment.use=nowhere.py:Game"], "nowhere.py"),
    ],
)
def test_tools_that_cannot_answer_are_refused_in_a_line(
    tmp_path, monkeypatch, capsys, arguments, said
):
    run = run_folder(tmp_path)
    (run / "final" / "model.safetensors").unlink()  # nothing is loaded before
    code, out, err = chat(monkeypatch, capsys, str(run), *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err


def test_an_environment_that_begins_with_a_row_is_refused(tmp_path, monkeypatch, capsys):
    game = f"{Path(__file__).parents[2] / 'support' / 'light_tools.py'}:Counter"
    run = run_folder(tmp_path, tools=[], environment={"use": game})
    code, out, err = chat(monkeypatch, capsys, str(run))
    assert (code, out) == (2, "") and "begins with a row of the data, and a chat has none" in err
    code, out, err = chat(monkeypatch, capsys, str(run), "--tools", "none", "--max-tokens", "4")
    assert code == 0


@pytest.mark.parametrize(
    "file, row",
    [
        ("metrics.jsonl", {"step": 1, "tool/share": 0.5}),
        ("evaluations.jsonl", {"step": 0, "turns": [{"status": "ok"}]}),  # of supervised training
    ],
)
@pytest.mark.parametrize("command", ["chat", "evaluate", "sample"])
def test_a_run_whose_tools_came_from_python_says_that_they_have_to_be_named(
    tmp_path, monkeypatch, capsys, command, file, row
):
    run = run_folder(tmp_path, tools=[], environment={"format": "auto", "max_calls": 8})
    (run / file).write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert cli.main([command, str(run)]) == 2
    assert "passed from Python, and its recipe does not name them" in capsys.readouterr().err
    if command == "chat":
        assert cli.main([command, str(run), "tools=[]"]) == 0


def test_without_tools_a_runs_budgets_and_format_of_calls_mean_nothing(tmp_path):
    run = str(run_folder(tmp_path))
    for target, file in ((run, None), (f"{run}/final", f"{run}/recipe.yaml")):
        assert evaluation_recipe(target, file, []).environment.format == "<calc>"
        bare = evaluation_recipe(target, file, ["tools=[]"])
        assert not bare.has_environment and bare.environment == EnvironmentSection()
        plan_environment(bare, AutoTokenizer.from_pretrained(f"{run}/final"))
        kept = evaluation_recipe(target, file, ["tools=[]", "environment.max_calls=3"])
        assert kept.environment.max_calls == 3  # and refused: nobody would count


def test_a_chat_template_that_loses_calls_is_refused_by_every_command(tmp_path, capsys):
    calls = "{% for c in m.tool_calls %}"
    lossy = QWEN_TOOLS.replace(calls, "{% for c in [] %}")
    assert lossy != QWEN_TOOLS
    model = calling_model(tmp_path / "model", hermes_call, lossy)
    (model / "model.safetensors").unlink()
    chats = {"data": {"template": "chat"}, "environment": {"format": "auto"}}
    file = str(recipe_file(tmp_path, **chats))
    for arguments in (
        ["train", file],
        ["train", file, "--preflight"],
        ["evaluate", str(model), "--recipe", file],
        ["sample", str(model), "--recipe", file],
        ["chat", str(model), "--tools", "calculator"],
    ):
        assert cli.main(arguments) in (1, 2), arguments
        out, err = capsys.readouterr()
        assert "call-missing" in out + err and "set environment.format to fenced" in out + err
