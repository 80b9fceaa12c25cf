"""The commands that pages show, and whether each could be run: its program, options, keys, recipes and files are there.

Nothing is run: a script is imported and stopped where it has parsed its arguments.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, NoReturn, Sequence

import grpo.sample  # noqa: F401  what most scripts import, here rather than in the time of a test
from grpo import cli
from grpo.recipe.describe import recipe_keys
from grpo.recipe.files import shipped_recipes
from rewards.command_line import OneLineParser

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^ *```(?:sh|bash)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
ANY_BLOCK = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"(?:grpo|make|python|bash|torchrun|accelerate)(?: |$)")
SETTING = re.compile(r"([a-z_][\w.]*)=")
STAGE_KEY = re.compile(r"stages\.\w+\.\w+\.|(?:stages|seed|steps|epochs|run_dir)\b")


class Parsed(BaseException):
    """A script has taken its arguments."""


def commands_of(text: str) -> Iterator[str]:
    """Commands of shell blocks, then of inline code, each as one line."""
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield from _commands_of_line(line)
    for code in re.findall(r"`([^`]+)`", ANY_BLOCK.sub("", text)):
        yield from _commands_of_line(" ".join(code.split()))


def _commands_of_line(line: str) -> Iterator[str]:
    line = re.sub(r"(^|\s)#.*", "", line)
    for part in re.split(r"&&|\|\|?|;| [<>] \S+", line):
        words = re.sub(r"^(?:[A-Z_0-9]+=\S+ )*", "", part.strip())
        if PROGRAM.match(words) and words not in ("make", "grpo", "python"):
            yield words


def mistake(command: str) -> str:
    """What is wrong with a command; nothing if it could be run."""
    program, *words = shlex.split(command)
    words = [{"N": "2"}.get(word, word) for word in words if word != "..." and word[0] != "["]
    if program in ("torchrun", "accelerate"):
        if "-m" not in words:
            return ""
        words = words[words.index("-m") :]
        program = "python"
    return CHECKS[program](words)


def _of_make(words: Sequence[str]) -> str:
    made = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    return "" if words[0] in made else f"the Makefile does not make {words[0]}"


def _of_bash(words: Sequence[str]) -> str:
    script, *parts = words
    if script.startswith("-"):
        return ""
    if not (ROOT / script).is_file():
        return f"there is no {script}"
    known = re.findall(r"^ *([\w-]+)\)", (ROOT / script).read_text("utf-8"), re.MULTILINE)
    unknown = [part for part in parts if "/" not in part and part not in known]
    return f"{script} has no part {', '.join(unknown)}" if unknown else ""


def _of_python(words: Sequence[str]) -> str:
    if words[0] != "-m":
        return _of_script(words)
    if len(words) < 2 or words[1] in ("venv", "pip", "pytest"):
        return ""
    package, _, name = words[1].partition(".")
    if package == "benchmarks":
        return _stopped(lambda: _runnable(words[1]), words[2:])
    return _of_grpo([name, *words[2:]] if name else words[2:])


def _of_script(words: Sequence[str]) -> str:
    script = ROOT / words[0]
    if not script.is_file():
        return "" if "/" not in words[0] else f"there is no {words[0]}"
    if "parse_args" not in script.read_text("utf-8"):
        return ""
    return _stopped(lambda: _module_of(script), words[1:])


def _module_of(script: Path) -> Any:
    """A script as a module under a name that no import has, with its folder first on the path as when it is run."""
    spec = importlib.util.spec_from_file_location(f"script_{script.stem}", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(script.parent))
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(script.parent))
        del sys.modules[spec.name]
    return module


def _runnable(name: str) -> Any:
    """What ``python -m`` runs: the module, or the package's ``__main__``."""
    module = importlib.import_module(name)
    return importlib.import_module(f"{name}.__main__") if hasattr(module, "__path__") else module


def _stopped(load: Callable[[], Any], words: Sequence[str]) -> str:
    """What is wrong with a script's arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> NoReturn:
        parse(parser, list(words))
        raise Parsed

    argparse.ArgumentParser.parse_args = parse_and_stop  # type: ignore[method-assign, assignment]
    try:
        load().main()
    except Parsed:
        return ""
    except SystemExit:
        return f"refused: {' '.join(words)}"
    finally:
        argparse.ArgumentParser.parse_args = parse  # type: ignore[method-assign]
    return "it parses no arguments"


def _of_grpo(words: Sequence[str]) -> str:
    name, *arguments = words
    if name in cli.VERSION_WORDS:
        return ""
    if name not in cli.BY_NAME:
        return f"grpo has no command {name}"
    parser = OneLineParser(prog=name)
    command = cli.BY_NAME[name]
    add = command.add_arguments or importlib.import_module(command.module).add_arguments
    add(parser)
    wrong = _unknown_options(parser, arguments) or _refusal(parser, arguments)
    return wrong or _unknown_keys(arguments) or _unknown_recipe(name, arguments)


def _unknown_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> str:
    options = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    unknown = options - set(parser._option_string_actions)
    return f"unknown options {sorted(unknown)}" if unknown else ""


def _refusal(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> str:
    """Why the arguments are refused; a mention of a command may leave out what it works on."""
    resumable = ["--resume=last" if word == "--resume" else word for word in arguments]
    if "--help" in arguments:
        return ""
    parser.error = _raise  # type: ignore[method-assign]
    try:
        parser.parse_intermixed_args(resumable)
    except ValueError as refused:
        told = str(refused)
        is_short = (
            not arguments
            or told.startswith("the following arguments are required: ")
            and "-" not in told
        )
        return "" if is_short else f"refused: {told}"
    return ""


def _raise(message: str) -> NoReturn:
    raise ValueError(message)


def _unknown_keys(arguments: Sequence[str]) -> str:
    known = {key.name for key in recipe_keys()}
    sections = {name[: i.start()] for name in known for i in re.finditer(r"\.", name)}
    for before, word in zip(["", *arguments], arguments):
        setting = SETTING.match(word)
        if before.startswith("--") or setting is None or STAGE_KEY.match(setting[1]):
            continue
        key = setting[1]
        named = re.sub(r"^(rewards|data\.sources|evaluate\.sets)\.\w+", r"\1.<name>", key)
        is_free = any(key.startswith(f"{free}.") for free in ("data.args", "data.columns"))
        if not (is_free or {key, named} & (known | sections)):
            return f"the recipe has no key {key}"
    return ""


def _unknown_recipe(name: str, arguments: Sequence[str]) -> str:
    """Whether a bare word, or a file of the folder recipes, names no recipe that ships."""
    if name not in ("train", "sft", "distill", "plan") or not arguments:
        return ""
    target = arguments[0]
    if target.startswith("recipes/") and not (ROOT / target).exists():
        return f"there is no {target}"
    is_bare = re.fullmatch(r"[a-z][\w.]*_[\w.]*|quickstart", target) and target.islower()
    if is_bare and not target.endswith((".yaml", ".py")) and target not in shipped_recipes():
        return f"no recipe {target} ships"
    return ""


CHECKS: dict[str, Callable[[Sequence[str]], str]] = {
    "grpo": _of_grpo,
    "make": _of_make,
    "python": _of_python,
    "bash": _of_bash,
}
