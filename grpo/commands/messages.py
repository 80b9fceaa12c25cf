"""What commands say when something went wrong: on standard error, without secrets that foreign errors may repeat."""

from __future__ import annotations

import sys


def print_error(message: str) -> None:
    """Say on standard error what went wrong."""
    print(without_secrets(message), file=sys.stderr)


def without_secrets(message: str) -> str:
    """`message` with keys and tokens hidden."""
    from grpo.monitor.redaction import redacted  # noqa: PLC0415  slow to import

    return redacted(message)
