"""The command ``grpo plan``: what a recipe's step would take on other hardware, by arithmetic. No weights are read."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any, Sequence

from grpo.commands.exit_codes import EXIT_DONE
from rewards.spelling import many, nearest

if TYPE_CHECKING:
    from grpo.plan.assumed import Assumed
    from grpo.plan.shape import Shape
    from grpo.plan.step import Site
    from grpo.plan.words import Estimate
    from grpo.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Figures are predictions from data sheets and the assumptions that are printed below them; docs/plan.md says "
        "how far they were off where they could be compared. The model is a folder with a config.json, a hub id, or "
        "the name of a published model such as qwen2.5-7b."
    )
    parser.add_argument("recipe", help="a YAML file, or the name of a recipe that ships")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="recipe keys to set"
    )
    parser.add_argument("--gpus", type=int, default=8, metavar="N", help="how many (default: 8)")
    parser.add_argument("--gpu", default="h100", metavar="NAME", help="which kind (default: h100)")
    parser.add_argument(
        "--nodes",
        type=int,
        metavar="N",
        help="how many machines they are in (default: 8 GPUs each)",
    )
    parser.add_argument(
        "--servers",
        type=int,
        metavar="N",
        help="how many of the GPUs only sample, as servers (default: half where servers sample, else 0)",
    )
    parser.add_argument(
        "--tensor-parallel",
        type=int,
        metavar="N",
        help="GPUs that hold one server's weights together (default: as few as can)",
    )
    parser.add_argument(
        "--ahead", action="store_true", help="sampling of the next step runs beside the update"
    )
    _add_lengths(parser)
    parser.add_argument(
        "--assume",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another value for an assumption, e.g. training=0.5; may be repeated; --json lists the names",
    )
    parser.add_argument(
        "--price", type=float, metavar="AMOUNT", help="price of a GPU hour (default: the recipe's)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_lengths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--length",
        type=float,
        metavar="TOKENS",
        help="mean length of completions (default: half of sample.max_tokens)",
    )
    parser.add_argument(
        "--prompt-tokens", type=float, metavar="TOKENS", help="length of a prompt (default: 256)"
    )


def run(options: argparse.Namespace, command: str) -> int:
    from grpo.plan.words import lines  # noqa: PLC0415  slow to import

    plan = _plan(options)
    if options.json:
        print(json.dumps(_as_json(plan), indent=1))
    else:
        print("\n".join(lines(plan)))
    return EXIT_DONE


def _plan(options: argparse.Namespace) -> Estimate:
    from grpo.cost.price import Prices  # noqa: PLC0415  slow to import
    from grpo.plan.scaling import scaling  # noqa: PLC0415  slow to import
    from grpo.plan.step import plan_step  # noqa: PLC0415  slow to import
    from grpo.plan.words import Estimate  # noqa: PLC0415  slow to import
    from grpo.plan.work import work_of  # noqa: PLC0415  slow to import
    from grpo.recipe import Recipe  # noqa: PLC0415  slow to import

    recipe = Recipe.load(options.recipe, *options.overrides)
    _check(options, recipe)
    assumed = _assumed(options.assume)
    shape = _shape(recipe)
    lora = recipe.model.lora
    work = work_of(
        recipe,
        prompt_tokens=options.prompt_tokens,
        mean=options.length,
        adapters=None if lora is None else shape.adapters(lora.rank),
    )
    site = _site(options, recipe)
    prices = Prices(recipe.cost.price_per_hour, recipe.cost.currency)
    if options.price is not None:
        prices = Prices({"gpu": options.price}, recipe.cost.currency)
    return Estimate(
        recipe=recipe.name,
        shape=shape,
        step=plan_step(shape, work, site, assumed),
        steps=scaling(shape, work, site, assumed),
        num_steps=recipe.steps,
        assumed=assumed,
        prices=prices,
        notes=_notes(options, recipe),
    )


def _check(options: argparse.Namespace, recipe: Recipe) -> None:
    """Refuse what no plan can be made of."""
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import

    if recipe.stage not in ("grpo", "distill"):
        raise RecipeError(f"plan: plans runs that sample and update; the stage is {recipe.stage}")
    limits = {"gpus": 1, "nodes": 1, "servers": 0, "tensor_parallel": 1, "length": 1}
    limits["prompt_tokens"] = 1
    for name, least in limits.items():
        value = getattr(options, name)
        if value is not None and not least <= value < math.inf:
            flag = name.replace("_", "-")
            raise RecipeError(
                f"plan: --{flag} is {value:g}, and must be at least {least}, and finite"
            )
    if options.price is not None and not 0 <= options.price < math.inf:
        raise RecipeError(f"plan: --price is {options.price:g}, and must be at least 0, and finite")
    if options.nodes and options.gpus % options.nodes:
        raise RecipeError(
            f"plan: {options.gpus} GPUs do not share out equally over {options.nodes} machines; name a multiple"
        )
    _check_servers(options, _servers(options, recipe))
    if options.length is not None and options.length > recipe.sample.max_tokens:
        raise RecipeError(
            f"plan: --length is {options.length:g}, above sample.max_tokens ({recipe.sample.max_tokens})"
        )


def _check_servers(options: argparse.Namespace, servers: int) -> None:
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import

    together = options.tensor_parallel
    if options.ahead and not servers:
        raise RecipeError("plan: --ahead is set, but no GPU samples apart; name --servers N")
    if together is not None and not servers:
        raise RecipeError(
            "plan: --tensor-parallel is set, but no GPU is a server; name --servers N"
        )
    if servers and servers >= options.gpus:
        raise RecipeError(
            f"plan: {servers} of {many(options.gpus, 'GPU')} are servers, and none is left to train; name fewer with "
            "--servers, or more with --gpus"
        )
    if together is not None and together > servers:
        raise RecipeError(
            f"plan: --tensor-parallel is {together}, but only {many(servers, 'GPU')} sample; name more with --servers"
        )


def _shape(recipe: Recipe) -> Shape:
    """Of the model's configuration where it lies here, of a published one by name, else of the hub's."""
    from pathlib import Path  # noqa: PLC0415  only here

    from grpo.plan.shape import known_shape, shape_of_config, suggestion  # noqa: PLC0415
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import

    name = recipe.model.name or ""
    known = None if Path(name).expanduser().exists() else known_shape(name)
    if known is not None:
        return known
    from grpo.model.info import load_config  # noqa: PLC0415  heavy: torch

    try:
        return shape_of_config(load_config(recipe.model), Path(name).name)
    except RecipeError as error:
        hint = suggestion(name)
        raise RecipeError(f"{error}{hint}") from None


def _site(options: argparse.Namespace, recipe: Recipe) -> Site:
    from grpo.plan.device import device_named  # noqa: PLC0415  slow to import
    from grpo.plan.step import Site  # noqa: PLC0415  slow to import

    return Site(
        device=device_named(options.gpu),
        devices=options.gpus,
        per_machine=options.gpus // options.nodes if options.nodes else 8,
        servers=_servers(options, recipe),
        together=options.tensor_parallel or 0,
        ahead=options.ahead,
    )


def _servers(options: argparse.Namespace, recipe: Recipe) -> int:
    """How many GPUs only sample."""
    if options.servers is not None:
        return int(options.servers)
    return options.gpus // 2 if recipe.sample.is_served else 0


def _assumed(words: Sequence[str]) -> Assumed:
    """The assumptions with those that were named replaced."""
    from dataclasses import fields, replace  # noqa: PLC0415  only here

    from grpo.plan.assumed import Assumed  # noqa: PLC0415  slow to import
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import

    names = [field.name for field in fields(Assumed)]
    values: dict[str, float] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in names:
            raise RecipeError(
                f"plan: --assume names {name}{nearest(name, names)}; the names are {', '.join(names)}"
            )
        values[name] = _positive(name, text)
    return replace(Assumed(), **values)


def _positive(name: str, text: str) -> float:
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import

    try:
        value = float(text)
    except ValueError:
        value = math.nan
    zero_is_fine = name not in ("weights", "keys", "product", "training", "head", "link", "memory")
    zero_is_fine = zero_is_fine and name not in (
        "write",
        "read",
        "read_together",
        "object_rate",
        "cores",
    )
    if not (value > 0 or (value == 0 and zero_is_fine)) or math.isinf(value):
        raise RecipeError(f"plan: --assume {name}={text}: must be a number above 0")
    return value


def _notes(options: argparse.Namespace, recipe: Recipe) -> list[str]:
    """What this plan takes for granted beside the table of assumptions."""
    notes = []
    if options.length is None:
        notes.append("completions are half of sample.max_tokens long; --length names another mean")
    if options.prompt_tokens is None:
        notes.append("prompts are 256 tokens long; --prompt-tokens names another length")
    notes.append("no group is flat: where flat groups are not forwarded, the update takes less")
    if recipe.model.dtype != "bfloat16":
        notes.append(f"weights compute in bfloat16, although model.dtype is {recipe.model.dtype}")
    if recipe.model.lora is not None:
        notes.append("adapters of every linear layer, whatever model.lora.targets names")
    if recipe.model.quantize:
        notes.append("the base in bfloat16, although model.quantize holds it at 4 bits")
    return notes


def _as_json(plan: Estimate) -> dict[str, Any]:
    from dataclasses import asdict  # noqa: PLC0415  only here

    from grpo.plan.scaling import largest_useful, stretches  # noqa: PLC0415  slow to import
    from grpo.plan.step import as_mapping  # noqa: PLC0415  slow to import
    from grpo.plan.words import CAUTION  # noqa: PLC0415  slow to import

    bottlenecks = [asdict(stretch) for stretch in stretches(plan.steps)]
    return {
        "caution": CAUTION,
        "model": _model(plan.shape),
        "work": asdict(plan.step.work),
        "device": asdict(plan.step.site.device),
        "step": as_mapping(plan.step),
        "scaling": list(map(as_mapping, plan.steps)),
        "bottlenecks": bottlenecks,
        "useful_gpus": largest_useful(plan.steps),
        "steps": plan.num_steps,
        "assumed": asdict(plan.assumed),
        "notes": list(plan.notes),
    }


def _model(shape: Shape) -> dict[str, Any]:
    return {
        "name": shape.name,
        "parameters": shape.total,
        "active_parameters": shape.active,
        "key_numbers_a_token": shape.layers * shape.key_numbers,
    }
