"""Recipes as text: YAML in and out, ``a.b=value`` overrides, paths, and the recipes that ship with the library.

Loading executes nothing: a safe loader reads the YAML under the rules of YAML 1.2 (``1e-6`` is a number, ``no`` is
text), and refuses a key that appears twice in one section. Which keys exist is checked in ``build``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Iterator, Mapping

import yaml

from grpo.recipe.values import RecipeError, in_quotes, kind
from rewards.readers import can_read
from rewards.spelling import nearest
from rewards.tasks import TASKS

KEYS_OF_MODELS = (
    ("model", "name"),
    ("loss", "teacher"),
    ("distill", "teacher"),
)
"""Keys that may name a model that ships with the library, too."""
KEYS_THAT_MAY_BE_PATHS = (
    *KEYS_OF_MODELS,
    ("model", "adapter"),
    ("sft", "chat_template"),
)
SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", ["<"]),
)
"""YAML 1.2's scalars: tag, pattern, and the characters that such a value may begin with."""


def find_recipe(path: str | os.PathLike[str]) -> Path:
    """The file that `path` names: a file as it is, or else a recipe that ships with the library."""
    file = Path(path).expanduser()
    if file.is_file():
        return file.absolute()
    for shipped in _shipped(file):
        if shipped.is_file():
            return shipped
    raise RecipeError(f"recipe: {_nothing_there(file)}")


def _nothing_there(file: Path) -> str:
    names = shipped_recipes()
    ships = f"the recipes that ship are {', '.join(names)}"
    if file.is_dir():
        return f"{file} is a folder that holds no run (no recipe.yaml); give the path of a YAML file; {ships}"
    if "=" in file.name:
        return f"{file} is no recipe; name one before the keys to set; {ships}"
    return (
        f"there is no file {file}{nearest(file.stem, names)}; give the path of a YAML file; {ships}"
    )


def shipped_recipes() -> list[str]:
    """The names of the recipes that ship with the library."""
    found = {file.stem for folder in _recipe_folders() for file in folder.glob("*.yaml")}
    return sorted(found)


def shipped_model(name: str) -> Path | None:
    """The folder of the model that ships beside the recipes as ``name`` or ``recipes/name``; None if none does."""
    path = Path(name)
    if path.parts[:-1] not in ((), ("recipes",)):
        return None
    models = [file.parent for place in _recipe_folders() for file in place.glob("*/config.json")]
    return next((folder for folder in models if folder.name == path.name), None)


def _recipe_folders() -> list[Path]:
    """Where recipes lie in an installation, or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "recipes"
    return [installed] if installed.is_dir() else [package.parent / "recipes"]


def _shipped(file: Path) -> Iterator[Path]:
    """Where ``name``, ``name.yaml`` and ``recipes/name.yaml`` may be found, in a checkout and in an installation."""
    if file.parts[:-1] not in ((), ("recipes",)):
        return
    for folder in _recipe_folders():
        yield folder / file.name
        yield folder / f"{file.name}.yaml"


# ---- YAML in ------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, and no key twice."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first_characters in SCALARS:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first_characters
    )


def _mapping_without_duplicates(
    loader: _Loader, node: yaml.MappingNode, deep: bool = False
) -> dict[Any, Any]:
    seen: set[str | int] = set()
    is_whole_file = node.start_mark.column == 0 and not node.flow_style
    for key_node, _ in node.value:
        name = _key_of(loader, key_node, may_be_number=not is_whole_file)
        if name in seen:
            raise RecipeError(
                f"recipe: line {key_node.start_mark.line + 1}: the key {name} appears twice in one "
                "section; remove one of them"
            )
        seen.add(name)
    loader.flatten_mapping(node)
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        name = loader.construct_object(key_node, deep=True)
        mapping[name] = loader.construct_object(value_node, deep=True)
    return mapping


def _key_of(loader: _Loader, node: yaml.Node, may_be_number: bool) -> str | int:
    """A key; inside a section it may be the number of a step."""
    if node.tag.endswith(":merge"):
        return "<<"
    name = loader.construct_object(node, deep=True)
    if may_be_number and isinstance(name, int) and not isinstance(name, bool):
        return name
    if not isinstance(name, str):
        raise RecipeError(
            f"recipe: line {node.start_mark.line + 1}: a key must be text, not {kind(name)}"
            f"{in_quotes(name)}"
        )
    return name


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value.replace("_", ""))


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)
_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"recipe: {file} is not UTF-8 text ({error.reason} at byte {error.start}); save it as "
            "UTF-8"
        ) from None
    except OSError as error:
        raise RecipeError(f"recipe: {file} cannot be read: {error.strerror}") from None
    values = parse_yaml(text, file.name)
    if not isinstance(values, dict):
        raise RecipeError(f"recipe: {file.name} holds {kind(values)}, not a mapping of keys")
    return values


def parse_yaml(text: str, where: str) -> Any:
    """The value of `text`; `RecipeError` with the line for what is not YAML. `where` names the text in messages."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise RecipeError(f"recipe: {where}{_syntax_error(error)}") from None
    except yaml.reader.ReaderError as error:
        raise RecipeError(
            f"recipe: {where}, character {error.position + 1}: not valid YAML: {error.reason}"
        ) from None
    except RecipeError:
        raise
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise RecipeError(
            f"recipe: {where}: a number or a !!tag in it cannot be read: {error}"
        ) from None


def _syntax_error(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line = f", line {mark.line + 1}" if mark else ""
    problem = ", ".join(filter(None, (error.context, error.problem)))
    tab = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
    return f"{line}: not valid YAML: {problem}{tab}"


# ---- YAML out -----------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML version would read as something else."""


def _resolvers_of_both_versions() -> dict[str, list[Any]]:
    old = yaml.SafeDumper.yaml_implicit_resolvers
    new = _Loader.yaml_implicit_resolvers
    return {first: [*old.get(first, ()), *new.get(first, ())] for first in {**old, **new}}


_Dumper.yaml_implicit_resolvers = _resolvers_of_both_versions()


def to_yaml(values: Mapping[str, Any]) -> str:
    """`values` as YAML that `read_yaml` reads back as the same."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


# ---- overrides and paths ------------------------------------------------------------------------------------


def parse_override(override: str) -> dict[str, Any]:
    """``"a.b=1"`` as a nested mapping; the value is read as YAML, a path is relative to the working folder."""
    return resolve_paths(override_values(override), Path.cwd())


def override_values(override: str) -> dict[str, Any]:
    """``"a.b=1"`` as a nested mapping, paths as they are."""
    path, sign, text = override.partition("=")
    names = [name.strip() for name in path.split(".")]
    if not sign or not all(names):
        raise RecipeError(f"recipe: {override!r} is not an override; write section.key=value")
    value = parse_yaml(text, f"the value of {path}")
    for name in reversed(names):
        value = {name: value}
    return dict(value)


def resolve_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`values` with the keys that may be paths made absolute from `folder`."""
    values = dict(values)
    run_dir = values.get("run_dir")
    if isinstance(run_dir, str) and run_dir.strip():
        values["run_dir"] = _absolute(run_dir, folder)
    log = values.get("log")
    if isinstance(log, dict) and isinstance(log.get("tensorboard"), dict):
        values["log"] = {**log, "tensorboard": _with_folder(log["tensorboard"], folder)}
    values = _with_server_folder(values, folder)
    for section, name in KEYS_THAT_MAY_BE_PATHS:
        part = values.get(section)
        if isinstance(part, dict) and name in part:
            values[section] = {**part, name: _absolute_if_path(part[name], folder)}
    reject = values.get("reject")
    if isinstance(reject, dict) and isinstance(reject.get("samples"), list):
        values["reject"] = {**reject, "samples": _absolute_all(reject["samples"], folder)}
    if "data" in values:
        values["data"] = _in_rows_section(values["data"], folder, "sources")
    if "evaluate" in values:
        values["evaluate"] = _in_rows_section(values["evaluate"], folder, "sets")
    if "rewards" in values:
        values["rewards"] = _in_rewards(values["rewards"], folder)
    if isinstance(values.get("tools"), list):
        values["tools"] = [_function_path(name, folder) for name in values["tools"]]
    if "environment" in values:
        values["environment"] = _environment_path(values["environment"], folder)
    if isinstance(values.get("stages"), dict):
        values["stages"] = {
            name: _in_stage(entry, folder) for name, entry in values["stages"].items()
        }
    return values


def with_shipped_models(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the names of models that ship with the library, such as ``quickstart_base``, as their folders.

    A file or folder of that name in the working folder goes before. ``stages`` are a mapping by name.
    """
    found = dict(values)
    for section, name in KEYS_OF_MODELS:
        part = found.get(section)
        shipped = _shipped_if_named(part.get(name)) if isinstance(part, Mapping) else None
        if shipped is not None:
            found[section] = {**part, name: shipped}
    stages = found.get("stages")
    if isinstance(stages, Mapping):
        found["stages"] = {name: _with_models_of_stage(entry) for name, entry in stages.items()}
    return found


def _with_models_of_stage(entry: Any) -> Any:
    """An entry of ``stages`` with the models that the sections under its kind name."""
    if not isinstance(entry, Mapping):
        return entry
    return {
        name: with_shipped_models(part) if isinstance(part, Mapping) else part
        for name, part in entry.items()
    }


def _shipped_if_named(value: Any) -> str | None:
    """The folder of the model that ships under this name, unless the working folder has something of that name."""
    shipped = shipped_model(value) if isinstance(value, str) and value else None
    return None if shipped is None or Path(value).exists() else str(shipped)


def _with_server_folder(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`values` with the folder of ``sample`` in which weights for servers lie."""
    section = values.get("sample")
    if not isinstance(section, dict) or not isinstance(section.get("server_folder"), str):
        return values
    path = _absolute(section["server_folder"], folder)
    return {**values, "sample": {**section, "server_folder": path}}


def _in_stage(entry: Any, folder: Path) -> Any:
    """An entry of ``stages``: its rows, and under its kind the sections of a recipe."""
    if not isinstance(entry, dict):
        return entry
    resolved = {
        name: resolve_paths(part, folder) if isinstance(part, dict) else part
        for name, part in entry.items()
    }
    if "data" in entry:
        resolved["data"] = _in_rows_section(entry["data"], folder, "sources")
    return resolved


def _absolute_all(paths: list[Any], folder: Path) -> list[Any]:
    """Folders made absolute; what is no text is left for `build` to refuse."""
    return [_absolute(path, folder) if isinstance(path, str) else path for path in paths]


def _with_folder(section: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A section whose key ``folder`` is a path, if it is set."""
    value = section.get("folder")
    if not isinstance(value, str) or not value.strip():
        return section
    return {**section, "folder": _absolute(value, folder)}


def _in_rows_section(section: Any, folder: Path, entries: str) -> Any:
    """A section with a ``source``, rewards, or further such sections as a list or mapping under `entries`."""
    if isinstance(section, list):
        return [_in_rows_section(part, folder, entries) for part in section]
    if not isinstance(section, dict):
        return section
    resolved = dict(section)
    if "source" in resolved:
        resolved["source"] = _absolute_if_path(resolved["source"], folder)
    if "rewards" in resolved:
        resolved["rewards"] = _in_rewards(resolved["rewards"], folder)
    parts = resolved.get(entries)
    if isinstance(parts, list):
        resolved[entries] = [_in_rows_section(part, folder, entries) for part in parts]
    elif isinstance(parts, dict):
        resolved[entries] = {
            name: _in_rows_section(part, folder, entries) for name, part in parts.items()
        }
    return resolved


def _in_rewards(rewards: Any, folder: Path) -> Any:
    if not isinstance(rewards, dict):
        return rewards
    return {name: _reward_path(part, folder) for name, part in rewards.items()}


def _absolute(text: str, folder: Path) -> str:
    return str((folder / Path(text).expanduser()).resolve())


def _absolute_if_path(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or not value.strip() or value in TASKS:
        return value
    path = Path(value).expanduser()
    names_a_file = path.suffix == ".gguf" or can_read(value)
    looks_like_one = value.startswith((".", "/", "~")) or names_a_file
    if looks_like_one or (folder / path).exists():
        return _absolute(value, folder)
    return value


def _reward_path(part: Any, folder: Path) -> Any:
    if not isinstance(part, dict) or "use" not in part:
        return part
    return {**part, "use": _function_path(part["use"], folder)}


def _environment_path(value: Any, folder: Path) -> Any:
    """The section, or the name that is short for it."""
    return _reward_path(value, folder) if isinstance(value, dict) else _function_path(value, folder)


def _function_path(use: Any, folder: Path) -> Any:
    """``file.py:function`` with the file's path absolute; any other value as it is."""
    if not isinstance(use, str) or ".py:" not in use:
        return use
    file, _, function = use.rpartition(":")
    return f"{_absolute(file, folder)}:{function}"
