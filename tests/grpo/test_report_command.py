"""``grpo report`` writes one sealed page from run folders alone, quickly, and says in a sentence what it cannot."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import Shape, made_run

from grpo.cli import main
from grpo.report.folder import RunFolder
from grpo.report.html import page
from grpo.report.html.answer import books_of, examples_of, results_of
from grpo.report.html.curves import charts_of
from grpo.report.html.packing import texts_of
from grpo.report.html.page import write_report
from grpo.report.html.run_data import read_run
from grpo.report.samples import Sample
from grpo.statistics.comparison import compare

VENDOR = Path(page.__file__).parent / "vendor" / "uplot"


def test_the_command_writes_the_page_without_torch(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    code = (
        "import sys; from grpo.cli import main; "
        f"code = main(['report', {str(run)!r}]); "
        "assert not {'torch', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(run / "report.html"))
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_several_runs_go_into_one_page_under_different_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [made_run(tmp_path / name, Shape(name="same")) for name in ("one", "two")]
    assert main(["report", *map(str, runs)]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<title>one · two · grpo report</title>" in text


def test_what_is_no_run_is_the_users_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "holds neither recipe.yaml nor metrics.jsonl" in capsys.readouterr().err
    run = made_run(tmp_path / "run")
    assert main(["report", str(run), "-o", str(tmp_path / "missing" / "page.html")]) == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err


def test_the_policy_allows_the_pages_own_scripts_and_styles_by_their_hashes_alone(
    tmp_path: Path,
) -> None:
    text = page.rendered([read_run(RunFolder(made_run(tmp_path / "run")), "run", 0, 1 << 20)])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    inline = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", text, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in inline}
    assert len(inline) == len(page.SCRIPTS) + len(page.STYLES)
    assert set(re.findall(r"'sha256-([^']*)'", policy)) == hashes
    assert not re.search(r"<(?:link|script|img)[^>]*(?:src|href)=\"(?!data:,)", text)
    assert not re.search(
        r"\sstyle=|\son\w+=", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    )


def test_no_script_of_the_page_writes_markup() -> None:
    for name in page.SCRIPTS:
        text = (Path(page.__file__).parent / name).read_text(encoding="utf-8")
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|\bFunction\(", text
        )
        assert not found, name


def test_vendored_files_are_those_their_readme_names() -> None:
    named = dict(re.findall(r"`(uPlot[\w.]+)` \| `(\w{64})`", (VENDOR / "README.md").read_text()))
    assert len(named) == 2
    for name, digest in named.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest


def test_before_and_after_are_those_of_the_files_and_paired_by_prompt(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", Shape(held_out=20, samples=4))
    run = read_run(RunFolder(folder), "run", 0, 1 << 20)
    (result,) = results_of(run)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    points = [record for record in metrics if "heldout/accuracy" in record]
    assert result.before.value == points[0]["heldout/accuracy"]
    assert (result.after.low, result.after.high) == (
        points[-1]["heldout/low"],
        points[-1]["heldout/high"],
    )
    shares: dict[int, dict[str, list[bool]]] = {0: {}, 6: {}}
    for line in (folder / "evaluations.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["step"] in shares:
            shares[row["step"]].setdefault(row["prompt_id"], []).append(row["right"])
    before, after = ([sum(of) / 4 for of in shares[step].values()] for step in (0, 6))
    assert result.difference == compare(before, after) and result.is_whole


def test_pairs_of_a_part_of_the_prompts_give_no_bounds_to_the_change_of_all(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", Shape(held_out=20, samples=4))
    file = folder / "evaluations.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    first = [row for row in rows if not row["right"] or row["step"]][:-9]
    file.write_text("".join(json.dumps(row) + "\n" for row in first))
    (result,) = results_of(read_run(RunFolder(folder), "run", 0, 1 << 20))
    assert result.difference is not None and not result.is_whole
    page = write_report([RunFolder(folder)], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "prompts whose completions are kept" in page and "paired over" not in page


def test_calls_have_a_curve_and_what_was_observed_stands_in_the_completions(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run")
    bare = charts_of([read_run(RunFolder(folder), "run", 0, 1 << 20)])
    assert [chart.series for chart in bare if chart.key == "calls"] == [[]]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        if "reward/mean" in record:
            record |= {"tool/share": record["step"] / 10, "tool/errors": None}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    charts = charts_of([read_run(RunFolder(folder), "run", 0, 1 << 20)])
    (calls,) = [chart for chart in charts if chart.key == "calls"]
    (line,) = calls.series
    assert line.label == "completions that call" and line.y == [step / 10 for step in line.at]
    turn = {"text": "<calc>2+2</calc>", "observed": "4", "status": "ok", "calls": ["calculator"]}
    sample = Sample("", 1, completion="<calc>2+2</calc>\nIt is 4.", turns=[turn])
    assert texts_of([sample])["rows"][0][1] == "<calc>2+2</calc>\n> 4\nIt is 4."


def test_rewards_stand_in_where_nothing_is_right_or_wrong(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", Shape(dense=True))
    (result,) = results_of(read_run(RunFolder(folder), "run", 0, 1 << 20))
    assert result.unit == "reward"
    assert result.difference.prompts == 5


def test_the_books_of_an_unfinished_run_are_the_sum_of_its_steps(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", Shape(finished=False))
    books = books_of(read_run(RunFolder(folder), "run", 0, 1 << 20))
    assert (books.sampled, books.missing) == (72, 0)
    assert {line.outcome: line.number for line in books.lines if line.number} == {
        "trained": 54,
        "flat": 18,
    }


def test_an_example_is_named_by_what_tells_its_prompt_from_the_others(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run")
    prompts = ["<|user|>\nWhat is 1 + 14?\n<|model|>\n", "<|user|>\nWhat is 7 + 4?\n<|model|>\n"]
    kept = [{"prompt": prompt, "completion": "5", "reward": 0.0} for prompt in prompts]
    summary = json.loads((folder / "summary.json").read_text())
    summary["examples"] = {"before": kept, "after": kept}
    (folder / "summary.json").write_text(json.dumps(summary))
    run = read_run(RunFolder(folder), "run", 0, 1 << 20)
    assert [each.title.strip() for each in examples_of(run)] == [
        "1 + 14?",
        "7 + 4?",
    ]
