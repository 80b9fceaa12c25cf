"""Completions of any model for any data, as JSON lines: ``python -m grpo.sample MODEL_OR_RUN --data ... --n k``.

A line holds the row's own columns, so that `python -m rewards.score` can read it, and beside them what was
sampled. Lines are written as groups complete. Nothing is judged here; ``evaluate`` does that.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Sequence, TextIO

import torch
import transformers
from tqdm import tqdm

from grpo.data.prompts import check_template, make_prompts
from grpo.data.rows import load_rows
from grpo.evaluate import evaluation_recipe
from grpo.kernels.sampling.spec import Sampling
from grpo.model.loading import load_config, load_tokenizer
from grpo.model.policy import Policy, longest_sequence
from grpo.monitor.redaction import redacted
from grpo.recipe import Recipe, RecipeError
from grpo.rollout.compatibility import check_support
from grpo.rollout.compiled import check_compiler
from grpo.rollout.engine import Engine
from grpo.types import Group


def lines(group: Group, with_tokens: bool) -> list[dict[str, Any]]:
    """A mapping for each completion of a group: the row's columns, then what was sampled."""
    found = []
    for index, c in enumerate(group.completions):
        line = {
            **group.prompt.truth,
            "id": group.prompt.id,
            "index": index,
            "prompt_text": group.prompt.text,
            "completion": c.text,
            "finish": c.finish,
            "stop": c.stop,
            "num_tokens": len(c.token_ids),
            "logp": float(c.sampled_logps.double().sum()),
        }
        if with_tokens:
            line |= {"token_ids": list(c.token_ids), "sampled_logps": c.sampled_logps.tolist()}
        found.append(line)
    return found


def write(
    recipe: Recipe, out: TextIO, *, n: int, rows: int | None, with_tokens: bool
) -> dict[str, Any]:
    """Sample `n` completions for each of the first `rows` rows of the recipe's data, and say what it took."""
    check_compiler(recipe)
    data = load_rows(recipe.data)[:rows]
    config, tokenizer = load_config(recipe.model), load_tokenizer(recipe.model)
    check_template(recipe.data.template, tokenizer)
    made = make_prompts(
        data,
        [],
        recipe.data,
        tokenizer,
        longest_sequence(config.get_text_config()),
        recipe.sample.max_tokens,
    )
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    policy = Policy.load(
        recipe.model, "cuda" if torch.cuda.is_available() else "cpu", tokenizer=tokenizer
    )
    check_support(policy)
    print(policy.describe(), *policy.describe_fallback(), sep="\n", file=sys.stderr)
    sample, tokens = recipe.sample, 0
    engine = Engine(
        policy,
        max_rows=sample.max_rows,
        stop=sample.stop,
        kv_memory_gib=sample.kv_memory_gib,
        compile=sample.compile,
    )
    with tqdm(total=n * len(made.train), unit="completion", file=sys.stderr) as bar:
        for _, group in engine.sample(
            made.train,
            group_size=n,
            max_tokens=sample.max_tokens,
            seed=("sample", recipe.seed),
            sampling=Sampling(sample.temperature, sample.top_k, sample.top_p, sample.min_p),
        ):
            for line in lines(group, with_tokens):
                out.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
                tokens += line["num_tokens"]
            out.flush()
            bar.update(n)
            bar.set_postfix_str(f"{tokens / max(bar.format_dict['elapsed'], 1e-9):.0f} tokens/s")
    for note in engine.stats.notes:
        print(note, file=sys.stderr)
    return {
        "completions": n * len(made.train),
        "tokens": tokens,
        "seconds": round(engine.stats.seconds, 3),
        "tokens_per_second": round(tokens / engine.stats.seconds, 1),
        "too_long": made.num_dropped,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m grpo.sample MODEL_OR_RUN --data ... --n k``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m grpo.sample",
        description="Completions of a model, or of a run's final model, as JSON lines.",
        epilog="Sampling follows the recipe's sample section: sample.temperature=0.7 sample.top_p=0.95 ...",
    )
    parser.add_argument(
        "target", metavar="MODEL_OR_RUN", help="run folder, model folder, .gguf file or hub id"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="recipe keys, e.g. sample.max_tokens=256"
    )
    parser.add_argument("--recipe", help="take data and sampling from this recipe")
    parser.add_argument(
        "--data", help="hub id, .jsonl/.csv/.parquet file, or a procedural task's name"
    )
    parser.add_argument("--n", type=int, default=1, help="completions for each prompt; default 1")
    parser.add_argument("--rows", type=int, help="take this many rows of the data; default: all")
    parser.add_argument(
        "--tokens", action="store_true", help="write token ids and their log-probs too"
    )
    parser.add_argument("--out", type=Path, help="write to this file; default: standard output")
    options = parser.parse_intermixed_args(arguments)
    given = [f"data.source={json.dumps(options.data)}"] if options.data is not None else []
    transformers.utils.logging.disable_progress_bar()
    try:
        for name in ("n", "rows"):
            if getattr(options, name) is not None and getattr(options, name) < 1:
                raise RecipeError(
                    f"sample: --{name} is {getattr(options, name)}; it must be at least 1"
                )
        recipe = evaluation_recipe(options.target, options.recipe, [*given, *options.overrides])
        with (
            options.out.open("w", encoding="utf-8")
            if options.out
            else nullcontext(sys.stdout) as out
        ):
            report = write(recipe, out, n=options.n, rows=options.rows, with_tokens=options.tokens)
    except RecipeError as error:
        print(redacted(" ".join(str(error).split())), file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    print(json.dumps(report), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
