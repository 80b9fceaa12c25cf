"""Rows of a data set become prompts, in an order that a seed fixes and a checkpoint resumes.

Sources are local JSONL, CSV and Parquet files, sets of the hub, and the procedural tasks of
``rewards.tasks``. Which completions are sampled from a prompt is the engine's matter.
"""

from __future__ import annotations

import csv
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Collection, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.monitor.redaction import redacted
from grpo.recipe import DataSection, RecipeError, nearest
from grpo.types import Prompt
from rewards.tasks import TASKS, held_out, load_task

R1_TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., "
    "<think> reasoning process here </think> <answer> answer here </answer>. User: {prompt}. Assistant:"
)
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts that train, those held out, and how many were dropped as too long."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    num_dropped: int
    longest: int


def load_rows(section: DataSection) -> list[dict[str, Any]]:
    """The data set's rows with its columns under our names; a missing column is refused."""
    if section.source is None:
        raise RecipeError(
            "recipe: data.source is missing; name a hub data set, a .jsonl/.csv/.parquet file, or one of "
            f"the tasks {', '.join(TASKS)}"
        )
    rows = _read(section)
    if not rows:
        raise RecipeError(f"data: {section.source} holds no rows")
    return [_renamed(row, number, section) for number, row in enumerate(rows, 1)]


def _read(section: DataSection) -> list[dict[str, Any]]:
    source = section.source
    if source in TASKS:
        try:
            return load_task(source).rows(**section.args)
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"recipe: data.args {dict(section.args)} does not suit {source}: {error}"
            ) from None
    if section.args:
        raise RecipeError(
            f"recipe: data.args is for procedural tasks, and {source} is not one of {', '.join(TASKS)}; "
            f"take data.args out{nearest(source, TASKS)}"
        )
    path = Path(source)
    read = READERS.get(path.suffix.lower())
    if path.is_file() and read is None:
        raise RecipeError(
            f"data: {source} is not of a kind that is read; its name must end in {', '.join(READERS)}"
        )
    if read is not None:
        if not path.is_file():
            raise RecipeError(f"data: there is no file {source}")
        try:
            return read(path)
        except UnicodeDecodeError as error:
            raise RecipeError(
                f"data: {source} is not UTF-8 text ({error.reason} at byte {error.start})"
            ) from None
        except (OSError, csv.Error) as error:
            raise RecipeError(f"data: {source} cannot be read: {error}") from None
    return _read_hub(section)


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise RecipeError(
                    f"data: line {number} of {path} is not JSON: {getattr(error, 'msg', error)}; each "
                    "line holds one object"
                ) from None
            if not isinstance(row, dict):
                raise RecipeError(
                    f"data: line {number} of {path} is not a JSON object; each line holds one"
                )
            rows.append(row)
    return rows


def _read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines))


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise RecipeError(f"data: {path} is not a Parquet file: {error}") from None


READERS = {
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _read_hub(section: DataSection) -> list[dict[str, Any]]:
    import datasets

    try:
        return datasets.load_dataset(section.source, section.subset, split=section.split).to_list()
    except Exception as error:  # the hub client raises many kinds; each is the reader's to know
        reason = redacted(" ".join(str(error).split())) or type(error).__name__
        raise RecipeError(
            f"data: {section.source} is not a file or task, and the hub does not give it: "
            f"{reason[:300]}{nearest(section.source, TASKS)}"
        ) from None


def _renamed(row: Mapping[str, Any], number: int, section: DataSection) -> dict[str, Any]:
    result = dict(row)
    for ours, theirs in section.columns.items():
        if theirs not in row and "{" in theirs:
            result[ours] = _filled(theirs, row, f"row {number} of {section.source}", ours)
            continue
        if theirs not in row:
            raise RecipeError(
                f"data: row {number} of {section.source} has no column {theirs}, which "
                f"data.columns.{ours} names; its columns are {', '.join(map(str, row))}"
            )
        result[ours] = row[theirs]
    if "prompt" not in result:
        raise RecipeError(
            f"data: row {number} of {section.source} has no column prompt; its columns are "
            f"{', '.join(map(str, row))}; set data.columns.prompt to one of them"
        )
    _check_prompt(result["prompt"], f"row {number} of {section.source}", section.template)
    return result


def _filled(form: str, row: Mapping[str, Any], where: str, ours: str) -> str:
    """`form` with each ``{column}`` in it replaced by that column's text."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in row:
            raise RecipeError(
                f"data: {where} has no column {match[1]}, which data.columns.{ours} names; its columns "
                f"are {', '.join(map(str, row))}"
            )
        return str(row[match[1]])

    return re.sub(r"\{([^{}]+)\}", value, form)


def _check_prompt(prompt: Any, where: str, template: str) -> None:
    if prompt is None or prompt == [] or isinstance(prompt, str) and not prompt.strip():
        raise RecipeError(f"data: the prompt in {where} is empty")
    if template == "chat" and isinstance(prompt, list):
        return
    if not isinstance(prompt, str):
        raise RecipeError(
            f"data: the prompt in {where} is {type(prompt).__name__}, not text"
            + ("; messages need data.template: chat" if isinstance(prompt, list) else "")
        )
    if not prompt.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise RecipeError(
            f"data: the prompt in {where} holds half a character (a lone surrogate); mend the text"
        )


def split_rows(rows: Sequence[Row], num_held_out: int) -> tuple[list[Row], list[Row]]:
    """(rows that train, rows that never do); the choice depends on the prompts alone, not on a seed."""
    try:
        train, held = held_out(rows, num_held_out)
    except ValueError as error:
        raise RecipeError(f"recipe: data.held_out: {error}") from None
    return train, held


def make_prompts(
    train: Sequence[Row],
    held: Sequence[Row],
    section: DataSection,
    tokenizer: PreTrainedTokenizerBase,
    context: int | None,
    max_tokens: int,
) -> PromptSet:
    """Prompts with their tokens; those that leave no room for ``max_tokens`` are dropped and counted."""
    limit = section.max_prompt_tokens
    if context is not None:
        room = context - max_tokens
        if room < 1:
            raise RecipeError(
                f"recipe: sample.max_tokens is {max_tokens}, but the model's context is {context} "
                "tokens; lower sample.max_tokens so that the prompt fits beside it"
            )
        limit = room if limit is None else min(limit, room)
    sets = [
        [_prompt(row, f"{name}-{i}", section.template, tokenizer) for i, row in enumerate(rows)]
        for name, rows in (("train", train), ("held", held))
    ]
    kept = [
        tuple(p for p in prompts if limit is None or len(p.token_ids) <= limit) for prompts in sets
    ]
    longest = max((len(p.token_ids) for prompts in sets for p in prompts), default=0)
    if train and not kept[0] or not any(kept):
        raise RecipeError(
            f"data: every prompt is longer than {limit} tokens (the longest has {longest}); lower "
            "sample.max_tokens, raise data.max_prompt_tokens, or choose a shorter template"
        )
    return PromptSet(*kept, sum(map(len, sets)) - sum(map(len, kept)), longest)


def _prompt(row: Row, id: str, template: str, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    text, special = render(row["prompt"], template, tokenizer)
    tokens = tokenizer(text, add_special_tokens=special)["input_ids"]
    if special and len(tokens) > 1 and tokens[-1] == tokenizer.eos_token_id:
        tokens = tokens[:-1]
    if not tokens:
        raise RecipeError(f"data: the model's tokenizer makes no token of the prompt {text[:60]!r}")
    return Prompt(id, tuple(tokens), row, text)


def render(question: Any, template: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, bool]:
    """(the prompt's text, whether the tokenizer still adds its special tokens)."""
    if template == "chat":
        messages = (
            question if isinstance(question, list) else [{"role": "user", "content": question}]
        )
        try:
            return tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            ), False
        except (
            Exception
        ) as error:  # templates are programs of the model's authors and raise what they like
            raise RecipeError(
                f"data: the tokenizer's chat template fails on a prompt: {error}"
            ) from None
    forms = {"r1": R1_TEMPLATE, "plain": "{prompt}"}
    return forms.get(template, template).replace("{prompt}", question), True


def check_template(template: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse the template chat where the tokenizer has no chat template."""
    if template == "chat" and not tokenizer.chat_template:
        raise RecipeError(
            "recipe: data.template is chat, but the tokenizer has no chat template; use r1, plain or a "
            "string with {prompt}"
        )


class PromptStream:
    """An endless order over the training prompts: every one once an epoch, shuffled anew by (seed, epoch).

    One `take` never returns a prompt twice, also where it crosses into the next epoch: a prompt met again
    there waits for the next take. `state` and `restore` carry the place over a stop.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int):
        self.prompts, self.seed = prompts, seed
        self.epoch, self.cursor, self.deferred = 0, 0, []
        self._order = self._shuffled()

    def _shuffled(self) -> list[int]:
        order = list(range(len(self.prompts)))
        random.Random(f"{self.seed}:{self.epoch}").shuffle(order)
        return order

    def take(
        self,
        number: int,
        admits: Callable[[Prompt], bool] = lambda prompt: True,
        without: Collection[str] = (),
    ) -> list[Prompt]:
        """The next `number` different prompts; fewer if two passes over all of them do not admit as many.

        A prompt that is not admitted is passed over for this epoch. One whose id is in `without` waits for the
        next take.
        """
        assert number <= len(self.prompts), "checked before the run starts"
        taken: dict[int, None] = {}
        waiting, self.deferred = self.deferred, []
        for index in waiting:
            self._offer(index, taken, number, admits, without)
        for _ in range(2 * len(self.prompts)):
            if len(taken) == number:
                break
            if self.cursor == len(self._order):
                self.epoch, self.cursor = self.epoch + 1, 0
                self._order = self._shuffled()
            self._offer(self._order[self.cursor], taken, number, admits, without)
            self.cursor += 1
        return [self.prompts[index] for index in taken]

    def _offer(
        self,
        index: int,
        taken: dict[int, None],
        number: int,
        admits: Callable[[Prompt], bool],
        without: Collection[str],
    ) -> None:
        if index in taken or len(taken) == number or self.prompts[index].id in without:
            if index not in self.deferred:
                self.deferred.append(index)
        elif admits(self.prompts[index]):
            taken[index] = None

    def state(self) -> dict[str, Any]:
        return {
            "prompts": len(self.prompts),
            "epoch": self.epoch,
            "cursor": self.cursor,
            "deferred": list(self.deferred),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to the place that `state` names; other prompts than those it was taken from are refused."""
        if state["prompts"] != len(self.prompts):
            raise RecipeError(
                f"data: the run began with {state['prompts']} prompts that train, now there are "
                f"{len(self.prompts)}; resume with the data set it began with"
            )
        self.epoch, self.cursor, self.deferred = (
            state["epoch"],
            state["cursor"],
            list(state["deferred"]),
        )
        self._order = self._shuffled()
