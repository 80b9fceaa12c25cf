"""The life of a run: opened, stepped, evaluated, saved, stopped, closed. What a step does is another's business.

`Run` is the interface that a loop fills in by one method, `_step`; ``grpo.train.Trainer`` is the one for GRPO.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, ContextManager, Iterator, Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo.data.curriculum import Curriculum
from grpo.data.sources import GivenRows
from grpo.learner.learner import Learner
from grpo.model.policy import Policy
from grpo.monitor import watchdog
from grpo.monitor.gates import Gates
from grpo.recipe import Recipe
from grpo.rollout.engine import Engine
from grpo.run import inputs, setup
from grpo.run.accuracy import Evaluation
from grpo.run.console import header
from grpo.run.evaluation_sets import EvaluationSet, ranking
from grpo.run.held_out import evaluate
from grpo.run.ledger import Ledger
from grpo.run.log import Record
from grpo.run.reward_specs import named_rewards
from grpo.run.schedule import evaluates_after, saves_after
from grpo.run.setup import RunParts
from grpo.run.state import Progress
from grpo.run.storage import RunStorage
from grpo.run.summary import examples_of
from grpo.scoring import Scorer
from grpo.types import Batch, ScoredGroup

Rewards = Mapping[str, Callable[..., Any]] | Sequence[Callable[..., Any]]
"""Reward functions by name, or a list of them, each named as its function is."""


class Run(ABC):
    """A run of a recipe as an iterator over the records of its steps.

    Not open when made: `open`, or the first iteration, loads the policy and starts the workers. `inputs` are the
    checked data and rewards, `progress` is how far the run has come, `groups` are the last step's scored groups.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        data: GivenRows | None = None,
        rewards: Rewards | None = None,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        resume: bool = False,
        quiet: bool = False,
    ):
        self.folder = recipe.folder()
        self.resume = resume
        self.quiet = quiet
        setup.hide_progress_bars()
        has_model = model is not None and tokenizer is not None
        inputs.check_recipe(recipe, resume=resume, has_model=has_model)
        self.watchdog = watchdog.Watchdog(recipe.watchdog)
        self.inputs = inputs.load_inputs(
            recipe,
            data=data,
            rewards=named_rewards(rewards),
            model=model,
            tokenizer=tokenizer,
            watching=self.watchdog.watching,
        )
        self.recipe = recipe = self.inputs.recipe
        self.groups: list[ScoredGroup] = []
        self.progress = Progress()
        self.ledger = Ledger()
        self.storage = RunStorage(recipe, self.progress, self.ledger)
        self.step_seconds = 0.0
        self.stopped = False
        self.stop_requested = False
        self._model = model
        self._parts: RunParts | None = None
        self._is_open = False
        self._is_finished = False
        self._last_groups: Sequence[ScoredGroup] = ()

    def __repr__(self) -> str:
        state = "open" if self._is_open else "finished" if self._is_finished else "not open"
        return (
            f"{type(self).__name__}({self.recipe.name}: {self.num_steps} of {self.recipe.steps} steps, "
            f"{state}, {self.folder})"
        )

    @abstractmethod
    def _step(self) -> Record:
        """Make the next step, call `_end_step`, and return the step's record."""

    def __iter__(self) -> Iterator[Record]:
        if self._is_finished:
            return
        try:
            self.open()
            while self.num_steps < self.recipe.steps and not self._stopping():
                with self.progress.timed():
                    record = self._step()
                yield record
            if not self.stopped:
                with self.progress.timed():
                    self._finish()
        except GeneratorExit:
            raise
        except BaseException as error:
            self.close(error)
            raise
        else:
            self.close()

    # -- opening --------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Load the policy, start the workers, restore a checkpoint, evaluate the base; nothing if that is done."""
        self.watchdog.start()
        if self._is_open:
            return
        try:
            self._open()
        except BaseException as error:
            self.close(error)
            raise

    def _open(self) -> None:
        recipe = self.recipe
        progress = self.progress
        self.stopped = False
        self._last_groups = ()
        parts = setup.open_parts(recipe, self.inputs, self.watchdog, self._model, quiet=self.quiet)
        self._parts = parts
        self._is_open = True
        self.storage.open(parts, self.inputs, resume=self.resume)
        self.watchdog.keep_in(self.folder)
        parts.log.open(
            recipe.to_mapping(),
            name=recipe.name,
            steps=recipe.steps,
            step=progress.num_steps,
            wandb_id=parts.log.wandb_id,
        )
        with watchdog.loading("grpo.model.policy, its first forward"):
            lines = header(recipe, self.inputs, parts, progress.num_steps)
        parts.log.say(*lines, *parts.scorer.isolation)
        if not progress.sets_before and recipe.evaluate.before:
            with progress.timed():
                progress.sets_before = self._evaluate(0, "before training")
            progress.examples_before = examples_of(self._last_groups)
        with progress.timed():
            self._evaluate_if_due()

    @property
    def parts(self) -> RunParts:
        """The policy and everything that works on it; `RuntimeError` if the run was never opened."""
        if self._parts is None:
            raise RuntimeError(
                "trainer: the run is not open yet, so there is no policy, engine or learner; call open() "
                "or start to iterate"
            )
        return self._parts

    @property
    def policy(self) -> Policy:
        """The model being trained, once the run is open."""
        return self.parts.policy

    @property
    def engine(self) -> Engine:
        """What samples, once the run is open."""
        return self.parts.engine

    @property
    def learner(self) -> Learner:
        """What updates the policy, once the run is open."""
        return self.parts.learner

    @property
    def scorer(self) -> Scorer:
        """What scores, once the run is open."""
        return self.parts.scorer

    @property
    def curriculum(self) -> Curriculum:
        """What chooses prompts, once the run is open."""
        return self.parts.curriculum

    @property
    def gates(self) -> Gates:
        """What watches the numbers, once the run is open."""
        return self.parts.gates

    @property
    def num_steps(self) -> int:
        """How many steps the run has made."""
        return self.progress.num_steps

    @property
    def before(self) -> dict[str, Any] | None:
        """The held-out evaluation before training, as plain values; None without one."""
        return self.progress.before

    @property
    def after(self) -> dict[str, Any] | None:
        """The held-out evaluation after training, as plain values; None without one."""
        return self.progress.after

    # -- after a step ---------------------------------------------------------------------------------------

    def _end_step(self, step: int, batch: Batch, record: Record) -> None:
        """Count and write a step that is done; then evaluate and save if the recipe says so."""
        progress = self.progress
        parts = self.parts
        record.update(parts.gates.step(record))
        progress.num_steps = step
        self.step_seconds = record["seconds/step"]
        in_flight = progress.num_in_flight(self.recipe, parts.ranks)
        self.ledger.add(step, self.groups, batch, in_flight)
        progress.tokens["sampled"] += record["completion/tokens"]
        progress.tokens["trained"] += record["update/tokens"]
        parts.log.step(record, self.groups, self.recipe.steps)
        parts.gates.refuse()
        self._evaluate_if_due()
        if saves_after(self.recipe, step):
            self.save_checkpoint()

    def _evaluate_if_due(self) -> None:
        """Evaluate after a step of the recipe's choice, once, also if the run was stopped while it did."""
        step = self.num_steps
        if evaluates_after(self.recipe, step) and self.progress.evaluated_step < step:
            if self._evaluate(step, f"after step {step}"):
                self.progress.evaluated_step = step

    def _evaluate(self, step: int, when: str) -> dict[str, dict[str, Any]]:
        """The evaluation of each set as plain values; nothing if there is none or the run is being stopped."""
        results: dict[str, Evaluation] = {}
        for evaluated in self.inputs.sets:
            result = self._evaluate_set(evaluated)
            if result is None:
                return {}
            results[evaluated.name] = result
        if not results:
            return {}
        progress = self.progress
        progress.ranking = ranking(results, self.recipe.checkpoint.best_by)
        self.parts.log.evaluation(step, results, when)
        if not step:
            reasons = {name: result.stuck() for name, result in results.items()}
            self.parts.log.say(
                *(f"warning: {name}: {reason}" for name, reason in reasons.items() if reason)
            )
        headline = next(iter(results.values()))
        self._last_groups = headline.groups
        self.parts.gates.evaluated(headline.accuracy, headline.low, headline.high)
        return {name: {"step": step, **result.to_mapping()} for name, result in results.items()}

    def _evaluate_set(self, evaluated: EvaluationSet) -> Evaluation | None:
        parts = self.parts
        with self._scorer_of(evaluated) as scorer:
            scorer.set_step(self.num_steps)
            result = evaluate(
                parts.engine,
                scorer,
                evaluated,
                seed=self.recipe.seed,
                interrupted=lambda: self.stop_requested,
            )
            scorer.take_metrics()  # what rewards logged here belongs to no step
        if result is not None:
            self.progress.tokens["evaluated"] += result.tokens
        return result

    def _scorer_of(self, evaluated: EvaluationSet) -> ContextManager[Scorer]:
        """The run's own scorer, or one that lives for this evaluation."""
        if evaluated.own_specs is None:
            return nullcontext(self.parts.scorer)
        return setup.open_scorer(self.recipe, evaluated.own_specs)

    def save_checkpoint(self) -> Path | None:
        """Save everything this run needs to continue from here; returns the folder (None on other ranks).

        It is written in the background, and there when a later one is saved, the run ends or `close` returns.
        """
        return self.storage.save(self.parts)

    # -- the end --------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Evaluate once more, write the final model and the summary."""
        progress = self.progress
        progress.sets_after = progress.sets_before
        if self.num_steps:
            progress.sets_after = self._evaluate(self.num_steps, "after training")
        if not self._stopping():
            examples = examples_of(self._last_groups) or progress.examples_before
            self.storage.finish(self.parts, examples)
            self._is_finished = True

    def request_stop(self) -> None:
        """Stop after the step under way, with a checkpoint."""
        self.stop_requested = True

    def _stopping(self) -> bool:
        if not self.parts.ranks.any(self.stop_requested):
            return False
        if not self.stopped:
            self.stopped = True
            self.storage.save_now(self.parts)
        return True

    def close(self, failure: BaseException | None = None) -> None:
        """Stop workers, log and watchdog, once the last checkpoint is written; iterating again reopens the run.

        After a `failure` nothing further is raised; if that is a KeyboardInterrupt, what is being written is dropped.
        """
        if not self._is_open:
            self.watchdog.stop()
            return
        self._is_open = False
        self.stop_requested = False
        self.resume = True
        self.progress.saved_step = None
        self.parts.scorer.close()
        if failure is not None:
            self.parts.log.say(*self.storage.give_up_writing(failure))
        self.parts.log.close()
        try:
            self.storage.writer.wait()
        finally:
            self.watchdog.stop()
            self.storage.unlock()
