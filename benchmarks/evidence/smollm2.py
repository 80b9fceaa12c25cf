"""SmolLM2-135M-Instruct as both libraries load it: the de-quantised weights as safetensors, made once."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.evidence.frame import ROOT

GIVEN = "GRPO_EVIDENCE_SMOLLM2"
"""Names a folder with another model, which `make smollm2` need not have brought: for tries."""


def source() -> Path:
    return ROOT / "models" / "smollm2"


def lacks() -> str:
    """What is missing here, in words; empty if nothing is."""
    if os.environ.get(GIVEN) or source().is_dir():
        return ""
    return "models/smollm2 is missing; make smollm2 brings it"


def folder() -> str:
    """A folder that transformers loads."""
    given = os.environ.get(GIVEN)
    if given:
        return given
    made = ROOT / "models" / "smollm2-dequantised"
    if not (made / "config.json").exists():
        from grpo.model.policy import Policy
        from grpo.recipe import ModelSection

        Policy.load(ModelSection(name=str(source()))).save(made)
    return str(made)
