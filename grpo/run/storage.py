"""What a run keeps on disk, from its first moment to its last: the locked folder, checkpoints, final model, summary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, Mapping, Sequence

import torch

from grpo.cost.book import read_costs
from grpo.cost.meter import Meter, Place, file_of, new_attempt
from grpo.cost.price import Prices
from grpo.data.examples import ExampleSet
from grpo.data.kept_rows import keep_rows
from grpo.distributed.process_group import Ranks
from grpo.model.saved import SavedModel, SavedModelDiffers
from grpo.recipe import Recipe
from grpo.report.console.closing import closing_lines
from grpo.run import checkpoint
from grpo.run.async_writer import Writer
from grpo.run.environment import uuid_of, write_environment
from grpo.run.fingerprint import fingerprint
from grpo.run.folder import lock, sizes
from grpo.run.inputs import RunInputs
from grpo.run.ledger import Ledger
from grpo.run.resume import prepare_folder
from grpo.run.setup import RunParts
from grpo.run.state import Progress, collect, restore
from grpo.run.summary import summary_of, write_final, write_summary


def cost_place(ranks: Ranks, device: torch.device) -> Place:
    """Where this process of an attempt stands; all of them share the attempt's name. `device` is what it holds."""
    return Place(
        ranks.gather([new_attempt()])[0],
        rank=ranks.rank,
        world=ranks.world,
        devices=int(device.type != "cpu"),
        gpu=uuid_of(device),
        measures_machine=os.environ.get("LOCAL_RANK", "0") == "0",
    )


def open_costs(cost: Meter, folder: Path, place: Place, resumed_from: int | None) -> list[str]:
    """Let `cost` write into `folder` from here on; a line if that cannot be."""
    if cost.open(folder, place, resumed_from):
        return []
    file = file_of(folder, place.rank)
    return [f"cost: {file} cannot be written, so what the run takes is not recorded"]


def recorded_costs(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """What the run in `folder` has taken over all attempts, as ``summary.json`` has it; None if it kept no costs."""
    costs = read_costs(folder)
    prices = Prices.of_recipe(recipe.to_mapping())
    return None if costs is None else costs.to_mapping(prices)


class RunStorage:
    """The run folder of an open run, and at its end its ``summary``.

    On other ranks than the first it writes nothing, and takes part in gathering.
    """

    def __init__(self, recipe: Recipe, progress: Progress, ledger: Ledger, cost: Meter):
        self.recipe = recipe
        self.cost = cost
        self.folder = recipe.folder()
        self.progress = progress
        self.ledger = ledger
        self.writer = Writer(
            self.folder,
            keep=recipe.checkpoint.keep,
            best=recipe.checkpoint.keep_best,
            background=recipe.checkpoint.background,
        )
        self.summary: dict[str, Any] | None = None
        self._lock: BinaryIO | None = None
        self._fingerprint: Mapping[str, Any] = {}
        self._examples = ExampleSet()

    def open(self, parts: RunParts, inputs: RunInputs, *, resume: bool) -> None:
        """Lock and prepare the folder; set the run to its newest checkpoint, or to the beginning."""
        ranks = parts.ranks
        self._examples = inputs.examples
        if ranks.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder)
            self.writer.folder_lock = self._lock
        teacher = parts.learner.teacher
        self._fingerprint = fingerprint(
            inputs.prompts,
            specs=inputs.specs,
            policy=parts.policy,
            teacher=None if teacher is None else teacher.policy,
            num_processes=ranks.world,
            environment=None if inputs.environment is None else inputs.environment.spec,
        )
        saved = prepare_folder(
            self.folder,
            self.recipe,
            ranks,
            resume=resume,
            evaluates=bool(inputs.sets),
            fingerprint=self._fingerprint,
            say=parts.log.say,
        )
        if ranks.main:
            keep_rows(self.folder, self.recipe.data, inputs.rows)
        if saved is None:
            self.progress.reset()
            self.ledger.reset()
        else:
            restore(
                saved,
                parts=parts,
                progress=self.progress,
                ledger=self.ledger,
                prompts=inputs.prompts,
            )
        if ranks.main:
            write_environment(self.folder, parts.policy, ranks, self.progress.num_steps)
        self._open_costs(parts, None if saved is None else saved.step)

    def _open_costs(self, parts: RunParts, resumed_from: int | None) -> None:
        """Keep what this process takes in the folder; all processes of an attempt share its name."""
        place = cost_place(parts.ranks, parts.policy.device)
        parts.log.say(*open_costs(self.cost, self.folder, place, resumed_from))

    def _costs(self) -> dict[str, Any] | None:
        """What the run has taken so far, over all attempts, as ``summary.json`` has it; None if nothing is recorded."""
        return recorded_costs(self.folder, self.recipe)

    def settle(self, *, failed: bool) -> None:
        """End the account of what this attempt took; a summary that was written then has all of it."""
        self.cost.end(failed=failed)
        if self.summary is not None:
            self.summary["cost"] = self._costs()
            write_summary(self.folder, self.summary)

    def save(self, parts: RunParts) -> Path | None:
        """Save a checkpoint of the run unless this step has one; its folder, None on other ranks.

        It is written in the background, and complete when a later one is saved or the writer is waited for.
        """
        step = self.progress.num_steps
        saved = None
        if self.progress.saved_step != step:
            saved = collect(
                parts,
                self.progress,
                self.ledger,
                fingerprint=self._fingerprint,
                journals=sizes(self.folder),
            )
        self.progress.saved_step = step
        if saved is not None:
            note = self.writer.save(saved, [self.folder / name for name in sizes(self.folder)])
            if note:
                parts.log.say(note)
        return checkpoint.path_of(self.folder, step) if parts.ranks.main else None

    def save_now(self, parts: RunParts) -> None:
        """Save a checkpoint and wait until it is on the disk."""
        self.save(parts)
        self.writer.wait()

    def finish(self, parts: RunParts, examples_after: Sequence[Mapping[str, Any]]) -> None:
        """Write the final model and the summary, once the last checkpoint is written.

        Raises `SavedModelDiffers` in the end if the final model, loaded back, is not the policy.
        """
        self.ledger.cancel(self.progress.num_in_flight(self.recipe, parts.ranks))
        final = SavedModel()
        self.cost.flush()
        parts.policy.gather()
        parts.ranks.wait()
        if parts.ranks.main:
            final = write_final(parts.policy, self.folder)
            self.writer.wait()
            summary = summary_of(
                self.recipe,
                progress=self.progress,
                ledger=self.ledger,
                parts=parts,
                final=final,
                examples_after=examples_after,
                examples=self._examples,
            )
            summary["cost"] = self._costs()
            write_summary(self.folder, summary)
            self.summary = summary
            self._close_log(parts, final, summary)
        parts.ranks.wait()
        if final.problems:
            raise SavedModelDiffers(final.describe(self.folder / "final"))

    def _close_log(self, parts: RunParts, final: SavedModel, summary: Mapping[str, Any]) -> None:
        """Say how the run ended; what it cost inside is for who asks for it."""
        log = parts.log
        log.detail(
            *parts.scorer.describe(),
            *self.writer.describe(),
        )
        say = log.say if final.problems or final.unchecked else log.detail
        say(final.describe(self.folder / "final"))
        log.show(closing_lines(summary, self.folder, log.console.display.glyphs))

    def give_up_writing(self, failure: BaseException) -> list[str]:
        """For a run that failed: drop what is being written if it was interrupted, else wait; errors as lines."""
        if isinstance(failure, KeyboardInterrupt):
            self.writer.abandon()
            return []
        return self.writer.finish()

    def unlock(self) -> None:
        """Let other runs use the folder."""
        if self._lock is not None:
            self._lock.close()
