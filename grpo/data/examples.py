"""Rows for supervised training as tokens, and which of them are learnt. No row is ever cut.

A prompt and its completion are tokenized so that the prompt's tokens are those that the policy would be shown, and the
completion is taken as it stands, never rendered again: a chat template that drops reasoning changes nothing of it.
Every trace ends with the token that ends a completion, and learns it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Collection, Iterable, Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.data.example_rows import FORM
from grpo.data.sources import SourceRows
from grpo.data.templates import Template, check_questions, template_of
from grpo.data.turn_spans import Chat, ChatTemplate, Span, special_texts, written_turns
from grpo.model.info import ModelInfo
from grpo.recipe import Recipe, RecipeError
from grpo.types import Prompt
from rewards.reasoning import THINK, opens_reasoning
from rewards.spelling import many

TAKE_TEXTS = (
    "take texts out of the messages: data.columns.prompt=messages.0.content "
    "data.columns.completion=messages.1.content"
)
BATCH = 256
"""Texts given to the tokenizer at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A row of supervised training: all its tokens, and the half-open spans of them that are learnt.

    The first token is in no span, since nothing predicts it; the last token is always in one. ``prompt`` holds the
    tokens, the text and the row.
    """

    prompt: Prompt
    learnt: tuple[Span, ...]

    @property
    def num_learnt(self) -> int:
        """How many of its tokens are learnt."""
        return sum(end - start for start, end in self.learnt)


@dataclass(frozen=True, slots=True, eq=False)
class ExampleSet:
    """The examples to train on and those held out.

    ``counts`` say what became of every row that was read: it is in one of ``left_out`` (by ``data.where``),
    ``too_long``, ``nothing_to_learn``, ``repeats_held_out``, ``held_out`` and ``train``. ``longest`` is the number of
    tokens of the longest row, dropped ones included; ``templates`` are in words, by source; ``end_ids`` are the end
    tokens that the examples learn; ``forms`` are what the rows are: completion, chat, text.
    """

    train: tuple[Example, ...] = ()
    held_out: tuple[Example, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    longest: int = 0
    templates: Mapping[str, str] = field(default_factory=dict)
    end_ids: frozenset[int] = frozenset()
    forms: tuple[str, ...] = ()


def load_examples(recipe: Recipe, info: ModelInfo, sources: Sequence[SourceRows]) -> ExampleSet:
    """The examples that the rows of `sources` become.

    Raises `RecipeError` for rows that are too long unless ``sft.too_long`` is drop, if nothing is left to train on, and
    if the model has no embedding for some token.
    """
    maker = _Maker(recipe, info.tokenizer, info.end_ids, _limit(recipe, info.context))
    train: list[Example] = []
    held_out: list[Example] = []
    for source in sources:
        maker.counts["left_out"] += source.num_left_out
        maker.counts["repeats_held_out"] += _num_repeats(source)
        train += maker.examples(source, source.train, "train")
        held_out += maker.examples(source, source.held_out, "held")
    maker.refuse_if_too_long()
    if not train:
        raise RecipeError(
            f"data: no row is left to train on: {maker.counts['too_long']} are too long and "
            f"{maker.counts['nothing_to_learn']} hold nothing to learn"
        )
    _check_tokens([*train, *held_out], info.tokenizer, info.num_embeddings)
    return ExampleSet(
        train=tuple(train),
        held_out=tuple(held_out),
        counts={**maker.counts, "held_out": len(held_out), "train": len(train)},
        longest=maker.longest,
        templates=maker.templates,
        end_ids=_learnt_ends(train, maker.specials),
        forms=tuple(sorted({example.prompt.truth[FORM] for example in train})),
    )


def _learnt_ends(examples: Iterable[Example], specials: Collection[int]) -> frozenset[int]:
    """The tokens with which learnt stretches end: the last of each example, and special ones between turns."""
    ends: set[int] = set()
    for example in examples:
        token_ids = example.prompt.token_ids
        ends.add(token_ids[-1])
        for _, end in example.learnt[:-1]:
            if token_ids[end - 1] in specials:
                ends.add(token_ids[end - 1])
    return frozenset(ends)


def _num_repeats(source: SourceRows) -> int:
    """Rows whose prompt is that of a held-out row, which neither train nor are held out."""
    return len(source.rows) - len(source.train) - len(source.held_out)


def _limit(recipe: Recipe, context: int | None) -> int | None:
    """The longest row in tokens; None for no limit."""
    wanted = recipe.sft.max_tokens
    if context is not None and wanted is not None and wanted > context:
        raise RecipeError(
            f"recipe: sft.max_tokens is {wanted}, but the model's context is {many(context, 'token')}; lower it"
        )
    return wanted or context


def _check_tokens(
    examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, size: int
) -> None:
    """Refuse examples with a token that the model has no embedding for, such as an image's placeholder."""
    for example in examples:
        number = max(example.prompt.token_ids)
        if number >= size:
            token = tokenizer.convert_ids_to_tokens(number)
            raise RecipeError(
                f"data: the row {example.prompt.id} holds the token {token!r} ({number}), which the model has no "
                f"embedding for, since its vocabulary has {size}; remove it from the row or the template"
            )


# ---- from rows to texts -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A row's text and the spans of its characters that are learnt, in order.

    ``end_id`` follows the text unless it ends with an end token; ``adds_specials`` says whether the tokenizer still has
    to add its own. Without spans there is nothing to learn.
    """

    text: str
    learnt: Sequence[Span]
    end_id: int
    adds_specials: bool = False


@dataclass(slots=True, eq=False)
class _Maker:
    """Makes examples of rows, and counts what becomes of the others."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    end_ids: frozenset[int]
    limit: int | None
    counts: Counter[str] = field(
        default_factory=lambda: Counter(
            left_out=0, too_long=0, nothing_to_learn=0, repeats_held_out=0
        )
    )
    longest: int = 0
    longest_id: str = ""
    templates: dict[str, str] = field(default_factory=dict)
    specials: dict[int, str] = field(init=False)
    _ids: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.specials = special_texts(self.tokenizer)
        self._ids = []

    def examples(
        self, source: SourceRows, rows: Sequence[Mapping[str, Any]], part: str
    ) -> Iterator[Example]:
        """The examples of some rows of a source, named ``part-0``, ``part-1``, ... before any is dropped."""
        renderer = _Renderer(self, source)
        renderer.check(rows)
        self.templates.setdefault(source.name, renderer.words)
        stem = f"{source.name}:{part}" if source.name else part
        for start in range(0, len(rows), BATCH):
            chunk = rows[start : start + BATCH]
            rendered = [
                renderer.rendered(row, f"the row {stem}-{number}")
                for number, row in enumerate(chunk, start)
            ]
            tokens = tokenized(rendered, self.tokenizer, self.end_ids | self.specials.keys())
            for number, (row, text, made) in enumerate(zip(chunk, rendered, tokens), start):
                example = self._example(f"{stem}-{number}", row, text, made)
                if example is not None:
                    yield example

    def _example(
        self, id: str, row: Mapping[str, Any], rendered: Rendered, made: TokenSpans
    ) -> Example | None:
        if not made.learnt:
            self.counts["nothing_to_learn"] += 1
            return None
        if len(made.token_ids) > self.longest:
            self.longest = len(made.token_ids)
            self.longest_id = id
        if self.limit is not None and len(made.token_ids) > self.limit:
            self.counts["too_long"] += 1
            return None
        prompt = Prompt(
            id=id,
            token_ids=self._shared(made.token_ids),
            truth=row,
            text=rendered.text,
            source=id.rpartition(":")[0],
        )
        return Example(prompt, tuple(made.learnt))

    def _shared(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """`token_ids` of number objects that all rows share: a token then takes eight bytes, not forty."""
        most = max(token_ids)
        if most >= len(self._ids):
            self._ids += range(len(self._ids), most + 1)
        return tuple(map(self._ids.__getitem__, token_ids))

    def refuse_if_too_long(self) -> None:
        """Refuse rows that would have to be cut, unless the recipe drops them."""
        number = self.counts["too_long"]
        if number and self.limit is not None and self.recipe.sft.too_long == "refuse":
            rows = "row is" if number == 1 else "rows are"
            raise RecipeError(
                f"data: {number} {rows} longer than {many(self.limit, 'token')} (the longest, {self.longest_id}, has "
                f"{self.longest}), and none is cut; set sft.too_long: drop to leave them out, or raise sft.max_tokens "
                "as far as the model's context allows"
            )


class _Renderer:
    """The rows of one source as texts with the spans that are learnt."""

    def __init__(self, maker: _Maker, source: SourceRows):
        self.train_on = maker.recipe.sft.train_on
        self.tokenizer = maker.tokenizer
        self.section = source.section
        self.end_ids = maker.end_ids
        self.specials = maker.specials
        self._chat_template_file = maker.recipe.sft.chat_template
        self._template: Template | None = None
        self._chat: ChatTemplate | None = None
        self._forms: set[str] = set()

    # -- what is asked of the tokenizer, once -----------------------------------------------------------------

    @property
    def template(self) -> Template:
        """How prompts are shown, as in reinforcement learning."""
        if self._template is None:
            self._template = template_of(self.section, self.tokenizer, self.end_ids)
        return self._template

    @property
    def chat(self) -> ChatTemplate:
        """The chat template; `RecipeError` without one."""
        if self._chat is not None:
            return self._chat
        if not self.tokenizer.chat_template:
            raise RecipeError(
                "data: the rows are chats, but the tokenizer has no chat template; name a file with one in "
                f"sft.chat_template, or {TAKE_TEXTS}"
            )
        if self.section.template not in ("auto", "chat"):
            raise RecipeError(
                "data: the rows are chats, which the chat template writes, but data.template is "
                f"{self.section.template}; set it to chat, or {TAKE_TEXTS}"
            )
        of = self._chat_template_file or getattr(self.tokenizer, "name_or_path", "")
        name = f"the chat template of {of}" if of else "the tokenizer's chat template"
        self._chat = ChatTemplate(self.tokenizer, name, self.section.template_args, self.specials)
        return self._chat

    @property
    def text_end(self) -> int:
        """The token that ends a text that no chat template has made; `RecipeError` if there is none."""
        end = self.tokenizer.eos_token_id
        if end is None and not self.end_ids:
            raise RecipeError(
                "data: neither the tokenizer nor the model names a token that ends a text, so no trace could learn to "
                "end; set the tokenizer's eos_token"
            )
        return int(min(self.end_ids) if end is None else end)

    @property
    def turn_end(self) -> int:
        """The token that follows the assistant's text in the chat template, or else ends a text."""
        end = self.chat.turn_end
        return self.text_end if end is None else end

    @property
    def words(self) -> str:
        """What the rows are, and how they are shown, in a few words."""
        forms = sorted(self._forms)
        shown = []
        for form in forms:
            if form == "completion":
                shown.append(f"prompts and completions, template {self.template.pattern}")
            elif form == "chat":
                way = "its marks" if self.chat.marks_generation else "rendered beginnings"
                shown.append(f"chats, turns by {way}")
            else:
                shown.append("texts")
        return ", ".join(shown)

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Note the forms of the rows; refuse prompts whose question the chat template leaves out."""
        self._forms |= {row[FORM] for row in rows}
        prompted = [row for row in rows if row[FORM] == "completion"]
        if prompted:
            check_questions(prompted, self.template, self.tokenizer)

    # -- the forms --------------------------------------------------------------------------------------------

    def rendered(self, row: Mapping[str, Any], where: str) -> Rendered:
        """A row as text; `where` names it in errors."""
        form = row[FORM]
        if form == "text":
            return Rendered(row["text"], self._all(row["text"]), self.text_end, True)
        if form == "chat":
            turns = Template("chat", self.section.system).turns(row["messages"])
            return self._conversation(turns, 0, row.get("tools"), where)
        completion = row["completion"]
        if isinstance(completion, str):
            return self._completion(row["prompt"], completion)
        only = _only_text(completion)
        if only is not None:
            return self._completion(row["prompt"], only)
        turns = Template("chat", self.section.system).turns(row["prompt"])
        return self._conversation([*turns, *completion], len(turns), row.get("tools"), where)

    def _completion(self, prompt: Any, completion: str) -> Rendered:
        shown, adds_specials = self.template.render(prompt, self.tokenizer)
        if opens_reasoning(shown) and completion.lstrip().startswith(THINK):
            completion = completion.lstrip().removeprefix(THINK).lstrip("\n")
        text = shown + completion
        learnt: Sequence[Span] = [(len(shown), len(text))] if completion.strip() else []
        if learnt and self.train_on == "all":
            learnt = self._all(text)
        end_id = self.turn_end if self.template.pattern == "chat" else self.text_end
        return Rendered(text, learnt, end_id, adds_specials)

    def _conversation(
        self, turns: Sequence[Mapping[str, Any]], first: int, tools: Any, where: str
    ) -> Rendered:
        """A chat whose turns from `first` on are learnt, those of them that ``sft.train_on`` names."""
        wanted = written_turns(turns, first)
        if self.train_on == "last":
            wanted = wanted[-1:]
        if not wanted:
            return Rendered("", [], self.turn_end)
        if self.train_on == "all":
            text = self.chat.render(
                self.chat.readable(turns, tools), tools, generation_prompt=False
            )
            return Rendered(text, self._all(text.rstrip()), self.turn_end)
        text, spans = self.chat.spans(Chat(turns, tools, where), wanted)
        return Rendered(text, spans, self.turn_end)

    def _all(self, text: str) -> Sequence[Span]:
        return [(0, len(text))] if text.strip() else []


def _only_text(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The text of a completion that is one message of the assistant's with nothing but text; None for others."""
    if len(messages) != 1 or messages[0].get("role") != "assistant":
        return None
    others = [key for key, value in messages[0].items() if key not in ("role", "content") and value]
    content = messages[0].get("content")
    return content if isinstance(content, str) and not others else None


# ---- from texts to tokens -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class TokenSpans:
    """Tokens up to the last that is learnt, and the half-open spans of them that are."""

    token_ids: list[int]
    learnt: list[Span]


def tokenized(
    rendered: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int]
) -> list[TokenSpans]:
    """The tokens of each text, with the spans of those that are learnt.

    A text is tokenized as a whole if each span begins and ends between two tokens; otherwise piece by piece, which is
    how the policy is shown a prompt before it goes on.
    """
    whole: dict[int, TokenSpans | None] = {}
    for adds_specials in (False, True):
        indices = [
            index
            for index, one in enumerate(rendered)
            if one.adds_specials == adds_specials and one.learnt and tokenizer.is_fast
        ]
        if not indices:
            continue
        encoded = tokenizer(
            [rendered[index].text for index in indices],
            add_special_tokens=adds_specials,
            return_offsets_mapping=True,
        )
        for index, token_ids, offsets in zip(
            indices, encoded["input_ids"], encoded["offset_mapping"]
        ):
            whole[index] = _as_a_whole(rendered[index], token_ids, offsets, tokenizer)
    results = []
    for index, one in enumerate(rendered):
        if not one.learnt:
            results.append(TokenSpans([], []))
            continue
        made = whole.get(index) or _by_pieces(one, tokenizer)
        results.append(_finished(made, one.end_id, end_ids))
    return results


def _as_a_whole(
    one: Rendered,
    token_ids: Sequence[int],
    offsets: Sequence[Span],
    tokenizer: PreTrainedTokenizerBase,
) -> TokenSpans | None:
    """The spans in tokens, None if one of them cuts a token in two."""
    token_ids = _without_eos(token_ids, tokenizer, one.adds_specials)
    offsets = offsets[: len(token_ids)]
    starts = [start for start, _ in offsets]
    ends = list(accumulate((end for _, end in offsets), max))
    learnt = []
    for span in one.learnt:
        places = [_tokens_before(bound, starts, ends, len(one.text)) for bound in span]
        if None in places:
            return None
        learnt.append((places[0] or 0, places[1] or 0))
    return TokenSpans(list(token_ids), learnt)


def _tokens_before(
    bound: int, starts: Sequence[int], ends: Sequence[int], length: int
) -> int | None:
    """How many tokens lie before a place in the text; None if it lies inside of one."""
    if bound >= length:
        return len(starts)
    number = bisect_left(starts, bound)
    if number and ends[number - 1] != bound:
        return None
    return number


def _by_pieces(one: Rendered, tokenizer: PreTrainedTokenizerBase) -> TokenSpans:
    bounds = [bound for span in one.learnt for bound in span]
    token_ids: list[int] = []
    places = []
    for start, end in zip([0, *bounds], bounds):
        is_first = start == 0 and not token_ids
        piece = one.text[start:end]
        if piece or is_first:
            adds_specials = one.adds_specials and is_first
            made = tokenizer(piece, add_special_tokens=adds_specials)["input_ids"]
            token_ids += _without_eos(made, tokenizer, adds_specials)
        places.append(len(token_ids))
    return TokenSpans(token_ids, list(zip(places[::2], places[1::2])))


def _without_eos(
    token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, adds_specials: bool
) -> Sequence[int]:
    """`token_ids` without an end token that the tokenizer has put behind the text itself."""
    if adds_specials and len(token_ids) > 1 and token_ids[-1] == tokenizer.eos_token_id:
        return token_ids[:-1]
    return token_ids


def _finished(made: TokenSpans, end_id: int, end_ids: Collection[int]) -> TokenSpans:
    """The tokens up to the last that is learnt, which is an end token; the first is never learnt."""
    learnt = [(max(start, 1), end) for start, end in made.learnt]
    learnt = [span for span in learnt if span[0] < span[1]]
    if not learnt:
        return TokenSpans([], [])
    start, end = learnt[-1]
    token_ids = made.token_ids[:end]
    if token_ids[-1] not in end_ids:
        token_ids.append(end_id)
        learnt[-1] = (start, end + 1)
    return TokenSpans(token_ids, learnt)
