"""The life of a run that learns: its policy opened, stepped, evaluated, saved. What a step does is another's business.

`Run` is the interface that a loop fills in by one method, `_step`, and a `RunKind` for what else is its own;
``grpo.train.Trainer`` is the one for GRPO, ``grpo.stages`` has the others. How runs are iterated, stopped and closed is
in ``stepped``.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo.cost.meter import EVALUATE, LOAD, SAMPLE, SAVE
from grpo.data.curriculum import Curriculum
from grpo.data.sources import GivenRows
from grpo.distributed.process_group import Ranks
from grpo.environments import Tools, Used
from grpo.learner.learner import Learner
from grpo.model.policy import Policy
from grpo.monitor import watchdog
from grpo.monitor.gates import Gates
from grpo.recipe import Recipe
from grpo.recipe.shorthands import HELD_OUT_LOSS
from grpo.report.console.console import Console
from grpo.report.console.opening import title
from grpo.report.console.words import shown_set
from grpo.report.folder import RunFolder
from grpo.report.plots.curves import SHOWN
from grpo.report.plots.plot import plot
from grpo.report.trackers import Life
from grpo.rollout.engine import Engine
from grpo.run import inputs, setup
from grpo.run.accuracy import Evaluation
from grpo.run.console import header, internals
from grpo.run.evaluation_sets import EvaluationSet, ranking
from grpo.run.held_out import evaluate
from grpo.run.inputs import RunInputs
from grpo.run.ledger import Ledger
from grpo.run.log import Log, Record
from grpo.run.reward_specs import named_rewards
from grpo.run.schedule import evaluates_after, saves_after
from grpo.run.setup import OpenLearner, RunParts
from grpo.run.shown import run_html
from grpo.run.state import Progress
from grpo.run.stepped import SteppedRun
from grpo.run.storage import RunStorage
from grpo.run.summary import examples_of
from grpo.scoring import Scorer
from grpo.types import Batch, ScoredGroup
from rewards.spelling import many

if TYPE_CHECKING:  # needs matplotlib
    from grpo.report.plots.figure import RunFigure

Reward = Callable[..., Any] | str
"""A function, or what a recipe's ``use`` takes: ``math_answer``, ``my_rewards.py:right``."""
Rewards = Mapping[str, Reward] | Sequence[Reward] | Reward
"""Rewards by name, or a list of them or one alone, each named as its function is."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutLoss:
    """The loss of held-out rows, a mean over their learnt tokens, with its 95 % interval for new rows."""

    loss: float
    low: float
    high: float
    rows: int
    tokens: int

    def to_mapping(self) -> dict[str, Any]:
        """Plain values."""
        return {name: getattr(self, name) for name in self.__slots__}

    def metrics(self) -> dict[str, Any]:
        """What goes into ``metrics.jsonl``, by key."""
        return {
            HELD_OUT_LOSS: self.loss,
            f"{HELD_OUT_LOSS}_low": self.low,
            f"{HELD_OUT_LOSS}_high": self.high,
        }

    def __str__(self) -> str:
        if self.rows == 1:
            return f"{self.loss:.4f} (one row)"
        return f"{self.loss:.4f} [{self.low:.4f}, {self.high:.4f}]"


def no_loss(parts: RunParts, inputs: RunInputs) -> HeldOutLoss | None:
    """What is measured of held-out rows beside sampling them: nothing."""
    return None


@dataclass(frozen=True, slots=True, eq=False)
class RunKind:
    """What the runs of a stage do in a way of their own; the defaults are those of reinforcement learning.

    ``load_inputs`` has the signature of `inputs.load_inputs`, ``header`` gives the first lines on the console and
    ``internals`` those that are shown when asked for, ``ledger`` an empty ledger, ``held_out_loss`` what is measured in
    each evaluation beside the sets that are sampled. ``by_score`` says whether completions are learnt by their scores.
    """

    stage: str = "grpo"
    load_inputs: Callable[..., RunInputs] = inputs.load_inputs
    open_learner: OpenLearner = setup.open_learner
    header: Callable[[Recipe, RunInputs, RunParts, int], list[str]] = header
    internals: Callable[[Recipe, RunInputs, RunParts], list[str]] = internals
    ledger: Callable[[], Ledger] = Ledger
    held_out_loss: Callable[[RunParts, RunInputs], HeldOutLoss | None] = no_loss
    by_score: bool = True


class Run(SteppedRun):
    """A run of a recipe that learns, as an iterator over the records of its steps.

    Not open when made: `open`, or the first iteration, loads the policy and starts the workers. `inputs` are the
    checked data and rewards, `progress` is how far the run has come, `groups` are the last step's scored groups,
    `evaluations` the last evaluation of each set, with its completions.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        data: GivenRows | None = None,
        rewards: Rewards | None = None,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        tools: Tools = (),
        environment: Used | None = None,
        resume: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        console: Console | None = None,
        kind: RunKind = RunKind(),
    ):
        super().__init__(
            recipe,
            stage=kind.stage,
            model=model,
            tokenizer=tokenizer,
            resume=resume,
            quiet=quiet,
            verbose=verbose,
            console=console,
        )
        self.kind = kind
        with self._on_screen(), self.cost.phase(LOAD):
            self.inputs = kind.load_inputs(
                recipe,
                data=data,
                rewards=named_rewards(rewards),
                model=model,
                tokenizer=tokenizer,
                watching=self.watchdog.watching,
                **({"tools": tools} if tools else {}),
                **({} if environment is None else {"environment": environment}),
            )
        self.recipe = recipe = self.inputs.recipe
        self.groups: list[ScoredGroup] = []
        self.evaluations: Mapping[str, Evaluation] = {}
        self.progress = Progress()
        self.ledger = kind.ledger()
        self.storage = RunStorage(recipe, self.progress, self.ledger, self.cost)
        self._parts: RunParts | None = None
        self._last_groups: Sequence[ScoredGroup] = ()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.recipe.name}: {self.num_steps} of {many(self.recipe.steps, 'step')}, "
            f"{self._progress_in_words()}, {self.folder})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: how far the run is, its evaluations, the course of its numbers."""
        return run_html(
            type(self).__name__,
            self.recipe,
            state=self._progress_in_words(),
            folder=self.folder,
            ledger=self.ledger,
        )

    def _progress_in_words(self) -> str:
        return "open" if self._is_open else "finished" if self._is_finished else "not open"

    @abstractmethod
    def _step(self) -> Record:
        """Make the next step, call `_end_step`, and return the step's record."""

    def _make_step(self) -> Record:
        with self.progress.timed():
            return self._step()

    def plot(
        self, panels: Sequence[str] = SHOWN, *, over: str = "step", dark: bool = False
    ) -> RunFigure:
        """The run so far as a matplotlib figure: held-out accuracy with its interval, reward, length, and more.

        In the middle of a run, after it, and after a resume; `grpo.plot` says what the arguments mean, and draws runs
        of other processes. A notebook shows the figure; ``.savefig("run.svg")`` writes it.
        """
        return plot(RunFolder(self.folder), panels=panels, over=over, dark=dark)

    # -- opening --------------------------------------------------------------------------------------------

    def _open(self) -> None:
        recipe = self.recipe
        progress = self.progress
        self.stopped = False
        self._last_groups = ()
        parts = setup.open_parts(
            recipe,
            self.inputs,
            self.watchdog,
            self._model,
            open_learner=self.kind.open_learner,
            console=self.console,
        )
        self._parts = parts
        self._is_open = True
        self.storage.open(parts, self.inputs, resume=self.resume)
        self.watchdog.keep_in(self.folder)
        parts.log.open(self._life(), recipe.steps)
        with watchdog.loading("grpo.model.policy, the model, its first forward"):
            lines = self.kind.header(recipe, self.inputs, parts, progress.num_steps)
            details = self.kind.internals(recipe, self.inputs, parts)
        parts.log.keep(title(recipe))
        parts.log.say(*lines)
        parts.log.detail(*details)
        parts.log.say(*parts.isolation)
        if not progress.sets_before and recipe.evaluate.before:
            with progress.timed():
                progress.sets_before = self._evaluate(0, "before training")
            progress.examples_before = examples_of(self._last_groups)
        with progress.timed():
            self._evaluate_if_due()

    def _life(self) -> Life:
        return Life(
            recipe=self.recipe.to_mapping(),
            name=self.recipe.name,
            step=self.num_steps,
            evaluation_due=self._is_evaluation_due(),
        )

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
    def ranks(self) -> Ranks:
        """The processes of the run, once it is open."""
        return self.parts.ranks

    @property
    def log(self) -> Log:
        """What writes and shows the run, once it is open."""
        return self.parts.log

    @property
    def policy(self) -> Policy:
        """The model being trained, once the run is open."""
        return self.parts.policy

    @property
    def engine(self) -> Engine:
        """What samples, once the run is open; until the next step begins it is the caller's alone."""
        self._settle_sampling()
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
    def summary(self) -> dict[str, Any] | None:
        """What ``summary.json`` holds once the run has ended; None before, and on other ranks than the first."""
        return self.storage.summary

    @property
    def before(self) -> dict[str, Any] | None:
        """The held-out evaluation before training, as plain values; None without one."""
        return self.progress.before

    @property
    def after(self) -> dict[str, Any] | None:
        """The held-out evaluation after training, as plain values; None without one."""
        return self.progress.after

    # -- after a step ---------------------------------------------------------------------------------------

    def _end_step(
        self, step: int, batch: Batch, record: Record, num_items: int, in_flight: int = 0
    ) -> None:
        """Count and write a step that is done; then evaluate and save if the recipe says so.

        `num_items` completions were sampled, or rows drawn, and are all in `batch`; `in_flight` go on in a later step.
        """
        progress = self.progress
        parts = self.parts
        record.update(parts.gates.step(record))
        progress.num_steps = step
        self.step_seconds = record["seconds/step"]
        self.ledger.add(step, num_items, batch, in_flight)
        progress.tokens["sampled"] += record.get("completion/tokens", 0)
        progress.tokens["trained"] += record["update/tokens"]
        self._count_tokens(record, batch)
        parts.log.step(record, self.groups, self.recipe.steps, batch)
        parts.gates.refuse()
        self._evaluate_if_due()
        if saves_after(self.recipe, step):
            self.save_checkpoint()
        self.cost.mark(step)

    def _count_tokens(self, record: Record, batch: Batch) -> None:
        """Give the costs a step's tokens; a prompt is read once for all completions of its group."""
        prompts = {row.group: len(row.prompt_ids) for row in batch.rows}
        given = sum(len(row.token_ids) - row.num_tokens for row in batch.rows)
        self.cost.count(
            prompt=sum(prompts.values()) + given,
            sampled=record.get("completion/tokens", 0),
            trained=record["update/tokens"],
        )

    def _evaluate_if_due(self) -> None:
        """Evaluate after a step of the recipe's choice, once, also if the run was stopped while it did."""
        step = self.num_steps
        if self._is_evaluation_due() and self._evaluate(step, f"after step {step}"):
            self.progress.evaluated_step = step

    def _is_evaluation_due(self) -> bool:
        step = self.num_steps
        return evaluates_after(self.recipe, step) and self.progress.evaluated_step < step

    def _evaluate(self, step: int, when: str) -> dict[str, dict[str, Any]]:
        """The evaluation of each set as plain values; nothing if there is none or the run is being stopped."""
        self._settle_sampling()
        with self.cost.phase(EVALUATE):
            self.policy.gather()
            return self._evaluate_sets(step, when)

    def _evaluate_sets(self, step: int, when: str) -> dict[str, dict[str, Any]]:
        loss = self.kind.held_out_loss(self.parts, self.inputs)
        results: dict[str, Evaluation] = {}
        for evaluated in self.inputs.sets:
            result = self._evaluate_set(evaluated)
            if result is None:
                return {}
            results[evaluated.name] = result
        by_set: dict[str, dict[str, Any]] = {}
        if loss is not None:
            by_set[HELD_OUT_LOSS] = {"step": step, **loss.to_mapping()}
            self.parts.log.measured(step, loss.metrics(), f"held-out loss {when}: {loss}")
        self.progress.ranking = self._ranking(results, loss)
        if results:
            self._report(step, results, when)
        for name, result in results.items():
            by_set[name] = {"step": step, **result.to_mapping()}
        return by_set

    def _ranking(self, results: Mapping[str, Evaluation], loss: HeldOutLoss | None) -> float | None:
        """What checkpoints are compared by, the higher the better; None if nothing was evaluated."""
        best_by = self.recipe.checkpoint.best_by
        if loss is not None and (best_by == HELD_OUT_LOSS or not results):
            return -loss.loss
        return ranking(results, best_by) if results else None

    def _report(self, step: int, results: Mapping[str, Evaluation], when: str) -> None:
        """Write what the sets came to, and let the gates judge it."""
        self.parts.log.evaluation(step, results, when)
        if not step:
            reasons = {name: result.stuck() for name, result in results.items()}
            self.parts.log.say(
                *(f"warning: {name}: {reason}" for name, reason in reasons.items() if reason)
            )
        self.evaluations = results
        headline = next(iter(results.values()))
        self._last_groups = headline.groups
        self.parts.gates.evaluated(headline.accuracy, headline.low, headline.high)

    def _evaluate_set(self, evaluated: EvaluationSet) -> Evaluation | None:
        parts = self.parts
        name = shown_set(evaluated.name)
        with watchdog.doing(f"evaluating {name}"), self._scorer_of(evaluated) as scorer:
            scorer.set_step(self.num_steps)
            result = evaluate(
                parts.engine,
                scorer,
                evaluated,
                seed=self.recipe.seed,
                ranks=parts.ranks,
                environment=parts.environment,
                interrupted=lambda: self.stop_requested,
            )
            scorer.take_metrics()  # what rewards logged here belongs to no step
        if result is not None:
            self.progress.tokens["evaluated"] += result.tokens
            self.cost.count(evaluated=result.tokens)
        return result

    def _settle_sampling(self) -> None:
        """Wait until nothing is sampled ahead, so that the engine and its servers belong to the caller."""
        lookahead = self.parts.lookahead
        if lookahead is not None:
            with self.cost.phase(SAMPLE):
                lookahead.settle()

    def _scorer_of(self, evaluated: EvaluationSet) -> ContextManager[Scorer]:
        """The run's own scorer, or one that lives for this evaluation."""
        if evaluated.own_specs is None:
            return nullcontext(self.parts.scorer)
        return setup.open_scorer(self.recipe, evaluated.own_specs)

    def save_checkpoint(self) -> Path | None:
        """Save everything this run needs to continue from here; returns the folder (None on other ranks).

        It is written in the background, and there when a later one is saved, the run ends or `close` returns.
        """
        self._settle_sampling()
        with watchdog.doing("saving a checkpoint"), self.cost.phase(SAVE):
            return self.storage.save(self.parts)

    # -- the end --------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Evaluate once more, write the final model and the summary."""
        progress = self.progress
        with progress.timed():
            progress.sets_after = progress.sets_before
            if self.num_steps:
                progress.sets_after = self._evaluate(self.num_steps, "after training")
            if self._stopping():
                return
            examples = examples_of(self._last_groups) or progress.examples_before
            with self.cost.phase(SAVE):
                self.storage.finish(self.parts, examples)
            self._is_finished = True
            self._write_report()

    def _keep(self) -> None:
        self._settle_sampling()
        self.storage.save_now(self.parts)

    def _stop_work(self, failure: BaseException | None) -> None:
        self.progress.saved_step = None
        self.parts.close()
        if failure is not None:
            self.log.say(*self.storage.give_up_writing(failure))

    def _settle(self, *, failed: bool) -> None:
        try:
            with self.cost.phase(SAVE):
                self.storage.writer.wait()
        finally:
            self.watchdog.stop()
            self.storage.settle(failed=failed)
            self.storage.unlock()
