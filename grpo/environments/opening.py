"""From a recipe to who answers: what is offered is checked before a model loads, then a pool of environments opens.

`plan_environment` needs the tokenizer alone; `open_environment` starts the workers, which are to be closed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.data.templates import Template, with_tools
from grpo.environments.call_ends import CallEnds
from grpo.environments.calls import check_calls
from grpo.environments.separators import Separators
from grpo.environments.session import Budgets, EnvironmentTurns
from grpo.model.policy import Policy
from grpo.recipe import EnvironmentSection, Recipe, RecipeError
from grpo.scoring import sandbox_options
from grpo.types import Prompt
from rewards.environments import Call, CallFormat, EnvironmentPool, EnvironmentSpec, format_of
from rewards.environments.pool import BUILT_IN_TOOLS
from rewards.spelling import many

Tool = Callable[..., Any] | str
"""A function with type hints and a docstring, or what a recipe's ``tools`` takes."""
Tools = Sequence[Tool]
Used = Callable[..., Any] | str
"""A class or a function that makes an environment, or what a recipe's ``environment.use`` takes."""
LEAST_BYTES = 16_384
BYTES_A_TOKEN = 16
"""So many bytes of an observation are kept for each token that may be shown."""


@dataclass(frozen=True, slots=True, eq=False)
class EnvironmentPlan:
    """Who answers, checked: the format of calls (None: none is read), and the tools as a chat template takes them.

    ``section`` is the recipe's; ``spec`` goes to the pool of environments, with the format resolved.
    """

    spec: EnvironmentSpec
    section: EnvironmentSection
    format: CallFormat | None
    schemas: Sequence[Mapping[str, Any]] = field(default=())

    @property
    def begins(self) -> bool:
        """Whether an environment begins with each completion and answers every turn; else there are tools alone."""
        return self.spec.use is not None and self.spec.use not in BUILT_IN_TOOLS

    @property
    def names(self) -> list[str]:
        """The names of the tools that have one."""
        return [str(schema["function"]["name"]) for schema in self.schemas]

    @property
    def shown(self) -> Sequence[Mapping[str, Any]]:
        """The tools that the chat template is given: none where calls are written in a way that it does not teach."""
        return () if self.format is None or self.format.in_turn else self.schemas

    def shown_by(self, template: Template, tokenizer: PreTrainedTokenizerBase) -> Template:
        """`template` with the tools that a chat template is given. Raises `RecipeError` where it leaves one out."""
        return with_tools(template, tokenizer, self.shown) if self.shown else template

    def check_templates(
        self,
        tokenizer: PreTrainedTokenizerBase,
        templates: Iterable[Template],
        stop_ids: frozenset[int],
    ) -> None:
        """Refuse chat templates that write no observation between turns, or no calls. Raises `RecipeError`."""
        if self.format is not None and self.format.in_turn:
            return
        role = "user" if self.format is None else "tool"
        message = {"role": role, "name": "tool", "content": "1"}
        for template in templates:
            if template.pattern != "chat":
                continue
            limit = self.section.observation_tokens
            Separators(tokenizer, template, stop_ids, limit).pieces([message])
            if self.shown:
                check_calls(tokenizer, template, self.shown[0])

    def describe(self) -> str:
        """One line for the header of a run."""
        section = self.section
        parts = []
        if self.spec.use is not None:
            parts.append(str(getattr(self.spec.use, "__name__", self.spec.use)))
        if self.names:
            parts.append(f"tools {', '.join(self.names)}")
        if self.format is not None:
            parts.append(f"calls written as {self.format.name}")
        parts.append(
            f"at most {many(section.max_calls, 'call')} and {many(section.max_turns, 'turn')}"
        )
        parts.append(f"observations of up to {many(section.observation_tokens, 'token')}")
        return ", ".join(parts)


def plan_environment(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    tools: Tools = (),
    environment: Used | None = None,
) -> EnvironmentPlan | None:
    """What the recipe and the functions `tools` offer; None where nobody answers. Raises `RecipeError`.

    An `environment` takes the place of the recipe's ``environment.use``.
    """
    section = recipe.environment
    use = section.use if environment is None else environment
    offered = [*recipe.tools, *_several(tools)]
    if use is None or use in BUILT_IN_TOOLS:
        _check_reward(recipe)
    if use is None and not offered:
        if section != EnvironmentSection():
            raise RecipeError(
                "recipe: the section environment is set, but nobody answers: name tools, e.g. tools: [python], or an "
                "environment.use"
            )
        return None
    if recipe.sample.engine != "embedded":
        raise RecipeError(
            f"recipe: tools are offered, but a server's completion ends with its first turn (sample.engine "
            f"{recipe.sample.engine}); set sample.engine: embedded"
        )
    found = _format(section, tokenizer, is_needed=bool(offered) or use is None)
    spec = EnvironmentSpec(
        use=use,
        args=section.args,
        tools=tuple(offered),
        format="auto" if found is None else found.name,
        timeout_seconds=section.timeout_seconds,
        workers=section.workers,
        max_bytes=max(LEAST_BYTES, BYTES_A_TOKEN * section.observation_tokens),
    )
    pool = open_pool(recipe, spec)
    try:
        schemas = pool.schemas()
    finally:
        pool.close()
    if found is not None and schemas:
        _check_spelling(found, str(schemas[0]["function"]["name"]), tokenizer)
    return EnvironmentPlan(spec, section, found, schemas)


def _several(tools: Tools | Tool | Mapping[str, Tool]) -> list[Tool]:
    """`tools` as a list; one alone will do."""
    if isinstance(tools, str) or callable(tools):
        return [tools]
    if isinstance(tools, Mapping):
        raise RecipeError(
            "tools: a mapping is no list of functions; pass tools=[f, g], which are called by the functions' own names"
        )
    return list(tools)


def _check_spelling(found: CallFormat, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a format whose calls the tokenizer cannot write: the policy could never call."""
    call = found.write(Call(name, "1" if found.in_turn else {}))
    token_ids = tokenizer.encode(call, add_special_tokens=False)
    read = str(tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))
    if not found.parse(read).calls:
        raise RecipeError(
            f"recipe: environment.format: a call is written {call!r}, and the tokenizer of {tokenizer.name_or_path} "
            f"makes {read!r} of it: the policy can never call; set a format that it can spell"
        )


def _check_reward(recipe: Recipe) -> None:
    """Refuse the reward ``environment``: there is no environment that could give one."""
    for name, reward in recipe.rewards.items():
        if reward.use == "environment":
            raise RecipeError(
                f"recipe: rewards.{name}: the reward environment sums what an environment gives for the turns, and "
                "here there is none, tools alone give nothing; name one as environment.use"
            )


def _format(
    section: EnvironmentSection, tokenizer: PreTrainedTokenizerBase, *, is_needed: bool
) -> CallFormat | None:
    """How calls are written; None where an environment of its own reads the texts and no format is named."""
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("tool_use", template.get("default"))
    try:
        return format_of(section.format, template)
    except ValueError as error:
        if section.format == "auto" and not is_needed:
            return None
        raise RecipeError(f"recipe: {error}") from None


def open_pool(recipe: Recipe, spec: EnvironmentSpec) -> EnvironmentPool:
    """The pool of environments that `spec` describes; `RecipeError` where it cannot be made."""
    try:
        return EnvironmentPool(spec, sandbox=sandbox_options(recipe.sandbox))
    except ValueError as error:
        raise RecipeError(f"recipe: {error}") from None


class RunEnvironment:
    """An open pool and what is needed to answer with it; close it, or use it as a context.

    ``stop_ids`` are the tokens that end the policy's turns.
    """

    def __init__(
        self,
        plan: EnvironmentPlan,
        pool: EnvironmentPool,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: frozenset[int],
        *,
        in_step: bool = False,
    ):
        self.plan = plan
        self.pool = pool
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        self.in_step = in_step
        self._separators: dict[str, Separators] = {}
        self._ends = CallEnds(plan.format, tokenizer)
        self._turns: EnvironmentTurns | None = None

    def __enter__(self) -> RunEnvironment:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers."""
        self.pool.close()

    def turns(self, templates: Mapping[str, Template]) -> EnvironmentTurns:
        """The other side of a call of the engine; `templates` are those of the prompts, by the source of each.

        Sessions of the call before are ended.
        """
        if self._turns is not None:
            self._turns.close()

        def separators_of(prompt: Prompt) -> Separators:
            return self.separators(templates[prompt.source])

        section = self.plan.section
        self._turns = EnvironmentTurns(
            self.pool,
            self.plan.format,
            self.tokenizer,
            separators_of=separators_of,
            budgets=Budgets(section.max_calls, section.max_turns, section.observation_tokens),
            begins=self.plan.begins,
            in_step=self.in_step,
            ends=self._ends,
        )
        return self._turns

    def separators(self, template: Template) -> Separators:
        """What stands between turns under a template; found once for each."""
        name = repr(template)
        if name not in self._separators:
            self._separators[name] = Separators(
                self.tokenizer, template, self.stop_ids, self.plan.section.observation_tokens
            )
        return self._separators[name]


def turns_of(
    environment: RunEnvironment | None, templates: Mapping[str, Template]
) -> EnvironmentTurns | None:
    """The other side of a call of the engine; None where nobody answers."""
    return None if environment is None else environment.turns(templates)


def open_environment(
    recipe: Recipe, plan: EnvironmentPlan | None, policy: Policy
) -> RunEnvironment | None:
    """Start the workers of a plan; None where nobody answers. `RecipeError` for a policy that cannot pause."""
    check_pauses(plan, policy)
    return start_environment(recipe, plan, policy.tokenizer, policy.stop_ids)


def check_pauses(plan: EnvironmentPlan | None, policy: Policy) -> None:
    """Refuse a policy whose completions cannot pause where somebody is to answer them; raises `RecipeError`."""
    if plan is not None and policy.unsupported_reason:
        raise RecipeError(
            "environment: not with this model, whose completions are sampled whole by transformers' generate and cannot"
            f" pause for an answer, since {policy.unsupported_reason}; leave tools and environment out"
        )


def start_environment(
    recipe: Recipe,
    plan: EnvironmentPlan | None,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: frozenset[int],
) -> RunEnvironment | None:
    """As `open_environment`, for a model that is not loaded yet."""
    if plan is None:
        return None
    in_step = recipe.sample.over_request > 0
    pool = open_pool(recipe, plan.spec)
    return RunEnvironment(plan, pool, tokenizer, stop_ids, in_step=in_step)
