"""Completions are found, counted and chosen from files of any size, and packed without loss."""

import json
import zlib
from pathlib import Path

from run_folders import Shape, made_run

from grpo.report.folder import RunFolder
from grpo.report.html.packing import Block, Packer, fitting, index_of, shared_out
from grpo.report.html.run_data import read_run
from grpo.report.samples import Judge, Sample, Span, evenly_spaced, read_spans, sample_of, spans_of
from grpo.report.words import counted

JUDGE = Judge("correct", 1.0)


def lines(file: Path, *rows: object) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def row(step: int, **values: object) -> dict[str, object]:
    return {"step": step, "prompt_id": "p", "index": 0, **values}


def sample(prompt_id: str = "p", **values: object) -> Sample:
    return sample_of({**row(1), "prompt_id": prompt_id, **values}, JUDGE, "")


def block(size: int) -> Block:
    return Block([()], b"x" * size)


def test_spans_are_the_steps_of_a_file_and_a_resume_undoes_the_later_ones(tmp_path: Path) -> None:
    file = lines(tmp_path / "samples.jsonl", row(1), row(1), row(2), row(3), row(2), row(3))
    spans = spans_of(file)
    assert [(span.step, span.num_rows) for span in spans] == [(1, 2), (2, 1), (3, 1)]
    assert [found.step for found in read_spans(file, spans, JUDGE)] == [1, 1, 2, 3]
    assert spans[1].start == 4 * len(json.dumps(row(1)) + "\n")


def test_a_line_whose_keys_come_in_another_order_is_read_too(tmp_path: Path) -> None:
    odd = {"prompt_id": "p", "completion": "odd", "step": 4, "set": 'a "set"'}
    file = lines(tmp_path / "evaluations.jsonl", odd, {"set": 'a "set"', **row(4)}, row(5))
    spans = spans_of(file, unnamed="heldout")
    assert [(span.set, span.num_rows) for span in spans] == [('a "set"', 2), ("heldout", 1)]


def test_what_is_left_out_is_left_out_evenly_between_both_ends() -> None:
    spans = [Span("", step, start=0, end=10, num_rows=1) for step in range(1, 101)]
    kept = [span.step for span in evenly_spaced(spans, 250)]
    assert len(kept) == 25 and kept[0] == 1 and kept[-1] == 100
    gaps = [after - before for before, after in zip(kept, kept[1:])]
    assert max(gaps) - min(gaps) <= 1
    assert evenly_spaced(spans, 1000) == spans


def test_both_kinds_of_completions_share_one_limit() -> None:
    many = [block(10) for _ in range(100)]
    evaluated, trained = shared_out(many, many, 1000)
    assert (len(evaluated), len(trained)) == (40, 60)
    evaluated, trained = shared_out(many, many[:10], 1000)
    assert (len(evaluated), len(trained)) == (90, 10)
    assert len(fitting([block(100)], 10)) == 1


def test_a_block_holds_whole_groups_and_gives_back_every_text() -> None:
    packer = Packer(run=0)
    texts = ["wait " * 30_000, "b\u2028", "c"]
    for name in ("first", "second"):
        for text in texts:
            packer.add(
                sample(name, completion=text, prompt="same", tokens={"ends": [9], "logps": [-1]})
            )
    packer.close()
    assert [len(made.facts) for made in packer.blocks] == [3, 3]
    opened = json.loads(zlib.decompress(packer.blocks[0].data))
    assert [text for _, text, _, _ in opened["rows"]] == texts
    assert opened["prompts"] == ["same"]
    index = index_of(packer.blocks)
    names = [index["words"][place] for place in index["columns"]["prompt"]]
    assert names == ["first"] * 3 + ["second"] * 3


def test_tokens_that_do_not_spell_the_text_are_left_out() -> None:
    packer = Packer(run=0)
    spelled = {"ends": [1, 4], "logps": [-1.0, -2.0]}
    packer.add(sample(completion="abcd", tokens=spelled))
    packer.add(sample(completion="[hidden]", tokens=spelled))
    packer.close()
    first, second = json.loads(zlib.decompress(packer.blocks[0].data))["rows"]
    assert first[3]["tokens"] == {"lengths": [1, 3], "logps": [-1.0, -2.0]}
    assert "tokens" not in second[3]


def test_a_row_that_does_not_say_whether_it_is_right_is_judged_by_the_recipe() -> None:
    assert sample(parts={"correct": 1.0}).right is True
    assert sample(parts={"correct": 0.5}).right is False
    assert sample(parts={"other": 1.0}).right is None
    assert sample(parts={"correct": 1.0}, right=False).right is False


def test_words_count_whole_in_any_case_and_japanese_ones_anywhere() -> None:
    text = "Wait, wait! But a button, rebut, but2 and BUT. いやしかし、しかし"
    assert dict(counted(text)) == {"wait": 2, "but": 2, "いや": 1, "しかし": 2}


def test_lengths_and_results_are_those_of_a_plain_count(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", Shape())
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    run = read_run(RunFolder(folder), "run", number=0, limit_bytes=1 << 20)
    right = [row["num_tokens"] for row in rows if row["step"] == 6 and row["right"]]
    assert run.tally.steps[6].right_length() == sum(right) / len(right)
    assert run.trained.written == run.trained.read == run.trained.kept == len(rows)
    results = run.tally.results["heldout", 6].right
    evaluated = [
        json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()
    ]
    last = [row for row in evaluated if row["step"] == 6 and row["prompt_id"] == "heldout-0"]
    assert results["heldout-0"] == [row["right"] for row in last]
