"""A conversation with a model: its turns, and each reply sampled by the library's own engine as it is written.

With a chat template every turn renders the whole conversation anew, as the model's authors meant it: many templates
drop the thinking of earlier turns. Where tools answer the model, a question stands behind the tokens of all that was
written and observed before it, as in training: templates lose calls. A model that was trained on single questions is
asked each question by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from grpo.chat.reply import ANSWER, CALL, Piece, ReplyText, Splitter
from grpo.data.templates import Template
from grpo.environments import RunEnvironment, turns_of
from grpo.environments.separators import Separators
from grpo.kernels.sampling.spec import Sampling
from grpo.recipe import RecipeError
from grpo.rollout.engine import Engine
from grpo.types import Completion, Prompt
from rewards.reasoning import THINK, opens_reasoning
from rewards.spelling import many

LEAST_ROOM = 16
"""Tokens that a reply must have room for; older turns are dropped until it has."""
LONGEST_QUESTION = 10**9
"""In tokens: a question is never shortened, as a tool's answer is."""


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
    """A finished reply; ``num_dropped`` older messages found no room in the model's context.

    One that ``ends_in_call`` ended since calls or turns were used up.
    """

    completion: Completion
    seconds: float
    num_dropped: int
    ends_in_call: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens that were sampled."""
        return len(self.completion.token_ids)


@dataclass(frozen=True, slots=True)
class _Before:
    """The tokens of the conversation so far, and what ended its last turn."""

    token_ids: tuple[int, ...]
    stop: int | str | None


class Conversation:
    """The turns so far; `ask` adds one. The `environment` answers the model's calls; `close` ends it."""

    def __init__(
        self, engine: Engine, settings: Settings, environment: RunEnvironment | None = None
    ):
        self.engine = engine
        self.settings = settings
        self.environment = environment
        self.turns: list[dict[str, str]] = []
        self.num_asked = 0
        self._before: _Before | None = None

    def reset(self) -> None:
        """Forget every turn."""
        self.turns = []
        self._before = None

    def close(self) -> None:
        """Stop the workers of tools."""
        if self.environment is not None:
            self.environment.close()

    def ask(
        self, question: str, show: Callable[[Piece], None], stopped: Callable[[], bool]
    ) -> Reply:
        """The reply to `question`; `show` gets its pieces as they are sampled, until `stopped` is true.

        A reply that is stopped before its answer begins is not kept. Raises `RecipeError` for a question that is longer
        than the model's context.
        """
        prompt, num_dropped = self._prompt(question)
        kinds: list[str] = []

        def shown(piece: Piece) -> None:
            kinds.append(piece.kind)
            show(piece)

        completion = self._sample(prompt, shown, stopped)
        self.num_asked += 1
        if self.settings.keeps_turns and (ANSWER in kinds or completion.finish != "cancelled"):
            self._keep(question, prompt, completion)
        ends_in_call = kinds[-1:] == [CALL] and completion.finish == "stop"
        return Reply(completion, self.engine.stats.seconds, num_dropped, ends_in_call)

    def _keep(self, question: str, prompt: Prompt, completion: Completion) -> None:
        content = _opened(prompt.text) + completion.text
        self.turns.append({"role": "user", "content": question})
        self.turns.append({"role": "assistant", "content": content})
        if self.environment is not None:
            token_ids = (*prompt.token_ids, *completion.token_ids)
            self._before = _Before(token_ids, completion.stop)

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
            self._drop()
        prompt = Prompt(f"turn-{self.num_asked}", tuple(ids), {}, text=text)
        return prompt, num_before - len(self.turns)

    def _drop(self) -> None:
        """Forget the oldest question and its reply, or all of them where only their tokens are known."""
        if self._before is None:
            del self.turns[:2]
        else:
            self.reset()

    def _behind(self, before: _Before, question: str) -> tuple[str, list[int]]:
        """(the text of the new turn, the tokens of the conversation up to where the reply begins)."""
        policy = self.engine.policy
        separators = Separators(
            policy.tokenizer,
            self.settings.template,
            frozenset(policy.stop_ids),
            max_tokens=LONGEST_QUESTION,
        )
        asked = separators.messages([{"role": "user", "content": question}], before.stop)
        text = str(policy.tokenizer.decode(list(asked.token_ids)))
        return text, [*before.token_ids, *asked.token_ids]

    def _rendered(self, question: str) -> tuple[str, list[int]]:
        if self._before is not None:
            return self._behind(self._before, question)
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
        format = None if self.environment is None else self.environment.plan.format
        splitter = Splitter(opens_reasoning(prompt.text), format)
        text = ReplyText(self.engine.policy.tokenizer, splitter)

        def watched() -> bool:
            for sequence in self.engine.sequences:
                if sequence.tokens:
                    for piece in text.follow(sequence):
                        show(piece)
            return stopped()

        sampled = self.engine.sample(
            [prompt],
            group_size=1,
            max_tokens=self.settings.max_tokens,
            sampling=self.settings.sampling,
            seed=("chat", self.settings.seed),
            interrupted=watched,
            turns=turns_of(self.environment, {prompt.source: self.settings.template}),
        )
        ((_, group),) = sampled
        (completion,) = group.completions
        for piece in text.finish(completion):
            show(piece)
        return completion


def _opened(prompt_text: str) -> str:
    """The reasoning tag that the prompt has opened, which belongs to what the model wrote."""
    if not opens_reasoning(prompt_text):
        return ""
    return prompt_text[prompt_text.rindex(THINK) :]
