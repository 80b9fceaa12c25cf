"""Pairs of gold and prediction, bare as `--pairs` gets them, that a person judged by the rules of the page."""

import random

import pytest

from rewards.math_answer import pairs

SAME = [
    ("2\\frac{3}{5}", "\\frac{13}{5}"), ("2\\frac{3}{5}", "2.6"), ("-3\\frac{1}{4}", "-3.25"),
    ("7 \\frac{2}{9}", "65/9"), ("12.5\\%", "12.5"), ("12.5\\%", "\\frac{1}{8}"), ("\\frac{3}{8}", "37.5\\%"),
    ("15 \\text{ cm}", "15 cm"), ("15 \\text{ cm}", "150 mm"), ("2.5 kg", "2500 g"), ("72 \\text{ km/h}", "20 m/s"),
    ("3 \\text{ m}^2", "30000 \\text{ cm}^2"), ("1.5 hours", "90 min"), ("45^\\circ", "\\frac{\\pi}{4}"),
    ("45^\\circ", "45"), ("120^{\\circ}", "\\frac{2\\pi}{3} \\text{ rad}"), ("\\$18.90", "18.90"),
    ("\\$18.90", "18.9 dollars"), ("\\$1,250", "1250"), ("\\$0.75", "75 cents"),
    ("0.\\overline{27}", "\\frac{3}{11}"), ("0.1\\overline{3}", "\\frac{2}{15}"), ("1.\\overline{9}", "2"),
    ("0.272727...", "3/11"), ("1,048,576", "1048576"), ("1{,}024", "1024"), ("2\\,500", "2500"),
    ("2^{20}", "1,048,576"), ("\\{1, 4, 9\\}", "\\{9, 1, 4\\}"), ("\\{1, 4, 9\\}", "1, 4, 9"), ("(3, -2)", "(3,-2)"),
    ("(3,-2)", "x=3, y=-2"), ("\\left(\\frac{1}{2},3\\right)", "(0.5, 3)"), ("[2, 5)", "2 \\le x < 5"),
    ("2 \\leq x < 5", "[2,5)"), ("(-\\infty,-2)\\cup(3,\\infty)", "x<-2 \\text{ or } x>3"),
    ("x \\neq 4", "(-\\infty,4)\\cup(4,\\infty)"), ("|x| \\ge 3", "(-\\infty,-3]\\cup[3,\\infty)"),
    ("\\{x \\mid -1 \\le x \\le 1\\}", "[-1,1]"), ("y = 3x - 7", "3x - y = 7"), ("x^2 + y^2 = 25", "y^2 = 25 - x^2"),
    ("(x-2)^2+(y+1)^2=9", "x^2+y^2-4x+2y-4=0"), ("x=7", "7"), ("3 \\pm \\sqrt{5}", "3+\\sqrt5, 3-\\sqrt5"),
    ("\\pm 4", "4, -4"), ("x = \\pm 2i", "2i, -2i"),
    ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}"),
    ("\\begin{pmatrix} 2 \\\\ -1 \\end{pmatrix}", "(2,-1)"),
    ("\\begin{pmatrix} 2 \\\\ -1 \\end{pmatrix}", "\\langle 2, -1 \\rangle"), ("3:4", "6:8"), ("2:3:5", "4:6:10"),
    ("3:4", "0.75"), ("a=2, b=-1", "b=-1, a=2"), ("x = 1, y = 2", "(1,2)"), ("p=3, q=5", "3, 5"), ("C", "(C)"),
    ("\\textbf{(B)}", "B"), ("(A) 12", "A"), ("\\text{isosceles}", "isosceles"), ("yes", "Yes"),
    ("\\text{no solution}", "\\emptyset"), ("3:45 PM", "15:45"), ("March 14", "14 March"),
    ("July 4, 1776", "1776-07-04"), ("3+4i", "4i+3"), ("(2+i)(2-i)", "5"), ("\\frac{1}{i}", "-i"),
    ("e^{i\\pi}", "-1"), ("\\log_3 81", "4"), ("\\ln 8", "3\\ln 2"), ("\\log_2 10", "\\frac{1}{\\log_{10} 2}"),
    ("\\sqrt{72}", "6\\sqrt{2}"), ("\\sqrt[3]{54}", "3\\sqrt[3]{2}"), ("\\sqrt{7+4\\sqrt3}", "2+\\sqrt3"),
    ("\\frac{\\sqrt{6}-\\sqrt2}{4}", "\\sin 15^\\circ"), ("\\cos\\frac{2\\pi}{3}", "-\\frac12"),
    ("\\tan 75^{\\circ}", "2+\\sqrt{3}"), ("\\sin^2 x", "\\frac{1-\\cos 2x}{2}"), ("\\binom{10}{4}", "210"),
    ("\\binom{10}{4}", "\\binom{10}{6}"), ("6!", "720"), ("\\frac{8!}{6!}", "56"), ("\\sum_{k=1}^{10} k^2", "385"),
    ("\\sum_{k=0}^{n} 2^k", "2^{n+1}-1"), ("\\prod_{k=2}^{5} k", "120"), ("\\int_0^{\\pi} \\sin x \\, dx", "2"),
    ("\\int_1^e \\frac{1}{x}\\,dx", "1"), ("\\int_0^2 x\\,dx", "2"), ("\\frac{1}{3}", "0.33333333"), ("3.5", "3.50"),
    ("x^2-1", "(x-1)(x+1)"), ("\\frac{a^2-b^2}{a-b}", "a+b"), ("5 \\text{ apples}", "5"),
    ("\\frac{5}{6}\\text{ of the cake}", "5/6"), ("12\\text{ square inches}", "12"), ("6 \\times 10^{4}", "60000"),
    ("4.2 \\times 10^{-3}", "0.0042"), ("\\text{Monday, Friday}", "Friday and Monday"),
    ("n(n+1)/2", "\\frac{n^2+n}{2}"), ("2^{10}", "1024"), ("-\\frac{7}{3}", "\\frac{-7}{3}"), ("0", "-0"),
    ("3\\sqrt{2}\\text{ cm}", "\\sqrt{18}"), ("100 \\text{ m}", "0.1 \\text{ km}"), ("$\\frac{3}{4}$ mile", "0.75"),
    ("6 \\text{ ft } 2 \\text{ in}", "74 \\text{ inches}"),
    ("$x \\in (-1, 0) \\cup (1, +\\infty)$", "-1 < x < 0 or x > 1"), ("$x\\in[-3,4]$", "-3 ≤ x ≤ 4"),
    ("(−∞, 2) ∪ (5, ∞)", "x < 2 or x > 5"), ("$a \\leq -2$", "(-\\infty, -2]"), ("$0<m<1$", "m \\in (0,1)"),
    ("$0<m<1$", "(0,1)"), ("$k \\geq \\frac{1}{2}$", "k\\geq 0.5"),
    ("$k \\geq \\frac{1}{2}$", "\\left[\\frac12, +\\infty\\right)"), ("\\frac{2}{7}", "0.2857142857"),
    ("A = 30^\\circ, B = 60^\\circ, C = 90^\\circ", "30°, 60°, 90°"), ("30^\\circ", "30 degrees"),
    ("x_1 = 2, x_2 = -3", "2, -3"), ("x_1=2, x_2=-3", "x = 2 or x = -3"), ("1st", "1"), ("3:2", "\\frac{3}{2}"),
    ("(a+b)(a-b)", "a^2 - b^2"), ("\\frac{x+1}{x-1}", "1+\\frac{2}{x-1}"), ("\\sqrt{x^2}", "|x|"),
    ("\\ln(xy)", "\\ln x + \\ln y"), ("x^{-1}", "\\frac1x"), ("2^{-x}", "\\frac{1}{2^x}"), ("a^{1/2}", "\\sqrt{a}"),
    ("\\frac{n(n+1)(2n+1)}{6}", "\\frac{2n^3+3n^2+n}{6}"), ("n!", "n(n-1)!"),
    ("\\binom{n}{3}", "\\frac{n(n-1)(n-2)}{6}"), ("C_{5}^{2}", "10"), ("25 \\text{ miles per hour}", "25 mph"),
    ("3.5 \\text{ L}", "3500 mL"), ("8 \\text{ oz}", "0.5 lb"), ("98.6^\\circ F", "98.6"),
    ("9.8 \\text{ m/s}^2", "9.8"), ("500 \\text{ g}", "0.5 \\text{ kg}"), ("2 \\text{ weeks}", "14 \\text{ days}"),
    ("12:30 am", "0:30"), ("\\frac{1}{2}i", "0.5i"), ("\\sqrt{-4}", "2i"), ("|3-4i|", "5"),
    ("2e^{i\\pi/3}", "1+\\sqrt{3}i"), ("\\det \\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "-2"),
    ("\\begin{pmatrix}1&0\\\\0&1\\end{pmatrix}\\begin{pmatrix}2\\\\3\\end{pmatrix}",
     "\\begin{pmatrix}2\\\\3\\end{pmatrix}"),
    ("\\arcsin\\frac{1}{2}", "\\frac{\\pi}{6}"), ("\\tan^{-1}(1)", "45^\\circ"), ("\\sec 60^\\circ", "2"),
    ("\\cot\\frac{\\pi}{4}", "1"), ("9\\frac{1}{2}\\%", "9.5\\%"), ("1.2 \\times 10^6", "1.2 million"),
    ("5 thousand", "5000"), ("\\overline{AB} = 5", "5"), ("\\angle ABC = 40^\\circ", "40"), ("S_n = n^2", "n^2"),
    ("a_n = 2n-1", "2n-1"), ("T(n)=2^n", "2^n"), ("\\{(1,2),(3,4)\\}", "(3,4),(1,2)"), ("\\{x | x > 2\\}", "x>2"),
    ("(1, 2) \\text{ and } (3, 4)", "(1,2),(3,4)"), ("\\max(3,7)", "7"), ("\\lfloor 3.7 \\rfloor", "3"),
    ("\\gcd(12,18)", "6"), ("2^{3^2}", "512"), ("-3^2", "-9"), ("(-3)^2", "9"), ("3.0", "3"),
    ("300", "3 \\times 10^2"), ("1/3", "3/9"), ("\\frac{-1}{-2}", "0.5"), ("0.1 + 0.2", "0.3"), ("\\$5.00", "5"),
    ("5 \\%", "\\frac{1}{20}"), ("x=2\\text{ or }x=3", "\\{2,3\\}"), ("x=2\\text{ and }y=3", "(2,3)"),
    ("y-2=3(x-1)", "y=3x-1"), ("3x-4y+5=0", "y=\\frac{3x+5}{4}"), ("\\frac{x^2}{4}+\\frac{y^2}{9}=1", "9x^2+4y^2=36"),
]  # fmt: skip

DIFFERENT = [
    ("2\\frac{3}{5}", "\\frac{6}{5}"), ("12.5\\%", "0.0125"), ("40\\%", "0.04"), ("15 \\text{ cm}", "15 m"),
    ("3 \\text{ m}^2", "3 \\text{ m}"), ("45^\\circ", "\\frac{\\pi}{3}"), ("\\$18.90", "\\$18.09"), ("\\$3", "€3"),
    ("0.\\overline{27}", "0.27"), ("1,234", "1.234"), ("\\{1, 4, 9\\}", "\\{1, 4\\}"), ("(3, -2)", "(-2, 3)"),
    ("[2, 5)", "[2,5]"), ("x<-2 \\text{ or } x>3", "(-\\infty,-2] \\cup (3,\\infty)"), ("y = 3x - 7", "y=3x+7"),
    ("x=7", "y=7"), ("3 \\pm \\sqrt{5}", "3 + \\sqrt{5}"),
    ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{pmatrix} 1 & 3 \\\\ 2 & 4 \\end{pmatrix}"),
    ("3:4", "4:3"), ("a=2, b=-1", "a=-1, b=2"), ("D", "(B)"), ("\\text{Tuesday}", "Wednesday"),
    ("3:45 PM", "3:45 AM"), ("July 4, 1776", "July 5, 1776"), ("3+4i", "3-4i"), ("\\ln 6", "\\ln 2 \\cdot \\ln 3"),
    ("\\sqrt{50}", "5\\sqrt{3}"), ("\\sin 2x", "\\sin x \\cos x"), ("\\binom{10}{4}", "\\binom{10}{5}"),
    ("\\frac{1}{2004!}", "\\frac{1}{2006!}"), ("\\sum_{k=1}^{10} k^2", "386"), ("\\int_0^1 x^2 dx", "\\frac{1}{2}"),
    ("\\frac{1}{3}", "0.333"), ("\\pi", "3.14159"), ("1000", "1001"), ("2x+3", "2x-3"),
    ("4.2 \\times 10^{-3}", "0.042"), ("10110_2", "22"), ("-\\frac{7}{3}", "\\frac{7}{3}"), ("m > 3", "n > 3"),
    ("0.3", "\\frac{2}{7}"), ("15.7", "15.8"), ("2.4", "2.46"), ("\\frac{2}{7}", "0.2857142858"), ("3:2", "2:3"),
    ("2^n-1", "2^{n-1}"), ("No", "yes"), ("\\text{True}", "False"), ("20^\\circ C", "20^\\circ F"), ("-i", "i"),
    ("5^{3}", "15"), ("a_n=2n-1", "2n+1"), ("(1,2),(3,4)", "(1,3),(2,4)"), ("\\varnothing", "\\{0\\}"), ("-3^2", "9"),
    ("x=y^2", "y=x^2"),
]  # fmt: skip

LENIENT = [
    ("0.333", "\\frac13"), ("2.72", "e"), ("k\\pi, k \\in \\mathbb{Z}", "n\\pi, n\\in\\mathbb Z"),
    ("7.54", "\\frac{83}{11}"), ("3.46", "2\\sqrt{3}"), ("0.29", "\\frac{2}{7}"), ("15.7", "5\\pi"),
    ("1.73", "1.7320508"), ("2.4", "2.44"), ("n = 3k + 1", "n=3m+1"), ("$(2n+1)\\pi$", "(2k+1)\\pi"),
    ("$y = Ce^{2x}$", "y = ke^{2x}"), ("f(x) = 2x + C", "f(x)=2x+c"), ("0.5236", "\\frac{\\pi}{6}"),
]  # fmt: skip


@pytest.mark.parametrize("gold, pred", SAME)
def test_the_same_answer_is_accepted_by_both_sets_of_rules(gold, pred):
    assert pairs(gold, pred).value == pairs(gold, pred, lenient=True).value == 1.0


@pytest.mark.parametrize("gold, pred", DIFFERENT)
def test_a_nearly_equal_but_different_answer_is_accepted_by_neither(gold, pred):
    assert pairs(gold, pred).value == pairs(gold, pred, lenient=True).value == 0.0


@pytest.mark.parametrize("gold, pred", LENIENT)
def test_what_only_evaluation_forgives_trains_nothing(gold, pred):
    assert (pairs(gold, pred).value, pairs(gold, pred, lenient=True).value) == (0.0, 1.0)


@pytest.mark.parametrize(
    "gold, pred",
    [
        ("0 < x < 1", "0 < x i < 1"),
        ("x > -1", "x i > -1"),
        ("-4<m\\leq 0", "-4<mi\\leq 0"),
        ("x<1", "x<i"),
    ],
)
def test_complex_ends_are_simply_not_equal(gold, pred):
    assert pairs(gold, pred).value == pairs(gold, pred, lenient=True).value == 0.0


def test_no_garbled_prediction_makes_the_judge_raise(seed):
    rng = random.Random(seed)
    texts = [text for pair in (*SAME, *DIFFERENT, *LENIENT) for text in pair]
    for _ in range(3000):
        gold, one, other = rng.choices(texts, k=3)
        sign = rng.choice("{}()[]|^_\\,;:=<>+-*/.%! 0x")
        garbled = one[: rng.randrange(len(one) + 1)] + sign + other[rng.randrange(3) :]
        assert pairs(gold, garbled, lenient=rng.random() < 0.5).status in ("scored", "no_answer"), (
            gold,
            garbled,
        )
