"""Candidates that earlier runs have stored: ``samples.jsonl`` of run folders, read without loading weights.

A line names its prompt by id and by the text that was shown; the row behind it, with its gold, comes from the run's own
data, and the two texts must agree. Completions of the same row of several runs are candidates of one prompt. The files
are read once to learn where each prompt's lines are, then prompt by prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Mapping, Sequence

import torch

from grpo.data.prompts import load_prompts
from grpo.data.sources import load_sources
from grpo.kernels.sampling.spec import completion_seed
from grpo.model.info import ModelInfo, load_info
from grpo.recipe import Recipe, RecipeError, RowsSection
from grpo.recipe.target import recipe_of_run
from grpo.run.log import finite
from grpo.run.reward_specs import accurate_reward
from grpo.scoring import Scorer
from grpo.stages.rejection.candidates import Candidate, CandidateGroup, Origin, right_by
from grpo.stages.rejection.progress import read_progress
from grpo.types import FINISHES, Completion, Group, Prompt
from rewards import Score

SAMPLES = "samples.jsonl"
NEEDED = ("prompt_id", "index", "prompt", "completion", "finish", "num_tokens", "status")


@dataclass(frozen=True, slots=True, eq=False)
class StoredRun:
    """A run whose completions are taken: its recipe and prompts by id, and how it judged."""

    folder: Path
    recipe: Recipe
    info: ModelInfo
    prompts: Mapping[str, Prompt]
    sections: Mapping[str, RowsSection]
    accurate: str
    model: str | None

    def origin(self, row: Mapping[str, Any]) -> Origin:
        """Where a line of this run comes from."""
        step = int(row.get("step", 0))
        index = int(row["index"])
        seed: tuple[object, ...] | None = ("train", self.recipe.seed, step)
        if self.recipe.stage == "reject":
            seed = ("reject", self.recipe.seed)
        elif self.recipe.sample.over_request:  # a group may have been begun in an earlier step
            seed = None
        drawn = None if seed is None else completion_seed(*seed, row["prompt_id"], index)
        return Origin(index, seed=drawn, model=self.model, run=str(self.folder), step=step)


def open_run(folder: str) -> StoredRun:
    """The run in `folder`, its data read anew; `RecipeError` if it has no completions that can be taken."""
    path = Path(folder).expanduser().absolute()
    where = f"reject.samples names {folder}"
    if not (path / "recipe.yaml").is_file():
        raise RecipeError(f"recipe: {where}, which is no run folder (it has no recipe.yaml)")
    if not (path / SAMPLES).is_file():
        raise RecipeError(f"recipe: {where}, which has no {SAMPLES}; name a run that sampled")
    recipe = recipe_of_run(str(path))
    if recipe.reject.samples:
        raise RecipeError(
            f"recipe: {where}, which took its own completions from {', '.join(recipe.reject.samples)}; name those"
        )
    if recipe.has_environment:
        raise RecipeError(
            f"recipe: {where}, whose completions have turns that tools answered; rows of rejection sampling hold what "
            "the policy wrote alone, so they would teach it to go on without the answers"
        )
    sources = load_sources(recipe.data, folder=path)
    info = load_info(recipe.model)
    prompts = load_prompts(sources, info, max_tokens=recipe.sample.max_tokens)
    progress = read_progress(path) if recipe.stage == "reject" else None
    return StoredRun(
        folder=path,
        recipe=recipe,
        info=info,
        prompts={prompt.id: prompt for prompt in prompts.train},
        sections={source.name: source.section for source in sources},
        accurate=accurate_reward(recipe, list(recipe.rewards)) if recipe.rewards else "",
        model=None if progress is None else progress.fingerprint.get("model"),
    )


@dataclass(slots=True, eq=False)
class StoredSamples:
    """The stored completions of several runs, by prompt.

    ``prompts`` stand in the order of the runs' rows; ``digest`` is that of the files' bytes. The lines themselves are
    read when they are asked for.
    """

    runs: Sequence[StoredRun]
    prompts: tuple[Prompt, ...]
    digest: str
    num_lines: int
    _places: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)

    def group(
        self, prompt: Prompt, scorer: Scorer | None, accurate: str, threshold: float
    ) -> CandidateGroup:
        """The candidates of a prompt; judged anew by `scorer`, or as their runs judged them."""
        candidates = list(self._candidates(prompt))
        if scorer is None or not candidates:
            return CandidateGroup(prompt, tuple(candidates))
        completions = tuple(one.completion for one in candidates)
        scored = scorer.submit(Group(prompt, completions)).result()
        judged = []
        for index, candidate in enumerate(candidates):
            verdict = scored.verdicts[index]
            again = replace(
                candidate,
                score=scored.scores[index],
                verdict=verdict,
                right=right_by(verdict.get(accurate), threshold),
            )
            judged.append(again)
        return CandidateGroup(prompt, tuple(judged))

    def _candidates(self, prompt: Prompt) -> Iterator[Candidate]:
        files: dict[int, BinaryIO] = {}
        try:
            for number, offset in self._places[prompt.id]:
                run = self.runs[number]
                if number not in files:
                    files[number] = (run.folder / SAMPLES).open("rb")
                files[number].seek(offset)
                yield _candidate(json.loads(files[number].readline()), prompt, run)
        finally:
            for file in files.values():
                file.close()


def open_samples(folders: Sequence[str]) -> StoredSamples:
    """The completions that the runs in `folders` have stored. Raises `RecipeError`."""
    runs = [open_run(folder) for folder in folders]
    _check_shown_alike(runs)
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    prompt_of: dict[str, Prompt] = {}
    order: dict[str, tuple[int, int]] = {}
    sha256 = hashlib.sha256()
    num_lines = 0
    for number, run in enumerate(runs):
        rank = {id: place for place, id in enumerate(run.prompts)}
        for offset, line, row in _lines(run.folder / SAMPLES):
            sha256.update(line)
            num_lines += 1
            prompt = _prompt_of(row, run)
            name = prompt.id if len(runs) == 1 else _key(prompt)
            prompt_of.setdefault(name, prompt if name == prompt.id else replace(prompt, id=name))
            order.setdefault(name, (number, rank[prompt.id]))
            places[name].append((number, offset))
    if not num_lines:
        raise RecipeError(f"recipe: {', '.join(folders)} in reject.samples hold no completion yet")
    prompts = tuple(prompt_of[name] for name in sorted(order, key=order.__getitem__))
    return StoredSamples(
        runs=runs,
        prompts=prompts,
        digest=sha256.hexdigest()[:32],
        num_lines=num_lines,
        _places=places,
    )


def _lines(file: Path) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """(offset, bytes, row) of each whole line; one that a running process is still writing is left out."""
    offset = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except ValueError:
                raise RecipeError(
                    f"recipe: line {number} of {file}, which reject.samples names, is not JSON"
                ) from None
            missing = [name for name in NEEDED if name not in row]
            if missing:
                raise RecipeError(
                    f"recipe: line {number} of {file}, which reject.samples names, has no {missing[0]}"
                )
            yield offset, line, row
            offset += len(line)


def _prompt_of(row: Mapping[str, Any], run: StoredRun) -> Prompt:
    """The prompt of a line; `RecipeError` if the run's data has changed since."""
    prompt = run.prompts.get(row["prompt_id"])
    if prompt is None or prompt.text != row["prompt"]:
        raise RecipeError(
            f"recipe: the data of {run.folder}, which reject.samples names, is not what it was sampled from: its "
            f"prompt {row['prompt_id']} is {'gone' if prompt is None else 'another'}; restore the data"
        )
    return prompt


def _key(prompt: Prompt) -> str:
    """One name for the same row in several runs."""
    row = json.dumps([prompt.text, finite(prompt.truth)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(row.encode("utf-8", errors="backslashreplace")).hexdigest()[:16]


def _check_shown_alike(runs: Sequence[StoredRun]) -> None:
    """Refuse runs that show their prompts in different ways: no one template could train on all."""
    first = runs[0]
    for run in runs:
        if _ways(run) != _ways(first):
            raise RecipeError(
                f"recipe: reject.samples names {first.folder} and {run.folder}, whose data are shown by different "
                "templates, so no training could show all rows as they were sampled; take each in a run of its own"
            )


def _ways(run: StoredRun) -> set[str]:
    sections = run.sections.values()
    return {repr((one.template, one.system, one.template_args)) for one in sections}


def _candidate(row: Mapping[str, Any], prompt: Prompt, run: StoredRun) -> Candidate:
    finish = row["finish"] if row["finish"] in FINISHES else "error"
    stop = row.get("stop")
    token_ids = run.info.tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
    token_ids = [*token_ids, stop] if isinstance(stop, int) else token_ids
    details = row.get("detail")
    statuses = row.get("statuses") or {}
    verdict = {
        name: Score(value, status=statuses.get(name, "scored"), detail=_detail(details, name))
        for name, value in (row.get("parts") or {}).items()
    }
    score = Score(
        row.get("reward"), status=row["status"], detail=details if isinstance(details, str) else ""
    )
    return Candidate(
        prompt=prompt,
        completion=Completion(
            text=row["completion"],
            token_ids=tuple(token_ids),
            sampled_logps=torch.zeros(len(token_ids)),
            finish=finish,
            stop=stop,
        ),
        score=score,
        verdict=verdict,
        right=right_by(verdict.get(run.accurate), run.recipe.evaluate.threshold),
        num_tokens=int(row["num_tokens"]),
        origin=run.origin(row),
        has_token_ids=False,
    )


def _detail(details: Any, name: str) -> str:
    return str(details.get(name, "")) if isinstance(details, Mapping) else ""
