"""What a notebook shows: the right numbers, and text of a model that stays text whatever it holds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from grpo import Completion, Evaluation, Prompt, Recipe, ScoredGroup
from grpo.notebook.markup import Html, escaped, interval_chart, sparkline, tag
from grpo.report.console.sentences import evaluation_sentence
from grpo.run.accuracy import summarise
from rewards import Score

ELEMENTS = set("div span b pre code table thead tbody tr th td details summary svg".split())
SHAPES = {"line", "circle", "rect", "polyline"}
HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></td></table></div></details><h1>out</h1>",
    "<img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)\" style=\"display:none",
    "$$x$$ \\boxed{4} </textarea> &lt;b&gt; &amp;",
)


class Page(HTMLParser):
    """The elements of a piece of HTML, which must be closed in their order, and its text."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.add(name)
        self.attributes |= {key for key, _ in attributes}
        self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.add(name)
        self.attributes |= {key for key, _ in attributes}

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text += data


def group(*texts: str, values: list[float | None] | None = None, **columns: object) -> ScoredGroup:
    scores = [Score(value) for value in values or [1.0] * len(texts)]
    completions = [Completion(text, (1, 2, 3), torch.zeros(3), "stop") for text in texts]
    prompt = Prompt("train-7", (1,), columns, "3 4 make 7 :")
    return ScoredGroup(prompt, tuple(completions), tuple(scores))


def test_text_of_a_model_is_shown_and_never_acts_as_markup() -> None:
    shown = group(*HOSTILE, note=HOSTILE[0])
    shown = ScoredGroup(
        Prompt("<b>id", (1,), {"<i>": HOSTILE[1]}, HOSTILE[0]), shown.completions, shown.scores
    )
    page = Page(shown._repr_html_())
    assert page.elements <= ELEMENTS | SHAPES
    assert not [
        name for name in page.attributes if name.startswith("on") or name in ("src", "href")
    ]
    for text in HOSTILE:
        assert text in page.text


def test_text_that_no_file_can_hold_and_control_characters_are_seen() -> None:
    html = group("half \ud83d pair, nul \x00, escape \x1b[31m, turned \u202eabc")._repr_html_()
    json.dumps({"data": html}, ensure_ascii=False).encode("utf-8")
    assert "half \ufffd pair, nul \u2400, escape \u241b[31m, turned \\u202eabc" in html


def test_a_group_of_endless_completions_makes_a_small_card() -> None:
    html = group(*("A" * 100_000 for _ in range(64)))._repr_html_()
    assert len(html) < 130_000
    page = Page(html)
    assert "98,000 more characters" in page.text and "... and 32 more" in page.text


def test_a_completion_stands_against_the_mean_of_those_that_count() -> None:
    shown = group("a", "b", "c", "d", values=[1.0, 0.0, 0.5, None])
    page = Page(shown._repr_html_())
    assert "mean reward 0.500" in page.text and "zero variance" not in page.text
    for distance in ("+0.500", "−0.500"):
        assert distance in page.text
    assert "zero variance" in Page(group("a", "b")._repr_html_()).text


def test_rewards_below_zero_around_a_mean_of_zero_are_drawn() -> None:
    html = group("a", "b", values=[-2.0, 2.0])._repr_html_()
    assert 'width="28.0"' in html and "−2" in html and "+2" in html


def test_parts_faults_and_cut_off_completions_are_told() -> None:
    failed = Score(None, status="fault", detail="mine raised <ValueError>")
    scores = (Score(1.1), Score(None, status="fault"))
    verdicts = ({"mine": Score(0.5), "format": Score(0.6)}, {"mine": failed, "format": Score(0.6)})
    ends = [Completion("x", (1,), torch.zeros(1), finish) for finish in ("length", "stop")]
    html = ScoredGroup(Prompt("p", (1,), {}), tuple(ends), scores, verdicts)._repr_html_()
    text = Page(html).text
    for part in ("mine", "format", "cut off", "fault, mine raised <ValueError>"):
        assert part in text


def evaluation(shares: list[list[float | None]]) -> Evaluation:
    groups = []
    for number, values in enumerate(shares):
        judged = group(*("x" for _ in values), values=values)
        prompt = Prompt(str(number), (1,), {}, "q", source="ab"[number % 2])
        verdicts = tuple({"correct": score} for score in judged.scores)
        groups.append(ScoredGroup(prompt, judged.completions, judged.scores, verdicts))
    return summarise(groups, "correct", tokens=12, seconds=1.5)


def test_an_evaluation_shows_its_accuracy_with_interval_and_by_source() -> None:
    result = evaluation([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    text = Page(result._repr_html_()).text
    assert f"accuracy62.5 % [{100 * result.low:.1f}, {100 * result.high:.1f}]" in text
    assert "a25.0 %" in text and "b100.0 %" in text
    assert "4 prompts × 2 samples" in text and repr(result).startswith("Evaluation(62.5%")


def test_a_reward_of_one_source_alone_says_how_many_prompts_its_accuracy_is_of() -> None:
    away = Score(None, status="not_applicable")
    groups = []
    for score in (Score(1.0), away, Score(0.0), away):
        judged = group("x", "x", values=[1.0, 1.0])
        groups.append(replace(judged, verdicts=({"correct": score},) * 2))
    result = summarise(groups, "correct", tokens=12, seconds=1.5)
    assert "2 of 4 prompts × 2 samples" in Page(result._repr_html_()).text
    assert "(2 of 4 prompts x 2 samples)" in evaluation_sentence("test", "now", result.to_mapping())


def test_an_evaluation_in_which_nothing_was_scored_says_so() -> None:
    result = evaluation([[None], [None]])
    assert math.isnan(result.accuracy)
    assert "nothing scored" in Page(result._repr_html_()).text


def test_a_recipe_shows_what_differs_from_the_defaults_and_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "abc123abc123abc123")
    recipe = Recipe.load(
        "quickstart", "rewards.judge.use=m:f", "rewards.judge.args={token: abc123abc123abc123}"
    )
    html = recipe._repr_html_()
    assert "abc123abc123" not in html and "[hidden]" in html
    text = Page(html).text
    assert "optim.lr0.00031e-06" in text and "sample.max_tokens801024" in text
    assert "optim.beta1" not in text and "beta1: 0.9" in text  # in the resolved recipe alone


def test_only_what_was_made_here_counts_as_markup() -> None:
    assert tag("b", "<i>", Html("<u></u>"), title='"') == '<b title="&quot;">&lt;i&gt;<u></u></b>'
    assert escaped(escaped("<")) == "&lt;"


def test_drawings_leave_out_what_is_not_known() -> None:
    assert interval_chart(math.nan, 0.0, 1.0) == "" and sparkline([None, 0.5, math.nan]) == ""
    drawn = sparkline([0.0, None, 1.0, 2.0])
    assert drawn.count("<polyline") == 2
    assert len(sparkline([float(number % 7) for number in range(100_000)])) < 3000
