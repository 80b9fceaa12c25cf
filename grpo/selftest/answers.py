"""Labelled answers for the check of ``math_answer``: what a completion may write for a gold, and what is not it."""

from __future__ import annotations

from typing import Mapping

RIGHT: Mapping[str, tuple[str, ...]] = {
    "18": ("18", "18.0", "\\frac{36}{2}", "18.", "+18", "\\text{18}", "3 \\cdot 6"),
    r"\frac{3}{4}": ("3/4", "0.75", r"\dfrac{3}{4}", r"\tfrac34", r"\frac{6}{8}"),
    r"-\frac{1}{2}": (r"-\frac12", "-0.5", r"\frac{-1}{2}", r"\frac{1}{-2}"),
    "1,250": ("1250", "1{,}250", "1250.00", r"1\,250"),
    r"2\sqrt{3}": (r"\sqrt{12}", r"2 \sqrt 3", r"\sqrt{3} \cdot 2", r"\frac{6}{\sqrt{3}}"),
    r"\frac{\pi}{2}": ("pi/2", r"0.5\pi", r"\dfrac{\pi}{2}", r"\frac{1}{2}\pi"),
    "12 \\mathrm{~cm}^{2}": ("12", "12 cm^2", r"12\text{ cm}^2"),
    "50\\%": ("50%", "50", "50 \\%"),
    "(1, 2)": ("(1,2)", r"\left(1, 2\right)", r"(1,\ 2)"),
    "(0, 1]": (r"\left(0, 1\right]", "0 < x \\le 1"),
    r"\{1, 2, 3\}": (r"\{3, 2, 1\}", "1, 2, 3"),
    "x^2 + 2x + 1": ("(x+1)^2", "1 + 2x + x^2", "x^2+2x+1"),
    "B": ("B", r"\text{B}", "(B)", r"\textbf{(B)}"),
    "2^{10}": ("1024", "2^{10}", "4^5"),
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}": (
        r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}",
    ),
}
"""By gold, what stands in the box of completions that are right."""

WRONG: Mapping[str, tuple[str, ...]] = {
    "18": ("81", "-18", "18.1", "1.8", "180", "17"),
    r"\frac{3}{4}": ("4/3", "0.7", "0.34", "-0.75", "75"),
    r"-\frac{1}{2}": ("0.5", "-2", r"\frac{1}{2}"),
    "1,250": ("1.25", "1", "250", "12500"),
    r"2\sqrt{3}": (r"\sqrt{6}", r"3\sqrt{2}", "3.46", r"2 + \sqrt{3}"),
    r"\frac{\pi}{2}": ("1.57", r"\frac{2}{\pi}", r"\pi", "90"),
    "12 \\mathrm{~cm}^{2}": ("12 cm^3", "12 m^2", "144"),
    "50\\%": ("5%", "0.05", "500"),
    "(1, 2)": ("(2, 1)", "(1, 3)", "1"),
    "(0, 1]": ("[0, 1]", "(0, 1)", "(0, 2]"),
    r"\{1, 2, 3\}": (r"\{1, 2\}", r"\{1, 2, 4\}", "6"),
    "x^2 + 2x + 1": ("x^2 + 2x", "(x-1)^2", "x^2 + 2x + 2"),
    "B": ("A", "BD", "b, c"),
    "2^{10}": ("210", "20", "2^{11}"),
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}": (
        r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}",
    ),
}
"""By gold, what stands in the box of completions that are wrong."""
