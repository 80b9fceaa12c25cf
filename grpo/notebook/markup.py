"""HTML that cannot be broken by what is in it, and drawings of a line's height: bars, intervals, sparklines.

Only text that was made here counts as markup; everything else is escaped. Styles stand on the elements, since
notebooks drop style sheets and scripts they do not trust. Colours follow the surrounding page: text has its colour,
lines are shades of grey that show on white and on black.
"""

from __future__ import annotations

import html
import math
import re
from typing import Iterable, Sequence

BLUE = "#3b82f6"
GREEN = "#22a06b"
RED = "#e5484d"
GREY = "rgba(128,128,128,.35)"
FAINT = "opacity:.68"
MONOSPACED = (
    "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12px;"
    "padding:0;background:transparent;color:inherit"
)
CELL = "text-align:left;vertical-align:top;padding:3px 12px 3px 0;border:0;background:transparent"
TEXT = (
    f"{MONOSPACED};white-space:pre-wrap;overflow-wrap:anywhere;word-break:normal;unicode-bidi:isolate;max-height:20em;"
    "overflow:auto;margin:0;border:0;min-width:20em"
)
TABLE = (
    "table-layout:auto;width:auto;display:table;border-collapse:collapse;border:0;margin:0;"
    "background:transparent;color:inherit;font-size:13px"
)
CARD = (
    f"font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;border:1px solid {GREY};"
    "border-radius:6px;padding:10px 14px;margin:4px 0;max-width:960px;overflow-x:auto;color:inherit"
)
MAX_POINTS = 120
"""Points of a sparkline; more are averaged."""
MAX_CHARACTERS = 2000
"""Characters of one text that are shown at all."""
FOLDED_CHARACTERS = 240
"""Characters of a text that are shown before it is unfolded."""

_SURROGATES = re.compile("[\ud800-\udfff\x80-\x9f]")
_CONTROLS = {number: chr(0x2400 + number) for number in range(32) if chr(number) not in "\t\n"}
_CONTROLS[0x7F] = "\u2421"
for _number in (*range(0x202A, 0x202F), *range(0x2066, 0x206A)):  # they would turn text around
    _CONTROLS[_number] = f"\\u{_number:04x}"


class Html(str):
    """Markup; any other text is escaped where it meets markup."""

    __slots__ = ()


def escaped(value: object) -> Html:
    """`value` as text of a page: no character acts as markup, control characters are seen.

    Half a surrogate pair, which no file can hold, becomes the replacement character; what would turn the direction of
    writing around is spelt out.
    """
    if isinstance(value, Html):
        return value
    text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", str(value)).translate(_CONTROLS)
    return Html(html.escape(text))


def joined(parts: Iterable[object]) -> Html:
    """`parts` one after the other, each escaped unless it is markup."""
    return Html("".join(map(escaped, parts)))


def tag(name: str, *children: object, style: str = "", title: str = "") -> Html:
    """An element with `children`, each escaped unless it is markup."""
    attributes = {"style": style, "title": title}
    written = "".join(f' {key}="{escaped(value)}"' for key, value in attributes.items() if value)
    return Html(f"<{name}{written}>{joined(children)}</{name}>")


def card(heading: object, *parts: object) -> Html:
    """A framed piece under a bold heading."""
    return tag("div", tag("div", heading, style="margin-bottom:6px"), *parts, style=CARD)


def heading(kind: str, name: str, *remarks: str) -> Html:
    """``Trainer quickstart  20 of 60 steps``, the remarks faint."""
    faint = [tag("span", remark, style=f"{FAINT};margin-left:12px") for remark in remarks if remark]
    return joined([tag("b", kind), " ", name, *faint])


def faint(*parts: object) -> Html:
    """A line that stands back."""
    return tag("div", *parts, style=f"{FAINT};margin-top:6px")


def table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """A table without lines; no head where all of `heads` are empty."""
    body = [_table_row("td", row, CELL) for row in rows]
    parts: list[Html] = []
    if any(heads):
        head = f"{CELL};{FAINT};font-weight:normal;white-space:nowrap"
        parts.append(tag("thead", _table_row("th", heads, head), style="border:0"))
    return tag("table", *parts, tag("tbody", *body), style=TABLE)


def _table_row(name: str, cells: Sequence[object], style: str) -> Html:
    return tag("tr", *(tag(name, cell, style=style) for cell in cells), style=CELL)


def folded(summary: object, *parts: object) -> Html:
    """What is seen when `summary` is clicked."""
    return tag("details", tag("summary", summary, style="cursor:pointer"), *parts)


def text_block(text: str) -> Html:
    """Text as it was written, in ``pre``, where notebooks typeset no mathematics; a long one is folded, and cut."""
    if len(text) <= FOLDED_CHARACTERS:
        return tag("pre", text, style=TEXT)
    more = ""
    if len(text) > MAX_CHARACTERS:
        more = f" ... and {len(text) - MAX_CHARACTERS:,} more characters"
    in_one_line = text[:FOLDED_CHARACTERS].replace("\n", "↵ ")
    beginning = tag("pre", f"{in_one_line} ...", style=f"{TEXT};display:inline")
    return folded(
        joined([beginning, tag("span", f" ({len(text):,} characters)", style=FAINT)]),
        tag("pre", text[:MAX_CHARACTERS], more, style=f"{TEXT};border-top:1px dashed {GREY}"),
    )


# ---- numbers --------------------------------------------------------------------------------------------------


def is_known(value: object) -> bool:
    """Whether `value` is a number that can be shown."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def percent(share: float | None, decimals: int = 1) -> str:
    """``41.2 %``; a dash for nothing."""
    if share is None or not is_known(share):
        return "–"
    return f"{100 * share:.{decimals}f} %"


def number(value: float | None) -> str:
    """A number in a few digits, a dash for nothing.

    >>> [number(value) for value in (256, 0.31640625, 29.128, 2.2e-07, 1500000, -0.5, float("nan"))]
    ['256', '0.316', '29.1', '2.2e-07', '1,500,000', '−0.500', '–']
    >>> number(5.6), number(1234.56)
    ('5.60', '1,235')
    """
    if value is None or not is_known(value):
        return "–"
    size = abs(value)
    if float(value).is_integer() and size < 1e12:
        shown = f"{value:,.0f}"
    elif size < 1e-3 or size >= 1e6:
        shown = f"{value:.1e}"
    else:
        decimals = sum(size < limit for limit in (1000, 10, 1))
        shown = f"{value:,.{decimals}f}"
    return shown.replace("-", "−", 1) if value < 0 else shown


# ---- drawings -------------------------------------------------------------------------------------------------


def deviation_bar(distance: float, largest: float) -> Html:
    """A distance from the middle, of at most `largest` to either side: green to the right of it, red to the left."""
    length = round(28 * distance / largest, 1) if largest else 0.0
    color = GREEN if distance > 0 else RED
    start = min(30.0, 30 + length)
    inner = f'<rect x="{start}" y="3" width="{abs(length)}" height="8" fill="{color}"/>'
    middle = '<line x1="30" y1="0" x2="30" y2="14" stroke="currentColor" stroke-opacity=".5"/>'
    return _drawing(60, 14, inner + middle)


def interval_chart(value: float, low: float, high: float) -> Html:
    """A point with its interval on a scale from 0 to 1."""
    if not all(map(is_known, (value, low, high))):
        return Html("")
    start, point, end = (round(2 + 156 * share, 1) for share in (low, value, high))
    scale = f'<line x1="2" y1="7" x2="158" y2="7" stroke="{GREY}" stroke-width="2"/>'
    band = (
        f'<line x1="{start}" y1="7" x2="{end}" y2="7" stroke="{BLUE}" stroke-opacity=".45" '
        'stroke-width="8"/>'
    )
    dot = f'<circle cx="{point}" cy="7" r="4" fill="{BLUE}"/>'
    return _drawing(160, 14, scale + band + dot)


def sparkline(values: Sequence[float | None]) -> Html:
    """The course of `values`, with a dot at the last; nothing for fewer than two known ones."""
    heights = _thinned(values)
    known = [height for height in heights if height is not None]
    if len(known) < 2:
        return Html("")
    low = min(known)
    span = max(known) - low or 1.0
    lines: list[list[str]] = [[]]
    last = ""
    for index, height in enumerate(heights):
        if height is None:
            lines.append([])
            continue
        x = round(3 + 114 * index / (len(heights) - 1), 1)
        y = round(19 - 16 * (height - low) / span, 1)
        lines[-1].append(f"{x},{y}")
        last = f'<circle cx="{x}" cy="{y}" r="2.5" fill="{BLUE}"/>'
    style = f'fill="none" stroke="{BLUE}" stroke-width="1.3"'
    drawn = "".join(f'<polyline points="{" ".join(line)}" {style}/>' for line in lines if line)
    return _drawing(120, 22, drawn + last)


def _drawing(width: int, height: int, shapes: str) -> Html:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return Html(
        f'<svg {size} style="vertical-align:middle;max-width:none" aria-hidden="true">{shapes}</svg>'
    )


def _thinned(values: Sequence[float | None]) -> list[float | None]:
    """At most `MAX_POINTS` values, each the mean of its stretch; None where nothing is known."""
    length = max(1, math.ceil(len(values) / MAX_POINTS))
    means: list[float | None] = []
    for start in range(0, len(values), length):
        stretch = values[start : start + length]
        known = [value for value in stretch if value is not None and math.isfinite(value)]
        means.append(sum(known) / len(known) if known else None)
    return means
