"""A run that goes step by step in a folder of its own: opened, iterated, watched, asked to stop, closed.

`SteppedRun` says in which order; what is opened, what a step does and what is kept is filled in by ``lifecycle`` for
runs that learn, and by ``grpo.stages.reject`` for one that learns nothing. It knows of no model and no checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import Any, Iterator

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo.cost.meter import LOAD, OTHER, REPORT, SAVE, Meter
from grpo.distributed.process_group import Ranks
from grpo.monitor import watchdog
from grpo.recipe import Recipe, RecipeError
from grpo.report.console.console import Console, open_console
from grpo.report.console.heartbeat import FAILED, FINISHED, STOPPED
from grpo.report.console.opening import title
from grpo.report.folder import State
from grpo.run import inputs, setup
from grpo.run.log import Log, Record
from grpo.run.page import ended_early, written_report


class SteppedRun(ABC):
    """An iterator over the records of a run's steps, which opens on the first iteration and may be left and continued.

    ``stage`` is the only one that it makes runs of; without ``needs_model`` the recipe need not name one. A ``model``
    and its ``tokenizer`` are used in place of the recipe's. Raises `RecipeError` for what a user can fix.
    """

    recipe: Recipe

    def __init__(
        self,
        recipe: Recipe,
        *,
        stage: str,
        model: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        resume: bool,
        quiet: bool,
        verbose: bool,
        console: Console | None,
        needs_model: bool = True,
    ):
        if recipe.stage != stage:
            raise RecipeError(
                f"recipe: stage is {recipe.stage}, and {type(self).__name__} makes runs of stage {stage}; use "
                "grpo.stages.trainer_of(recipe)"
            )
        self.cost = Meter()
        self.folder = recipe.folder()
        self.resume = resume
        setup.hide_progress_bars()
        inputs.check_given(model, tokenizer)
        has_model = not needs_model or (model is not None and tokenizer is not None)
        inputs.check_recipe(recipe, resume=resume, has_model=has_model)
        self.watchdog = watchdog.Watchdog(recipe.watchdog)
        self.console = console or open_console(
            quiet=quiet or not inputs.is_first_rank(), verbose=verbose
        )
        self.console.title(title(recipe))
        self.step_seconds = 0.0
        self.stopped = False
        self.stop_requested = False
        self._model = model
        self._is_open = False
        self._is_finished = False

    # -- what a run fills in --------------------------------------------------------------------------------

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """How many steps the run has made."""

    @property
    @abstractmethod
    def summary(self) -> dict[str, Any] | None:
        """What ``summary.json`` holds once the run has ended; None before, and on other ranks than the first."""

    @property
    @abstractmethod
    def ranks(self) -> Ranks:
        """The processes of the run, once it is open."""

    @property
    @abstractmethod
    def log(self) -> Log:
        """What writes and shows the run, once it is open."""

    @abstractmethod
    def _open(self) -> None:
        """Prepare the folder and everything that works; `_is_open` is true from when there is something to close."""

    @abstractmethod
    def _make_step(self) -> Record:
        """Make the next step, write it, and return its record."""

    @abstractmethod
    def _keep(self) -> None:
        """Save what a run that stops here continues from."""

    @abstractmethod
    def _finish(self) -> None:
        """End a run whose steps are all made: `_is_finished`, unless it is stopped meanwhile."""

    @abstractmethod
    def _stop_work(self, failure: BaseException | None) -> None:
        """Stop the workers; after a `failure`, see to what is still being written."""

    @abstractmethod
    def _settle(self, *, failed: bool) -> None:
        """Wait for what is being written, stop the watchdog, end the account, and let others use the folder."""

    # -- from the first step to the last --------------------------------------------------------------------

    def train(self) -> dict[str, Any] | None:
        """Make all steps that are left; returns what ``summary.json`` holds (None on other ranks, or if stopped)."""
        for _ in self:
            pass
        return self.summary

    def __iter__(self) -> Iterator[Record]:
        if self._is_finished:
            return
        try:
            self.open()
            while self.num_steps < self.recipe.steps and not self._stopping():
                with self._at_work():
                    record = self._make_step()
                yield record
            if not self.stopped:
                with self._at_work():
                    self._finish()
        except GeneratorExit:
            self.console.rest()
            raise
        except BaseException as error:
            self.close(error)
            raise
        else:
            self.close()

    def open(self) -> None:
        """Load what the run works with and go back to where it was left; nothing if that is done."""
        self.watchdog.start()
        if self._is_open:
            return
        self.cost.begin()
        try:
            with self._on_screen(), self.cost.phase(LOAD):
                self._open()
        except BaseException as error:
            self.close(error)
            raise

    @contextmanager
    def _on_screen(self) -> Iterator[None]:
        """Show what is done inside the block; after an error nothing is left on the screen."""
        try:
            with self.console.working():
                yield
        except BaseException:
            self.console.close()
            raise

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Show that the run works inside the block, and count its time as the run's."""
        with self.console.working(), self.cost.phase(OTHER):
            yield

    # -- being stopped --------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Stop after the step under way; nothing of it is lost."""
        self.stop_requested = True
        self.console.notice = "stopping after this step"

    def _stopping(self) -> bool:
        """Whether some process was asked to stop; what the run continues from is then saved."""
        if not self.ranks.any(self.stop_requested):
            return False
        if not self.stopped:
            self.stopped = True
            with self._at_work(), self.cost.phase(SAVE):
                self._keep()
            self.cost.mark(self.num_steps)
        return True

    # -- the end --------------------------------------------------------------------------------------------

    def _write_report(self, state: State | None = None) -> None:
        """Write the run's ``report.html`` if the recipe asks for it; what fails costs a line, never the run."""
        if self.recipe.log.report and self.ranks.main:
            with self.cost.phase(REPORT):
                self.log.say(*written_report(self.folder, state))

    def close(self, failure: BaseException | None = None) -> None:
        """Stop workers, log and watchdog, once everything is written; iterating again reopens the run.

        After a `failure` nothing further is raised; if that is a KeyboardInterrupt, what is being written is dropped.
        """
        if not self._is_open:
            self.cost.end(failed=failure is not None)
            self.watchdog.stop()
            return
        with self._at_work():
            self._close(failure)

    def _close(self, failure: BaseException | None) -> None:
        self._is_open = False
        self.stop_requested = False
        self.resume = True
        self._stop_work(failure)
        if self.num_steps and not self._is_finished and not isinstance(failure, KeyboardInterrupt):
            self._write_report(ended_early(failure))
        self.log.close(failed=failure is not None, hurried=self.stopped)
        try:
            self._settle(failed=failure is not None)
        finally:
            self.console.close(self._state(failure))

    def _state(self, failure: BaseException | None) -> str:
        """What became of the run, for who watches its folder."""
        if failure is not None and not isinstance(failure, KeyboardInterrupt):
            return FAILED
        return FINISHED if self._is_finished else STOPPED
