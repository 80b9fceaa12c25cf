"""The command ``grpo cost``: what runs have taken, by phase, and at a price, from their folders alone. No torch."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from grpo.commands.exit_codes import EXIT_DONE
from rewards.spelling import many

if TYPE_CHECKING:
    from grpo.cost.book import RunCosts
    from grpo.cost.price import Prices
    from grpo.cost.table import Entry
    from grpo.report.folder import RunFolder

STAGES = "stages"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "A run may be under way, or have been killed. GPU time is that for which a device was held, CPU time that of "
        "all processes. docs/cost.md says what counts as what."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run folder, or one with a folder for each stage"
    )
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="KIND=AMOUNT",
        help="price of an hour: gpu=2.0 for a device that is held, cpu=... for a core that computes, machine=... by "
        "the clock; may be repeated; default: cost.price_per_hour of each run's recipe",
    )
    parser.add_argument("--currency", default="USD", help="what --price is in; default: USD")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object: runs, all, left_out, scale"
    )


def run(options: argparse.Namespace, command: str) -> int:
    from grpo.cost.price import read_prices  # noqa: PLC0415  slow to import
    from grpo.cost.table import tables  # noqa: PLC0415  slow to import
    from grpo.report.folder import RunFolder  # noqa: PLC0415  slow to import

    prices = read_prices(options.price, options.currency)
    entries: list[Entry] = []
    for target in dict.fromkeys(options.runs):
        entries += entries_of(RunFolder.at(target), prices)
    if options.json:
        print(json.dumps(_as_json(entries), indent=1))
    else:
        print("\n".join(tables(entries)))
    return EXIT_DONE


def entries_of(folder: RunFolder, prices: Prices) -> Iterator[Entry]:
    """The run in `folder`, or its stages, and what the folder itself has recorded beside them."""
    from grpo.cost.book import from_metrics, read_costs  # noqa: PLC0415  slow to import
    from grpo.report.folder import RunFolder  # noqa: PLC0415  slow to import

    costs = read_costs(folder.path)
    stages = _stages(folder.path)
    if costs is not None or not stages:
        found = costs or from_metrics(folder.steps(), folder.summary())
        yield _entry(str(folder.path), folder, found, prices)
    for stage in stages:
        yield from (entry for entry in entries_of(RunFolder.at(stage), prices))


def _stages(folder: Path) -> list[Path]:
    """The run folders of a folder's stages, in the order in which they began."""
    recipes = list(folder.glob(f"{STAGES}/*/recipe.yaml"))
    return sorted((file.parent for file in recipes), key=_began)


def _began(folder: Path) -> float:
    """When the first line of a run's costs was written; for one without, when its recipe was."""
    from grpo.cost.meter import FILE  # noqa: PLC0415  slow to import

    try:
        with (folder / FILE).open(encoding="utf-8") as lines:
            return float(json.loads(lines.readline())["at"])
    except (OSError, ValueError, KeyError, TypeError):
        return (folder / "recipe.yaml").stat().st_mtime


def _entry(name: str, folder: RunFolder, costs: RunCosts, prices: Prices) -> Entry:
    from grpo.cost.price import Prices as OwnPrices  # noqa: PLC0415  slow to import
    from grpo.cost.table import Entry  # noqa: PLC0415  slow to import

    recipe = folder.recipe()
    own = prices or OwnPrices.of_recipe(recipe)
    return Entry(name, _state(folder, costs), costs, own)


def _state(folder: RunFolder, costs: RunCosts) -> str:
    """What the run is and how far it has come, in words."""
    state = folder.state()
    steps = folder.steps()
    made = steps[-1]["step"] if steps else folder.summary().get("steps", 0)
    words = [str(folder.recipe().get("stage", "grpo")), f"{many(made, 'step')}, {state.name}"]
    if costs.from_metrics:
        return ", ".join(words)
    if state.name == "running" and costs.at:
        words.append(f"as of {max(0.0, time.time() - costs.at):.0f} s ago")
    devices = many(costs.devices, "GPU") if costs.devices else "no GPU"
    words += [many(costs.attempts, "attempt"), many(costs.processes, "process"), devices]
    return ", ".join(words)


def _as_json(entries: list[Entry]) -> dict[str, object]:
    from dataclasses import asdict  # noqa: PLC0415  for this alone

    from grpo.cost.book import together  # noqa: PLC0415  slow to import
    from grpo.cost.price import Prices  # noqa: PLC0415  slow to import
    from grpo.cost.table import LEFT_OUT, SCALE  # noqa: PLC0415  slow to import

    runs = [
        {"run": entry.name, "state": entry.state, **entry.costs.to_mapping(entry.prices)}
        for entry in entries
    ]
    of_all = {(tuple(entry.prices.per_hour.items()), entry.prices.currency) for entry in entries}
    shared = entries[0].prices if len(of_all) == 1 else Prices({})
    total = together([entry.costs for entry in entries]).to_mapping(shared)
    scale = [asdict(published) for published in SCALE]
    return {"runs": runs, "all": total, "left_out": LEFT_OUT, "scale": scale}
