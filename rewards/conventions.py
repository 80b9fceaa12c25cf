"""Calling conventions: what a reward function of this library or of another trainer takes, and what it returns.

A function's style is recognised by its parameter names (`convention_of`); whatever it returns becomes a `Score`
(`as_score`). Calling it is ``rewards.calling``; processes and deadlines are ``rewards.service``.

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

import inspect
import sys
from dataclasses import dataclass, replace
from typing import Any, Callable, Collection, Mapping

from rewards.paths import NotStructured, structured
from rewards.types import STATUSES, Sample, Score

__all__ = [
    "Convention",
    "STYLES",
    "TRUTH_COLUMNS",
    "as_mapping",
    "as_score",
    "convention_of",
    "fault",
    "is_number",
    "short_repr",
    "truth_of",
]

STYLES = ("native", "batch", "trl", "verl", "verl_batch", "openrlhf", "verifiers")
WHOLE_LIST_STYLES = frozenset({"batch", "trl", "verl_batch", "openrlhf"})
STYLES_WITHOUT_EXTRA_COLUMNS = frozenset({"verl", "verl_batch", "openrlhf"})
TRUTH_COLUMNS = ("ground_truth", "answer", "solution", "label", "labels", "reward_model")
"""Where other trainers' data sets keep the truth; in `reward_model` it is the entry ``ground_truth``."""

_PROVIDED: Mapping[str, frozenset[str]] = {
    "native": frozenset(
        {"prompt", "prompt_text", "token_ids", "num_tokens", "group", "finish", "turns"}
    ),
    "batch": frozenset(
        {
            "texts",
            "prompts",
            "prompt_texts",
            "token_ids",
            "num_tokens",
            "groups",
            "finishes",
            "turns",
        }
    ),
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
PROMPT_PARAMETERS = ("prompt", "prompts", "prompt_text", "prompt_texts", "queries", "state")
"""Parameters that receive what the model was shown, or may."""
_READ_COLUMNS: Mapping[str, frozenset[str]] = {
    "native": frozenset({"prompt"}),
    "batch": frozenset({"prompt"}),
    "trl": frozenset({"prompt"}),
    "verl": frozenset({"data_source", "extra_info", *TRUTH_COLUMNS}),
    "verl_batch": frozenset({"data_source", "extra_info", *TRUTH_COLUMNS}),
    "openrlhf": frozenset(TRUTH_COLUMNS),
    "verifiers": frozenset({"prompt", "info", "task", *TRUTH_COLUMNS}),
}
"""Columns that a style reads in addition to those named by a parameter."""


# --------------------------------------------------------------------------------------- reading a function


@dataclass(frozen=True, slots=True)
class Convention:
    """How one function wants to be called, read from its parameters.

    ``required`` are the columns without which it cannot be called, ``accepted`` all names it takes by keyword;
    ``takes_all`` says that it takes every column of the row.
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
        """The required columns that are not among ``columns``, sorted."""
        absent = set(self.required) - set(columns)
        truth_parameter = _TRUTH_PARAMETERS.get(self.style)
        has_truth = not set(TRUTH_COLUMNS).isdisjoint(columns)
        if truth_parameter is not None and has_truth:
            absent.discard(truth_parameter)
        return sorted(absent)

    def trim(self, sample: Sample) -> Sample:
        """The sample with only what this function can see, so that nothing else is sent to a worker."""
        takes_everything = self.takes_all and self.style in ("trl", "verifiers")
        sees_prompt = takes_everything or self._accepts(*PROMPT_PARAMETERS)
        sees_tokens = takes_everything or self._accepts("token_ids", "completion_ids")
        return Sample(
            sample.text,
            columns=self._visible_columns(sample),
            prompt=sample.prompt if sees_prompt else "",
            token_ids=[int(token) for token in sample.token_ids] if sees_tokens else (),
            group=sample.group if self._accepts("group", "groups") else "",
            finish=sample.finish if self._accepts("finish", "finishes") else None,
            turns=sample.turns if self._accepts("turns") else (),
        )

    def _visible_columns(self, sample: Sample) -> dict[str, Any]:
        columns = dict(sample.columns)
        if not (self.takes_all or "state" in self.accepted):
            visible = self.accepted | _READ_COLUMNS[self.style]
            columns = {name: value for name, value in columns.items() if name in visible}
        if self._accepts("num_tokens") and sample.token_ids:
            columns.setdefault("num_tokens", len(sample.token_ids))
        return columns

    def _accepts(self, *parameters: str) -> bool:
        return not self.accepted.isdisjoint(parameters)


def convention_of(
    function: Callable[..., Any], style: str | None = None, given: Collection[str] = ()
) -> Convention:
    """Read how ``function`` wants to be called; `ValueError` if its parameters fit no known style.

    ``given`` names the arguments that are set beforehand. A class is read by its ``__call__``.
    """
    name = _name_of(function)
    is_class = inspect.isclass(function)
    called = function.__call__ if inspect.isclass(function) else function
    parameters = _parameters(called, name, skip_self=is_class)
    style = style or _recognise(list(parameters), name)
    if style not in STYLES:
        raise ValueError(f"reward {name}: unknown style {style!r}; known are {', '.join(STYLES)}")
    if is_class:
        given = ()  # a class takes the recipe's arguments when it is created, not when it judges
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = _named_parameters(parameters, style)
    unfilled = {key for key, p in named.items() if p.default is p.empty}
    if style == "verifiers" and "parser" in unfilled:
        raise ValueError(
            f"reward {name}: it wants verifiers' parser, which only a Rubric of verifiers can provide"
        )
    return Convention(
        style=style,
        name=name,
        required=frozenset(unfilled - _PROVIDED[style] - set(given)),
        accepted=frozenset(named),
        takes_all=takes_all and style not in STYLES_WITHOUT_EXTRA_COLUMNS,
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


def _named_parameters(
    parameters: Mapping[str, inspect.Parameter], style: str
) -> dict[str, inspect.Parameter]:
    """The parameters filled by keyword: all but ``*args``, ``**kwargs`` and the completion's text."""
    starred = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = {key: p for key, p in parameters.items() if p.kind not in starred}
    if style in ("native", "batch"):
        named.pop(next(iter(named)))
    return named


def _recognise(names: list[str], name: str) -> str:
    present = set(names)
    if names and names[0] in ("text", "texts"):
        return "native" if names[0] == "text" else "batch"
    if present & {"completions", "completion_ids"}:
        return "trl"
    if {"solution_str", "ground_truth"} <= present:
        return "verl"
    if {"solution_strs", "ground_truths"} <= present:
        return "verl_batch"
    if {"queries", "labels"} <= present:
        return "openrlhf"
    if "completion" in present and present & {"answer", "prompt", "state", "info"}:
        return "verifiers"
    raise ValueError(
        f"reward {name}: its parameters ({', '.join(names) or 'none'}) fit no known style; a reward of this library is "
        "def reward(text, ...) with the columns it wants; otherwise set style to one of "
        + ", ".join(STYLES)
    )


def _name_of(function: Callable[..., Any]) -> str:
    inner = getattr(function, "func", function)
    return getattr(inner, "__qualname__", None) or type(inner).__qualname__


# ------------------------------------------------------------------------------------------- the truth

_MISSING: Any = object()


def truth_of(
    columns: Mapping[str, Any], preferred: str = "ground_truth", otherwise: Any = _MISSING
) -> Any:
    """The row's truth under the name a style prefers, or else under any name that trainers use for it.

    Without one, ``otherwise`` if it is given, else `KeyError`.
    """
    for name in (preferred, *TRUTH_COLUMNS):
        if name not in columns:
            continue
        value = columns[name]
        if name == "reward_model":
            value = as_mapping(value)
        return (
            value["ground_truth"]
            if isinstance(value, Mapping) and name == "reward_model"
            else value
        )
    if otherwise is not _MISSING:
        return otherwise
    raise KeyError(
        f"the data has no column for the truth; any of {', '.join(TRUTH_COLUMNS)} would do"
    )


def as_mapping(value: Any) -> Any:
    """A column that holds a mapping, also as JSON text, as a mapping; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        held = structured(value)
    except NotStructured:
        return value
    return held if isinstance(held, Mapping) else value


# ------------------------------------------------------------------------------------------- verdicts


def fault(detail: str) -> Score:
    """The score of a completion whose judge failed."""
    return Score(None, status="fault", detail=detail[:2000])


def as_score(value: Any, name: str) -> Score:
    """What a reward returned for one completion, as a `Score` that obeys the status table."""
    if isinstance(value, Score):
        return _checked(value, name)
    if isinstance(value, Mapping) and "score" in value:
        numbers = {key: part for key, part in value.items() if is_number(part)}
        numbers.pop("score", None)
        parts = {key: float(part) for key, part in numbers.items()}
        return replace(as_score(value["score"], name), parts=parts)
    if value is None:
        return Score(None, status="not_applicable")
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not is_number(value):
        return fault(f"{name} returned {type(value).__name__} {short_repr(value)}, not a number")
    if not -sys.float_info.max <= value <= sys.float_info.max:
        return fault(f"{name} returned {short_repr(value)}, which is not finite")
    return Score(float(value))


def _checked(score: Score, name: str) -> Score:
    if score.status not in STATUSES:
        return fault(f"{name} returned the unknown status {score.status!r}")
    if score.status in ("fault", "not_applicable"):
        return replace(score, value=None)
    if score.status == "scored":
        checked = as_score(score.value, name)
        if checked.status == "fault":
            return checked
        return replace(score, value=checked.value, status=checked.status)
    if score.value not in (None, 0):
        return fault(
            f"{name} returned the value {score.value} with the status {score.status}, which is worth 0"
        )
    return replace(score, value=0.0)


def is_number(value: Any) -> bool:
    """Whether a value is a Python number or bool."""
    return isinstance(value, (bool, int, float))


def short_repr(value: Any) -> str:
    """A value's representation, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
