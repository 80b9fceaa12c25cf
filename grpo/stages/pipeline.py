"""The stages of a recipe, one after the other: begun, gone on with where one was killed, begun anew, and their end.

`Pipeline` runs a `grpo.recipe.plan.Plan`. A stage is an ordinary run in ``stages/NAME`` of the folder; what has become
of each is in ``stages.json``. What a stage may be made of is up to the plan, what it does to its own class.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Mapping

import torch

from grpo.distributed.process_group import Ranks
from grpo.monitor.redaction import redacted
from grpo.recipe import RecipeError, read_yaml, to_yaml
from grpo.recipe.plan import MAY_CHANGE, Plan, Stage
from grpo.report.console.console import Console, open_console
from grpo.report.pipeline import DONE, FAILED, FILE, LOCK, RUNNING, STOPPED, WAITING, PipelineFolder
from grpo.run.folder import check_folder, is_finished, lock, may_change, write_text
from grpo.run.inputs import is_first_rank
from grpo.run.log import append_console, finite
from grpo.run.page import written_report
from grpo.run.storage import recorded_costs
from grpo.stages import trainer_of
from grpo.stages.checks import check_stages
from grpo.stages.progress import StageBook
from grpo.stages.table import StageTable, table_of

WHOLE = ("evaluate", "export")
"""Kinds whose settings cannot change once they have begun: every piece of theirs is made by the same."""


class Pipeline:
    """The stages of a recipe, run in order.

    ``Pipeline(recipe, *overrides, resume=False, begin_at=None, only=None, quiet=False, verbose=False)``: ``recipe`` is
    a YAML file, the name of a recipe that ships, a nested mapping, or a `Plan`; ``overrides`` are ``a.b=value``.
    ``resume`` goes on in the recipe's folder, inside the stage that was interrupted. ``begin_at`` runs that stage and
    all after it anew, ``only`` that stage alone; what they replace, and what was made of it, is removed when they
    begin. Everything a user can get wrong is checked when a Pipeline is made; raises `RecipeError`.

    `train` runs what is left; ``last`` names the stage that runs or ran last, ``summary`` is then what
    ``summary.json`` holds, ``table`` the table of models and sets. After a stop ``stopped_at`` says where, in words.
    Of several processes the first decides what is left of each stage, and writes.
    """

    def __init__(
        self,
        recipe: str | os.PathLike[str] | Mapping[str, Any] | Plan,
        *overrides: str,
        resume: bool = False,
        begin_at: str | None = None,
        only: str | None = None,
        quiet: bool = False,
        verbose: bool = False,
    ):
        self.plan = _plan(recipe, overrides)
        self.folder = self.plan.folder
        self.quiet = quiet or not is_first_rank()
        self.verbose = verbose
        self.console: Console = open_console(quiet=self.quiet, verbose=verbose)
        self.last = ""
        self.stopped = False
        self.stopped_at = ""
        self.stop_requested = False
        self.summary: dict[str, Any] | None = None
        self.table: StageTable | None = None
        self._run: Any = None
        self._ranks = Ranks()
        self._replaced = _replaced(self.plan, begin_at, only)
        self._begin_at = begin_at
        self._only = only
        self.is_new = not resume and not self._is_anew_in_a_folder(begin_at, only)
        if is_first_rank():
            self._check_folder()
        self.book = StageBook(self.plan)
        self._check_needs()
        check_stages(self.plan, self._left())

    # -- before any work ----------------------------------------------------------------------------------------

    def _is_anew_in_a_folder(self, begin_at: str | None, only: str | None) -> bool:
        """Whether stages are to be run anew in a folder that is there; without one they begin it."""
        return (begin_at or only) is not None and (self.folder / "recipe.yaml").is_file()

    def _check_folder(self) -> None:
        """Refuse a folder that is taken, or was made by other stages or another recipe."""
        if self.is_new:
            check_folder(self.folder, self.plan.stages[0].recipe, False)
            return
        file = self.folder / "recipe.yaml"
        if not file.is_file() or "stages" not in read_yaml(file):
            raise RecipeError(
                f"run folder: there is no run of stages to resume in {self.folder}; leave --resume out to start one"
            )
        self._check_same_recipe()

    def _check_same_recipe(self) -> None:
        book = StageBook(self.plan)
        changes = self.plan.changes(Plan.of_run(self.folder))
        for stage in self.plan.stages:
            if stage.name in self._replaced or not (stage.folder / "recipe.yaml").is_file():
                continue  # nothing of it stands that other values would contradict
            refused = [
                f"{key} was {old!r}, is {new!r}"
                for key, old, new in changes.get(stage.name, ())
                if not _may_differ(stage, key, book)
            ]
            if refused:
                raise RecipeError(
                    f"run folder: {self.folder} was made by another recipe: stage {stage.name}: "
                    f"{'; '.join(refused)}; resume with the old values, begin there anew by --from {stage.name}, or "
                    "choose another run_dir"
                )

    def _check_needs(self) -> None:
        """Refuse to run a stage without the stages that it reads from."""
        left = [stage.name for stage in self._left()]
        for stage in self._left():
            for name in stage.needs:
                if name not in left and not self.book.is_done(name):
                    raise RecipeError(
                        f"stage {stage.name} reads from {name}, which is {self.book.status(name)}; run {name} first: "
                        "leave --from and --only out, and add --resume if the folder is there"
                    )

    def _left(self) -> list[Stage]:
        """The stages to run, in order."""
        if self._only is not None:
            return [stage for stage in self.plan.stages if stage.name == self._only]
        if self._begin_at is not None:
            return [stage for stage in self.plan.stages if stage.name in self._replaced]
        return [stage for stage in self.plan.stages if not self.book.is_done(stage.name)]

    # -- the work -----------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any] | None:
        """Run the stages that are left; what ``summary.json`` holds, None if stopped or with stages left."""
        self.stopped = False
        self.stopped_at = ""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self._ranks = Ranks.start()  # from here on no process is still reading the folder
        held = self._open()
        try:
            left = self._left()
            for number, stage in enumerate(self.plan.stages, start=1):
                if stage in left:
                    self._run_stage(number, stage)
                elif self.book.is_done(stage.name):
                    self._say(f"stage {number} of {len(self.plan.stages)}: {stage.name} is done")
                if self.stopped:
                    return None
            return self._finish()
        finally:
            self.stop_requested = False
            self._replaced = ()
            self._begin_at = None
            self._only = None
            self.console.close()
            if held is not None:
                held.close()

    def _open(self) -> BinaryIO | None:
        """Take the folder and write the recipe; forget what is to be replaced."""
        if not is_first_rank():
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        held = lock(self.folder, LOCK)
        try:
            for line in self._replacements():
                self._say(line)
            write_text(self.folder / "recipe.yaml", self.plan.to_yaml())
            self.book.forget(self._replaced)
            for file in ("table.json", "table.md", "summary.json"):
                if self._left():
                    (self.folder / file).unlink(missing_ok=True)
            for stage in self.plan.stages:
                if self.book.status(stage.name) == WAITING:
                    shutil.rmtree(stage.folder, ignore_errors=True)
                elif not self.book.is_done(stage.name):
                    _find_again(stage, self.folder)
        except BaseException:
            held.close()
            raise
        return held

    def _replacements(self) -> Iterator[str]:
        """What is removed because it, or what it was made of, is run anew."""
        for name in self._replaced:
            if self.book.status(name) != WAITING:
                yield f"replaced: stage {name}, which was {self.book.status(name)}, in stages/{name}"
            if self._only is not None and name != self._only:
                yield f"stage {name} was made of {self._only}, so it is to be run again, by --resume"

    def _run_stage(self, number: int, stage: Stage) -> None:
        """Run one stage to its end; what it raises leaves the stages before it as they are."""
        if self._ranks.any(self.stop_requested):
            self.stopped = True
            self.stopped_at = f"before stage {stage.name}"
            return
        self.last = stage.name
        heading = f"stage {number} of {len(self.plan.stages)}: {stage.name} ({stage.describe()})"
        self._say("", heading)
        self._record(stage, RUNNING)
        started = time.perf_counter()
        try:
            summary = self._summary_of(stage)
        except RecipeError as error:
            self._record(stage, FAILED)
            raise RecipeError(f"stage {stage.name}: {error}") from error
        except BaseException as error:
            self._record(stage, STOPPED if isinstance(error, KeyboardInterrupt) else FAILED)
            if sys.version_info >= (3, 11):
                error.add_note(f"in stage {stage.name} of {self.folder}")
            raise
        if self.stopped:
            self.stopped_at = f"in stage {stage.name}"
            self._record(stage, STOPPED)
            return
        seconds = float((summary or {}).get("seconds") or time.perf_counter() - started)
        self._record(stage, DONE, seconds)

    def _summary_of(self, stage: Stage) -> Mapping[str, Any] | None:
        """What the stage's run came to, made now unless it had come to its end; nothing of it stays in memory."""
        has_begun = (stage.folder / "recipe.yaml").is_file()
        found, resume = self._ranks.gather([(finished(stage), has_begun)])[0]
        if found is None:
            make = trainer_of(stage.recipe)
            self._run = make(stage.recipe, resume=resume, quiet=self.quiet, verbose=self.verbose)
            if self.stop_requested:
                self._run.request_stop()
            try:
                found = self._run.train()
            except KeyboardInterrupt:
                if not self._run.stopped:
                    raise  # else it had only to close
            finally:
                self.stopped = self._run.stopped
                self._run.close()
                self._run = None
                release_memory()
        if not self.stopped:
            _check_output(stage)
        return found

    def _record(self, stage: Stage, status: str, seconds: float = 0.0) -> None:
        if is_first_rank():
            self.book.set(stage.name, status, seconds)

    def _say(self, *lines: str) -> None:
        self.console.say(*lines)
        if is_first_rank():
            append_console(self.folder, [redacted(line) for line in lines])

    # -- the end ------------------------------------------------------------------------------------------------

    def _finish(self) -> dict[str, Any] | None:
        """Write the table and the summary once every stage is done."""
        if not is_first_rank():
            return None
        waiting = [state.name for state in self.book.states if state.status != DONE]
        if waiting:
            self._say(f"left to run, by --resume: {', '.join(waiting)}")
            return None
        self.table = table_of(self.plan)
        write_text(self.folder / "table.json", _json(self.table.to_mapping()))
        write_text(self.folder / "table.md", self.table.to_markdown())
        self._say("", *self.table.lines())
        self.summary = summary_of(self.plan, self.book, self.table)
        write_text(self.folder / "summary.json", redacted(_json(self.summary)))
        if all(stage.recipe.log.report for stage in self.plan.stages):
            self._say(
                *written_report(self.folder, runs=PipelineFolder(self.folder).runs_with_steps())
            )
        return self.summary

    # -- being stopped ------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Stop after the step under way, with a checkpoint."""
        self.stop_requested = True
        if self._run is not None:
            self._run.request_stop()

    @property
    def folder_of_last(self) -> Path:
        """The folder of the stage that runs or ran last; that of all before the first."""
        return self.folder / "stages" / self.last if self.last else self.folder

    @property
    def num_steps(self) -> int:
        """Steps of the stage that runs."""
        return 0 if self._run is None else int(self._run.num_steps)

    @property
    def step_seconds(self) -> float:
        """How long the last step of the stage that runs has taken."""
        return 0.0 if self._run is None else float(self._run.step_seconds)

    def __repr__(self) -> str:
        states = ", ".join(f"{state.name} {state.status}" for state in self.book.states)
        return f"{type(self).__name__}({self.plan.name}: {states}, {self.folder})"


def _plan(recipe: str | os.PathLike[str] | Mapping[str, Any] | Plan, overrides: Any) -> Plan:
    if isinstance(recipe, Plan):
        return Plan.from_mapping(recipe.to_mapping(), *overrides) if overrides else recipe
    if isinstance(recipe, Mapping):
        return Plan.from_mapping(recipe, *overrides)
    if (Path(recipe).expanduser() / FILE).is_file():
        return Plan.of_run(recipe, *overrides)
    return Plan.load(recipe, *overrides)


def _replaced(plan: Plan, begin_at: str | None, only: str | None) -> tuple[str, ...]:
    """The stages whose folders are removed: those to be run anew, and those that were made of one of them."""
    if begin_at is not None and only is not None:
        raise RecipeError("--from and --only are both given; name one stage by one of them")
    if begin_at is not None:
        first = plan.stages.index(plan.stage(begin_at, "--from"))
        return tuple(stage.name for stage in plan.stages[first:])
    if only is not None:
        return (plan.stage(only, "--only").name, *plan.dependants(only))
    return ()


def _may_differ(stage: Stage, key: str, book: StageBook) -> bool:
    """Whether what a stage has made stands, or can be gone on with, under another value of `key`."""
    if book.is_done(stage.name) or stage.kind in WHOLE:
        return key.startswith(MAY_CHANGE)
    return may_change(key, stage.recipe)


def finished(stage: Stage) -> dict[str, Any] | None:
    """The summary of a stage's run that came to its end; None if it has not, or its model is not what it trained."""
    recipe = stage.recipe
    try:
        text = (stage.folder / "summary.json").read_text(encoding="utf-8")
        summary: dict[str, Any] = json.loads(text)
    except (OSError, ValueError):
        return None
    counts_steps = recipe.epochs is None and stage.kind != "reject"
    has_ended = not counts_steps or is_finished(stage.folder, recipe)
    problems = (summary.get("final") or {}).get("problems")
    return summary if has_ended and not problems else None


def _find_again(stage: Stage, folder: Path) -> None:
    """Let the recipe of a stage that is gone on with name its model and rows where `folder` now is."""
    file = stage.folder / "recipe.yaml"
    if not file.is_file():
        return
    values = read_yaml(file)
    old = Path(str(values.get("run_dir"))).parent.parent
    if old != folder:
        write_text(file, to_yaml(_moved(values, f"{old}/", f"{folder}/")))


def _moved(value: Any, old: str, new: str) -> Any:
    """`value` with the paths below `old` below `new`."""
    if isinstance(value, Mapping):
        return {name: _moved(part, old, new) for name, part in value.items()}
    if isinstance(value, list):
        return [_moved(part, old, new) for part in value]
    is_below = isinstance(value, str) and value.startswith(old)
    return new + value.removeprefix(old) if is_below else value


def _check_output(stage: Stage) -> None:
    for place in (stage.model, stage.data):
        if place is not None and is_first_rank() and not place.exists():
            raise RuntimeError(f"stage {stage.name} has ended and left no {place}")


def release_memory() -> None:
    """Give back what a closed run held, before the next one loads its model."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(
        OSError, AttributeError
    ):  # glibc alone keeps what was freed, and can be told not to
        ctypes.CDLL(None).malloc_trim(0)


def summary_of(plan: Plan, book: StageBook, table: StageTable) -> dict[str, Any]:
    """What ``summary.json`` of all stages holds: their states and costs, the table, and the last model."""
    models = [stage.model for stage in plan.stages if stage.model is not None]
    costs = {stage.name: recorded_costs(stage.folder, stage.recipe) for stage in plan.stages}
    return {
        "name": plan.name,
        "stages": json.loads((plan.folder / FILE).read_text(encoding="utf-8"))["stages"],
        "seconds": sum(state.seconds for state in book.states),
        "table": table.to_mapping(),
        "cost": {name: cost for name, cost in costs.items() if cost},
        "output": {
            "model": str(models[-1].relative_to(plan.folder)) if models else None,
            "data": None,
        },
    }


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(finite(values), indent=1, ensure_ascii=False) + "\n"
