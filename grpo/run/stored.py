"""Completions of an evaluation as lines of a file, and back: what was sampled once can be scored again.

A line holds the model, the prompt with its columns, and one completion with its tokens and scores. The scores are for
people; scoring again reads the rest.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Mapping, Sequence

import torch

from grpo.recipe import RecipeError
from grpo.run.sample_rows import turn_rows
from grpo.types import FINISHES, Completion, Group, Prompt, ScoredGroup
from rewards.environments import Turn
from rewards.readers import DataFileError, read_rows

NEEDED = ("prompt_id", "prompt", "completion", "finish", "columns")


def completion_rows(group: ScoredGroup, model: str) -> list[dict[str, Any]]:
    """One row a completion.

    It holds ``model``, ``prompt_id``, ``index``, ``prompt``, ``columns`` (the data row), ``completion``, ``finish``,
    ``token_ids``, ``reward`` (the weighted one), ``parts`` (each reward's value), ``statuses`` and ``extracted``. Each
    part also stands under its own name where that is none of these.
    """
    rows = []
    judged = zip(group.completions, group.scores, group.verdicts)
    for index, (completion, score, verdict) in enumerate(judged):
        values = {name: part.value for name, part in verdict.items()}
        extracted = {name: part.extracted for name, part in verdict.items()}
        judgement: dict[str, Any] = {
            "reward": score.value,
            "parts": values,
            "statuses": {name: part.status for name, part in verdict.items()},
            "extracted": {name: text for name, text in extracted.items() if text is not None},
        }
        written = {"model": model, **_written(group.prompt, index, completion)}
        rows.append({**values, **written, **judgement})
    return rows


def _written(prompt: Prompt, index: int, completion: Completion) -> dict[str, Any]:
    """The prompt, and the completion of it that has this index."""
    return {
        "prompt_id": prompt.id,
        "index": index,
        "prompt": prompt.text,
        "completion": completion.text,
        "finish": completion.finish,
        "token_ids": list(completion.token_ids),
        **_several_turns(completion),
        "columns": dict(prompt.truth),
    }


def _several_turns(completion: Completion) -> dict[str, Any]:
    """``turns``, and the spans of ``token_ids`` that were ``given``; nothing for a completion of one turn."""
    if not completion.turns:
        return {}
    return {"turns": turn_rows(completion), "given": [list(span) for span in completion.given]}


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as JSON lines; what JSON cannot hold (a date, say) becomes text."""
    lines = [json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def read_groups(path: Path) -> dict[str, list[Group]]:
    """{model: the groups of its completions} of a file that `write_rows` wrote. Raises `RecipeError`."""
    try:
        rows = read_rows(path)
    except DataFileError as error:
        raise RecipeError(f"evaluate: {error}") from None
    if not rows:
        raise RecipeError(f"evaluate: {path} holds no completions")
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for number, row in enumerate(rows, 1):
        _check(row, f"row {number} of {path}")
        found[str(row.get("model") or path)][str(row["prompt_id"])].append(row)
    for model, prompts in found.items():
        for id, same in prompts.items():
            _check_indices(same, f"{path}: prompt {id} of {model}")
    return {model: list(map(_group, prompts.values())) for model, prompts in found.items()}


def _check(row: Mapping[str, Any], where: str) -> None:
    missing = [name for name in NEEDED if name not in row]
    if missing:
        raise RecipeError(
            f"evaluate: {where} has no {' and no '.join(missing)}; completions that can be scored again are "
            "written by grpo evaluate --completions"
        )
    if not isinstance(row["columns"], Mapping) or not isinstance(row["completion"], str):
        raise RecipeError(f"evaluate: {where}: columns must be an object, and completion text")
    if row["finish"] not in FINISHES:
        raise RecipeError(
            f"evaluate: {where}: finish is {row['finish']!r}; it is one of {', '.join(FINISHES)}"
        )


def _check_indices(rows: Sequence[Mapping[str, Any]], where: str) -> None:
    indices = [row["index"] for row in rows if "index" in row]
    if len(set(indices)) < len(indices):
        raise RecipeError(
            f"evaluate: {where} has two completions of the same index; keep each evaluation in a file of its own"
        )


def _group(rows: Sequence[Mapping[str, Any]]) -> Group:
    """The group of one prompt's rows, in the order of their index."""
    ordered = sorted(rows, key=lambda row: row.get("index", 0))
    first = ordered[0]
    prompt = Prompt(str(first["prompt_id"]), (), dict(first["columns"]), first["prompt"])
    return Group(prompt, tuple(_completion(row) for row in ordered))


def _completion(row: Mapping[str, Any]) -> Completion:
    """What rewards see of a completion; its turns are as they were, unanswered ones among them."""
    token_ids = tuple(row.get("token_ids", ()))
    given = tuple((start, end) for start, end in row.get("given", ()))
    num_given = sum(end - start for start, end in given)
    return Completion(
        text=row["completion"],
        token_ids=token_ids,
        sampled_logps=torch.zeros(len(token_ids) - num_given),
        finish=row["finish"],
        given=given,
        turns=tuple(_turn(turn) for turn in row.get("turns", ())),
    )


def _turn(row: Mapping[str, Any]) -> Turn:
    return Turn(
        text=row["text"],
        observed=row["observed"],
        status=row["status"],
        calls=tuple(row["calls"]),
        reward=row.get("reward"),
        parts=row.get("parts", {}),
    )


def rescored(groups: Sequence[Group], scorer: Any) -> list[ScoredGroup]:
    """The groups with the scores of `scorer`'s rewards, in order."""
    pending = [scorer.submit(group) for group in groups]
    return [waiting.result() for waiting in pending]
