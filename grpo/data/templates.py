"""How a row's question becomes the text that the policy is shown: by a pattern, or by the tokenizer's chat template.

What a conversation in a row may look like is up to ``conversation``, tokens and lengths to ``prompts``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Collection, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.data.conversation import is_begun
from grpo.recipe import RecipeError, RowsSection
from rewards.reasoning import THINK, opens_reasoning

R1_TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., "
    "<think> reasoning process here </think> <answer> answer here </answer>. User: {prompt}. Assistant:"
)
"""The template of DeepSeek-R1-Zero (arXiv 2501.12948, table 1)."""
MARK = "grpo-assistant-turn"
"""Stands for an assistant's text where its end is looked for."""
TEMPLATES = {"r1": R1_TEMPLATE, "plain": "{prompt}"}
"""Templates by name; any other is either ``chat`` or a text with {prompt} in it."""
MAX_FORMS = 64
"""So many forms of conversations are tried on the chat template."""


@dataclass(frozen=True, slots=True)
class Template:
    """How a question becomes a prompt: ``pattern`` is a name of `TEMPLATES`, ``chat``, or a text with {prompt} in it.

    ``system`` and ``args`` are the chat template's.
    """

    pattern: str
    system: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)

    def render(self, question: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[str, bool]:
        """(the prompt's text, whether the tokenizer still has to add its special tokens).

        `question` is text, or for the template chat also a list of messages. Raises `RecipeError`.
        """
        if self.pattern == "chat":
            return _render_chat(self.turns(question), tokenizer, self.args), self.adds_special
        if not isinstance(question, str):
            raise RecipeError(
                f"data: a prompt is a list of messages, which need data.template: chat, and the template here is "
                f"{self.pattern}; for a model without a chat template name the text inside, such as "
                "data.columns.prompt: prompt.0.content"
            )
        pattern = TEMPLATES.get(self.pattern, self.pattern)
        return pattern.replace("{prompt}", question), self.adds_special

    @property
    def adds_special(self) -> bool:
        """Whether the tokenizer adds its special tokens to the text; a chat template has written its own."""
        return self.pattern != "chat"

    def turns(self, question: Any) -> list[Any]:
        """The messages that are rendered for `question`, text or messages: with the system's, where there is one."""
        single = [{"role": "user", "content": question}]
        messages = list(question) if isinstance(question, list) else single
        has_system = bool(messages) and messages[0].get("role") in ("system", "developer")
        if self.system is None or has_system:
            return messages
        return [{"role": "system", "content": self.system}, *messages]


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """What the policy is shown of each row of a source."""

    template: Template
    texts: list[str]


def render_rows(
    rows: Sequence[Mapping[str, Any]],
    section: RowsSection,
    tokenizer: PreTrainedTokenizerBase,
    end_ids: Collection[int],
    tools: Sequence[Mapping[str, Any]] = (),
) -> Rendered:
    """What the policy is shown of each row, by the template of `section`; raises `RecipeError`, as `template_of`.

    `tools` are handed to the chat template. Rows are refused where the template leaves out what they ask or a tool.
    """
    template = template_of(section, tokenizer, end_ids)
    if tools:
        template = with_tools(template, tokenizer, tools)
    check_questions(rows, template, tokenizer)
    return Rendered(template, [template.render(row["prompt"], tokenizer)[0] for row in rows])


def template_of(
    section: RowsSection, tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int]
) -> Template:
    """The template that `section` names; `RecipeError` for the template chat without one in the tokenizer.

    ``auto`` is the tokenizer's chat template if the model was trained on it, which is seen from `end_ids`, the tokens
    that end a completion: one of them ends a turn of the assistant. Base models often ship the chat template of their
    family, but end a text by another token.
    """
    pattern = section.template
    if pattern == "auto":
        pattern = "chat" if _ends_turns(tokenizer, end_ids) else "r1"
    if pattern == "chat" and not tokenizer.chat_template:
        raise RecipeError(
            "recipe: data.template is chat, but the tokenizer has no chat template; use r1, plain or a "
            "string with {prompt}"
        )
    if pattern != "chat" and (section.system is not None or section.template_args):
        raise RecipeError(
            "recipe: data.system and data.template_args are read by the chat template, but the model has "
            "none that it was trained on; set data.template: chat to use its tokenizer's all the same"
        )
    return Template(pattern, section.system, section.template_args)


def with_tools(
    template: Template, tokenizer: PreTrainedTokenizerBase, tools: Sequence[Mapping[str, Any]]
) -> Template:
    """`template` with `tools`, whose names it has to show the policy. Raises `RecipeError`."""
    if template.pattern != "chat":
        raise RecipeError(
            f"recipe: tools are shown to the policy by the chat template, and the template here is {template.pattern}; "
            "set data.template: chat, or environment.format to fenced or a tag such as <calc> and tell the policy of "
            "them in the prompt"
        )
    shown = replace(template, args={**template.args, "tools": [dict(tool) for tool in tools]})
    bare, _ = template.render("1", tokenizer)
    text, _ = shown.render("1", tokenizer)
    for tool in tools:
        name = str(tool["function"]["name"])
        if text.count(name) <= bare.count(name):
            raise RecipeError(
                f"data: tool-missing: the tokenizer's chat template leaves the tool {name} out of the prompt, so the "
                "policy would not know of it; use a model whose chat template takes tools, or set environment.format "
                "to fenced or a tag such as <calc> and tell the policy of it in data.system"
            )
    return shown


def _ends_turns(tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int]) -> bool:
    """Whether one of `end_ids` follows the assistant's text in the tokenizer's chat template."""
    if not tokenizer.chat_template:
        return False
    turn = [{"role": "user", "content": "1"}, {"role": "assistant", "content": MARK}]
    try:
        text = tokenizer.apply_chat_template(turn, tokenize=False)
    except Exception:  # noqa: BLE001  a template is a program of the model's authors
        return False
    assert isinstance(text, str), "with tokenize=False a chat template gives text"
    after = text.rpartition(MARK)[2]
    following = tokenizer(after, add_special_tokens=False)["input_ids"]
    return not set(following).isdisjoint(end_ids)


def _render_chat(
    turns: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    args: Mapping[str, Any],
) -> str:
    begun = str(turns[-1]["content"]) if turns and is_begun(turns) else ""
    text = _apply(turns[:-1] if begun else turns, tokenizer, args)
    if opens_reasoning(text) and begun.lstrip().startswith(THINK):
        begun = begun.lstrip().removeprefix(THINK).lstrip("\n")
    return text + begun


def _apply(
    turns: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    args: Mapping[str, Any],
) -> str:
    """The turns by the chat template; one that prints only content in parts gets it so."""
    return apply_template(readable_turns(turns, tokenizer, args), tokenizer, args)


def readable_turns(
    turns: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    args: Mapping[str, Any],
) -> Sequence[Mapping[str, Any]]:
    """`turns`, their contents in parts where the chat template prints the users' only so."""
    failure = None
    try:
        text = apply_template(turns, tokenizer, args)
    except RecipeError as error:
        failure = error
    else:
        if all(_shows(turn, text) for turn in turns):
            return turns
    in_parts = [{**turn, "content": _in_parts(turn.get("content"))} for turn in turns]
    try:
        other = apply_template(in_parts, tokenizer, args)
    except RecipeError:
        if failure is not None:
            raise failure from None
        return turns
    return in_parts if all(_shows(turn, other) for turn in turns) else turns


def apply_template(
    turns: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    args: Mapping[str, Any],
    *,
    generation_prompt: bool = True,
) -> str:
    """The turns as the tokenizer's chat template writes them, by default up to where the assistant's answer begins."""
    try:
        text = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            tokenize=False,
            add_generation_prompt=generation_prompt,
            **args,
        )
    except Exception as error:  # noqa: BLE001  a template is a program of the model's authors
        raise RecipeError(
            f"data: the tokenizer's chat template fails on a prompt: {error}"
        ) from None
    assert isinstance(text, str), "with tokenize=False a chat template gives text"
    return text


def _shows(turn: Mapping[str, Any], text: str) -> bool:
    """Whether a user's turn is in the rendered text; white space and what JSON escapes do not count."""
    content = turn.get("content")
    if turn.get("role") != "user" or not isinstance(content, str):
        return True
    shown = "".join(text.split())
    forms = (content, json.dumps(content)[1:-1], json.dumps(content, ensure_ascii=False)[1:-1])
    return any("".join(form.split()) in shown for form in forms)


def _in_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def check_questions(
    rows: Sequence[Mapping[str, Any]], template: Template, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse conversations whose questions the chat template leaves out.

    Each form of a conversation, its roles with their keys, is tried once; a word of our own stands for its questions.
    """
    if template.pattern != "chat":
        return
    seen: set[Any] = set()
    for number, row in enumerate(rows, 1):
        prompt = row["prompt"]
        turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        form = tuple((str(turn.get("role")), *sorted(turn)) for turn in turns)
        if form not in seen and len(seen) < MAX_FORMS:
            seen.add(form)
            _check_form(turns, number, template, tokenizer)


def _check_form(
    turns: Sequence[Mapping[str, Any]],
    number: int,
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    marked = []
    for index, turn in enumerate(turns):
        is_text = turn.get("role") == "user" and isinstance(turn.get("content"), str)
        marked.append({**turn, "content": f"question{index}asked"} if is_text else turn)
    text, _ = template.render(marked, tokenizer)
    lost = [turn for turn, mark in zip(turns, marked) if not _shows(mark, text)]
    if lost:
        raise RecipeError(
            f"data: question-missing: the tokenizer's chat template leaves the question of row {number} out of the "
            f"prompt ({str(lost[0].get('content'))[:60]!r}); use a template string with {{prompt}}, or a model whose "
            "chat template prints role and content"
        )
