"""The loop: sample groups, judge them, update the policy, keep a record. ``python -m grpo.train RECIPE``.

`Trainer` is the same loop as an iterator, one step an iteration; it may be broken off and gone on with.
Everything a user can get wrong is checked when a Trainer is made, before a model loads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NoReturn, Sequence

import numpy
import torch
import transformers

from grpo.data.curriculum import Curriculum
from grpo.data.prompts import PromptStream, check_template, make_prompts
from grpo.data.rows import load_rows, split_rows
from grpo.distributed.process_group import Ranks
from grpo.evaluate import Evaluation, evaluate, lenient_name, with_lenient
from grpo.kernels.sampling.spec import Sampling
from grpo.learner.batch import make_batch, with_final_outcomes
from grpo.learner.learner import Learner
from grpo.learner.optimizer import Optimizer
from grpo.learner.sums import UpdateStats
from grpo.model.loading import first_words, load_config, load_tokenizer
from grpo.model.policy import Policy, longest_sequence
from grpo.monitor import watchdog
from grpo.monitor.gates import Gates, GateStop, stale_completions
from grpo.monitor.redaction import redacted, secret_keys
from grpo.objective.advantage import advantages
from grpo.objective.policy_loss import forwards_flat_groups
from grpo.preflight import dry_run
from grpo.recipe import ModelSection, Recipe, RecipeError
from grpo.recipe.describe import keys_help
from grpo.rollout.compatibility import check_support
from grpo.rollout.compiled import check_compiler
from grpo.rollout.engine import Engine, EngineFailed
from grpo.rollout.memory import OOM_MESSAGES
from grpo.rollout.sequence import PartialGroup
from grpo.run import checkpoint, state
from grpo.run.async_writer import Writer
from grpo.run.console import closing, header
from grpo.run.folder import check_folder, disk_errors, sizes, write_text
from grpo.run.ledger import Ledger
from grpo.run.log import Log, Record, finite
from grpo.run.metrics import sampled_record, step_record
from grpo.scoring import Scorer, check_rewards, check_sandbox, reward_specs
from grpo.types import Batch, Prompt, ScoredGroup
from rewards import RewardSpec

EXIT_DONE, EXIT_FAULT, EXIT_USER, EXIT_STOPPED = 0, 1, 2, 3


class Trainer:
    """A run of a recipe. Iterate over it: each iteration makes one step and yields its record.

    ``rewards`` are callables by name, added to the recipe's or in place of theirs; ``model`` and ``tokenizer``
    are used instead of loading ``model.name``. Raises `RecipeError` for what the user can mend, before a
    model loads. `groups` holds the last step's scored groups; `before` and `after` the held-out evaluations.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        rewards: Mapping[str, Callable[..., Any]] | None = None,
        model: Any = None,
        tokenizer: Any = None,
        resume: bool = False,
    ):
        self.recipe, self.folder, self.resume = recipe, recipe.folder(), resume
        self._model = model
        if recipe.model.name is None and (model is None or tokenizer is None):
            raise RecipeError("recipe: model.name is missing; name a hub id or a folder")
        if (
            int(os.environ.get("RANK", "0")) == 0
        ):  # the other ranks may come when rank 0 has made it already
            check_folder(self.folder, recipe, resume)
        for key in secret_keys(recipe.to_mapping()):
            raise RecipeError(
                f"recipe: {key} holds a key or token, which the run folder would keep; let whoever needs "
                "it read it from the environment"
            )
        check_compiler(recipe)
        self.specs = reward_specs(recipe, rewards)
        self._accurate = accurate_reward(recipe, [spec.name for spec in self.specs])
        self.specs = with_lenient(self.specs, self._accurate)
        self.watchdog = watchdog.Watchdog(recipe.watchdog)
        with self.watchdog.watching(), watchdog.loading("grpo.data.prompts, the data set"):
            all_rows = load_rows(recipe.data)
        check_rewards(self.specs, all_rows)
        check_sandbox(self.specs, recipe.sandbox)
        self.rows, self.config = all_rows, None
        rows, held_rows = split_rows(all_rows, recipe.data.held_out)
        if len(rows) < recipe.sample.prompts:
            raise RecipeError(
                f"recipe: sample.prompts is {recipe.sample.prompts}, but only {len(rows)} rows train; "
                "lower sample.prompts or data.held_out"
            )
        with (
            self.watchdog.watching(),
            watchdog.loading("grpo.model.loading, configuration and tokenizer"),
        ):
            config = model.config if model is not None else load_config(recipe.model)
            self.tokenizer = tokenizer if tokenizer is not None else load_tokenizer(recipe.model)
        self.config = config
        check_template(recipe.data.template, self.tokenizer)
        self.prompts = make_prompts(
            rows,
            held_rows,
            recipe.data,
            self.tokenizer,
            longest_sequence(config.get_text_config()),
            recipe.sample.max_tokens,
        )
        if len(self.prompts.train) < recipe.sample.prompts:
            raise RecipeError(
                f"data: {self.prompts.num_dropped} prompts are too long and {len(self.prompts.train)} "
                f"are left, fewer than sample.prompts ({recipe.sample.prompts}); lower sample.max_tokens "
                "or sample.prompts"
            )
        self.groups: list[ScoredGroup] = []
        self.carried: list[PartialGroup] = []
        self.before: dict[str, Any] | None = None
        self.after: dict[str, Any] | None = None
        self.num_steps, self.stopped = 0, False
        self._stop, self._opened, self._finished = False, False, False
        self.ledger = Ledger()
        self.writer = Writer(
            self.folder,
            recipe.checkpoint.keep,
            recipe.checkpoint.keep_best,
            recipe.checkpoint.background,
        )
        self._evaluated, self._saved, self._held = -1, None, None
        self.tokens: dict[str, int] = {"sampled": 0, "trained": 0, "evaluated": 0}
        self.seconds, self.step_seconds = 0.0, 0.0

    # -- the loop -------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Record]:
        if self._finished:
            return
        try:
            self._open()
            while self.num_steps < self.recipe.steps and not self._stopping():
                yield self._timed(self._step)
            if not self.stopped:
                self._timed(self._finish)
        except GeneratorExit:
            raise
        except BaseException as error:
            self.close(error)
            raise
        else:
            self.close()

    def _step(self) -> Record:
        """One pass of the loop."""
        started, step = time.perf_counter(), self.num_steps + 1
        self.writer.check()
        groups, left_out, seconds = self._collect(step)
        batch = self._make_batch(groups, left_out)
        self.groups = groups
        begun = time.perf_counter()
        sampled = sampled_record(groups, batch.ledger, self.policy.version)
        with watchdog.waiting("update", owner="grpo.learner"):
            updates = self._updates(step, sampled, batch)
        batch = with_final_outcomes(batch, self.learner.trained_rows, self.learner.masked_rows)
        seconds["update"] = time.perf_counter() - begun
        seconds["step"] = time.perf_counter() - started
        record = step_record(step, sampled, batch, updates, seconds, self.curriculum.num_retired)
        record.update(self.gates.step(record))
        self.num_steps, self.step_seconds = step, seconds["step"]
        self._account_for(step, batch, record)
        self.log.step(record, groups, self.recipe.steps)
        self.gates.refuse()
        self._after_step(step)
        return record

    def _updates(self, step: int, sampled: Record, batch: Batch) -> list[UpdateStats]:
        """The step's updates, those that the gates let pass; where they stop the run its completions are kept."""
        number, words = stale_completions(
            self.groups,
            self._unfinished,
            (self.policy.version, self.policy.fingerprint()),
            self._sampled_by,
        )
        try:
            self.learner.begin(batch)
            if not self.gates.sampled(
                step,
                {**sampled, "weights/stale": number},
                lambda gate: {"stale": words, "faults": worst_fault(self.groups, self.policy)}.get(
                    gate, ""
                ),
            ):
                return [UpdateStats(made=False)] * len(batch.updates)
            return [self.learner.update(update) for update in batch.updates]
        except GateStop:
            self.log.samples(step, self.groups, "samples.jsonl")
            raise

    def _collect(self, step: int) -> tuple[list[ScoredGroup], dict[int, str], dict[str, float]]:
        """(the step's groups, those of them that are not trained with their outcome, seconds spent).

        Where flat groups are refilled, other prompts are sampled in their place, so many times at most.
        """
        section, wanted = self.recipe.advantage, self.recipe.sample.prompts
        number = wanted + math.ceil(
            wanted * (self.recipe.sample.oversample + self.recipe.sample.over_request)
        )
        number -= sum(self.ranks.gather([len(self.carried)]))
        self._unfinished = set(self.ranks.gather([group.prompt.id for group in self.carried]))
        self._sampled_by: set[tuple[int, int]] = set()
        groups: list[ScoredGroup] = []
        left_out: dict[int, str] = {}
        seconds = {"sample": 0.0, "judge": 0.0}
        for _ in range(1 + (section.refills if section.flat == "refill" else 0)):
            prompts = self.curriculum.take(number, [*groups, *self.carried])
            self.ledger.begin(len(prompts) * self.recipe.sample.group_size)
            found, spent = self._sample_and_judge(prompts, step)
            groups += found
            seconds = {phase: seconds[phase] + spent[phase] for phase in seconds}
            left_out, number = self.curriculum.choose(groups, wanted)
            if not number or not prompts:
                break
        self.curriculum.learn(groups)
        return groups, left_out, seconds

    def _sample_and_judge(
        self, prompts: Sequence[Prompt], step: int
    ) -> tuple[list[ScoredGroup], dict[str, float]]:
        """Scored groups, carried ones first, in the order of `prompts`; one is judged while others are sampled."""
        begun = time.perf_counter()
        sample, ranks = self.recipe.sample, self.ranks
        mine, carried = list(range(len(prompts)))[ranks.rank :: ranks.world], self.carried
        order = [(0, ranks.rank, i) for i in range(len(carried))] + [(1, i, 0) for i in mine]
        enough = (
            len(range(sample.prompts)[ranks.rank :: ranks.world]) if sample.over_request else None
        )
        pending = [
            (order[place], self.scorer.submit(group))
            for place, group in self.engine.sample(
                [prompts[i] for i in mine],
                group_size=sample.group_size,
                max_tokens=sample.max_tokens,
                sampling=Sampling(sample.temperature, sample.top_k, sample.top_p, sample.min_p),
                seed=("train", self.recipe.seed, step),
                enough=enough,
                partial_groups=carried,
            )
        ]
        sampled = time.perf_counter()
        self._sampled_by.add(self.engine.weights)
        self.carried = self.engine.partial_groups
        self.log.say(*self.engine.stats.notes)
        scored = ranks.gather([(place, group.result()) for place, group in pending])
        seconds = {"sample": sampled - begun, "judge": time.perf_counter() - sampled}
        return [group for _, group in sorted(scored, key=lambda item: item[0])], seconds

    def _make_batch(self, groups: Sequence[ScoredGroup], left_out: Mapping[int, str]) -> Batch:
        recipe = self.recipe
        options = {
            "num_updates": recipe.optim.updates,
            "epochs": recipe.optim.epochs,
            "max_tokens": recipe.sample.max_tokens,
            "mask_truncated": recipe.advantage.mask_truncated,
            "left_out": left_out,
            "version": self.policy.version,
        }
        values = advantages(
            groups,
            recipe.advantage,
            {spec.name: spec.weight for spec in self.specs},
            self._penalties(groups, options),
            left_out,
        )
        return make_batch(
            groups, values, forward_flat=forwards_flat_groups(recipe.loss), **options
        )

    def _penalties(
        self, groups: Sequence[ScoredGroup], options: Mapping[str, Any]
    ) -> dict[tuple[int, int], torch.Tensor] | None:
        """By (group, completion) what the KL takes off each token's reward, where it acts there."""
        if not self.recipe.loss.beta or self.recipe.loss.kl_in != "reward":
            return None
        nothing = [[0.0] * len(group.completions) for group in groups]
        rows = make_batch(groups, nothing, forward_flat=True, **options).rows
        first = {row.group: row.index for row in reversed(rows)}
        found = self.learner.penalties([row for row in rows if row.forwarded])
        return {
            (row.group, row.index - first[row.group]): found[row.index]
            for row in rows
            if row.index in found
        }

    def _account_for(self, step: int, batch: Batch, record: Record) -> None:
        self.ledger.add(step, self.groups, batch, self._in_flight())
        self.tokens["sampled"] += record["completion/tokens"]
        self.tokens["trained"] += record["update/tokens"]

    def _in_flight(self) -> int:
        """Completions that go on in a later step, over all ranks."""
        if not self.recipe.sample.over_request:
            return 0
        return sum(self.ranks.gather([sum(len(group.completions) for group in self.carried)]))

    def _after_step(self, step: int) -> None:
        recipe = self.recipe
        self._evaluate_if_due(step)
        if step == recipe.steps or (
            recipe.checkpoint.every and step % recipe.checkpoint.every == 0
        ):
            self.save_checkpoint()

    def _evaluate_if_due(self, step: int) -> None:
        """Evaluate after a step of the recipe's choice, once, also where the run was stopped in the middle of it."""
        every = self.recipe.evaluate.every
        if every and 0 < step < self.recipe.steps and step % every == 0 and self._evaluated < step:
            if self._evaluate(step, f"after step {step}"):
                self._evaluated = step

    def _evaluate(self, step: int, when: str) -> dict[str, Any] | None:
        """Held-out accuracy as plain values; None where nothing is held out or the run is being stopped."""
        if not self.held_out:
            return None
        section, sample = self.recipe.evaluate, self.recipe.sample
        result = evaluate(
            self.engine,
            self.scorer,
            self.held_out,
            samples=section.samples,
            max_tokens=sample.max_tokens,
            sampling=Sampling(section.temperature, sample.top_k, sample.top_p, sample.min_p),
            seed=self.recipe.seed,
            reward=self._accurate,
            interrupted=lambda: self._stop,
        )
        if result is None:
            return None
        self.tokens["evaluated"] += result.tokens
        self.log.evaluation(step, result, when)
        self._last_evaluation = result
        self.gates.evaluated(result.accuracy, result.low, result.high)
        return {"step": step, **result.to_mapping()}

    # -- beginning and end ------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Load the policy, start the workers, restore a checkpoint, evaluate the base."""
        self.watchdog.start()
        if self._opened:
            return
        recipe, self.stopped = self.recipe, False
        self.ranks = Ranks.start()
        self.ranks.watched_by(self.watchdog)
        prepare_torch(recipe)
        with watchdog.loading("grpo.model.loading, the model"):
            self.policy = Policy.load(
                recipe.model, self.ranks.device, model=self._model, tokenizer=self.tokenizer
            )
            check_support(self.policy)
        self.stream, self.held_out = (
            PromptStream(self.prompts.train, recipe.seed),
            self.prompts.held_out,
        )
        section = recipe.advantage
        self.curriculum = Curriculum(
            self.stream,
            self._accurate,
            flat=section.flat,
            flat_by=section.flat_by,
            retire_at=section.retire_at,
            low=recipe.data.pass_low,
            high=recipe.data.pass_high,
            again=recipe.data.pass_again,
        )
        self.engine = Engine(
            self.policy,
            max_rows=recipe.sample.max_rows,
            stop=recipe.sample.stop,
            kv_memory_gib=recipe.sample.kv_memory_gib,
            deterministic=recipe.deterministic,
            keep=recipe.sample.keep_graphs,
            compile=recipe.sample.compile,
        )
        total = recipe.steps * recipe.optim.updates * recipe.optim.epochs
        optimizer = Optimizer(
            self.policy.trainable(),
            recipe.optim,
            total,
            scale_loss=self.policy.base.dtype == torch.float16,
        )
        self.log = Log(self.folder, recipe.log.wandb, silent=not self.ranks.main)
        self.gates = Gates(
            recipe.gates,
            str(self.policy.base.dtype).removeprefix("torch."),
            self.policy.device.type,
            *watched_rewards(self.specs, self._accurate),
            report=self.log.alarm,
        )
        self.learner = Learner(
            self.policy,
            optimizer,
            recipe.loss,
            gates=self.gates,
            temperature=recipe.sample.temperature,
            ranks=self.ranks,
            teacher=load_teacher(recipe, self.policy),
            tokens_per_micro_batch=recipe.optim.tokens_per_micro_batch,
        )
        self.scorer = Scorer(self.specs, sandbox=recipe.sandbox)
        self.scorer.__enter__()
        self._opened = True
        self._last_evaluation: Evaluation | None = None
        self._examples_before: list[dict[str, Any]] = []
        state.prepare_folder(self)
        self.watchdog.keep_in(self.folder)
        self.log.open(
            recipe.to_mapping(), recipe.name, recipe.steps, self.num_steps, self.log.wandb_id
        )
        with watchdog.loading("grpo.model.policy, its first forward"):
            lines = header(self, self.prompts.num_dropped)
        self.log.say(*lines, *self.scorer.isolation)
        if self.before is None:
            self.before = self._timed(lambda: self._evaluate(0, "before training"))
            self._examples_before = self._examples()
        self._timed(lambda: self._evaluate_if_due(self.num_steps))

    def save_checkpoint(self) -> Path | None:
        """Keep everything this run needs to go on from here; returns the folder (None on other ranks).

        It is written in the background, and there when a later one is saved, the run ends or `close` returns.
        """
        found = None if self._saved == self.num_steps else state.collect(self)
        self._saved = self.num_steps
        if found is not None:
            note = self.writer.save(found, [self.folder / name for name in sizes(self.folder)])
            self.log.say(*([note] if note else []))
        return checkpoint.place_of(self.folder, self.num_steps) if self.ranks.main else None

    def _finish(self) -> None:
        """Evaluate once more, write the final model and the summary."""
        self.after = (
            self._evaluate(self.num_steps, "after training") if self.num_steps else self.before
        )
        if self._stopping():
            return
        self._account_for_carried()
        if self.ranks.main:
            with watchdog.writing(
                "grpo.model.policy, the final model", self.folder / ".writing-final"
            ):
                self._write_final()
            self.writer.wait()
            self._write_summary()
            self.log.say(
                f"judge: {self.scorer.cached:.0%} of the verdicts were known from an equal completion",
                *self.writer.words(),
            )
        self._finished = True
        self.ranks.wait()

    def _write_final(self) -> None:
        """Write the final model, whole or not at all."""
        final, writing = self.folder / "final", self.folder / ".writing-final"
        shutil.rmtree(writing, ignore_errors=True)
        with disk_errors(final):
            self.policy.save(writing)
        shutil.rmtree(final, ignore_errors=True)
        writing.rename(final)

    def _account_for_carried(self) -> None:
        """What was carried to a step that never came was sampled in vain."""
        number = self._in_flight()
        for outcome in ("sampled", "cancelled"):
            self.ledger[outcome] = self.ledger.get(outcome, 0) + number

    def _write_summary(self) -> None:
        summary = {
            "name": self.recipe.name,
            "steps": self.num_steps,
            "before": self.before,
            "after": self.after,
            "seconds": self.seconds + time.perf_counter() - self._clock,
            "tokens": self.tokens,
            "ledger": self.ledger,
            "sandbox": self.scorer.isolation,
            "gates": self.gates.counts,
            "alarms": self.gates.alarms,
            "examples": {"before": self._examples_before, "after": self._examples()},
        }
        text = redacted(json.dumps(finite(summary), indent=1, ensure_ascii=False))
        write_text(self.folder / "summary.json", text + "\n")
        self.log.say(*closing(summary, self.folder))

    def _examples(self, number: int = 3) -> list[dict[str, Any]]:
        """The first sample of the first held-out prompts, as text."""
        if self._last_evaluation is None:
            return self._examples_before
        groups = self._last_evaluation.groups[:number]
        return [
            {
                "prompt": group.prompt.text,
                "completion": group.completions[0].text,
                "reward": group.scores[0].value,
            }
            for group in groups
        ]

    def _timed(self, work: Callable[[], Any]) -> Any:
        """`work()`, its wall-clock counted into the run's seconds."""
        self._clock = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds += time.perf_counter() - self._clock

    def request_stop(self) -> None:
        """Stop after the step under way, with a checkpoint."""
        self._stop = True

    def _stopping(self) -> bool:
        if not self.ranks.any(self._stop):
            return False
        if not self.stopped:
            self.stopped = True
            self.save_checkpoint()
            self.writer.wait()
        return True

    def close(self, failure: BaseException | None = None) -> None:
        """Stop workers, log and watchdog, once the last checkpoint is written; iterating again opens them anew.

        After a `failure` nothing further is raised; if that is a KeyboardInterrupt, what is being written is given up.
        """
        if not self._opened:
            self.watchdog.stop()
            return
        self._opened, self._stop, self.resume, self._saved = False, False, True, None
        self.scorer.__exit__(None, None, None)
        if isinstance(failure, KeyboardInterrupt):
            self.writer.abandon()
        elif failure is not None:
            self.log.say(*self.writer.finish())
        self.log.close()
        try:
            self.writer.wait()
        finally:
            self.watchdog.stop()
            if self._held is not None:
                self._held.close()


def load_teacher(recipe: Recipe, policy: Policy) -> Policy | None:
    """The frozen model of ``loss.teacher``; one whose tokens mean something else is refused."""
    if recipe.loss.teacher is None:
        return None
    section = ModelSection(
        name=recipe.loss.teacher,
        dtype=recipe.model.dtype,
        trust_remote_code=recipe.model.trust_remote_code,
    )
    teacher = Policy.load(section, policy.device)
    check_support(teacher)
    if teacher.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise RecipeError(
            f"recipe: loss.teacher {recipe.loss.teacher} has another tokenizer than the policy, so its "
            "log-probs are of other tokens; name a teacher of the same family"
        )
    teacher.model.requires_grad_(False)
    return teacher


# ---- checks and words -------------------------------------------------------------------------------------------


def accurate_reward(recipe: Recipe, names: Sequence[str]) -> str:
    """The reward whose full score counts as accurate."""
    wanted = recipe.evaluate.reward or names[0]
    if wanted not in names:
        raise RecipeError(
            f"recipe: evaluate.reward names {wanted}, but the rewards are {', '.join(names)}"
        )
    return wanted


def prepare_torch(recipe: Recipe) -> None:
    """Seeds and threads; the sampler needs neither, but adapters are drawn and users' rewards may be."""
    random.seed(recipe.seed)
    numpy.random.seed(recipe.seed % 2**32)
    torch.manual_seed(recipe.seed)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def watched_rewards(specs: Sequence[RewardSpec], accurate: str) -> tuple[str, tuple[str, ...]]:
    """(the metric of the most lenient accuracy, the metrics of weighted rewards that can rise without it)."""
    lenient = any(spec.name == lenient_name(accurate) for spec in specs)
    true = lenient_name(accurate) if lenient else accurate
    return f"rewards/{true}", tuple(
        f"rewards/{spec.name}" for spec in specs if spec.weight and spec.name != true
    )


def worst_fault(groups: Sequence[ScoredGroup], policy: Policy) -> str:
    """How many completions could not be judged, the reward with the most faults, and one of its reasons."""
    found: dict[str, list[str]] = {}
    faulted = [score.status == "fault" for group in groups for score in group.scores]
    for group in groups:
        for verdict, score in zip(group.verdicts, group.scores):
            for name, part in verdict.items():
                if part.status == "fault":
                    found.setdefault(f"rewards.{name}", []).append(part.detail)
            if not verdict and score.status == "fault":
                found.setdefault("the policy", []).append(score.detail)
    if not found:
        return ""
    name, details = max(found.items(), key=lambda item: len(item[1]))
    weight = policy.not_finite() if name == "the policy" else ""
    return (
        f"{sum(faulted)} of {len(faulted)} completions could not be judged, most of them by {name}: {details[0]}"
        + (f"; the weight {weight} holds values that are not finite" if weight else "")
    )


def out_of_memory_advice(error: BaseException) -> str | None:
    """What to do, if `error` says that the GPU or the machine has no memory left; None if it says something else."""
    if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(
        words in str(error) for words in (*OOM_MESSAGES, "can't start new thread")
    ):
        return None
    return (
        f"out of memory ({first_words(error)}); lower optim.tokens_per_micro_batch for the update or "
        "sample.max_rows for sampling, or set model.gradient_checkpointing: true; what was saved before stands"
    )


# ---- the command -----------------------------------------------------------------------------------------------


class Arguments(argparse.ArgumentParser):
    """Says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER, f"{self.prog}: {message}; --help lists what can be given\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m grpo.train RECIPE [a.b=v ...] [--resume] [--dry-run]``; returns the exit code."""
    parser = Arguments(
        prog="python -m grpo.train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a causal language model to reason by group-relative policy optimisation.",
        epilog="keys of a recipe, each also settable as section.key=value:\n" + keys_help(),
    )
    parser.add_argument(
        "recipe", help="a YAML file, or the name of a recipe that ships with the library"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="recipe keys to set, e.g. optim.lr=1e-5"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the run folder's last checkpoint"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be done, and do nothing"
    )
    parser.add_argument(
        "--preflight",
        action="store_true",
        help="find out what can be known before the first step: "
        "data, rewards on gold answers, memory, a sample of completions, the cost; writes nothing",
    )
    options = parser.parse_intermixed_args(arguments)
    try:
        recipe = Recipe.load(options.recipe, *options.overrides)
        if options.dry_run:
            print("\n".join(dry_run.dry_run(recipe)))
            return EXIT_DONE
        if options.preflight:
            from grpo.preflight import preflight

            return (
                EXIT_DONE
                if preflight.run(recipe, lambda line: print(redacted(line), flush=True))
                else EXIT_USER
            )
        return _train(recipe, options)
    except RecipeError as error:
        print_error(" ".join(str(error).split()))
        return EXIT_USER
    except (GateStop, FloatingPointError) as error:
        print_error(f"stopped: {error}")
        return EXIT_FAULT
    except EngineFailed as error:
        print_error("".join(traceback.format_exception(error.__cause__)).rstrip())
        print_error(f"stopped: {error}; what was saved before stands")
        return EXIT_FAULT
    except OSError as error:
        print_error(f"stopped: {error}; what was saved before stands")
        return EXIT_FAULT
    except KeyboardInterrupt:
        print("stopped at once; the last checkpoint stands", file=sys.stderr)
        return EXIT_FAULT
    except Exception as error:
        words = out_of_memory_advice(error)
        if words is None:
            words = watchdog.describe_failure(error)
            print_error(traceback.format_exc().rstrip())
        print_error(f"stopped: {words}")
        return EXIT_FAULT


def print_error(words: str) -> None:
    """Say on standard error what went wrong, without the secrets that foreign errors may repeat."""
    print(redacted(words), file=sys.stderr)


def _train(recipe: Recipe, options: argparse.Namespace) -> int:
    transformers.utils.logging.disable_progress_bar()
    trainer = Trainer(recipe, resume=options.resume)

    def stop(number: int, frame: object) -> None:
        if trainer._stop:
            raise KeyboardInterrupt
        last = f" (the last one took {trainer.step_seconds:.0f} s)" if trainer.step_seconds else ""
        print(f"stopping after this step{last}; once more to stop at once", file=sys.stderr)
        trainer.request_stop()

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for _ in trainer:
            pass
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if trainer.stopped:
        words = " ".join([options.recipe, *options.overrides])
        print(
            f"stopped after step {trainer.num_steps}; go on with: python -m grpo.train {words} --resume",
            file=sys.stderr,
        )
        return EXIT_STOPPED
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
