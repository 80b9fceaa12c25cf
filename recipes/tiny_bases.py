"""What the scripts that make tiny base models share: tokenizer of words, Llama from a seed, training, files.

What a corpus holds, and why, is up to `quickstart_base/pretrain.py` and `arithmetic_tools/pretrain.py`.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Sequence

HEAD_WIDTH = 16
SPECIALS = ["<pad>", "<bos>", "<eos>", "<unk>"]
"""The first tokens of each vocabulary."""
SEED = 0


def wrapped(words: Any, vocabulary: Sequence[str], max_positions: int):
    """A tokenizer of the library `tokenizers` as one of transformers, which puts ``<bos>`` before a text."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary.index("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
    )


def make_llama(vocabulary: Sequence[str], *, width: int, layers: int, positions: int, seed: int):
    """A Llama in fp32 with weights drawn from the seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // HEAD_WIDTH,
            num_key_value_heads=width // HEAD_WIDTH,
            max_position_embeddings=positions,
            tie_word_embeddings=True,
            pad_token_id=vocabulary.index("<pad>"),
            bos_token_id=vocabulary.index("<bos>"),
            eos_token_id=vocabulary.index("<eos>"),
            dtype="float32",
        )
    )


@dataclass(frozen=True, slots=True)
class Training:
    """How a base is trained: AdamW, a linear warm-up, then a cosine to a tenth of the rate."""

    steps: int = 1500
    traces: int = 192
    slices: int = 4
    lr: float = 4e-3
    warmup: int = 50

    def lr_at(self, step: int) -> float:
        """The learning rate of a step."""
        done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        risen = min(1.0, (step + 1) / self.warmup)
        return self.lr * risen * (0.55 + 0.45 * math.cos(math.pi * done))


Encoded = tuple[list[int], list[int]]
"""Token ids of a trace, and what is predicted at each place: the id itself, or -100 where nothing is."""


def teach(model, training: Training, draw: Callable[[int], Iterable[Encoded]]) -> list[float]:
    """Teach the model what is drawn for each step, and return the loss of each."""
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.lr, betas=(0.9, 0.98), weight_decay=0.01
    )
    losses: list[float] = []
    started = time.perf_counter()
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.lr_at(step)
        batch = sorted(draw(step), key=lambda pair: len(pair[0]))
        losses.append(_accumulate(model, batch, training))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == training.steps - 1:
            seconds = time.perf_counter() - started
            print(f"step {step:4d}  loss {losses[-1]:.4f}  {seconds:.0f} s", flush=True)
    return losses


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


def save(model, tokenizer, folder: Path, max_new_tokens: int) -> None:
    """Write the model so that `AutoModelForCausalLM` and `AutoTokenizer` load it from the folder."""
    from transformers import GenerationConfig

    tokens = model.config
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        max_new_tokens=max_new_tokens,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def options_of(description: str, folder: Path, steps: int) -> argparse.ArgumentParser:
    """The command line of a script: where it writes, its seed, its steps."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", default=folder, help="where to write it (default: here)"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=steps)
    return parser
