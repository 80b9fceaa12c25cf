"""The table of units: what every single name measures, exactly.

A measure is a factor to the SI's base units and sorted (dimension, power) pairs. Symbols are told apart by case ("mm",
"Mm"), words are not. What does not convert by an exact rational, or measures another kind of thing in the same base
units (becquerel and hertz), has a dimension of its own.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Iterator, NamedTuple

__all__ = ["Dimensions", "Measure", "is_word", "measure_of", "names"]

Dimensions = tuple[tuple[str, int], ...]


class Measure(NamedTuple):
    """An exact factor to the base units, the sorted (dimension, power) pairs, and the base value of zero."""

    factor: Fraction
    dimensions: Dimensions
    offset: Fraction = Fraction(0)


_PREFIXES = {
    "Q quetta": 30, "R ronna": 27, "Y yotta": 24, "Z zetta": 21, "E exa": 18, "P peta": 15, "T tera": 12, "G giga": 9,
    "M mega": 6, "k kilo": 3, "h hecto": 2, "da deca deka": 1, "d deci": -1, "c centi": -2, "m milli": -3,
    "\u03bc u micro": -6, "n nano": -9, "p pico": -12, "f femto": -15, "a atto": -18, "z zepto": -21, "y yocto": -24,
    "r ronto": -27, "q quecto": -30,
}  # fmt: skip

# symbols; words; factor; dimensions; the prefixes in use, if not all
_WITH_PREFIXES = """
m;metre meter;1;m
g;gram gramme;1/1000;kg
s;second;1;s
A;ampere amp;1;A
K;kelvin;1;K
mol;mole;1;mol
cd;candela;1;cd
rad;radian;1;radian
sr;steradian;1;steradian
Hz;hertz;1;s-1
N;newton;1;kg m s-2
Pa;pascal;1;kg m-1 s-2
J;joule;1;kg m2 s-2
W;watt;1;kg m2 s-3
C;coulomb;1;A s
V;volt;1;kg m2 s-3 A-1
F;farad;1;kg-1 m-2 s4 A2
\u03a9;ohm;1;kg m2 s-3 A-2
S;siemens;1;kg-1 m-2 s3 A2
Wb;weber;1;kg m2 s-2 A-1
T;tesla;1;kg s-2 A-1
G;gauss;1/10000;kg s-2 A-1;kmμu
H;henry henries;1;kg m2 s-2 A-2
lm;lumen;1;lumen
lx;lux;1;lumen m-2
Bq;becquerel;1;becquerel
Gy;;1;gray
Sv;sievert;1;sievert
kat;katal;1;mol s-1
L l \u2113;litre liter;1/1000;m3
eV;electronvolt;1.602176634e-19;kg m2 s-2
cal;calorie;4.184;kg m2 s-2;mkMG
bar;bar;100000;kg m-1 s-2;μumdkM
Wh;watthour;3600;kg m2 s-2
Ah;amperehour amphour;3600;A s
VA;voltampere;1;kg m2 s-3
t;tonne;1000;kg;kMG
Da;dalton;1.66053906660e-27;kg;kM
pc;parsec;1;parsec;kMG
bit;bit;1;bit;kMGT
b;;1;bit;kMGT
B;byte;8;bit;kMGTPE
bps;;1;bit s-1;kMGT
M;molar;1000;mol m-3;mμunp
dyn;dyne;1e-5;kg m s-2;kM
erg;erg;1e-7;kg m2 s-2;kM
P;poise;1/10;kg m-1 s-1;c
Ci;curie;3.7e10;becquerel
"""

_WITHOUT_PREFIXES = """
sec secs;;1;s
min mins;minute;60;s
h hr hrs;hour;3600;s
d;day;86400;s
wk wks;week;604800;s
;fortnight;1209600;s
mo mos;month;1;month
yr yrs;year;12;month
;decade;120;month
;century centuries;1200;month
;millennium millennia;12000;month
in;inch inches;0.0254;m
ft;foot feet;0.3048;m
yd yds;yard;0.9144;m
mi;mile;1609.344;m
nmi;nauticalmile;1852;m
;furlong;201.168;m
;fathom;1.8288;m
ly;lightyear;9460730472580800;m
au AU;astronomicalunit;149597870700;m
\u00c5;angstrom \u00e5ngstr\u00f6m;1e-10;m
;micron;1e-6;m
lb lbs lbm;;0.45359237;kg
;pound;0.45359237;kg
oz ozs;ounce;0.028349523125;kg
u amu;;1.66053906660e-27;kg
st;stone;6.35029318;kg
;ton metricton;1000;kg
;shortton;907.18474;kg
ct;carat;0.0002;kg
;quintal;100;kg
ha;hectare;10000;m2
;acre;4046.8564224;m2
cc;;1e-6;m3
gal gals;gallon;0.003785411784;m3
qt qts;quart;0.000946352946;m3
pt pts;pint;0.000473176473;m3
;cup;0.0002365882365;m3
floz;fluidounce;0.0000295735295625;m3
tbsp;tablespoon;0.00001478676478125;m3
tsp;teaspoon;0.00000492892159375;m3
mph;;0.44704;m s-1
kmh kph kmph;;5/18;m s-1
fps;;0.3048;m s-1
kn kts;knot;1852/3600;m s-1
rpm RPM;;1/60;revolution s-1
rps;;1;revolution s-1
rev revs;revolution;1;revolution
bpm BPM;;1/60;s-1
cfm;;28316846592/60000000000000;m3 s-1
gpm;;3785411784/60000000000000;m3 s-1
atm;atmosphere;101325;kg m-1 s-2
mmHg torr Torr;torr;101325/760;kg m-1 s-2
cmHg;;1013250/760;kg m-1 s-2
psi PSI;;44482216152605/6451600000;kg m-1 s-2
kgf;;9.80665;kg m s-2
lbf;;4.4482216152605;kg m s-2
BTU Btu;;1055.05585262;kg m2 s-2
hp HP;horsepower;745.69987158227022;kg m2 s-3
Cal;;4184;kg m2 s-2
mpg MPG;;1609344000000000/3785411784;m-2
Kb;;1000;bit
KB;;8000;bit
KiB;kibibyte;8192;bit
MiB;mebibyte;8388608;bit
GiB;gibibyte;8589934592;bit
TiB;tebibyte;8796093022208;bit
deg;degree;1;degree
arcmin;arcminute;1/60;degree
arcsec;arcsecond;1/3600;degree
kohm kohms kOhm kOhms;kilohm;1000;kg m2 s-3 A-2
Mohm Mohms MOhm MOhms;megohm;1000000;kg m2 s-3 A-2
dB;decibel;1;decibel
ppm;;1;ppm
ppb;;1/1000;ppm
units;unit;1;unit
$ USD usd;dollar buck;1;dollar
\u00a2;cent;1/100;dollar
\u20ac EUR eur;euro;1;euro
\u00a3 GBP gbp;poundsterling;1;sterling
;pence penny;1/100;sterling
\u00a5 JPY;yen;1;yen
CNY RMB;yuan;1;yuan
\u20b9 Rs rs INR;rupee;1;rupee
;paise paisa;1/100;rupee
;rouble ruble;1;rouble
;kopeck kopek;1/100;rouble
\u20a9 KRW;;1;won
CHF;franc;1;franc
;peso;1;peso
;shilling;1;shilling
"""

_TEMPERATURES = {
    "degreeC": Measure(Fraction(1), (("K", 1),), Fraction(27315, 100)),
    "degreeF": Measure(Fraction(5, 9), (("K", 1),), Fraction(45967, 180)),
}
_IRREGULAR = ("henries", "hertz", "lux", "siemens", "feet", "inches", "pence", "won", "yen", "yuan")
_CASE_FREE = {
    "Km": "km", "KM": "km", "Kms": "km", "kms": "km", "cms": "cm", "mms": "mm", "Cm": "cm", "CM": "cm", "MM": "mm",
    "Kg": "kg", "KG": "kg", "Kgs": "kg", "kgs": "kg", "KGs": "kg", "gm": "g", "gms": "g", "grms": "g", 
    "Ml": "mL", "mls": "mL", "ltr": "L", "ltrs": "L", "Ft": "ft", "FT": "ft", "In": "in", "IN": "in", "Lb": "lb",
    "LB": "lb", "Lbs": "lb", "LBS": "lb", "Oz": "oz", "OZ": "oz", "Hr": "h", "Hrs": "h", "HR": "h", "HRS": "h",
    "Sec": "s", "SEC": "s", "Min": "min", "Mins": "min", "MIN": "min", "Mph": "mph", "MPH": "mph", "KPH": "kph",
    "Kmh": "kmh", "KMH": "kmh", "hz": "Hz", "HZ": "Hz", "KHz": "kHz", "khz": "kHz", "Khz": "kHz", "Mhz": "MHz",
    "Ghz": "GHz", "KPa": "kPa", "Kpa": "kPa", "kpa": "kPa", "Mpa": "MPa", "Gpa": "GPa", "KJ": "kJ", "Kj": "kJ",
    "kj": "kJ", "KN": "kN", "KW": "kW", "Kw": "kW", "kw": "kW", "KV": "kV", "kv": "kV", "kwh": "kWh", "KWh": "kWh",
    "KWH": "kWh", "Kwh": "kWh", "kWhr": "kWh", "KCal": "kcal", "Kcal": "kcal", "ev": "eV", "kev": "keV", "Kev": "keV",
    "KeV": "keV", "Mev": "MeV", "Gev": "GeV", "ATM": "atm", "Atm": "atm", "Yd": "yd", "Mi": "mi", "Ha": "ha",
    "RAD": "rad", "rads": "rad", "Rad": "rad", "degs": "deg", "mols": "mol", "Mol": "mol", "bits": "bit",
    "Gal": "gal", "degC": "degreeC", "degF": "degreeF", "celsius": "degreeC", "fahrenheit": "degreeF",
    "Celsius": "degreeC", "Fahrenheit": "degreeF",
}  # fmt: skip


def measure_of(name: str) -> Measure | None:
    """Return what a symbol or word measures, or None if it is no unit."""
    measure = _SYMBOLS.get(name) or _SYMBOLS.get(_CASE_FREE.get(name, ""))
    return measure or _WORDS.get(name) or _WORDS.get(name.lower())


def names() -> list[str]:
    """Return every symbol and word of the table."""
    return [*_SYMBOLS, *_WORDS]


def is_word(name: str) -> bool:
    """Tell whether a unit's name is written out."""
    return name.lower() in _WORDS or name in ("Celsius", "Fahrenheit", "celsius", "fahrenheit")


class _Row(NamedTuple):
    """A line of a table: symbols, words with their plurals, what they measure, and the prefixes in use ("": all)."""

    symbols: list[str]
    words: list[str]
    measure: Measure
    prefixes: str


def _rows(table: str) -> Iterator[_Row]:
    """Read a table."""
    for line in table.strip().splitlines():
        symbols, words, factor, dimensions, *prefixes = line.split(";")
        measure = Measure(Fraction(factor), _pairs(dimensions))
        yield _Row(symbols.split(), _plurals(words.split()), measure, "".join(prefixes))


def _pairs(text: str) -> Dimensions:
    """Read dimensions such as ``kg m2 s-2``."""
    pairs = []
    for part in text.split():
        match = re.fullmatch(r"([A-Za-z]+?)(-?\d)?", part)
        assert match is not None
        pairs.append((match[1], int(match[2] or 1)))
    return tuple(sorted(pairs))


def _plurals(words: list[str]) -> list[str]:
    return [*words, *(word + "s" for word in words if word not in _IRREGULAR)]


def _with_prefixes(row: _Row) -> tuple[dict[str, Measure], dict[str, Measure]]:
    """Return the prefixed symbols and words of a row."""
    symbols: dict[str, Measure] = {}
    words: dict[str, Measure] = {}
    for prefix, power_of_ten in _PREFIXES.items():
        shorts = [name for name in prefix.split() if len(name) == 1 or name == "da"]
        longs = [name for name in prefix.split() if len(name) > 2]
        if row.prefixes and shorts[0] not in row.prefixes:
            continue
        factor = row.measure.factor * Fraction(10) ** power_of_ten
        scaled = row.measure._replace(factor=factor)
        symbols |= {short + name: scaled for short in shorts for name in row.symbols}
        words |= {long + name: scaled for long in longs for name in row.words}
    return symbols, words


def _build() -> tuple[dict[str, Measure], dict[str, Measure]]:
    """Return the measures of all symbols and of all words; a name of its own comes before a prefixed one."""
    symbols: dict[str, Measure] = {}
    words: dict[str, Measure] = {}
    for row in _rows(_WITH_PREFIXES):
        prefixed_symbols, prefixed_words = _with_prefixes(row)
        symbols |= prefixed_symbols
        words |= prefixed_words
    for row in (*_rows(_WITH_PREFIXES), *_rows(_WITHOUT_PREFIXES)):
        symbols |= dict.fromkeys(row.symbols, row.measure)
        words |= dict.fromkeys(row.words, row.measure)
    return symbols | _TEMPERATURES, words


_SYMBOLS, _WORDS = _build()
