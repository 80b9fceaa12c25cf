from __future__ import annotations

from fractions import Fraction

import pytest

from grpo import Recipe, RecipeError
from grpo.cost.price import Prices, read_prices


def test_money_is_exact_in_the_decimals_that_are_written() -> None:
    prices = Prices({"gpu": 0.1, "cpu": 0.7, "machine": 3})
    money = prices.money(wall=0.3, cpu=1.1, gpu=3600.0)
    assert money == Fraction(1, 10) + (Fraction(77, 100) + Fraction(9, 10)) / 3600
    assert Prices({"gpu": 2.0}).money(wall=9.0, cpu=9.0, gpu=147_000 * 3600.0) == 294_000
    assert Prices({"gpu": 2.0}).money(wall=9.0, cpu=9.0, gpu=2_788_000 * 3600.0) == 5_576_000


def test_money_is_shown_with_two_decimals_and_what_is_less_with_two_figures() -> None:
    prices = Prices({"gpu": 1.0}, "EUR")
    shown = [prices.shown(Fraction(part)) for part in ("0", "1234.5", "0.00123")]
    assert shown == ["0.00 EUR", "1,234.50 EUR", "0.0012 EUR"]


def test_prices_are_read_by_kind_and_a_bare_number_is_the_gpus() -> None:
    assert read_prices(["2.5", "cpu=0.04"], "EUR") == Prices({"gpu": 2.5, "cpu": 0.04}, "EUR")
    for word in ("gpu=", "tpu=2", "gpu=-1", "gpu=nan", "much"):
        with pytest.raises(RecipeError, match="KIND=AMOUNT"):
            read_prices([word], "USD")


def test_a_recipe_names_prices_for_what_there_is() -> None:
    recipe = Recipe.load("quickstart", "cost.price_per_hour.gpu=2.0", "cost.currency=EUR")
    assert Prices.of_recipe(recipe.to_mapping()) == Prices({"gpu": 2.0}, "EUR")
    for wrong in ("{tpu: 2}", "{gpu: free}", "{gpu: -1}"):
        with pytest.raises(RecipeError, match=r"cost\.price_per_hour.*gpu, cpu, machine"):
            Recipe.load("quickstart", f"cost.price_per_hour={wrong}")
