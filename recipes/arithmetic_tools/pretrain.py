"""Makes the base model of the recipe arithmetic_tools from nothing: tokenizer, corpus and weights, from one seed.

    python recipes/arithmetic_tools/pretrain.py [FOLDER]

The corpus is plain text with two habits, and README.md says why. Most writers work in their heads; a few call a
calculator, and what it answers stands in the text without ever being predicted. All of them are right: what a model
this small cannot do is learn to multiply. The 256 held-out questions of the recipe are not in it. Reinforcement
learning and evaluation are the trainer's business.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import string
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

from rewards.tasks import held_out, load_task

HERE = Path(__file__).resolve().parent
NUM_HELD_OUT = 256
QUESTIONS = {"terms": 3, "low": 10, "high": 99, "count": 8000}
"""The recipe's ``data.args``."""
SEED = 0


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

SPECIALS = ["<pad>", "<bos>", "<eos>", "<unk>"]
WORDS = ["<calc>", "</calc>", "<result>", "</result>", "What", "is", "####"]
CHARACTERS = [*string.ascii_letters, *string.digits, *string.punctuation, " ", "\n"]
VOCABULARY = [*SPECIALS, *WORDS, *CHARACTERS]


def make_tokenizer():
    """A token for each tag, each word of the question and each other character of ASCII."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    pattern = Regex("|".join([*WORDS, r"[\s\S]"]))
    words.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    words.decoder = decoders.Fuse()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


# --------------------------------------------------------------------------------------------- the model

WIDTH = 48
HEAD_WIDTH = 16
LAYERS = 3
MAX_POSITIONS = 192
MAX_NEW_TOKENS = 64


def make_model(seed: int = SEED):
    """A Llama of three layers, 48 wide, with weights drawn from the seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=WIDTH // HEAD_WIDTH,
            num_key_value_heads=WIDTH // HEAD_WIDTH,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            pad_token_id=VOCABULARY.index("<pad>"),
            bos_token_id=VOCABULARY.index("<bos>"),
            eos_token_id=VOCABULARY.index("<eos>"),
            dtype="float32",
        )
    )


@dataclass(frozen=True, slots=True)
class Training:
    """How the base is trained: AdamW, a linear warm-up, then a cosine to a tenth of the rate."""

    steps: int = 1500
    traces: int = 96
    slices: int = 2
    lr: float = 4e-3
    warmup: int = 50

    def lr_at(self, step: int) -> float:
        """The learning rate of a step."""
        done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        risen = min(1.0, (step + 1) / self.warmup)
        return self.lr * risen * (0.55 + 0.45 * math.cos(math.pi * done))


Encoded = tuple[list[int], list[int]]
"""Token ids of a trace, and what is predicted at each place: the id itself, or -100 where nothing is."""


def train(
    model,
    tokenizer,
    training: Training = Training(),
    seed: int = SEED,
    habits: Habits = Habits(),
) -> list[float]:
    """Teach the model the corpus, each trace once, and return the loss of each step."""
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.lr, betas=(0.9, 0.98), weight_decay=0.01
    )
    ids = tokenizer.get_vocab()
    often = corpus(seed, habits.calling_first)
    seldom = corpus(seed, habits.calling)
    losses: list[float] = []
    started = time.perf_counter()
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.lr_at(step)
        traces = often if step < habits.rare_from * training.steps else seldom
        drawn = itertools.islice(traces, training.traces)
        batch = sorted((encode(ids, one) for one in drawn), key=lambda pair: len(pair[0]))
        losses.append(_accumulate(model, batch, training))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == training.steps - 1:
            seconds = time.perf_counter() - started
            print(f"step {step:4d}  loss {losses[-1]:.4f}  {seconds:.0f} s", flush=True)
    return losses


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


def _accumulate(model, batch: list[Encoded], training: Training) -> float:
    """Add the gradient of the batch's mean over predicted tokens, a slice of like lengths at a time."""
    num_predicted = sum(target >= 0 for _, targets in batch for target in targets)
    per_slice = -(-len(batch) // training.slices)
    total = 0.0
    for start in range(0, len(batch), per_slice):
        loss = _summed_loss(model, batch[start : start + per_slice]) / num_predicted
        loss.backward()
        total += loss.item()
    return total


def _summed_loss(model, batch: list[Encoded]):
    import torch

    width = max(len(tokens) for tokens, _ in batch)
    tokens_BT = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in batch])
    targets_BT = torch.tensor([goals + [-100] * (width - len(goals)) for _, goals in batch])
    logits_BTV = model(tokens_BT[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), targets_BT[:, 1:].flatten(), reduction="sum"
    )


# --------------------------------------------------------------------------------------------------- saving


def save(model, tokenizer, folder: Path) -> None:
    """Write the model so that `AutoModelForCausalLM` and `AutoTokenizer` load it from the folder."""
    from transformers import GenerationConfig

    tokens = model.config
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Train the base and save it."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", default=HERE, help="where to write it (default: here)"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=Training().steps)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = make_model(arguments.seed)
    tokenizer = make_tokenizer()
    started = time.process_time()
    train(model, tokenizer, Training(steps=arguments.steps), seed=arguments.seed)
    print(f"{time.process_time() - started:.0f} CPU-seconds")
    save(model, tokenizer, arguments.folder)


if __name__ == "__main__":
    main()
