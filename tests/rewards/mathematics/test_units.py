"""Units of measurement: every spelling is read, what converts is equal, and what does not is not."""

import random
from fractions import Fraction

import pytest
from unequal_pairs import all_spellings, unequal_pairs
from unit_spellings import COMPOSED, SIMPLE, number, spellings

from rewards.math_answer import math_answer, pairs
from rewards.mathematics.bare_values import bare_value
from rewards.mathematics.extraction import extract
from rewards.mathematics.measures import measure_of, names
from rewards.mathematics.siunitx import without_siunitx
from rewards.mathematics.units import unit_of

MODES = (False, True)


def verdicts(gold: str, pred: str) -> set[float | None]:
    """The values in both modes and both ways round."""
    return {
        pairs(*pair, lenient=lenient).value
        for pair in ((gold, pred), (pred, gold))
        for lenient in MODES
    }


SAME = [
    # as data sets and models write them
    (r"12 \mathrm{~cm}^{2}", "12"), (r"12 \mathrm{~cm}^{2}", "12 cm^2"), (r"12 \mathrm{~cm}^{2}", "12 cm²"),
    (r"20 \mathrm{~m} / \mathrm{s}", "72 km/h"), (r"9.8 \mathrm{~m} / \mathrm{s}^{2}", "9.8 meters per second squared"),
    (r"25{ }^{\circ} \mathrm{C}", r"25^\circ C"), (r"25^{\circ} \mathrm{C}", "25 degrees Celsius"),
    (r"4.2 \mathrm{~J} /(\mathrm{g} \cdot{ }^{\circ} \mathrm{C})", r"4200 \text{ J kg}^{-1}\text{ K}^{-1}"),
    (r"8.3 \mathrm{~J} \mathrm{~mol}^{-1} \mathrm{~K}^{-1}", r"8.3 \text{ J/(mol K)}"),
    (r"4.7 \mathrm{~k} \Omega", r"4700\,\Omega"), ("5 Ω", "5 ohms"), (r"5 \mu \mathrm{m}", "5 µm"),
    ("5 µm", r"5 \times 10^{-6} \mathrm{~m}"), (r"12\text{ cm$^2$}", "12 sq. cm"), (r"\text{5 cm}^2", "5 cm^2"),
    (r"$12$ $\mathrm{cm}^2$", "12"), (r"V=12 \mathrm{~cm}^{3}", "12 mL"), (r"\approx 5 \mathrm{~cm}", "5"),
    (r"2+\sqrt{3} \mathrm{~cm}", r"2+\sqrt3"), (r"16 \pi \mathrm{~cm}^{2}", r"16\pi"), ("1,200 km", "1200"),
    (r"2\frac{1}{2} \mathrm{~h}", "150 min"), ("2 1/2 hours", "150 minutes"), (r"10 \text{ m} / 2 \text{ s}", "5 m/s"),
    (r"5 \mathrm{~cm} \text{ and } 6 \mathrm{~cm}", "6, 5"), (r"(3,4) \text{ cm}", "(3,4)"),
    (r"\{3,4\} \mathrm{~m}", r"\{400 \text{ cm}, 300 \text{ cm}\}"), ("3 cm : 5 cm", "3:5"),
    (r"3 \mathrm{~cm}<x<5 \mathrm{~cm}", "3<x<5"), (r"x \geq 3 \text{ km}", r"[3000 \text{ m}, \infty)"),
    # siunitx
    (r"\SI{5}{\kilo\metre}", "5000 m"), (r"\qty{5}{km/h}", "5"), (r"\SI[per-mode=symbol]{9.8}{\metre\per\second\squared}",
    r"9.8 \text{ m/s}^2"), (r"5\,\si{\square\metre}", "5 m^2"), (r"\SI{25}{\degreeCelsius}", "77 °F"),
    (r"\unit[5]{km}", "5 km"), (r"\ang{60;30;}", "60.5°"), (r"\qty{4}{\micro\ohm}", r"4 \mu\Omega"), (r"\num{1.5e3}", "1500"),
    # kinds of things
    ("1 atm", "760 mmHg"), ("1 cal", "4.184 J"), ("1 kWh", "3.6 MJ"), ("1 hectare", "10000 m^2"), ("1 mile", "5280 feet"),
    ("1 acre", "4840 square yards"), ("1 gallon", "231 cubic inches"), ("1 lb", "16 oz"), ("1 m^3", "1000 L"),
    ("1 J", "1 N·m"), ("1 V", "1 J/C"), ("1 T", "1 Wb/m^2"), ("1 Hz", "1 s^{-1}"), (r"1 \AA", "0.1 nm"),
    ("1 eV", r"1.602176634 \times 10^{-19} J"), ("1 year", "12 months"), ("2 weeks", "14 days"), ("60 mph", "88 ft/s"),
    ("72 km/hr", "20 m/s"), ("5 GB", "5000 MB"), ("0.5 M", r"0.5 \text{ mol/L}"), ("30 mpg", "30 miles per gallon"),
    ("5 newton-meters", "5 N m"), (r"9.8 \mathrm{~ms}^{-2}", "9.8 m/s^2"), ("0 °C", "32 °F"), ("100 °C", "373.15 K"),
    (r"180^\circ", r"\pi \text{ rad}"), ("50 cents", r"\$0.50"), ("£5", "5 pounds"), ("5 lb", "5 pounds"),
    (r"\$5/\text{kg}", "5 dollars per kg"), (r"\$5 per hour", "5"), ("12 in.", "1 ft."), ("5 ft 3 in", "63 inches"),
    ("1 hour and 30 minutes", "90 minutes"), ("2 hours, 30 minutes and 5 seconds", "9005 s"),
    # words around units, and counted things
    ("5 liters of water", "5 L"), ("5 meters long", "500 cm"), ("5 persons", "5 people"), ("5 boxes", "5 box"),
    ("5 apples per hour", "5"), ("5 apples/hour", "5 apples per hour"), ("5 meters/box", "5"), ("5 apples/min", "5 apples per minute"), ("5 in per min", "5"),
    ("5 km for each box", "5 km per box"), ("5 dollars a square meter", "5 dollars per square meter"),
    (r"5 \text{ people/km}^2", "5"), ("12 square units", "12"), ("12 units^2", "12"),
    ("12 apples", "12 apple"), ("12 apples", "12"), ("5 gronks", "5 gronk"), ("5 gronks", "5"), ("7 st", "98 lb"),
    ("21st", "21"),
    # a single letter behind a space
    *((f"5 {letter}", "5") for letter in "m g s h d L l N J W V A C F H T K S".split()),
    # plain letters may be symbols and still meet a unit
    ("5m", r"5 \mathrm{~m}"), ("5g", "5 grams"), ("2nm", "2mn"), ("5cm", "5"), ("2mg", r"2 \text{ mg}"), ("5t", "5 t"),
]  # fmt: skip

DIFFERENT = [
    ("5 kN", "5 N"), (r"2 \mathrm{~km}", r"2 \mathrm{~m}"), (r"2 \mathrm{~cm}^{2}", r"2 \mathrm{~cm}^{3}"),
    (r"2 \mathrm{~mA}", r"2 \mathrm{~A}"), ("5 mph", "5 kph"), ("5 Mg", "5 mg"), ("5 MHz", "5 mHz"), ("5 Pa", "5 pA"),
    ("5 kWh", "5 kW/h"), ("5 N/m", "5 N m"), ("5 s^{-1}", "5 s"), ("5 in", "5 cm"), (r"5 \text{ in}", r"5 \text{ ft}"),
    (r"30^\circ C", r"30^\circ F"), (r"30^\circ C", "30 K"), (r"30^\circ", r"30^\circ C"), ("5 degrees", "5 radians"),
    (r"5\%", "5 m"), (r"5\%", r"5 \text{ cm}"), ("$5", "5 cents"), ("$5", "5 euros"), ("5 pounds", "$5"),
    ("-5 miles per hour", "5 miles per hour"), ("1.5 miles per hour", "15 miles per hour"), ("5 cm", "5 apples"),
    ("5 meters per second squared", "5 meters per second"), ("5 meters long", "5 kilometers long"),
    ("5 kg of apples", "5 g of apples"), ("5 apples per hour", "5 apples per day"), ("5 km away", "5 miles away"),
    (r"5 \mathrm{~XY}", r"5 \mathrm{~cm}"), ("3 cm, 4 cm", "3 cm, 4 m"), (r"(3,4) \text{ cm}", r"(3,4) \text{ m}"),
    (r"x>3 \mathrm{~m}", r"x>3 \mathrm{~km}"), ("3 cm or 5 mm", "3.5 cm"), ("x = 5 cm", "x = 5 m"), ("5 pm", "5 am"),
    (r"\SI{5}{km}", r"\SI{5}{m}"), ("2 years", "2 months"),
    ("7 marbles", "7 meters"), ("7 decimeters", "7 deciliters"), ("5 thirds", "5"), ("5 tens", "5"), ("1.5 L", "1.5 mL"),
    ("5 km", "5 km per hour"), ("5 km", "5 km an hour"), ("3 hours", "3 hours a week"), (r"7 \textrm{J}", "7 st"),
    # counted things
    ("12 apples", "12 oranges"), ("40 red balls", "40 scarlet balls"), ("3 boys", "3 girls"), ("5 dogs", "5 cats"),
    ("12 boxes of apples", "12 boxes of oranges"), ("5 liters of water", "5 liters of milk"), ("5 gronks", "5 zorbs"),
    (r"12\text{ apples}", r"12\text{ pears}"), ("5 apples per box", "5 apples"), ("12 days", "12 nights"),
    ("3 red balls, 4 blue balls", "3 blue balls, 4 red balls"), ("3 apples, 4 pears", "3 apples, 4 plums"),
    # rates
    *((f"5 {above}", f"5 {above}{rate}") for above in ("km", "meters", "apples", "dollars", "in") for rate in (
        "/person", " per person", " per min", " per square meter", " a square meter", " for each box", " each hour")),
    # products of symbols are no units
    ("2nm", "2"), ("2mg", "2"), ("5m", "5"), ("2abc", "2"), ("3 b", "3"), (r"3\mathrm{PA}", "3"), ("2kT", "2"),
    (r"x \mathrm{d} x", "x"), ("2 mg h", "2"), ("2x", "2"), ("5i", "5"), (r"5\mu", "5"), ("3mn", "3"),
]  # fmt: skip


@pytest.mark.parametrize("gold, pred", SAME)
def test_the_same_quantity_in_another_spelling_or_unit_is_equal(gold, pred):
    assert verdicts(gold, pred) == {1.0}


@pytest.mark.parametrize("gold, pred", DIFFERENT)
def test_another_quantity_is_equal_in_no_mode(gold, pred):
    assert verdicts(gold, pred) == {0.0}


PREFIXES = dict(
    Q=30, R=27, Y=24, Z=21, E=18, P=15, T=12, G=9, M=6, k=3, h=2, da=1, d=-1, c=-2, m=-3, u=-6, n=-9, p=-12, f=-15,
    a=-18, z=-21, y=-24, r=-27, q=-30,
)  # fmt: skip
WITH_PREFIXES = "m g s A K mol cd rad Hz N Pa J W C V F S Wb T H lm lx Bq Gy Sv kat L eV Wh".split()
RUPEES = {"Rs", "rs"}


def test_every_prefix_of_every_unit_is_an_exact_power_of_ten(seed):
    cases = [
        (prefix, unit)
        for prefix in PREFIXES
        for unit in WITH_PREFIXES
        if prefix + unit not in RUPEES
    ]
    for prefix, unit in cases:
        assert (
            measure_of(prefix + unit).factor
            == measure_of(unit).factor * Fraction(10) ** PREFIXES[prefix]
        )
    for prefix, unit in random.Random(seed).sample(cases, 60):
        power = PREFIXES[prefix]
        prefixed = rf"5 \mathrm{{~{prefix}{unit}}}"
        assert verdicts(prefixed, rf"5 \mathrm{{~{unit}}}") == {0.0}, prefixed
        assert verdicts(prefixed, rf"5 \times 10^{{{power}}} \mathrm{{~{unit}}}") == {1.0}, prefixed


def test_units_of_one_kind_fit_together_exactly():
    def factor(name):
        return measure_of(name).factor

    inch, foot, pound, gallon = map(factor, ("in", "ft", "lb", "gal"))
    assert foot == 12 * inch and factor("yd") == 3 * foot and factor("mi") == 5280 * foot
    assert gallon == 231 * inch**3 == 4 * factor("qt") == 8 * factor("pt") == 16 * factor("cup")
    assert factor("cup") == 8 * factor("floz") == 16 * factor("tbsp") == 48 * factor("tsp")
    assert pound == 16 * factor("oz") == factor("st") / 14 == factor("shorttons") / 2000
    assert factor("acre") == 4840 * factor("yd") ** 2 and factor("mph") == factor("mi") / 3600
    assert factor("lbf") == pound * Fraction("9.80665") and factor("psi") == factor("lbf") / inch**2
    assert factor("hp") == 550 * foot * factor("lbf") and factor("mpg") == factor("mi") / gallon
    assert factor("gpm") == gallon / 60 and factor("cfm") == foot**3 / 60
    assert factor("ly") == 299792458 * 86400 * Fraction("365.25") and factor("atm") == 760 * factor(
        "mmHg"
    )


@pytest.mark.parametrize(
    "name, same",
    [
        ("cm^2", "square centimeters"),
        ("km/h", "kilometres per hour"),
        ("kg m^2 s^-2", "joules"),
        ("people", "person"),
        ("knives", "knife"),
        ("cubic feet per minute", "ft^3/min"),
        ("newton-meter", "N*m"),
    ],
)
def test_two_names_of_one_unit_are_one(name, same):
    assert unit_of(name) == unit_of(same) is not None


@pytest.mark.parametrize(
    "name", ["", "x^2", "more than", "not red", "ab", "cm +", "hundred", "a" * 200]
)
def test_what_is_no_unit_has_none(name):
    assert unit_of(name) is None


def test_an_unfinished_command_of_siunitx_stays_as_it_is():
    for text in (r"\SI{5", r"\SI", r"\qty{5}", r"\unit", r"\num{", r"\ang{1;2;3;4"):
        assert without_siunitx(text).strip().startswith(("\\", "5", "\\mathrm")), text


# every spelling


def check_spelling(unit: str, written: str, rng: random.Random) -> None:
    """A spelling equals the bare number, its own unit and one that it converts into, and no other unit."""
    gold = "5" + written
    if unit in SIMPLE:
        name, target, ratio, other = SIMPLE[unit]
        assert verdicts(gold, f"5 {name}") == {1.0}, gold
        same = rng.choice(list(spellings(unit)))
    else:
        target, ratio, other = next(row[1:] for row in COMPOSED if row[0] == unit)
        same = rng.choice([text for name, text in all_composed() if name == unit])
    assert verdicts(gold, "5") == {1.0}, gold
    assert verdicts(gold, "6") == {0.0}, gold
    assert verdicts(gold, "5" + same) == {1.0}, (gold, same)
    converted = number(5 * Fraction(ratio))
    assert verdicts(gold, rf"{converted} \mathrm{{~{target}}}") == {1.0}, (gold, converted, target)
    assert verdicts(gold, rf"5 \mathrm{{~{other}}}") == {0.0}, (gold, other)
    assert math_answer(rf"so \boxed{{{gold}}}", "5").value == 1.0


def all_composed() -> list[tuple[str, str]]:
    return [pair for pair in SPELLINGS if pair[0] not in SIMPLE]


SPELLINGS = list(all_spellings())


def test_a_unit_is_read_in_any_spelling(seed):
    rng = random.Random(seed)
    for unit, written in rng.sample(SPELLINGS, 80):
        check_spelling(unit, written, rng)


@pytest.mark.slow
def test_a_unit_is_read_in_hundreds_of_spellings(seed):
    rng = random.Random(seed)
    for unit, written in rng.sample(SPELLINGS, 1500):
        check_spelling(unit, written, rng)


# random pairs that differ


def accepted(seed: int, count: int) -> list[tuple[str, str, bool]]:
    """The pairs that differ and are not told apart, with the mode."""
    return [
        (gold, pred, lenient)
        for gold, pred in unequal_pairs(random.Random(seed), count)
        for lenient in MODES
        if pairs(gold, pred, lenient=lenient).value != 0.0
    ]


def test_no_random_pair_that_differs_is_accepted(seed):
    assert accepted(seed, 500) == []


@pytest.mark.slow
def test_no_pair_of_ten_thousand_that_differ_is_accepted(seed):
    assert accepted(seed, 10_000) == []


STYLES = (r"\mathrm{~%s}", r"\text{ %s}", r"{\rm\ %s}", r"\,\mathrm{%s}", " %s", r"\ \textrm{%s}")


def disagreements(seed: int, count: int) -> list[tuple[str, str]]:
    """Random pairs of the table's names, set in any style, that are equal though they measure other things."""
    rng = random.Random(seed)
    table = sorted(set(names()) - {"unit", "units"})
    found = []
    for _ in range(count):
        first, other = rng.choice(table), rng.choice(table)
        if rng.random() < 0.3:
            other = rng.choice(
                [
                    name
                    for name in (first[1:], "k" + first, "m" + first[1:], first)
                    if measure_of(name)
                ]
            )
        gold, pred = ("7" + rng.choice(STYLES) % name for name in (first, other))
        if measure_of(first) != measure_of(other) and verdicts(gold, pred) != {0.0}:
            found.append((gold, pred))
    return found


def test_no_two_names_of_the_table_are_confused(seed):
    assert disagreements(seed, 300) == []


@pytest.mark.slow
def test_no_two_names_of_the_table_are_confused_in_thousands_of_pairs(seed):
    assert disagreements(seed, 4000) == []


# in sentences


@pytest.mark.parametrize(
    "text, answer",
    [
        ("The distance is 5 km.", "5 km"),
        ("So the length is $5$ cm.", "5 cm"),
        ("The area is 12 cm\u00b2.", "12 cm^{2}"),
        ("It costs $30 per hour.", "$30 per hour"),
        ("<answer>She walked 5 km in total today.</answer>", "5 km"),
        ("It takes 3 hours in the end after all of that.", "3 hours"),
        ("So there are 12 in each box", "12"),
        ("It starts at 5 pm", "5 pm"),
        ("He has 7 apples", "7 apples"),
        ("so it is 3 m", "3 m"),
        ("so it is 3m", "3m"),
        ("so it is 12.5m", "12.5 m"),
        ("It takes 3 h and 20 min.", "3 h and 20 min"),
        ("It takes $1$ hour, $2$ minutes and $3$ seconds.", "1 hour, 2 minutes and 3 seconds"),
        ("He is 5 feet 3 inches tall.", "5 feet 3 inches"),
        ("It costs $5 and 50 cents.", "$5, 50 cents"),
        ("She has 12 apples and 5 pears.", "12 apples and 5 pears"),
        ("so 12 divides", "12"),
        ("The distance is 5km", "5 km"),
        ("The area is 1,000.99m\u00b2.", "1,000.99 m\u00b2"),
        ("so we get x = 5m", "5m"),
    ],
)
def test_the_unit_behind_a_number_in_a_sentence_belongs_to_it(text, answer):
    assert extract(text).text == answer


def test_a_sentence_with_another_unit_is_no_answer():
    for lenient in MODES:
        assert math_answer("The distance is 5 km.", r"5 \mathrm{~m}", lenient=lenient).value == 0.0
        assert (
            math_answer("The distance is 5 km.", r"5000 \mathrm{~m}", lenient=lenient).value == 1.0
        )
        assert math_answer("The distance is 5 km.", "5", lenient=lenient).value == 1.0


# the number in front of a unit


@pytest.mark.parametrize(
    "gold, value",
    [
        (r"12 \mathrm{~cm}^{2}", "12"),
        (r"$\frac{3}{4} \mathrm{~m}$", r"\frac{3}{4}"),
        (r"1.5 \times 10^{3} \mathrm{~m} / \mathrm{s}", r"1.5 \times 10^{3}"),
        (r"3 \mathrm{~Xyzq}", "3"),
        (r"25^{\circ} \mathrm{C}", "25"),
        ("1,200 dollars", "1,200"),
        ("5 apples", "5"),
        *(
            (text, None)
            for text in ("12", "2x", "5m", "3!", "x = 5 cm", r"5\%", "half", r"30^\circ", "")
        ),
        *(
            (text, None)
            for text in (r"3 \text{ or } 4", r"3 \text{ million}", r"3 \text{ if } x>0")
        ),
    ],
)
def test_the_number_in_front_of_a_unit(gold, value):
    assert bare_value(gold) == value


# brackets, roots, empty groups


@pytest.mark.parametrize(
    "gold, same, other",
    [
        (r"12\left(\mathrm{~cm}^{2}\right)", ("12", "12 cm^2"), "12 cm"),
        (r"60(\mathrm{~km} / \mathrm{h})", ("60", "60 km/h"), "60 m/s"),
        (r"15\text{ (cm)}", ("15", "0.15 m"), "15 m"),
        (r"60(\text{people})", ("60", "60 people"), r"60 \text{ trees}"),
        ("12(km)", ("12", "12000 m"), "12 m"),
        (r"16\pi \mathrm{~cm}^{2}", (r"16\pi", r"0.0016\pi m^2"), r"16\pi m^2"),
        (r"2\sqrt{3} \text{ seconds}", (r"2\sqrt{3} s",), r"2\sqrt{3} h"),
        (r"25{ }^{\circ}", ("25", r"25^\circ"), r"\frac{25}{180}"),
        (
            r"4 \mathrm{~J} /\left(\mathrm{g} \cdot{ }^{\circ} \mathrm{C}\right)",
            ("4 J/(g K)",),
            "4 J/g",
        ),
        (r"\text{Rs. }250", ("250", "250 rupees"), r"\$250"),
        ("\u00a5500", ("500", "500 yen"), r"\$500"),
        (r"5 \text{ percentage points}", ("5", r"5\%"), "50"),
    ],
)
def test_a_unit_in_brackets_or_behind_a_root_is_one(gold, same, other):
    for lenient in MODES:
        assert [pairs(gold, pred, lenient=lenient).value for pred in same] == [1.0] * len(same)
        assert pairs(gold, other, lenient=lenient).value == 0.0


@pytest.mark.parametrize(
    "gold, pred",
    [(r"16\pi m", r"16\pi"), ("2h", "7200s"), (r"2\pi h", r"7200\pi s"), ("12(m)", "12")],
)
def test_letters_that_may_be_symbols_are_a_unit_only_against_one_that_is_sure(gold, pred):
    for lenient in MODES:
        assert pairs(gold, pred, lenient=lenient).value == 0.0
        assert pairs(pred, gold, lenient=lenient).value == 0.0
