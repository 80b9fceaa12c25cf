"""Whether two answers are the same mathematics."""

import ast
import os
import random
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hostile import HOSTILE

from rewards.mathematics.equality import equal
from rewards.mathematics.latex import parse
from rewards.mathematics.tree import ParseError

REWARDS = Path(__file__).resolve().parents[3] / "rewards"


def written(value: Fraction, rng: random.Random) -> str:
    """Write a rational in one of its usual forms."""
    forms = [
        f"\\frac{{{value.numerator}}}{{{value.denominator}}}",
        f"{value.numerator}/{value.denominator}",
    ]
    if value.denominator == 1:
        forms += [
            f"{value.numerator}",
            f"{value.numerator:,}",
            f"{value.numerator}.0",
            f" ${value.numerator}$ ",
        ]
    return rng.choice(forms)


def test_random_rationals_equal_themselves_in_every_form_and_nothing_else(seed):
    rng = random.Random(seed)
    for _ in range(500):
        value = Fraction(rng.randint(-9999, 9999), rng.choice([1, 1, rng.randint(2, 50)]))
        other = value + Fraction(rng.choice([-1, 1]), rng.randint(1, 9))
        assert equal(written(value, rng), written(value, rng)).equal is True
        assert equal(written(other, rng), written(value, rng)).equal is False


SAME_STRICT = [
    # numbers
    ("0.33333333", "1/3"), ("0.5", "1/2"), ("50\\%", "0.5"), ("50%", "50"), ("$5", "5"),
    ("\\frac{9}{4}", "2\\frac{1}{4}"),
    ("2\\frac14", "2.25"), ("-1\\frac{1}{2}", "-1.5"), ("0.\\overline{3}", "\\frac{1}{3}"), ("0.1\\overline{6}", "1/6"),
    ("0.\\overline{142857}", "1/7"), ("0.333...", "1/3"), ("12{,}345", "12345"), ("1,234,567", "1234567"),
    ("12\\,345", "12345"),
    ("3 \\times 10^{5}", "300000"), ("2.5 \\cdot 10^{-3}", "0.0025"), ("1.5e3", "1500"), ("\u00bd", "1/2"),
    ("3\u00bd", "7/2"),
    ("10110_2", "10110_{2}"), ("\\frac{0.5}{2}", "1/4"), ("\u22127", "-7"), ("5!", "120"), ("\\binom{7}{3}", "35"),
    ("3.14159265", "\\pi"),
    # roots, powers, logarithms, trigonometry
    ("\\sqrt{12}", "2\\sqrt{3}"), ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt 2}{2}"), ("\\sqrt[3]{-8}", "-2"),
    ("8^{2/3}", "4"),
    ("\\frac{1}{2+\\sqrt3}", "2-\\sqrt{3}"), ("\\sqrt{3+2\\sqrt{2}}", "1+\\sqrt2"), ("\\log_2 8", "3"),
    ("\\ln e^5", "5"), ("\\lg 1000", "3"),
    ("\\frac{\\ln 3}{\\ln 2}", "\\log_2 3"), ("\\sin\\frac{\\pi}{6}", "\\frac12"), ("\\cos 60^\\circ", "0.5"),
    ("\\tan^{-1} 1", "\\frac{\\pi}{4}"),
    ("\\arctan 1", "\\pi/4"), ("2\\sin x\\cos x", "\\sin 2x"), ("1-\\sin^2 x", "\\cos^2 x"),
    ("\\sec^2 t - 1", "\\tan^2 t"),
    # expressions
    ("(a+b)^2", "a^2+2ab+b^2"), ("\\frac{x^2-1}{x-1}", "x+1"), ("2^{n+1}", "2\\cdot 2^n"), ("|x-1|", "|1-x|"),
    ("\\frac{n!}{(n-1)!}", "n"),
    ("\\lfloor x\\rfloor+1", "1+\\lfloor x \\rfloor"), ("e^{2\\ln x}", "x^2"), ("a(b+c)", "ab+ac"),
    ("3-2i", "-2i+3"), ("(1+i)^2", "2i"),
    ("e^{i\\pi/2}", "i"), ("x_1+x_2", "x_2 + x_1"), ("\\sum_{k=1}^{n} k", "\\frac{n(n+1)}{2}"),
    ("\\sum_{i=1}^{4} i^2", "30"), ("\\prod_{k=1}^{5} k", "120"),
    ("\\int_0^1 3x^2 dx", "1"), ("\\binom{n}{2}", "\\frac{n(n-1)}{2}"),
    ("\\frac{\\pi r^2}{2}", "\\frac12 \\pi r^2"), ("\u221a5+1", "1+\\sqrt{5}"),
    # labels and equations
    ("x=5", "5"), ("5", "x = 5"), ("x = \\frac{10}{2} = 5", "5"), ("y=2x-1", "2x-1"), ("f(x)=x^3", "x^3"),
    ("f(t)=t^3", "f(x)=x^3"), ("y=x^3", "f(x)=x^3"),
    ("2x+4y=6", "x+2y-3=0"), ("x^2+y^2=9", "y^2=9-x^2"), ("y=\\frac{6}{x}", "xy=6"), ("x = y = 3", "3"),
    ("AB = 7", "7"), ("x \\approx 11", "11"),
    ("\\sqrt{2} \\approx 1.414", "\\sqrt{2}"),
    ("\\text{only }x=3", "3"), ("(-1)^{2n}", "1"),
    ("x=1, y=2, z=3", "(x,y,z)=(1,2,3)"), ("f^{-1}(x)=\\frac{x-1}{2}", "\\frac{x-1}{2}"),
    ("x \\equiv 3 \\pmod 5", "x\\equiv 3\\pmod{5}"),
    # collections
    ("3, 5, 7", "7, 3, 5"), ("\\{1, 2\\}", "\\{2, 1\\}"), ("\\{1,1,2\\}", "\\{1,2\\}"),
    ("3 \\text{ and } 5", "5, 3"), ("2 \\text{ or } 4", "4,2"),
    ("x=1 \\text{ or } x=4", "x = 4, x = 1"), ("(1, 2)", "(1,2)"), ("(x,y)=(3,4)", "(3,4)"),
    ("(\\frac12, 0.25)", "(0.5, \\frac14)"),
    ("1 \\pm \\sqrt{3}", "1+\\sqrt3, 1-\\sqrt3"), ("\\pm 3", "\\{3,-3\\}"), ("(\\pm 1, 2)", "(1,2), (-1,2)"),
    ("\\emptyset", "\\{\\}"), ("(1;2)", "(1,2)"),
    ("\\langle 1,2\\rangle", "(1,2)"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "(1,2)"),
    ("\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "\\begin{pmatrix}1&2\\\\3&\\frac{8}{2}\\end{pmatrix}"),
    ("\u2460\u2462", "1, 3"), ("3:6", "1:2"), ("2:4:6", "1:2:3"),
    # intervals and conditions
    ("x>3", "3<x"), ("x > 3", "(3, \\infty)"), ("(-\\infty, 2]", "x \\le 2"), ("1 < x \\le 4", "(1,4]"),
    ("x\\in[0,1)", "0\\leq x<1"), ("x \\ge 4", "[4, +\\infty)"),
    ("(-\\infty,-1)\\cup(1,\\infty)", "x<-1 \\text{ or } x>1"), ("\\mathbb{R}\\setminus\\{0\\}", "x \\neq 0"),
    ("(-\\infty,0)\\cup(0,\\infty)", "\\{x \\mid x \\ne 0\\}"),
    ("\\{x : 2 < x < 5\\}", "(2,5)"), ("(1,2)\\cup(3,4)", "(3,4) \\cup (1,2)"), ("[0,2]\\cap[1,3]", "[1,2]"),
    ("|x|<2", "(-2,2)"), ("\\mathbb{R}", "(-\\infty,\\infty)"),
    ("x+y<2", "2x+2y<4"), ("a < b < c", "c > b > a"), ("(\\frac{a}{2}, \\infty)", "x > \\frac{a}{2}"),
    ("k \\le 0 \\text{ or } k=4", "(-\\infty,0]\\cup\\{4\\}"), ("\\text{all real numbers}", "\\mathbb{R}"),
    ("]1,2]", "(1,2]"),
    ("a\\in\\{1,2\\}", "a=1 \\text{ or } a=2"), ("\\text{no solution}", "\\emptyset"),
    ("x \\text{ if } x>0, -x \\text{ if } x<0", "-x \\text{ if } x<0, x \\text{ if } 0<x"),
    ("\\begin{cases} 1 & x>0 \\\\ 2 & x \\le 0 \\end{cases}",
     "\\begin{cases} 2, & \\text{if } x \\le 0 \\\\ 1, & \\text{if } x>0 \\end{cases}"),
    ("x=\\frac{\\pi}{4}+k\\pi, k\\in\\mathbb{Z}", "\\frac{\\pi}{4}+k\\pi"), ("k\\pi (k\\in\\mathbb{Z})", "k\\pi"),
    # units, money, angles
    ("6 square cm", "6"), ("60 mph", "60 \\text{ miles per hour}"), ("1 hour 30 minutes", "90 minutes"),
    ("\\frac34 of an hour", "\\frac34"),
    ("\\text{2 hours 30 minutes}", "2.5 \\text{ hours}"), ("3 \\text{ million}", "3000000"),
    ("5\\frac12\\%", "5.5\\%"), ("15^{\\text{th}}", "15"),
    ("5 \\text{ cm}", "5"), ("5 \\text{ km}", "5000 \\text{ m}"), ("2 \\text{ hours}", "120 \\text{ minutes}"),
    ("90^\\circ", "90"), ("30^\\circ", "\\frac{\\pi}{6}"),
    ("60^\\circ 30'", "60.5^\\circ"), ("12 \\text{ cm}^2", "12"), ("50 \\text{ cents}", "\\$0.50"),
    ("\\$1,200", "1200 \\text{ dollars}"), ("36 \\text{ km/h}", "10 \\text{ m/s}"),
    ("7 \\text{ apples}", "7"), ("1 \\text{ m}^2", "10000 \\text{ cm}^2"), ("15 \\text{ square units}", "15"),
    # words, choices, moments
    ("(B)", "B"), ("\\textbf{(C)}", "C"), ("c", "C"), ("B. 12", "B"), ("\\text{even}", "Even"),
    ("blue and red", "red, blue"), ("2:30 PM", "14:30"), ("May 5, 2020", "5 May 2020"),
    ("2021-03-04", "March 4, 2021"),
]  # fmt: skip

DIFFERENT = [
    ("0.333", "1/3"), ("0.33333334", "1/3"), ("5", "0.05"), ("3.14159", "\\pi"), ("1", "1.2"), ("1/3", "2/6.1"),
    ("-3", "3"), ("100", "1,000"), ("1,2", "12"),
    ("\\frac{1}{2004!}", "\\frac{1}{2006!}"), ("10^{-9}", "0"), ("10^{-30}", "2 \\cdot 10^{-30}"),
    ("\\frac{1}{3^{80}}", "\\frac{1}{3^{81}}"), ("204", "204_5"),
    ("\\sqrt{2}", "\\sqrt[3]{2}"), ("\\sqrt{x^2}", "x"), ("\\ln x", "\\log_2 x"), ("\\sin 2x", "2\\sin x"),
    ("(a+b)^2", "a^2+b^2"), ("x+1", "y+1"), ("2^{n}", "2^{n+1}"),
    ("x^2", "x^3"), ("1-2i", "1+2i"), ("\\frac{1}{0}", "\\infty"), ("\\infty", "-\\infty"), ("x=5", "y=5"),
    ("x+y=2", "x+y=3"), ("x-y=2", "x+y=2"), ("0", "a+3b=0"),
    ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("(1,2]", "[1,2)"), ("\\{1,2\\}", "(1,2)"), ("1,2", "1,2,3"),
    ("2", "\\pm 2"), ("\\pm 2", "2"), ("1,1,2", "1,2,2"), ("3 \\text{ or } 4", "4"),
    ("x>3", "x \\ge 3"), ("x>3", "x<3"), ("(3,\\infty)", "x \\ge 3"), ("(1,2)\\cup(3,4)", "(1,2)\\cup(3,5)"),
    ("x<-1 \\text{ or } x>1", "(-1,1)"), ("x\\ne 1", "x \\ne 2"), ("a<b<c", "b<a<c"),
    ("x \\text{ if } x>0", "x"), ("x \\text{ if } x>0", "x \\text{ if } x<0"), ("3 \\text{ over } 4", "3"),
    ("0.46", "0.5"), ("30^\\circ", "0.5"),
    ("BCAD", "ABCD"), ("3 \\text{ million}", "3"), ("\\text{less than } 5", "5"), ("1 2", "12"),
    ("Alice", "Alice and Bob"),
    ("1/3+10^{-45}", "1/3"), ("\\sqrt{2}+10^{-45}", "\\sqrt{2}"), ("10^{-50}", "0"), ("x=3", "3=y"),
    ("less than 5", "5"),
    ("5 \\text{ cm}", "5 \\text{ m}"), ("5 \\text{ kg}", "5 \\text{ km}"), ("60^\\circ", "60.5^\\circ"),
    ("30^\\circ", "\\frac{\\pi}{3}"), ("60^\\circ 30'", "60^\\circ"), ("5 \\text{ cm}", "5 \\text{ pears}"),
    ("A", "B"), ("(A)", "(D)"), ("C. 12", "B"), ("2:30 PM", "2:30 AM"), ("12:30", "1:30"),
    ("May 5, 2020", "May 6, 2020"), ("odd", "even"), ("red and blue", "red and green"), ("1:2", "2:1"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"),
    ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("\\sum_{k=1}^{n} k", "\\sum_{k=1}^{n-1} k"), ("\\binom{7}{3}", "\\binom{7}{2}"), ("", "1"), ("x", "1"),
    ("f(x)=x^2", "f(x)=x^3"), ("\\sqrt{10^{6000}}+1", "\\sqrt{10^{6000}}"),
    ("1.0000001^{10^{9}}+1", "1.0000001^{10^{9}}"), ("b<a<d", "f(n)=n"), ("1:3", "3"), ("50\\%", "5"),
    ("(x,y)=(3,4)", "(4,3)"), ("y=2, x=1", "x=2, y=1"), ("2, 1", "x=1, y=2"),
]  # fmt: skip

SAME_LENIENT_ONLY = [
    ("27/59", "0.458"), ("784", "785.12"), ("\\frac{84}{13}", "6.46"), ("17+10\\sqrt{6}", "41.495"),
    ("x = n\\pi", "k\\pi"), ("\\frac{\\pi}{4}+2n\\pi", "\\frac{\\pi}{4}+2k\\pi"),
    ("a=3, b=7", "7, 3"), ("40 \\text{ red balls}", "40 \\text{ balls}"),
    ("Paris", "The capital is Paris of course"), ("\\infty", "\\text{infinitely many}"),
    ("\\frac{AB}{CD}=\\frac{2}{3}", "\\frac23"), ("5 \\text{ apples}", "5 \\text{ green apples}"),
    ("-4x^2+4x-2", "y+1=-(2x-1)^2"), ("(1,-2,3,-4)", "[1,-2,3,-4]"),
    ("3, 7", "3, 7, 7"), ("b, a, c", "b < a < c"),
    ("3 red balls, 4 pink balls", "3 red balls, 4 white balls"),
]  # fmt: skip


@pytest.mark.parametrize("pred, gold", SAME_STRICT)
def test_strict_accepts_the_same_answer_in_another_notation(pred, gold):
    assert equal(pred, gold).equal is True
    assert equal(pred, gold, lenient=True).equal is True


@pytest.mark.parametrize("pred, gold", DIFFERENT)
def test_no_mode_accepts_a_different_answer(pred, gold):
    assert equal(pred, gold).equal is False
    assert equal(pred, gold, lenient=True).equal is False


@pytest.mark.parametrize("pred, gold", SAME_LENIENT_ONLY)
def test_lenient_alone_accepts_roundings_renamings_and_prose(pred, gold):
    assert equal(pred, gold, lenient=True).equal is True
    assert equal(pred, gold).equal is False


@pytest.mark.parametrize("gold", ["", " ", "$$", "\\frac{1}{", "((1", "1 2 3 + ", "9" * 2500, "^"])
def test_a_gold_that_cannot_be_read_gets_no_verdict(gold):
    assert equal("1", gold).equal is None


def test_the_tier_that_decided_is_reported():
    assert equal("1/2", "0.5").tier == "a"
    assert equal("\\sqrt{8}", "2\\sqrt{2}").tier == "b"
    assert equal("e", "\\sum_{k=0}^{\\infty}\\frac{1}{k!}").equal is False
    assert equal("e", "\\sum_{k=0}^{\\infty}\\frac{1}{k!}", allow_sympy=True) == equal(
        "e", "\\sum_{k=0}^{\\infty}\\frac{1}{k!}", allow_sympy=True
    )
    assert equal("e", "\\sum_{k=0}^{\\infty}\\frac{1}{k!}", allow_sympy=True).tier == "c"


@pytest.mark.parametrize(
    "pred, gold, same",
    [
        ("\\lim_{x\\to 0}\\frac{\\sin x}{x}", "1", True),
        ("\\int_0^{\\infty} e^{-x} dx", "1", True),
        ("\\sum_{k=1}^{\\infty} \\frac{1}{k^2}", "\\frac{\\pi^2}{6}", True),
        ("\\sum_{k=1}^{\\infty} \\frac{1}{k^2}", "\\frac{\\pi^2}{8}", False),
    ],
)
def test_sympy_settles_limits_and_infinite_sums_where_it_is_allowed(pred, gold, same):
    assert equal(pred, gold, allow_sympy=True).equal is same


# random expressions


def random_expression(rng: random.Random, depth: int) -> str:
    """Write a random expression of x and y that is defined everywhere that matters."""
    if depth == 0:
        return rng.choice(
            [
                "x",
                "y",
                str(rng.randint(2, 9)),
                "\\pi",
                f"\\frac{{{rng.randint(1, 9)}}}{{{rng.randint(2, 9)}}}",
            ]
        )
    a, b = random_expression(rng, depth - 1), random_expression(rng, depth - 1)
    forms = [
        "({a}) + ({b})",
        "({a}) - ({b})",
        "({a}) \\cdot ({b})",
        "\\sqrt{{({a})^2 + 1}}",
        "\\sin({a})",
        "({a})^{{2}}",
        "\\frac{{{a}}}{{({b})^2+1}}",
    ]
    return rng.choice(forms).format(a=a, b=b)


def rewritten(expression: str, rng: random.Random) -> str:
    """Write an expression of equal value another way."""
    forms = [
        "({e}) + 0",
        "2\\cdot({e}) - ({e})",
        "\\frac{{({e}) \\cdot 6}}{{6}}",
        "-(-({e}))",
        "({e}) + y^2 - y^2",
        "(1 + ({e})) - 1",
    ]
    return rng.choice(forms).format(e=expression)


def test_random_expressions_equal_their_rewritings_and_not_their_perturbations(seed):
    rng = random.Random(seed)
    for _ in range(150):
        expression = random_expression(rng, rng.randint(1, 3))
        other = rng.choice(
            [
                "({e}) + \\frac{{1}}{{1000}}",
                "({e}) \\cdot \\frac{{1001}}{{1000}} + x^2 + 1",
                "({e}) + 10^{{-12}}",
            ]
        ).format(e=expression)
        assert equal(rewritten(expression, rng), expression).equal is True, expression
        assert equal(other, expression).equal is False, expression


def test_a_verdict_does_not_depend_on_the_order_of_a_list(seed):
    rng = random.Random(seed)
    for _ in range(100):
        items = [
            f"\\frac{{{rng.randint(-20, 20)}}}{{{rng.randint(1, 7)}}}"
            for _ in range(rng.randint(2, 6))
        ]
        shuffled = rng.sample(items, len(items))
        assert equal(", ".join(shuffled), ", ".join(items)).equal is True
        assert equal(", ".join([*shuffled[1:], "\\frac{43}{2}"]), ", ".join(items)).equal is False


def test_random_intervals_match_their_inequalities_with_the_same_ends_only(seed):
    rng = random.Random(seed)
    for _ in range(100):
        low = rng.randint(-50, 50)
        high = low + rng.randint(1, 50)
        left, right = rng.choice("(["), rng.choice(")]")
        above, below = ("<" if left == "(" else "\\le"), ("<" if right == ")" else "\\leq")
        inequality = f"{low} {above} x {below} {high}"
        assert equal(f"{left}{low},{high}{right}", inequality).equal is True
        assert equal(f"{left}{low},{high}{']' if right == ')' else ')'}", inequality).equal is False
        assert equal(f"{left}{low},{high + 1}{right}", inequality).equal is False


# bounds


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.thin(40)
def test_a_hostile_string_on_either_side_takes_at_most_a_second(text):
    for other in ("42", "x^2+1", "\\{1,2\\}", "x<3", text[:-1]):
        for pair in ((text, other), (other, text)):
            started = time.process_time()
            equal(*pair, lenient=True)
            assert time.process_time() - started <= 1.0, pair


def test_a_hostile_string_does_not_hold_other_threads():
    gaps, stop = [], threading.Event()

    def beat() -> None:
        last = time.perf_counter()
        while not stop.wait(0.002):
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=beat)
    thread.start()
    for text in HOSTILE[:25]:
        equal(text, "42")
    stop.set()
    thread.join()
    assert max(gaps) < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "1" * 2001,
        "+".join("1" * 900),
        "(" * 61 + "1" + ")" * 61,
        "\\frac{1}{" * 90 + "1" + "}" * 90,
    ],
)
def test_what_is_over_a_bound_is_not_parsed(text):
    with pytest.raises(ParseError):
        parse(text)


def test_towers_that_cannot_be_evaluated_are_compared_by_structure():
    assert equal("9^{9^9}", "9^{9^{9}}").equal is True
    assert equal("9^{9^9}+1", "1+9^{9^9}").equal is True
    assert equal("9^{9^9}", "9^{9^8}").equal is False


# nothing is executed

PAYLOADS = [
    "__import__('os').system('touch {path}')", "open('{path}','w')", "exec(\"open('{path}','w')\")",
    "eval(\"open('{path}','w')\")", "[c for c in ().__class__.__bases__][0]",
    "\\text{{__import__('os').system('touch {path}')}}", "(lambda: open('{path}','w'))()",
    "x.__class__.__init__.__globals__['os'].system('touch {path}')",
    "$(touch {path})", "`touch {path}`", "Symbol('x').func(open('{path}','w'))",
    "sin(__import__('os').system('touch {path}'))", "\\write18{{touch {path}}}", "{{'a': open('{path}','w')}}",
]  # fmt: skip


def test_no_payload_in_prediction_or_gold_is_executed(tmp_path):
    for index, payload in enumerate(PAYLOADS):
        target = tmp_path / f"mark{index}"
        text = payload.format(path=target)
        for lenient in (False, True):
            equal(text, "1", lenient=lenient, allow_sympy=True)
            equal("1", text, lenient=lenient, allow_sympy=True)
            equal(f"x + {text}", "x + 1", lenient=lenient, allow_sympy=True)
        assert not target.exists(), payload
    assert os.listdir(tmp_path) == []


SOURCES = sorted(REWARDS.rglob("*.py"))
MATHEMATICS = {"math_answer"}
EXECUTES_TEXT = set(
    "eval exec compile __import__ literal_eval parse_expr sympify nsimplify parse_latex lambdify mpmathify S N"
    " system popen getoutput".split()
)
HANDS_OVER = {  # the only files that start a process or load a pickle, which the parent of that process has made
    "process.py": {"Popen"},
    "worker.py": {"load", "loads"},
    "supervisor.py": {"Popen"},
    "gym_rows.py": {"run"},  # a child that runs this library's own code
    "paths.py": {
        "literal_eval"
    },  # reads a data set's columns, never an answer, and evaluates nothing
}
CONFINED = {  # of the sandbox: they run programs, inside of its confinement
    "program_process.py",
    "assertion_process.py",
    "fork_server.py",
    "test_suite.py",
}


def is_mathematics(path: Path) -> bool:
    return path.parent.name == "mathematics" or path.stem in MATHEMATICS


def called(node: ast.Call) -> str:
    """The last name of what is called: ``loads`` for ``pickle.loads(x)``."""
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REWARDS)))
def test_no_function_that_executes_text_is_called(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        shown, name = ast.unparse(node.func), called(node)
        if shown == "re.compile":
            continue
        confined = path.parent.name == "sandbox" and path.name in CONFINED
        reads_columns = (
            path.name == "paths.py" and name == "literal_eval"
        )  # of data, never of an answer
        assert name not in EXECUTES_TEXT or confined or reads_columns, ast.unparse(node)
        if shown.startswith(("pickle.load", "marshal.", "shelve.", "subprocess.")):
            assert name in HANDS_OVER.get(path.name, ()), ast.unparse(node)
        if name == "simplify":
            assert path.name == "symbolic.py" and not isinstance(
                node.args[0], (ast.Constant, ast.JoinedStr)
            ), shown


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REWARDS)))
def test_sympy_is_imported_in_one_file_and_what_executes_text_in_none_of_the_mathematics(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = {getattr(node, "module", None) or "", *(alias.name for alias in node.names)}
            assert (
                "sympy" not in {module.split(".")[0] for module in modules}
                or path.name == "symbolic.py"
            ), path
            assert not EXECUTES_TEXT & modules, ast.unparse(node)
            if is_mathematics(path):
                assert not {"pickle", "subprocess", "os", "importlib", "ctypes", "ast"} & modules, (
                    ast.unparse(node)
                )


def test_the_static_test_would_find_what_it_looks_for():
    names = [
        called(node)
        for node in ast.walk(ast.parse("import ast\nast.literal_eval(x)"))
        if isinstance(node, ast.Call)
    ]
    assert names == ["literal_eval"] and "literal_eval" in EXECUTES_TEXT


def test_importing_the_comparison_loads_neither_sympy_nor_torch():
    heavy = ("sympy", "mpmath", "torch", "transformers", "numpy")
    code = f"import sys, rewards.math_answer; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REWARDS.parent, check=True
    )
    assert shown.stdout.strip() == "[]"
