"""A recipe with ``stages`` as a plan: for each stage an ordinary recipe, checked before any work begins.

Sections at the top of the recipe are shared; what a stage says itself is laid over them, section by section. A stage
takes a model and rows from stages before it, whose places in the folder are known in advance. Whether files, columns
and models exist is checked in ``grpo.stages``; nothing here needs torch.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

from grpo.monitor.redaction import secret_keys
from grpo.recipe import Recipe, RecipeError
from grpo.recipe.build import merge
from grpo.recipe.describe import differences
from grpo.recipe.files import (
    find_recipe,
    override_values,
    read_yaml,
    resolve_paths,
    to_yaml,
    with_shipped_models,
)
from grpo.recipe.shorthands import FOR_EACH_SET, name_entries
from grpo.recipe.stage_list import BASE, kind_of, stages_by_name
from grpo.recipe.values import kind
from rewards.spelling import nearest

MODEL_OF: Mapping[str, str] = {"sft": "final", "grpo": "final", "distill": "final"}
"""Where in its folder a stage leaves its model, by kind; the other kinds make none."""
DATA_OF: Mapping[str, str] = {"reject": "accepted.jsonl"}
"""Where in its folder a stage leaves rows, by kind."""
OF_ONE_KIND = ("sft", "reject", "distill", "export")
"""Sections that are read by the kind of their name alone."""
OF_OVERSAMPLING = ("sample.oversample", "sample.over_request", "sample.staleness")
OF_ROLLOUTS = ("sample.prompts", "sample.group_size", *OF_OVERSAMPLING)
OBJECTIVE = ("loss", "advantage")
ANSWERED = ("tools", "environment")
DIVIDED = "distributed.shard"
UNREAD: Mapping[str, tuple[str, ...]] = {
    "sft": (*OBJECTIVE, *OF_ROLLOUTS, "optim.updates", "optim.epochs"),
    "distill": OBJECTIVE,
    "reject": (*OBJECTIVE, "optim", *OF_OVERSAMPLING, "steps", "epochs", DIVIDED),
    "evaluate": (DIVIDED,),
    "export": (*ANSWERED, DIVIDED),
}
"""Shared keys that a kind does not read, and would refuse if its stage set them itself."""
OF_ROWS = ("source", "sources", "subset", "split", "revision", "args", "columns", "where")
"""Shared keys of ``data`` that say nothing of other rows."""
OF_RUN = ("name", "stage", "run_dir")
"""Keys that the list of stages decides."""
TEACHERS = (("loss", "teacher"), ("distill", "teacher"))
"""Keys that may name an earlier stage, and then mean its model."""
MAY_CHANGE = (
    "run_dir",
    "log.",
    "checkpoint.",
    "watchdog.",
    "gates",
    "rewards_service.",
    "distributed.",
)
"""Keys under which what a stage has finished is the same."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a plan.

    ``recipe`` is what it runs, with model and data where they are or will be. ``model_from`` names the stage whose
    model it starts from, or ``base``, or is None where it names a model itself; ``data_from`` the stage whose rows it
    reads; ``needs`` are all stages that it reads from. ``origin`` is the model outside of the plan that its own
    descends from, whose tokenizer it has.
    """

    name: str
    kind: str
    recipe: Recipe
    model_from: str | None
    data_from: str | None
    needs: tuple[str, ...]
    origin: str | None

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.recipe.folder()

    @property
    def model(self) -> Path | None:
        """Where it leaves its model; None for a kind that makes none."""
        return self.folder / MODEL_OF[self.kind] if self.kind in MODEL_OF else None

    @property
    def data(self) -> Path | None:
        """Where it leaves rows; None for a kind that makes none."""
        return self.folder / DATA_OF[self.kind] if self.kind in DATA_OF else None

    def describe(self) -> str:
        """``grpo, from the model of start`` and the like."""
        words = [self.kind]
        if self.model_from is not None and self.kind != "evaluate":
            words.append(f"from {'the base' if self.model_from == BASE else self.model_from}")
        elif self.kind != "evaluate":
            words.append(f"from {Path(str(self.recipe.model.name)).name}")
        if self.data_from is not None:
            words.append(f"on the rows of {self.data_from}")
        if self.kind == "evaluate":
            words.append(f"of {', '.join(self.recipe.evaluate.models)}")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Plan:
    """All stages in the order in which they run; ``values`` is the recipe as it was written, paths made absolute."""

    name: str
    folder: Path
    values: Mapping[str, Any]
    stages: tuple[Stage, ...]

    @staticmethod
    def load(path: str | os.PathLike[str], *overrides: str) -> Plan:
        """The plan in the YAML file `path`, or of a recipe that ships, with overrides applied; `RecipeError`."""
        file = find_recipe(path)
        values = resolve_paths(stages_by_name(read_yaml(file)), file.parent)
        values.setdefault("name", file.stem)
        return Plan.from_mapping(values, *overrides)

    @staticmethod
    def of_run(folder: str | os.PathLike[str], *overrides: str) -> Plan:
        """The plan that runs in `folder`, wherever that has been moved, with overrides applied; `RecipeError`."""
        place = Path(folder).expanduser().absolute()
        values = {**read_yaml(place / "recipe.yaml"), "run_dir": str(place)}
        return Plan.from_mapping(values, *overrides)

    @staticmethod
    def from_mapping(values: Mapping[str, Any], *overrides: str) -> Plan:
        """The plan that a nested mapping describes, with ``a.b=value`` overrides applied; `RecipeError`."""
        layered = _layer(values)
        for override in overrides:
            layer = resolve_paths(stages_by_name(override_values(override)), Path.cwd())
            _check_known(layer.get("stages"), layered["stages"])
            layered = merge(layered, name_entries(layer), empties=True)
        for key in secret_keys(layered):
            raise RecipeError(
                f"recipe: {key} holds a key or token, which the run folder would keep; let whoever needs it read it "
                "from the environment"
            )
        return _planned(with_shipped_models(layered))

    def to_mapping(self) -> dict[str, Any]:
        """The recipe as it was written, with its stages as a list."""
        stages = [{"name": name, **part} for name, part in self.values["stages"].items()]
        return {**self.values, "run_dir": str(self.folder), "stages": stages}

    def to_yaml(self) -> str:
        """The same as text."""
        return to_yaml(self.to_mapping())

    def stage(self, name: str, option: str) -> Stage:
        """The stage of that name; `option` says in the message where it was named."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = [stage.name for stage in self.stages]
        raise RecipeError(
            f"{option}: there is no stage {name}{nearest(name, names)}; the stages are {', '.join(names)}"
        )

    def dependants(self, name: str) -> tuple[str, ...]:
        """The stages that read from `name`, directly or through others, in order."""
        found = [name]
        for stage in self.stages:
            if stage.name not in found and set(found) & set(stage.needs):
                found.append(stage.name)
        return tuple(found[1:])

    def changes(self, old: Plan) -> dict[str, list[tuple[str, Any, Any]]]:
        """By stage of `old`, the keys in which its recipe now differs; `RecipeError` unless `old` is the beginning."""
        before = [(stage.name, stage.kind) for stage in old.stages]
        now = [(stage.name, stage.kind) for stage in self.stages]
        if now[: len(before)] != before:
            raise RecipeError(
                f"run folder: {self.folder} was made by the stages {_in_words(before)}, and the recipe now has "
                f"{_in_words(now)}; stages may only be added at the end: choose another run_dir"
            )
        return {
            new.name: list(differences(was.recipe.to_mapping(), new.recipe.to_mapping()))
            for was, new in zip(old.stages, self.stages)
        }


def _in_words(stages: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} ({stage_kind})" for name, stage_kind in stages)


def has_stages(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> bool:
    """Whether the recipe at `path`, or of the run folder there, has ``stages``; False for what cannot be read."""
    try:
        file = Path(path).expanduser()
        file = file / "recipe.yaml" if file.is_dir() else find_recipe(path)
        return file.is_file() and "stages" in read_yaml(file)
    except RecipeError:
        return False


def _layer(values: Mapping[str, Any]) -> dict[str, Any]:
    layered = name_entries(stages_by_name(values))
    if not layered.get("stages"):
        raise RecipeError(
            "recipe: stages names no stage; list at least one, e.g. stages: [{name: start, sft: {epochs: 2}}]"
        )
    for key in ("stage", "export"):
        if key in layered:
            raise RecipeError(
                f"recipe: {key} and stages are both set; put {key} into the stage that it is about"
            )
    return layered


def _check_known(named: Any, stages: Mapping[str, Any]) -> None:
    """Refuse overrides of a stage that there is not."""
    for name in named if isinstance(named, Mapping) else ():
        if name not in stages:
            raise RecipeError(
                f"recipe: stages.{name} is set, but there is no stage {name}{nearest(name, stages)}; the stages are "
                f"{', '.join(stages)}"
            )


# ---- from entries to stages ----------------------------------------------------------------------------------------


def _planned(layered: Mapping[str, Any]) -> Plan:
    name = layered.get("name", "run")
    run_dir = layered.get("run_dir")
    for key, value in (("name", name), ("run_dir", run_dir or "runs")):
        if not isinstance(value, str) or not value.strip():
            raise RecipeError(f"recipe: {key} must be text, not {kind(value)}")
    folder = Path(run_dir or Path("runs") / name).expanduser().absolute()
    shared = {key: part for key, part in layered.items() if key not in (*OF_RUN, "stages")}
    planner = _Planner(name, folder, shared, tuple(layered["stages"]))
    for stage_name, entry in layered["stages"].items():
        planner.add(stage_name, entry)
    return Plan(name=name, folder=folder, values=layered, stages=tuple(planner.stages))


class _Planner:
    """Makes one stage after the other; each may name those before it."""

    def __init__(self, name: str, folder: Path, shared: Mapping[str, Any], names: tuple[str, ...]):
        self.name = name
        self.folder = folder
        self.shared = shared
        self.names = names
        self.stages: list[Stage] = []

    def add(self, name: str, entry: Any) -> None:
        """Plan the next stage; `RecipeError` if it cannot be made of those before it, or its recipe cannot run."""
        stage_kind = kind_of(name, entry)
        own = _own_values(name, stage_kind, entry)
        where = f"stages.{name}"
        data_from = self._data_from(where, entry)
        values = merge(
            self._shared_by(stage_kind, own, has_rows=data_from is not None), own, empties=True
        )
        model_from = self._model_from(where, stage_kind, entry, own)
        if model_from is not None and model_from != BASE:
            values["model"] = _made(values.get("model"), self._made_by(model_from).model)
        if data_from is not None:
            source = str(self._made_by(data_from).data)
            values["data"] = {"held_out": 0, **values.get("data", {}), "source": source}
        needs = [found for found in (model_from, data_from) if found not in (None, BASE)]
        needs += self._teachers(where, values)
        needs += self._samples(values)
        if stage_kind == "evaluate":
            needs += self._models(where, values)
        if stage_kind == "export":
            values = {key: part for key, part in values.items() if key != "epochs"} | {"steps": 1}
        values |= {
            "name": f"{self.name}-{name}",
            "stage": stage_kind,
            "run_dir": str(self.folder / "stages" / name),
        }
        recipe = _recipe(where, values)
        self.stages.append(
            Stage(
                name=name,
                kind=stage_kind,
                recipe=recipe,
                model_from=model_from,
                data_from=data_from,
                needs=tuple(dict.fromkeys(needs)),
                origin=self._origin(model_from, recipe),
            )
        )

    def _origin(self, model_from: str | None, recipe: Recipe) -> str | None:
        if model_from is None or model_from == BASE:
            return recipe.model.name
        return self._made_by(model_from).origin

    # -- what is shared -----------------------------------------------------------------------------------------

    def _shared_by(
        self, stage_kind: str, own: Mapping[str, Any], *, has_rows: bool
    ) -> dict[str, Any]:
        """The shared keys that a stage of this kind reads, and that its own keys do not make meaningless."""
        learns_rows = stage_kind == "sft" or _learns_traces(own)
        unread = [name for name in OF_ONE_KIND if name != stage_kind]
        unread += UNREAD["sft" if learns_rows else stage_kind] if stage_kind in UNREAD else ()
        if learns_rows and not _samples_with_tools(self.shared, own):
            unread += ANSWERED
        if own.get("steps") is not None or own.get("epochs") is not None:
            unread += ["steps", "epochs"]
        shared = dict(self.shared)
        for key in unread:
            shared = _without(shared, key.split("."))
        sample = shared.get("sample")
        caps = sample.get("max_tokens") if isinstance(sample, Mapping) else None
        if learns_rows and isinstance(sample, Mapping) and isinstance(caps, Mapping) and caps:
            shared["sample"] = {**sample, "max_tokens": max(caps.values())}
        data = shared.get("data")
        if isinstance(data, Mapping):
            shared["data"] = _shared_data(data, own.get("data"), has_rows=has_rows)
        return shared

    # -- what comes from earlier stages -------------------------------------------------------------------------

    def _made_by(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def _earlier(self, where: str, name: Any, what: str, places: Mapping[str, str]) -> str:
        """`name` if it is that of an earlier stage whose kind is among `places`; `what` it would give, in messages."""
        able = [stage.name for stage in self.stages if stage.kind in places]
        before = (
            f"the stages before it with {what} are {', '.join(able)}"
            if able
            else f"no stage before it has {what}"
        )
        if name not in self.names:
            raise RecipeError(
                f"recipe: {where} names {name!r}, and there is no such stage{nearest(str(name), self.names)}; {before}"
            )
        if all(stage.name != name for stage in self.stages):
            raise RecipeError(
                f"recipe: {where} names {name}, which does not come before it; {before}"
            )
        if name not in able:
            raise RecipeError(
                f"recipe: {where} names {name}, a stage {self._made_by(name).kind}, which makes no "
                f"{what.split()[-1]}; {before}"
            )
        return str(name)

    def _model_from(
        self, where: str, stage_kind: str, entry: Mapping[str, Any], own: Mapping[str, Any]
    ) -> str | None:
        """The stage whose model it starts from, ``base``, or None where it names its model."""
        given = entry.get("from")
        if stage_kind == "evaluate":
            if given is not None:
                raise RecipeError(
                    f"recipe: {where}.from is set, but a stage evaluate names its models under it: models: [{given}]"
                )
            return BASE
        model = own.get("model")
        names_model = isinstance(model, Mapping) and model.get("name") is not None
        if given is not None and names_model:
            raise RecipeError(
                f"recipe: {where} has both from and model.name; it starts from one model, so keep one of them"
            )
        if given is not None and given != BASE:
            return self._earlier(f"{where}.from", given, "a model", MODEL_OF)
        if names_model:
            return None
        able = [stage.name for stage in self.stages if stage.kind in MODEL_OF]
        if able and given is None:
            return able[-1]
        if not _name_of_base(self.shared):
            raise RecipeError(
                f"recipe: model.name is missing, and {where} starts from it; name a hub id or a folder"
            )
        return BASE

    def _data_from(self, where: str, entry: Mapping[str, Any]) -> str | None:
        data = entry.get("data")
        if data is None:
            return None
        if not isinstance(data, Mapping):
            raise RecipeError(
                f"recipe: {where}.data must be a section such as {{from: NAME}}, not {kind(data)}"
            )
        if "from" not in data:
            return None
        if data.get("source") is not None or data.get("sources"):
            raise RecipeError(
                f"recipe: {where}.data has both from and a source; its rows come from one place, so keep one of them"
            )
        return self._earlier(f"{where}.data.from", data["from"], "rows of data", DATA_OF)

    def _teachers(self, where: str, values: dict[str, Any]) -> list[str]:
        """The stages whose models teach; in `values` their names become places."""
        found = []
        for section, name in TEACHERS:
            part = values.get(section)
            teacher = part.get(name) if isinstance(part, Mapping) else None
            if isinstance(part, Mapping) and teacher in self.names:
                found.append(
                    self._earlier(f"{where}.{section}.{name}", teacher, "a model", MODEL_OF)
                )
                values[section] = {**part, name: str(self._made_by(found[-1]).model)}
        return found

    def _samples(self, values: dict[str, Any]) -> list[str]:
        """The stages whose stored completions are taken; in `values` their names become folders."""
        section = values.get("reject")
        samples = section.get("samples") if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping) or not isinstance(samples, list):
            return []
        made = {stage.name: stage for stage in self.stages}
        taken = [Path(str(place)) for place in samples]
        named = [place.name for place in taken if place.name in made and not place.exists()]
        values["reject"] = {
            **section,
            "samples": [
                str(made[place.name].folder) if place.name in named else given
                for place, given in zip(taken, samples)
            ],
        }
        return named

    def _every_model(self, base: Any) -> dict[str, str]:
        """What is evaluated by default beside the base: each model that was made, after the one it began with."""
        models: dict[str, str] = {}
        for stage in self.stages:
            own = stage.recipe.model.name
            if stage.kind in MODEL_OF and stage.model_from is None and own and own != base:
                models[_label(own)] = own
            if stage.kind in MODEL_OF:
                models[stage.name] = stage.name
        return models

    def _models(self, where: str, values: dict[str, Any]) -> list[str]:
        """The stages whose models are evaluated; in `values` the models become a mapping from label to place."""
        section = values.get("evaluate")
        section = dict(section) if isinstance(section, Mapping) else {}
        has_base = _name_of_base(values)
        given = section.get("models")
        if given is None:
            given = {**({BASE: BASE} if has_base else {}), **self._every_model(has_base)}
        if not isinstance(given, (list, Mapping)) or not given:
            raise RecipeError(
                f"recipe: {where}.evaluate.models must be a list of stages, or a mapping of names to stages, folders "
                f"or hub ids, not {kind(given) if given else 'empty'}"
            )
        labels = dict(given) if isinstance(given, Mapping) else {name: name for name in given}
        needs = []
        places: dict[str, Any] = {}
        for label, name in labels.items():
            if name == BASE and has_base:
                places[label] = has_base
            elif name in self.names or not isinstance(given, Mapping):
                needs.append(self._earlier(f"{where}.evaluate.models", name, "a model", MODEL_OF))
                places[label] = str(self._made_by(name).model)
            else:
                places[label] = name
        values["evaluate"] = {**section, "models": places}
        values.pop("epochs", None)
        values["steps"] = len(places)
        return needs


def _label(model: str) -> str:
    """A name for the row of a model that a stage starts from: ``Qwen2-5-0-5B-base``."""
    name = re.sub("[^A-Za-z0-9_-]+", "-", Path(model).name).strip("-")
    return name if name.endswith(BASE) else f"{name}-{BASE}"


def _learns_traces(own: Mapping[str, Any]) -> bool:
    """Whether a stage distill learns rows of data as they stand."""
    section = own.get("distill")
    return isinstance(section, Mapping) and section.get("method") == "traces"


def _samples_with_tools(*layers: Mapping[str, Any]) -> bool:
    """Whether a stage that learns rows has rewards, so that its evaluations sample, and somebody who answers there."""
    has_rewards = any(layer.get("rewards") for layer in layers)
    has_tools = any(layer.get("tools") or _environment_used(layer) for layer in layers)
    return has_rewards and has_tools


def _environment_used(layer: Mapping[str, Any]) -> Any:
    """The environment that a layer of a recipe names."""
    section = layer.get("environment")
    return section.get("use") if isinstance(section, Mapping) else section


def _own_values(name: str, stage_kind: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage says itself: the sections under its kind, and its data."""
    own = dict(entry[stage_kind])
    for key in OF_RUN:
        if key in own:
            raise RecipeError(
                f"recipe: stages.{name}.{stage_kind}.{key} is set, but the list of stages decides it; remove it"
            )
    data = entry.get("data")
    inside = own.get("data")
    if isinstance(inside, Mapping) and "from" in inside:
        raise RecipeError(
            f"recipe: stages.{name}.{stage_kind}.data.from is set; write data: {{from: {inside['from']}}} beside "
            f"{stage_kind}, not under it"
        )
    own = name_entries(own)
    given = data if isinstance(data, Mapping) else {}
    rows = {key: part for key, part in given.items() if key != "from"}
    if rows:  # an empty section would empty what is shared
        own["data"] = merge(own.get("data", {}), rows, empties=True)
    return own


def _shared_data(data: Mapping[str, Any], own: Any, *, has_rows: bool) -> dict[str, Any]:
    """The shared keys of ``data`` that say something of a stage's rows."""
    if has_rows:
        return {key: part for key, part in data.items() if key in FOR_EACH_SET}
    own = own if isinstance(own, Mapping) else {}
    names_other = bool(own.get("sources")) or own.get("source") not in (None, data.get("source"))
    if names_other:
        return {key: part for key, part in data.items() if key not in OF_ROWS}
    return dict(data)


def _made(section: Any, place: Path | None) -> dict[str, Any]:
    """The section ``model`` for a model that a stage has made, which is whole."""
    section = dict(section) if isinstance(section, Mapping) else {}
    rest = {key: part for key, part in section.items() if key not in ("adapter", "revision")}
    return {**rest, "name": str(place)}


def _name_of_base(shared: Mapping[str, Any]) -> Any:
    model = shared.get("model")
    return model.get("name") if isinstance(model, Mapping) else None


def _without(values: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """`values` without the key at `path`."""
    first, *rest = path
    part = values.get(first)
    if not rest:
        return {key: value for key, value in values.items() if key != first}
    if not isinstance(part, Mapping):
        return dict(values)
    return {**values, first: _without(part, rest)}


def _recipe(where: str, values: Mapping[str, Any]) -> Recipe:
    """The recipe of one stage; what is wrong with it is said of the stage."""
    try:
        return Recipe.from_mapping(values)
    except RecipeError as error:
        reason = str(error).removeprefix("recipe: ")
        raise RecipeError(f"recipe: {where}: {reason}") from None
