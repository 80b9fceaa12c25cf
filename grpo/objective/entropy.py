"""The entropy bonus's coefficient: fixed, or steered towards a target entropy as in Skywork-OR1."""

from __future__ import annotations

from typing import Any, Mapping


class EntropyBonus:
    """What the mean entropy of an update is multiplied by in its loss.

    With a target (Skywork-OR1, arXiv 2505.22312) the coefficient rises by ``step`` after an update whose entropy was
    below the target and falls by it after one above, within [0, 1]; it acts only while the entropy is at most the
    target. Its state is part of the checkpoint.
    """

    def __init__(self, fixed: float, target: float, step: float):
        self.fixed = fixed
        self.target = target
        self.step = step
        self.adaptive = fixed

    def coefficient(self, entropy: float | None) -> float:
        """The coefficient for an update with this mean entropy, which a target needs to know.

        With a target, the call also moves the coefficient of the next update.
        """
        if not self.target:
            return self.fixed
        assert entropy is not None, "an update whose bonus has a target is surveyed first"
        acting = self.adaptive if entropy <= self.target else 0.0
        change = self.step if entropy < self.target else -self.step
        self.adaptive = min(1.0, max(0.0, self.adaptive + change))
        return acting

    def state(self) -> dict[str, Any]:
        return {"adaptive": self.adaptive}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.adaptive = state["adaptive"]
