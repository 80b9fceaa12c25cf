"""Calls a reward by its convention and turns every outcome, exceptions included, into scores.

Runs in whichever process or thread judges: a worker, a thread of the service, or the service's own loop. It knows
nothing of processes and kills nothing; that is ``rewards.service``.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
import traceback
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Awaitable, Callable, Collection, Mapping, Sequence

from rewards.conventions import (
    Convention,
    as_mapping,
    as_score,
    fault,
    is_number,
    short_repr,
    truth_of,
)
from rewards.spelling import many
from rewards.types import Sample, Score

__all__ = ["Emit", "cache_key", "judge", "judge_one"]

Emit = Callable[[int, Score, float], None]
"""Receives a completion's index, its score, and the seconds that judging it took."""
REWARD_ERRORS = (Exception, SystemExit, KeyboardInterrupt)
"""What counts as the reward's own failure: it must take down neither the worker nor the other completions."""


@dataclass(slots=True)
class Notes:
    """What a TRL reward logs in addition to its values: columns, kept here, and metrics, passed on to ``log``."""

    log: Callable[[str, float], None]
    extra: dict[str, list[Any]] = field(default_factory=dict)

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        self.extra[column] = list(values)

    def log_metric(self, name: str, value: float) -> None:
        self.log(str(name), float(value))


def cache_key(
    convention: Convention, function: Callable[..., Any], sample: Sample, args: Mapping[str, Any]
) -> Any:
    """What the verdict on a completion depends on, by the reward's own ``cache_key``; None if it has none.

    ``cache_key`` is an attribute of a pure reward: a quick function of the same parameters, called in the caller's
    process, whose results print alike only for completions that must score the same.
    """
    hook = getattr(function, "cache_key", None)
    if hook is None or convention.style != "native" or inspect.isclass(function):
        return None
    try:
        positional, keywords = _arguments(convention, sample, args)
        return hook(*positional, **keywords)
    except Exception:  # noqa: BLE001  the reward fails on the same input and says so in its verdict
        return None


def judge(
    convention: Convention,
    function: Callable[..., Any],
    samples: Sequence[Sample],
    args: Mapping[str, Any],
    emit: Emit,
    *,
    step: int = 0,
    timeout_seconds: float = math.inf,
    log: Callable[[str, float], None] = lambda name, value: None,
) -> None:
    """Call the reward on every sample and ``emit(index, score, seconds)`` each as soon as it is known.

    Exceptions of the reward become faults. Async rewards of one completion run concurrently, each under
    ``timeout_seconds``; one that is late is emitted with status ``timeout``. ``log(name, value)`` receives the
    metrics logged by a TRL-style function, before its scores.
    """
    if convention.whole_list:
        began = time.monotonic()
        scores = _scores_of_call(convention, function, samples, args, step=step, notes=Notes(log))
        each_seconds = (time.monotonic() - began) / max(len(samples), 1)
        for index, score in enumerate(scores):
            emit(index, score, each_seconds)
    elif convention.is_async:
        concurrent = _Concurrent(convention, function, args, emit, timeout_seconds=timeout_seconds)
        asyncio.run(concurrent.judge(samples))
    else:
        for index, sample in enumerate(samples):
            began = time.monotonic()
            score = _judge_one(convention, function, sample, args)
            emit(index, score, time.monotonic() - began)


def _judge_one(
    convention: Convention, function: Callable[..., Any], sample: Sample, args: Mapping[str, Any]
) -> Score:
    try:
        positional, keywords = _arguments(convention, sample, args)
        value = function(*positional, **keywords)
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
        return as_score(value, convention.name)
    except REWARD_ERRORS as error:
        return _raised(convention.name, error)


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


class _Concurrent:
    """Judges completions with an async reward, all of them at the same time."""

    def __init__(
        self,
        convention: Convention,
        function: Callable[..., Awaitable[Any]],
        args: Mapping[str, Any],
        emit: Emit,
        *,
        timeout_seconds: float,
    ) -> None:
        self._convention = convention
        self._function = function
        self._args = args
        self._emit = emit
        self._timeout_seconds = timeout_seconds

    async def judge(self, samples: Sequence[Sample]) -> None:
        await asyncio.gather(*(self._one(index, sample) for index, sample in enumerate(samples)))

    async def _one(self, index: int, sample: Sample) -> None:
        began = time.monotonic()
        try:
            score = await self._score(sample)
        except (*REWARD_ERRORS, asyncio.CancelledError) as error:
            score = _raised(self._convention.name, error)
        self._emit(index, score, time.monotonic() - began)

    async def _score(self, sample: Sample) -> Score:
        name = self._convention.name
        limit = self._timeout_seconds if math.isfinite(self._timeout_seconds) else None
        positional, keywords = _arguments(self._convention, sample, self._args)
        task = asyncio.ensure_future(self._function(*positional, **keywords))
        done, _ = await asyncio.wait({task}, timeout=limit)
        if done:
            return as_score(task.result(), name)
        task.cancel()
        detail = f"{name} took longer than {self._timeout_seconds:g} s"
        return Score(0.0, status="timeout", detail=detail)


async def judge_one(
    convention: Convention, function: Callable[..., Any], sample: Sample, args: Mapping[str, Any]
) -> Score:
    """The score of one completion by an async reward; exceptions are passed on."""
    positional, keywords = _arguments(convention, sample, args)
    return as_score(await function(*positional, **keywords), convention.name)


def _scores_of_call(
    convention: Convention,
    function: Callable[..., Any],
    samples: Sequence[Sample],
    args: Mapping[str, Any],
    *,
    step: int,
    notes: Notes,
) -> list[Score]:
    """The scores that one call with the whole list gives."""
    try:
        positional, keywords = _list_arguments(convention, samples, args, step=step, notes=notes)
        value = function(*positional, **keywords)
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
        scores = _scores_of_list(convention, value, len(samples))
        return [_with_extra(score, notes.extra, index) for index, score in enumerate(scores)]
    except REWARD_ERRORS as error:
        return [_raised(convention.name, error)] * len(samples)


def _scores_of_list(convention: Convention, value: Any, count: int) -> list[Score]:
    name = convention.name
    if convention.style == "openrlhf" and isinstance(value, Mapping):
        value = value.get("rewards", value.get("scores"))
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        problem = f"{name} returned {type(value).__name__} {short_repr(value)}, not a list"
        return [fault(problem)] * count
    if len(value) != count:
        problem = f"{name} returned {many(len(value), 'value')} for {many(count, 'completion')}"
        return [fault(problem)] * count
    return [as_score(item, name) for item in value]


def _with_extra(score: Score, extra: Mapping[str, Sequence[Any]], index: int) -> Score:
    """The score with what the function logged for this completion: numbers as parts, the rest in ``detail``."""
    logged = {column: values[index] for column, values in extra.items() if index < len(values)}
    if not logged or score.status == "fault":
        return score
    parts = dict(score.parts)
    details = [score.detail]
    for column, value in logged.items():
        if is_number(value):
            parts[column] = float(value)
        else:
            details.append(f"{column}={short_repr(value)}")
    return replace(score, parts=parts, detail="; ".join(details).strip("; "))


def _raised(name: str, error: BaseException) -> Score:
    frames = traceback.extract_tb(error.__traceback__)
    location = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return fault(f"{name} raised {type(error).__name__}: {error}{location}")


# ------------------------------------------------------------------------- arguments, one function a style

Arguments = tuple[list[Any], dict[str, Any]]


def _arguments(convention: Convention, sample: Sample, args: Mapping[str, Any]) -> Arguments:
    """Positional and keyword arguments for a function that judges one completion."""
    offered = _OFFERED[convention.style](convention, sample)
    positional = [sample.text] if convention.style == "native" else []
    return positional, _accepted(convention, {**offered, **args})


def _accepted(convention: Convention, offered: Mapping[str, Any]) -> dict[str, Any]:
    if convention.takes_all:
        return dict(offered)
    return {name: value for name, value in offered.items() if name in convention.accepted}


def _with_columns(
    convention: Convention, provided: Mapping[str, Any], columns: Mapping[str, Any]
) -> dict[str, Any]:
    """What we know of the completion, if a parameter asks for it; the data's columns take precedence."""
    arguments = {name: value for name, value in provided.items() if name in convention.accepted}
    for name, value in columns.items():
        if name not in ("text", "texts"):
            arguments[name] = value
    return arguments


def _native(convention: Convention, sample: Sample) -> dict[str, Any]:
    provided = {
        "prompt": sample.prompt,
        "prompt_text": sample.prompt,
        "token_ids": sample.token_ids,
        "group": sample.group,
        "finish": sample.finish,
        "turns": sample.turns,
    }
    return _with_columns(convention, provided, sample.columns)


def _verl(convention: Convention, sample: Sample) -> dict[str, Any]:
    return {
        "data_source": sample.columns.get("data_source", ""),
        "solution_str": sample.text,
        "ground_truth": truth_of(sample.columns),
        "extra_info": as_mapping(sample.columns.get("extra_info")) or {},
    }


def _verifiers(convention: Convention, sample: Sample) -> dict[str, Any]:
    provided = {
        "prompt": sample.columns.get("prompt", sample.prompt),
        "completion": _completion(sample),
        "answer": truth_of(sample.columns, "answer", ""),
        "info": as_mapping(sample.columns.get("info")) or {},
        "task": sample.columns.get("task", "default"),
    }
    return {**provided, "state": {**sample.columns, **provided}}


_OFFERED: Mapping[str, Callable[[Convention, Sample], dict[str, Any]]] = {
    "native": _native,
    "verl": _verl,
    "verifiers": _verifiers,
}


def _list_arguments(
    convention: Convention,
    samples: Sequence[Sample],
    args: Mapping[str, Any],
    *,
    step: int,
    notes: Notes,
) -> Arguments:
    """Positional and keyword arguments for a function that judges a list of completions."""
    if convention.style == "trl":
        offered = _trl(samples, step, notes)
    elif convention.style == "verl_batch":
        offered = _verl_batch(convention, samples)
    elif convention.style == "openrlhf":
        offered = _openrlhf(samples)
    else:
        offered = _batch(convention, samples)
    positional = [[sample.text for sample in samples]] if convention.style == "batch" else []
    return positional, _accepted(convention, {**offered, **args})


def _batch(convention: Convention, samples: Sequence[Sample]) -> dict[str, Any]:
    provided = {
        "prompts": [sample.prompt for sample in samples],
        "prompt_texts": [sample.prompt for sample in samples],
        "token_ids": [sample.token_ids for sample in samples],
        "groups": [sample.group for sample in samples],
        "finishes": [sample.finish for sample in samples],
        "turns": [sample.turns for sample in samples],
    }
    return _with_columns(convention, provided, _columns_as_lists(samples, ()))


def _verl_batch(convention: Convention, samples: Sequence[Sample]) -> dict[str, Any]:
    singles = [_verl(convention, sample) for sample in samples]
    offered: dict[str, Any] = {"extra_infos": [single["extra_info"] for single in singles]}
    for name in ("data_source", "solution_str", "ground_truth"):
        offered[name + "s"] = [single[name] for single in singles]
    return offered


def _openrlhf(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "queries": [sample.prompt + sample.text for sample in samples],
        "prompts": [sample.prompt for sample in samples],
        "labels": [truth_of(sample.columns, "labels") for sample in samples],
    }


def _trl(samples: Sequence[Sample], step: int, notes: Notes) -> dict[str, Any]:
    return {
        **_columns_as_lists(samples, ("prompt", "completion", "completion_ids")),
        "prompts": [sample.columns.get("prompt", sample.prompt) for sample in samples],
        "completions": [_completion(sample) for sample in samples],
        "completion_ids": [list(sample.token_ids) for sample in samples],
        "trainer_state": SimpleNamespace(global_step=step, epoch=0.0, max_steps=0, log_history=[]),
        "log_extra": notes.log_extra,
        "log_metric": notes.log_metric,
    }


def _columns_as_lists(samples: Sequence[Sample], excluded: Collection[str]) -> dict[str, list[Any]]:
    names: dict[str, None] = {}
    for sample in samples:
        names.update(dict.fromkeys(name for name in sample.columns if name not in excluded))
    columns: dict[str, list[Any]] = {}
    for name in names:
        columns[name] = [sample.columns.get(name) for sample in samples]
    return columns


def _completion(sample: Sample) -> Any:
    """The completion as text, or as chat messages if the data's prompt is a list of messages."""
    prompt = sample.columns.get("prompt")
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
        return [{"role": "assistant", "content": sample.text}]
    return sample.text
