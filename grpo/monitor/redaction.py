"""Keys and tokens are kept out of what is printed, logged and written: hidden in texts, refused in recipes.

What counts as a secret: the values of environment variables whose names say so, the hub's saved token, passwords of
``.netrc``, and texts of the forms that the usual services give out.
"""

from __future__ import annotations

import json
import netrc
import os
import re
from pathlib import Path
from typing import Any, Iterator, Mapping

HIDDEN = "[hidden]"
LEAST_LENGTH = 10
_NAMES = re.compile(
    r"TOKEN(?!IZER)|API_?KEY|_KEY$|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE
)
_FORMS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bglpat-[\w-]{20,}"
    r"|(?<=://)[^/\s:@\"'\\]+:[^/\s:@\"'\\]+(?=@)|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{16,}"
)


class Redactor:
    """Hides the secrets that this process knew when it was made."""

    def __init__(self, environment: Mapping[str, str] | None = None):
        known = set(known_secrets(os.environ if environment is None else environment))
        forms = {form for value in known for form in (value, json.dumps(value)[1:-1])}
        self.known = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for value in self.known:
            if value in text:
                text = text.replace(value, HIDDEN)
        return _FORMS.sub(HIDDEN, text)


def redacted(text: str) -> str:
    """`text` with every secret in it hidden."""
    return Redactor()(text)


def known_secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """The secrets at hand, each long enough not to be hidden by chance."""
    for name, value in environment.items():
        if _NAMES.search(name) and len(value.strip()) >= LEAST_LENGTH and not Path(value).exists():
            yield value.strip()
    home = Path(
        environment.get(
            "HF_HOME", Path(environment.get("HOME", "/nonexistent")) / ".cache" / "huggingface"
        )
    )
    try:
        saved = (
            Path(environment.get("HF_TOKEN_PATH", home / "token"))
            .read_text(encoding="utf-8")
            .strip()
        )
    except (OSError, UnicodeDecodeError):
        saved = ""
    if len(saved) >= LEAST_LENGTH:
        yield saved
    try:
        hosts = netrc.netrc(str(Path(environment.get("HOME", "/nonexistent")) / ".netrc")).hosts
    except (OSError, netrc.NetrcParseError):
        hosts = {}
    yield from (
        password for _, _, password in hosts.values() if password and len(password) >= LEAST_LENGTH
    )


def secret_keys(values: Any, where: str = "") -> Iterator[str]:
    """The dotted keys of a recipe's plain values under which a secret stands."""
    hide = Redactor()
    for key, value in _leaves(values, where):
        if isinstance(value, str) and hide(value) != value:
            yield key


def _leaves(values: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _leaves(value, f"{where}.{name}" if where else str(name))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _leaves(value, where)
    else:
        yield where, values
