"""What of a run is kept in a checkpoint, and how a run is brought back to one.

Weights, reference, optimizer with its schedule's place and loss scale, the entropy bonus, the prompts' order, pass
rates, groups in flight, engine's expectations, ledger, tokens, evaluations, wandb's id, every process's random
generators, the place in each journal, and the fingerprint of what the run was made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

import torch

from grpo.recipe import to_yaml
from grpo.rollout.sequence import PartialGroup
from grpo.run import checkpoint
from grpo.run.checkpoint import Checkpoint
from grpo.run.fingerprint import compare, fingerprint
from grpo.run.folder import (
    JOURNALS,
    MEMORY_KEYS,
    changes,
    hold,
    sizes,
    truncate_to_step,
    write_text,
)
from grpo.run.log import finite

if TYPE_CHECKING:
    from grpo.train import Trainer


def kept(trainer: Trainer) -> dict[str, Any]:
    """The parts of a run that have a ``state()`` of plain values and can `restore` it, by name."""
    return {
        "stream": trainer.stream,
        "pass_rates": trainer.curriculum,
        "ledger": trainer.ledger,
        "gates": trainer.gates,
    }


def collect(trainer: Trainer) -> Checkpoint | None:
    """Everything the run needs to go on from here; None on other processes than the first. All take part."""
    carried = trainer.ranks.gather([[group.to_mapping() for group in trainer.carried]])
    expected = trainer.ranks.gather([dict(trainer.engine.expected)])
    generators = trainer.ranks.gather([checkpoint.random_state()])
    if not trainer.ranks.main:
        return None
    learner = trainer.learner.state()
    state = {
        "bonus": learner["bonus"],
        "parts": {name: part.state() for name, part in kept(trainer).items()},
        "seconds": trainer.seconds,
        "tokens": dict(trainer.tokens),
        "before": finite(trainer.before),
        "examples_before": trainer._examples_before,
        "evaluated": trainer._evaluated,
        "accuracy": finite(trainer.log.accuracy),
        "carried": carried,
        "expected": expected,
        "version_of_weights": trainer.policy.version,
        "wandb_id": trainer.log.wandb_id,
        "journals": sizes(trainer.folder),
        "made_of": trainer.made_of,
    }
    held_out = state["accuracy"] if trainer._evaluated == trainer.num_steps else None
    return Checkpoint(
        trainer.num_steps,
        {name: p.data for name, p in trainer.policy.trainable().items()},
        learner["optimizer"],
        learner["reference"],
        state,
        generators,
        held_out,
    )


def prepare_folder(trainer: Trainer) -> None:
    """Make the run folder; or bring it, and the run, back to its newest checkpoint that is whole."""
    notes: list[str] = []
    place = None
    if trainer.ranks.main:
        trainer.folder.mkdir(parents=True, exist_ok=True)
        trainer._held = hold(trainer.folder)
        checkpoint.clear(trainer.folder)
        if trainer.resume:
            notes += changed_keys(trainer)
            place, found = checkpoint.newest_whole(trainer.folder)
            notes += found
            if place is None:
                notes.append(
                    "resume: the run has no checkpoint yet, so it starts from the beginning"
                )
    place = trainer.ranks.gather([place])[0]
    trainer.made_of = fingerprint(trainer)
    saved = checkpoint.load(place) if place else None
    if saved:
        notes += compare(saved.state["made_of"], trainer.made_of)
    trainer.log.say(*notes)
    if trainer.ranks.main:
        write_text(trainer.folder / "recipe.yaml", to_yaml(trainer.recipe.to_mapping()))
        for file in JOURNALS:
            size = saved.state["journals"].get(file, 0) if saved else 0
            truncate_to_step(trainer.folder / file, saved.step if saved else -1, size)
    trainer.ranks.wait()
    restore_run(trainer, saved) if saved else reset_run(trainer)


def changed_keys(trainer: Trainer) -> list[str]:
    """What a reader should know of the keys that are free to change at resume, and were changed."""
    recipe = trainer.recipe
    changed = {name: (old, new) for name, old, new in changes(trainer.folder, recipe)}
    notes = [
        f"resume: {name} was {old!r}, is {new!r}: it changes memory and speed, and may change how sums round"
        for name, (old, new) in changed.items()
        if name in MEMORY_KEYS
    ]
    if "steps" in changed and recipe.optim.schedule != "constant":
        old, new = changed["steps"]
        notes.append(
            f"resume: steps was {old}, is {new}, so the {recipe.optim.schedule} schedule of optim.lr is "
            "another from here on than the one that the run began with"
        )
    if (
        trainer.held_out
        and {"evaluate.samples", "evaluate.temperature", "evaluate.reward"} & changed.keys()
    ):
        notes.append(
            "resume: held-out accuracy is evaluated otherwise from here on, so it does not compare with that "
            "before"
        )
    return notes


def reset_run(trainer: Trainer) -> None:
    """Set an opened run to its beginning, also one that made steps before it was closed without a checkpoint."""
    trainer.num_steps, trainer._saved, trainer._evaluated, trainer.seconds = 0, None, -1, 0.0
    trainer.ledger.restore({"books": {}, "begun": 0})
    trainer.tokens, trainer.carried = dict.fromkeys(trainer.tokens, 0), []
    trainer.before, trainer._examples_before = None, []


def restore_run(trainer: Trainer, saved: Checkpoint) -> None:
    """Set an opened run to where `saved` left it."""
    with torch.no_grad():
        for name, p in trainer.policy.trainable().items():
            p.copy_(saved.weights[name])
    trainer.policy.version = saved.state["version_of_weights"]
    trainer.learner.restore(
        {"optimizer": saved.optimizer, "reference": saved.reference, "bonus": saved.state["bonus"]}
    )
    _restore_state(trainer, saved.step, saved.state)
    if trainer.ranks.rank < len(saved.generators):
        checkpoint.set_random_state(saved.generators[trainer.ranks.rank])


def _restore_state(trainer: Trainer, step: int, state: Mapping[str, Any]) -> None:
    for name, part in kept(trainer).items():
        part.restore(state["parts"][name])
    trainer.num_steps, trainer._saved, trainer.seconds = step, step, state["seconds"]
    trainer.tokens, trainer.before = dict(state["tokens"]), state["before"]
    trainer._examples_before, trainer._evaluated = state["examples_before"], state["evaluated"]
    trainer.log.accuracy, trainer.log.wandb_id = state["accuracy"], state["wandb_id"]
    prompts = {prompt.id: prompt for prompt in trainer.prompts.train}
    carried, expected, ranks = state["carried"], state["expected"], trainer.ranks
    if (
        len(carried) != ranks.world
    ):  # other processes: groups are dealt out anew, and all know what any expected
        every = [group for part in carried for group in part]
        carried = [every[rank :: ranks.world] for rank in range(ranks.world)]
        expected = [
            {name: length for part in expected for name, length in part.items()}
        ] * ranks.world
    trainer.carried = [PartialGroup.from_mapping(values, prompts) for values in carried[ranks.rank]]
    trainer.engine.expected = dict(expected[ranks.rank])
