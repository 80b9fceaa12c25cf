"""Rows in the columns and value types of public data sets, each with a right and a wrong completion; all made here.

The names are those of the table in docs/data.md, whose recipe lines the tests apply to these rows.
"""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import pyarrow
import pyarrow.parquet

SUMS = ((2, 3), (4, 5), (1, 7), (6, 6))
Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """Rows of a data set as a file of ``ending``, and for each a completion that must score 1 and one that must not."""

    rows: list[Any]
    right: list[str]
    wrong: list[str]
    ending: str = ".parquet"


def boxed(answer: Any) -> str:
    return f"<think>so</think> \\boxed{{{answer}}}"


def fenced(code: str) -> str:
    return f"<think>so</think>\n```python\n{code}\n```\n"


def question(a: int, b: int) -> str:
    return f"What is {a} plus {b}?"


def sums(row: Callable[[str, int], Any], ending: str = ".parquet") -> Shape:
    """Questions on sums; `row` makes a row from a question and its answer."""
    rows = [row(question(a, b), a + b) for a, b in SUMS]
    right = [boxed(a + b) for a, b in SUMS]
    return Shape(rows, right, [boxed(a + b + 1) for a, b in SUMS], ending)


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def verl(text: str, answer: Any, **more: Any) -> Row:
    """verl's row, with the messages and the truth inside."""
    return {
        "data_source": "math_dapo",
        "prompt": [user(f"Solve it.\n\n{text}")],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule"},
        "extra_info": {"index": "i", "answer": str(answer)},
        **more,
    }


def boolq() -> Shape:
    """Questions whose gold is a truth value."""
    rows = [
        {"question": f"is {n} even", "passage": "Numbers.", "answer": n % 2 == 0} for n in range(4)
    ]
    names = {True: "True", False: "no"}
    right = [boxed(names[row["answer"]]) for row in rows]
    return Shape(rows, right, [boxed(names[not row["answer"]]) for row in rows])


LETTERS = "ABCD"
CHOICES = ["3", "5", "8", "9"]


def choices(row: Callable[[str, int], Row], ending: str = ".parquet") -> Shape:
    """Questions with four choices; `row` makes a row from a question and the number of the right one."""
    rows = [row(f"Pick number {n}.", n) for n in range(4)]
    right = [boxed(LETTERS[n]) for n in range(4)]
    return Shape(rows, right, [boxed(LETTERS[n - 1]) for n in range(4)], ending)


ADD = "def add(a, b):\n    return a + b"
SUBTRACT = "def add(a, b):\n    return a - b"
CONSTANT = "def add(a, b):\n    return 3"
READ = "a, b = map(int, input().split())\nprint(a + b)"
READ_WRONG = "a, b = map(int, input().split())\nprint(3)"


def functions(row: Row, wrong: str = CONSTANT, ending: str = ".parquet") -> Shape:
    return Shape([row, row], [fenced(ADD)] * 2, [fenced(wrong), fenced(SUBTRACT)], ending)


def programs(row: Row, ending: str = ".parquet") -> Shape:
    return Shape([row, row], [fenced(READ)] * 2, [fenced(READ_WRONG), fenced("print(")], ending)


INPUTS = ["1 2\n", "2 2\n"]
OUTPUTS = ["3\n", "4\n"]
IO_CASES = [
    {"input": given, "output": wanted, "type": "stdin_stdout", "fn_name": None}
    for given, wanted in zip(INPUTS, OUTPUTS)
]
CALL_CASES = [
    {"input": [1, 2], "output": [3], "type": "function_call", "fn_name": "add"},
    {"input": [5, 2], "output": [7], "type": "function_call", "fn_name": "add"},
]
LCB_CASES = [
    {"input": "1\n2", "output": "3", "testtype": "functional", "metadata": {"func_name": "add"}},
    {"input": "5\n2", "output": "7", "testtype": "functional", "metadata": {"func_name": "add"}},
]
KODCODE = """from solution import add
import pytest

def test_small():
    assert add(1, 2) == 3

@pytest.mark.parametrize("a, b, total", [(5, 2, 7), (0, 0, 0)])
def test_table(a, b, total):
    assert add(a, b) == pytest.approx(total)

def test_text_and_number():
    with pytest.raises(TypeError):
        add(1, "x")
"""
UNITTEST = """import unittest

class TestCases(unittest.TestCase):
    def setUp(self):
        self.total = 3

    def test_small(self):
        self.assertEqual(add(1, 2), self.total)

    def test_large(self):
        self.assertEqual(add(500, 2), 502)
"""
PLUS = """def is_floats(x):
    return isinstance(x, float)

def assertion(out, exp, atol):
    exact_match = out == exp
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if not exact_match and atol != 0:
        assert abs(out - exp) <= atol
    else:
        assert exact_match
"""
PLUS_CHECK = """def check(candidate):
    inputs = [[1, 2], [0.5, 0.25]]
    results = [3, 0.75]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0)
"""
PLUS_LOOP = """inputs = [[1, 2], [0.5, 0.25]]
results = [3, 0.75]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion(add(*inp), exp, 0)
"""
LEETCODE = """def check(candidate):
    assert candidate(a = 1, b = 2) == 3
    assert candidate(a = 5, b = 2) == 7
"""
STUB = "def add(a, b):\n    '''Sum.'''\n"


def leetcode() -> Shape:
    method = "class Solution:\n    def add(self, a: int, b: int) -> int:\n        return {}"
    row = {
        "task_id": "add",
        "prompt": "import random\nfrom typing import *\n\nclass ListNode:\n    pass\n",
        "query": "Answer the question with a class Solution: add two numbers.",
        "entry_point": "Solution().add",
        "test": LEETCODE,
        "input_output": [{"input": "a = 1, b = 2", "output": "3"}],
        "starter_code": "class Solution:\n    def add(self, a: int, b: int) -> int:\n        ",
    }
    return Shape([row], [fenced(method.format("a + b"))], [fenced(method.format("3"))], ".jsonl")


def packed(cases: list[Row]) -> str:
    """LiveCodeBench's private cases."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def mixed(math: Row, code: Row, ending: str = ".jsonl") -> Shape:
    """A row of mathematics and one of code in one set."""
    right = [boxed(5), fenced(READ)]
    return Shape([math, code], right, [boxed(6), fenced(READ_WRONG)], ending)


def countdown() -> Shape:
    rows = [{"target": 15, "nums": [2, 3, 9]}, {"target": 27, "nums": [3, 4, 15]}]
    answer = "<think>so</think> <answer>{}</answer>"
    right = [answer.format("(2 + 3) + 9 + 1 - 1"), answer.format("3 * 4 + 15")]
    right[0] = answer.format("9 + 2 * 3")
    return Shape(rows, right, [answer.format("9 + 2 + 3"), answer.format("27")])


SHAPES: dict[str, Callable[[], Shape]] = {
    # ---- mathematics
    "openai/gsm8k": lambda: sums(lambda q, a: {"question": q, "answer": f"We add. <<1+1=2>>\n#### {a}"}),
    "EleutherAI/hendrycks_math": lambda: sums(
        lambda q, a: {"problem": q, "level": "Level 1", "type": "Algebra", "solution": f"So $\\boxed{{{a}}}$."}
    ),
    "HuggingFaceH4/MATH-500": lambda: sums(
        lambda q, a: {"problem": q, "solution": f"\\boxed{{{a}}}", "answer": str(a), "level": 2}, ".jsonl"
    ),
    "knoveleng/Minerva-Math": lambda: sums(
        lambda q, a: {"problem": q, "solution": f"So \\boxed{{{a}}}.", "type": "x", "idx": 0}, ".jsonl"
    ),
    "AI-MO/NuminaMath-CoT": lambda: sums(
        lambda q, a: {
            "source": "synthetic_math", "problem": q, "solution": f"So $\\boxed{{{a}}}$.",
            "messages": [user(q), {"role": "assistant", "content": f"So $\\boxed{{{a}}}$."}],
        }
    ),
    "AI-MO/NuminaMath-1.5": lambda: sums(
        lambda q, a: {"problem": q, "solution": "..", "answer": str(a), "problem_is_valid": "Yes", "synthetic": False}
    ),
    "open-r1/OpenR1-Math-220k": lambda: sums(
        lambda q, a: {
            "problem": q, "solution": "..", "answer": str(a), "generations": ["<think>a</think>"],
            "correctness_math_verify": [True], "finish_reasons": None, "messages": [user(q)],
        }
    ),
    "BytedTsinghua-SIA/DAPO-Math-17k": lambda: sums(lambda q, a: verl(q, str(a))),
    "verl's gsm8k": lambda: sums(lambda q, a: verl(q, str(a), extra_info=json.dumps({"answer": str(a)}))),
    "open-r1/DAPO-Math-17k-Processed": lambda: sums(
        lambda q, a: {**verl(q, str(a)), "prompt": q, "solution": str(a), "source_prompt": [user(q)]}
    ),
    "agentica-org/DeepScaleR-Preview-Dataset": lambda: sums(
        lambda q, a: {"problem": q, "answer": str(a), "solution": ""}, ".json"
    ),
    "SynthLabsAI/Big-Math-RL-Verified": lambda: sums(
        lambda q, a: {"problem": q, "answer": str(a), "domain": ["Algebra"], "llama8b_solve_rate": None}
    ),
    "SynthLabsAI/Big-Math": lambda: sums(lambda q, a: {"prompt": q, "solution": str(a), "source": "orca_math"}),
    "HuggingFaceH4/aime_2024": lambda: sums(
        lambda q, a: {"id": 0, "problem": q, "solution": "..", "answer": f"{a:03}", "year": "2024"}
    ),
    "Maxwell-Jia/AIME_2024": lambda: sums(
        lambda q, a: {"ID": "2024-I-1", "Problem": q, "Solution": "..", "Answer": a}
    ),
    "math-ai/amc23": lambda: sums(lambda q, a: {"id": 0, "question": q, "answer": float(a), "url": "u"}),
    "Hothan/OlympiadBench": lambda: sums(
        lambda q, a: {"question": q, "solution": [".."], "final_answer": [str(a)], "is_multiple_answer": False}
    ),
    "Skywork/Skywork-OR1-RL-Data": lambda: sums(lambda q, a: verl(q, json.dumps([str(a)]))),
    "Open-Reasoner-Zero/orz_math_57k_collection": lambda: sums(
        lambda q, a: [{"from": "human", "value": q}, {"from": "assistant", "ground_truth": {"value": str(a)}}],
        ".json",
    ),
    "zwhe99/DeepMath-103K": lambda: sums(
        lambda q, a: {"question": q, "final_answer": str(a), "difficulty": 5.0, "r1_solution_1": ".."}
    ),
    "KbsdJames/Omni-MATH": lambda: sums(
        lambda q, a: {"domain": ["Algebra"], "problem": q, "solution": "..", "answer": str(a)}, ".jsonl"
    ),
    "GAIR/LIMO": lambda: sums(lambda q, a: {"question": q, "solution": "..", "answer": str(a)}, ".jsonl"),
    "ChilleD/SVAMP": lambda: sums(
        lambda q, a: {"ID": "chal-1", "Body": "Think.", "Question": q, "Answer": str(a), "Type": "Addition"}
    ),
    "TIGER-Lab/WebInstruct-verified": lambda: sums(
        lambda q, a: {"id": 1, "question": q, "answer": str(a), "answer_type": "Integer"}
    ),
    "nvidia/OpenMathReasoning": lambda: sums(
        lambda text, answer: {"expected_answer": str(answer), "problem_type": "has_answer_extracted", "problem": text,
                              "generated_solution": f"<think>hm</think>\\boxed{{{answer}}}", "inference_mode": "cot"}
    ),
    "meta-math/MetaMathQA": lambda: sums(
        lambda text, answer: {"type": "GSM_Rephrased", "query": text, "original_question": text,
                              "response": f"We add.\n#### {answer}\nThe answer is: {answer}"}, ".json"
    ),
    "PRM800K": lambda: sums(
        lambda text, answer: {"question": {"problem": text, "ground_truth_answer": str(answer)},
                              "label": {"steps": [], "finish_reason": "solution"}}, ".jsonl"
    ),
    "bespokelabs/Bespoke-Stratos-17k": lambda: sums(
        lambda text, answer: {"system": "Reason.", "conversations": [
            {"from": "user", "value": text},
            {"from": "assistant", "value": f"<|begin_of_thought|>\n9?\n<|end_of_thought|>\n\n<|begin_of_solution|>\n"
                                           f"\\boxed{{{answer}}}\n<|end_of_solution|>"}]}
    ),
    "simplescaling/s1K": lambda: sums(
        lambda text, answer: {"solution": str(answer), "question": text, "cot_type": "math", "metadata": "{'a': 1}",
                              "cot": None, "thinking_trajectories": ["hm"]}
    ),
    "POLARIS-Project/Polaris-Dataset-53K": lambda: sums(
        lambda text, answer: {"problem": text, "answer": str(answer), "difficulty": "3/8"}
    ),
    "allenai/RLVR-MATH": lambda: sums(
        lambda text, answer: {"messages": [user(text)], "ground_truth": str(answer), "dataset": "MATH"}
    ),
    "LLM360/guru-RL-92k": lambda: sums(
        lambda text, answer: verl(text, f"\\boxed{{{answer}}}", apply_chat_template=True, response=None)
    ),
    "deepmind/aqua_rat": lambda: choices(
        lambda text, n: {"question": text, "options": ["A)3", "B)5", "C)8", "D)9"], "rationale": "So.",
                         "correct": LETTERS[n]}
    ),
    "tau/commonsense_qa": lambda: choices(
        lambda text, n: {"question": text, "choices": {"label": list(LETTERS), "text": CHOICES}, "answerKey": LETTERS[n]}
    ),
    "google/boolq": boolq,
    "ucinlp/drop": lambda: sums(
        lambda text, answer: {"passage": "Numbers.", "question": text,
                              "answers_spans": {"spans": [str(answer)], "types": ["number"]}}
    ),
    "microsoft/rStar-Coder": lambda: programs(
        {"question": "Print the sum.", "starter_code": "", "inputs": json.dumps(INPUTS),
         "outputs": json.dumps(OUTPUTS), "fn_name": None}
    ),
    "rows of verifiers": lambda: sums(
        lambda q, a: {"question": q, "answer": str(a), "info": json.dumps({"ground_truth": str(a)}), "task": "math"}
    ),
    # ---- choices
    "cais/mmlu": lambda: choices(lambda q, n: {"question": q, "subject": "x", "choices": CHOICES, "answer": n}),
    "TIGER-Lab/MMLU-Pro": lambda: choices(
        lambda q, n: {"question": q, "options": CHOICES, "answer": LETTERS[n], "answer_index": n}
    ),
    "allenai/ai2_arc": lambda: choices(
        lambda q, n: {"id": "x", "question": q, "choices": {"text": CHOICES, "label": list(LETTERS)}, "answerKey": LETTERS[n]}
    ),
    "Rowan/hellaswag": lambda: choices(lambda q, n: {"ind": n, "ctx": q, "endings": CHOICES, "label": str(n)}),
    "openlifescienceai/medmcqa": lambda: choices(
        lambda q, n: {"question": q, "opa": "3", "opb": "5", "opc": "8", "opd": "9", "cop": n}
    ),
    "GBaker/MedQA-USMLE-4-options": lambda: choices(
        lambda q, n: {"question": q, "answer": "3", "options": dict(zip(LETTERS, CHOICES)), "answer_idx": LETTERS[n]},
        ".jsonl",
    ),
    # ---- tasks judged by rule
    "Jiayi-Pan/Countdown-Tasks-3to4": countdown,
    "a file of reasoning-gym": lambda: sums(
        lambda q, a: {
            "question": q, "answer": str(a),
            "metadata": {"source_dataset": "chain_sum", "source_index": 0, "num_terms": 2},
        },
        ".jsonl",
    ),
    # ---- mathematics and code
    "PRIME-RL/Eurus-2-RL-Data": lambda: mixed(
        {**verl(question(2, 3), "5"), "ability": "math"},
        {**verl("Print the sum.", json.dumps({"inputs": INPUTS, "outputs": OUTPUTS})), "ability": "code"},
        ".parquet",
    ),
    "PrimeIntellect/SYNTHETIC-1": lambda: mixed(
        {"task_type": "verifiable_math", "prompt": question(2, 3), "verification_info": '{"ground_truth": "5"}'},
        {
            "task_type": "verifiable_code", "prompt": "Print the sum.",
            "verification_info": json.dumps({"language": "python", "test_cases": IO_CASES}),
        },
        ".parquet",
    ),
    "PrimeIntellect/INTELLECT-2-RL-Dataset": lambda: mixed(
        {"task_type": "verifiable_math", "prompt": question(2, 3), "verification_info": "{'ground_truth': '5'}"},
        {
            "task_type": "prime_rl_code", "prompt": "Print the sum.",
            "verification_info": json.dumps({"ground_truth": json.dumps(IO_CASES)}),
        },
    ),
    # ---- code
    "openai/openai_humaneval": lambda: functions(
        {"prompt": STUB, "canonical_solution": "    return a + b\n", "entry_point": "add",
         "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(5, 2) == 7\n"}
    ),
    "evalplus/humanevalplus": lambda: functions({"prompt": STUB, "entry_point": "add", "test": PLUS + PLUS_CHECK}),
    "google-research-datasets/mbpp": lambda: functions(
        {"text": "Write add.", "code": ADD, "test_list": ["assert add(1, 2) == 3", "assert add(5, 2) == 7"],
         "test_setup_code": "", "challenge_test_list": []}
    ),
    "evalplus/mbppplus": lambda: functions(
        {"prompt": "Write add.", "code": ADD, "test_imports": [], "test_list": ["assert add(1, 2) == 3"],
         "test": PLUS + PLUS_LOOP}
    ),
    "codeparrot/apps": lambda: programs(
        {"question": "Print the sum.", "solutions": json.dumps([READ]), "starter_code": "",
         "input_output": json.dumps({"inputs": INPUTS, "outputs": OUTPUTS})}, ".jsonl"
    ),
    "codeparrot/apps, calls": lambda: functions(
        {"question": "Write add.", "starter_code": "def add(a, b):",
         "input_output": json.dumps({"fn_name": "add", "inputs": [[1, 2], [5, 2]], "outputs": [[3], [7]]})}
    ),
    "BAAI/TACO": lambda: programs(
        {"question": "Print the sum.", "input_output": json.dumps({"inputs": INPUTS, "outputs": OUTPUTS}),
         "starter_code": "", "time_limit": None, "memory_limit": None}
    ),
    "livecodebench/code_generation_lite": lambda: programs(
        {"question_content": "Print the sum.", "starter_code": "", "metadata": "{}",
         "public_test_cases": json.dumps([{"input": "1 2", "output": "3", "testtype": "stdin"}]),
         "private_test_cases": packed([{"input": "2 2", "output": "4", "testtype": "stdin"}])}, ".jsonl"
    ),
    "open-r1/codeforces": lambda: programs(
        {"description": "Print the sum.", "time_limit": 2.0, "memory_limit": 256.0, "input_format": None,
         "official_tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "2 2\n", "output": "4\n"}],
         "examples": [{"input": "1 2\n", "output": "3\n"}], "generated_checker": None}
    ),
    "deepmind/code_contests": lambda: programs(
        {"name": "sum", "description": "Print the sum.", "source": 2, "difficulty": 7,
         "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
         "private_tests": {"input": ["2 2\n"], "output": ["4\n"]},
         "generated_tests": {"input": ["5 2\n"], "output": ["7\n"]},
         "time_limit": {"seconds": 2, "nanos": 500_000_000}, "memory_limit_bytes": 256_000_000,
         "solutions": {"language": [3], "solution": [READ]}}
    ),
    "agentica-org/DeepCoder-Preview-Dataset": lambda: programs(
        {"problem": "Print the sum.", "solutions": [READ], "tests": json.dumps(IO_CASES)}
    ),
    "agentica-org/DeepCoder-Preview-Dataset, taco": lambda: programs(
        {"problem": "Print the sum.", "tests": json.dumps({"inputs": INPUTS, "outputs": OUTPUTS})}
    ),
    "agentica-org/DeepCoder-Preview-Dataset, calls": lambda: functions(
        {"problem": "Write add.", "tests": json.dumps(CALL_CASES)}
    ),
    "agentica-org/DeepCoder-Preview-Dataset, lcbv5": lambda: functions(
        {"problem": "Write add.", "starter_code": "", "tests": json.dumps(LCB_CASES)}
    ),
    "open-r1/verifiable-coding-problems-python": lambda: programs(
        {"problem": "Print the sum.", "task_type": "verifiable_code",
         "verification_info": {"language": "python", "test_cases": IO_CASES}}
    ),
    "KodCode/KodCode-V1": lambda: functions(
        {"question": "Write add(a, b).", "solution": ADD, "test": KODCODE, "style": "instruct",
         "test_info": [{"function_name": "add", "parameter_list": "(a, b)"}]}, ending=".jsonl"
    ),
    "TIGER-Lab/AceCode-87K": lambda: functions(
        {"question": "Write add.", "test_cases": ["assert add(1, 2) == 3", "assert add(5, 2) == 7"]}
    ),
    "newfacade/LeetCodeDataset": leetcode,
    "bigcode/bigcodebench": lambda: functions(
        {"instruct_prompt": "Write add.", "code_prompt": "import math\ndef add(a, b):\n", "entry_point": "add",
         "test": UNITTEST, "libs": "['math']"}
    ),
    "nvidia/OpenCodeInstruct": lambda: functions(
        {"input": "Write add.", "output": ADD,
         "unit_tests": json.dumps(["\nassert add(1, 2) == 3\n", "\nassert add(5, 2) == 7\n"])}
    ),
}  # fmt: skip


def write(shape: Shape, folder: Path, name: str = "rows") -> Path:
    """The file of a shape."""
    file = folder / f"{name}{shape.ending}"
    if shape.ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(shape.rows), file)
    elif shape.ending == ".json":
        file.write_text(json.dumps(shape.rows, indent=1))
    else:
        file.write_text("\n".join(map(json.dumps, shape.rows)) + "\n")
    return file
