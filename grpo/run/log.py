"""One record a step, to the console, ``metrics.jsonl`` and the trackers; in the loop, the only file that prints.

What is printed is also kept, in ``console.log`` of the run folder, over all lives of the run.

The console leads with reward and held-out accuracy, never with the loss: a policy-gradient loss is near 0 by
construction and says nothing about learning.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from tqdm import tqdm

from grpo.monitor import watchdog
from grpo.monitor.gate_table import RUNGS
from grpo.monitor.gates import Alarm
from grpo.monitor.redaction import Redactor
from grpo.recipe.shorthands import HELD_OUT
from grpo.report.trackers import Life, Trackers
from grpo.run.accuracy import Evaluation
from grpo.types import Completion, ScoredGroup
from rewards import Score

Record = dict[str, Any]
CONSOLE = "console.log"


class Log:
    """Writes what happens to a run's folder and console; a quiet log prints nothing.

    A silent log (other ranks) writes nothing at all.

    ``accuracy`` is the last held-out accuracy, ``tracker_ids`` are the run's ids at the `trackers`; a checkpoint keeps
    both.
    """

    def __init__(
        self,
        folder: Path,
        trackers: Trackers | None = None,
        *,
        silent: bool = False,
        quiet: bool = False,
    ):
        self.folder = folder
        self.silent = silent
        self.quiet = quiet
        self.trackers = trackers
        self.accuracy: float | None = None
        self._hide_secrets = Redactor()
        self._bar: tqdm | None = None
        self._said: list[str] = []
        self._is_open = False

    @property
    def tracker_ids(self) -> dict[str, str]:
        """The run's id at each tracker; set before `open` where the run folder does not know them."""
        return {} if self.trackers is None else self.trackers.ids

    @tracker_ids.setter
    def tracker_ids(self, ids: Mapping[str, str]) -> None:
        if self.trackers is not None:
            self.trackers.former_ids = ids

    def open(self, life: Life, steps: int) -> None:
        """Start, or continue after the step of `life`; `RecipeError` if a tracker refuses its settings."""
        if self.silent:
            return
        self._is_open = True
        when = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        append_console(self.folder, [f"--- {when}", *self._said])
        self._said = []
        if self.trackers is not None:
            self.trackers.open(life, self.say)
        self._bar = tqdm(
            total=steps,
            initial=life.step,
            unit="step",
            dynamic_ncols=True,
            file=sys.stderr,
            disable=True if self.quiet else None,
            leave=False,
        )

    def say(self, *lines: str) -> None:
        """Print lines above the progress bar; what the console's encoding lacks is escaped."""
        if self.silent:
            return
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        shown = [self._hide_secrets(line) for line in lines]
        if self._is_open:
            append_console(self.folder, shown)
        else:
            self._said += shown  # the folder is not prepared yet
        if self.quiet:
            return
        for line in shown:
            tqdm.write(line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
        sys.stdout.flush()

    def step(self, record: Record, groups: Sequence[ScoredGroup], steps: int) -> None:
        """Write one step: its record, and every completion with its parts and status."""
        if self.silent:
            return
        rows = rows_of(record["step"], groups)
        self._append("samples.jsonl", rows)
        self._append("metrics.jsonl", [record])
        if self.trackers is not None:
            self.trackers.step(record, rows)
        self.say(self.line(record, steps))
        if self._bar is not None:
            self._bar.update()

    def alarm(self, alarm: Alarm, aloud: bool) -> None:
        """Write an alarm of a gate; `aloud`, print it too."""
        if self.silent:
            return
        self._append("alarms.jsonl", [alarm.to_mapping()])
        if aloud:
            self.say(f"warning: step {alarm.step}: gate {alarm.gate}: {alarm.says}")

    def samples(self, step: int, groups: Sequence[ScoredGroup], file: str) -> None:
        """Append every completion of `groups` to a JSONL file of the run."""
        if not self.silent:
            self._append(file, rows_of(step, groups))

    def evaluation(self, step: int, results: Mapping[str, Evaluation], when: str) -> None:
        """Print and write the evaluation of each set."""
        self.accuracy = next(iter(results.values())).accuracy
        if self.silent:
            return
        metrics: Record = {}
        rows = {name: rows_of(step, result.groups) for name, result in results.items()}
        for name, result in results.items():
            self._append("evaluations.jsonl", [{"set": name, **row} for row in rows[name]])
            metrics |= evaluation_metrics(name, result)
        self._append("metrics.jsonl", [{"step": step, **metrics}])
        if self.trackers is not None:
            self.trackers.evaluation(step, metrics, rows)
        for name, result in results.items():
            shown = "held-out" if name == HELD_OUT else name
            self.say(f"{shown} {when}: {_evaluation_line(result)}")

    def line(self, record: Record, steps: int) -> str:
        """The console's line for a step."""
        parts = [f"step {record['step']:>{len(str(steps))}}/{steps}"]
        parts.append(f"reward {record['reward/mean']:.3f}")
        if self.accuracy is not None and self.accuracy >= 0:
            parts.append(f"held-out {self.accuracy:.1%}")
        parts.append(f"length {record['completion/length']:.1f}")
        parts.append(f"flat {record['group/flat']:.0%}")
        if record["update/made"]:
            parts.append(f"entropy {record['policy/entropy']:.2f}")
        else:
            parts.append("no update: nothing to learn")
        if record.get("policy/drift") is not None:
            parts.append(f"drift {record['policy/drift']:.0e}")
        if record["ledger/faulted"]:
            parts.append(f"faults {record['ledger/faulted']}")
        parts += raised_gates(record)
        parts.append(f"{record['seconds/step']:.1f} s")
        return "  ".join(parts)

    def close(self, *, failed: bool = False, hurried: bool = False) -> None:
        """Finish the progress bar and the run at the trackers, there as one that failed if it did.

        Where it is `hurried`, a tracker that does not answer is not waited for as long.
        """
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self.trackers is not None and not self.silent:
            self.trackers.close(failed=failed, hurried=hurried)

    def _append(self, file: str, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = (self._hide_secrets(json.dumps(finite(row), ensure_ascii=False)) for row in rows)
        with watchdog.waiting("checkpoint", owner=f"grpo.run.log, {file}"):
            # half a surrogate pair, which UTF-8 cannot hold, becomes its JSON escape
            with (self.folder / file).open("a", encoding="utf-8", errors="backslashreplace") as out:
                out.writelines(line + "\n" for line in lines)


def evaluation_metrics(name: str, result: Evaluation) -> Record:
    """An evaluation as flat keys: ``heldout/accuracy``, or ``eval/NAME/accuracy`` for a set of the recipe.

    In a mixture, each source of the held-out rows has its own: ``heldout/SOURCE/accuracy``.
    """
    stem = HELD_OUT if name == HELD_OUT else f"eval/{name}"
    metrics = {f"{stem}/{key}": value for key, value in result.metrics().items()}
    for source, figures in result.by_source().items():
        if source and source != name:
            metrics |= {f"{stem}/{source}/{key}": value for key, value in figures.items()}
    return metrics


def append_console(folder: Path, lines: Sequence[str]) -> None:
    """Keep `lines` in ``console.log`` of a run that has begun; a disk that fails costs only them."""
    if not (folder / "recipe.yaml").is_file():
        return
    with suppress(OSError):
        with (folder / CONSOLE).open("a", encoding="utf-8", errors="backslashreplace") as out:
            out.writelines(f"{line}\n" for line in lines)


def _evaluation_line(evaluation: Evaluation) -> str:
    num_tried = evaluation.samples + evaluation.faults
    per_prompt = num_tried // max(1, evaluation.prompts)
    parts = [
        f"{interval(evaluation.to_mapping())} ({evaluation.prompts} prompts x {per_prompt} samples)",
        f"length {evaluation.length:.1f}",
        f"truncated {evaluation.truncated:.1%}",
    ]
    if math.isfinite(evaluation.reward) and evaluation.reward != evaluation.accuracy:
        bounds = f"[{evaluation.reward_low:.3f}, {evaluation.reward_high:.3f}]"
        parts.insert(1, f"mean reward {evaluation.reward:.3f} {bounds}")
    parts += [f"{name} {value:.3g}" for name, value in evaluation.details.items() if "/" in name]
    if evaluation.faults:
        parts.append(f"{evaluation.faults} not scored")
    return ", ".join(parts)


def rows_of(step: int, groups: Iterable[ScoredGroup]) -> list[dict[str, Any]]:
    """One row for each completion of `groups`."""
    return [row for group in groups for row in sample_rows(step, group)]


def sample_rows(step: int, group: ScoredGroup) -> list[dict[str, Any]]:
    """One row a completion: where it came from, what was written, and its scores."""
    verdicts = group.verdicts or ({},) * len(group.scores)
    rows = []
    for index, completion in enumerate(group.completions):
        source = {
            "step": step,
            "prompt_id": group.prompt.id,
            "index": index,
            "prompt": group.prompt.text,
        }
        scored = _scored_columns(group.scores[index], verdicts[index])
        rows.append({**source, **_written_columns(completion), **scored})
    return rows


def _written_columns(completion: Completion) -> dict[str, Any]:
    return {
        "completion": completion.text,
        "finish": completion.finish,
        "stop": completion.stop,
        "num_tokens": len(completion.token_ids),
    }


def _scored_columns(score: Score, verdict: Mapping[str, Score]) -> dict[str, Any]:
    details = {name: part.detail for name, part in verdict.items() if part.detail}
    return {
        "reward": score.value,
        "status": score.status,
        "parts": {name: part.value for name, part in verdict.items()},
        "statuses": {name: part.status for name, part in verdict.items()},
        "detail": details or score.detail,
    }


def raised_gates(record: Mapping[str, Any]) -> Iterable[str]:
    """``drift: warn`` for each gate above a note."""
    for key, level in record.items():
        if key.startswith("gate/") and key != "gate/level" and level > 1:
            yield f"{key.removeprefix('gate/')}: {RUNGS[level - 1]}"


def interval(result: Mapping[str, Any]) -> str:
    """``41.2 % [38.0, 44.5]`` of an evaluation's numbers."""
    if result["accuracy"] is None or math.isnan(result["accuracy"]):
        return "nothing scored"
    accuracy, low, high = (100 * result[key] for key in ("accuracy", "low", "high"))
    return f"{accuracy:.1f} % [{low:.1f}, {high:.1f}]"


def finite(value: Any) -> Any:
    """`value` with NaN and infinity as null, which JSON can hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
