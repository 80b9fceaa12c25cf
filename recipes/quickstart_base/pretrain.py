"""Makes the quickstart's base model from nothing: its tokenizer, its corpus and its weights, from one seed.

    python recipes/quickstart_base/pretrain.py [FOLDER]

The corpus holds two habits, and README.md says why. In 70 % of the traces the writer makes one guess and stops;
in 30 % it compares each attempt with the target, says no and tries again. The 256 held-out problems of
search-countdown-3 are in neither. Reinforcement learning and evaluation are the trainer's business.
"""

from __future__ import annotations

import heapq
import itertools
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from rewards.tasks import countdown, held_out, load_task, retries, whole_results

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import tiny_bases  # noqa: E402  beside the folders of the models
from tiny_bases import HEAD_WIDTH, SEED, SPECIALS, Encoded, Training  # noqa: E402

NUM_HELD_OUT = 256


# --------------------------------------------------------------------------------------------- the corpus


@dataclass(frozen=True, slots=True)
class Habits:
    """What is planted: how often a trace searches, how often an attempt is right, how many a search may take.

    A wrong attempt that misses the target by d is as likely as (1 + d) ** -near_miss: writers miss narrowly.
    """

    searching: float = 0.3
    guess_right: float = 1 / 3
    attempt_right: float = 1 / 3
    max_attempts: int = 5
    near_miss: float = 2.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """Two steps that use three numbers: ``3 + 5 = 8 , 8 * 7 = 56`` and its expression ``( 3 + 5 ) * 7``."""

    steps: str
    expression: str
    value: int


@dataclass(frozen=True, slots=True)
class Trace:
    """One line of the corpus: the prompt, what is written after it, and which habit wrote it."""

    prompt: str
    completion: str
    searches: bool


def problems() -> tuple[list[dict], list[dict]]:
    """The problems that train and the 256 that nothing trains on."""
    return held_out(load_task("search-countdown-3").rows(), NUM_HELD_OUT)


def attempts(numbers: list[int], largest: int = 99) -> list[Attempt]:
    """Every attempt at three numbers whose steps stay whole and in 1..largest, without repetition."""
    found = {}
    for i in range(3):
        one, other = (numbers[j] for j in range(3) if j != i)
        last = numbers[i]
        for middle, first_step in whole_results(one, other, largest).items():
            for value, second_step in whole_results(middle, last, largest).items():
                attempt = _attempt(first_step, middle, second_step, value)
                found[attempt.steps] = attempt
    return list(found.values())


def _attempt(first_step: str, middle: int, second_step: str, value: int) -> Attempt:
    left, sign, right = second_step.split()
    if left == str(middle):
        expression = f"( {first_step} ) {sign} {right}"
    else:
        expression = f"{left} {sign} ( {first_step} )"
    return Attempt(f"{first_step} = {middle} , {second_step} = {value}", expression, value)


def corpus(seed: int = SEED, habits: Habits = Habits()) -> Iterator[Trace]:
    """Traces without end, the same for the same seed."""
    rng = random.Random(f"corpus {seed}")
    train, _ = problems()
    known: dict[tuple[int, ...], list[Attempt]] = {}
    while True:
        row = rng.choice(train)
        numbers = tuple(row["numbers"])
        if numbers not in known:
            known[numbers] = attempts(row["numbers"])
        yield _trace(rng, row, known[numbers], habits)


def _trace(rng: random.Random, row: dict, known: list[Attempt], habits: Habits) -> Trace:
    right = [attempt for attempt in known if attempt.value == row["target"]]
    wrong = _near_misses(rng, known, row["target"], habits)
    searches = rng.random() < habits.searching
    if searches:
        tried = _search(rng, right, wrong, habits)
    else:
        tried = [rng.choice(right) if rng.random() < habits.guess_right or not wrong else wrong[0]]
    completion = f"{' no '.join(attempt.steps for attempt in tried)} answer {tried[-1].expression}"
    return Trace(row["prompt"], completion, searches)


def _near_misses(
    rng: random.Random, known: list[Attempt], target: int, habits: Habits
) -> list[Attempt]:
    """Different wrong attempts in random order, those that come near the target rather sooner than the others."""

    def when(attempt: Attempt) -> float:
        return rng.expovariate((1 + abs(attempt.value - target)) ** -habits.near_miss)

    wrong = [(when(attempt), i) for i, attempt in enumerate(known) if attempt.value != target]
    return [known[i] for _, i in heapq.nsmallest(habits.max_attempts, wrong)]


def _search(
    rng: random.Random, right: list[Attempt], wrong: list[Attempt], habits: Habits
) -> list[Attempt]:
    """Different attempts, up to the first that is right or the most that a search may take."""
    for tries in range(len(wrong)):
        if rng.random() < habits.attempt_right:
            return [*wrong[:tries], rng.choice(right)]
    return wrong or [rng.choice(right)]


# ------------------------------------------------------------------------------------------ the tokenizer

WORDS = [*"+-*/()=,:", "make", "no", "answer"]
VOCABULARY = [*SPECIALS, *WORDS, *map(str, range(1, 100))]


def make_tokenizer():
    """One token for each word, sign and whole number from 1 to 99; decoding joins them with spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    ids = {word: i for i, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    return tiny_bases.wrapped(words, VOCABULARY, MAX_POSITIONS)


# --------------------------------------------------------------------------------------------- the model

WIDTH = 64
MAX_POSITIONS = 128
MAX_NEW_TOKENS = 80


def make_model(seed: int = SEED, width: int = WIDTH):
    """A Llama of two layers, with weights drawn from the seed; 64 wide it has 138,752 parameters."""
    return tiny_bases.make_llama(
        VOCABULARY, width=width, layers=2, positions=MAX_POSITIONS, seed=seed
    )


def train(
    model, tokenizer, training: Training = Training(), seed: int = SEED, habits: Habits = Habits()
) -> list[float]:
    """Teach the model the corpus, each trace once, and return the loss of each step.

    Only what stands after the prompt is predicted.
    """
    traces = corpus(seed, habits)

    def draw(step: int) -> list[Encoded]:
        return [_encode(tokenizer, trace) for trace in itertools.islice(traces, training.traces)]

    return tiny_bases.teach(model, training, draw)


def _encode(tokenizer, trace: Trace) -> Encoded:
    """Token ids of a trace, and of them those that are predicted."""
    prompt = tokenizer(trace.prompt).input_ids
    completion = tokenizer(trace.completion, add_special_tokens=False).input_ids
    written = [*completion, tokenizer.eos_token_id]
    return [*prompt, *written], [-100] * len(prompt) + written


# ------------------------------------------------------------------------------------- measuring and saving


def measure(model, tokenizer, samples: int = 4, seed: int = SEED) -> dict[str, float]:
    """What the model does on the held-out problems at temperature 1."""
    import torch

    rows = [row for row in problems()[1] for _ in range(samples)]
    torch.manual_seed(seed)
    prompts = tokenizer([row["prompt"] for row in rows], return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model.generate(
            **prompts, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=MAX_NEW_TOKENS
        )
    completions = out[:, prompts.input_ids.shape[1] :]
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    ended = (completions == tokenizer.eos_token_id).any(dim=1).tolist()
    scores = [
        countdown(text, row["numbers"], row["target"], finish="stop" if end else "length").value
        or 0
        for text, row, end in zip(texts, rows, ended)
    ]
    solved = [any(scores[i : i + samples]) for i in range(0, len(scores), samples)]
    return {
        f"avg@{samples}": sum(scores) / len(scores),
        f"pass@{samples}": sum(solved) / len(solved),
        "ended": sum(ended) / len(ended),
        "tokens": float((completions != tokenizer.pad_token_id).sum()) / len(texts),
        "retries": sum(map(retries, texts)) / len(texts),
        "searching": sum(retries(text) > 0 for text in texts) / len(texts),
    }


def main() -> None:
    """Train the base, print what it does, and save it."""
    import torch

    parser = tiny_bases.options_of(__doc__, HERE, Training().steps)
    parser.add_argument(
        "--width",
        type=int,
        default=WIDTH,
        help=f"hidden width, a multiple of {HEAD_WIDTH} (default: {WIDTH})",
    )
    arguments = parser.parse_args()
    if arguments.width < HEAD_WIDTH or arguments.width % HEAD_WIDTH:
        parser.error(
            f"--width is {arguments.width}; it must be a multiple of {HEAD_WIDTH}, the width of a head"
        )
    torch.set_num_threads(1)
    model = make_model(arguments.seed, arguments.width)
    tokenizer = make_tokenizer()
    started = time.process_time()
    train(model, tokenizer, Training(steps=arguments.steps), seed=arguments.seed)
    print(f"{time.process_time() - started:.0f} CPU-seconds")
    print("  ".join(f"{name} {value:.3f}" for name, value in measure(model, tokenizer).items()))
    tiny_bases.save(model, tokenizer, arguments.folder, MAX_NEW_TOKENS)


if __name__ == "__main__":
    main()
