"""What turns cost: completions of equal length in 1, 8, 32 and 128 turns, and others that wait for slow tools.

    python benchmarks/turns.py --written 512 --given 512 --rows 16

A random Llama without end tokens writes `written` tokens and is given `given`, in so many turns that are answered at
once. The same work without turns: the given tokens stand in the prompt. Where a turn costs no more than its tokens, the
seconds do not grow with the number of turns. ``waiting`` decodes the same rows while as many others wait for a tool.
Arrangements take turns, `--repeat` times; the run of least CPU time counts, which other work disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
VOCABULARY = 115
PROMPT = 32
TURNS = (1, 8, 32, 128)


@dataclass
class FixedTurns:
    """Every `turn_length` tokens a completion is given `given`; those of groups from `slow_from` on wait to the end."""

    turn_length: int
    given: int
    max_calls: int
    slow_from: int = 1 << 30
    most_given: int = 1 << 20
    ready: list[Any] = field(default_factory=list)
    slow: list[Any] = field(default_factory=list)

    def begin(self, sequences: Sequence[Any]) -> None:
        """Nothing is given before the first turn."""

    def ends_call(self, sequence: Any) -> str:
        """A call ends where a turn has its length."""
        return "." if len(sequence.tokens) - sequence.turn_start == self.turn_length else ""

    def pauses(self, sequence: Any) -> bool:
        """Answered at once, or not before all others have ended."""
        if len(sequence.turns) == self.max_calls:
            return False
        sequence.pause()
        queue = self.slow if sequence.group_index >= self.slow_from else self.ready
        queue.append(sequence)
        return True

    def take_ready(self, wait: bool) -> list[Any]:
        """Those that are answered."""
        from rewards.environments import Turn

        ready = self.ready
        self.ready = []
        if wait and not ready:
            ready = self.slow
            self.slow = []
        for sequence in ready:
            number = len(sequence.turns)
            tokens = [3 + (7 * number + place) % 80 for place in range(self.given)]
            sequence.observe(tokens, Turn("", ""))
        return ready

    def cancel(self, sequence: Any) -> None:
        """Nobody cancels."""


def make_policy(width: int, layers: int, context: int) -> Any:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from grpo.model.policy import Policy

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=context,
    )
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "recipes" / "quickstart_base")
    policy = Policy(LlamaForCausalLM(config), tokenizer)
    policy.stop_ids = frozenset()
    return policy


def run(policy: Any, options: argparse.Namespace, prompts: list[Any], turns: Any) -> dict[str, Any]:
    """Seconds until the groups that nobody keeps waiting are done, and what was computed."""
    from grpo.kernels.sampling.spec import Sampling
    from grpo.rollout.engine import Engine

    engine = Engine(policy, paged=options.paged, max_rows=4 * options.rows)
    slow_from = getattr(turns, "slow_from", 1 << 30)
    started = time.perf_counter()
    cpu_started = time.process_time()
    seconds = cpu_seconds = 0.0
    for index, _ in engine.sample(
        prompts,
        group_size=1,
        max_tokens=options.written,
        sampling=Sampling(),
        seed=(0,),
        turns=turns,
    ):
        if index < slow_from:
            seconds = time.perf_counter() - started
            cpu_seconds = time.process_time() - cpu_started
    stats = engine.stats
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "computed": stats.rows_alive + stats.prefill_tokens,
        "steps": stats.steps,
        "replayed": stats.replayed,
    }


def make_prompts(number: int, length: int) -> list[Any]:
    from grpo.types import Prompt

    prompts = []
    for i in range(number):
        tokens = tuple(3 + (11 * i + 5 * place) % 80 for place in range(length))
        prompts.append(Prompt(f"p{i}", tokens, {}))
    return prompts


def arrangements(options: argparse.Namespace) -> Iterator[tuple[str, list[Any], Any]]:
    """(name, prompts, turns); the turns are made anew for each run."""
    yield "in the prompt", make_prompts(options.rows, PROMPT + options.given), None
    prompts = make_prompts(options.rows, PROMPT)
    for number in options.turns:
        length = options.written // (number + 1)
        yield f"{number} turns", prompts, FixedTurns(length, options.given // number, number)
    length = options.written // 9
    waiting = FixedTurns(length, options.given // 8, 8, slow_from=options.rows)
    yield "8 turns, as many wait", make_prompts(2 * options.rows, PROMPT), waiting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--written", type=int, default=512)
    parser.add_argument("--given", type=int, default=512)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--paged", action="store_true")
    parser.add_argument("--turns", type=int, nargs="+", default=TURNS)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    context = PROMPT + options.written + options.given + 1
    policy = make_policy(options.width, options.layers, context)
    best: dict[str, dict[str, Any]] = {}
    for _ in range(options.repeat):
        for name, prompts, turns in arrangements(options):
            result = run(policy, options, prompts, turns)
            print(f"{name:22}", json.dumps(result), file=sys.stderr, flush=True)
            if name not in best or result["cpu_seconds"] < best[name]["cpu_seconds"]:
                best[name] = result
    for name, result in best.items():
        print(f"{name:22}", json.dumps(result))
    if options.out:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        report = {"date": now, "cores": os.cpu_count(), "options": vars(options), "items": best}
        options.out.write_text(json.dumps(report, default=str, indent=1) + "\n")


if __name__ == "__main__":
    main()
