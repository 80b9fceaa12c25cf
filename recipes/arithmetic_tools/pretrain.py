"""Makes the base model of the recipe arithmetic_tools from nothing: tokenizer, corpus and weights, from one seed.

    python recipes/arithmetic_tools/pretrain.py [FOLDER]

The corpus is plain text with two habits, and README.md says why. Most writers work in their heads; a few call a
calculator, and what it answers stands in the text without ever being predicted. All of them are right: what a model
this small cannot do is learn to multiply. The 256 held-out questions of the recipe are not in it. Reinforcement
learning and evaluation are the trainer's business.
"""

from __future__ import annotations

import itertools
import random
import string
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Iterable, Iterator

from rewards.tasks import held_out, load_task

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import tiny_bases  # noqa: E402  beside the folders of the models
from tiny_bases import SEED, SPECIALS, Encoded  # noqa: E402

NUM_HELD_OUT = 256
QUESTIONS = {"terms": 3, "low": 10, "high": 99, "count": 8000}
"""The recipe's ``data.args``."""


# --------------------------------------------------------------------------------------------- the corpus


@dataclass(frozen=True, slots=True)
class Habits:
    """How many traces call: first as many as it takes to learn what to do with an answer, at last a few."""

    calling_first: float = 0.5
    calling: float = 0.1
    rare_from: float = 0.75
    """The share of the training after which calls are rare."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One line of the corpus in pieces: text, and whether the writer wrote it. The prompt and results are not."""

    pieces: tuple[tuple[str, bool], ...]
    calls: bool

    @property
    def prompt(self) -> str:
        """What is asked."""
        return self.pieces[0][0]

    @property
    def completion(self) -> str:
        """What stands after the prompt, results included."""
        return "".join(text for text, _ in self.pieces[1:])


def questions() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows that the recipe trains on and the 256 that nothing trains on."""
    return held_out(load_task("arithmetic").rows(**QUESTIONS), NUM_HELD_OUT)


def corpus(seed: int, calling: float) -> Iterator[Trace]:
    """Traces without end, the same for the same seed; a share of them calls."""
    rng = random.Random(f"corpus {seed} {calling}")
    excluded = {row["prompt"] for row in questions()[1]}
    operands = range(int(QUESTIONS["low"]), int(QUESTIONS["high"]) + 1)
    while True:
        a, b, c = rng.choices(operands, k=3)
        first, second = rng.choices("+-*", k=2)
        prompt = f"What is {a} {first} {b} {second} {c}?"
        if prompt not in excluded:
            yield trace(prompt, calls=rng.random() < calling)


def trace(prompt: str, calls: bool) -> Trace:
    """A right answer to a question of three terms, in two steps that are called or worked out in the head."""
    pieces = [(prompt, False)]
    worked = []
    steps = two_steps(prompt)
    for step, result in steps:
        worked.append(f"{step}={result}")
        pieces += [(f"<calc>{step}</calc>", True), (f"<result>{result}</result>", False)]
    if not calls:
        pieces[1:] = [("\n".join(worked), True)]
    return Trace((*pieces, (f"\n#### {steps[-1][1]}", True)), calls)


def two_steps(prompt: str) -> list[tuple[str, int]]:
    """The two steps of three terms, products first, each with its result: ``37*48``, 1776 and ``1776+12``, 1788."""
    a, first, b, second, c = prompt.removeprefix("What is ").removesuffix("?").split()
    if second == "*" and first != "*":
        middle = int(b) * int(c)
        return [(f"{b}*{c}", middle), _step(a, first, str(middle))]
    step = _step(a, first, b)
    return [step, _step(str(step[1]), second, c)]


def _step(left: str, sign: str, right: str) -> tuple[str, int]:
    results = {
        "+": int(left) + int(right),
        "-": int(left) - int(right),
        "*": int(left) * int(right),
    }
    return f"{left}{sign}{right}", results[sign]


# ------------------------------------------------------------------------------------------ the tokenizer

WORDS = ["<calc>", "</calc>", "<result>", "</result>", "What", "is", "####"]
CHARACTERS = [*string.ascii_letters, *string.digits, *string.punctuation, " ", "\n"]
VOCABULARY = [*SPECIALS, *WORDS, *CHARACTERS]


def make_tokenizer():
    """A token for each tag, each word of the question and each other character of ASCII."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    ids = {word: i for i, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    pattern = Regex("|".join([*WORDS, r"[\s\S]"]))
    words.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    words.decoder = decoders.Fuse()
    return tiny_bases.wrapped(words, VOCABULARY, MAX_POSITIONS)


# --------------------------------------------------------------------------------------------- the model

WIDTH = 48
LAYERS = 3
MAX_POSITIONS = 192
MAX_NEW_TOKENS = 64


def make_model(seed: int = SEED):
    """A Llama of three layers, 48 wide, with weights drawn from the seed."""
    return tiny_bases.make_llama(
        VOCABULARY, width=WIDTH, layers=LAYERS, positions=MAX_POSITIONS, seed=seed
    )


Training = partial(tiny_bases.Training, traces=96, slices=2)
"""How the base is trained."""


def train(
    model,
    tokenizer,
    training: tiny_bases.Training = Training(),
    seed: int = SEED,
    habits: Habits = Habits(),
) -> list[float]:
    """Teach the model the corpus, each trace once, and return the loss of each step."""
    ids = tokenizer.get_vocab()
    often = corpus(seed, habits.calling_first)
    seldom = corpus(seed, habits.calling)

    def draw(step: int) -> Iterable[Encoded]:
        traces = often if step < habits.rare_from * training.steps else seldom
        return [encode(ids, one) for one in itertools.islice(traces, training.traces)]

    return tiny_bases.teach(model, training, draw)


def encode(ids: dict[str, int], trace: Trace) -> Encoded:
    """The ids of a trace between ``<bos>`` and ``<eos>``; predicted is what the writer wrote, and the end."""
    tokens = [ids["<bos>"]]
    targets = [-100]
    for text, is_written in (*trace.pieces, ("", True)):
        piece = [ids[word] for word in words_of(text)] if text else [ids["<eos>"]]
        tokens += piece
        targets += piece if is_written else [-100] * len(piece)
    return tokens, targets


def words_of(text: str) -> Iterator[str]:
    """The tokens of a text of the corpus: ten times as fast as the tokenizer on texts so short."""
    place = 0
    while place < len(text):
        word = next((word for word in WORDS if text.startswith(word, place)), text[place])
        yield word
        place += len(word)


def main() -> None:
    """Train the base and save it."""
    import torch

    arguments = tiny_bases.options_of(__doc__, HERE, Training().steps).parse_args()
    torch.set_num_threads(1)
    model = make_model(arguments.seed)
    tokenizer = make_tokenizer()
    started = time.process_time()
    train(model, tokenizer, Training(steps=arguments.steps), seed=arguments.seed)
    print(f"{time.process_time() - started:.0f} CPU-seconds")
    tiny_bases.save(model, tokenizer, arguments.folder, MAX_NEW_TOKENS)


if __name__ == "__main__":
    main()
