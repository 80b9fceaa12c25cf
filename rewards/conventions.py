"""Calling conventions: reward functions written for this library or for another trainer, called unchanged.

A function's style is read off its parameter names (`convention_of`); `judge` calls it on completions and turns
whatever it returns into `Score`. Nothing here knows of processes or deadlines; that is ``rewards.service``.

| style        | recognised by                                     | called with              |
|--------------|---------------------------------------------------|--------------------------|
| `native`     | first parameter `text`                            | one completion           |
| `batch`      | first parameter `texts`                           | all of a submission      |
| `trl`        | `completions` (or `completion_ids` alone)         | all of a submission      |
| `verl`       | `solution_str`, `ground_truth`                    | one completion           |
| `verl_batch` | `solution_strs`, `ground_truths`                  | all of a submission      |
| `openrlhf`   | `queries`, `labels`                               | all of a submission      |
| `verifiers`  | `completion`, any of `answer prompt state info`   | one completion           |
"""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Awaitable, Callable, Collection, Mapping, Sequence

from rewards.types import STATUSES, Sample, Score

__all__ = [
    "Convention",
    "STYLES",
    "TRUTH_COLUMNS",
    "as_score",
    "convention_of",
    "fault",
    "judge",
    "judge_one",
]

STYLES = ("native", "batch", "trl", "verl", "verl_batch", "openrlhf", "verifiers")
WHOLE_LIST_STYLES = frozenset({"batch", "trl", "verl_batch", "openrlhf"})
TRUTH_COLUMNS = ("ground_truth", "answer", "solution", "label", "labels", "reward_model")
"""Where other trainers' data sets keep the truth; in `reward_model` it is the entry ``ground_truth``."""

_PROVIDED: Mapping[str, frozenset[str]] = {
    "native": frozenset({"prompt", "token_ids", "num_tokens", "group", "finish"}),
    "batch": frozenset({"texts", "prompts", "token_ids", "num_tokens", "groups", "finishes"}),
    "trl": frozenset(
        {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
    ),
    "verl": frozenset({"solution_str", "data_source", "extra_info"}),
    "verl_batch": frozenset({"solution_strs", "data_sources", "extra_infos"}),
    "openrlhf": frozenset({"queries", "prompts"}),
    "verifiers": frozenset({"prompt", "completion", "state", "info", "task"}),
}
"""Parameters that are filled without a column of that name."""
_TRUTH_PARAMETERS = {
    "verl": "ground_truth",
    "verl_batch": "ground_truths",
    "openrlhf": "labels",
    "verifiers": "answer",
}
_READ_COLUMNS: Mapping[str, frozenset[str]] = {
    "native": frozenset({"prompt"}),
    "batch": frozenset({"prompt"}),
    "trl": frozenset({"prompt"}),
    "verl": frozenset({"data_source", "extra_info", *TRUTH_COLUMNS}),
    "verl_batch": frozenset({"data_source", "extra_info", *TRUTH_COLUMNS}),
    "openrlhf": frozenset(TRUTH_COLUMNS),
    "verifiers": frozenset({"prompt", "info", "task", *TRUTH_COLUMNS}),
}
"""Columns that a style looks into besides those named by a parameter."""


# --------------------------------------------------------------------------------------- reading a function


@dataclass(frozen=True, slots=True)
class Convention:
    """How one function wants to be called, read from its parameters.

    ``required`` are the columns without which it cannot be called; ``accepted`` all names it takes by keyword.
    """

    style: str
    name: str
    required: frozenset[str]
    accepted: frozenset[str]
    takes_all: bool
    is_async: bool

    @property
    def whole_list(self) -> bool:
        """Whether one call judges all completions of a submission."""
        return self.style in WHOLE_LIST_STYLES

    @property
    def rows_are_independent(self) -> bool:
        """Whether a completion may be judged again without those it was submitted with."""
        return self.style != "batch"

    def missing(self, columns: Collection[str]) -> list[str]:
        """The required columns that are not among ``columns``."""
        absent = set(self.required) - set(columns)
        if _TRUTH_PARAMETERS.get(self.style) in absent and not set(TRUTH_COLUMNS).isdisjoint(
            columns
        ):
            absent.discard(_TRUTH_PARAMETERS[self.style])
        return sorted(absent)

    def trim(self, sample: Sample) -> Sample:
        """The sample with only what this function can see, so that nothing else has to travel."""
        columns: Mapping[str, Any] = sample.columns
        if not (self.takes_all or "state" in self.accepted):
            seen = self.accepted | _READ_COLUMNS[self.style]
            columns = {name: value for name, value in columns.items() if name in seen}
        columns = dict(columns)
        if self._names("num_tokens") and sample.token_ids:
            columns.setdefault("num_tokens", len(sample.token_ids))
        everything = self.takes_all and self.style in ("trl", "verifiers")
        sees_tokens = everything or self._names("token_ids", "completion_ids")
        return Sample(
            sample.text,
            columns=columns,
            prompt=sample.prompt
            if everything or self._names("prompt", "prompts", "queries", "state")
            else "",
            token_ids=[int(token) for token in sample.token_ids] if sees_tokens else (),
            group=sample.group if self._names("group", "groups") else "",
            finish=sample.finish if self._names("finish", "finishes") else None,
        )

    def _names(self, *parameters: str) -> bool:
        return not self.accepted.isdisjoint(parameters)


def convention_of(
    function: Callable[..., Any], style: str | None = None, given: Collection[str] = ()
) -> Convention:
    """Read how ``function`` wants to be called; `ValueError` where its parameters fit no known style.

    ``given`` names the arguments that are set beforehand. A class is read by its ``__call__``.
    """
    name = _name_of(function)
    called = function.__call__ if inspect.isclass(function) else function
    parameters = _parameters(called, name, skip_self=inspect.isclass(function))
    style = style or _recognise(list(parameters), name)
    if style not in STYLES:
        raise ValueError(f"reward {name}: unknown style {style!r}; known are {', '.join(STYLES)}")
    if inspect.isclass(function):
        given = ()  # a class takes the recipe's arguments when it is made, not when it judges
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {
        key: p for key, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    if style in ("native", "batch"):
        named.pop(next(iter(named)))
    unfilled = {key for key, p in named.items() if p.default is p.empty}
    if style == "verifiers" and "parser" in unfilled:
        raise ValueError(
            f"reward {name}: it wants verifiers' parser, which only a Rubric of verifiers can give"
        )
    return Convention(
        style=style,
        name=name,
        required=frozenset(unfilled - _PROVIDED[style] - set(given)),
        accepted=frozenset(named),
        takes_all=takes_all and style not in ("verl", "verl_batch", "openrlhf"),
        is_async=any(map(inspect.iscoroutinefunction, (called, type(called).__call__))),
    )


def _parameters(
    called: Callable[..., Any], name: str, skip_self: bool
) -> dict[str, inspect.Parameter]:
    try:
        parameters = dict(inspect.signature(called).parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"reward {name}: its parameters cannot be read ({error}); wrap it in a function"
        ) from error
    if skip_self:
        parameters.pop(next(iter(parameters), ""), None)
    return parameters


def _recognise(names: list[str], name: str) -> str:
    seen = set(names)
    if names and names[0] in ("text", "texts"):
        return "native" if names[0] == "text" else "batch"
    if seen & {"completions", "completion_ids"}:
        return "trl"
    if {"solution_str", "ground_truth"} <= seen:
        return "verl"
    if {"solution_strs", "ground_truths"} <= seen:
        return "verl_batch"
    if {"queries", "labels"} <= seen:
        return "openrlhf"
    if "completion" in seen and seen & {"answer", "prompt", "state", "info"}:
        return "verifiers"
    raise ValueError(
        f"reward {name}: its parameters ({', '.join(names) or 'none'}) fit no known style; a reward of this library is "
        "def reward(text, ...) with the columns it wants; else set style to one of "
        + ", ".join(STYLES)
    )


def _name_of(function: Callable[..., Any]) -> str:
    inner = getattr(function, "func", function)
    return getattr(inner, "__qualname__", None) or type(inner).__qualname__


# ------------------------------------------------------------------------------------------- verdicts


def fault(detail: str) -> Score:
    """The score of a completion whose judge failed."""
    return Score(None, status="fault", detail=detail[:2000])


def as_score(value: Any, name: str) -> Score:
    """What a reward returned for one completion, as a `Score` that keeps the status table's promises."""
    if isinstance(value, Score):
        return _checked(value, name)
    if isinstance(value, Mapping) and "score" in value:
        parts = {
            key: float(part) for key, part in value.items() if key != "score" and _is_number(part)
        }
        return replace(as_score(value["score"], name), parts=parts)
    if value is None:
        return Score(None, status="not_applicable")
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not _is_number(value):
        return fault(f"{name} returned {type(value).__name__} {_short(value)}, not a number")
    if not -sys.float_info.max <= value <= sys.float_info.max:
        return fault(f"{name} returned {_short(value)}, which is not finite")
    return Score(float(value))


def _checked(score: Score, name: str) -> Score:
    if score.status not in STATUSES:
        return fault(f"{name} returned the unknown status {score.status!r}")
    if score.status in ("fault", "not_applicable"):
        return replace(score, value=None)
    if score.status == "scored":
        plain = as_score(score.value, name)
        return (
            plain
            if plain.status == "fault"
            else replace(score, value=plain.value, status=plain.status)
        )
    if score.value not in (None, 0):
        return fault(
            f"{name} returned the value {score.value} with the status {score.status}, which is worth 0"
        )
    return replace(score, value=0.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _raised(name: str, error: BaseException) -> Score:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return fault(f"{name} raised {type(error).__name__}: {error}{where}")


# --------------------------------------------------------------------------------------------- calling


@dataclass(slots=True)
class Notes:
    """What a TRL reward logs beside its values: columns for each completion, kept here, and metrics, passed on."""

    log: Callable[[str, float], None]
    extra: dict[str, list[Any]] = field(default_factory=dict)

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        self.extra[column] = list(values)

    def log_metric(self, name: str, value: float) -> None:
        self.log(str(name), float(value))


Emit = Callable[[int, Score, float], None]


def cache_key(
    convention: Convention, function: Callable[..., Any], sample: Sample, args: Mapping[str, Any]
) -> Any:
    """What the verdict on a completion depends on, by the reward's own ``cache_key``; None where it has no say.

    ``cache_key`` is an attribute of a pure reward: a quick function of the same parameters, called in the caller's
    process, whose results print alike only for completions that must score the same.
    """
    hook = getattr(function, "cache_key", None)
    if hook is None or convention.style != "native" or inspect.isclass(function):
        return None
    try:
        positional, keywords = _arguments(convention, sample, args)
        return hook(*positional, **keywords)
    except (
        Exception
    ):  # whatever is wrong here is wrong for the reward too, which says so in its verdict
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

    Exceptions of the reward become faults. Async rewards of one completion run side by side, each under
    ``timeout_seconds``; one that is late is emitted with status ``timeout``. ``log(name, value)`` gets the metrics
    that a function of TRL's style logs, before its scores.
    """
    if convention.whole_list:
        _judge_list(convention, function, samples, args, emit, step, Notes(log))
    elif convention.is_async:
        asyncio.run(_judge_side_by_side(convention, function, samples, args, emit, timeout_seconds))
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
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return _raised(convention.name, error)


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


async def _judge_side_by_side(
    convention: Convention,
    function: Callable[..., Awaitable[Any]],
    samples: Sequence[Sample],
    args: Mapping[str, Any],
    emit: Emit,
    timeout_seconds: float,
) -> None:
    limit = timeout_seconds if math.isfinite(timeout_seconds) else None

    async def one(index: int, sample: Sample) -> None:
        began = time.monotonic()
        try:
            positional, keywords = _arguments(convention, sample, args)
            task = asyncio.ensure_future(function(*positional, **keywords))
            done, _ = await asyncio.wait({task}, timeout=limit)
            if not done:
                task.cancel()
            late = Score(
                0.0,
                status="timeout",
                detail=f"{convention.name} took longer than {timeout_seconds:g} s",
            )
            score = as_score(task.result(), convention.name) if done else late
        except (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
            score = _raised(convention.name, error)
        emit(index, score, time.monotonic() - began)

    await asyncio.gather(*(one(index, sample) for index, sample in enumerate(samples)))


async def judge_one(
    convention: Convention, function: Callable[..., Any], sample: Sample, args: Mapping[str, Any]
) -> Score:
    """The score of one completion by an async reward; whatever it raises is passed on."""
    positional, keywords = _arguments(convention, sample, args)
    return as_score(await function(*positional, **keywords), convention.name)


def _judge_list(
    convention: Convention,
    function: Callable[..., Any],
    samples: Sequence[Sample],
    args: Mapping[str, Any],
    emit: Emit,
    step: int,
    notes: Notes,
) -> None:
    began = time.monotonic()
    try:
        positional, keywords = _list_arguments(convention, samples, args, step, notes)
        value = function(*positional, **keywords)
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
        scores = _scores_of_list(convention, value, len(samples))
        scores = [_with_extra(score, notes.extra, index) for index, score in enumerate(scores)]
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        scores = [_raised(convention.name, error)] * len(samples)
    each = (time.monotonic() - began) / max(len(samples), 1)
    for index, score in enumerate(scores):
        emit(index, score, each)


def _scores_of_list(convention: Convention, value: Any, count: int) -> list[Score]:
    if convention.style == "openrlhf" and isinstance(value, Mapping):
        value = value.get("rewards", value.get("scores"))
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return [
            fault(f"{convention.name} returned {type(value).__name__} {_short(value)}, not a list")
        ] * count
    if len(value) != count:
        return [
            fault(f"{convention.name} returned {len(value)} values for {count} completions")
        ] * count
    return [as_score(item, convention.name) for item in value]


def _with_extra(score: Score, extra: Mapping[str, Sequence[Any]], index: int) -> Score:
    """The score with what the function logged for this completion: numbers as parts, the rest in words."""
    logged = {column: values[index] for column, values in extra.items() if index < len(values)}
    if not logged or score.status == "fault":
        return score
    numbers = {column: float(value) for column, value in logged.items() if _is_number(value)}
    words = [
        f"{column}={_short(value)}" for column, value in logged.items() if column not in numbers
    ]
    return replace(
        score,
        parts={**score.parts, **numbers},
        detail="; ".join([score.detail, *words]).strip("; "),
    )


# ------------------------------------------------------------------------- arguments, one function a style

Arguments = tuple[list[Any], dict[str, Any]]


def _arguments(convention: Convention, sample: Sample, args: Mapping[str, Any]) -> Arguments:
    """Positional and keyword arguments for a function that judges one completion."""
    offered = _OFFERED[convention.style](convention, sample)
    keywords = _accepted(convention, {**offered, **args})
    return ([sample.text] if convention.style == "native" else []), keywords


def _accepted(convention: Convention, offered: Mapping[str, Any]) -> dict[str, Any]:
    if convention.takes_all:
        return dict(offered)
    return {name: value for name, value in offered.items() if name in convention.accepted}


def _with_columns(
    convention: Convention, own: Mapping[str, Any], columns: Mapping[str, Any]
) -> dict[str, Any]:
    """What we know of the completion where a parameter asks for it, and above it the data's columns."""
    asked = {name: value for name, value in own.items() if name in convention.accepted}
    return {
        **asked,
        **{name: value for name, value in columns.items() if name not in ("text", "texts")},
    }


def _native(convention: Convention, sample: Sample) -> dict[str, Any]:
    own = {
        "prompt": sample.prompt,
        "token_ids": sample.token_ids,
        "group": sample.group,
        "finish": sample.finish,
    }
    return _with_columns(convention, own, sample.columns)


def _verl(convention: Convention, sample: Sample) -> dict[str, Any]:
    return {
        "data_source": sample.columns.get("data_source", ""),
        "solution_str": sample.text,
        "ground_truth": truth_of(sample.columns),
        "extra_info": sample.columns.get("extra_info") or {},
    }


def _verifiers(convention: Convention, sample: Sample) -> dict[str, Any]:
    seen = {
        "prompt": sample.columns.get("prompt", sample.prompt),
        "completion": _completion(sample),
        "answer": truth_of(sample.columns, "answer", ""),
        "info": sample.columns.get("info") or {},
        "task": sample.columns.get("task", "default"),
    }
    return {**seen, "state": {**sample.columns, **seen}}


_OFFERED: Mapping[str, Callable[[Convention, Sample], dict[str, Any]]] = {
    "native": _native,
    "verl": _verl,
    "verifiers": _verifiers,
}


def _list_arguments(
    convention: Convention,
    samples: Sequence[Sample],
    args: Mapping[str, Any],
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
    own = {
        "prompts": [sample.prompt for sample in samples],
        "token_ids": [sample.token_ids for sample in samples],
        "groups": [sample.group for sample in samples],
        "finishes": [sample.finish for sample in samples],
    }
    return _with_columns(convention, own, _columns_as_lists(samples, ()))


def _verl_batch(convention: Convention, samples: Sequence[Sample]) -> dict[str, Any]:
    singles = [_verl(convention, sample) for sample in samples]
    names = ("data_source", "solution_str", "ground_truth")
    offered = {name + "s": [single[name] for single in singles] for name in names}
    return {**offered, "extra_infos": [single["extra_info"] for single in singles]}


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


def _columns_as_lists(samples: Sequence[Sample], left_out: Collection[str]) -> dict[str, list[Any]]:
    names = {name: None for sample in samples for name in sample.columns if name not in left_out}
    return {name: [sample.columns.get(name) for sample in samples] for name in names}


def _completion(sample: Sample) -> Any:
    """The completion as text, or as chat messages where the data's prompt is a list of messages."""
    prompt = sample.columns.get("prompt")
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
        return [{"role": "assistant", "content": sample.text}]
    return sample.text


_MISSING: Any = object()


def truth_of(
    columns: Mapping[str, Any], preferred: str = "ground_truth", otherwise: Any = _MISSING
) -> Any:
    """The row's truth under the name a style prefers, or else under any that trainers use for it."""
    for name in (preferred, *TRUTH_COLUMNS):
        if name in columns:
            value = columns[name]
            return (
                value["ground_truth"]
                if name == "reward_model" and isinstance(value, Mapping)
                else value
            )
    if otherwise is not _MISSING:
        return otherwise
    raise KeyError(
        f"the data has no column for the truth; any of {', '.join(TRUTH_COLUMNS)} would do"
    )
