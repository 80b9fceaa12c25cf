"""The settings in a file of another trainer, flat: YAML, JSON, a Python script, a shell script. Nothing is run.

A Python script is read for its calls of TRL's classes, whose arguments must be literals or names of literals; a shell
script for words such as ``data.train_batch_size=256``.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping

import yaml

from grpo.recipe import RecipeError, other_trainers
from grpo.recipe.files import parse_yaml

CONFIGS = (
    "GRPOConfig",
    "ModelConfig",
    "ScriptArguments",
    "GRPOScriptArguments",
    "TrainingArguments",
)
LORA = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "target_parameters": "lora_target_parameters",
    "modules_to_save": "lora_modules_to_save",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
"""peft's names and TRL's."""
PEFTS_DEFAULTS = {"lora_r": 8, "lora_alpha": 8}
POSITIONS = ("model", "reward_funcs", "args", "train_dataset", "eval_dataset")
"""The first parameters of GRPOTrainer."""
LOAD_DATASET = ("dataset_name", "dataset_config")
RENAMINGS = {
    "rename_column": ("original_column_name", "new_column_name"),
    "rename_columns": ("column_mapping",),
}
"""Methods of a data set that give columns new names, and their parameters."""
NEED_NOTHING = ("shuffle", "remove_columns", "select_columns")
"""Methods of a data set with nothing to set here: rows are shuffled anyway, further columns do no harm."""
VERL_SECTIONS = ("actor_rollout_ref", "algorithm", "trainer", "critic")


@dataclass(slots=True)
class Source:
    """Settings by their dotted names, and notes on what could not be read.

    ``functions`` are rewards that the script `file` itself defines. ``columns`` are new names of the training data's
    columns with the old ones.
    """

    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    file: Path | None = None
    functions: set[str] = field(default_factory=set)
    columns: dict[str, str] = field(default_factory=dict)


def read_settings(file: Path) -> Source:
    """The settings in `file`, by its kind. Raises `RecipeError`."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise RecipeError(f"convert: {file} cannot be read: {reason}") from None
    if file.suffix == ".py":
        return _ScriptReader(file, text).read()
    if file.suffix in (".sh", ".bash"):
        return _shell_settings(file, text)
    return _mapping_settings(file, text)


def guess_trainer(source: Source, file: Path) -> str:
    """Whose settings these are: of whom more are known by name."""
    if any(name.split(".")[0] in VERL_SECTIONS for name in source.settings):
        return "verl"
    if any(other_trainers.find("trl", name) for name in source.settings):
        return "trl"
    raise RecipeError(
        f"convert: {file} holds no setting of TRL's GRPOConfig and none of verl's; if it does, name the "
        "trainer by --from"
    )


# ---- YAML, JSON, shell -----------------------------------------------------------------------------------------


def _mapping_settings(file: Path, text: str) -> Source:
    if file.suffix == ".json":
        try:
            values = json.loads(text)
        except ValueError as error:
            raise RecipeError(f"convert: {file} is not JSON: {error}") from None
    else:
        values = _hydra_yaml(file, text)
    if not isinstance(values, dict):
        raise RecipeError(f"convert: {file} holds no mapping of settings")
    values.pop("defaults", None)  # Hydra's list of files that this one builds on
    is_verl = any(name in VERL_SECTIONS for name in values)
    settings = dict(_flat(values)) if is_verl else dict(_without_masks(values))
    return _resolved(Source(settings))


def _hydra_yaml(file: Path, text: str) -> Any:
    try:
        return parse_yaml(text, file.name)
    except RecipeError as error:
        raise RecipeError(str(error).replace("recipe:", "convert:", 1)) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"convert: {file} is not YAML: {error}") from None


def _flat(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        dotted = f"{where}.{name}" if where else str(name)
        if isinstance(value, Mapping) and value:
            yield from _flat(value, dotted)
        elif value != "???":  # Hydra's mark of a value that is missing
            yield dotted, value


def _without_masks(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """TRL's values; tokens that transformers has masked, and its own attributes, are none."""
    for name, value in values.items():
        is_masked = isinstance(value, str) and re.fullmatch(r"<[A-Z_]+>", value)
        if not is_masked and not str(name).startswith("_"):
            yield str(name), value


def _shell_settings(file: Path, text: str) -> Source:
    joined = re.sub(r"\\\s*\n", " ", text)
    source = Source({})
    for line in joined.splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            source.notes.append(f"the line {line.strip()[:60]!r}: {error}")
            continue
        for word in words:
            _take_word(source, word)
    variables = dict(
        re.findall(r"^\s*(?:export\s+)?(\w+)=[\"']?([^\s\"'$]+)", joined, re.MULTILINE)
    )
    for name, value in source.settings.items():
        if isinstance(value, str):
            source.settings[name] = _filled(value, variables)
    return _resolved(source)


def _take_word(source: Source, word: str) -> None:
    match = re.fullmatch(r"(?:\+{1,2}|--)?([a-z][\w]*(?:\.[\w@]+)+|[a-z_]+)=(.*)", word)
    if match is None or ("." not in match[1] and not word.startswith("--")):
        return
    try:
        source.settings[match[1]] = parse_yaml(match[2], match[1])
    except RecipeError:
        source.settings[match[1]] = match[2]


def _filled(text: str, variables: Mapping[str, str]) -> Any:
    """`text` with the script's own variables in it."""
    filled = re.sub(r"\$\{?(\w+)\}?", lambda match: str(variables.get(match[1], match[0])), text)
    return parse_yaml(filled, "a value") if filled != text and "$" not in filled else filled


def _resolved(source: Source) -> Source:
    """Hydra's ``${other.setting}`` replaced; what remains unknown is noted and left out."""
    for name, value in list(source.settings.items()):
        if not isinstance(value, str) or "$" not in value:
            continue
        value = re.sub(r"\$\{([\w.]+)\}", lambda match: _reference(source, match), value)
        if "$" in value:
            source.notes.append(f"{name}: {value} names a variable that is set elsewhere")
            del source.settings[name]
        else:
            source.settings[name] = value
    return source


def _reference(source: Source, match: re.Match[str]) -> str:
    value = source.settings.get(match[1])
    if value is None:
        row = other_trainers.find("verl", match[1])
        value = row.default if row is not None and isinstance(row.default, str) else None
    return match[0] if value is None else str(value)


# ---- Python ----------------------------------------------------------------------------------------------------


class _ScriptReader:
    """The arguments of TRL's classes in a script."""

    def __init__(self, file: Path, text: str):
        self.file = file
        self.source = Source({}, file=file)
        try:
            self.tree = ast.parse(text)
        except SyntaxError as error:
            raise RecipeError(
                f"convert: {file} is not Python: line {error.lineno}: {error.msg}"
            ) from None
        self.assigned = dict(_assignments(self.tree))
        self.imported = dict(_imports(self.tree))
        self.functions = {node.name for node in self.tree.body if isinstance(node, ast.FunctionDef)}

    def read(self) -> Source:
        calls = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        for call in calls:
            name = _name_of(call.func)
            if name in CONFIGS:
                self._take_keywords(call)
            elif name == "LoraConfig":
                self._take_lora(call)
            elif name == "GRPOTrainer":
                self._take_trainer(call)
        return self.source

    def _take_lora(self, call: ast.Call) -> None:
        self.source.settings |= {"use_peft": True, **PEFTS_DEFAULTS}
        for keyword in call.keywords:
            name = str(keyword.arg)
            if name in LORA:
                self._take(LORA[name], keyword.value)
                continue
            row = other_trainers.find("peft", name)
            is_default = row is not None and ast.unparse(keyword.value) == repr(row.default)
            if row is None or (row.fate == "not here" and not is_default):
                why = row.note if row is not None else "unknown"
                self.source.notes.append(f"LoraConfig's {name}: {why}")

    def _take_keywords(self, call: ast.Call) -> None:
        for keyword in call.keywords:
            if keyword.arg is None:
                self.source.notes.append(f"line {call.lineno}: **{ast.unparse(keyword.value)}")
            else:
                self._take(keyword.arg, keyword.value)

    def _take(self, name: str, node: ast.expr) -> None:
        try:
            self.source.settings[name] = self._value(node)
        except ValueError:
            self.source.notes.append(
                f"{name}: line {node.lineno}: {ast.unparse(node)} is no literal"
            )

    def _value(self, node: ast.expr) -> Any:
        """The value of a literal, of a name for one, or of a dtype of torch; `ValueError` for anything else."""
        if isinstance(node, ast.Name) and node.id in self.assigned:
            named = self.assigned[node.id]
            return ast.literal_eval(named) if isinstance(named, ast.Name) else self._value(named)
        if isinstance(node, ast.Attribute) and _name_of(node.value) == "torch":
            return node.attr  # torch.bfloat16
        if isinstance(node, ast.Dict):
            keys = [self._value(key) for key in node.keys if key is not None]
            return dict(zip(keys, map(self._value, node.values)))
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self._value(part) for part in node.elts]
        return ast.literal_eval(node)

    # -- GRPOTrainer(...) --------------------------------------------------------------------------------------

    def _take_trainer(self, call: ast.Call) -> None:
        given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        given |= dict(zip(POSITIONS, call.args))
        for name, node in given.items():
            if name == "model":
                self._take_model(node)
            elif name == "reward_funcs":
                self._take_rewards(node)
            elif name == "train_dataset":
                self._take_data(node)
            elif name == "eval_dataset":
                self._take_evaluation(node)
            elif name not in ("args", "peft_config"):  # read where these are made
                self.source.notes.append(f"line {node.lineno}: GRPOTrainer's {name}")

    def _take_model(self, node: ast.expr) -> None:
        made = self.assigned.get(node.id) if isinstance(node, ast.Name) else node
        if isinstance(made, ast.Call) and _name_of(made.func) == "from_pretrained" and made.args:
            self._take("model_name_or_path", made.args[0])
            for keyword in made.keywords:
                self._take(str(keyword.arg), keyword.value)
        else:
            self._take("model_name_or_path", node)

    def _take_rewards(self, node: ast.expr) -> None:
        if isinstance(node, ast.Name) and node.id in self.assigned:
            node = self.assigned[node.id]
        nodes = node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node]
        self.source.settings["reward_funcs"] = [self._reward(part) for part in nodes]

    def _reward(self, node: ast.expr) -> str:
        """The name of a reward as a recipe's ``use`` takes it, as far as the script says where it is."""
        name = node.value if isinstance(node, ast.Constant) else ast.unparse(node)
        if name in self.functions:
            self.source.functions.add(str(name))
            return f"{self.file}:{name}"
        module = self.imported.get(str(name).split(".")[0])
        if module is None or module.startswith("trl"):
            return str(name)
        beside = self.file.parent / f"{module.replace('.', '/')}.py"
        last = str(name).rpartition(".")[2]
        return f"{beside}:{last}" if beside.is_file() else f"{module}:{last}"

    def _take_data(self, node: ast.expr) -> None:
        load, columns = self._load_of(node, "train_dataset")
        if load is not None:
            self._take_load_dataset(load)
            self.source.columns = columns
        if isinstance(node, ast.Subscript):  # dataset["train"]
            self._take("dataset_train_split", node.slice)

    def _take_evaluation(self, node: ast.expr) -> None:
        """``eval_dataset`` as the arguments of the load_dataset that made it."""
        load, columns = self._load_of(node, "eval_dataset")
        if load is None:
            return
        nodes = dict(zip(("path", "name"), load.args))
        nodes |= {keyword.arg: keyword.value for keyword in load.keywords if keyword.arg}
        nodes["path"] = nodes.pop("data_files", nodes.get("path", ast.Constant(None)))
        if isinstance(node, ast.Subscript):
            nodes["split"] = node.slice
        try:
            self.source.settings["eval_dataset"] = {
                name: self._value(nodes[name])
                for name in ("path", "name", "split")
                if name in nodes
            } | ({"columns": columns} if columns else {})
        except ValueError:
            self.source.notes.append(
                f"eval_dataset: line {load.lineno}: {ast.unparse(load)} is no literal"
            )

    def _load_of(self, node: ast.expr, role: str) -> tuple[ast.Call | None, dict[str, str]]:
        """The load_dataset behind `node`, and new names of columns with the old ones.

        What else is done with the data is noted, and if there is no load_dataset.
        """
        whole = node.value if isinstance(node, ast.Subscript) else node
        name = whole.id if isinstance(whole, ast.Name) else ""
        steps = [*(value for target, value in _assignments(self.tree) if target == name), node]
        chain = [call for step in steps for call in _calls_in_order(step)]
        columns: dict[str, str] = {}
        for call in chain:
            if isinstance(call.func, ast.Attribute) and _name_of(call.func) != "load_dataset":
                self._take_step(call, columns, role)
        for call in chain:
            if _name_of(call.func) == "load_dataset":
                return call, columns
        self.source.notes.append(f"{role}: line {node.lineno}: {ast.unparse(node)}")
        return None, columns

    def _take_step(self, call: ast.Call, columns: dict[str, str], role: str) -> None:
        """What one method of a data set does to its `columns`; a note if that has no counterpart."""
        name = _name_of(call.func)
        if name in NEED_NOTHING:
            return
        try:
            renamed = self._renamed(call) if name in RENAMINGS else None
        except ValueError:
            renamed = None
        if renamed is None:
            self.source.notes.append(f"{role}: line {call.lineno}: .{name}(...) is not applied")
            return
        before = {
            old: columns.pop(old, old) for old in renamed
        }  # all at once: two may change places
        columns |= {new: before[old] for old, new in renamed.items()}

    def _renamed(self, call: ast.Call) -> dict[str, str] | None:
        """{old: new} of a rename_column or rename_columns; `ValueError` for what is no literal."""
        named = {str(keyword.arg): keyword.value for keyword in call.keywords}
        nodes = named | dict(zip(RENAMINGS[_name_of(call.func)], call.args))
        values = [
            self._value(nodes[name]) for name in RENAMINGS[_name_of(call.func)] if name in nodes
        ]
        if len(values) == 2:
            return {str(values[0]): str(values[1])}
        return dict(values[0]) if values and isinstance(values[0], dict) else None

    def _take_load_dataset(self, call: ast.Call) -> None:
        names = {"path": LOAD_DATASET[0], "name": LOAD_DATASET[1], "split": "dataset_train_split"}
        files = [keyword for keyword in call.keywords if keyword.arg == "data_files"]
        for name, node in zip(LOAD_DATASET, call.args):
            self._take(name, node)
        for keyword in call.keywords:
            if keyword.arg in names:
                self._take(names[keyword.arg], keyword.value)
            elif keyword.arg != "data_files":
                self.source.notes.append(
                    f"load_dataset's {keyword.arg}: {ast.unparse(keyword.value)}"
                )
        if files:  # load_dataset("json", data_files="rows.jsonl")
            self._take(LOAD_DATASET[0], files[0].value)


def _name_of(node: ast.expr) -> str:
    """The last part of a dotted name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _calls_in_order(node: ast.expr) -> list[ast.Call]:
    """The calls in an expression in the order in which they are made: ``a().b()`` makes a's first."""
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    return calls[::-1]


def _assignments(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Name in the script -> module that it is from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((name.asname or name.name, node.module) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from ((name.asname or name.name, name.name) for name in node.names)
