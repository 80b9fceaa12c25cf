"""Word problems of stories that never trained: does reinforcement learning add to a supervised start, full and LoRA?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.evidence import cold_start, smollm2, word_problem_rows
from benchmarks.evidence.cold_start import TINY, Case
from benchmarks.evidence.frame import Job, Part, Scale

CASE = Case(
    train=word_problem_rows.trained,
    held_out=word_problem_rows.held_out,
    sections={
        "name": "word_problems",
        "sample": {"prompts": 8, "group_size": 8, "max_tokens": 96},
        "rewards": {"correct": {"use": "math_answer"}},
        "loss": {"preset": "dr_grpo"},
    },
    reward="correct",
    num_train=400,
    num_held_out=60,
    sft_steps=40,
    steps=40,
    every=10,
    samples=2,
    lr={"full": 5e-6, "lora": 1e-4},
)


def jobs(scale: Scale) -> list[Job]:
    return cold_start.jobs_of(scale.seeds, ("full", "lora"))


def run(job: Job, is_try: bool) -> dict[str, Any]:
    case = replace(CASE, **TINY) if is_try else CASE
    return cold_start.run(case, job["weights"], job["seed"], is_try)


PART = Part(
    name="word_problems",
    question="Word problems of held-out stories: what does reinforcement learning add to a supervised start?",
    minutes="120",
    seeds=(0, 1),
    jobs=jobs,
    run=run,
    summarise=cold_start.summarise,
    answer=cold_start.answer,
    table=cold_start.table,
    lacks=smollm2.lacks,
)
