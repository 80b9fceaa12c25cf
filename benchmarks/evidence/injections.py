"""The faults that `faults` puts into a run, as a bug would: sampler, trainer, scores or tokens change, no metric does.

Each is a function that changes an open trainer before its first step. What it replaces goes through `Patches`, so that
all is as it was when the weights are measured. The gates' own tests inject some of the same (tests/faults).
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace
from typing import Any, Callable, Sequence

REFRESHED_EVERY = 8
"""Steps after which a stale sampler gets the trainer's weights."""
SHARE_OF_FAULTS = 0.1
TRAINER_TEMPERATURE = 0.8
SAMPLER_TOP_P = 0.9


class Patches:
    """Replaces attributes, and puts them back."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any, bool]] = []

    def set(self, place: Any, name: str, value: Any) -> None:
        """Replace an attribute, of an object or of a module."""
        was_own = name in vars(place)
        self._undo.append((place, name, getattr(place, name), was_own))
        setattr(place, name, value)

    def undo(self) -> None:
        """Put everything back, the last first."""
        while self._undo:
            place, name, value, was_own = self._undo.pop()
            if was_own:
                setattr(place, name, value)
            else:
                delattr(place, name)


Put = Callable[[Any, Patches], "AfterStep | None"]
"""(the open trainer, what replaces) -> what is to be done after each step, if anything."""
AfterStep = Callable[[], object]


# ---- the learner --------------------------------------------------------------------------------------------------


def denominator_per_micro_batch(trainer: Any, patches: Patches) -> None:
    """Each micro-batch is averaged over its own tokens, and the micro-batches over their number."""
    from grpo.learner.batch import _update
    from grpo.model.packing import micro_batches

    learner = trainer.learner
    shares = learner.objective.shares

    def wrong(rows: Sequence[Any], update: Any) -> list[float]:
        own = _update(rows, update.denominators.max_tokens)
        forwarded = [row for row in update.rows if row.forwarded]
        number = len(micro_batches(forwarded, learner.budget))
        return [share / number for share in shares(rows, own)]

    patches.set(learner.objective, "shares", wrong)


def temperature_in_the_trainer(trainer: Any, patches: Patches) -> None:
    """Log-probs are taken at another temperature than was sampled at."""
    patches.set(trainer.learner, "temperature", TRAINER_TEMPERATURE)


def labels_shifted(trainer: Any, patches: Patches) -> None:
    """The trainer's targets are one token off."""
    import grpo.learner.learner as module

    pack = module.pack

    def shifted(*arguments: Any) -> Any:
        packed = pack(*arguments)
        return replace(packed, target_T=packed.target_T.roll(1))

    patches.set(module, "pack", shifted)


# ---- the sampler --------------------------------------------------------------------------------------------------


def stale_sampler(trainer: Any, patches: Patches) -> AfterStep:
    """The sampler reads a copy of the weights that is refreshed every few steps only."""
    engine = trainer.engine
    copied = copy.deepcopy(trainer.policy)
    patches.set(engine, "policy", copied)
    patches.set(engine.stops, "policy", copied)

    def refresh() -> None:
        if trainer.num_steps % REFRESHED_EVERY == 0:
            engine.policy = engine.stops.policy = copy.deepcopy(trainer.policy)

    return refresh


def stale_sampler_in_disguise(trainer: Any, patches: Patches) -> AfterStep:
    """The same, and the copy claims the version and the fingerprint of the trainer's weights."""
    refresh = stale_sampler(trainer, patches)
    engine = trainer.engine

    def claim() -> None:
        refresh()
        engine.policy.version = trainer.policy.version
        known = trainer.policy.fingerprint()
        engine.policy.fingerprint = lambda: known

    return claim


def half_precision_head(trainer: Any, patches: Patches) -> None:
    """The sampler's logits come from a product in bfloat16."""
    policy = trainer.policy
    head = policy.base.get_output_embeddings()

    def next_logits(token_R1: Any, position_R1: Any, cache: Any) -> Any:
        body = policy.base.base_model
        out = policy._run(body, token_R1, position_R1, layout=cache, cache=cache)
        hidden = out.last_hidden_state[:, -1]
        return (hidden.bfloat16() @ head.weight.bfloat16().T)[:, : policy.vocab_size]

    patches.set(policy, "next_logits", next_logits)


def filter_in_the_sampler(trainer: Any, patches: Patches) -> None:
    """The sampler cuts off the tail of the distribution, and its log-probs do not say so."""
    import grpo.rollout.contiguous_decoder as module

    draw = module.sample

    def filtered(logits_RV: Any, seed_R: Any, position_R: Any, sampling: Any) -> Any:
        cut = replace(sampling, top_p=SAMPLER_TOP_P)
        return (*draw(logits_RV, seed_R, position_R, cut)[:2], None)

    patches.set(module, "sample", filtered)


# ---- what is scored, and what is trained on ------------------------------------------------------------------------


def edited(trainer: Any, patches: Patches, edit: Callable[[Any], Any]) -> None:
    """Let `edit` change each scored group before anything reads it."""
    collect = trainer._collect

    def wrong(step: int) -> Any:
        rollouts = collect(step)
        rollouts.groups = [edit(group) for group in rollouts.groups]
        return rollouts

    patches.set(trainer, "_collect", wrong)


def stop_token_dropped(trainer: Any, patches: Patches) -> None:
    """The token that ends a completion is cut off before training."""

    def cut(completion: Any) -> Any:
        last = len(completion.token_ids) - 1
        if completion.finish != "stop" or last < 1:
            return completion
        spans = tuple((by, first, min(end, last)) for by, first, end in completion.versions)
        return replace(
            completion,
            token_ids=completion.token_ids[:last],
            sampled_logps=completion.sampled_logps[:last],
            versions=tuple(span for span in spans if span[1] < span[2]),
        )

    def edit(group: Any) -> Any:
        return replace(group, completions=tuple(map(cut, group.completions)))

    edited(trainer, patches, edit)


def _some_scores(trainer: Any, patches: Patches, change: Callable[[Any], Any]) -> None:
    """Change one score in ten."""
    drawn = random.Random(trainer.recipe.seed)

    def edit(group: Any) -> Any:
        scores = []
        for score in group.scores:
            scores.append(change(score) if drawn.random() < SHARE_OF_FAULTS else score)
        return replace(group, scores=tuple(scores))

    edited(trainer, patches, edit)


def false_zeros(trainer: Any, patches: Patches) -> None:
    """A judge that fails for one completion in ten gives it 0."""
    _some_scores(trainer, patches, lambda score: replace(score, value=0.0))


def faults_masked(trainer: Any, patches: Patches) -> None:
    """The same judge, whose failures are said to be faults: what this library's rewards do."""
    _some_scores(trainer, patches, lambda score: replace(score, value=None, status="fault"))


def scores_of_the_neighbour(trainer: Any, patches: Patches) -> None:
    """Each completion has the score of the one before it in its group."""

    def edit(group: Any) -> Any:
        return replace(group, scores=(group.scores[-1], *group.scores[:-1]))

    edited(trainer, patches, edit)


def nothing(trainer: Any, patches: Patches) -> None:
    """The right run."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault with its name in tables; `stops`: with the gates on the run is stopped, so accuracy is taken without.

    ``alike`` names a fault that is the same without gates, so that its accuracy need not be measured twice.
    """

    put: Put
    says: str
    stops: bool = False
    alike: str = ""


RIGHT = "right"
FAULTS: dict[str, Fault] = {
    RIGHT: Fault(nothing, "none"),
    "denominator": Fault(
        denominator_per_micro_batch, "each micro-batch has a denominator of its own"
    ),
    "stale": Fault(
        stale_sampler,
        f"the sampler's weights are refreshed every {REFRESHED_EVERY} steps only",
        stops=True,
    ),
    "stale_disguised": Fault(
        stale_sampler_in_disguise,
        "the same, and they claim to be the trainer's",
        stops=True,
        alike="stale",
    ),
    "stop_token": Fault(stop_token_dropped, "the stop token is dropped before training"),
    "false_zeros": Fault(false_zeros, "one completion in ten is given 0 by a judge that failed"),
    "faults_masked": Fault(
        faults_masked, "(not a fault: the same judge, its failures said and masked)"
    ),
    "temperature": Fault(
        temperature_in_the_trainer,
        f"temperature {TRAINER_TEMPERATURE} in the trainer, 1 in the sampler",
        stops=True,
    ),
    "top_p": Fault(
        filter_in_the_sampler, f"top-p {SAMPLER_TOP_P} that only the sampler knows", stops=True
    ),
    "half_head": Fault(half_precision_head, "a bfloat16 head in the sampler", stops=True),
    "neighbour": Fault(
        scores_of_the_neighbour, "each completion has the score of its neighbour in the group"
    ),
    "labels": Fault(labels_shifted, "labels shifted by one in the trainer", stops=True),
}
