"""The usual mistakes, each under its name: what recipe, data, tokenizer and the loaded policy alone can tell.

Every check takes `RunFacts` and yields `Finding`s; none scores a completion. `CHECKS` needs no model, `POLICY_CHECKS`
takes the loaded policy too. What rewards and samples show is in ``gold`` and ``baseline``. The names, and what other
trainers do: docs/preflight.md.
"""

from __future__ import annotations

import netrc
import re
from pathlib import Path
from statistics import median
from typing import Any, Callable, Iterator, Mapping, Sequence

import torch

from grpo.data.leaks import prompt_words, states_answer
from grpo.data.overlap import NUM_WORDS, normalised, overlapping, question_of
from grpo.model.policy import Policy
from grpo.preflight.facts import MAX_FAULTS, WARNING, WRONG, Finding, RunFacts, note, warning, wrong
from grpo.recipe.presets import PRESETS
from grpo.recipe.shorthands import HELD_OUT
from grpo.recipe.values import TEMPLATES
from grpo.run.reward_fit import READS_ANSWER
from rewards.gold import is_missing, is_placeholder, num_answers, stated_gold
from rewards.reasoning import opens_reasoning
from rewards.service.functions import applies
from rewards.spelling import agree, many
from rewards.table import TABLE
from rewards.tasks import GYM_PREFIX, GYM_ROWS

SMALL_MODEL = 30e6
"""Models with fewer parameters need larger learning rates than the usual ones."""
MAX_FULL_LR = 2e-5
MIN_LORA_LR = 5e-6
MAX_LORA_LR = 2e-3
MAX_EPOCHS = 20.0
MAX_BARE_ANSWER = 60
"""Gold answers of more characters are taken for worked solutions."""
MAX_SOLUTIONS = 200
MAX_REWARD = 10.0
MIN_ROWS_FOR_PATTERN = 8
THINK_REWARDS = ("think_format", "tag_count")
MATHEMATICS = ("math_answer", "arithmetic")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

Check = Callable[[RunFacts], Iterator[Finding]]
PolicyCheck = Callable[[RunFacts, Policy], Iterator[Finding]]


# ---- the objective and the optimizer --------------------------------------------------------------------------


def small_groups(facts: RunFacts) -> Iterator[Finding]:
    size = facts.recipe.sample.group_size
    if size < 4 and facts.recipe.advantage.rule != "reinforce_pp":
        yield warning(
            "small-group",
            f"sample.group_size is {size}: the mean and spread of so few completions "
            "are mostly noise, and most groups will have zero variance; 8 to 16 are usual",
        )


def learning_rate(facts: RunFacts) -> Iterator[Finding]:
    lr = facts.recipe.optim.lr
    model = facts.recipe.model
    has_adapters = model.lora is not None or model.adapter is not None
    if facts.num_parameters is None or facts.num_parameters < SMALL_MODEL:
        return
    if not has_adapters and lr > MAX_FULL_LR:
        yield warning(
            "lr-of-adapters",
            f"optim.lr is {lr:g} and every weight trains: that is an adapter's rate, "
            "about 10 times too high here; 1e-6 to 5e-6 are usual, or set model.lora",
        )
    elif has_adapters and lr < MIN_LORA_LR:
        yield warning(
            "lr-of-full-training",
            f"optim.lr is {lr:g} and only adapters train: that is the rate of "
            "full training; adapters need about 10 times as much, 1e-5 to 2e-4 are usual",
        )
    elif lr > MAX_LORA_LR:
        yield warning(
            "lr-too-high", f"optim.lr is {lr:g}; policies of this size fall apart above 1e-3"
        )


def temperature(facts: RunFacts) -> Iterator[Finding]:
    value = facts.recipe.sample.temperature
    if value < 0.5:
        yield warning(
            "cold-sampling",
            f"sample.temperature is {value:g}: completions of a prompt will be nearly "
            "the same, so most groups have zero variance and nothing is explored; 0.7 to 1.0 are usual",
        )
    elif value > 1.4:
        yield warning(
            "hot-sampling",
            f"sample.temperature is {value:g}: long completions degenerate into noise; 0.7 to "
            "1.0 are usual",
        )


def filters_without_correction(facts: RunFacts) -> Iterator[Finding]:
    sample = facts.recipe.sample
    loss = facts.recipe.loss
    value_when_off = {"top_k": 0, "top_p": 1, "min_p": 0}
    filters = [
        f"{name} {getattr(sample, name):g}"
        for name, off in value_when_off.items()
        if getattr(sample, name) != off
    ]
    if filters and loss.correction == "none" and loss.correction_mask == "none":
        yield warning(
            "uncorrected-filters",
            f"sample.{' and sample.'.join(filters)} cut the sampler's distribution, "
            "which the loss does not know as loss.correction is none; set loss.correction: token, or sample "
            "without filters",
        )


def kl_that_is_off(facts: RunFacts) -> Iterator[Finding]:
    loss = facts.recipe.loss
    if loss.beta:
        return
    preset = PRESETS[loss.preset].loss
    default = type(loss)()
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
            "(0.001 to 0.04 are usual) or remove the other keys",
        )


def several_updates(facts: RunFacts) -> Iterator[Finding]:
    optim = facts.recipe.optim
    loss = facts.recipe.loss
    updates = optim.updates * optim.epochs
    if updates == 1:
        return
    if loss.policy in ("reinforce", "none"):
        yield warning(
            "no-ratio",
            f"a step makes {many(updates, 'update')}, but loss.policy {loss.policy} has no ratio to the "
            "policy that sampled: later updates learn from stale completions; use clip, or one update",
        )
    if loss.old == "sampler":
        yield warning(
            "old-logp-of-the-sampler",
            f"a step makes {many(updates, 'update')} with loss.old sampler: rounding "
            "between sampler and trainer is then taken for a change of policy; loss.old forward costs one pass",
        )
    if optim.epochs > 4:
        yield warning(
            "many-epochs",
            f"optim.epochs is {optim.epochs}: the same completions are learnt "
            f"{optim.epochs} times; above 4 the clip holds most of it back; epochs: {optim.epochs} "
            "are passes over the data",
        )


def uneven_updates(facts: RunFacts) -> Iterator[Finding]:
    prompts = facts.recipe.sample.prompts
    updates = facts.recipe.optim.updates
    if prompts % updates:
        yield note(
            "uneven-updates",
            f"sample.prompts {prompts} cannot be divided by optim.updates {updates}; some "
            "updates have a group more (each has its own denominators, so nothing is weighted wrongly)",
        )


def warmup(facts: RunFacts) -> Iterator[Finding]:
    recipe = facts.recipe
    total = recipe.steps * recipe.optim.updates * recipe.optim.epochs
    warmup = recipe.optim.warmup_updates(total)
    if total and warmup >= total:
        yield warning(
            "warmup-outlasts-run",
            f"optim.warmup is {many(warmup, 'update')} and the run makes "
            f"{total}: it never reaches optim.lr; about 5 % of the run is usual",
        )


def half_precision(facts: RunFacts) -> Iterator[Finding]:
    dtype = facts.recipe.model.dtype
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
    model = recipe.model
    has_adapters = model.lora is not None or model.adapter is not None
    if model.dtype in ("bfloat16", "float16") and not has_adapters:
        yield note(
            "half-weights",
            f"weights are {recipe.model.dtype}, and an update of {recipe.optim.lr:g} is below "
            "what such a weight can show; fp32 master weights keep it (4 bytes a parameter)",
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


def _of_other_rows(facts: RunFacts) -> list[str]:
    """The rewards that judge other rows than the accurate one, as each source of a mixture has its own."""
    spec = facts.accurate_spec
    judged = [row for row in facts.rows if spec is not None and applies(spec.when, row)]
    names = []
    for other in facts.specs:
        if other.when and judged and not any(applies(other.when, row) for row in judged):
            names.append(other.name)
    return names


def balance_of_rewards(facts: RunFacts) -> Iterator[Finding]:
    weights = facts.weights()
    accurate = weights.get(facts.accurate, 0.0)
    elsewhere = _of_other_rows(facts)
    others = {
        name: weight
        for name, weight in weights.items()
        if name not in (facts.accurate, *elsewhere) and weight > 0
    }
    if accurate <= 0:
        yield warning(
            "accuracy-not-paid",
            f"rewards.{facts.accurate} decides what is accurate, but its weight is "
            f"{accurate:g}, so it is not learnt",
        )
    elif sum(others.values()) >= accurate:
        yield warning(
            "format-dominates",
            f"{' and '.join(f'rewards.{name}' for name in others)} together weigh "
            f"{sum(others.values()):g}, as much as rewards.{facts.accurate} ({accurate:g}): a wrong answer in the "
            "right form earns as much as a right one; 0.1 to 0.2 are usual",
        )


def scale_of_rewards(facts: RunFacts) -> Iterator[Finding]:
    weights = facts.weights().values()
    rule = facts.recipe.advantage.rule
    if max(map(abs, weights), default=0) > MAX_REWARD and rule in ("center", "rloo"):
        yield warning(
            "reward-scale",
            f"a reward weighs {max(weights):g} and advantage.rule {rule} does not divide by the "
            "spread: the gradient grows with it; scale the weights to about 1",
        )


# ---- data -----------------------------------------------------------------------------------------------------


def empty_golds(facts: RunFacts) -> Iterator[Finding]:
    golds = facts.golds()
    comparing = [spec for spec in facts.specs if spec.use in READS_ANSWER]
    conditions = [spec.when for spec in comparing] or [{}]
    rows = list(enumerate(facts.rows[: len(golds)], 1))
    compared = [number for number, row in rows if _applies_any(conditions, row)]
    empty = [number for number in compared if is_missing(golds[number - 1])]
    if empty and facts.needs_gold:
        ends_the_run = len(empty) > MAX_FAULTS * len(compared) and bool(comparing)
        yield Finding(
            WRONG if ends_the_run or len(empty) == len(compared) else WARNING,
            "empty-gold",
            f"{len(empty)} of {many(len(compared), 'row')} {agree(len(empty), 'have')} no answer in the "
            f"column {facts.gold} (row {empty[0]}: "
            f"{golds[empty[0] - 1]!r}); their completions would be faults",
        )


def _applies_any(conditions: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> bool:
    return any(applies(when, row) for when in conditions)


def placeholder_golds(facts: RunFacts) -> Iterator[Finding]:
    """Golds that are remarks: "proof", "not found"; completions would be compared with the word."""
    golds = facts.golds()
    remarks = [number for number, gold in enumerate(golds, 1) if is_placeholder(gold)]
    if remarks:
        yield warning(
            "placeholder-gold",
            f"{len(remarks)} of {many(len(golds), 'row')} {agree(len(remarks), 'have')} a remark in place of "
            f"an answer in the column {facts.gold} (row "
            f"{remarks[0]}: {golds[remarks[0] - 1]!r}), which no completion should equal; leave them out of the file",
        )


def several_golds(facts: RunFacts) -> Iterator[Finding]:
    """Lists of golds where the recipe does not say whether any of them is right or all are asked for."""
    spec = facts.accurate_spec
    if spec is None or spec.args.get("several") or spec.use not in MATHEMATICS:
        return
    golds = facts.golds()
    lists = [number for number, gold in enumerate(golds, 1) if num_answers(gold) > 1]
    if lists:
        yield Finding(
            WRONG if len(lists) > MAX_FAULTS * len(golds) else WARNING,
            "several-golds",
            f"{len(lists)} of {many(len(golds), 'row')} {agree(len(lists), 'have')} a list of answers in the "
            f"column {facts.gold} (row {lists[0]}: "
            f"{golds[lists[0] - 1]!r}); their completions would be faults; set rewards.{spec.name}.args.several to "
            "any if each of them is right, to all if all are asked for",
        )


def gold_in_the_prompt(facts: RunFacts) -> Iterator[Finding]:
    """Turns with the solution that were left out, and prompts that announce or repeat their own gold answer."""
    for repair in facts.repairs:
        yield warning("gold-in-the-prompt", repair.removeprefix("data: "))
    rows = [(row, gold) for row, gold in zip(facts.rows, facts.golds()) if not is_missing(gold)]
    stating = [row for row, gold in rows if _repeats(row.get("prompt"), gold)]
    if len(stating) > 0.5 * len(rows) and len(rows) > 1:
        yield warning(
            "gold-in-the-prompt",
            f"{len(stating)} of {len(rows)} prompts hold their own gold answer, e.g. "
            f"{prompt_words(stating[0]['prompt'])[-60:]!r}; look whether the policy is shown what it has to find",
        )


def _repeats(prompt: Any, gold: Any) -> bool:
    text = stated_gold(gold).strip()
    if len(text) > MAX_BARE_ANSWER and text in prompt_words(prompt):
        return True
    return states_answer(prompt, gold)


def prompt_opens_reasoning(facts: RunFacts) -> Iterator[Finding]:
    """Rewards from elsewhere look for ``<think>`` in the completion, where it is not if the prompt ends with it."""
    prompts = facts.prompts.train
    foreign = [spec.name for spec in facts.specs if spec.use not in TABLE]
    if foreign and prompts and opens_reasoning(prompts[0].text):
        yield note(
            "prompt-opens-think",
            f"the rendered prompt opens <think>, so completions start behind it; rewards.{foreign[0]} must not look "
            "for it there (a reward gets the prompt's text as prompt_text)",
        )


def golds_of_a_wrong_column(facts: RunFacts) -> Iterator[Finding]:
    """Golds that are the prompts, all the same, or the numbers of the rows."""
    pairs = [pair for pair in zip(facts.golds(), facts.rows) if pair[0] is not None]
    golds = [str(gold).strip() for gold, _ in pairs]
    if not golds:
        return
    prompts = [str(row.get("prompt", "")).strip() for _, row in pairs]
    many_golds = len(golds) > MIN_ROWS_FOR_PATTERN
    if golds == prompts:
        yield wrong(
            "gold-is-the-prompt",
            f"the column {facts.gold} holds the prompt itself; data.columns names the wrong column",
        )
    elif many_golds and len(set(golds)) == 1:
        yield wrong(
            "gold-is-constant",
            f"the column {facts.gold} holds {golds[0][:40]!r} in every row; data.columns "
            "names the wrong column, or the file lost its answers",
        )
    elif many_golds and (_counts_from(0, golds) or _counts_from(1, golds)):
        yield wrong(
            "gold-is-the-row-number",
            f"the column {facts.gold} counts the rows; data.columns names the wrong column",
        )


def _counts_from(first: int, texts: list[str]) -> bool:
    return texts == [str(number) for number in range(first, first + len(texts))]


def duplicates(facts: RunFacts) -> Iterator[Finding]:
    if not facts.rows or not facts.prompts.train:
        return
    train = [normalised(prompt.truth["prompt"]) for prompt in facts.prompts.train]
    held_out = [normalised(prompt.truth["prompt"]) for prompt in facts.prompts.held_out]
    repeated = len(train) - len(set(train))
    if repeated > 0.01 * len(train):
        yield warning(
            "duplicates",
            f"{repeated} of {many(len(train), 'training prompt')} {agree(repeated, 'occur')} "
            "more than once",
        )
    shared = len(set(held_out) & set(train))
    if shared:
        yield warning(
            "held-out-overlap",
            f"{shared} of {many(len(held_out), 'held-out prompt')} {agree(shared, 'are')} also trained on, but for "
            "case, spaces or punctuation: held-out accuracy will be too high; remove the duplicates",
        )
    contradictions = num_contradictions(facts)
    if contradictions:
        yield warning(
            "two-golds",
            f"{many(contradictions, 'prompt')} {agree(contradictions, 'occur')} with different answers in the column "
            f"{facts.gold}",
        )


def gym_seeds(facts: RunFacts) -> Iterator[Finding]:
    """reasoning-gym makes row i from seed + i: sets of neighbouring seeds are the same rows, shifted."""
    section = facts.recipe.data
    if not (section.source or "").startswith(GYM_PREFIX):
        return
    count = int(section.args.get("count", GYM_ROWS))
    seed = int(section.args.get("seed", 0))
    report = note if section.held_out else warning
    yield report(
        "neighbouring-seeds",
        f"row i of {section.source} is made from seed + i, so the set of seed {seed + 1} has {count - 1} of these "
        f"{count} rows: hold out with data.held_out, or evaluate on seed {seed + count} or higher",
    )


def num_contradictions(facts: RunFacts) -> int:
    """How many prompts have more than one gold answer."""
    answers: dict[str, set[str]] = {}
    for row, gold in zip(facts.rows, facts.golds()):
        answers.setdefault(normalised(row.get("prompt")), set()).add(str(gold))
    return sum(len(different) > 1 for different in answers.values())


def epochs(facts: RunFacts) -> Iterator[Finding]:
    steps = facts.recipe.steps
    prompts = facts.recipe.sample.prompts
    train = len(facts.prompts.train)
    if not train:
        return
    passes = steps * prompts / train
    if passes > MAX_EPOCHS:
        yield warning(
            "too-many-passes",
            f"{many(steps, 'step')} of {many(prompts, 'prompt')} pass {passes:.0f} times over "
            f"{many(train, 'prompt')}: they "
            "will be learnt by heart; use more data or fewer steps",
        )


def held_out(facts: RunFacts) -> Iterator[Finding]:
    has_sets = facts.sets or facts.recipe.evaluate.sets
    if not has_sets and not any(part.held_out for part in facts.recipe.data.each().values()):
        yield warning(
            "nothing-held-out",
            "data.held_out is 0 and evaluate.sets is empty: the reward in training is all that will be "
            "seen, and it rises even if nothing is learnt; hold out 100 to 300 rows",
        )


def overlap(facts: RunFacts) -> Iterator[Finding]:
    """Questions of the evaluation sets that train, too; exact repeats of held-out rows are `duplicates`' finding."""
    train = [question_of(prompt.truth) for prompt in facts.prompts.train]
    trained = {normalised(prompt.truth["prompt"]) for prompt in facts.prompts.train}
    for evaluated in facts.sets:
        texts = [question_of(prompt.truth) for prompt in evaluated.prompts]
        found = overlapping(train, texts)
        if evaluated.name == HELD_OUT:
            prompts = [prompt.truth["prompt"] for prompt in evaluated.prompts]
            found = [index for index in found if normalised(prompts[index]) not in trained]
        if not found:
            continue
        yield warning(
            "trained-on-the-test",
            f"{len(found)} of the {many(len(texts), 'prompt')} of {evaluated.name} "
            f"{agree(len(found), 'share')} {NUM_WORDS} words in a row, their "
            f"numbers and their names with a training prompt, the first is {texts[found[0]][:60]!r}: its accuracy "
            "measures memory too; leave those rows out",
        )


# ---- tokens ---------------------------------------------------------------------------------------------------


def prompt_lengths(facts: RunFacts) -> Iterator[Finding]:
    prompts = facts.prompts
    dropped = prompts.num_dropped
    if not dropped:
        return
    total = len(prompts.train) + len(prompts.held_out) + dropped
    yield Finding(
        WRONG if dropped > total / 2 else WARNING,
        "prompts-too-long",
        f"{dropped} of {many(total, 'prompt')} {agree(dropped, 'leave')} no room for sample.max_tokens "
        f"{facts.recipe.sample.max_tokens} in the model's context (or are above data.max_prompt_tokens) and are "
        f"dropped; the longest has {many(prompts.longest, 'token')}",
    )


def answer_lengths(facts: RunFacts) -> Iterator[Finding]:
    """Worked solutions tell how long a right completion is."""
    solutions = _worked_solutions(facts)
    enough = min(20, len(facts.rows) / 2)
    if facts.tokenizer is None or not solutions or len(solutions) < enough:
        return
    encoded = facts.tokenizer(solutions, add_special_tokens=False)["input_ids"]
    lengths = sorted(len(token_ids) for token_ids in encoded)
    max_tokens = facts.recipe.sample.max_tokens
    if lengths[int(0.9 * (len(lengths) - 1))] > max_tokens:
        share = sum(length > max_tokens for length in lengths) / len(lengths)
        yield warning(
            "cap-below-solutions",
            f"{share:.0%} of the worked solutions in the column {facts.gold} are "
            f"longer than sample.max_tokens {max_tokens} (their median is {median(lengths):.0f} tokens): a policy that "
            "reasons as they do is cut off and earns nothing",
        )


def _worked_solutions(facts: RunFacts) -> list[str]:
    texts = [str(gold) for gold in facts.golds() if gold is not None]
    return [text for text in texts if len(text) > MAX_BARE_ANSWER][:MAX_SOLUTIONS]


def chat_template(facts: RunFacts) -> Iterator[Finding]:
    others = sorted(facts.templates - {"chat", "auto"})
    if facts.tokenizer is None or not facts.tokenizer.chat_template or not others:
        return
    shown = others[0] if others[0] in TEMPLATES else "a string"
    yield note(
        "chat-model-without-chat",
        f"the tokenizer has a chat template, and data.template is {shown}: right for base models, "
        "while an instruct model expects data.template: chat",
    )


def end_token(facts: RunFacts) -> Iterator[Finding]:
    tokenizer = facts.tokenizer
    if tokenizer is None:
        return
    if tokenizer.eos_token_id is None and facts.recipe.sample.stop:
        yield warning("no-end-token", "the tokenizer has no end token")
    elif tokenizer.eos_token_id is None:
        yield wrong(
            "no-end-token",
            "the tokenizer has no end token and sample.stop is empty: no completion can end by itself",
        )
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        yield note(
            "pad-is-end",
            "padding and end are one token; nothing is padded here, so the end is trained",
        )


def thinking_tags(facts: RunFacts) -> Iterator[Finding]:
    """Tags that a reward looks for must survive being written by the model."""
    has_reward = any(spec.use in THINK_REWARDS for spec in facts.specs)
    if facts.tokenizer is None or not (has_reward or "r1" in facts.templates):
        return
    lost = [tag for tag in TAGS if tag not in _encoded_and_decoded(f"x {tag} y", facts)]
    if lost:
        yield wrong(
            "tags-cannot-be-written",
            f"the tokenizer cannot write {', '.join(lost)} (encoded and decoded "
            "they come out as something else), so the reward for them can never be earned",
        )


def _encoded_and_decoded(text: str, facts: RunFacts) -> str:
    tokenizer = facts.loaded_tokenizer()
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return str(tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))


# ---- where it is written --------------------------------------------------------------------------------------


def wandb_login(facts: RunFacts) -> Iterator[Finding]:
    section = facts.recipe.log.wandb
    if section is None or section.mode != "online" or facts.environment.get("WANDB_API_KEY"):
        return
    if facts.environment.get("WANDB_MODE") in ("offline", "disabled"):
        return
    if not any("wandb" in host for host in _hosts_with_login(facts.environment)):
        yield wrong(
            "wandb-without-login",
            "log.wandb.mode is online, but there is no login: run wandb login, set "
            "WANDB_API_KEY, or log.wandb.mode=offline",
        )


def _hosts_with_login(environment: Mapping[str, str]) -> list[str]:
    file = Path(environment.get("HOME", "")) / ".netrc"
    try:
        return list(netrc.netrc(str(file)).hosts)
    except (OSError, netrc.NetrcParseError):
        return []


def checkpoints(facts: RunFacts) -> Iterator[Finding]:
    every = facts.recipe.checkpoint.every
    steps = facts.recipe.steps
    if steps > 50 and (not every or every > steps / 2):
        yield warning(
            "rarely-saved",
            f"checkpoint.every is {every} in a run of {many(steps, 'step')}: a fault would cost most of it",
        )


# ---- the loaded policy ----------------------------------------------------------------------------------------


def unsupported_model(facts: RunFacts, policy: Policy) -> Iterator[Finding]:
    if policy.unsupported_reason:
        yield warning(
            "not-served",
            f"{policy.unsupported_reason}: it is sampled by transformers' generate and trained in whole rows, "
            "which is slower",
        )


def divided_weights(facts: RunFacts, policy: Policy) -> Iterator[Finding]:
    """A model whose weights cannot be divided over processes, where the recipe asks for it."""
    reason = policy.no_shards() if facts.recipe.distributed.shard else ""
    if reason:
        yield wrong(
            "weights-not-divided",
            f"distributed.shard is true, but {reason}; set it to false",
        )


def end_of_turn(facts: RunFacts, policy: Policy) -> Iterator[Finding]:
    """Whether what ends a turn in the chat template is among the tokens that end a completion."""
    if "chat" not in facts.templates:
        return
    tokenizer = policy.tokenizer
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    special = [token for token in token_ids if token in set(tokenizer.all_special_ids)]
    if special and special[-1] not in policy.stop_ids:
        stops = map(str, tokenizer.convert_ids_to_tokens(sorted(policy.stop_ids)))
        yield wrong(
            "end-of-turn-is-no-stop",
            f"the chat template ends a turn with {tokenizer.convert_ids_to_tokens(special[-1])}, "
            f"which does not end a completion (those are {', '.join(stops)}); add it to sample.stop",
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
    balance_of_rewards,
    scale_of_rewards,
    empty_golds,
    placeholder_golds,
    several_golds,
    gold_in_the_prompt,
    golds_of_a_wrong_column,
    duplicates,
    gym_seeds,
    epochs,
    held_out,
    overlap,
    prompt_lengths,
    answer_lengths,
    chat_template,
    end_token,
    thinking_tags,
    prompt_opens_reasoning,
    wandb_login,
    checkpoints,
)
POLICY_CHECKS: tuple[PolicyCheck, ...] = (unsupported_model, divided_weights, end_of_turn)


def run_checks(facts: RunFacts) -> Iterator[Finding]:
    """The findings of all checks that need no model."""
    for check in CHECKS:
        yield from check(facts)


def run_policy_checks(facts: RunFacts, policy: Policy) -> Iterator[Finding]:
    """The findings of all checks of the loaded policy."""
    for check in POLICY_CHECKS:
        yield from check(facts, policy)


# ---- refusals -------------------------------------------------------------------------------------------------

REFUSALS = (
    (r"^data: gold-in-the-prompt:", "gold-in-the-prompt"),
    (r"^data: question-missing:", "question-missing"),
    (r"^data: tool-missing:|tools are shown to the policy by", "tool-missing"),
    (r"^data: call-missing:", "call-missing"),
    (r"^environment:|recipe: environment|^recipe: (no )?tool", "tools-not-opened"),
    (r"^data: empty-gold:", "empty-gold"),
    (r"^data: several-golds:", "several-golds"),
    (r"run folder", "run-folder"),
    (r"no column|wants the column|when names the column", "missing-column"),
    (r"holds no rows|only \d+ rows train|prompts are too long and|cannot hold out", "too-few-rows"),
    (r"no chat template|chat template fails", "no-chat-template"),
    (r"every prompt is longer|room for the prompt", "prompts-too-long"),
    (r"sample.compile", "no-compiler"),
    (r"^data:|data\.", "data-not-loaded"),
    (r"rewards", "reward-not-found"),
    (r"tokenizer", "no-tokenizer"),
    (r"^model:|model\.", "model-not-loaded"),
)
"""Patterns in the message of a refusal, and the name of the mistake that it speaks of; the first that matches holds."""


def refusal(error: Exception) -> Finding:
    """The finding for a recipe that is refused with `error`."""
    message = str(error)
    for pattern, name in REFUSALS:
        if re.search(pattern, message):
            return wrong(name, message)
    return wrong("refused", message)
