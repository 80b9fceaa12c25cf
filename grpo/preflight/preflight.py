"""What can be known of a run before its first step: ``python -m grpo.train RECIPE --preflight``.

Stages, each of which needs the one before: recipe and data, rewards on gold answers, memory, the model with a sample
of its completions and one update that is thrown away. Every mistake has a name (``mistakes``, docs/preflight.md). The
rewards are judged by the run's own judge, memory is predicted by ``memory``, and nothing is written to the disk.
"""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any, Callable, Iterator, Mapping, Sequence

import psutil
import torch
import transformers

from grpo.data.prompts import PromptStream
from grpo.learner.batch import make_batch
from grpo.learner.learner import Learner
from grpo.learner.optimizer import Optimizer
from grpo.model.loading import DTYPES
from grpo.model.policy import Policy
from grpo.monitor.gates import GATES
from grpo.objective.advantage import advantages
from grpo.objective.policy_loss import forwards_flat_groups
from grpo.preflight import checks
from grpo.preflight.checks import NOTE, WARNING, WRONG, Finding, RunFacts, note, warning, wrong
from grpo.preflight.memory import GIB, Memory, example_rows, predict
from grpo.recipe import Recipe, RecipeError
from grpo.run.accuracy import summarise
from grpo.run.console import many_hours
from grpo.run.log import interval
from grpo.run.setup import open_engine, prepare_torch, sampling_of
from grpo.scoring import Scorer
from grpo.train import Trainer
from grpo.types import ScoredGroup
from rewards import Sample, Score
from rewards.check import TEMPLATE, perturbed
from rewards.service.service import Judged

GOLD_ROWS = 64
MAX_FAULTS = GATES["faults"].limits["stop"]
SAMPLED = 64
TOO_HARD, TOO_EASY = 0.0, 0.8
MOST_TRUNCATED = 0.3
FORMS = (
    TEMPLATE,
    "<think>\nso\n</think>\n\\boxed{{gold}}",
    "{gold}",
    "#### {gold}",
    "The answer is {gold}",
)
FENCE = "```python\n{gold}\n```"


@dataclass(frozen=True, slots=True)
class BaselineSample:
    """What a sample of base completions showed."""

    groups: tuple[ScoredGroup, ...]
    pass_rate: float
    truncated: float
    flat: float
    length: float
    sample_seconds: float
    judge_seconds: float
    update_seconds: float | None


def run(recipe: Recipe, say: Callable[[str], None]) -> bool:
    """Say everything that can be found out about `recipe`; whether nothing is certainly wrong."""
    levels: Counter[str] = Counter()
    for item in _stages(recipe):
        if isinstance(item, Finding):
            levels[item.level] += 1
            say(
                f"{item.level.upper() if item.level == WRONG else item.level:<8} {item.name}: {item.said}"
            )
        else:
            say(item)
    say(
        f"preflight: {levels[WRONG]} wrong, {levels[WARNING]} warnings, {levels[NOTE]} notes"
        + ("; the run would not work as it stands" if levels[WRONG] else "")
    )
    return not levels[WRONG]


def _stages(recipe: Recipe) -> Iterator[Finding | str]:
    facts = RunFacts(recipe)
    try:
        trainer = Trainer(recipe)
    except RecipeError as error:
        yield wrong(checks.refusal_name(str(error)), str(error))
        yield from checks.found(_what_loads(facts))
        return
    learn(facts, trainer)
    yield from _data_lines(facts)
    yield from checks.found(facts)
    yield from _gold(facts)
    enough = True
    for item in _memory(facts):
        enough &= not (isinstance(item, Finding) and item.level == WRONG)
        yield item
    yield from _model(facts, trainer, enough)


def learn(facts: RunFacts, trainer: Trainer) -> None:
    """Take over what a trainer found when it was made."""
    inputs = trainer.inputs
    facts.specs, facts.accurate, facts.tokenizer = inputs.specs, inputs.accurate, inputs.tokenizer
    facts.prompts, facts.rows, facts.config = inputs.prompts, inputs.rows, inputs.config
    facts.num_parameters = number_of_parameters(inputs.config, facts.recipe.model.trust_remote_code)


def _what_loads(facts: RunFacts) -> RunFacts:
    """`facts` with what loads although the recipe as a whole is refused: the data set, and the rewards' weights."""
    from grpo.data.prompts import load_rows
    from grpo.scoring import reward_specs

    try:
        facts.specs = reward_specs(facts.recipe)
        facts.accurate = facts.recipe.evaluate.reward or facts.specs[0].name
        facts.rows = load_rows(facts.recipe.data)
    except RecipeError:
        pass  # it is what was refused
    return facts


def number_of_parameters(config: Any, trust_remote_code: bool = False) -> int:
    """How many parameters a model of this configuration has; no weight is made."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, trust_remote_code=trust_remote_code
        )
        return sum(p.numel() for p in model.parameters())


def _data_lines(facts: RunFacts) -> Iterator[str]:
    lengths = sorted(len(prompt.token_ids) for prompt in facts.prompts.train)
    yield (
        f"data     {facts.recipe.data.source}: {len(facts.prompts.train)} train, {len(facts.prompts.held_out)} held "
        f"out; prompts have {median(lengths):.0f} tokens (median), at most {lengths[-1]}"
    )
    yield f"model    {facts.recipe.model.name}: {facts.num_parameters / 1e6:.1f} million parameters"


# ---- rewards on gold answers ----------------------------------------------------------------------------------


def _gold(facts: RunFacts) -> Iterator[Finding | str]:
    """Scorer completions that hold the gold answer, a wrong one, and nothing."""
    column = facts.gold
    if column is None:
        yield note(
            "gold-not-checked",
            "no column holds a gold answer by a usual name (answer, solution, ground_truth, "
            "label), so rewards were tried on empty completions alone",
        )
    rows = _spread(facts.rows, GOLD_ROWS)
    golds = _spread(facts.golds(), GOLD_ROWS) or [None] * len(rows)
    with Scorer(facts.specs, sandbox=facts.recipe.sandbox) as judge:
        found = GoldCheck.make(judge, facts, rows, golds)
    yield from found.lines(facts)
    yield from found.findings(facts)


def _spread(values: Sequence[Any], number: int) -> list[Any]:
    """At most `number` of `values`, evenly spread."""
    step = max(1.0, len(values) / number)
    return [values[int(i * step)] for i in range(min(number, len(values)))]


@dataclass(frozen=True, slots=True)
class GoldCheck:
    """Verdicts by kind of completion (gold, wrong, empty), in the order of the rows; `form` is how a gold was said."""

    form: str
    verdicts: Mapping[str, list[Judged]]
    whole: list[Judged]

    @staticmethod
    def make(
        judge: Scorer, facts: RunFacts, rows: Sequence[Mapping[str, Any]], golds: Sequence[Any]
    ) -> GoldCheck:
        known = [(row, str(gold)) for row, gold in zip(rows, golds) if gold is not None]
        bare = [_bare(gold, facts) for _, gold in known]
        texts = {"empty": [("", row) for row in rows]}
        form, whole = "", []
        if known:
            form = _best_form(judge, facts, [row for row, _ in known], bare)
            texts["gold"] = [(_said(form, gold), row) for gold, (row, _) in zip(bare, known)]
            texts["wrong"] = [
                (_said(form, perturbed(gold)), row) for gold, (row, _) in zip(bare, known)
            ]
            whole = (
                _judged(judge, [(_said(form, gold), row) for row, gold in known])
                if bare != [gold for _, gold in known]
                else []
            )
        return GoldCheck(
            form, {kind: _judged(judge, pairs) for kind, pairs in texts.items()}, whole
        )

    def of(self, name: str, kind: str) -> list[Score]:
        """What one reward said of the completions of a kind."""
        return [judged.parts[name] for judged in self.verdicts.get(kind, ())]

    def lines(self, facts: RunFacts) -> Iterator[str]:
        for spec in facts.specs:
            parts = [
                f"{kind} {sum(_full(score) for score in scores)}/{len(scores)}"
                for kind in ("gold", "wrong", "empty")
                if (scores := self.of(spec.name, kind))
            ]
            yield f"rewards  {spec.name}: full score for {', '.join(parts)}"

    def findings(self, facts: RunFacts) -> Iterator[Finding]:
        for spec in facts.specs:
            yield from self._constant(spec.name, facts)
        name = facts.accurate
        yield from self._faults(facts)
        gold, other, empty = (self.of(name, kind) for kind in ("gold", "wrong", "empty"))
        if gold:
            yield from self._of_gold(name, gold, facts)
        if other and sum(map(_full, other)) > 0.1 * len(other):
            yield wrong(
                "wrong-answers-paid",
                f"rewards.{name} gives its full score to {sum(map(_full, other))} of "
                f"{len(other)} wrong answers (the gold one with a digit changed)",
            )
        if any((score.value or 0) > 0 for score in empty):
            yield warning(
                "empty-is-paid", f"rewards.{name} gives more than 0 to an empty completion"
            )

    def _of_gold(self, name: str, gold: Sequence[Score], facts: RunFacts) -> Iterator[Finding]:
        failed = [score for score in gold if not _full(score)]
        whole = [judged.parts[name] for judged in self.whole]
        said = next(
            (score.detail or score.status for score in failed if score.detail or score.status), ""
        )
        if whole and len(failed) > 0.5 * len(gold) and sum(map(_full, whole)) > 0.5 * len(whole):
            yield wrong(
                "solution-not-extracted",
                f"the column {facts.gold} holds worked solutions, and rewards.{name} "
                "compares with the whole of them: it scores a completion that repeats the solution and not one "
                "that gives the answer; use math_answer, or a column with bare answers",
            )
        elif len(failed) > 0.5 * len(gold):
            yield wrong(
                "gold-scores-zero",
                f"rewards.{name} gives {len(failed)} of {len(gold)} gold answers less than "
                f"its full score; the column {facts.gold} may be the wrong one. It says: {said[:160]}",
            )
        elif failed:
            yield warning(
                "some-gold-scores-zero",
                f"rewards.{name} gives {len(failed)} of {len(gold)} gold answers less "
                f"than its full score, e.g.: {said[:160]}",
            )

    def _constant(self, name: str, facts: RunFacts) -> Iterator[Finding]:
        scores = [score for kind in ("gold", "wrong", "empty") for score in self.of(name, kind)]
        values = {score.value for score in scores if score.status != "fault"}
        weighted = [spec for spec in facts.specs if spec.weight]
        if len(values) == 1 and self.verdicts.get("gold"):
            level = WRONG if [spec.name for spec in weighted] == [name] else WARNING
            yield Finding(
                level,
                "constant-reward",
                f"rewards.{name} says {values.pop()} to right, wrong and empty "
                "completions alike: every group would be flat and nothing learnt",
            )

    def _faults(self, facts: RunFacts) -> Iterator[Finding]:
        for spec in facts.specs:
            kinds = ("gold", "wrong", "empty")
            scores = [score for kind in kinds for score in self.of(spec.name, kind)]
            faults = [score for score in scores if score.status == "fault"]
            slow = [score for score in scores if score.status == "timeout"]
            if faults:
                level = WRONG if spec.weight and len(faults) > MAX_FAULTS * len(scores) else WARNING
                yield Finding(
                    level,
                    "faults",
                    f"rewards.{spec.name} could not judge {len(faults)} of {len(scores)} "
                    f"completions (above {MAX_FAULTS:.0%} of a step ends a run): {faults[0].detail[:200]}",
                )
            if slow:
                yield warning(
                    "slow-judge",
                    f"rewards.{spec.name} ran out of its time on {len(slow)} of {len(scores)} "
                    f"completions: {slow[0].detail[:160]}",
                )


def _full(score: Score) -> bool:
    return score.value is not None and score.value >= 1


def _bare(gold: str, facts: RunFacts) -> str:
    """The answer alone, where the column holds a whole solution that ends in one."""
    from rewards.mathematics.extraction import bare_answer

    return gold if _runs_code(facts) else bare_answer(gold, lenient=True).text or gold


def _runs_code(facts: RunFacts) -> bool:
    return any(spec.name == facts.accurate and spec.use == "code_tests" for spec in facts.specs)


def _said(form: str, gold: str) -> str:
    return form.replace("{gold}", gold)


def _judged(judge: Scorer, pairs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Judged]:
    samples = [
        Sample(
            text,
            columns={**row, "finish": "stop", "num_tokens": max(1, len(text.split()))},
            prompt=row["prompt"] if isinstance(row["prompt"], str) else "",
            token_ids=(0,),
            group=str(i),
        )
        for i, (text, row) in enumerate(pairs)
    ]
    return judge.service.judge(samples)


def _best_form(
    judge: Scorer, facts: RunFacts, rows: Sequence[Mapping[str, Any]], golds: Sequence[str]
) -> str:
    """The way of saying an answer that the accurate reward understands best, tried on some rows."""
    forms = (FENCE,) if _runs_code(facts) else FORMS
    some = list(zip(golds, rows))[:8]
    right = {
        form: sum(
            _full(judged.parts[facts.accurate])
            for judged in _judged(judge, [(_said(form, gold), row) for gold, row in some])
        )
        for form in forms
    }
    return max(forms, key=lambda form: right[form])


# ---- memory ---------------------------------------------------------------------------------------------------


def _memory(facts: RunFacts) -> Iterator[Finding | str]:
    """The planner's prediction of the largest update beside what the device has free."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    needed = largest_update(facts, device)
    yield from (f"memory   {line.strip()}" for line in needed.lines())
    yield f"memory   free on the {device}: {free / GIB:.2f} GiB; all completions taken as long as sample.max_tokens"
    if facts.recipe.model.quantize:
        yield note(
            "memory-of-a-plain-base",
            "model.quantize holds the base at 4 bits; the prediction counts it whole",
        )
    elif needed.peak > free:
        yield wrong(
            "not-enough-memory",
            f"an update may take {needed.peak / GIB:.1f} GiB, and {free / GIB:.1f} GiB are "
            "free; lower optim.tokens_per_micro_batch, set model.gradient_checkpointing: true, model.lora, "
            "optim.state: 8bit, or take a smaller model",
        )
    elif needed.peak > 0.9 * free:
        yield warning(
            "little-memory",
            f"an update may take {needed.peak / GIB:.1f} of {free / GIB:.1f} GiB; lower "
            "optim.tokens_per_micro_batch to be safe",
        )


def largest_update(facts: RunFacts, device: str = "cpu") -> Memory:
    """The memory of the recipe's update, were its prompts the longest and its completions of full length."""
    recipe, longest = facts.recipe, max(len(prompt.token_ids) for prompt in facts.prompts.train)
    made = math.ceil(recipe.sample.prompts / recipe.optim.updates)
    rows = example_rows(made, recipe.sample.group_size, longest, recipe.sample.max_tokens)
    return predict(
        facts.config,
        facts.tokenizer,
        recipe.model,
        recipe.optim,
        recipe.loss,
        rows,
        device=device,
        sampler_bytes=sampler_bytes(facts, longest),
    )


def sampler_bytes(facts: RunFacts, prompt_tokens: int) -> int:
    """Keys and values of the completions decoded at a time, their prompts once a group."""
    config, sample = facts.config.get_text_config(), facts.recipe.sample
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = torch.empty((), dtype=DTYPES[facts.recipe.model.dtype]).element_size()
    rows = min(sample.max_rows, sample.prompts * sample.group_size)
    tokens = rows * sample.max_tokens + -(-rows // sample.group_size) * prompt_tokens
    return 2 * config.num_hidden_layers * heads * width * size * tokens


# ---- the model, a sample, an update ---------------------------------------------------------------------------


def _model(facts: RunFacts, trainer: Trainer, enough_memory: bool) -> Iterator[Finding | str]:
    recipe = facts.recipe
    if not enough_memory:
        yield "sample   left out: the model would not fit"
        return
    prepare_torch(recipe)
    transformers.utils.logging.disable_progress_bar()
    try:
        policy = Policy.load(
            recipe.model, "cuda" if torch.cuda.is_available() else "cpu", tokenizer=facts.tokenizer
        )
    except RecipeError as error:
        yield wrong(checks.refusal_name(str(error)), str(error))
        return
    yield from _served(policy)
    yield from _ends(facts, policy)
    baseline = probe(facts, trainer, policy)
    yield from _baseline_lines(facts, baseline)
    yield from advice(recipe, baseline)
    yield from _cost(facts, baseline)


def _served(policy: Policy) -> Iterator[Finding]:
    if policy.unsupported_reason:
        yield warning(
            "not-served",
            f"{policy.unsupported_reason}: it is sampled by transformers' generate and trained in whole rows, "
            "which is slower",
        )


def _ends(facts: RunFacts, policy: Policy) -> Iterator[Finding]:
    """Whether what ends a turn in the chat template is among the tokens that end a completion."""
    if facts.recipe.data.template != "chat":
        return
    shown = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = policy.tokenizer(
        policy.tokenizer.apply_chat_template(shown, tokenize=False), add_special_tokens=False
    )
    special = [
        token for token in ids["input_ids"] if token in set(policy.tokenizer.all_special_ids)
    ]
    stops = ", ".join(map(str, policy.tokenizer.convert_ids_to_tokens(sorted(policy.stop_ids))))
    if special and special[-1] not in policy.stop_ids:
        yield wrong(
            "end-of-turn-is-no-stop",
            f"the chat template ends a turn with "
            f"{policy.tokenizer.convert_ids_to_tokens(special[-1])}, which does not end a completion (those "
            f"are {stops}); add it to "
            "sample.stop",
        )


def probe(facts: RunFacts, trainer: Trainer, policy: Policy) -> BaselineSample:
    """Sample some groups as the first step would, judge them, and make one update on a policy that is thrown away."""
    recipe, sample = facts.recipe, facts.recipe.sample
    size = min(sample.group_size, SAMPLED)
    prompts = PromptStream(facts.prompts.train, recipe.seed).take(
        max(1, min(sample.prompts, SAMPLED // size))
    )
    engine = open_engine(recipe, policy)
    with Scorer(facts.specs, sandbox=recipe.sandbox) as judge:
        begun = time.perf_counter()
        pending = [
            (place, judge.submit(group))
            for place, group in engine.sample(
                prompts,
                group_size=size,
                max_tokens=sample.max_tokens,
                sampling=sampling_of(sample),
                seed=("preflight", recipe.seed),
            )
        ]
        sampled = time.perf_counter()
        groups = tuple(waiting.result() for _, waiting in sorted(pending, key=lambda item: item[0]))
        judged = time.perf_counter()
    found = summarise(groups, facts.accurate, 0, 0.0)
    flat = sum(group.flat for group in groups) / len(groups)
    return BaselineSample(
        groups,
        found.accuracy,
        found.truncated,
        flat,
        found.length,
        sampled - begun,
        judged - sampled,
        _update_seconds(facts, trainer, policy, groups),
    )


def _update_seconds(
    facts: RunFacts, trainer: Trainer, policy: Policy, groups: Sequence[ScoredGroup]
) -> float | None:
    """The time of one update on `groups`; where all of them are flat, on made-up advantages. The policy is spoilt."""
    recipe = facts.recipe
    options = {
        "num_updates": 1,
        "epochs": 1,
        "max_tokens": recipe.sample.max_tokens,
        "mask_truncated": False,
    }
    values = advantages(
        groups, recipe.advantage, {spec.name: spec.weight for spec in facts.specs}, None, {}
    )
    batch = make_batch(groups, values, flat_is_reached=forwards_flat_groups(recipe.loss), **options)
    if not any(row.forwarded for row in batch.updates[0].rows):
        made_up = [
            [1.0 if i % 2 else -1.0 for i in range(len(group.completions))] for group in groups
        ]
        batch = make_batch(groups, made_up, flat_is_reached=True, **options)
    optimizer = Optimizer(
        policy.trainable(), recipe.optim, 1, scale_loss=policy.base.dtype == torch.float16
    )
    learner = Learner(
        policy,
        optimizer,
        recipe.loss,
        temperature=recipe.sample.temperature,
        tokens_per_micro_batch=recipe.optim.tokens_per_micro_batch,
    )
    begun = time.perf_counter()
    learner.begin(batch)
    learner.update(batch.updates[0])
    seconds = time.perf_counter() - begun
    gc.collect()
    return seconds


def _baseline_lines(facts: RunFacts, baseline: BaselineSample) -> Iterator[str]:
    number = sum(len(group.completions) for group in baseline.groups)
    found = summarise(baseline.groups, facts.accurate, 0, 0.0)
    yield (
        f"sample   {number} base completions of {len(baseline.groups)} prompts: {interval(found.to_mapping())} pass "
        f"rewards.{facts.accurate}, {baseline.truncated:.0%} truncated, {baseline.flat:.0%} of the groups flat, "
        f"{baseline.length:.0f} tokens on average"
    )


def advice(recipe: Recipe, baseline: BaselineSample) -> Iterator[Finding]:
    """What a sample of base completions says about the run, in plain words."""
    number = sum(len(group.completions) for group in baseline.groups)
    scores = [score for group in baseline.groups for score in group.scores]
    faults = [score for score in scores if score.status == "fault"]
    if len(faults) > MAX_FAULTS * number:
        yield wrong(
            "too-many-faults",
            f"{len(faults)} of {number} completions could not be judged; above "
            f"{MAX_FAULTS:.0%} a step ends the run: {faults[0].detail[:160]}",
        )
    if baseline.truncated > MOST_TRUNCATED:
        masked = (
            " and, by advantage.mask_truncated, not learnt from"
            if recipe.advantage.mask_truncated
            else ""
        )
        yield warning(
            "truncated",
            f"{baseline.truncated:.0%} of the completions were cut off at {recipe.sample.max_tokens} "
            f"tokens{masked}: what is cut off has no answer and earns nothing; raise sample.max_tokens",
        )
    yield from _difficulty(baseline, number)
    if baseline.flat > 0.8 and TOO_HARD < baseline.pass_rate < TOO_EASY:
        yield warning(
            "mostly-flat",
            f"{baseline.flat:.0%} of the groups have no spread of reward and teach nothing; raise "
            "sample.group_size or sample.temperature, or set advantage.flat: refill",
        )
    values = [abs(score.value) for score in scores if score.value is not None]
    if values and max(values) > checks.MOST_REWARD:
        yield warning(
            "reward-scale",
            f"rewards reach {max(values):g}; scale them to about 1, which clip, KL and the "
            "presets' rates are made for",
        )


def _difficulty(baseline: BaselineSample, number: int) -> Iterator[Finding]:
    if math.isnan(baseline.pass_rate):
        return
    if baseline.pass_rate == TOO_HARD and baseline.flat == 1:
        yield warning(
            "too-hard",
            f"0 % of {number} pass, and no other reward tells completions apart: too hard, nothing "
            "could be learnt; take easier prompts, a stronger model, a longer sample.max_tokens, or a reward "
            "that pays for part of the way",
        )
    elif baseline.pass_rate == TOO_HARD:
        yield warning(
            "too-hard",
            f"0 % of {number} pass: too hard for now; only the other rewards teach until one does",
        )
    elif baseline.pass_rate >= TOO_EASY:
        yield warning(
            "too-easy",
            f"{baseline.pass_rate:.0%} of {number} pass: too easy, most groups will be flat; take "
            "harder prompts, or data.pass_high below 1",
        )


def _cost(facts: RunFacts, baseline: BaselineSample) -> Iterator[str]:
    """Seconds of a step and of the run, in proportion to the sample's."""
    recipe = facts.recipe
    number = sum(len(group.completions) for group in baseline.groups)
    times = recipe.sample.prompts * recipe.sample.group_size / number
    phases = {
        "sampling": baseline.sample_seconds * times,
        "judging beside it": baseline.judge_seconds * times,
        "update": (baseline.update_seconds or 0.0) * times * recipe.optim.epochs,
    }
    step = sum(phases.values())
    rounds = 2 + (recipe.steps // recipe.evaluate.every if recipe.evaluate.every else 0)
    held = len(facts.prompts.held_out) * recipe.evaluate.samples / number
    evaluating = rounds * held * (baseline.sample_seconds + baseline.judge_seconds)
    parts = ", ".join(f"{name} {value:.1f}" for name, value in phases.items())
    yield (
        f"cost     a step about {step:.1f} s ({parts}), "
        f"as measured on {number} completions and scaled to {number * times:.0f}"
    )
    yield (
        f"cost     the run about {many_hours(recipe.steps * step + evaluating)}: {recipe.steps} steps and {rounds} "
        f"evaluations of {len(facts.prompts.held_out)} x {recipe.evaluate.samples}; longer if completions grow"
    )
