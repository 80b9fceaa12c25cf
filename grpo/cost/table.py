"""What ``grpo cost`` prints: runs by phase, several side by side with their sum, what is left out, the scale."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Iterator, Mapping, Sequence

from grpo.cost.book import RunCosts, Spent, together
from grpo.cost.price import Prices
from rewards.spelling import many

HOUR = 3600
MANY_SECONDS = 10_000
"""From here on a table counts in hours."""
LEFT_OUT = (
    "the time between attempts and of machines that stand idle; trials that were thrown away, research and "
    "ablations; people; storage and network; the base model's own training; what other machines do for the run, such "
    "as a sandbox server"
)
NOT_RECORDED = (
    "costs were not recorded, this is what metrics.jsonl and summary.json give: wall time of steps and evaluations, "
    "tokens; without loading, saving, processor and GPU time, and without what was lost to kills"
)


@dataclass(frozen=True, slots=True)
class Published:
    """What a training is said to have taken, in hours of H800 GPUs at 2 USD, and where that is said."""

    name: str
    gpu_hours: int
    dollars: str
    source: str


SCALE = (
    Published("DeepSeek-R1 on top of V3", 147_000, "294K", "arXiv:2501.12948v2, table 7"),
    Published("DeepSeek-V3", 2_788_000, "5.576M", "arXiv:2412.19437, table 1"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of a table: its name, its state in words, its costs and prices."""

    name: str
    state: str
    costs: RunCosts
    prices: Prices


def tables(entries: Sequence[Entry]) -> Iterator[str]:
    """Everything that is printed about `entries`, line by line."""
    for entry in entries:
        yield from _run(entry)
        yield ""
    whole = together([entry.costs for entry in entries])
    if len(entries) > 1:
        yield from _side_by_side(entries, whole)
        yield ""
    if not any(entry.prices for entry in entries):
        yield "no price is named, so these are hours alone: --price gpu=2.0, or cost.price_per_hour in the recipe"
    yield f"left out: {LEFT_OUT}"
    yield from scale(whole)


def scale(whole: RunCosts) -> Iterator[str]:
    """What published trainings took, by their own account, and how much of it this is."""
    hours = whole.total.gpu / HOUR
    for published in SCALE:
        share = f"; this is {hours / published.gpu_hours:.1g} of its hours" if hours else ""
        yield (
            f"scale: {published.name} took {published.gpu_hours:,} H800 hours, ${published.dollars} at $2 "
            f"({published.source}){share}"
        )


# ---- one run ------------------------------------------------------------------------------------------------------


def _run(entry: Entry) -> Iterator[str]:
    costs = entry.costs
    yield f"{entry.name}: {entry.state}"
    if costs.from_metrics:
        yield f"  {NOT_RECORDED}"
    columns = _columns(entry)
    heads = ["phase", *columns]
    rows = [[name, *_cells(spent, entry, columns)] for name, spent in costs.phases.items()]
    rows.append(["total", *_cells(costs.total, entry, columns)])
    yield from (f"  {line}" for line in aligned([heads, *rows]))
    yield from (f"  {line}" for line in _facts(entry))


def _columns(entry: Entry) -> list[str]:
    """The heads of the columns that have something to show."""
    costs = entry.costs
    unit = _unit(costs.total)
    columns = [f"wall {unit}"]
    if not costs.from_metrics:
        columns.append(f"CPU {unit}")
    if costs.total.gpu:
        columns.append(f"GPU {unit}")
        if "busy" in costs.tells:
            columns.append(f"busy {unit}")
    if entry.prices:
        columns.append(entry.prices.currency)
    return columns


def _unit(total: Spent) -> str:
    return "h" if max(total.wall, total.cpu, total.gpu) >= MANY_SECONDS else "s"


def _cells(spent: Spent, entry: Entry, columns: Sequence[str]) -> list[str]:
    values = {"wall": spent.wall, "CPU": spent.cpu, "GPU": spent.gpu, "busy": spent.busy}
    cells = []
    for column in columns:
        name, _, unit = column.partition(" ")
        if name in values:
            cells.append(_amount(values[name], unit))
        else:
            cells.append(_money([entry.costs.money(spent, entry.prices)]))
    return cells


def _amount(seconds: float, unit: str) -> str:
    return f"{seconds / HOUR:,.2f}" if unit == "h" else f"{seconds:,.1f}"


def _facts(entry: Entry) -> Iterator[str]:
    costs = entry.costs
    tokens = [f"{number:,} {kind}" for kind, number in costs.tokens.items() if number]
    yield f"tokens: {', '.join(tokens) or 'none'}"
    if costs.from_metrics:
        return
    yield from _repeated(costs)
    yield f"energy: {energy(costs)}"
    if costs.cut_off:
        yield (
            f"{many(costs.cut_off, 'attempt')} without last words (killed, or under way): up to 20 s of each may be "
            "missing, and what was loaded before its folder was opened"
        )
    if costs.missing:
        yield (
            f"the files of {many(costs.missing, 'process')} are not here, so their processor and GPU time is missing: "
            "they lie where those processes ran"
        )
    if entry.prices:
        yield f"prices: {entry.prices.describe()}"


def _repeated(costs: RunCosts) -> Iterator[str]:
    spent = costs.repeated.spent
    if spent.wall > 0:
        unit = _unit(costs.total)
        yield (
            f"of this, repeated after a kill or a fault: {many(costs.repeated.steps, 'whole step')}, wall "
            f"{_amount(spent.wall, unit)} {unit}, CPU {_amount(spent.cpu, unit)} {unit}, GPU "
            f"{_amount(spent.gpu, unit)} {unit}"
        )


def energy(costs: RunCosts) -> str:
    """What is known of the energy, in words."""
    kilowatt_hour = 3.6e6
    parts = []
    if costs.total.gpu:
        told = "joules" in costs.tells
        shown = f"{costs.total.joules / kilowatt_hour:.4g} kWh by NVML" if told else "unknown"
        parts.append(f"GPU {shown}")
    if costs.socket_joules is None:
        parts.append("processors unknown, since the system has no counter that can be read")
    else:
        parts.append(f"processor sockets {costs.socket_joules / kilowatt_hour:.4g} kWh by RAPL")
    return "; ".join(parts)


# ---- several ------------------------------------------------------------------------------------------------------


def _side_by_side(entries: Sequence[Entry], whole: RunCosts) -> Iterator[str]:
    """A table of wall time by run and phase, with sums of processor time, GPU time and money."""
    phases = list(whole.phases)
    unit = _unit(whole.total)
    prices = {entry.prices.currency for entry in entries if entry.prices}
    heads = ["run", *phases, f"wall {unit}", f"CPU {unit}", f"GPU {unit}", *sorted(prices)]
    rows = [
        [entry.name, *_of_phases(entry.costs.phases, phases, unit), *_sums(entry.costs, unit)]
        for entry in entries
    ]
    total = ["all", *_of_phases(whole.phases, phases, unit), *_sums(whole, unit)]
    for row, entry in zip(rows, entries):
        row += _moneys([entry], sorted(prices))
    yield from aligned([heads, *rows, [*total, *_moneys(entries, sorted(prices))]])


def _of_phases(phases: Mapping[str, Spent], names: Sequence[str], unit: str) -> list[str]:
    return [_amount(phases.get(name, Spent()).wall, unit) for name in names]


def _sums(costs: RunCosts, unit: str) -> list[str]:
    total = costs.total
    sums = [_amount(seconds, unit) for seconds in (total.wall, total.cpu, total.gpu)]
    return [sums[0], "-", "-"] if costs.from_metrics else sums


def _moneys(entries: Sequence[Entry], currencies: Sequence[str]) -> list[str]:
    """By currency what `entries` cost together; a dash where that is not known of all."""
    cells = []
    for currency in currencies:
        priced = [of for of in entries if of.prices and of.prices.currency == currency]
        moneys = [of.costs.money(of.costs.total, of.prices) for of in priced]
        cells.append(_money(moneys) if len(priced) == len(entries) else "-")
    return cells


def _money(moneys: Sequence[Fraction | None]) -> str:
    """A sum without its currency; a dash if a part is unknown."""
    known = [money for money in moneys if money is not None]
    if len(known) < len(moneys):
        return "-"
    return Prices({}).shown(sum(known, Fraction(0))).partition(" ")[0]


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    columns = list(zip(*rows))
    widths = [max(map(len, column)) for column in columns]
    for row in rows:
        first = row[0].ljust(widths[0])
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        yield "  ".join([first, *others])
