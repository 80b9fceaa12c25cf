"""The mistakes that runs are begun with, each under its name: what can be told from recipe, data and tokenizer alone.

Every check takes `RunFacts` and gives `Finding`s; none loads a model or judges a completion. `CHECKS` is their table.
What the judge and the model say is found by ``preflight``. Names, and what other trainers do: docs/preflight.md.
"""

from __future__ import annotations

import netrc
import os
import re
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Callable, Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.data.prompts import PromptSet
from grpo.recipe import Recipe
from grpo.recipe.presets import PRESETS
from rewards import RewardSpec
from rewards.conventions import TRUTH_COLUMNS

WRONG, WARNING, NOTE = "wrong", "warning", "note"
SMALL_MODEL = 30e6
"""Models with fewer parameters bear, and need, larger learning rates than the usual ones."""
FULL_MOST_LR, LORA_LEAST_LR, LORA_MOST_LR = 2e-5, 5e-6, 2e-3
MOST_EPOCHS = 20.0
LONGEST_ANSWER = 60
MOST_REWARD = 10.0
THINK_REWARDS = ("think_format", "tag_count")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found: ``wrong`` ends the preflight with exit code 2, a ``warning`` or ``note`` does not."""

    level: str
    name: str
    said: str


@dataclass(slots=True)
class RunFacts:
    """What is known so far of a run; a field is None until its stage has been reached."""

    recipe: Recipe
    specs: Sequence[RewardSpec] = ()
    accurate: str = ""
    rows: Sequence[Mapping[str, Any]] | None = None
    num_held_out: int = 0
    tokenizer: PreTrainedTokenizerBase | None = None
    config: Any = None
    prompts: PromptSet | None = None
    num_parameters: int | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def gold(self) -> str | None:
        """The column with the gold answers, if there is one by a usual name."""
        return next((name for name in TRUTH_COLUMNS if self.rows and name in self.rows[0]), None)

    def golds(self) -> list[Any]:
        """The gold answers of all rows; an entry of a mapping where they are kept in one."""
        values = [row.get(self.gold) for row in self.rows or ()] if self.gold else []
        return [
            value.get("ground_truth") if isinstance(value, Mapping) else value for value in values
        ]


def wrong(name: str, said: str) -> Finding:
    return Finding(WRONG, name, said)


def warning(name: str, said: str) -> Finding:
    return Finding(WARNING, name, said)


def note(name: str, said: str) -> Finding:
    return Finding(NOTE, name, said)


Check = Callable[[RunFacts], Iterator[Finding]]


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# ---- the objective and the optimizer --------------------------------------------------------------------------


def small_groups(facts: RunFacts) -> Iterator[Finding]:
    size = facts.recipe.sample.group_size
    if size < 4 and facts.recipe.advantage.rule != "reinforce_pp":
        yield warning(
            "small-group",
            f"sample.group_size is {size}: the mean and spread of so few completions "
            "are mostly noise, and most groups will be flat; 8 to 16 are usual",
        )


def learning_rate(facts: RunFacts) -> Iterator[Finding]:
    lr, lora = facts.recipe.optim.lr, facts.recipe.model.lora
    if facts.num_parameters is None or facts.num_parameters < SMALL_MODEL:
        return
    if lora is None and lr > FULL_MOST_LR:
        yield warning(
            "lr-of-adapters",
            f"optim.lr is {lr:g} and every weight trains: that is an adapter's rate, "
            "about 10 times too high here; 1e-6 to 5e-6 are usual, or set model.lora",
        )
    elif lora is not None and lr < LORA_LEAST_LR:
        yield warning(
            "lr-of-full-training",
            f"optim.lr is {lr:g} and only adapters train: that is the rate of "
            "full training; adapters need about 10 times as much, 1e-5 to 2e-4 are usual",
        )
    elif lr > LORA_MOST_LR:
        yield warning(
            "lr-too-high", f"optim.lr is {lr:g}; policies of this size fall apart above 1e-3"
        )


def temperature(facts: RunFacts) -> Iterator[Finding]:
    value = facts.recipe.sample.temperature
    if value < 0.5:
        yield warning(
            "cold-sampling",
            f"sample.temperature is {value:g}: completions of a prompt will be nearly "
            "the same, so most groups are flat and nothing is explored; 0.7 to 1.0 are usual",
        )
    elif value > 1.4:
        yield warning(
            "hot-sampling",
            f"sample.temperature is {value:g}: long completions fall into noise; 0.7 to "
            "1.0 are usual",
        )


def filters_without_correction(facts: RunFacts) -> Iterator[Finding]:
    sample, loss = facts.recipe.sample, facts.recipe.loss
    on = [
        f"{name} {value:g}"
        for name, value, off in (
            ("top_k", sample.top_k, 0),
            ("top_p", sample.top_p, 1),
            ("min_p", sample.min_p, 0),
        )
        if value != off
    ]
    if on and loss.correction == "none" and loss.correction_mask == "none":
        yield warning(
            "uncorrected-filters",
            f"sample.{' and sample.'.join(on)} cut the sampler's distribution, "
            "which the loss does not know as loss.correction is none; set loss.correction: token, or sample "
            "without filters",
        )


def kl_that_is_off(facts: RunFacts) -> Iterator[Finding]:
    loss, preset = facts.recipe.loss, PRESETS[facts.recipe.loss.preset].loss
    default = type(loss)()
    if loss.beta:
        return
    changed = [
        name
        for name in ("kl", "kl_in")
        if getattr(loss, name) != preset.get(name, getattr(default, name))
    ]
    if changed or preset.get("beta"):
        why = f"loss.{changed[0]} is set" if changed else f"the preset {loss.preset} has a KL"
        yield warning(
            "kl-is-off",
            f"{why}, but loss.beta is 0, so there is no reference and no KL; set loss.beta "
            "(0.001 to 0.04 are usual) or take the other keys out",
        )


def several_updates(facts: RunFacts) -> Iterator[Finding]:
    optim, loss = facts.recipe.optim, facts.recipe.loss
    made = optim.updates * optim.epochs
    if made == 1:
        return
    if loss.policy in ("reinforce", "none"):
        yield warning(
            "no-ratio",
            f"a step makes {made} updates, but loss.policy {loss.policy} has no ratio to the "
            "policy that sampled: later updates learn from stale completions; use clip, or one update",
        )
    if loss.old == "sampler":
        yield warning(
            "old-logp-of-the-sampler",
            f"a step makes {made} updates with loss.old sampler: rounding "
            "between sampler and trainer is then taken for a change of policy; loss.old forward costs one pass",
        )
    if optim.epochs > 4:
        yield warning(
            "many-epochs",
            f"optim.epochs is {optim.epochs}: the same completions are learnt "
            f"{optim.epochs} times; above 4 the clip holds most of it back",
        )


def uneven_updates(facts: RunFacts) -> Iterator[Finding]:
    prompts, updates = facts.recipe.sample.prompts, facts.recipe.optim.updates
    if prompts % updates:
        yield note(
            "uneven-updates",
            f"sample.prompts {prompts} cannot be divided by optim.updates {updates}; some "
            "updates have a group more (each has its own denominators, so nothing is weighted wrongly)",
        )


def warmup(facts: RunFacts) -> Iterator[Finding]:
    recipe = facts.recipe
    total = recipe.steps * recipe.optim.updates * recipe.optim.epochs
    if total and recipe.optim.warmup >= total:
        yield warning(
            "warmup-outlasts-run",
            f"optim.warmup is {recipe.optim.warmup} updates and the run makes "
            f"{total}: it never reaches optim.lr; about 5 % of the run are usual",
        )


def half_precision(facts: RunFacts) -> Iterator[Finding]:
    dtype = facts.recipe.model.dtype
    import torch

    if torch.cuda.is_available():
        return
    if dtype == "float16":
        yield warning(
            "float16-on-cpu",
            "model.dtype is float16 on a CPU: products are slow and overflow; use float32",
        )
    elif dtype == "bfloat16":
        yield warning(
            "bfloat16-on-cpu",
            "model.dtype is bfloat16 on a CPU: logits are rounded, so sampler and "
            "trainer differ by some hundredths; use float32 where memory allows",
        )


def adamw_step_in_half(facts: RunFacts) -> Iterator[Finding]:
    recipe = facts.recipe
    if recipe.model.dtype in ("bfloat16", "float16") and recipe.model.lora is None:
        yield note(
            "half-weights",
            f"weights are {recipe.model.dtype}, and an update of {recipe.optim.lr:g} is below "
            "what such a weight can show; fp32 masters beside them keep it (4 bytes a parameter)",
        )


def truncation_mask(facts: RunFacts) -> Iterator[Finding]:
    recipe = facts.recipe
    if recipe.advantage.mask_truncated and recipe.sample.max_tokens <= 256:
        yield warning(
            "mask-with-tight-cap",
            f"advantage.mask_truncated leaves out what sample.max_tokens "
            f"{recipe.sample.max_tokens} cuts off: at so tight a cap that may be nearly all of a step",
        )


# ---- rewards --------------------------------------------------------------------------------------------------


def weights(facts: RunFacts) -> Iterator[Finding]:
    by_name = {spec.name: spec.weight for spec in facts.specs}
    mine = by_name.get(facts.accurate, 0.0)
    others = {
        name: weight for name, weight in by_name.items() if name != facts.accurate and weight > 0
    }
    if mine <= 0:
        yield warning(
            "accuracy-not-paid",
            f"rewards.{facts.accurate} decides what is accurate, but its weight is "
            f"{mine:g}, so it is not learnt",
        )
    elif sum(others.values()) >= mine:
        yield warning(
            "format-dominates",
            f"{' and '.join(f'rewards.{name}' for name in others)} together weigh "
            f"{sum(others.values()):g}, as much as rewards.{facts.accurate} ({mine:g}): a wrong answer in the "
            "right form earns as much as a right one; 0.1 to 0.2 are usual",
        )
    if max(map(abs, by_name.values()), default=0) > MOST_REWARD and facts.recipe.advantage.rule in (
        "center",
        "rloo",
    ):
        yield warning(
            "reward-scale",
            f"a reward weighs {max(by_name.values()):g} and advantage.rule "
            f"{facts.recipe.advantage.rule} does not divide by the spread: the gradient grows with it; scale the "
            "weights to about 1",
        )


# ---- data -----------------------------------------------------------------------------------------------------


def answers(facts: RunFacts) -> Iterator[Finding]:
    """What is odd about the gold column, before anything is judged."""
    golds, column = facts.golds(), facts.gold
    if not golds:
        return
    empty = sum(gold is None or isinstance(gold, str) and not gold.strip() for gold in golds)
    if empty:
        said = f"{empty} of {len(golds)} rows have nothing in the column {column}; their completions would be faults"
        yield Finding(WRONG if empty == len(golds) else WARNING, "empty-gold", said)
    texts = [str(gold).strip() for gold in golds]
    if texts == [str(row.get("prompt", "")).strip() for row in facts.rows or ()]:
        yield wrong(
            "gold-is-the-prompt",
            f"the column {column} holds the prompt itself; data.columns names the wrong column",
        )
    elif len(texts) > 8 and len(set(texts)) == 1:
        yield wrong(
            "gold-is-constant",
            f"the column {column} holds {texts[0][:40]!r} in every row; data.columns "
            "names the wrong column, or the file lost its answers",
        )
    elif len(texts) > 8 and texts in (
        [str(i + first) for i in range(len(texts))] for first in (0, 1)
    ):
        yield wrong(
            "gold-is-the-row-number",
            f"the column {column} counts the rows; data.columns names the wrong column",
        )


def normalised(prompt: Any) -> str:
    return re.sub(r"\W+", " ", str(prompt)).strip().lower()


def duplicates(facts: RunFacts) -> Iterator[Finding]:
    if not facts.rows or facts.prompts is None:
        return
    trained, held = (
        [normalised(prompt.truth["prompt"]) for prompt in part]
        for part in (facts.prompts.train, facts.prompts.held_out)
    )
    twice = len(trained) - len(set(trained))
    if twice > 0.01 * len(trained):
        yield warning(
            "duplicates", f"{twice} of {len(trained)} training prompts occur more than once"
        )
    shared = len(set(held) & set(trained))
    if shared:
        yield warning(
            "held-out-overlap",
            f"{shared} of {len(held)} held-out prompts are also trained on, but for "
            "case, spaces or punctuation: held-out accuracy will be too high; remove the duplicates",
        )
    contradict = contradictions(facts)
    if contradict:
        yield warning(
            "two-golds",
            f"{count(contradict, 'prompt')} occur with different answers in the column "
            f"{facts.gold}",
        )


def contradictions(facts: RunFacts) -> int:
    """How many prompts have more than one gold answer."""
    answers: dict[str, set[str]] = {}
    for row, gold in zip(facts.rows or (), facts.golds()):
        answers.setdefault(normalised(row.get("prompt")), set()).add(str(gold))
    return sum(len(found) > 1 for found in answers.values())


def epochs(facts: RunFacts) -> Iterator[Finding]:
    if facts.prompts is None or not facts.prompts.train:
        return
    passes = facts.recipe.steps * facts.recipe.sample.prompts / len(facts.prompts.train)
    if passes > MOST_EPOCHS:
        yield warning(
            "too-many-passes",
            f"{facts.recipe.steps} steps of {facts.recipe.sample.prompts} prompts pass "
            f"{passes:.0f} times over {len(facts.prompts.train)} prompts: they will be learnt by heart; use more "
            "data or fewer steps",
        )


def held_out(facts: RunFacts) -> Iterator[Finding]:
    if facts.recipe.data.held_out == 0:
        yield warning(
            "nothing-held-out",
            "data.held_out is 0: the reward in training is all that will be seen, and "
            "it rises also where nothing is learnt; hold out 100 to 300 rows",
        )


# ---- tokens ---------------------------------------------------------------------------------------------------


def prompt_lengths(facts: RunFacts) -> Iterator[Finding]:
    prompts = facts.prompts
    if prompts is None or not prompts.num_dropped:
        return
    total = len(prompts.train) + len(prompts.held_out) + prompts.num_dropped
    said = (
        f"{prompts.num_dropped} of {total} prompts leave no room for sample.max_tokens "
        f"{facts.recipe.sample.max_tokens} in the model's context (or are above data.max_prompt_tokens) and are "
        f"dropped; the longest has {prompts.longest} tokens"
    )
    yield Finding(WRONG if prompts.num_dropped > total / 2 else WARNING, "prompts-too-long", said)


def answer_lengths(facts: RunFacts) -> Iterator[Finding]:
    """Worked solutions tell how long a right completion is."""
    if facts.tokenizer is None or not facts.rows:
        return
    worked = [
        str(gold) for gold in facts.golds() if gold is not None and len(str(gold)) > LONGEST_ANSWER
    ][:200]
    if len(worked) < min(20, len(facts.rows) / 2):
        return
    lengths = sorted(
        len(ids) for ids in facts.tokenizer(worked, add_special_tokens=False)["input_ids"]
    )
    most = facts.recipe.sample.max_tokens
    if lengths[int(0.9 * (len(lengths) - 1))] > most:
        above = sum(length > most for length in lengths) / len(lengths)
        yield warning(
            "cap-below-solutions",
            f"{above:.0%} of the worked solutions in the column {facts.gold} are "
            f"longer than sample.max_tokens {most} (their median is {median(lengths):.0f} tokens): a policy that "
            "reasons as they do is cut off and earns nothing",
        )


def templates(facts: RunFacts) -> Iterator[Finding]:
    tokenizer, template = facts.tokenizer, facts.recipe.data.template
    if tokenizer is None:
        return
    if tokenizer.chat_template and template != "chat":
        yield note(
            "chat-model-without-chat",
            f"the tokenizer has a chat template, and data.template is "
            f"{template if template in ('r1', 'plain') else 'a string'}: right for base models, while an instruct "
            "model expects data.template: chat",
        )
    if tokenizer.eos_token_id is None:
        level = WARNING if facts.recipe.sample.stop else WRONG
        yield Finding(
            level,
            "no-end-token",
            "the tokenizer has no end token"
            + (
                ""
                if level == WARNING
                else " and sample.stop is empty: no completion can end by itself"
            ),
        )
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        yield note(
            "pad-is-end",
            "padding and end are one token; nothing is padded here, so the end is trained",
        )


def thinking_tags(facts: RunFacts) -> Iterator[Finding]:
    """Tags that a reward looks for must survive being written by the model."""
    wants = facts.recipe.data.template == "r1" or any(
        spec.use in THINK_REWARDS for spec in facts.specs
    )
    if facts.tokenizer is None or not wants:
        return
    lost = [
        tag
        for tag in TAGS
        if tag
        not in facts.tokenizer.decode(
            facts.tokenizer(f"x {tag} y", add_special_tokens=False)["input_ids"],
            clean_up_tokenization_spaces=False,
        )
    ]
    if lost:
        yield wrong(
            "tags-cannot-be-written",
            f"the tokenizer cannot write {', '.join(lost)} (encoded and decoded "
            "they come out as something else), so the reward for them can never be earned",
        )


# ---- where it is written --------------------------------------------------------------------------------------


def wandb_login(facts: RunFacts) -> Iterator[Finding]:
    section = facts.recipe.log.wandb
    if section is None or section.mode != "online" or facts.environment.get("WANDB_API_KEY"):
        return
    if facts.environment.get("WANDB_MODE") in ("offline", "disabled"):
        return
    try:
        known = netrc.netrc(os.path.join(facts.environment.get("HOME", ""), ".netrc")).hosts
    except (OSError, netrc.NetrcParseError):
        known = {}
    if not any("wandb" in host for host in known):
        yield wrong(
            "wandb-without-login",
            "log.wandb.mode is online, but there is no login: run wandb login, set "
            "WANDB_API_KEY, or log.wandb.mode=offline",
        )


def checkpoints(facts: RunFacts) -> Iterator[Finding]:
    every, steps = facts.recipe.checkpoint.every, facts.recipe.steps
    if steps > 50 and (not every or every > steps / 2):
        yield warning(
            "rarely-saved",
            f"checkpoint.every is {every} in a run of {steps} steps: a fault would cost most of it",
        )


CHECKS: tuple[Check, ...] = (
    small_groups,
    learning_rate,
    temperature,
    filters_without_correction,
    kl_that_is_off,
    several_updates,
    uneven_updates,
    warmup,
    half_precision,
    adamw_step_in_half,
    truncation_mask,
    weights,
    answers,
    duplicates,
    epochs,
    held_out,
    prompt_lengths,
    answer_lengths,
    templates,
    thinking_tags,
    wandb_login,
    checkpoints,
)


def found(facts: RunFacts) -> Iterator[Finding]:
    """All that the checks find."""
    for check in CHECKS:
        yield from check(facts)


def refusal_name(words: str) -> str:
    """The name of the mistake that a refusal's words speak of."""
    for pattern, name in _REFUSALS:
        if re.search(pattern, words):
            return name
    return "refused"


_REFUSALS = (
    (r"run folder", "run-folder"),
    (r"no column|wants the column|when names the column", "missing-column"),
    (r"holds no rows|only \d+ rows train|prompts are too long and|cannot hold out", "too-few-rows"),
    (r"no chat template|chat template fails", "no-chat-template"),
    (r"every prompt is longer|so that the prompt fits", "prompts-too-long"),
    (r"sample.compile", "no-compiler"),
    (r"^data:|data\.", "data-not-loaded"),
    (r"rewards", "reward-not-found"),
    (r"tokenizer", "no-tokenizer"),
    (r"^model:|model\.", "model-not-loaded"),
)
