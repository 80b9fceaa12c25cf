"""A run folder of every kind of stage, as its own command leaves it; each is made once and only if it is asked for."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Sequence

from stage_runs import BASE, RL, SHAPED, START, TABLE
from stage_runs import run as run_stages

from grpo import Recipe
from grpo.stages import trainer_of
from rewards.tasks import load_task

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ ' ' }}{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ bos_token + m.content }}{% endif %}{% endfor %}"
)
ANSWERS = {"name": "answers", "reject": {"prompts": 4, "sample": {"max_tokens": 48}}}
FILES = {"name": "files", "export": {"to": "gguf", "precision": ["F32"]}, "from": "rl"}
SHARED = {
    "threads": 1,
    "steps": 2,
    "model": {"name": BASE},
    "optim": {"lr": 1e-3},
    "evaluate": {"every": 0, "before": False, "samples": 1},
    "checkpoint": {"every": 0},
    "log": {"report": False},
}
SCORED = {"rewards": {"correct": {"use": "countdown"}, "shaped": {"use": SHAPED}}}
SHORT = {"sample": {"max_tokens": 12}}


class RunFolders:
    """Run folders below one folder, by kind: ``pipeline``, its stages, and runs of their own."""

    def __init__(self, folder: Path):
        self.folder = folder

    def of(self, kind: str) -> Path:
        """The folder of a run of that kind."""
        stages = {"sft": "start", "grpo": "rl", "evaluate": "table", "export": "files"}
        if kind == "reject":
            return self.pipeline / "stages" / "answers"
        if kind in stages:
            return self.pipeline / "stages" / stages[kind]
        return getattr(self, kind)

    @cached_property
    def pipeline(self) -> Path:
        """All stages: supervised, reinforcement, rejection, evaluation, export."""
        folder = self.folder / "pipeline"
        run_stages(folder, START, RL, ANSWERS, TABLE, FILES)
        return folder

    @cached_property
    def sft_text(self) -> Path:
        """Texts, without rewards; the longest completion is left at its default."""
        rows = [{"text": f"{row['prompt']} {row['completion']}"} for row in self._traces]
        return self._run("sft_text", self._sft("texts.jsonl", rows))

    @cached_property
    def sft_chat(self) -> Path:
        """Chats, through a chat template that the recipe gives; some held out and scored."""
        rows = [self._chat(row) for row in self._traces]
        recipe = self._sft("chats.jsonl", rows, held_out=4)
        template = self.folder / "chat.jinja"
        template.write_text(CHAT_TEMPLATE)
        recipe["sft"]["chat_template"] = str(template)
        return self._run("sft_chat", {**recipe, **SCORED, **SHORT})

    @cached_property
    def sft_unscored(self) -> Path:
        """Prompts and completions, without rewards; the longest completion is left at its default."""
        return self._run("sft_unscored", self._sft("rows.jsonl", self._traces, held_out=4))

    @cached_property
    def traces(self) -> Path:
        """Distillation of traces."""
        recipe = self._sft("taught.jsonl", self._traces, held_out=4)
        own = {"stage": "distill", "distill": {"method": "traces"}, **SCORED, **SHORT}
        return self._run("traces", {**recipe, **own})

    @cached_property
    def distill(self) -> Path:
        """Distillation on the policy's own completions."""
        data = {"source": "countdown", "args": {"style": "symbols", "count": 60}, "held_out": 4}
        own = {
            "distill": {"teacher": BASE},
            "data": {**data, "template": "plain"},
            "sample": {"prompts": 4, "group_size": 1, "max_tokens": 12},
        }
        return self._run("distill", {**SHARED, "stage": "distill", **own, **SCORED})

    @cached_property
    def _traces(self) -> list[dict[str, Any]]:
        return list(load_task("countdown").rows(style="symbols", traces="search", count=24))

    def _chat(self, row: dict[str, Any]) -> dict[str, Any]:
        turns = [("user", row["prompt"]), ("assistant", row["completion"])]
        messages = [{"role": role, "content": content} for role, content in turns]
        return {"messages": messages, "numbers": row["numbers"], "target": row["target"]}

    def _sft(self, file: str, rows: Sequence[dict[str, Any]], held_out: int = 0) -> dict[str, Any]:
        path = self.folder / file
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data: dict[str, Any] = {"source": str(path), "held_out": held_out}
        if "prompt" in rows[0]:
            data["template"] = "plain"
        return {**SHARED, "stage": "sft", "data": data, "sft": {"batch": 4}}

    def _run(self, name: str, values: dict[str, Any]) -> Path:
        folder = self.folder / name
        recipe = Recipe.from_mapping({**values, "name": name, "run_dir": str(folder)})
        trainer_of(recipe)(recipe, quiet=True).train()
        return folder
