"""Several models and sets in one table; comparisons stay within their set."""

from __future__ import annotations

import math

import pytest

from grpo.evaluate import compare_all
from grpo.recipe import RecipeError
from grpo.run.tables import comparison_line, percent, report_lines

POINT = {"value": 0.5, "low": 0.4, "high": 0.6, "prompts": 4}


def report(model: str, values: list[float | None], **changes: object) -> dict:
    """A report as ``grpo.evaluate`` makes it, of one completion a prompt."""
    strict = {
        "accuracy": 0.5,
        "low": 0.25,
        "high": 0.75,
        "these_prompts": {"low": 0.3, "high": 0.7},
        "samples": len(values),
        "faults": sum(value is None for value in values),
        "no_answer": 0.125,
        "fault": 0.0,
        "pass_at": {"1": POINT, "2": POINT},
        "maj_at": {"1": POINT, "2": POINT},
    }
    rows = [
        {
            "prompt_id": str(i),
            "columns": {"answer": i, "odd": math.nan},
            "parts": {"mine": v},
            "reward": v,
        }
        for i, v in enumerate(values)
    ]
    plain = {
        "model": model,
        "data": "test.jsonl",
        "reward": "mine",
        "samples_per_prompt": 2,
        "temperature": 0.6,
        "top_p": 0.95,
        "max_tokens": 64,
        "prompts": len(values),
        "length": 12.0,
        "truncated": 0.25,
        "too_long": 0,
        "mean_reward": {"value": 0.55, "low": 0.5, "high": 0.6},
        "strict": strict,
        "lenient": None,
        "completions": rows,
    }
    return {**plain, **changes}


def test_a_line_a_model_with_what_a_reader_needs():
    lines = list(report_lines([report("a", [1.0, 0.0, 1.0, None])]))
    text = "\n".join(lines)
    assert lines[0].startswith(
        "test.jsonl: 4 prompts x 2 samples, reward mine, temperature 0.6, top-p 0.95"
    )
    assert "50.0 % [25.0, 75.0]" in text and "0.550 [0.500, 0.600]" in text and "12.5 %" in text
    assert (
        "1 completion could not be scored and counts nowhere" in text
        and "of these very prompts" in text
    )
    assert "set" not in lines[2].split()


def test_several_sets_are_told_apart_and_compared_each_in_itself():
    reports = [
        report("a", [1.0, 0.0, 1.0, 1.0], set="one"),
        report("a", [0.0, 0.0, 0.0, 0.0], set="two"),
        report("b", [1.0, 1.0, 1.0, 1.0], set="one"),
        report("b", [1.0, 1.0, 1.0, 1.0], set="two"),
    ]
    found = compare_all(reports)
    assert [one["accuracy"]["difference"] for one in found] == [0.25, 1.0]
    heading = next(line for line in report_lines(reports, found) if "accuracy" in line)
    assert heading.startswith("set")


def test_a_prompt_without_a_score_leaves_the_comparison_and_is_counted():
    (found,) = compare_all([report("a", [1.0, 0.0, None]), report("b", [1.0, 1.0, 1.0])])
    assert (found["prompts"], found["left_out"]) == (2, 1)
    assert "1 prompt without a score on either side left out" in comparison_line(found)


def test_other_prompts_are_refused():
    with pytest.raises(RecipeError, match="not evaluated on the same prompts"):
        compare_all([report("a", [1.0]), report("b", [1.0], completions=[])])


def test_an_accuracy_that_cannot_move_is_said():
    stuck = report("a", [0.2, 0.3])
    stuck["strict"]["accuracy"] = 0.0
    assert any("no completion has the full score" in line for line in report_lines([stuck]))
    assert percent(None) == percent(math.nan) == "-"


def test_where_tools_are_offered_the_share_that_calls_has_a_column():
    called = report("a", [1.0, 0.0], tools={"share": 0.25, "calls": 0.5})
    head, first, second = list(report_lines([called, report("b", [1.0, 0.0])]))[2:5]
    place = head.index("calling")
    assert first[place:].split()[:2] == ["25.0", "%"] and second[place:].split()[0] == "-"
    assert "calling" not in list(report_lines([report("b", [1.0])]))[2]
