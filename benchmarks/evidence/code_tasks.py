"""Small functions judged by their tests (recipes/code_smollm2.yaml) from a supervised start: does pass@1 move?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.evidence import cold_start, program_solutions, smollm2
from benchmarks.evidence.cold_start import TINY, Case
from benchmarks.evidence.frame import ROOT, Job, Part, Scale

RECIPE = ROOT / "recipes" / "code_smollm2.yaml"
TAKEN = ("rewards", "loss", "sandbox", "sample")
"""Sections of the recipe; how much is trained is smaller here."""


def sections() -> dict[str, Any]:
    from grpo.recipe import read_yaml

    values = read_yaml(RECIPE)
    found = {name: values[name] for name in TAKEN}
    found["sample"] = {**found["sample"], "prompts": 8, "max_tokens": 128}
    return {"name": "code", **found}


def case() -> Case:
    return Case(
        train=program_solutions.trained,
        held_out=program_solutions.held_out,
        sections=sections(),
        reward="tests",
        num_train=400,
        num_held_out=64,
        sft_steps=25,
        steps=40,
        every=10,
        samples=2,
        lr={"full": 5e-6},
    )


def jobs(scale: Scale) -> list[Job]:
    return cold_start.jobs_of(scale.seeds, ("full",))


def run(job: Job, is_try: bool) -> dict[str, Any]:
    chosen = replace(case(), **TINY) if is_try else case()
    return cold_start.run(chosen, job["weights"], job["seed"], is_try)


PART = Part(
    name="code",
    question="Small programs judged by tests: does held-out pass@1 move beyond a supervised start?",
    minutes="90",
    seeds=(0, 1),
    jobs=jobs,
    run=run,
    summarise=cold_start.summarise,
    answer=cold_start.answer,
    table=cold_start.table,
    lacks=smollm2.lacks,
)
