"""Keeps keys and tokens out of what is printed, logged and written: hidden in text, refused in recipes.

What counts as a secret: the values of environment variables whose names say so, the hub's saved token, passwords in
``.netrc``, and text in the formats of the usual services' keys.
"""

from __future__ import annotations

import json
import netrc
import os
import re
from pathlib import Path
from typing import Any, Iterator, Mapping

HIDDEN = "[hidden]"
MIN_LENGTH = 10
_NAMES = re.compile(
    r"TOKEN(?!IZER)|API_?KEY|_KEY$|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE
)
_FORMATS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bglpat-[\w-]{20,}"
    r"|(?<=://)[^/\s:@\"'\\]+:[^/\s:@\"'\\]+(?=@)|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{16,}"
)


class Redactor:
    """Hides the secrets that this process knew when the redactor was made."""

    def __init__(self, environment: Mapping[str, str] | None = None):
        spellings = set()
        for secret in known_secrets(os.environ if environment is None else environment):
            spellings.add(secret)
            spellings.add(json.dumps(secret)[1:-1])
        self.known = sorted(spellings, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self.known:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return _FORMATS.sub(HIDDEN, text)


def redacted(text: str) -> str:
    """`text` with every secret in it hidden."""
    return Redactor()(text)


def known_secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """The secrets of `environment` and its home folder, each long enough not to be hidden by chance."""
    for name, value in environment.items():
        is_secret = _NAMES.search(name) and len(value.strip()) >= MIN_LENGTH
        if is_secret and not Path(value).exists():
            yield value.strip()
    token = _saved_token(environment)
    if len(token) >= MIN_LENGTH:
        yield token
    for password in _netrc_passwords(environment):
        if password and len(password) >= MIN_LENGTH:
            yield password


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME", "/nonexistent"))


def _saved_token(environment: Mapping[str, str]) -> str:
    """The token that the hub's client saved; empty if there is none."""
    default_cache = _home(environment) / ".cache" / "huggingface"
    cache = Path(environment.get("HF_HOME", default_cache))
    file = Path(environment.get("HF_TOKEN_PATH", cache / "token"))
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _netrc_passwords(environment: Mapping[str, str]) -> list[str | None]:
    try:
        hosts = netrc.netrc(str(_home(environment) / ".netrc")).hosts
    except (OSError, netrc.NetrcParseError):
        return []
    return [password for _, _, password in hosts.values()]


def secret_keys(values: Any, where: str = "") -> Iterator[str]:
    """The dotted keys of a recipe's plain values that hold a secret."""
    redact = Redactor()
    for key, value in _leaves(values, where):
        if isinstance(value, str) and redact(value) != value:
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


MAX_MESSAGE_LENGTH = 300  # characters of an error that are shown


def first_words(error: BaseException) -> str:
    """The beginning of an error's message, in one line, without secrets."""
    message = redacted(" ".join(str(error).split()))
    if len(message) > MAX_MESSAGE_LENGTH:
        message = message[: MAX_MESSAGE_LENGTH - 3] + "..."
    return message or type(error).__name__
