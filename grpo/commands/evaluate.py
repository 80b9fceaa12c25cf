"""The command ``grpo evaluate``: its arguments, and what it prints. The work is done by ``grpo.evaluate``.

Nothing here imports torch before the command runs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from grpo.commands.screen import add_screen_options, loading_libraries, opened

if TYPE_CHECKING:
    from grpo.report.console.console import Console

OTHER_DATA = (
    "data.sources={}",
    "data.held_out=0",
    "evaluate.sets={}",
    "checkpoint.best_by=null",
)
"""Overrides that leave out what a run was trained and evaluated on, where other data takes its place."""
OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.[\w-]+)*=.*", re.DOTALL)
PROTOCOLS: Mapping[str, Mapping[str, float]] = {
    "greedy": {"evaluate.temperature": 0.0, "evaluate.samples": 1},
    "deepseek": {
        "evaluate.temperature": 0.6,
        "sample.top_p": 0.95,
        "sample.top_k": 0,
        "sample.min_p": 0.0,
    },
}
"""Published ways to sample, by name. ``deepseek`` is that of DeepSeek-R1 (arXiv 2501.12948, section 3): pass@1 is the
mean over the samples; it took 4 to 64 of them and at most 32,768 tokens, which remain the recipe's."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = (
        "Held-out rows (data.held_out) are evaluated, or all if none is held out. With --data, all of "
        "that data. --protocol greedy: temperature 0, one sample; deepseek: temperature 0.6, top-p 0.95."
    )
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="MODEL_OR_RUN",
        help="run folder, model folder, .gguf file or hub id, one or more; then recipe keys as key=value, "
        "e.g. sample.max_tokens=256",
    )
    parser.add_argument("--recipe", help="take data, rewards and sampling from this recipe")
    parser.add_argument(
        "--data", help="hub id, .jsonl/.csv/.parquet file, or a procedural task's name"
    )
    parser.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME",
        help="a published test set, such as gsm8k; may be given again (docs/benchmarks.md)",
    )
    parser.add_argument("--samples", type=int, help="completions for each prompt")
    parser.add_argument("--temperature", type=float, help="0 is greedy")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), help="a published way to sample")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="compare each with the first, paired by prompt: difference, interval, p-value",
    )
    parser.add_argument(
        "--rescore",
        action="store_true",
        help="the targets are files of --completions: score them again, sample nothing",
    )
    parser.add_argument(
        "--completions", type=Path, help="write every completion to this JSONL file"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_screen_options(parser)


def run(options: argparse.Namespace, command: str) -> int:
    """Evaluate, print, and return the exit code."""
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import

    overrides = [text for text in options.targets if _is_override(text)]
    targets = [text for text in options.targets if not _is_override(text)]
    if not targets:
        raise RecipeError("evaluate: name a model or a run folder before the keys")
    if options.completions and not options.completions.absolute().parent.is_dir():
        raise RecipeError(
            f"evaluate: there is no folder {options.completions.absolute().parent} for --completions"
        )
    with opened(options, stream=sys.stderr) as console:
        reports = _reports(options, targets, overrides, console)
    if options.compare and len(reports) < 2:
        raise RecipeError(f"evaluate: --compare needs two models at least, found {len(reports)}")
    _print(reports, options)
    return 0


def _is_override(text: str) -> bool:
    return OVERRIDE.fullmatch(text) is not None and not Path(text).exists()


def _reports(
    options: argparse.Namespace, targets: Sequence[str], overrides: Sequence[str], console: Console
) -> list[dict[str, Any]]:
    """The evaluation of each target; whatever can be refused is refused before the first begins."""
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.recipe.target import evaluation_recipe  # noqa: PLC0415  slow to import

    if options.rescore:
        return _rescored(options, targets, overrides, console)
    if options.compare and len(targets) < 2:
        raise RecipeError(
            f"evaluate: --compare needs two models at least, found {targets[0]} alone"
        )
    given = {
        "data.source": options.data,
        **PROTOCOLS.get(options.protocol, {}),
        **_said(options),
    }
    keys = [*(OTHER_DATA if options.data else ()), *_as_overrides(given)]
    keys += [*_benchmarks(options.benchmark), *overrides]
    recipes = [evaluation_recipe(target, options.recipe, keys) for target in targets]
    with loading_libraries(console):
        from grpo import evaluate  # noqa: PLC0415  heavy: torch
        from grpo.recipe.shorthands import HELD_OUT  # noqa: PLC0415  slow to import
        from grpo.run.setup import hide_progress_bars  # noqa: PLC0415  heavy: torch

    hide_progress_bars()
    holds_out = any(override.startswith("data.held_out=") for override in overrides)
    every_row = options.data is not None and not holds_out
    reports = []
    for target, recipe in zip(targets, recipes):
        warning = evaluate.trained_rows(target, recipe.data)
        if warning:
            console.say(warning)
        names_rewards = _names_rewards(target, options.recipe, overrides)
        with console.working():
            found = evaluate.evaluate_sets(recipe, every_row=every_row, say=console.say)
        for report in found:
            of_set = recipe.evaluate.sets.get(report.get("set", HELD_OUT))
            by_default = not names_rewards and not (of_set and of_set.rewards)
            reports.append(
                {**report, "protocol": options.protocol, "rewards_by_default": by_default}
            )
    return reports


def _names_rewards(target: str, recipe: str | None, overrides: Sequence[str]) -> bool:
    """Whether the command says what scores completions; else it is math_answer."""
    from grpo.recipe.target import final_stage, is_run_folder  # noqa: PLC0415  slow to import

    if recipe is not None or is_run_folder(final_stage(target)):
        return True
    return any(override.startswith(("rewards=", "rewards.")) for override in overrides)


def _benchmarks(names: Sequence[str]) -> list[str]:
    return [f"evaluate.sets.{name}={{benchmark: {name}}}" for name in names]


def _said(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for in so many words, which goes before a protocol."""
    said = {
        "evaluate.samples": options.samples,
        "evaluate.temperature": options.temperature,
    }
    return {key: value for key, value in said.items() if value is not None}


def _rescored(
    options: argparse.Namespace, targets: Sequence[str], overrides: Sequence[str], console: Console
) -> list[dict[str, Any]]:
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.recipe.target import evaluation_recipe  # noqa: PLC0415  slow to import

    sampling = ("data", "samples", "temperature", "protocol")
    unused = [f"--{name}" for name in sampling if getattr(options, name) is not None]
    if unused:
        raise RecipeError(f"evaluate: --rescore samples nothing, so {unused[0]} means nothing")
    with loading_libraries(console):
        from grpo.evaluate import rescore  # noqa: PLC0415  heavy: torch

    reports = []
    for target in targets:
        source = f"data.source={json.dumps(target)}"
        recipe = evaluation_recipe(target, options.recipe, [*OTHER_DATA, source, *overrides])
        by_default = not _names_rewards(target, options.recipe, overrides)
        with console.working():
            found = rescore(Path(target), recipe)
        reports += [{**report, "rewards_by_default": by_default} for report in found]
    return reports


def _as_overrides(values: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def _print(reports: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write the completions where they are wanted, print the rest."""
    from grpo.evaluate import compare_all  # noqa: PLC0415  heavy: torch
    from grpo.run.log import finite  # noqa: PLC0415  heavy: torch
    from grpo.run.stored import write_rows  # noqa: PLC0415  heavy: torch
    from grpo.run.tables import report_lines  # noqa: PLC0415  heavy: torch

    comparisons = compare_all(reports) if options.compare else []
    rows = [row for report in reports for row in report.pop("completions")]
    if options.completions:
        write_rows(rows, options.completions)
    if not options.json:
        print("\n".join(report_lines(reports, comparisons)))
    elif len(reports) == 1:
        print(json.dumps(finite(reports[0]), indent=1, ensure_ascii=False))
    else:
        whole = {"evaluations": reports, "comparisons": comparisons}
        print(json.dumps(finite(whole), indent=1, ensure_ascii=False))
