"""The sections that say which rows a run trains on and is evaluated on, and what scores them.

A source is one data set; a mixture has several, each with its share of a step's prompts. An evaluation set is a
source that never trains, with rewards and sampling of its own where it names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grpo.recipe.keys import SectionBuilder, ShortSection, build_entries, key
from grpo.recipe.values import NOT_EMPTY, TEMPLATE, above, at_least, between


@dataclass(frozen=True, repr=False)
class RowsSection(ShortSection):
    """Where rows come from, and how they are shown to the policy."""

    source: str | None = key(
        None,
        "hub id, a folder, a .jsonl, .json, .csv, .tsv or .parquet file (also .gz), a pattern of files "
        "(data/*.parquet), or a procedural task's name",
        NOT_EMPTY,
    )
    subset: str | None = key(None, "configuration of a hub data set")
    split: str = key(
        "train",
        "split of a hub data set; of files, where their names or a JSON object's entries tell splits",
    )
    revision: str | None = key(None, "branch, tag or commit of a hub data set")
    args: dict[str, Any] = key({}, "arguments of a procedural task")
    columns: dict[str, Any] = key(
        {},
        "our column: the data set's column, e.g. {prompt: question}, a path into one, also through JSON "
        "text, e.g. {answer: reward_model.ground_truth}, or text with columns or paths in braces, e.g. "
        "{prompt: '{Body}. {Question}'}; {choices:lettered} prints A. B. C., {answer:letter} 0 as A",
    )
    where: dict[str, Any] = key(
        {},
        "column: value, [values] or a comparison such as '>= 3'; rows that do not match are left "
        "out and counted",
    )
    template: str = key(
        "auto",
        "r1 (think/answer tags), chat (the tokenizer's), plain, or a string with {prompt}; auto: "
        "chat for a model that was trained on its chat template, else r1",
        TEMPLATE,
    )
    system: str | None = key(None, "system message put before each prompt; needs the template chat")
    template_args: dict[str, Any] = key(
        {}, "arguments of the chat template, e.g. {enable_thinking: false}"
    )
    max_prompt_tokens: int | None = key(
        None,
        "longer prompts are dropped and counted; default: what sample.max_tokens leaves of "
        "the context",
        at_least(1),
    )

    @property
    def label(self) -> str:
        """What messages call the source."""
        return self.source or "the data in memory"


@dataclass(frozen=True, repr=False)
class SourceSection(RowsSection):
    """One source of a mixture."""

    weight: float = key(
        1.0, "share of a step's prompts, relative to the other sources' weights", above(0)
    )
    held_out: int = key(0, "rows kept for evaluation; they never train", at_least(0))


def build_sources(values: Any, where: str, build: SectionBuilder) -> dict[str, SourceSection]:
    """``data.sources``: a `SourceSection` for each name."""
    return build_entries(SourceSection, values, where, build, noun="source")


@dataclass(frozen=True, repr=False)
class DataSection(RowsSection):
    """The prompts: where rows come from and how they are shown to the policy."""

    held_out: int = key(0, "rows kept for evaluation; they never train", at_least(0))
    sources: dict[str, SourceSection] = key(
        {},
        "a mixture: {name: {source, weight, ...}}, also written as a list in place of data; a key "
        "of data that a source leaves out holds for it too",
        entry=SourceSection,
        build=build_sources,
    )
    pass_low: float = key(
        0.0,
        "prompts whose pass rate was lower when last sampled wait (see pass_again)",
        between(0, 1),
    )
    pass_high: float = key(
        1.0, "prompts whose pass rate was higher when last sampled wait", between(0, 1)
    )
    pass_column: str | None = key(
        None,
        "column with a pass rate measured before, as pass_rates.jsonl of grpo reject has it: prompts begin with it "
        "as if they had just been sampled",
        NOT_EMPTY,
    )
    pass_again: int = key(
        3, "epochs a prompt outside pass_low to pass_high waits before another try", at_least(1)
    )

    def each(self) -> dict[str, DataSection | SourceSection]:
        """The sources by name; a single one has the name ""."""
        return dict(self.sources) if self.sources else {"": self}


@dataclass(frozen=True, repr=False)
class RewardSection(ShortSection):
    """One reward; its name in the recipe is the metric's name. ``grpo.run.reward_specs`` makes a `RewardSpec` of it."""

    use: str | None = key(
        None, "name from the table, package.module:function or path/file.py:function"
    )
    weight: float = key(1.0, "factor of this part in the sum")
    args: dict[str, Any] = key({}, "arguments passed to the function by name")
    when: dict[str, Any] = key({}, "column: value; the part counts only for rows that match")
    from_step: int = key(
        0,
        "the first step in which the part counts, e.g. a preference model in the last 400 of a run's steps",
        at_least(0),
    )
    style: str | None = key(
        None, "calling convention; default: recognised by the parameters' names"
    )
    timeout_seconds: float | None = key(
        None,
        "longest time for one completion; default 10, or 6 per test for code_tests",
        above(0),
    )
    workers: int | None = key(
        None, "worker processes of its own, for a reward that holds a model", at_least(1)
    )


def build_rewards(values: Any, where: str, build: SectionBuilder) -> dict[str, RewardSection]:
    """A ``rewards`` section: a `RewardSection` for each name."""
    return build_entries(RewardSection, values, where, build, noun="reward")


@dataclass(frozen=True, repr=False)
class EvaluationSetSection(RowsSection):
    """A set of rows that a run is evaluated on; what it leaves out is as in training, columns where they fit."""

    benchmark: str | None = key(
        None,
        "a published test set, which brings the keys of this section with it: docs/benchmarks.md",
        NOT_EMPTY,
    )
    limit: int | None = key(None, "only the first rows; default: all", at_least(1))
    rewards: dict[str, RewardSection] = key(
        {},
        "metric name: {use, weight, args, when}; default: the recipe's rewards",
        entry=RewardSection,
        build=build_rewards,
    )
    reward: str | None = key(
        None, "the reward that means accuracy; default: evaluate.reward, or the set's first"
    )
    threshold: float | None = key(
        None, "the value from which a completion is accurate; default: evaluate.threshold"
    )
    samples: int | None = key(None, "completions a prompt; default: evaluate.samples", at_least(1))
    temperature: float | None = key(None, "default: evaluate.temperature", at_least(0))
    top_p: float | None = key(None, "default: sample.top_p", between(1e-6, 1))
    max_tokens: int | None = key(None, "default: sample.max_tokens", at_least(1))


def build_sets(values: Any, where: str, build: SectionBuilder) -> dict[str, EvaluationSetSection]:
    """``evaluate.sets``: an `EvaluationSetSection` for each name."""
    return build_entries(EvaluationSetSection, values, where, build, noun="set")


@dataclass(frozen=True, repr=False)
class EvaluateSection(ShortSection):
    """Evaluation on rows that never train."""

    every: int = key(20, "steps between evaluations; 0: only before and after", at_least(0))
    before: bool = key(True, "evaluate before the first step too")
    samples: int = key(4, "completions for each prompt", at_least(1))
    temperature: float = key(
        1.0, "temperature of every evaluation, before, during and after", at_least(0)
    )
    reward: str | None = key(
        None, "the reward whose full score counts as accurate; default: the first one"
    )
    threshold: float = key(
        1.0, "the value of that reward from which a completion counts as accurate"
    )
    models: dict[str, Any] = key(
        {},
        "what the stage evaluate evaluates: {name: hub id, folder or .gguf file}; in a list of stages also a list of "
        "their names, default: the recipe's own model and every model made before",
    )
    sets: dict[str, EvaluationSetSection] = key(
        {},
        "further sets: {name: {source, columns, rewards, samples, ...}} or {name: {benchmark: gsm8k}}",
        entry=EvaluationSetSection,
        build=build_sets,
    )
