"""One record a step, to the console, ``metrics.jsonl`` and wandb; in the loop, the only file that prints.

The console leads with reward and held-out accuracy, never with the loss: a policy-gradient loss is near 0 by
construction and says nothing about learning.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, Mapping, Sequence

from tqdm import tqdm

from grpo.evaluate import Evaluation
from grpo.monitor import watchdog
from grpo.monitor.gate_table import RUNGS
from grpo.monitor.gates import Alarm
from grpo.monitor.redaction import Redactor
from grpo.recipe import RecipeError, WandbSection
from grpo.types import ScoredGroup

Record = dict[str, Any]


class Log:
    """Writes what happens to a run's folder and console. A silent log (other ranks) writes nothing.

    ``accuracy`` is the held-out accuracy last evaluated.
    """

    def __init__(self, folder: Path, wandb: WandbSection | None = None, *, silent: bool = False):
        self.folder, self.silent, self._hide = folder, silent, Redactor()
        self._section, self._wandb, self.wandb_id = wandb, None, None
        self._bar: tqdm | None = None
        self.accuracy: float | None = None

    def open(
        self, recipe: Mapping[str, Any], name: str, steps: int, step: int, wandb_id: str | None
    ) -> None:
        """Begin, or go on after `step`."""
        if self.silent:
            return
        if self._section is not None:
            self._open_wandb(recipe, name, wandb_id)
        self._bar = tqdm(
            total=steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            file=sys.stderr,
            disable=None,
            leave=False,
        )

    def _open_wandb(self, recipe: Mapping[str, Any], name: str, wandb_id: str | None) -> None:
        import wandb

        section = self._section
        try:
            with watchdog.waiting("server", owner="wandb, its start"):
                self._wandb = wandb.init(
                    project=section.project,
                    entity=section.entity,
                    mode=section.mode,
                    tags=list(section.tags),
                    name=name,
                    config=dict(recipe),
                    dir=str(self.folder),
                    id=wandb_id,
                    resume="allow" if wandb_id else None,
                )
        except wandb.errors.Error as error:
            raise RecipeError(
                f"recipe: log.wandb: {error} Or set log.wandb.mode=offline, or log.wandb=null"
            ) from None
        self.wandb_id = self._wandb.id

    def say(self, *lines: str) -> None:
        """Print lines above the progress bar."""
        if not self.silent:
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            for line in map(
                self._hide, lines
            ):  # a console that lacks a character must not end a run
                tqdm.write(
                    line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout
                )
            sys.stdout.flush()

    def step(self, record: Record, groups: Sequence[ScoredGroup], steps: int) -> None:
        """Book one step: its record, and every completion with its parts and status."""
        if self.silent:
            return
        self.samples(record["step"], groups, "samples.jsonl")
        self._append("metrics.jsonl", [record])
        if self._wandb is not None:
            with watchdog.waiting("server", owner="wandb, a record"):
                self._wandb.log(
                    {k: v for k, v in record.items() if v is not None}, step=record["step"]
                )
        self.say(self.line(record, steps))
        if self._bar is not None:
            self._bar.update()

    def alarm(self, alarm: Alarm, said: bool) -> None:
        """Book what a gate found, and say it where it is to be `said`."""
        if self.silent:
            return
        self._append("alarms.jsonl", [alarm.to_mapping()])
        if said:
            self.say(f"warning: step {alarm.step}: gate {alarm.gate}: {alarm.says}")

    def samples(self, step: int, groups: Sequence[ScoredGroup], file: str) -> None:
        """Append every completion of `groups` to a JSONL file of the run."""
        if not self.silent:
            self._append(file, [row for group in groups for row in sample_rows(step, group)])

    def evaluation(self, step: int, evaluation: Evaluation, when: str) -> None:
        """Say how the held-out prompts fare."""
        self.accuracy = evaluation.accuracy
        self.samples(step, evaluation.groups, "evaluations.jsonl")
        if self._wandb is not None:
            with watchdog.waiting("server", owner="wandb, a record"):
                self._wandb.log({"heldout/accuracy": evaluation.accuracy}, step=step)
        drawn = (evaluation.samples + evaluation.faults) // max(1, evaluation.prompts)
        self.say(
            f"held-out {when}: {interval(evaluation.to_mapping())} ({evaluation.prompts} prompts x {drawn} "
            f"samples), length {evaluation.length:.1f}, truncated {evaluation.truncated:.1%}"
            + "".join(
                f", {name} {value:.3g}" for name, value in evaluation.details.items() if "/" in name
            )
            + (f", {evaluation.faults} not scored" if evaluation.faults else "")
        )

    def line(self, record: Record, steps: int) -> str:
        """The console's line for a step."""
        held = (
            f"  held-out {self.accuracy:.1%}"
            if self.accuracy is not None and self.accuracy >= 0
            else ""
        )
        drift = record.get("policy/drift")
        faults = record["ledger/faulted"]
        return (
            f"step {record['step']:>{len(str(steps))}}/{steps}  reward {record['reward/mean']:.3f}{held}"
            f"  length {record['completion/length']:.1f}  flat {record['group/flat']:.0%}"
            + (
                f"  entropy {record['policy/entropy']:.2f}"
                if record["update/made"]
                else "  no update: nothing to learn"
            )
            + (f"  drift {drift:.0e}" if drift is not None else "")
            + (f"  faults {faults}" if faults else "")
            + raised(record)
            + f"  {record['seconds/step']:.1f} s"
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._wandb is not None:
            with watchdog.waiting("server", owner="wandb, its end"):
                self._wandb.finish()
            self._wandb = None

    def _append(self, file: str, rows: Sequence[Mapping[str, Any]]) -> None:
        # half a surrogate pair, which UTF-8 cannot hold, becomes its JSON escape
        with (
            watchdog.waiting("checkpoint", owner=f"grpo.run.log, {file}"),
            (self.folder / file).open("a", encoding="utf-8", errors="backslashreplace") as out,
        ):
            out.writelines(
                self._hide(json.dumps(finite(row), ensure_ascii=False)) + "\n" for row in rows
            )


def sample_rows(step: int, group: ScoredGroup) -> list[dict[str, Any]]:
    """One row a completion: where it came from, what was written, and the verdict on it."""
    verdicts = group.verdicts or ({},) * len(group.scores)
    return [
        {
            "step": step,
            "prompt_id": group.prompt.id,
            "index": i,
            "prompt": group.prompt.text,
            "completion": completion.text,
            "finish": completion.finish,
            "stop": completion.stop,
            "num_tokens": len(completion.token_ids),
            "reward": score.value,
            "status": score.status,
            "parts": {name: part.value for name, part in verdict.items()},
            "statuses": {name: part.status for name, part in verdict.items()},
            "detail": {name: part.detail for name, part in verdict.items() if part.detail}
            or score.detail,
        }
        for i, (completion, score, verdict) in enumerate(
            zip(group.completions, group.scores, verdicts)
        )
    ]


def raised(record: Mapping[str, Any]) -> str:
    """``  drift: warn`` for each gate that stands above a note."""
    return "".join(
        f"  {key.removeprefix('gate/')}: {RUNGS[level - 1]}"
        for key, level in record.items()
        if key.startswith("gate/") and key != "gate/level" and level > 1
    )


def interval(result: Mapping[str, Any]) -> str:
    """``41.2 % [38.0, 44.5]`` of an evaluation's numbers."""
    if result["accuracy"] is None or math.isnan(result["accuracy"]):
        return "nothing scored"
    return (
        f"{100 * result['accuracy']:.1f} % [{100 * result['low']:.1f}, {100 * result['high']:.1f}]"
    )


def finite(value: Any) -> Any:
    """`value` with NaN and infinity as null, which JSON can hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
