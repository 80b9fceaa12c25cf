"""The trackers by the key of the recipe that asks for one: the package each needs, and where its class is."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Callable, Iterator

import psutil

from grpo.recipe import LogSection, RecipeError
from grpo.report.trackers.tracker import Opening, Tracker


@dataclass(frozen=True, slots=True)
class Kind:
    """A tracker: the package that is imported for it, which is an extra of the same name, and the module that does.

    ``service`` is the name of the process that the package starts, and that the interpreter would wait for at its exit.
    """

    package: str
    module: str
    service: str = ""

    @property
    def open(self) -> Callable[[Any, Opening], Tracker]:
        """(section of the recipe, opening) -> the open tracker; imports the package."""
        opener: Callable[[Any, Opening], Tracker] = import_module(self.module).open_run
        return opener


KINDS = {
    "wandb": Kind("wandb", "grpo.report.trackers.wandb_run", service="wandb-core"),
    "tensorboard": Kind("tensorboard", "grpo.report.trackers.tensorboard_run"),
    "trackio": Kind("trackio", "grpo.report.trackers.trackio_run"),
    "mlflow": Kind("mlflow", "grpo.report.trackers.mlflow_run"),
}


def end_service(name: str) -> None:
    """Kill what tracker `name` has started, so that this process can end though that one does not answer."""
    service = KINDS[name].service
    for child in psutil.Process().children(recursive=True) if service else ():
        with suppress(psutil.Error):
            if child.name() == service:
                for process in [*child.children(recursive=True), child]:
                    process.kill()


def asked_for(section: LogSection) -> Iterator[tuple[str, Any]]:
    """The trackers that a recipe asks for, each with its section."""
    for field in fields(section):
        if field.name in KINDS and getattr(section, field.name) is not None:
            yield field.name, getattr(section, field.name)


def check_installed(section: LogSection) -> None:
    """Refuse a recipe that asks for a tracker whose package is not installed; nothing is imported."""
    for name, _ in asked_for(section):
        if not is_installed(KINDS[name].package):
            raise RecipeError(
                f"recipe: log.{name} needs the package {KINDS[name].package}, which is not installed; "
                f"pip install 'grpo-reasoner[{name}]', or leave log.{name} out"
            )


def is_installed(package: str) -> bool:
    """Whether a package can be imported; a mere folder of its name, as trackers leave them, is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
