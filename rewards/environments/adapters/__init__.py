"""Environments and tools of other libraries, as they are written for them."""

from __future__ import annotations

from typing import Any

__all__ = ["ADAPTERS"]

ADAPTERS: tuple[Any, ...] = ()
