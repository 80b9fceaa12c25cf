"""What the machinery of tools costs: one decoding with tools that run, and with answers that are there without any.

    python -m benchmarks.tool_calls [--tools calculator blocking polite] [--rounds 5] [--callers 64] [--turn 32]

`callers` completions call a tool every `turn` tokens while `others` decode without. Both sides pause the same rows at
the same steps, go on after as many steps with the same tokens, and so compute the same bits. On one side the answers
come out of the air; on the other the turn is decoded, its call parsed, run by a pool of environments, and what it gave
tokenised. Sides take turns; printed are the median and the range of the rounds.

The cost is CPU time in three places: ``here``, between two steps of the decoder, less what air takes; ``beside``, in
the other threads of this process; ``workers``. ``share`` is their sum over the CPU time of the side without tools. The
difference of the two sides' totals says the same with the noise of all their forwards. ``blocking`` sleeps in a thread
of a worker, ``polite`` awaits in its loop, ``calculator`` runs beside the decoder.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Hashable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
PROMPT = 32
SLEEPS = ("blocking", "polite")


def blocking(seconds: float) -> str:
    """Sleeps, and blocks meanwhile.

    Args:
        seconds: How long
    """
    time.sleep(seconds)
    return "awake"


async def polite(seconds: float) -> str:
    """Sleeps without blocking.

    Args:
        seconds: How long
    """
    await asyncio.sleep(seconds)
    return "awake"


class Spelling:
    """A tokenizer that reads every turn of `turn` tokens as a call, after the work of decoding it."""

    def __init__(self, tokenizer: Any, turn: int, call: str):
        self.tokenizer = tokenizer
        self.turn = turn
        self.call = call

    def decode(self, token_ids: list[int], **options: Any) -> str:
        text = str(self.tokenizer.decode(token_ids, **options))
        return self.call if len(token_ids) == self.turn else text


@dataclass
class HeldPool:
    """A pool whose answers are handed over after a number of looks, whenever they came before that."""

    pool: Any
    looks: int
    now: int = 0
    late: int = 0
    queue: list[tuple[int, Future[Any], Future[Any]]] = field(default_factory=list)

    def open(self, key: Hashable, row: Mapping[str, Any], texts: Sequence[str] = ()) -> Future[Any]:
        return self.pool.open(key, row, texts)

    def step(self, key: Hashable, text: str) -> Future[Any]:
        held: Future[Any] = Future()
        self.queue.append((self.now + self.looks, self.pool.step(key, text), held))
        return held

    def forget(self, key: Hashable) -> None:
        self.pool.forget(key)

    def look(self) -> None:
        """Hand over what is due; wait for it if it is late."""
        self.now += 1
        while self.queue and self.queue[0][0] <= self.now:
            _, answer, held = self.queue.pop(0)
            self.late += not answer.done()
            held.set_result(answer.result())


def with_tools(
    options: argparse.Namespace, policy: Any, pool: Any, call: str, ends: Any = None
) -> Any:
    """The other side of a run as a run has it, but for where turns end and when answers are handed over."""
    from grpo.data.templates import Template
    from grpo.environments.separators import Separators
    from grpo.environments.session import Budgets, EnvironmentTurns

    class ToolTurns(EnvironmentTurns):
        def ends_call(self, sequence: Any) -> str:
            """Looked for as ever; but what a random policy happens to spell is none."""
            super().ends_call(sequence)
            return ends_turn(options, sequence)

        def take_ready(self, wait: bool) -> list[Any]:
            self.pool.look()
            return super().take_ready(wait=False)

    separators = Separators(policy.tokenizer, Template("plain"), frozenset(), 512)
    spelling: Any = Spelling(policy.tokenizer, options.turn, call)
    return ToolTurns(
        HeldPool(pool, options.looks),
        pool.format,
        spelling,
        separators_of=lambda prompt: separators,
        budgets=Budgets(options.calls, options.calls, 512),
        begins=False,
        ends=ends,
    )


def ends_turn(options: argparse.Namespace, sequence: Any) -> str:
    """A call where a turn of those that call has its length."""
    if sequence.group_index >= options.callers or len(sequence.turns) == options.calls:
        return ""
    return "." if len(sequence.tokens) - sequence.turn_start == options.turn else ""


@dataclass
class OutOfTheAir:
    """Answers that nobody works for."""

    options: argparse.Namespace
    token_ids: tuple[int, ...]
    most_given: int = 1 << 20
    now: int = 0
    queue: list[tuple[int, Any]] = field(default_factory=list)

    def begin(self, sequences: Sequence[Any]) -> None:
        """Nothing is given before the first turn."""

    def ends_call(self, sequence: Any) -> str:
        """Where a turn has its length."""
        return ends_turn(self.options, sequence)

    def pauses(self, sequence: Any) -> bool:
        """Every call is answered after a number of looks."""
        sequence.pause()
        self.queue.append((self.now + self.options.looks, sequence))
        return True

    def take_ready(self, wait: bool) -> list[Any]:
        """Those that are due."""
        from rewards.environments import Turn

        self.now += 1
        ready = []
        while self.queue and self.queue[0][0] <= self.now:
            ready.append(self.queue.pop(0)[1])
        ready.sort(key=lambda sequence: (sequence.group_index, sequence.sample_index))
        for sequence in ready:
            sequence.observe(self.token_ids, Turn("", ""))
        return ready

    def cancel(self, sequence: Any) -> None:
        """Nobody cancels."""


def make_policy(options: argparse.Namespace) -> Any:
    """A random Llama without end tokens, whose tokenizer spells calls."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from grpo.model.policy import Policy

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "recipes" / "arithmetic_tools")
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=4 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 32,
        num_key_value_heads=options.width // 32,
        max_position_embeddings=4096,
    )
    policy = Policy(LlamaForCausalLM(config), tokenizer)
    policy.stop_ids = frozenset()
    return policy


def make_prompts(number: int) -> list[Any]:
    from grpo.types import Prompt

    prompts = []
    for i in range(number):
        tokens = tuple(3 + (11 * i + 5 * place) % 20 for place in range(PROMPT))
        prompts.append(Prompt(f"p{i}", tokens, {}))
    return prompts


def worker_seconds() -> float:
    """CPU time of this process's children so far."""
    import psutil

    times = [child.cpu_times() for child in psutil.Process().children()]
    return sum(time.user + time.system for time in times)


class Timed:
    """Turns, and the CPU time of this thread in them, but for the look at each token: the clock takes longer."""

    def __init__(self, turns: Any):
        self.turns = turns
        self.most_given = turns.most_given
        self.seconds = 0.0
        for name in ("begin", "pauses", "take_ready", "cancel"):
            setattr(self, name, self.timed(getattr(turns, name)))
        self.ends_call = turns.ends_call

    def timed(self, method: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            result = method(*arguments, **options)
            self.seconds += time.thread_time() - began
            return result

        return call


def run(options: argparse.Namespace, policy: Any, turns: Any) -> dict[str, Any]:
    """CPU seconds of this process and of its workers, and what was computed."""
    from grpo.kernels.sampling.spec import Sampling
    from grpo.rollout.engine import Engine

    engine = Engine(policy, paged=options.paged, max_rows=options.callers + options.others)
    timed: Any = Timed(turns)

    def limit(prompt: Any, index: int) -> int:
        calls = int(prompt.id[1:]) < options.callers
        return options.turn * (options.calls + 1) if calls else options.written

    began = [clock() for clock in CLOCKS]
    groups = engine.sample(
        make_prompts(options.callers + options.others),
        group_size=1,
        max_tokens=limit,
        sampling=Sampling(),
        seed=(0,),
        turns=timed,
    )
    tokens = {index: group.completions[0].token_ids for index, group in groups}
    wall, process, thread, workers = (clock() - start for clock, start in zip(CLOCKS, began))
    stats = engine.stats
    assert stats.answered == options.calls * options.callers
    return {
        "seconds": wall,
        "cpu": process,
        "here": timed.seconds,
        "beside": process - thread,
        "workers": workers,
        "steps": stats.steps,
        "tokens": tokens,
    }


CLOCKS = (time.perf_counter, time.process_time, time.thread_time, worker_seconds)


def call_of(options: argparse.Namespace, tool: str) -> str:
    """The call as a policy writes it."""
    return f"<calc>{options.seconds}</calc>" if tool in SLEEPS else "<calc>37*48</calc>"


def open_pool(tool: str) -> Any:
    from rewards.environments import EnvironmentPool, EnvironmentSpec

    name = f"{Path(__file__).resolve()}:{tool}" if tool in SLEEPS else tool
    return EnvironmentPool(EnvironmentSpec(tools=[name], format="<calc>"))


def pairs(options: argparse.Namespace, policy: Any, tool: str) -> Iterator[tuple[Any, Any, int]]:
    """(without, with, late answers) of each round; the first to begin changes from round to round."""
    from grpo.environments.call_ends import CallEnds

    call = call_of(options, tool)
    with open_pool(tool) as pool:
        result = warm_up(pool, call)
        given = policy.tokenizer(result, add_special_tokens=False)["input_ids"]
        ends = CallEnds(pool.format, policy.tokenizer)  # a run keeps it from step to step
        run(options, policy, with_tools(options, policy, pool, call, ends))
        for number in range(options.rounds):
            tools = with_tools(options, policy, pool, call, ends)
            sides = [OutOfTheAir(options, tuple(given)), tools]
            order = sides if number % 2 else sides[::-1]
            results = {id(side): run(options, policy, side) for side in order}
            without, using = (results[id(side)] for side in sides)
            assert without["tokens"] == using["tokens"] and without["steps"] == using["steps"]
            yield without, using, tools.pool.late


def warm_up(pool: Any, call: str) -> str:
    """Start the workers; returns what a call gives, as the policy reads it."""
    keys = [("warm", number) for number in range(8)]
    for key in keys:
        pool.open(key, {})
    answers = [pool.step(key, call) for key in keys]
    observation = [answer.result() for answer in answers][-1]
    for key in keys:
        pool.forget(key)
    return str(pool.format.answer(observation.results))


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def measure(options: argparse.Namespace, policy: Any, tool: str) -> dict[str, Any]:
    """The cost of a tool: in all, a call, and where."""
    names = ("without", "here", "beside", "workers", "share", "totals", "ms_a_call")
    values: dict[str, list[float]] = {name: [] for name in names}
    calls = options.calls * options.callers
    late = 0
    for plain, using, num_late in pairs(options, policy, tool):
        here = using["here"] - plain["here"]
        cost = here + using["beside"] + using["workers"]
        row = (plain["cpu"], here, using["beside"], using["workers"], cost / plain["cpu"])
        total = (using["cpu"] + using["workers"]) / plain["cpu"] - 1
        for name, value in zip(names, (*row, total, 1e3 * cost / calls)):
            values[name].append(value)
        late += num_late
    spreads = {name: spread(numbers) for name, numbers in values.items()}
    return {**spreads, "calls": calls, "steps": plain["steps"], "late": late}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", nargs="+", default=["calculator", *SLEEPS])
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--others", type=int, default=16)
    parser.add_argument("--calls", type=int, default=4, help="of each caller")
    parser.add_argument("--turn", type=int, default=32, help="tokens written before a call")
    parser.add_argument("--looks", type=int, default=100, help="steps that an answer takes")
    parser.add_argument("--seconds", type=float, default=0.1, help="that a tool sleeps")
    parser.add_argument("--written", type=int, default=640, help="tokens of those that do not call")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--paged", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    policy = make_policy(options)
    run(options, policy, OutOfTheAir(options, (1, 2, 3)))
    for tool in options.tools:
        for name, value in measure(options, policy, tool).items():
            print(f"{tool:12} {name:10} {value}", flush=True)


if __name__ == "__main__":
    main()
