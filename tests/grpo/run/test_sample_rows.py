"""A row of samples.jsonl says what became of its completion; kept log-probs belong to the tokens they are shown on."""

import json
from pathlib import Path

import pytest
import quick_runs
import torch
from tiny import byte_tokenizer

from grpo import Trainer
from grpo.run.sample_rows import SampleRows, sample_rows, token_ends
from grpo.types import Batch, Completion, Prompt, Row, ScoredGroup
from rewards import Score

PROMPT = Prompt(id="p", token_ids=(1,), truth={}, text="?", source="easy")


def completion(text: str, ids: list[int], stop: int | str | None = None) -> Completion:
    logps = -torch.arange(len(ids), dtype=torch.float32)
    return Completion(text, tuple(ids), logps, "stop" if stop is not None else "length", stop)


def row(index: int, advantage: float | torch.Tensor, outcome: str = "trained") -> Row:
    return Row(
        index=index,
        group=0,
        prompt_ids=(1,),
        token_ids=(2, 3),
        sampled_logps=torch.zeros(2),
        advantage=advantage,
        mask=True,
        forwarded=True,
        outcome=outcome,
    )


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def test_tokens_end_where_their_characters_end(tokenizer) -> None:
    text = "aé😀b"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == 8  # one a byte
    assert token_ends(tokenizer, completion(text, ids)) == [1, 1, 2, 2, 2, 2, 3, 4]


def test_a_stop_token_ends_where_the_text_does_and_a_stop_string_cuts_it(tokenizer) -> None:
    ids = tokenizer.encode("abcd", add_special_tokens=False)
    stop = tokenizer.eos_token_id
    assert token_ends(tokenizer, completion("abcd", [*ids, stop], stop)) == [1, 2, 3, 4, 4]
    assert token_ends(tokenizer, completion("ab", ids, "b")) == [1, 2, 2, 2]


def test_a_completion_cut_inside_a_character_keeps_its_tokens(tokenizer) -> None:
    ids = tokenizer.encode("aé", add_special_tokens=False)[:-1]
    spelled = tokenizer.decode(ids)
    assert token_ends(tokenizer, completion(spelled, ids)) == [1, 1]


def test_tokens_that_do_not_spell_the_text_have_no_ends(tokenizer) -> None:
    ids = tokenizer.encode("abc", add_special_tokens=False)
    assert token_ends(tokenizer, completion("xyz", ids)) is None


def test_the_completions_with_the_greatest_advantages_keep_their_tokens(tokenizer) -> None:
    ids = tokenizer.encode("ab", add_special_tokens=False)
    group = ScoredGroup(PROMPT, (completion("ab", ids),) * 3, (Score(0.0),) * 3)
    batch = Batch((row(0, 0.1), row(1, -2.0), row(2, torch.tensor([0.5, 1.5]), "flat")), ())
    made = SampleRows(num_with_tokens=2, tokenizer=tokenizer).of_step(3, [group], batch)
    assert [each["advantage"] for each in made] == [0.1, -2.0, 1.0]
    assert [each["outcome"] for each in made] == ["trained", "trained", "flat"]
    assert "tokens" not in made[0]
    assert made[1]["tokens"] == {"ends": [1, 2], "logps": [0.0, -1.0]}
    assert made[2]["tokens"]["advantages"] == [0.5, 1.5]


def test_a_row_says_its_source_what_was_read_and_whether_it_is_right() -> None:
    verdicts = (
        {"math": Score(1.0, {"test_0": 1.0}, extracted="42"), "form": Score(0.0)},
        {"math": Score(None, status="fault"), "form": Score(1.0, extracted="x" * 201)},
    )
    group = ScoredGroup(PROMPT, (completion("a", [2]),) * 2, (Score(1.0), Score(None)), verdicts)
    first, second = sample_rows(1, group, accurate="math", threshold=1.0)
    assert first["source"] == "easy"
    assert first["right"] is True and second["right"] is None
    assert first["reported"] == {"math": {"test_0": 1.0}}
    assert first["extracted"] == {"math": "42"}
    assert "extracted" not in second  # a whole program


def test_a_resumed_run_leaves_a_report_and_rows_that_account_for_every_completion(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    quick_runs.run(run, "steps=1", "log.token_logprobs=2")
    quick_runs.run(run, "steps=2", "log.token_logprobs=2", resume=True)
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    for outcome in ("trained", "flat", "faulted"):
        number = sum(each["outcome"] == outcome for each in rows)
        assert number == summary["ledger"][outcome]
    assert [sum("tokens" in each for each in rows if each["step"] == step) for step in (1, 2)] == [
        2,
        2,
    ]
    for each in rows:
        if "tokens" in each:
            assert each["tokens"]["ends"][-1] == len(each["completion"])
            assert len(each["tokens"]["logps"]) == each["num_tokens"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert 'class="state finished"' in page
    assert "(resumed after step 1)" in page
    lives = [json.loads(line) for line in (run / "environment.jsonl").read_text().splitlines()]
    assert [life["step"] for life in lives] == [0, 1]
    assert lives[0]["versions"]["torch"] == torch.__version__


def test_a_report_that_cannot_be_written_costs_a_line_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for _ in Trainer(quick_runs.recipe(run, "steps=1", "evaluate.before=false")):
        (run / "report.html").mkdir()
    assert (run / "summary.json").is_file()
    assert "warning: report.html was not written" in capsys.readouterr().out


def test_a_run_that_is_left_early_has_a_report_that_says_so(tmp_path: Path) -> None:
    trainer = Trainer(quick_runs.recipe(tmp_path / "run", "steps=3", "evaluate.before=false"))
    next(iter(trainer))
    trainer.close()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert 'class="state stopped"' in page
    assert "after step 1 of 3" in " ".join(page.split())
