"""Money of hours: exact products, rounded only where they are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Mapping, Sequence

from grpo.recipe.sections import PRICED
from grpo.recipe.values import RecipeError, is_price

HOUR = 3600
DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices for an hour: of a ``gpu`` that is held, a ``cpu`` core that computes, a ``machine`` by the clock."""

    per_hour: Mapping[str, float]
    currency: str = "USD"

    def __bool__(self) -> bool:
        return bool(self.per_hour)

    def money(self, *, wall: float, cpu: float, gpu: float) -> Fraction:
        """What so many seconds cost."""
        seconds = {"machine": wall, "cpu": cpu, "gpu": gpu}
        return sum(
            (exact(price) * exact(seconds[kind]) / HOUR for kind, price in self.per_hour.items()),
            Fraction(0),
        )

    def shown(self, money: Fraction) -> str:
        """``12.30 USD``; of less than a hundredth, two figures."""
        if money and abs(money) < Fraction(1, 100):
            return f"{float(money):.2g} {self.currency}"
        return f"{float(money):,.2f} {self.currency}"

    def describe(self) -> str:
        """The prices in words."""
        units = {"gpu": "GPU hour", "cpu": "CPU hour", "machine": "machine hour"}
        prices = [f"{price:g} a {units[kind]}" for kind, price in self.per_hour.items()]
        return f"{', '.join(prices)} ({self.currency})"

    @staticmethod
    def of_recipe(recipe: Mapping[str, Any]) -> Prices:
        """Those of a recipe as plain values; none where it has none."""
        section = recipe.get("cost") or {}
        return Prices(section.get("price_per_hour") or {}, section.get("currency", "USD"))


def exact(value: float) -> Fraction:
    """The decimal number that `value` is written as."""
    return Fraction(repr(value))


def rounded(money: Fraction) -> float:
    """For a file."""
    return float(round(money, DECIMALS))


def read_prices(words: Sequence[str], currency: str) -> Prices:
    """Prices from ``gpu=2.0``, or a bare ``2.0`` for the GPU's; `RecipeError` for anything else."""
    prices: dict[str, float] = {}
    for word in words:
        kind, _, amount = word.rpartition("=")
        kind = kind or "gpu"
        if kind not in PRICED or not is_price(_number(amount)):
            raise RecipeError(
                f"cost: --price is {word!r}; write KIND=AMOUNT for an hour, e.g. gpu=2.0, with one of "
                f"{', '.join(PRICED)}"
            )
        prices[kind] = _number(amount)
    return Prices(prices, currency)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
