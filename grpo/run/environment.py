"""What a run ran on: a line of ``environment.jsonl`` for each of its lives, with versions and hardware."""

from __future__ import annotations

import json
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

from grpo import __version__
from grpo.distributed.process_group import Ranks
from grpo.model.policy import Policy
from grpo.monitor.redaction import redacted

ENVIRONMENT = "environment.jsonl"
GIB = 1 << 30


def write_environment(folder: Path, policy: Policy, ranks: Ranks, step: int) -> None:
    """Note that a life of the run begins after `step`."""
    text = redacted(json.dumps(environment(policy, ranks, step), ensure_ascii=False))
    with (folder / ENVIRONMENT).open("a", encoding="utf-8") as out:
        out.write(text + "\n")


def environment(policy: Policy, ranks: Ranks, step: int) -> dict[str, Any]:
    """Versions and hardware, as plain values."""
    versions = {
        "grpo": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    hardware = {
        "devices": _devices(policy.device, ranks.world),
        "processor": _processor(),
        "cores": psutil.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "processes": ranks.world,
        "threads": torch.get_num_threads(),
    }
    return {
        "step": step,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "model": policy.describe(),
        "versions": versions,
        "hardware": hardware,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _devices(device: torch.device, number: int) -> str:
    """The kind of device that trains, and how many of them where there are several."""
    if device.type != "cuda":
        return device.type.upper()
    name = torch.cuda.get_device_name(device)
    return name if number == 1 else f"{number} x {name}"


def uuid_of(device: torch.device) -> str | None:
    """The name by which NVIDIA's tools know a GPU; None for other devices."""
    if device.type != "cuda" or torch.version.cuda is None:
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _processor() -> str:
    """The CPU's name; on Linux ``platform`` knows only its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
