"""The report in a real browser, cut off from the network: it draws, filters, searches, and shows any text as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import pytest
from run_folders import Shape, made_run

from grpo.report.folder import RunFolder, State
from grpo.report.html.page import write_report

HOSTILE = (
    "markup-1 <script>window.pwned = 1</script> end",
    "markup-2 </textarea></pre></script><img src=x onerror='window.pwned = 1'> end",
    "markup-3 $$ \\(x^2\\) $&amp; &lt;b&gt; {{ 7 * 7 }} ${7 * 7} end",
    "markup-4 <!-- --> <!--<script> ]]> \u2028 \u2029 \ufeff end",
    "markup-5 " + "x" * 100_000 + " end",
    "markup-6 \U0001f600 <think>never closed, half a pair \ud83d",
)
Open = Callable[..., Any]


def page_of(tmp: Path, shape: Shape, *others: Shape, state: State | None = None) -> Path:
    runs = [made_run(tmp / f"run{number}", each) for number, each in enumerate((shape, *others))]
    return write_report([RunFolder(run) for run in runs], tmp / "report.html", state)


def rows(run: Path, file: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (run / file).read_text(encoding="utf-8").split("\n") if line
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with hostile completions."""
    folder = tmp_path_factory.mktemp("report")
    return page_of(folder, Shape(texts=HOSTILE, with_tokens=2, tests=3, name="<b>hostile</b>"))


@pytest.fixture(scope="module")
def opened(written: Path, open_page: Open) -> Any:
    return open_page(written)


@pytest.fixture
def page(opened: Any) -> Any:
    """The page with its filters cleared."""
    opened.page.get_by_role("button", name="Clear").click()
    found(opened.page, all_written(opened))
    return opened.page


def all_written(opened: Any) -> int:
    return int(opened.page.evaluate("browser.facts.length"))


def found(page: Any, number: int) -> None:
    """Wait until the browser says that it found so many completions."""
    page.locator(".found", has_text=f"{number:,} of ").wait_for(timeout=30_000)


def open_first(page: Any) -> None:
    """Unfold the first completion that was found, and wait until it is drawn."""
    page.locator("#browser .row summary").first.click()
    page.locator("#browser .row .completion .text").first.wait_for(state="attached")


def test_a_page_asks_for_nothing_and_has_no_error(opened: Any, page: Any) -> None:
    for _ in range(3):
        page.locator("#theme").click()
    for axis in ("tokens", "time", "steps"):
        page.get_by_role("button", name=axis, exact=True).click()
    page.mouse.move(400, 400)
    page.mouse.wheel(0, 4000)
    assert page.evaluate("drawing.plots.length") >= 8
    assert opened.requests == []
    assert opened.complaints == []


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text.split()[0])
def test_what_a_model_wrote_is_shown_as_text(opened: Any, page: Any, text: str) -> None:
    page.locator("input[name=query]").fill(text.split()[0])
    found(page, 1)
    open_first(page)
    completion = page.locator("#browser .row .completion")
    for button in completion.get_by_role("button").all():
        button.click()
    shown = "".join(completion.locator(".text").all_text_contents())
    assert ascii(shown) == ascii(text)  # half a pair cannot be sent to the process that reports
    assert page.evaluate("window.pwned") is None
    assert page.locator("#browser img, #browser script").count() == 0
    assert opened.complaints == []


def test_the_names_of_a_recipe_are_text_too(page: Any) -> None:
    assert page.locator("h1").text_content() == "<b>hostile</b>"


def test_filters_and_search_find_what_the_files_hold(written: Path, page: Any) -> None:
    run = written.parent / "run0"
    trained = rows(run, "samples.jsonl")
    evaluated = rows(run, "evaluations.jsonl")
    found(page, len(trained) + len(evaluated))
    page.locator("select[name=set]").select_option("heldout")
    found(page, len(evaluated))
    page.locator("select[name=verdict]").select_option("right")
    found(page, sum(row["right"] for row in evaluated))
    page.locator("select[name=set]").select_option("")
    page.locator("select[name=finish]").select_option("length")
    page.locator("input[name=step-from]").fill("3")
    page.locator("input[name=tokens-to]").fill("45")
    kept = [
        row
        for row in trained
        if row["right"]
        and row["finish"] == "length"
        and row["step"] >= 3
        and row["num_tokens"] <= 45
    ]
    found(page, len(kept))
    page.get_by_role("button", name="Clear").click()
    word = trained[0]["completion"].split()[1]
    page.locator("input[name=query]").fill(word.upper())
    both = [*trained, *evaluated]
    found(page, sum(word in row["completion"] or word in row["prompt"] for row in both))


def test_one_prompt_is_shown_over_training(page: Any) -> None:
    page.locator("select[name=set]").select_option("heldout")
    open_first(page)
    page.get_by_role("button", name="This prompt over training").first.click()
    heads = page.locator("#over-training .column h3").all_text_contents()
    steps = [head.rpartition(" of ")[0][:-2] for head in heads]  # without "1 of 2 right"
    assert steps == ["before training", "step 3", "step 6"]
    assert page.locator("#over-training .cell").count() == 6
    page.get_by_role("button", name="Close").click()


def test_tokens_are_tinted_and_reasoning_is_folded(written: Path, page: Any) -> None:
    open_first(page)
    assert page.locator("#browser .think").first.get_attribute("open") is None
    row = next(row for row in rows(written.parent / "run0", "samples.jsonl") if "tokens" in row)
    page.locator("input[name=query]").fill(row["completion"][:40])
    found(page, 1)
    open_first(page)
    page.get_by_label("Tint of the tokens").select_option("logps")
    tokens = page.locator("#browser .row .tinted").all_text_contents()
    assert "".join(tokens) == row["completion"]
    ends = row["tokens"]["ends"]
    assert tokens[1] == row["completion"][ends[0] : ends[1]]
    assert page.locator("#browser .test.passed, #browser .test.failed").count() == 3


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_screen(written: Path, open_page: Open, width: int) -> None:
    page = open_page(written, width=width, scheme="dark").page
    open_first(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


SHAPES = {
    "running": (Shape(finished=False), State("running"), "still going"),
    "failed": (Shape(finished=False), State("failed", "the disk is full"), "the disk is full"),
    "nothing evaluated": (Shape(held_out=0), None, "Nothing was evaluated"),
    "no step yet": (Shape(steps=0, finished=False), State("running"), "No step is done yet"),
    "dense rewards": (Shape(dense=True), None, "mean reward"),
    "a mixture and sets": (
        Shape(sources=("easy", "hard"), sets=("heldout", "gsm8k")),
        None,
        "gsm8k",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_run_of_any_kind_has_a_page(tmp_path: Path, open_page: Open, name: str) -> None:
    shape, state, says = SHAPES[name]
    opened = open_page(page_of(tmp_path, shape, state=state))
    assert says in opened.page.locator("main").inner_text()
    assert opened.complaints == []


def test_several_runs_are_laid_over_each_other(tmp_path: Path, open_page: Open) -> None:
    file = page_of(tmp_path, Shape(name="one"), Shape(name="two", seed=1, steps=4))
    opened = open_page(file)
    page = opened.page
    legend = page.locator("[data-chart=reward] .legend button").all_text_contents()
    assert [text[:3] for text in legend] == ["one", "two"]
    page.locator("select[name=run]").select_option("1")
    found(
        page,
        sum(len(rows(tmp_path / "run1", name)) for name in ("samples.jsonl", "evaluations.jsonl")),
    )
    differing = page.locator(".settings").first.inner_text()
    assert "seed" in differing and "steps" in differing
    assert opened.complaints == []


@pytest.mark.slow
def test_a_run_of_500_steps_of_64_completions_fits_in_25_megabytes(
    tmp_path: Path, open_page: Open
) -> None:
    shape = Shape(
        steps=500, prompts=8, group_size=8, tokens=600, every=25, held_out=64, with_tokens=1
    )
    file = page_of(tmp_path, shape)
    assert file.stat().st_size <= 25_000_000
    opened = open_page(file)
    assert "of 32,000 training completions" in opened.page.locator("#extent").inner_text()
    opened.page.locator("input[name=query]").fill("nothing holds this")
    found(opened.page, 0)
    assert opened.complaints == []
