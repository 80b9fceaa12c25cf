"""What a recipe may write short, written out before its sections are built.

``data`` as a list is a mixture; a key of ``data`` holds for each source that leaves it out; ``benchmark: gsm8k`` brings
the keys of that test set; ``log.tensorboard: true`` is a tracker with its defaults; ``environment: python`` names the
environment alone. Everything here works on plain
mappings, so the resolved recipe shows what was meant.
"""

from __future__ import annotations

import re
from typing import Any, Mapping

from grpo.recipe.benchmarks import BENCHMARKS
from grpo.recipe.distill_section import DistillSection
from grpo.recipe.environment_section import environment_values
from grpo.recipe.reject_section import RejectSection
from grpo.recipe.sections import SftSection
from grpo.recipe.values import CAPS, RecipeError, kind
from rewards.spelling import nearest

HELD_OUT = "heldout"
"""The evaluation set of the rows held out of the training data."""
HELD_OUT_LOSS = "heldout/loss"
"""The held-out loss of supervised training, beside the sets, none of which can be called so."""
FOR_EACH_SOURCE = (
    "subset",
    "split",
    "columns",
    "where",
    "template",
    "system",
    "template_args",
    "max_prompt_tokens",
    "held_out",
)
"""Keys of ``data`` that hold for each of its sources."""
FOR_EACH_SET = ("template", "system", "template_args", "max_prompt_tokens")
"""Keys of ``data`` that hold for each set of ``evaluate.sets``."""
OF_SOURCE = ("subset", "split", "revision", "args")
"""Keys of a benchmark that say nothing of another source."""
TRACKERS = ("wandb", "tensorboard", "trackio", "mlflow")
"""Keys of ``log`` that name a tracker."""
SECTIONS_OF_STAGES: Mapping[str, Any] = {
    "distill": DistillSection(),
    "sft": SftSection(),
    "reject": RejectSection(),
}
"""Sections that say by themselves which stage a recipe is of, with their defaults; distillation reads sft's too."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def name_entries(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with lists of named sections as mappings, so that ``data.sources.NAME.weight=2`` reaches them.

    An environment that is a name alone becomes a section too.
    """
    named = dict(values)
    if "environment" in named:
        named["environment"] = environment_values(named["environment"])
    if isinstance(named.get("data"), list):
        named["data"] = {"sources": named["data"]}
    _name_list(named, "data", "sources")
    _name_list(named, "evaluate", "sets")
    return named


def _name_list(values: dict[str, Any], section: str, name: str) -> None:
    part = values.get(section)
    if not isinstance(part, Mapping) or not isinstance(part.get(name), list):
        return
    entries: dict[str, Any] = {}
    for number, entry in enumerate(part[name]):
        where = f"{section}.{name}[{number}]"
        entry_name = _name_of(entry, where)
        if entry_name in entries:
            raise RecipeError(f"recipe: {where}: the name {entry_name} is taken; choose another")
        entries[entry_name] = {key: value for key, value in entry.items() if key != "name"}
    values[section] = {**part, name: entries}


def _name_of(entry: Any, where: str) -> str:
    if not isinstance(entry, Mapping):
        raise RecipeError(f"recipe: {where} must be a section of keys, not {kind(entry)}")
    name = entry.get("name")
    if not isinstance(name, str):
        raise RecipeError(f"recipe: {where} needs a name, e.g. name: algebra")
    return name


def write_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with its stage, and every source, evaluation set and tracker complete."""
    written = dict(values)
    for name, section in SECTIONS_OF_STAGES.items():
        if "stage" not in written and _says_something(written.get(name), section):
            written["stage"] = name
    if isinstance(written.get("sample"), Mapping):
        written["sample"] = _with_largest_cap(written["sample"])
    data = written.get("data")
    evaluate = written.get("evaluate")
    if isinstance(data, Mapping):
        written["data"] = _complete(data, "data.sources", shared=_only(data, FOR_EACH_SOURCE))
    if isinstance(evaluate, Mapping):
        shared = _only(data, FOR_EACH_SET) if isinstance(data, Mapping) else {}
        written["evaluate"] = _complete(_with_benchmarks(evaluate), "evaluate.sets", shared=shared)
    if isinstance(written.get("log"), Mapping):
        written["log"] = {name: _tracker(name, part) for name, part in written["log"].items()}
    if written.get("epochs") is not None and "steps" in written:
        raise RecipeError(
            "recipe: steps and epochs are both set; steps counts passes of the loop, epochs passes "
            "over the training prompts: keep one"
        )
    return written


def _with_largest_cap(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schedule of ``max_tokens`` as ``max_tokens_from``, beside the largest cap of it."""
    caps = sample.get("max_tokens")
    if not isinstance(caps, Mapping):
        return sample
    problem = CAPS.problem(caps) or (None if caps else "must not be empty")
    if problem:
        raise RecipeError(f"recipe: sample.max_tokens is {dict(caps)}; it {problem}")
    return {**sample, "max_tokens": max(caps.values()), "max_tokens_from": dict(caps)}


def _tracker(name: str, part: Any) -> Any:
    """A tracker's section written as true (its defaults) or false (none)."""
    if name in TRACKERS and isinstance(part, bool):
        return {} if part else None
    return part


def _says_something(section: Any, default: Any) -> bool:
    """Whether a stage's section is there, be it empty, and not of defaults alone, as `Recipe.to_mapping` writes it."""
    if not isinstance(section, Mapping):
        return False
    defaults = vars(default)
    return not section or any(section[name] != defaults.get(name) for name in section)


def _only(values: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values}


def _complete(
    section: Mapping[str, Any], where: str, *, shared: Mapping[str, Any]
) -> Mapping[str, Any]:
    """`section` with each entry of its mapping, the last part of `where`, laid over the `shared` keys."""
    name = where.rpartition(".")[2]
    entries = section.get(name)
    if not isinstance(entries, Mapping):
        return section  # `build_section` says what is wrong with it
    complete = {}
    for entry_name, entry in entries.items():
        check_name(str(entry_name), where)
        complete[entry_name] = {**shared, **entry} if isinstance(entry, Mapping) else entry
    return {**section, name: complete}


def check_name(name: str, where: str) -> None:
    """Refuse a name that could not stand in a metric's name."""
    if not NAME.fullmatch(name):
        raise RecipeError(
            f"recipe: {where}: the name {name!r} may hold letters, digits, - and _ only"
        )
    if name == HELD_OUT:
        raise RecipeError(
            f"recipe: {where}: the name {name} means the held-out rows; choose another"
        )


def _with_benchmarks(evaluate: Mapping[str, Any]) -> Mapping[str, Any]:
    sets = evaluate.get("sets")
    if not isinstance(sets, Mapping):
        return evaluate
    return {**evaluate, "sets": {name: _benchmark(name, entry) for name, entry in sets.items()}}


def _benchmark(name: Any, entry: Any) -> Any:
    """The entry of a set laid over the keys of the benchmark that it names."""
    if isinstance(entry, str):
        entry = {"benchmark": entry}
    benchmark = entry.get("benchmark") if isinstance(entry, Mapping) else None
    if benchmark is None:
        return entry
    if not isinstance(benchmark, str) or benchmark not in BENCHMARKS:
        raise RecipeError(
            f"recipe: evaluate.sets.{name}.benchmark names {benchmark}"
            f"{nearest(str(benchmark), BENCHMARKS)}; the benchmarks are {', '.join(BENCHMARKS)}"
        )
    keys = dict(BENCHMARKS[benchmark].keys)
    if entry.get("source") is not None and entry["source"] != keys.get("source"):
        keys = {key: value for key, value in keys.items() if key not in OF_SOURCE}
    return {**keys, **entry}
