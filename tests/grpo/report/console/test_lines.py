"""What a line may hold: no control character of a model's, no more cells than there are, words that suit the encoding."""

import io
import re
import sys

import pytest
from rich.cells import cell_len
from terminals import Terminal, screen_on

from grpo import cli
from grpo.report.console.closing import closing_lines, comparison
from grpo.report.console.columns import layout
from grpo.report.console.completion import chosen, completion_lines
from grpo.report.console.display import Plain
from grpo.report.console.ink import ASCII, UNICODE, Line, folded, glyphs_of, visible
from grpo.report.console.numbers import sparkline
from grpo.report.console.sentences import evaluation_sentence, step_sentence

RECORD = {
    "step": 12,
    "reward/mean": 0.25,
    "completion/length": 12.5,
    "completion/truncated": 0.02,
    "group/flat": 0.5,
    "policy/entropy": 0.75,
    "policy/drift": 3e-7,
    "update/made": 1,
    "ledger/faulted": 0,
    "seconds/step": 211.0,
}
SETS = {
    name: {"step": 10, "accuracy": 1 / 3, "low": 0.29, "high": 0.375}
    for name in ("heldout", "gsm8k", "a-set-with-a-very-long-name")
}
HOSTILE = "a\x1b[2J\x1b]0;title\x07b\rc\x08\x9b31m\u202egnp.exe\u2066\x00\x85 雪"


def test_no_control_character_of_a_text_is_left_and_everything_else_is():
    shown = visible(HOSTILE)
    assert shown.isprintable() and "雪" in shown and "\\x1b[2J" in shown and "\\u202e" in shown
    assert visible("two\nlines\tof text") == "two\nlines\tof text"


def test_a_line_is_cut_and_folded_to_its_width_whatever_characters_it_has():
    line = Line.of(("雪が降る step ", "good"), ("and so on", "dim"))
    for width in range(4, 30):
        assert cell_len(line.cut(width).text) <= width
        pieces = list(
            folded(
                "  data      雪が降る a word_that_is_longer_than_the_line 雪",
                width,
                indent=width // 2,
            )
        )
        assert all(cell_len(piece) <= width for piece in pieces), (width, pieces)
    assert line.cut(40) is line


def test_a_folded_line_goes_on_below_where_its_text_began():
    text = "  data      countdown: 768 train, 256 held out, template plain"
    first, second = Line.of((text, "")).folded(40)
    assert first.text.startswith("  data      countdown") and second.text.startswith(
        " " * 12 + "held"
    )


@pytest.mark.parametrize("width", [30, 40, 60, 79, 99, 119, 160, 220])
@pytest.mark.parametrize("sets", [[], ["heldout"], list(SETS)])
def test_the_table_fits_every_width_and_its_heads_stand_above_their_figures(width, sets):
    table = layout(width, RECORD, steps=200, sets=sets)
    evaluations = {name: SETS[name] for name in sets}
    heads = table.heads().text
    row = table.row(RECORD, 200, evaluations, UNICODE).text
    assert len(heads) == len(row)
    assert len(row) <= width or len(table.columns) == 3  # reward, length and seconds stay
    keys = [column.key for column in table.columns]
    assert keys[0] == "reward/mean" and "12/200" in row and "211" in row
    if width >= 79 and sets:
        assert "33.3 % [29.0, 37.5]" in row and "zero-var" in heads and "mismatch" in heads
    for word in ("reward", "seconds", "zero-var", "mismatch"):
        if word in heads:
            end = heads.index(word) + len(word)
            assert row[end - 1].strip() and (end == len(row) or row[end] == " ")


def test_an_old_accuracy_is_dim_and_a_gate_colours_its_own_figure():
    record = {**RECORD, "gate/flat": 2, "gate/level": 2}
    table = layout(79, record, steps=200, sets=["heldout"])
    styles = {text.strip(): style for text, style in table.row(record, 200, SETS, UNICODE).spans}
    assert (
        styles["33.3 % [29.0, 37.5]"] == "dim" and styles["50%"] == "warn" and styles["3e-07"] == ""
    )
    new = {"heldout": {**SETS["heldout"], "step": 11}}
    styles = {text.strip(): style for text, style in table.row(record, 200, new, UNICODE).spans}
    assert styles["33.3 % [29.0, 37.5]"] == ""


def test_the_share_of_completions_that_call_has_a_column_where_tools_are_offered():
    called = {**RECORD, "tool/share": 0.25, "gate/tools_unused": 0}
    table = layout(120, called, steps=200, sets=[])
    assert "calling" in table.heads().text and " 25%" in table.row(called, 200, {}, UNICODE).text
    assert "calling" not in layout(120, RECORD, steps=200, sets=[]).heads().text
    assert "calling 25%" in step_sentence(called, 200, {})
    unused = {**called, "tool/share": 0.0, "gate/tools_unused": 2}
    styles = {text.strip(): style for text, style in table.row(unused, 200, {}, UNICODE).spans}
    assert styles["0%"] == "warn"


def test_calls_before_and_after_are_told_in_words():
    told = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "length": 9.0}
    both = []
    for share in (0.125, 0.5):
        both.append({**told, "details": {"tool/share": share, "tool/calls": 2 * share}})
    summary = {"before": both[0], "after": both[1], "sets": {}}
    shown = [" ".join(line.text.split()) for line in comparison(summary, UNICODE)]
    assert "completions that call, % 12.5 50.0 +37.5" in shown
    assert "calls of a completion 0.25 1.00 +0.75" in shown
    said = evaluation_sentence("heldout", "after training", both[1])
    assert "calling 50.0% (1.00 calls each)" in said and "tool/" not in said


def test_a_raised_gate_is_named_below_the_row_only_if_its_figure_has_no_column():
    table = layout(79, RECORD, steps=200, sets=[])
    assert table.remarks({**RECORD, "gate/flat": 2}) is None
    assert "gate entropy: warn" in table.remarks({**RECORD, "gate/entropy": 2}).text
    assert "gate flat: warn" in step_sentence({**RECORD, "gate/flat": 2}, 200, {})


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "shift_jis"])
def test_an_encoding_without_our_signs_gets_others_and_what_it_lacks_escaped(encoding):
    assert glyphs_of("utf-8") is UNICODE and glyphs_of(encoding) is ASCII
    terminal = Terminal(encoding=encoding)  # writing what it lacks would raise
    screen = screen_on(terminal)
    screen.show(lambda width, height: [Line.of(f"{screen.glyphs.arrow} é 雪")])
    screen.print([Line.of(("雪 \u2028", "good"))])
    screen.hide()
    assert terminal.everything


def test_a_file_gets_no_control_character_and_no_colour(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    plain = Plain()
    plain.show(lambda width, height: [Line.of("a live line")])
    plain.print([Line.of((HOSTILE.replace("\n", ""), "bad")), Line.of("→ 雪")])
    plain.refresh()
    plain.hide()
    text = raw.getvalue().decode()
    assert text.count("\n") == 2 and "→ 雪" in text and "live" not in text
    assert all(character.isprintable() or character == "\n" for character in text)


def test_a_sparkline_runs_from_the_lowest_to_the_highest_value_in_as_many_cells_as_there_are():
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8, UNICODE.spark) == UNICODE.spark
    assert sparkline(list(range(1000)), 8, UNICODE.spark) == UNICODE.spark
    assert sparkline([5.0], 8, "_=") == "_" and sparkline([], 8, "_=") == ""
    assert sparkline([0.0, float("nan"), 1.0], 8, "_=") == "_="


def row_of(index: int, reward: float | None, **changes) -> dict:
    row = {
        "step": 20,
        "prompt_id": "p1",
        "index": index,
        "prompt": "the prompt",
        "completion": f"completion {index}",
        "finish": "stop",
        "num_tokens": 45,
        "reward": reward,
        "status": "scored",
        "parts": {"correct": reward},
        "statuses": {"correct": "scored"},
        "detail": {"correct": "7 is not 8"},
    }
    return {**row, **changes}


def test_a_completion_is_shown_with_its_reward_why_and_its_group_by_turns_the_best_and_the_worst():
    flat = [row_of(0, 0.0, prompt_id="p0"), row_of(1, 0.0, prompt_id="p0")]
    rows = [*flat, row_of(0, 0.0), row_of(1, None, status="fault"), row_of(2, 1.0)]
    best, group = chosen(rows, turn=0)
    worst, _ = chosen(rows, turn=1)
    assert (best["index"], worst["index"], group) == (2, 0, [0.0, None, 1.0])
    assert chosen(flat, turn=0)[0]["prompt_id"] == "p0" and chosen([], turn=0) is None
    text = "\n".join(
        line.text for line in completion_lines(best, group, width=79, height=24, glyphs=UNICODE)
    )
    for words in ("p1", "reward 1", "completion 2", "7 is not 8", "45 tokens, stop", "0 – 1"):
        assert words in text


@pytest.mark.parametrize("width, height", [(39, 12), (79, 24), (119, 40)])
def test_a_completion_of_any_length_and_content_takes_a_part_of_the_screen(width, height):
    text = HOSTILE + "x" * 100_000 + "\n" * 500 + "雪" * 3000
    row = row_of(0, 1.0, completion=text, prompt=text, detail={"correct": text})
    lines = list(completion_lines(row, [1.0], width=width, height=height, glyphs=UNICODE))
    shown = [line for line in lines if "x" * 20 in line.text or "雪" in line.text]
    assert shown and all(cell_len(line.text) <= width for line in lines)
    assert all(line.text.isprintable() for line in lines)
    body = [line for line in lines if line.spans[0][1] == ""]
    assert len(body) <= max(5, height // 3) + 2 and len(lines) <= height + 10


def test_a_run_without_rewards_has_its_loss_where_the_reward_would_stand():
    record = {
        "step": 3,
        "epoch": 0.25,
        "update/loss": 1.2345,
        "row/learnt": 40.0,
        "policy/entropy": 0.7,
        "update/made": 1,
        "ledger/faulted": 0,
        "seconds/step": 2.0,
    }
    table = layout(119, record, steps=10, sets=["heldout"])
    assert table.heads().text.split() == [
        "step",
        "loss",
        "held-out",
        "epoch",
        "learnt",
        "entropy",
        "seconds",
    ]
    assert "1.2345" in table.row(record, 10, SETS, UNICODE).text
    said = step_sentence(record, 10, {})
    assert said == "step  3/10  loss 1.2345  epoch 0.25  entropy 0.70  2.0 s"
    assert "loss" not in layout(119, {**RECORD, "update/loss": 0.0}, steps=10, sets=[]).heads().text
    assert "loss" not in step_sentence({**RECORD, "update/loss": 0.0}, 10, {})


def test_the_end_says_before_and_after_of_every_set_and_what_became_of_everything(tmp_path):
    before = {
        "accuracy": 0.3,
        "low": 0.2,
        "high": 0.4,
        "length": 9.0,
        "reward": 0.5,
        "details": {"a": 1.0},
    }
    after = {
        **before,
        "accuracy": 0.9,
        "low": 0.8,
        "high": 1.0,
        "reward": 0.7,
        "details": {"a": 2.0},
    }
    summary = {
        "steps": 4,
        "before": before,
        "after": after,
        "sets": {"gsm8k": {"before": None, "after": {**after, "accuracy": None}}},
        "loss": {
            "before": {"loss": 2.0, "low": 1.9, "high": 2.1},
            "after": {"loss": 1.0, "low": 0.9, "high": 1.1},
        },
        "examples": {
            "before": [{"prompt": "p", "completion": "\x1b[2Jc", "reward": 0}],
            "after": [],
        },
        "ledger": {"drawn": 8, "trained": 7, "skipped": 1},
        "alarms": [{"gate": "flat"}, {"gate": "flat"}],
        "seconds": 100.0,
        "tokens": {"trained": 12_345},
    }
    lines = {
        line.text.strip(): line.spans[0][1] for line in closing_lines(summary, tmp_path, UNICODE)
    }
    text = "\n".join(lines)
    rows = {name: re.split(r" {2,}", name) for name in lines}
    assert [
        "held-out accuracy",
        "30.0 % [20.0, 40.0]",
        "90.0 % [80.0, 100.0]",
        "+60.0 points",
    ] in rows.values()
    assert ["held-out loss", "2.0000", "1.0000", "-1.0000"] in rows.values()
    assert ["gsm8k accuracy", "–", "nothing scored"] in rows.values()
    assert ["mean reward", "0.500", "0.700", "+0.200"] in rows.values()
    assert ["a", "1.000", "2.000", "+1.000"] in rows.values()
    assert [
        style for name, style in lines.items() if name.startswith(("held-out a", "held-out l"))
    ] == ["good"] * 2
    assert "8 rows drawn: 7 trained, 1 of updates not made" in text and "12k tokens trained" in text
    assert "2 alarms of gates, kept in alarms.jsonl: flat" in text and "next:" in text
    for command in re.findall(r"(?:grpo|-m grpo) (\w+) ", text):
        assert command in cli.BY_NAME


@pytest.mark.parametrize(
    ("changed", "commands"),
    [
        ({"stage": "grpo"}, ["evaluate", "report", "sample"]),
        ({"stage": "sft", "rows": {"rows": 8}}, ["report", "chat"]),
        ({"stage": "distill"}, ["report", "sample"]),
        (
            {
                "stage": "sft",
                "rows": {"rows": 8},
                "after": {"accuracy": 0.5, "low": 0.1, "high": 0.9},
            },
            ["evaluate", "report", "sample"],
        ),
    ],
)
def test_a_run_ends_with_the_commands_that_it_has_what_they_need_for(tmp_path, changed, commands):
    summary = {
        "steps": 1,
        "before": None,
        "after": None,
        "sets": {},
        "examples": {},
        "ledger": {"drawn": 8, "trained": 8},
        "seconds": 1.0,
        "tokens": {"trained": 1},
        **changed,
    }
    lines = [line.text for line in closing_lines(summary, tmp_path, UNICODE)]
    after = lines[lines.index("next:") + 1 :]
    assert [re.search(r"grpo (\w+) ", line)[1] for line in after] == commands


def test_a_mean_reward_that_falls_to_nothing_stays_in_the_table():
    interval = {"low": 0.0, "high": 0.1, "length": 3.0}
    before = {"accuracy": 0.0, "reward": 0.4, **interval}
    after = {"accuracy": 0.0, "reward": 0.0, **interval}
    summary = {"before": before, "after": after, "sets": {}}
    lines = [line.text.strip() for line in comparison(summary, UNICODE)]
    rows = [re.split(r" {2,}", line) for line in lines]
    assert ["mean reward", "0.400", "0.000", "-0.400"] in rows
