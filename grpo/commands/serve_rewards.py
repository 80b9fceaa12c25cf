"""The command ``grpo serve-rewards``: its arguments. The work is done by ``grpo.run.reward_serving``."""

from __future__ import annotations

import argparse
import secrets
from typing import TYPE_CHECKING

from grpo.commands.exit_codes import EXIT_DONE
from grpo.commands.ports import port

if TYPE_CHECKING:
    from grpo.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = (
        "It judges by the rewards that this recipe names, and never by code that it is sent; programs in completions "
        "run in the sandbox of this machine. Whoever has the token (GRPO_REWARDS_TOKEN in the environment of both "
        "sides) may ask. The connection is not encrypted: keep it to 127.0.0.1, a network of yours, or a tunnel."
    )
    parser.add_argument("recipe", help="a YAML file, or the name of a recipe that ships")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="recipe keys to set"
    )
    parser.add_argument("--host", default="127.0.0.1", help="where it listens")
    parser.add_argument("--port", type=port, default=8100, help="where it listens (default: 8100)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="worker processes (default: one a core)"
    )


def run(options: argparse.Namespace, command: str) -> int:
    """Serve until it is stopped; returns the exit code."""
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.run import reward_serving  # noqa: PLC0415  slow to import
    from rewards.remote.client import TOKEN, token_of_environment  # noqa: PLC0415  slow to import

    token = token_of_environment()
    if not token and options.host not in ("127.0.0.1", "localhost", "::1"):
        raise RecipeError(
            f"serve-rewards: --host is {options.host}, which others may reach; set {TOKEN} to a secret first, here and "
            "where the run is"
        )
    judges = reward_serving.judges_of(_recipes(options), options.workers)
    chosen = token or secrets.token_urlsafe(24)
    server = reward_serving.open_server(judges, chosen, options.host, options.port)
    if not token:
        _say(f"for the run: export {TOKEN}={chosen}")
    reward_serving.serve(server, _say)
    return EXIT_DONE


def _recipes(options: argparse.Namespace) -> list[Recipe]:
    """The recipe, or those of its stages."""
    from grpo.recipe import Recipe  # noqa: PLC0415  slow to import
    from grpo.recipe.plan import Plan, has_stages  # noqa: PLC0415  slow to import

    if not has_stages(options.recipe):
        return [Recipe.load(options.recipe, *options.overrides)]
    return [stage.recipe for stage in Plan.load(options.recipe, *options.overrides).stages]


def _say(line: str) -> None:
    print(line, flush=True)
