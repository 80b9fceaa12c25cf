"""Supervised fine-tuning: learn the traces of a data set by the learner, optimizer and checkpoints of the loop.

`SftTrainer` is a run as an iterator, one update a step. What rows become is up to ``grpo.data.examples``, their batch
and loss to ``grpo.learner.supervised``, what is read before a model loads to ``sft_inputs``.
"""

from __future__ import annotations

import math
import time
from typing import Iterator, Mapping

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo.cost.meter import UPDATE
from grpo.data.examples import Example
from grpo.data.sources import GivenRows
from grpo.distributed.process_group import Ranks
from grpo.environments import Tools
from grpo.learner.learner import Learner, UpdateStats
from grpo.learner.selection import by_row
from grpo.learner.supervised import (
    DRAWN,
    OUTCOMES,
    after_update,
    row_of,
    supervised_batch,
    supervised_loss,
)
from grpo.model.packing import micro_batches, pack
from grpo.model.policy import Policy
from grpo.monitor import watchdog
from grpo.monitor.gates import Gates
from grpo.recipe import Recipe
from grpo.report.console.console import Console
from grpo.run import setup
from grpo.run.accuracy import mean
from grpo.run.inputs import RunInputs
from grpo.run.ledger import Ledger
from grpo.run.lifecycle import HeldOutLoss, Rewards, Run, RunKind
from grpo.run.log import Record
from grpo.run.setup import RunParts
from grpo.stages.sft_inputs import load_sft_inputs
from grpo.statistics.ratios import ratio_interval
from grpo.types import Batch
from rewards.spelling import many

MARGIN = " " * 12


class SftTrainer(Run):
    """A run of supervised fine-tuning. Iterate over it: each iteration makes one update and yields its record.

    ``SftTrainer(recipe, data=None, rewards=None, model=None, tokenizer=None, tools=(), resume=False, quiet=False,
    verbose=False)``, as for `grpo.Trainer`; ``rewards`` only score what is sampled in evaluations, and ``tools`` answer
    it. Raises `RecipeError` for what a user can fix, before a model loads. `examples` are the rows of the last step.
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
        resume: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        console: Console | None = None,
        kind: RunKind | None = None,
    ):
        super().__init__(
            recipe,
            data=data,
            rewards=rewards,
            model=model,
            tokenizer=tokenizer,
            tools=tools,
            resume=resume,
            quiet=quiet,
            verbose=verbose,
            console=console,
            kind=kind or KIND,
        )
        examples = self.inputs.examples.train
        self._example_of = {example.prompt.id: example for example in examples}
        self.examples: list[Example] = []

    def _step(self) -> Record:
        """Draw rows, make one update of them."""
        parts = self.parts
        started = time.perf_counter()
        step = self.num_steps + 1
        self.storage.writer.check()
        self.examples = self._draw(step)
        batch = supervised_batch(self.examples)
        self.ledger.begin(len(self.examples))
        drawn_by = time.perf_counter()
        with watchdog.waiting("update", owner="grpo.learner"), self.cost.phase(UPDATE):
            stats = self._update(step, batch)
        batch = after_update(batch, parts.learner.trained_rows, parts.learner.masked_rows)
        ended = time.perf_counter()
        record = sft_record(
            step,
            batch,
            stats,
            epoch=self._num_drawn(step) / len(self._example_of),
            seconds={"update": ended - drawn_by, "step": ended - started},
        )
        self._end_step(step, batch, record, len(self.examples))
        return record

    def _draw(self, step: int) -> list[Example]:
        """The rows of a step; in the last one of a run counted in epochs, those that are left of them."""
        number = self._num_drawn(step) - self._num_drawn(step - 1)
        return [self._example_of[prompt.id] for prompt in self.parts.curriculum.take(number)]

    def _num_drawn(self, step: int) -> int:
        """How many rows the first `step` steps draw."""
        number = step * self.recipe.sft.batch
        if self.recipe.epochs is None:
            return number
        return min(number, math.ceil(self.recipe.epochs * len(self._example_of)))

    def _update(self, step: int, batch: Batch) -> UpdateStats:
        """The update, if the gates let it pass."""
        parts = self.parts
        parts.learner.begin(batch)
        if not parts.gates.sampled(step, {}):
            return UpdateStats(made=False)
        return parts.learner.update(batch.updates[0])


# ---- what the run is made of --------------------------------------------------------------------------------------


def open_sft_learner(
    recipe: Recipe, policy: Policy, ranks: Ranks = Ranks(), gates: Gates | None = None
) -> Learner:
    """The learner of the loop, with the loss of supervised training."""
    return Learner(
        policy,
        setup.open_optimizer(recipe, policy, recipe.steps),
        supervised_loss(recipe.sft.aggregation),
        gates=gates,
        temperature=1.0,
        ranks=ranks,
        tokens_per_micro_batch=recipe.optim.tokens_per_micro_batch,
    )


@torch.no_grad()
def held_out_loss(parts: RunParts, inputs: RunInputs) -> HeldOutLoss | None:
    """The loss of the held-out rows under the policy, over all ranks; None without such rows."""
    examples = inputs.examples.held_out
    if not examples:
        return None
    rows = [row_of(example, index) for index, example in enumerate(examples)]
    chunks = micro_batches(rows, parts.learner.budget)
    sums: list[tuple[int, float]] = []
    with watchdog.waiting("update", owner="grpo.stages, the held-out loss"):
        for chunk in chunks[parts.ranks.rank :: parts.ranks.world]:
            packed = pack(chunk, parts.policy.device)
            logp_T = parts.policy.token_stats(packed, 1.0).logp_T.double().cpu()
            sums += [
                (index, -float(part_T.sum())) for index, part_T in by_row(chunk, logp_T).items()
            ]
            watchdog.beat()
    loss_of = dict(parts.ranks.gather(sums))
    counts = [row.num_tokens for row in rows]
    interval = ratio_interval([loss_of[row.index] for row in rows], counts)
    return HeldOutLoss(
        loss=interval.value,
        low=interval.low,
        high=interval.high,
        rows=len(rows),
        tokens=sum(counts),
    )


# ---- what it says -------------------------------------------------------------------------------------------------


def sft_record(
    step: int,
    batch: Batch,
    stats: UpdateStats,
    *,
    epoch: float,
    seconds: Mapping[str, float],
) -> Record:
    """Everything worth plotting of one step: flat keys, plain numbers.

    ``update/loss`` is the loss before the update, a mean over its learnt tokens (or its rows, as ``sft.aggregation``
    says); ``row/*`` are means over the rows, in tokens.
    """
    lengths = [len(row.prompt_ids) + len(row.token_ids) for row in batch.rows]
    outcomes = {f"ledger/{outcome}": number for outcome, number in batch.ledger.items()}
    times = {f"seconds/{phase}": spent for phase, spent in seconds.items()}
    return {
        "step": step,
        "epoch": epoch,
        **_update(stats),
        "update/packed": sum(lengths),
        "row/length": mean(lengths),
        "row/longest": max(lengths),
        "row/learnt": mean(row.num_tokens for row in batch.rows),
        **outcomes,
        **times,
    }


def _update(stats: UpdateStats) -> Record:
    made = stats.made
    return {
        "update/loss": stats.loss if made else None,
        "update/grad_norm": stats.grad_norm,
        "update/lr": stats.lr if made else None,
        "update/tokens": stats.num_tokens if made else 0,
        "update/made": int(made),
        "update/masked": stats.masked,
        "update/overflows": stats.overflows,
        "policy/entropy": stats.entropy if made else None,
    }


def header(recipe: Recipe, inputs: RunInputs, parts: RunParts, num_steps: int) -> list[str]:
    """The lines after the title: what runs on what, after `num_steps` steps."""
    policy = parts.policy
    world = parts.ranks.world
    workers = many(world, "process") if world > 1 else many(torch.get_num_threads(), "thread")
    lines = [f"  policy    {policy.describe()}, {workers}"]
    lines += [f"{MARGIN}{line}" for line in policy.describe_fallback()]
    found = [*describe_examples(recipe, inputs)]
    lines += [f"{'' if number else '  rows':<12}{line}" for number, line in enumerate(found)]
    for number, of in enumerate(inputs.sets):
        lines.append(f"{'' if number else '  sets':<12}{of.name}: {of.describe()}")
    if inputs.environment is not None:
        lines.append(f"  answers   {inputs.environment.describe()}")
    lines += [f"  {line}" for line in run_size(recipe)]
    if num_steps:
        lines.append(f"  resumed after step {num_steps}")
    return lines


def internals(recipe: Recipe, inputs: RunInputs, parts: RunParts) -> list[str]:
    """What was resolved besides: the head's form."""
    return [f"  kernels   {parts.policy.describe_head()}"]


def describe_examples(recipe: Recipe, inputs: RunInputs) -> Iterator[str]:
    """What the rows are, what became of each, and how long they are."""
    examples = inputs.examples
    source = recipe.data.source or ", ".join(recipe.data.sources) or "data in memory"
    forms = dict.fromkeys(words for words in examples.templates.values() if words)
    yield f"{source}: {'; '.join(forms)}"
    words = {name: number for name, number in examples.counts.items() if number}
    yield ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in words.items())
    learnt = sum(example.num_learnt for example in examples.train)
    whole = sum(len(example.prompt.token_ids) for example in examples.train)
    yield (
        f"{many(whole, 'token')} to train on, {learnt} of them learnt; the longest row has {examples.longest}"
    )


def run_size(recipe: Recipe) -> Iterator[str]:
    """How many rows and updates a run has, in a line."""
    passes = "" if recipe.epochs is None else f", {recipe.epochs:g} passes over the rows"
    mean = {"token_mean": "learnt tokens", "sequence_mean": "rows' means"}[recipe.sft.aggregation]
    yield (
        f"a step: one update of {many(recipe.sft.batch, 'row')}, the mean of -log p over its {mean}; "
        f"the run: {many(recipe.steps, 'step')}{passes}"
    )


def sft_ledger() -> Ledger:
    """An empty ledger of rows drawn."""
    return Ledger(DRAWN, OUTCOMES, "row")


KIND = RunKind(
    stage="sft",
    load_inputs=load_sft_inputs,
    open_learner=open_sft_learner,
    header=header,
    internals=internals,
    ledger=sft_ledger,
    held_out_loss=held_out_loss,
)
