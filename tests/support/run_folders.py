"""Run folders as a run writes them, made of nothing: for the tests of what reads them. Deterministic by seed."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Sequence

SYLLABLES = (
    "ba",
    "con",
    "der",
    "en",
    "fi",
    "gra",
    "hol",
    "in",
    "ka",
    "lo",
    "mi",
    "no",
    "pre",
    "qua",
    "re",
    "sto",
)
REFLECTION = ("wait", "but", "check", "しかし")


@dataclass
class Shape:
    """What a made run is like.

    ``texts`` are completions that take the place of made ones, one a step; ``tokens`` is the mean length.
    """

    steps: int = 6
    prompts: int = 3
    group_size: int = 4
    tokens: int = 40
    every: int = 3
    held_out: int = 5
    samples: int = 2
    sources: Sequence[str] = ()
    sets: Sequence[str] = ("heldout",)
    dense: bool = False
    with_tokens: int = 0
    seed: int = 0
    name: str = "made"
    texts: Sequence[str] = ()
    tests: int = 0
    finished: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


class Writer:
    """Writes the files of one made run."""

    def __init__(self, folder: Path, shape: Shape):
        self.folder = folder
        self.shape = shape
        self.random = random.Random(shape.seed)
        self.words = sorted({self._word() for _ in range(1500)})
        self.metrics: list[dict[str, Any]] = []

    def _word(self) -> str:
        return "".join(self.random.choice(SYLLABLES) for _ in range(self.random.randint(1, 3)))

    def write(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe = {
            "name": self.shape.name,
            "seed": self.shape.seed,
            "steps": self.shape.steps,
            "rewards": {"correct": {"use": "math_answer", "weight": 1.0}},
            "evaluate": {"every": self.shape.every, "reward": None, "threshold": 1.0},
        }
        (self.folder / "recipe.yaml").write_text(json.dumps(recipe))
        with (self.folder / "samples.jsonl").open(
            "w", encoding="utf-8", errors="backslashreplace"
        ) as samples:
            with (self.folder / "evaluations.jsonl").open(
                "w", encoding="utf-8", errors="backslashreplace"
            ) as evaluations:
                self._evaluate(0, evaluations)
                for step in range(1, self.shape.steps + 1):
                    self._step(step, samples)
                    if self.shape.every and step % self.shape.every == 0:
                        self._evaluate(step, evaluations)
        lines = "".join(json.dumps(record) + "\n" for record in self.metrics)
        (self.folder / "metrics.jsonl").write_text(lines)
        self._environment()
        if self.shape.finished:
            self._summary()
        return self.folder

    # ---- a step

    def _step(self, step: int, out: Any) -> None:
        shape = self.shape
        rows = [
            self._row(step, f"{self._source(number)}train-{(step * 7 + number) % 40}", index)
            for number in range(shape.prompts)
            for index in range(shape.group_size)
        ]
        if step <= len(shape.texts):
            rows[0]["completion"] = shape.texts[step - 1]
            rows[0].pop("tokens", None)
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.metrics.append(self._record(step, rows))

    def _source(self, number: int) -> str:
        return (
            f"{self.shape.sources[number % len(self.shape.sources)]}:" if self.shape.sources else ""
        )

    def _row(self, step: int, prompt_id: str, index: int) -> dict[str, Any]:
        shape = self.shape
        number = max(4, int(self.random.gauss(shape.tokens, shape.tokens / 6)))
        text = self._text(number)
        skill = min(0.9, 0.2 + 0.7 * step / max(1, shape.steps))
        right = self.random.random() < skill
        value = round(self.random.random() * skill, 3) if shape.dense else float(right)
        row: dict[str, Any] = {
            "step": step,
            "prompt_id": prompt_id,
            "index": index,
            "prompt": f"Question {prompt_id}: {' '.join(self.words[:30])} <think>",
            "completion": text,
            "finish": "length" if index == 0 and step % 2 else "stop",
            "stop": 2,
            "num_tokens": number,
            "reward": value,
            "status": "scored",
            "parts": {"correct": value},
            "statuses": {"correct": "scored"},
            "detail": {"correct": f"extracted='{index}' how=boxed"},
            "right": None if shape.dense else right,
            "advantage": round(value - 0.5, 3),
            "outcome": "flat" if index % 4 == 3 else "trained",
        }
        if shape.sources:
            row["source"] = prompt_id.partition(":")[0]
        if shape.tests:
            row["reported"] = {
                "correct": {f"test_{place}": float(right) for place in range(shape.tests)}
            }
        if index < shape.with_tokens:
            row["tokens"] = self._tokens(text)
        return row

    def _text(self, number: int) -> str:
        words = self.random.choices(self.words, k=max(1, number // 2))
        for place in range(0, len(words), 50):
            words[place] = self.random.choice(REFLECTION)
        return " ".join(words) + "</think> The answer is \\boxed{7}."

    def _tokens(self, text: str) -> dict[str, list[float]]:
        ends = [*range(3, len(text), 4), len(text)]
        return {"ends": list(ends), "logps": [round(-self.random.expovariate(3), 3) for _ in ends]}

    def _record(self, step: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        rewards = [row["reward"] for row in rows]
        number = len(rows)
        flat = sum(row["outcome"] == "flat" for row in rows)
        tokens = sum(row["num_tokens"] for row in rows)
        return {
            "step": step,
            "reward/mean": sum(rewards) / number,
            "rewards/correct": sum(rewards) / number,
            "completion/length": tokens / number,
            "completion/truncated": 0.1,
            "completion/tokens": tokens,
            "completion/surprisal": 0.5,
            "group/flat": flat / number,
            "policy/entropy": 0.5 - 0.2 * step / self.shape.steps,
            "policy/drift": 2e-7,
            "policy/drift_max": 1e-5,
            "policy/kl": 0.0,
            "update/tokens": tokens - 5,
            "update/grad_norm": 0.2,
            "ledger/sampled": number,
            "ledger/trained": number - flat,
            "ledger/flat": flat,
            "seconds/sample": 1.0,
            "seconds/judge": 0.1,
            "seconds/update": 0.5,
            "seconds/step": 1.7,
            **self.shape.extra,
        }

    # ---- an evaluation

    def _evaluate(self, step: int, out: Any) -> None:
        if not self.shape.held_out:
            return
        record: dict[str, Any] = {"step": step}
        for name in self.shape.sets:
            rows = list(self._evaluation_rows(step, name))
            stem = name if name == "heldout" else f"eval/{name}"
            for row in rows:
                out.write(json.dumps({"set": name, **row}, ensure_ascii=False) + "\n")
            record |= {f"{stem}/{key}": value for key, value in self._figures(rows).items()}
        self.metrics.append(record)

    def _evaluation_rows(self, step: int, name: str) -> Iterator[dict[str, Any]]:
        for number in range(self.shape.held_out):
            for index in range(self.shape.samples):
                row = self._row(step, f"{name}-{number}", index)
                for key in ("advantage", "outcome", "tokens"):
                    row.pop(key, None)
                yield row

    def _figures(self, rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
        number = len(rows)
        reward = sum(row["reward"] for row in rows) / number
        figures: dict[str, float | None] = {
            "accuracy": None if self.shape.dense else reward,
            "low": None if self.shape.dense else max(0.0, reward - 0.1),
            "high": None if self.shape.dense else min(1.0, reward + 0.1),
            "reward": reward,
            "reward_low": reward - 0.1,
            "reward_high": reward + 0.1,
            "length": sum(row["num_tokens"] for row in rows) / number,
            "truncated": 0.0,
        }
        return figures

    # ---- the end

    def _environment(self) -> None:
        life = {
            "step": 0,
            "started": "2026-11-27T10:00:00+00:00",
            "model": "a made model",
            "versions": {"grpo": "0.1.0", "python": "3.11.0", "torch": "2.13.0"},
            "hardware": {
                "devices": "CPU",
                "processor": "a processor",
                "cores": 2,
                "memory_gib": 8.0,
                "processes": 1,
                "threads": 1,
            },
            "system": "Linux x86_64",
        }
        (self.folder / "environment.jsonl").write_text(json.dumps(life) + "\n")

    def _summary(self) -> None:
        steps = [record for record in self.metrics if "reward/mean" in record]
        ledger = {
            name: sum(record[f"ledger/{name}"] for record in steps)
            for name in ("sampled", "trained", "flat")
        }
        summary = {
            "name": self.shape.name,
            "steps": self.shape.steps,
            "seconds": 12.5,
            "tokens": {"sampled": 1000, "trained": 900, "evaluated": 300},
            "ledger": ledger,
        }
        (self.folder / "summary.json").write_text(json.dumps(summary))


def made_run(folder: Path, shape: Shape | None = None) -> Path:
    """A run folder of a `shape`."""
    return Writer(folder, shape or Shape()).write()
