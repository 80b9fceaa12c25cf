"""The command ``grpo chat``: its arguments. The work is done by ``grpo.chat``.

Nothing here imports torch before the command runs.
"""

from __future__ import annotations

import argparse
import random
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from grpo.commands.exit_codes import EXIT_DONE

if TYPE_CHECKING:
    pass


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = (
        "/reset forgets the conversation, /exit leaves, Ctrl-C ends a reply. Piped input is one question a line, and "
        "only answers are written. A run is sampled as it was trained, with its tools, a model as its "
        "generation_config.json says."
    )
    parser.add_argument(
        "target", metavar="RUN_OR_MODEL", help="run folder, model folder, .gguf file or hub id"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="recipe keys, e.g. model.dtype=bfloat16 or data.template_args.enable_thinking=false",
    )
    parser.add_argument("--temperature", type=float, help="0 is greedy")
    parser.add_argument("--top-k", type=int, help="keep the k likeliest tokens; 0 keeps all")
    parser.add_argument("--top-p", type=float, help="keep tokens until their mass reaches p")
    parser.add_argument("--min-p", type=float, help="keep tokens so likely beside the likeliest")
    parser.add_argument("--max-tokens", type=int, help="longest reply, in tokens")
    parser.add_argument("--seed", type=int, help="the same seed and turns give the same replies")
    parser.add_argument("--system", help="the system prompt, for a chat template")
    parser.add_argument("--template", help="r1, chat, plain, or a text with {prompt} in it")
    parser.add_argument(
        "--thinking",
        choices=("show", "fold", "hide"),
        help="how thinking and calls are shown: dimmed (default), as one line, or not (default where output is piped)",
    )
    parser.add_argument(
        "--tools",
        help="what the model may call, separated by commas, e.g. calculator,python or mine.py:search, in place of the "
        "run's own; none: nothing",
    )
    parser.add_argument("--single", action="store_true", help="ask each question by itself")


def run(options: argparse.Namespace, command: str) -> int:
    """Talk until the questions end; returns the exit code."""
    from grpo.chat.setup import Wishes, describe, open_conversation  # noqa: PLC0415  heavy: torch
    from grpo.chat.terminal import Display, talk  # noqa: PLC0415  heavy: torch
    from grpo.run.setup import hide_progress_bars  # noqa: PLC0415  heavy: torch

    _check(options)
    hide_progress_bars()
    wishes = Wishes(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        max_tokens=options.max_tokens,
        template=options.template,
        system=options.system,
        seed=random.SystemRandom().getrandbits(32) if options.seed is None else options.seed,
        single=options.single,
        tools=_tools(options.tools),
    )
    conversation = open_conversation(options.target, options.overrides, wishes)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    mode = options.thinking or ("show" if is_terminal else "hide")
    display = Display(sys.stdout, mode, is_rich=is_terminal)
    with closing(conversation):
        for line in describe(conversation):
            display.note(line)
        if is_terminal:
            display.note("/help lists the commands")
        talk(conversation, display, is_terminal=is_terminal)
    return EXIT_DONE


def _tools(named: str | None) -> list[str] | None:
    """The tools of ``--tools``; None where the run decides."""
    if named is None:
        return None
    return [] if named == "none" else [name.strip() for name in named.split(",")]


def _check(options: argparse.Namespace) -> None:
    """Refuse what no sampler can do."""
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import

    limits = {
        "temperature": (0.0, float("inf")),
        "top_k": (0, float("inf")),
        "top_p": (1e-6, 1.0),
        "min_p": (0.0, 1.0),
        "max_tokens": (1, float("inf")),
    }
    for name, (low, high) in limits.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            shown = name.replace("_", "-")
            most = f" and at most {high:g}" if high != float("inf") else ""
            raise RecipeError(f"chat: --{shown} is {value:g}; it must be at least {low:g}{most}")
