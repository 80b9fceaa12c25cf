"""Published test sets by name, each as the keys of an evaluation set, with what its results are compared under.

A name stands for one version of a definition: a change of its rows, columns, reward or length gets a new version,
which each evaluation records along with the commit and a digest of the rows. ``source`` may be overridden by a local
file with the same columns. Protocols are those of DeepSeek-R1 (arXiv 2501.12948, section 3) unless stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

CORRECT = {"correct": {"use": "math_answer"}}
PASSES = {"passes": {"use": "code_tests"}}
R1_SAMPLING = {"temperature": 0.6, "top_p": 0.95}
"""DeepSeek-R1's sampling: averages over samples, since greedy decoding of long reasoning repeats itself."""


REVISIONS: Mapping[str, str] = {
    "openai/gsm8k": "740312add88f781978c0658806c59bc2815b9866",
    "ChilleD/SVAMP": "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
    "HuggingFaceH4/MATH-500": "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
    "HuggingFaceH4/aime_2024": "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    "math-ai/aime25": "563bb8404243c5f09de6ec262f2db674fe5bce9b",
    "math-ai/amc23": "80815d37005feb82cd7f8fbc6901d5d3eff43057",
    "math-ai/minervamath": "ee46ddc498933b1977577953250ca5c66be64f96",
    "math-ai/olympiadbench": "4faaf1e6ec17d11a4218a9bf4c049ecaf954dd84",
    "openai/openai_humaneval": "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
    "google-research-datasets/mbpp": "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
}
"""The commit of each hub data set: those that public evaluation code pins, each found in at least two unrelated
repositories. The hub was not read for it, so a run compares the number of rows with the one below."""


@dataclass(frozen=True)
class Benchmark:
    """A published test set: the keys of its evaluation set, its version, its size, and its protocol in words."""

    keys: Mapping[str, Any]
    num_rows: int | None
    protocol: str
    version: int = 1
    notes: str = ""
    paper: str = ""
    rows_differ: bool = False
    """Whether copies on the hub differ in rows or columns, so that results compare only with the same source."""


def _math(
    source: str,
    *,
    prompt: str,
    answer: str = "answer",
    split: str = "test",
    max_tokens: int = 32768,
    samples: int = 4,
    **keys: Any,
) -> dict[str, Any]:
    return {
        "source": source,
        "revision": REVISIONS[source],
        "split": split,
        "columns": {"prompt": prompt, "answer": answer},
        "rewards": CORRECT,
        "samples": samples,
        "max_tokens": max_tokens,
        **R1_SAMPLING,
        **keys,
    }


BENCHMARKS: Mapping[str, Benchmark] = {
    "gsm8k": Benchmark(
        _math("openai/gsm8k", subset="main", prompt="question", max_tokens=1024, samples=1)
        | {"temperature": 0.0, "top_p": 1.0},
        num_rows=1319,
        protocol="greedy, one completion",
        paper="arXiv 2110.14168",
    ),
    "svamp": Benchmark(
        _math("ChilleD/SVAMP", prompt="{Body}. {Question}", answer="Answer", samples=1)
        | {"max_tokens": 1024, "temperature": 0.0, "top_p": 1.0},
        num_rows=300,
        protocol="greedy, one completion",
        paper="arXiv 2103.07191",
    ),
    "math500": Benchmark(
        _math("HuggingFaceH4/MATH-500", prompt="problem"),
        num_rows=500,
        protocol="pass@1 as the mean of 4 samples, T 0.6, top-p 0.95",
        paper="arXiv 2103.03874, the 500 rows of arXiv 2305.20050",
    ),
    "aime24": Benchmark(
        _math("HuggingFaceH4/aime_2024", split="train", prompt="problem", samples=64),
        num_rows=30,
        protocol="pass@1 as the mean of 64 samples, T 0.6, top-p 0.95",
        notes="cons@64 is maj@k at 64",
    ),
    "aime25": Benchmark(
        _math("math-ai/aime25", prompt="problem", samples=64),
        num_rows=30,
        protocol="pass@1 as the mean of 64 samples, T 0.6, top-p 0.95",
    ),
    "amc23": Benchmark(
        _math("math-ai/amc23", prompt="question", samples=16),
        num_rows=40,
        protocol="the mean of 16 samples, T 0.6, top-p 0.95",
        rows_differ=True,
    ),
    "minerva": Benchmark(
        _math("math-ai/minervamath", prompt="question"),
        num_rows=272,
        protocol="the mean of 4 samples, T 0.6, top-p 0.95",
        notes="another copy has the answer inside its column solution",
        paper="arXiv 2206.14858",
        rows_differ=True,
    ),
    "olympiadbench": Benchmark(
        _math("math-ai/olympiadbench", prompt="question", answer="final_answer"),
        num_rows=674,
        protocol="the mean of 4 samples, T 0.6, top-p 0.95",
        notes="English, text only, open-ended; a gold of several answers wants all of them",
        paper="arXiv 2402.14008",
        rows_differ=True,
    ),
    "humaneval": Benchmark(
        {
            "source": "openai/openai_humaneval",
            "revision": REVISIONS["openai/openai_humaneval"],
            "split": "test",
            "rewards": PASSES,
            "samples": 1,
            "temperature": 0.0,
            "top_p": 1.0,
            "max_tokens": 1024,
        },
        num_rows=164,
        protocol="greedy pass@1; for pass@k: samples 200, temperature 0.8",
        notes="code_tests finds the columns prompt, test and entry_point",
        paper="arXiv 2107.03374",
    ),
    "mbpp": Benchmark(
        {
            "source": "google-research-datasets/mbpp",
            "revision": REVISIONS["google-research-datasets/mbpp"],
            "subset": "full",
            "split": "test",
            "columns": {"prompt": "{text}\nYour code should pass these tests:\n{test_list}"},
            "rewards": PASSES,
            "samples": 1,
            "temperature": 0.0,
            "top_p": 1.0,
            "max_tokens": 1024,
        },
        num_rows=500,
        protocol="greedy pass@1, no examples in the prompt (the paper gives three)",
        paper="arXiv 2108.07732",
    ),
    "countdown": Benchmark(
        {
            "source": "countdown",
            "args": {"count": 512},
            "rewards": {"correct": {"use": "countdown"}},
            "samples": 1,
            "temperature": 0.0,
            "top_p": 1.0,
            "max_tokens": 1024,
        },
        num_rows=512,
        protocol="greedy, one completion; rows made by this library, the same everywhere",
    ),
}
