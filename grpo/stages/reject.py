"""Rejection sampling: many completions a prompt, judged, filtered, and the best of them kept as data to learn from.

`RejectionSampler` is a `SteppedRun` without what a `grpo.run.lifecycle.Run` has beside: checkpoints of weights and an
optimizer, a learner, a curriculum, a model at its end; with stored completions there is not even a model at its
beginning. What a step needs of those before it fits into ``progress.json``.
The pieces are in ``grpo.stages.rejection``.
"""

from __future__ import annotations

import json
import time
from typing import Any, BinaryIO, Mapping, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo.cost.meter import JUDGE, LOAD, SAMPLE, SAVE
from grpo.data.kept_rows import keep_rows
from grpo.data.prompts import PromptSet
from grpo.data.sources import GivenRows
from grpo.distributed.process_group import Ranks
from grpo.kernels.sampling.spec import completion_seed
from grpo.model.policy import Policy
from grpo.monitor import watchdog
from grpo.monitor.gate_table import GATES, LADDER
from grpo.monitor.gates import Alarm, GateStop
from grpo.recipe import Recipe, to_yaml
from grpo.report.console.console import Console
from grpo.report.console.opening import title
from grpo.report.trackers import Life, Trackers
from grpo.rollout.engine import Engine
from grpo.run import fingerprint, setup
from grpo.run.environment import write_environment
from grpo.run.folder import disk_errors, lock, write_text
from grpo.run.lifecycle import Rewards
from grpo.run.log import Log, Record, finite
from grpo.run.resume import changed_keys
from grpo.run.reward_specs import named_rewards
from grpo.run.stepped import SteppedRun
from grpo.run.storage import cost_place, open_costs, recorded_costs
from grpo.run.summary import write_summary
from grpo.scoring import Scorer, worst_fault
from grpo.stages.rejection import words
from grpo.stages.rejection.books import Books
from grpo.stages.rejection.candidates import CandidateGroup, Origin, candidates_of
from grpo.stages.rejection.diversity import ACCEPTED, outcomes_of
from grpo.stages.rejection.figures import acceptance, pass_rates, step_record
from grpo.stages.rejection.inputs import RejectInputs, load_reject_inputs
from grpo.stages.rejection.progress import (
    PROGRESS,
    RejectProgress,
    cut_back,
    read_progress,
    save_progress,
)
from grpo.stages.rejection.rows import (
    accepted_row,
    candidate_rows,
    counts_of,
    pass_rate_of,
    pass_rate_row,
)
from grpo.stages.rejection.tokens import kinds_of_tokens
from grpo.types import Prompt, ScoredGroup
from rewards.spelling import many

ACCEPTED_FILE = "accepted.jsonl"
RATES_FILE = "pass_rates.jsonl"


class RejectionSampler(SteppedRun):
    """A run of rejection sampling. Iterate over it: each iteration takes ``sample.prompts`` prompts, yields its record.

    The arguments are those of `grpo.Trainer`. Raises `RecipeError` for what a user can fix, before a model loads.
    `groups` are the candidates of the last step, `summary` is what ``summary.json`` holds once the run has ended.
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
        verbose: bool = False,
        console: Console | None = None,
    ):
        super().__init__(
            recipe,
            stage="reject",
            model=model,
            tokenizer=tokenizer,
            resume=resume,
            quiet=quiet,
            verbose=verbose,
            console=console,
            needs_model=not recipe.reject.samples,
        )
        with self._on_screen(), self.cost.phase(LOAD):
            self.inputs: RejectInputs = load_reject_inputs(
                recipe,
                data=data,
                rewards=named_rewards(rewards),
                model=model,
                tokenizer=tokenizer,
                watching=self.watchdog.watching,
            )
        self._given = recipe
        self.recipe = self.inputs.recipe
        self.groups: list[CandidateGroup] = []
        self.books = Books()
        self.progress = RejectProgress({})
        self._summary: dict[str, Any] | None = None
        self._ranks = Ranks()
        self._policy: Policy | None = None
        self._model_in_words = ""
        self._engine: Engine | None = None
        self._scorer: Scorer | None = None
        self._log: Log | None = None
        self._lock: BinaryIO | None = None

    def __repr__(self) -> str:
        return (
            f"RejectionSampler({self.recipe.name}: {self.num_steps} of {many(self.recipe.steps, 'step')}, "
            f"{self.folder})"
        )

    @property
    def num_steps(self) -> int:
        """How many steps the run has made."""
        return self.progress.num_steps

    @property
    def summary(self) -> dict[str, Any] | None:
        """What ``summary.json`` holds once the run has ended; None before, and on other ranks than the first."""
        return self._summary

    @property
    def ranks(self) -> Ranks:
        """The processes of the run, once it is open."""
        return self._ranks

    @property
    def log(self) -> Log:
        """What writes and shows the run, once it is open."""
        assert self._log is not None, "the run is open"
        return self._log

    # -- opening --------------------------------------------------------------------------------------------

    def _open(self) -> None:
        recipe = self.recipe
        self.stopped = False
        self._ranks = Ranks.start()
        self._ranks.watched_by(self.watchdog)
        trackers = Trackers(
            recipe.log, self.folder, patience_seconds=recipe.watchdog.server_seconds
        )
        self._log = Log(
            self.folder,
            trackers,
            silent=not self._ranks.main,
            console=self.console,
            show_every=recipe.log.show_every,
        )
        self._is_open = True
        if self._ranks.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder)
        before = self._read_progress()
        is_left = before is None or before.num_steps < recipe.steps
        if is_left:
            self._load()
        self._prepare_folder(before, is_left)
        self._open_costs(before)
        self.watchdog.keep_in(self.folder)
        life = Life(recipe.to_mapping(), recipe.name, step=self.num_steps, evaluation_due=False)
        self.log.open(life, recipe.steps)
        self.log.keep(title(recipe))
        self.log.say(*words.header(self.inputs, self._model_in_words, self.num_steps))
        if self._scorer is not None:
            self.log.say(*self._scorer.isolation)

    def _read_progress(self) -> RejectProgress | None:
        """Where the run to resume has come to, the same on every rank; None for a new one."""
        found = read_progress(self.folder) if self.resume and self._ranks.main else None
        progress: RejectProgress | None = self._ranks.gather([found])[0]
        return progress

    def _load(self) -> None:
        """The policy with its engine, unless completions are stored, and the workers of the rewards."""
        recipe = self.recipe
        setup.prepare_torch(recipe)
        if self.inputs.stored is None:
            self._policy = setup.open_policy(
                recipe, self._ranks.device, self.inputs.info.tokenizer, self._model
            )
            self._model_in_words = self._policy.describe()
            self._policy.model.requires_grad_(False)  # so that its fingerprint is of all weights
            self._engine = setup.open_engine(recipe, self._policy)
        if self.inputs.specs:
            self._scorer = setup.open_scorer(recipe, self.inputs.specs)

    def _prepare_folder(self, before: RejectProgress | None, is_left: bool) -> None:
        """Cut the folder back to `before`, or begin a new run in it. `RecipeError` if the run cannot continue."""
        made_of = self._fingerprint(before, is_left)
        notes: list[str] = []
        self.progress = RejectProgress(made_of)
        self.books = Books()
        if before is not None:
            notes += fingerprint.compare(before.fingerprint, made_of)
            self.progress = before
            self.books.restore(before.books or self.books.state())
        if not self._ranks.main:
            return
        if self.resume:
            notes += changed_keys(self.folder, self._given, evaluates=False)
        if self.resume and before is None:
            notes.append("resume: the run has made no step yet, so it starts from the beginning")
        self.log.say(*notes)
        write_text(self.folder / "recipe.yaml", to_yaml(self._given.to_mapping()))
        cut_back(self.folder, before)
        keep_rows(self.folder, self.recipe.data, self.inputs.rows)
        if before is None:
            (self.folder / PROGRESS).unlink(missing_ok=True)
            save_progress(self.folder, self.progress)
        if self._policy is not None:
            write_environment(self.folder, self._policy, self._ranks, self.num_steps)

    def _fingerprint(self, before: RejectProgress | None, is_left: bool) -> dict[str, Any]:
        """What the run is made of; of one whose steps are all made, what can be known without loading weights."""
        made_of = self.inputs.fingerprint()
        if self._policy is None:
            known = {} if before is None else before.fingerprint
            return {**known, **made_of}
        prompts = PromptSet(self.inputs.prompts, (), num_dropped=0, longest=0)
        whole = fingerprint.fingerprint(
            prompts,
            specs=self.inputs.specs,
            policy=self._policy,
            teacher=None,
            num_processes=self._ranks.world,
        )
        return {**whole, **made_of}

    def _open_costs(self, before: RejectProgress | None) -> None:
        """Keep what this process takes in the folder; with stored completions it holds no device."""
        device = self._ranks.device if self._policy is not None else torch.device("cpu")
        place = cost_place(self._ranks, device)
        resumed_from = before.num_steps or None if before is not None else None
        self.log.say(*open_costs(self.cost, self.folder, place, resumed_from))

    # -- a step ---------------------------------------------------------------------------------------------

    def _make_step(self) -> Record:
        """Take the prompts of a step, judge and filter their completions, write what became of each."""
        started = time.perf_counter()
        step = self.num_steps + 1
        seconds: dict[str, float] = {}
        self.groups = self._candidates(step, seconds)
        filtering = time.perf_counter()
        outcomes, caught = self._outcomes()
        flat = [outcome for of_group in outcomes for outcome in of_group]
        every_catch = [names for of_group in caught for names in of_group]
        seconds["filter"] = time.perf_counter() - filtering
        seconds["step"] = time.perf_counter() - started
        record = step_record(step, self.groups, flat, seconds)
        if self._ranks.main:
            self._write(step, outcomes, caught, record)
        self._refuse_faults(step)
        self.books.add(flat, every_catch, step)
        self._sum_up(record)
        self.progress.num_steps = step
        self.progress.seconds += record["seconds/step"]
        self.progress.books = self.books.state()
        self.step_seconds = record["seconds/step"]
        if self._ranks.main:
            save_progress(self.folder, self.progress)
        self.cost.mark(step)
        return record

    def _outcomes(self) -> tuple[list[list[str]], list[list[list[str]]]]:
        """What becomes of each candidate of each group, and the filters that catch it."""
        reject = self.recipe.reject
        found = [outcomes_of(group.candidates, reject, self.recipe.seed) for group in self.groups]
        return [outcomes for outcomes, _ in found], [caught for _, caught in found]

    def _sum_up(self, record: Record) -> None:
        """Count the tokens and verdicts of a step."""
        sums = self.books.sums
        sums["sampled"] += record["completion/tokens"]
        for group in self.groups:
            judged = group.judged
            sums["judged"] += len(judged)
            sums["right"] += sum(judged)

    def _candidates(self, step: int, seconds: dict[str, float]) -> list[CandidateGroup]:
        """The candidates of a step's prompts, in their order; each rank takes its share."""
        prompts = self.inputs.chunk(step)
        mine = list(enumerate(prompts))[self._ranks.rank :: self._ranks.world]
        if self._scorer is not None:
            self._scorer.set_step(step)
        take = self._sampled if self.inputs.stored is None else self._stored
        found = self._ranks.gather(take(mine, seconds))
        return [group for _, group in sorted(found, key=lambda item: item[0])]

    def _stored(
        self, prompts: Sequence[tuple[int, Prompt]], seconds: dict[str, float]
    ) -> list[tuple[int, CandidateGroup]]:
        stored = self.inputs.stored
        assert stored is not None, "completions are stored"
        threshold = self.recipe.evaluate.threshold
        started = time.perf_counter()
        with self.cost.phase(JUDGE):
            groups = [
                (place, stored.group(prompt, self._scorer, self.inputs.accurate, threshold))
                for place, prompt in prompts
            ]
        seconds["read"] = time.perf_counter() - started
        return groups

    def _sampled(
        self, prompts: Sequence[tuple[int, Prompt]], seconds: dict[str, float]
    ) -> list[tuple[int, CandidateGroup]]:
        """Sample and judge; one group is judged while others are sampled."""
        assert self._engine is not None and self._scorer is not None, "the policy is open"
        sample = self.recipe.sample
        started = time.perf_counter()
        sampled = self._engine.sample(
            [prompt for _, prompt in prompts],
            group_size=sample.group_size,
            max_tokens=sample.max_tokens,
            sampling=setup.sampling_of(sample),
            seed=("reject", self.recipe.seed),
        )
        with self.cost.phase(SAMPLE):
            pending = [(prompts[index][0], self._scorer.submit(group)) for index, group in sampled]
        seconds["sample"] = time.perf_counter() - started
        self.log.say(*self._engine.stats.notes)
        with self.cost.phase(JUDGE):
            groups = [(place, self._group(waiting.result())) for place, waiting in pending]
        self._count_tokens([group for _, group in groups])
        seconds["judge"] = time.perf_counter() - started - seconds["sample"]
        return groups

    def _count_tokens(self, groups: Sequence[CandidateGroup]) -> None:
        """Give the costs what this process sampled; a prompt is read once for all candidates."""
        candidates = [one for group in groups for one in group.candidates]
        self.cost.count(
            prompt=sum(len(group.prompt.token_ids) for group in groups),
            sampled=sum(one.num_tokens for one in candidates),
        )

    def _group(self, group: ScoredGroup) -> CandidateGroup:
        model = self.progress.fingerprint.get("model")
        id = group.prompt.id
        origins = [
            Origin(index, seed=completion_seed("reject", self.recipe.seed, id, index), model=model)
            for index in range(len(group.completions))
        ]
        threshold = self.recipe.evaluate.threshold
        return candidates_of(group, origins, self.inputs.accurate, threshold)

    def _refuse_faults(self, step: int) -> None:
        """Stop where so many completions could not be judged that the rest means little."""
        gate = self.recipe.gates.get("faults")
        limit = GATES["faults"].limits["stop"]
        if gate is not None:
            if gate.upto != "stop":
                return
            limit = limit if gate.stop is None else gate.stop
        scores = [one.score for group in self.groups for one in group.candidates]
        share = sum(score.status == "fault" for score in scores) / max(1, len(scores))
        if share <= limit:
            return
        scored = [group.scored() for group in self.groups]
        bad_weight = (lambda: "") if self._policy is None else self._policy.not_finite
        says = worst_fault(scored, bad_weight)
        raise GateStop(Alarm(step, "faults", LADDER.index("stop"), value=share, says=says))

    # -- writing --------------------------------------------------------------------------------------------

    def _write(
        self,
        step: int,
        outcomes: Sequence[Sequence[str]],
        caught: Sequence[Sequence[Sequence[str]]],
        record: Record,
    ) -> None:
        """Append a step to the files; they count once `save_progress` has noted their sizes."""
        candidates: list[dict[str, Any]] = []
        accepted: list[dict[str, Any]] = []
        rates: list[dict[str, Any]] = []
        for group, its_outcomes, its_caught in zip(self.groups, outcomes, caught):
            candidates += candidate_rows(step, group, its_outcomes, its_caught)
            accepted += self._accepted(group, its_outcomes)
            rates.append(pass_rate_row(group, its_outcomes))
        self._append(ACCEPTED_FILE, accepted)
        self._append(RATES_FILE, rates)
        self.log.step(record, [], self.recipe.steps, rows=candidates)

    def _accepted(self, group: CandidateGroup, outcomes: Sequence[str]) -> list[dict[str, Any]]:
        """The accepted rows of a prompt; what they train as is counted."""
        rate = pass_rate_of(group)
        chosen = [
            candidate
            for candidate, outcome in zip(group.candidates, outcomes)
            if outcome == ACCEPTED
        ]
        info = self.inputs.info
        rows = [accepted_row(candidate, rate, info.tokenizer) for candidate in chosen]
        section = self.inputs.section_of(group.prompt)
        kinds = kinds_of_tokens(chosen, rows, section, info)
        for row, kind in zip(rows, kinds):
            row["sampled"]["trains_as"] = kind
        self.books.tokens.update(kinds)
        self.books.sums["accepted"] += sum(candidate.num_tokens for candidate in chosen)
        return rows

    def _append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        file = self.folder / name
        lines = [json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows]
        with watchdog.waiting("checkpoint", owner=f"grpo.stages.reject, {name}"):
            with (
                disk_errors(file),
                file.open("a", encoding="utf-8", errors="backslashreplace") as out,
            ):
                out.writelines(lines)

    # -- the end --------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Write the summary and the report."""
        if self._ranks.main:
            with self.cost.phase(SAVE):
                self.cost.flush()
                self._summary = self._sums()
                write_summary(self.folder, self._summary)
            self.log.say("", *words.closing(self._summary, self.folder, self.inputs))
        self._is_finished = True
        self._write_report()
        self._ranks.wait()

    def _sums(self) -> dict[str, Any]:
        """What ``summary.json`` holds."""
        with (self.folder / RATES_FILE).open(encoding="utf-8") as lines:
            rates = [counts_of(json.loads(line)) for line in lines]
        cost = recorded_costs(self.folder, self.recipe)
        output = {"model": None, "data": ACCEPTED_FILE}
        return {
            "name": self.recipe.name,
            "stage": self.recipe.stage,
            "steps": self.num_steps,
            "before": None,
            "after": None,
            "sets": {},
            "seconds": self.progress.seconds,
            "rows": dict(self.inputs.counts),
            **self.books.summary(),
            "acceptance": acceptance(rates),
            "pass_rate": pass_rates(rates),
            "model": self.progress.fingerprint.get("model"),
            "data": self.inputs.shown_by(),
            "cost": cost,
            "output": output,
        }

    def _keep(self) -> None:
        """Nothing is left to save: each step has written all of itself."""

    def _stop_work(self, failure: BaseException | None) -> None:
        if self._scorer is not None:
            self._scorer.close()
        self._policy = None
        self._engine = None
        self._scorer = None

    def _settle(self, *, failed: bool) -> None:
        """End the account of what this attempt took; a summary that was written then has all of it."""
        self.watchdog.stop()
        self.cost.end(failed=failed)
        if self._summary is not None:
            self._summary["cost"] = recorded_costs(self.folder, self.recipe)
            write_summary(self.folder, self._summary)
        if self._lock is not None:
            self._lock.close()
