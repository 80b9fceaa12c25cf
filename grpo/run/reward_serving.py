"""A reward server for a recipe: the rewards of its run and of its evaluation sets, and nothing else."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from typing import Callable, Iterator, Sequence

from grpo.recipe import Recipe, RecipeError, RewardsServiceSection
from grpo.run.reward_specs import load_rewards, rewards_of_set
from grpo.scoring import sandbox_options
from rewards import RewardSpec
from rewards.remote.server import Judges, RewardServer
from rewards.spelling import many


def judges_of(recipes: Sequence[Recipe], workers: int | None = None) -> list[Judges]:
    """Every list of rewards that runs of `recipes` ask for, each once; `RecipeError` for what cannot be served."""
    found: dict[str, Judges] = {}
    for recipe in recipes:
        options = sandbox_options(recipe.sandbox)
        for specs in _lists_of(recipe):
            try:
                judges = Judges.of(specs, options, workers=workers)
            except ValueError as error:
                raise RecipeError(f"recipe: {error}") from None
            found.setdefault(judges.identity.digest, judges)
    if not found:
        raise RecipeError("serve-rewards: the recipe has no rewards")
    return list(found.values())


def _lists_of(recipe: Recipe) -> Iterator[list[RewardSpec]]:
    """The rewards of the run, and those of its evaluation sets that have their own."""
    here = replace(recipe, rewards_service=RewardsServiceSection())
    if recipe.rewards:
        yield load_rewards(here)[0]
    for section in recipe.evaluate.sets.values():
        if section.rewards:
            yield rewards_of_set(section, here)[0]


def open_server(judges: Sequence[Judges], token: str, host: str, port: int) -> RewardServer:
    """The server, listening, with the workers of the run's rewards started."""
    try:
        server = RewardServer(judges, token, host=host, port=port)
    except OSError as error:
        raise RecipeError(f"serve-rewards: cannot listen at {host}:{port}: {error}") from None
    try:
        judges[0].service()
    except ValueError as error:
        raise RecipeError(f"serve-rewards: {error}") from None
    return server


def serve(server: RewardServer, say: Callable[[str], None]) -> None:
    """Answer until the process is asked to stop (Ctrl-C or SIGTERM)."""
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    thread = threading.Thread(target=server.serve, name="reward server", daemon=True)
    thread.start()
    for line in next(iter(server.judges.values())).service().isolation:
        say(line)
    names = [name for one in server.judges.values() for name in one.identity.rewards]
    say(f"ready: rewards_service.servers=[{server.url}] judges {', '.join(dict.fromkeys(names))}")
    asked.wait()
    server.close()
    say(
        f"stopped after {many(server.num_batches, 'batch')}, {many(server.num_samples, 'completion')}"
    )
