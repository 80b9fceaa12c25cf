"""What devices tell of themselves: energy and how busy they are. NVML of NVIDIA GPUs, RAPL of processors on Linux.

A device that tells nothing is unknown, not zero. The counters are those of the whole device or socket, whoever uses it.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
MICRO = 1e-6
MILLI = 1e-3


class ProcessorEnergy:
    """The joules of a machine's processor sockets since this was made; None where the kernel does not tell."""

    def __init__(self, powercap: Path = POWERCAP):
        self._last: dict[Path, int] = {}
        self._joules = 0.0
        for zone in powercap.glob("intel-rapl:*"):
            with suppress(OSError, ValueError):
                if (zone / "name").read_text().startswith("package"):
                    self._last[zone] = _number(zone / "energy_uj")

    def joules(self) -> float | None:
        """Joules so far; to be asked before a counter has gone round once, so at least every few minutes."""
        if not self._last:
            return None
        for zone, last in self._last.items():
            with suppress(OSError, ValueError):
                now = _number(zone / "energy_uj")
                used = now - last
                if used < 0:  # the counter began again at 0
                    used += _number(zone / "max_energy_range_uj")
                self._last[zone] = now
                self._joules += used * MICRO
        return self._joules


def _number(file: Path) -> int:
    return int(file.read_text())


class _Utilization(ctypes.Structure):
    """``nvmlUtilization_t``: percent of the last sampling period in which a kernel ran, and memory was used."""

    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Gpu:
    """One NVIDIA GPU as NVML knows it, by its UUID (``GPU-...``); None for what it does not tell."""

    def __init__(self, uuid: str, library: Any = None):
        self._library = library
        self._handle: ctypes.c_void_p | None = None
        self._first: int | None = None
        with suppress(OSError, AttributeError):
            self._library = library or ctypes.CDLL("libnvidia-ml.so.1")
            handle = ctypes.c_void_p()
            found = self._library.nvmlInit_v2() == 0
            if found and not self._library.nvmlDeviceGetHandleByUUID(uuid.encode(), _at(handle)):
                self._handle = handle
                self._first = self._millijoules()

    def busy(self) -> float | None:
        """The share of the last second or less in which something ran on the GPU."""
        if self._handle is None:
            return None
        rates = _Utilization()
        failed = self._library.nvmlDeviceGetUtilizationRates(self._handle, _at(rates))
        return None if failed else rates.gpu / 100

    def joules(self) -> float | None:
        """Joules since this was made; Volta and later tell."""
        now = self._millijoules()
        if now is None or self._first is None:
            return None
        return (now - self._first) * MILLI

    def _millijoules(self) -> int | None:
        if self._handle is None:
            return None
        total = ctypes.c_ulonglong()
        failed = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, _at(total))
        return None if failed else total.value


def _at(value: Any) -> Any:
    return ctypes.byref(value)
