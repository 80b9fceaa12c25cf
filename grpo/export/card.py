"""The model card: README.md of an export, for people and for the hub.

It states what was trained, on what, judged by what, with which result and at which cost, and what is not known. What it
says is read from the run folder or was measured by the export; nothing is made up where that is silent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from grpo import __version__
from grpo.cost.price import Prices, exact
from grpo.data.templates import TEMPLATES
from grpo.export.check import Drift, Written
from grpo.export.compare import Compared, Greedy
from grpo.export.record import RunRecord, reward_digest
from grpo.export.source import Source
from grpo.export.training import held_out_loss, in_words, lineage, training, way_of
from grpo.notebook.sizes import size_of
from grpo.recipe import Recipe
from rewards.spelling import many
from rewards.tasks import TASKS

CAUTION = (
    "Reasoning models are easier to jailbreak. The authors of DeepSeek-R1 report (arXiv 2501.12948v2, supplement, "
    "table 11) that jailbreaks took the share of unsafe answers of R1 from 25 % to 86 %. A chain of thought may hold "
    "what the answer does not. Put a filter of your own before and behind this model where others can reach it."
)
READERS = {
    "gguf": "llama.cpp and what is built on it (ollama, LM Studio, llama-cpp-python, xllamacpp); transformers with "
    "`gguf_file=`; `grpo chat FILE`",
    "safetensors": "transformers (`AutoModelForCausalLM.from_pretrained`), vLLM, SGLang, `grpo chat FOLDER`",
    "int8": "transformers and vLLM with the package `compressed-tensors` (`pack-quantized`, 8-bit weights, one scale a "
    "row), `grpo chat FOLDER` with that package; not llama.cpp",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what loading it back has shown."""

    written: Written
    check: Drift


@dataclass(frozen=True, slots=True)
class CardParts:
    """Everything a card is written from; ``compared`` is empty where nothing was compared."""

    source: Source
    form: str
    licence: str | None
    exported: Sequence[Exported]
    compared: Sequence[Compared]
    record: RunRecord | None


def card(parts: CardParts) -> str:
    """The text of README.md."""
    lines = [*_head(parts), *_opening(parts), *_use(parts), *_files(parts), *_comparison(parts)]
    if parts.record is not None:
        lines += [*_data(parts.record), *_rewards(parts.record), *_training(parts.record)]
        lines += [*_results(parts.record.summary), *_cost(parts.record.summary)]
    lines += [*_limits(parts), "", "## Safety", "", CAUTION]
    lines += [way_of(parts.record.recipe).caution] if parts.record is not None else []
    lines += _licence(parts)
    return "\n".join(lines) + "\n"


def _head(parts: CardParts) -> Iterator[str]:
    """The part in YAML that the hub reads; JSON strings are YAML."""
    yield "---"
    yield f"license: {json.dumps(parts.licence or 'unknown')}"
    base = _base_model(parts.source.recipe, parts)
    if base and not _is_path(base):
        yield f"base_model: {json.dumps(base)}"
    yield "library_name: transformers"
    yield "pipeline_tag: text-generation"
    tags = [] if parts.record is None else list(way_of(parts.record.recipe).tags)
    tags += ["gguf"] if parts.form == "gguf" else []
    yield f"tags: {json.dumps(tags)}"
    yield "---"
    yield ""


def _base_model(recipe: Recipe, parts: CardParts) -> str | None:
    """What the run, and the runs before it, began from; of a model that is no run's, the model."""
    if parts.record is None:
        return recipe.model.name
    first, *_ = [*lineage(parts.record.recipe), parts.record.recipe]
    return first.model.name


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or Path(name).exists()


def _shown(name: str | None) -> str:
    """A model's name without the path of the machine that it was trained on."""
    if name is None:
        return "a model that was given in Python"
    return Path(name).name if _is_path(name) else name


def _opening(parts: CardParts) -> Iterator[str]:
    yield f"# {parts.source.name}"
    yield ""
    kind = type(parts.source.policy.base).__name__
    base = _shown(_base_model(parts.source.recipe, parts))
    size = parts.source.policy.describe().split(", ")[1]
    if parts.record is None:
        yield f"{base} ({kind}, {size}), exported by grpo-reasoner {__version__}."
        return
    yield (
        f"{base} ({kind}, {size}), trained further by {in_words(parts.record.recipe)}; trained and exported by "
        f"grpo-reasoner {__version__}."
    )


def _use(parts: CardParts) -> Iterator[str]:
    yield from ("", "## How to ask it", "")
    template = parts.source.template
    if template is None:
        yield "By its tokenizer's chat template where it has one."
    elif template.pattern == "chat":
        yield "By its chat template, which is in the files. It was trained with:"
        yield ""
        arguments = json.dumps(dict(template.args), ensure_ascii=False) if template.args else "none"
        yield f"- template arguments: {arguments} (llama.cpp: `--chat-template-kwargs`)"
        system = json.dumps(template.system, ensure_ascii=False) if template.system else "none"
        yield f"- system prompt: {system}"
        yield ""
        yield (
            "llama.cpp renders some chat templates otherwise than transformers (dates, thinking on or off): where it "
            "matters, render and tokenize by transformers and send token ids."
        )
    else:
        yield "It was trained on single questions in this form, which is also the chat template in the files:"
        yield ""
        pattern = TEMPLATES.get(template.pattern, template.pattern)
        yield from (f"    {line}" for line in pattern.replace("{prompt}", "QUESTION").splitlines())
    if parts.record is not None:
        yield from _tools(parts.record.recipe)
    yield ""
    tokenizer = parts.source.policy.tokenizer
    ends = [str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(parts.source.policy.stop_ids)]
    yield f"A completion ends with {' or '.join(f'`{end}`' for end in ends)}."
    yield ""
    yield f"Read by {READERS[parts.form]}."


def _tools(recipe: Recipe) -> Iterator[str]:
    """What answered it while it was trained."""
    if not recipe.has_environment:
        return
    environment = recipe.environment
    offered = [*([environment.use] if environment.use else []), *recipe.tools]
    names = ", ".join(f"`{_shown(name)}`" for name in offered)
    yield ""
    yield (
        f"It was trained with {names} to answer it between its turns (calls written as {environment.format}, at most "
        f"{many(environment.max_calls, 'call')} and {many(environment.max_turns, 'turn')} a completion). Without them "
        "it may write calls that nobody answers."
    )


# ---- files ------------------------------------------------------------------------------------------------------


def _files(parts: CardParts) -> Iterator[str]:
    yield from ("", "## Files", "")
    yield "| file | precision | size | formats | mean, largest log-prob off, arbitrary tokens |"
    yield "|---|---|---|---|---|"
    for export in parts.exported:
        written = export.written
        formats = ", ".join(f"{number} {name}" for name, number in written.formats.items())
        check = f"{nats(export.check.mean)}, {nats(export.check.largest)}"
        size = f"{written.num_bytes / 1e6:.3g} MB"
        name = written.path.name if parts.form == "gguf" else "this folder"
        yield f"| {name} | {written.precision} | {size} | {formats or '-'} | {check} |"
    yield ""
    yield (
        "Each was loaded back after it was written and compared with the model: every weight is within what its format "
        "rounds. The log-probs (in nats) are those of one row of arbitrary tokens."
    )


def _comparison(parts: CardParts) -> Iterator[str]:
    if not parts.compared:
        return
    yield from ("", "### What each precision costs", "")
    yield from comparison_table(parts.compared)
    yield ""
    yield (
        "Accuracy is avg@k on the held-out rows with a 95 % interval for new prompts; the change is paired by prompt. "
        "Both are the library's, from the weights in the file. Log-probs are those of the model's own completions."
    )
    if any(line.greedy for line in parts.compared):
        yield (
            "llama.cpp, as it is by default: how many of its greedy continuations are the model's to their end, the "
            "share of its tokens that are the model's likeliest there, and how far their log-probs are off in the mean."
        )


def comparison_table(lines: Sequence[Compared]) -> Iterator[str]:
    """The lines of a table in Markdown, which is also what the console shows."""
    with_greedy = any(line.greedy for line in lines)
    head = [
        "precision",
        "log-prob off: mean",
        "largest",
        "same likeliest token",
        "accuracy",
        "change",
    ]
    head += ["llama.cpp: same", "tokens", "log-prob off"] if with_greedy else []
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for line in lines:
        cells = [line.name, *_drift_cells(line.drift), _with_interval(line.accuracy), _change(line)]
        cells += _greedy_cells(line.greedy) if with_greedy else []
        yield f"| {' | '.join(cells)} |"


def _drift_cells(drift: Drift | None) -> list[str]:
    if drift is None:
        return ["-", "-", "-"]
    return [nats(drift.mean), nats(drift.largest), _percent(drift.agreement)]


def nats(value: float) -> str:
    """A difference of log-probs.

    >>> nats(0.0), nats(0.0123)
    ('0', '1.2e-02')
    """
    return f"{value:.1e}" if value else "0"


def _greedy_cells(greedy: Greedy | None) -> list[str]:
    if greedy is None:
        return ["-", "-", "-"]
    return [
        f"{greedy.same} of {greedy.prompts}",
        _percent(greedy.tokens),
        nats(greedy.mean),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _with_interval(values: Mapping[str, Any]) -> str:
    low = 100 * values["low"]
    return f"{_percent(values['accuracy'])} [{low:.1f}, {100 * values['high']:.1f}]"


def _change(line: Compared) -> str:
    if line.change is None:
        return "-"
    low = 100 * line.change["low"]
    return f"{100 * line.change['difference']:+.1f} [{low:+.1f}, {100 * line.change['high']:+.1f}]"


# ---- the run ----------------------------------------------------------------------------------------------------


def _data(record: RunRecord) -> Iterator[str]:
    yield from ("", "## Data", "")
    for name, section in record.recipe.data.each().items():
        where = _shown(section.source) if section.source else "rows given in Python"
        is_task = section.source in TASKS
        details = {
            "a task whose rows are made": "by the library" if is_task else None,
            "subset": section.subset,
            "split": None if is_task else section.split,
            "revision": section.revision,
            "arguments": json.dumps(section.args) if section.args else None,
            "rows where": json.dumps(section.where) if section.where else None,
            "template": section.template.replace("\n", " "),
        }
        listed = ", ".join(f"{key} {value}" for key, value in details.items() if value)
        yield f"- {name + ': ' if name else ''}`{where}`, {listed}"
    yield f"- rows that trained: {_rows(record.made_of.get('train'))}"
    yield f"- rows held out for the figures below: {_rows(record.made_of.get('held_out'))}"


def _rows(found: Any) -> str:
    if not isinstance(found, str):
        return "unknown (no checkpoint was kept)"
    number, _, digest = found.partition(" ")
    return f"{number} (SHA-256 over ids, prompts and columns: `{digest}`)"


def _rewards(record: RunRecord) -> Iterator[str]:
    yield from ("", "## Rewards", "")
    if not record.recipe.rewards:
        yield "None: nothing that it wrote was scored."
        return
    yield "| reward | function | weight | arguments | file's SHA-256 (its first half) |"
    yield "|---|---|---|---|---|"
    for name, section in record.recipe.rewards.items():
        digest = reward_digest(section)
        trained = record.made_of.get("rewards", {}).get(name)
        mark = f"`{digest}`" if digest else "not found"
        if trained and trained != digest:
            mark = f"`{trained}` in training, changed since"
        arguments = json.dumps(dict(section.args)) if section.args else "-"
        function = _shown(section.use) if isinstance(section.use, str) else "given in Python"
        yield f"| {name} | `{function}` | {section.weight:g} | {arguments} | {mark} |"
    yield from (f"\n{words}" for words in filter(None, [way_of(record.recipe).rewards]))


def _training(record: RunRecord) -> Iterator[str]:
    recipe = record.recipe
    yield from ("", "## Training", "")
    lora = recipe.model.lora
    optim = recipe.optim
    yield from training(recipe, record.summary)
    yield f"- optimizer: AdamW, learning rate {optim.lr:g}, {optim.schedule}"
    if lora:
        yield f"- adapters: LoRA of rank {lora.rank}, merged"
    yield f"- dtype: {recipe.model.dtype}"
    yield f"- seed: {recipe.seed}"
    versions = _versions(record.made_of)
    if versions:
        yield f"- versions: {versions}"


def _versions(made_of: Mapping[str, Any]) -> str | None:
    names = ("grpo", "torch", "transformers", "device")
    found = [f"{name} {made_of[name]}" for name in names if made_of.get(name)]
    return ", ".join(found) or None


def _results(summary: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Results", "")
    yield "| set | before | after | truncated after | mean tokens after |"
    yield "|---|---|---|---|---|"
    sets = {"held out": summary, **summary.get("sets", {})}
    for name, values in sets.items():
        after = values.get("after")
        before = values.get("before")
        cut = _percent(after["truncated"]) if after else "-"
        length = f"{after['length']:.0f}" if after else "-"
        yield f"| {name} | {_accuracy(before)} | {_accuracy(after)} | {cut} | {length} |"
    yield ""
    yield "Share of right completions with a 95 % interval for new prompts of the same kind."
    losses = list(held_out_loss(summary))
    yield from ["", *losses] if losses else []


def _accuracy(evaluation: Mapping[str, Any] | None) -> str:
    if not evaluation:
        return "not evaluated"
    return f"{_with_interval(evaluation)} ({size_of(evaluation, 'x')})"


def _cost(summary: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Cost", "")
    tokens = ", ".join(f"{number:,} {name}" for name, number in summary["tokens"].items())
    outcomes = ", ".join(f"{number:,} {name}" for name, number in summary["ledger"].items())
    yield f"- wall time: {summary['seconds']:,.0f} s, both evaluations included, set-up excluded"
    yield f"- tokens: {tokens}"
    yield f"- {'rows drawn' if 'rows' in summary else 'completions'}: {outcomes}"
    yield from _account(summary.get("cost"))
    yield "- left out: earlier tries, stages before this one, the base model's own training, people"


def _account(cost: Mapping[str, Any] | None) -> Iterator[str]:
    """Everything that the run took, over all attempts, as its summary has it."""
    if not cost:
        yield "- processor and GPU time: not recorded"
        return
    total = cost["total"]
    phases = [f"{name} {of['wall_seconds']:,.0f}" for name, of in cost["phases"].items()]
    yield (
        f"- in all, {many(cost['attempts'], 'attempt')}, loading and saving too: {total['wall_seconds']:,.0f} s by the "
        f"clock ({', '.join(phases)}), {total['cpu_seconds'] / 3600:.3g} CPU hours"
    )
    if total["gpu_seconds"]:
        yield f"- GPUs held: {total['gpu_seconds'] / 3600:.3g} hours on {many(cost['devices'], 'GPU')}"
    again = cost["repeated"]
    if again["wall_seconds"]:
        yield f"- of it repeated after a kill or a fault: {again['wall_seconds']:,.0f} s"
    if cost["currency"]:
        prices = Prices(cost["price_per_hour"], cost["currency"])
        money = prices.shown(exact(total["money"]))
        yield f"- price: {money}, at {prices.describe()}"
    yield f"- energy: {_energy(total['gpu_joules'], cost['socket_joules'])}"


def _energy(gpu: float | None, sockets: float | None) -> str:
    known = {"GPUs": gpu, "processor sockets": sockets}
    told = [
        f"{name} {joules / 3.6e6:.4g} kWh" for name, joules in known.items() if joules is not None
    ]
    return ", ".join(told) or "unknown, since no counter could be read"


def _limits(parts: CardParts) -> Iterator[str]:
    yield from ("", "## Known failures and limits", "")
    yield from (f"- {sentence}" for sentence in _failures(parts))


def _failures(parts: CardParts) -> Iterator[str]:
    if parts.record is None:
        yield "nothing is known here of how this model was trained or what it gets wrong"
    else:
        yield from _run_failures(parts.record.summary)
        yield (
            "measured on rows of the kind that it was trained on, and on nothing else: how it fares on other tasks, in "
            "other languages, or in conversation is not known"
        )
        if parts.record.recipe.rewards:
            yield "an answer that its rewards call right may be reached by wrong reasoning, which is not judged"
    yield from dict.fromkeys(note for export in parts.exported for note in export.written.notes)


def _run_failures(summary: Mapping[str, Any]) -> Iterator[str]:
    after = summary.get("after")
    if after:
        yield f"wrong on {_percent(1 - after['accuracy'])} of the held-out completions"
        yield f"{_percent(after['truncated'])} of them are cut off"
        yield f"{_percent(after.get('no_answer', 0.0))} of them have no answer"
        if after.get("faults"):
            yield f"{after['faults']} of them could not be scored"
    ledger = summary["ledger"]
    if ledger.get("faulted"):
        yield f"{ledger['faulted']:,} completions of training had a failed reward and trained nothing"
    for alarm in summary.get("alarms", []):
        yield f"an alarm in training: {alarm if isinstance(alarm, str) else json.dumps(alarm)}"


def _licence(parts: CardParts) -> Iterator[str]:
    yield from ("", "## Licence", "")
    if parts.licence:
        yield f"{parts.licence}. The licences of the base model and of the data hold beside it."
    else:
        yield "Not stated by its exporter; the licences of the base model and of the data hold."
