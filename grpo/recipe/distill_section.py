"""The section ``distill``, and what it means for the loss: on its completions a policy learns by ``loss.teacher``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

from grpo.recipe.keys import ShortSection, key
from grpo.recipe.values import NOT_EMPTY, one_of

METHODS = ("on_policy", "traces")
TEACHER_DTYPES = ("float32", "bfloat16", "float16", "float64")
TEACHER_KEYS = {
    "teacher": "teacher",
    "teacher_dtype": "teacher_dtype",
    "offload": "teacher_offload",
}
"""Keys of ``distill``, and the key of ``loss`` that each sets."""


@dataclass(frozen=True, repr=False)
class DistillSection(ShortSection):
    """Distillation: from whom, and on whose completions."""

    method: str = key(
        "on_policy",
        "on_policy: the policy samples, and learns by the reverse KL to distill.teacher of each token; traces: it "
        "learns rows with completions that a teacher wrote, as in supervised fine-tuning",
        one_of(*METHODS),
    )
    teacher: str | None = key(
        None,
        "on_policy: hub id or folder of the model to learn from, with the policy's tokenizer",
        NOT_EMPTY,
    )
    teacher_dtype: str | None = key(
        None, "dtype that holds the teacher; default: model.dtype", one_of(*TEACHER_DTYPES)
    )
    offload: bool = key(
        False, "on a GPU, keep the teacher in host memory but for its forward pass once a step"
    )


def distillation_loss(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of ``loss`` that a recipe's stage and section ``distill`` set; none for other recipes."""
    section = values.get("distill")
    given: Mapping[str, Any] = section if isinstance(section, Mapping) else {}
    method = given.get("method", DistillSection().method)
    if values.get("stage") != "distill" or method != "on_policy":
        return {}
    loss: dict[str, Any] = {"policy": "none", "aggregation": "token_mean"}
    for ours, in_loss in TEACHER_KEYS.items():
        if ours in given:
            loss[in_loss] = given[ours]
    return loss
