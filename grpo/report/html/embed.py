"""Puts data into a page so that no text of a model can become markup: escaped JSON, and deflated JSON in base64."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from typing import Any

from markupsafe import Markup

_ESCAPED = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}
LEVEL = 6


def dumped(value: Any) -> str:
    """`value` as compact JSON; half a surrogate pair, which UTF-8 cannot hold, becomes its escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text


def json_in_script(value: Any) -> Markup:
    r"""`value` as JSON that no HTML parser takes for the end of its ``<script type="application/json">``.

    >>> json_in_script({"a": "</script><!--"})
    Markup('{"a":"\\u003c/script\\u003e\\u003c!--"}')
    """
    text = dumped(value)
    for character, escape in _ESCAPED.items():
        text = text.replace(character, escape)
    return Markup(text)


def deflated(value: Any) -> bytes:
    """`value` as JSON, deflated."""
    return zlib.compress(dumped(value).encode("utf-8"), LEVEL)


def in_base64(data: bytes) -> str:
    """`data` as text of a page."""
    return base64.b64encode(data).decode("ascii")


def source_hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline script or style of exactly this `text`."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
