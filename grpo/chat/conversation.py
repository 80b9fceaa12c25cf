"""A conversation with a model: its turns, and each reply sampled by the library's own engine as it is written.

With a chat template every turn renders the whole conversation anew, as the model's authors meant it: many templates
drop the thinking of earlier turns. A model that was trained on single questions is asked each question by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from grpo.chat.reply import ANSWER, Piece, Splitter, TokenText
from grpo.data.templates import Template
from grpo.kernels.sampling.spec import Sampling
from grpo.recipe import RecipeError
from grpo.rollout.engine import Engine
from grpo.types import Completion, Prompt
from rewards.reasoning import THINK, opens_reasoning
from rewards.spelling import many

LEAST_ROOM = 16
"""Tokens that a reply must have room for; older turns are dropped until it has."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How questions are shown and replies drawn: at most ``max_tokens`` tokens each.

    ``keeps_turns`` is False if each question is asked by itself.
    """

    template: Template
    sampling: Sampling
    max_tokens: int
    seed: int
    keeps_turns: bool


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """A finished reply; ``num_dropped`` older messages found no room in the model's context."""

    completion: Completion
    seconds: float
    num_dropped: int

    @property
    def num_tokens(self) -> int:
        """Tokens that were sampled."""
        return len(self.completion.token_ids)


class Conversation:
    """The turns so far; `ask` adds one."""

    def __init__(self, engine: Engine, settings: Settings):
        self.engine = engine
        self.settings = settings
        self.turns: list[dict[str, str]] = []
        self.num_asked = 0

    def reset(self) -> None:
        """Forget every turn."""
        self.turns = []

    def ask(
        self, question: str, show: Callable[[Piece], None], stopped: Callable[[], bool]
    ) -> Reply:
        """The reply to `question`; `show` gets its pieces as they are sampled, until `stopped` is true.

        A reply that is stopped before its answer begins is not kept. Raises `RecipeError` for a question that is longer
        than the model's context.
        """
        prompt, num_dropped = self._prompt(question)
        is_answering = False

        def shown(piece: Piece) -> None:
            nonlocal is_answering
            is_answering = is_answering or piece.kind == ANSWER
            show(piece)

        completion = self._sample(prompt, shown, stopped)
        self.num_asked += 1
        if self.settings.keeps_turns and (is_answering or completion.finish != "cancelled"):
            content = _opened(prompt.text) + completion.text
            self.turns.append({"role": "user", "content": question})
            self.turns.append({"role": "assistant", "content": content})
        return Reply(completion, self.engine.stats.seconds, num_dropped)

    def _prompt(self, question: str) -> tuple[Prompt, int]:
        """The prompt, and how many messages were dropped for it to fit."""
        num_before = len(self.turns)
        while True:
            text, ids = self._rendered(question)
            context = self.engine.policy.context
            if context is None or len(ids) + LEAST_ROOM <= context:
                break
            if not self.turns:
                raise RecipeError(
                    f"chat: the question has {many(len(ids), 'token')}, and the model's context is "
                    f"{context}; shorten it"
                )
            del self.turns[:2]
        prompt = Prompt(f"turn-{self.num_asked}", tuple(ids), {}, text=text)
        return prompt, num_before - len(self.turns)

    def _rendered(self, question: str) -> tuple[str, list[int]]:
        tokenizer = self.engine.policy.tokenizer
        asked: object = question
        if self.settings.template.pattern == "chat":
            asked = [*self.turns, {"role": "user", "content": question}]
        text, adds_special = self.settings.template.render(asked, tokenizer)
        ids = list(tokenizer(text, add_special_tokens=adds_special)["input_ids"])
        if adds_special and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]
        if not ids:
            raise RecipeError("chat: the model's tokenizer makes no token of this question")
        return text, ids

    def _sample(
        self, prompt: Prompt, show: Callable[[Piece], None], stopped: Callable[[], bool]
    ) -> Completion:
        text = TokenText(self.engine.policy.tokenizer)
        splitter = Splitter(opens_reasoning(prompt.text))
        written = ""

        def watched() -> bool:
            nonlocal written
            for sequence in self.engine.sequences:
                if sequence.tokens and not sequence.finish:
                    new = text.push(sequence.tokens)
                    written += new
                    for piece in splitter.push(new):
                        show(piece)
            return stopped()

        sampled = self.engine.sample(
            [prompt],
            group_size=1,
            max_tokens=self.settings.max_tokens,
            sampling=self.settings.sampling,
            seed=("chat", self.settings.seed),
            interrupted=watched,
        )
        ((_, group),) = sampled
        (completion,) = group.completions
        rest = completion.text[len(written) :] if completion.text.startswith(written) else ""
        for piece in (*splitter.push(rest), *splitter.close()):
            show(piece)
        return completion


def _opened(prompt_text: str) -> str:
    """The reasoning tag that the prompt has opened, which belongs to what the model wrote."""
    if not opens_reasoning(prompt_text):
        return ""
    return prompt_text[prompt_text.rindex(THINK) :]
