"""Each usual mistake is caught before the first step under its own name; a sound recipe is not.

Static mistakes are tried on `RunFacts`; those that a judge or a model must show, on the whole command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import byte_tokenizer, tiny_model, tiny_policy
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

from grpo.data.prompts import load_prompts
from grpo.data.sources import SourceRows, split_rows
from grpo.model.info import ModelInfo
from grpo.preflight.baseline import BaselineSample, advice
from grpo.preflight.checks import divided_weights, end_of_turn, refusal, run_checks
from grpo.preflight.facts import Finding, RunFacts, number_of_parameters
from grpo.preflight.gold import check_gold
from grpo.preflight.memory_fit import check_memory
from grpo.recipe import Recipe, RecipeError
from grpo.run.evaluation_sets import held_out_set
from grpo.run.reward_fit import check_columns
from grpo.train import main
from grpo.types import Prompt
from rewards import RewardSpec

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "recipes" / "quickstart_base"
SOUND = [
    "data.held_out=4",
    "sample.prompts=4",
    "steps=10",
    "rewards.correct.use=math_answer",
    "model.name=x",
]


def rows_of(number: int = 40, **columns: Any) -> list[dict[str, Any]]:
    rows = [
        {"prompt": f"What is {i} + {2 * i}?", "answer": str(3 * i)} for i in range(1, number + 1)
    ]
    return [
        {**row, **{name: value(i) if callable(value) else value for name, value in columns.items()}}
        for i, row in enumerate(rows)
    ]


def facts(
    *overrides: str,
    rows: list[dict[str, Any]] | None = None,
    parameters: float = 1e9,
    **changed: Any,
) -> RunFacts:
    """What a recipe comes to, with a tokenizer of bytes and a model of so many parameters."""
    recipe = Recipe.from_mapping({}, *SOUND, *overrides)
    rows = rows_of() if rows is None else rows
    tokenizer = changed.pop("tokenizer", byte_tokenizer())
    specs = [RewardSpec(name, part.use, part.weight) for name, part in recipe.rewards.items()]
    train, held_out = split_rows(rows, recipe.data.held_out)
    context = changed.pop("context", None)
    config = PretrainedConfig(max_position_embeddings=context, vocab_size=len(tokenizer))
    prompts = load_prompts(
        [SourceRows("", recipe.data, train=train, held_out=held_out)],
        ModelInfo(config, tokenizer),
        max_tokens=recipe.sample.max_tokens,
    )
    return RunFacts(
        recipe,
        specs=specs,
        accurate="correct",
        rows=rows,
        tokenizer=tokenizer,
        prompts=prompts,
        num_parameters=int(parameters),
        **changed,
    )


def names(*overrides: str, **changed: Any) -> set[str]:
    return {
        finding.name
        for finding in run_checks(facts(*overrides, **changed))
        if finding.level != "note"
    }


def levels(*overrides: str, **changed: Any) -> dict[str, str]:
    return {finding.name: finding.level for finding in run_checks(facts(*overrides, **changed))}


def test_a_sound_recipe_has_no_findings() -> None:
    assert names() == set()
    assert names("model.lora={rank: 8}", "optim.lr=1e-4") == set()
    assert names("optim.lr=3e-4", parameters=1e5) == set()


WRITTEN = "I take the first number and add the second one to it, step by step, and so I come to the sum. #### "
STATIC: dict[str, tuple[list[str], dict[str, Any]]] = {
    "small-group": (["sample.group_size=2"], {}),
    "lr-of-adapters": (["optim.lr=2e-4"], {}),
    "lr-of-full-training": (["optim.lr=1e-6", "model.lora={rank: 16}"], {}),
    "lr-too-high": (["optim.lr=1e-2", "model.lora={rank: 16}"], {}),
    "cold-sampling": (["sample.temperature=0.1"], {}),
    "hot-sampling": (["sample.temperature=2"], {}),
    "uncorrected-filters": (["sample.top_k=20", "loss.correction=none"], {}),
    "kl-is-off": (["loss.preset=deepseekmath", "loss.beta=0"], {}),
    "no-ratio": (["loss.policy=reinforce", "optim.updates=4"], {}),
    "old-logp-of-the-sampler": (["loss.old=sampler", "optim.epochs=2"], {}),
    "many-epochs": (["optim.epochs=8"], {}),
    "warmup-outlasts-run": (["optim.warmup=10"], {}),
    "bfloat16-on-cpu": (["model.dtype=bfloat16"], {}),
    "float16-on-cpu": (["model.dtype=float16"], {}),
    "mask-with-tight-cap": (["advantage.mask_truncated=true", "sample.max_tokens=256"], {}),
    "format-dominates": (["rewards.format={use: think_format, weight: 1.0}"], {}),
    "accuracy-not-paid": (
        ["rewards.correct.weight=0", "rewards.format={use: think_format}"],
        {},
    ),
    "reward-scale": (["rewards.correct.weight=100", "advantage.rule=center"], {}),
    "empty-gold": ([], {"rows": rows_of(answer=lambda i: "" if i == 3 else str(i))}),
    "placeholder-gold": ([], {"rows": rows_of(answer=lambda i: "proof" if i == 3 else str(i * i))}),
    "several-golds": (
        [],
        {"rows": rows_of(answer=lambda i: ["1", "2"] if i == 3 else [str(i * i)])},
    ),
    "gold-in-the-prompt": (
        [],
        {"rows": rows_of(prompt=lambda i: f"What is {i} + {i}? Answer: {3 * (i + 1)}")},
    ),
    "gold-is-the-prompt": (
        [],
        {"rows": rows_of(answer=lambda i: f"What is {i + 1} + {2 * i + 2}?")},
    ),
    "gold-is-constant": ([], {"rows": rows_of(answer="yes")}),
    "gold-is-the-row-number": ([], {"rows": rows_of(answer=lambda i: i)}),
    "duplicates": ([], {"rows": rows_of() + rows_of(5)}),
    "two-golds": ([], {"rows": rows_of() + [{"prompt": "What is 1 + 2?", "answer": "4"}]}),
    "held-out-overlap": (
        [],
        {
            "rows": rows_of()
            + [{"prompt": f"what is {i} +  {2 * i}", "answer": str(3 * i)} for i in range(1, 41)]
        },
    ),
    "too-many-passes": (["steps=1000"], {}),
    "nothing-held-out": (["data.held_out=0"], {}),
    "prompts-too-long": (
        ["sample.max_tokens=100", "data.template=plain"],
        {"rows": rows_of(prompt=lambda i: "x" * (250 * (i == 7) + i + 1)), "context": 256},
    ),
    "cap-below-solutions": (
        ["sample.max_tokens=64"],
        {"rows": rows_of(answer=lambda i: f"{WRITTEN}{i}")},
    ),
    "rarely-saved": (["steps=100", "checkpoint.every=0"], {"rows": rows_of(100)}),
    "wandb-without-login": (
        ["log.wandb={project: mine}"],
        {"environment": {"HOME": "/nonexistent"}},
    ),
}


@pytest.mark.parametrize("name", STATIC)
def test_a_mistake_in_recipe_or_data_is_caught_by_its_name_and_by_no_other(name: str) -> None:
    overrides, changed = STATIC[name]
    assert names(*overrides, **changed) - {"duplicates" if name == "two-golds" else ""} >= {name}
    assert len(names(*overrides, **changed) - {name, "duplicates", "two-golds"}) <= 1


def test_what_cannot_work_is_wrong_and_what_may_is_a_warning() -> None:
    assert levels(rows=rows_of(answer="")) == {"empty-gold": "wrong", "gold-is-constant": "wrong"}
    assert levels("log.wandb={}", environment={"HOME": "/nonexistent"}) == {
        "wandb-without-login": "wrong"
    }
    assert levels("log.wandb={mode: offline}", environment={}) == {}
    assert levels("log.wandb={}", environment={"WANDB_API_KEY": "k"}) == {}
    assert levels("sample.prompts=5", "optim.updates=2") == {"uneven-updates": "note"}
    assert levels("model.dtype=bfloat16")["half-weights"] == "note"
    assert levels("sample.group_size=2") == {"small-group": "warning"}


def with_sets(known: RunFacts, **others: list[str]) -> list[Finding]:
    """Findings where the held-out rows are evaluated, and sets of other prompts."""
    held_out = held_out_set(known.recipe, known.prompts.held_out, "correct")
    sets = [held_out]
    for name, texts in others.items():
        prompts = [Prompt(text, (1,), {"prompt": text}) for text in texts]
        sets.append(replace(held_out, name=name, prompts=prompts))
    return [finding for finding in run_checks(replace(known, sets=sets)) if finding.level != "note"]


def test_a_held_out_prompt_that_trains_as_it_stands_is_warned_of_once() -> None:
    text = "A shop sells {} apples in the morning and {} more of them after lunch; how many does it sell?"
    rows = rows_of(prompt=lambda i: text.format(2 * i + 3, i + 5))
    _, held_out = split_rows(rows, 4)
    assert [finding.name for finding in with_sets(facts(rows=rows))] == []

    shouted = [{**row, "prompt": row["prompt"].upper()} for row in rows]
    found = with_sets(facts(rows=[*rows, *shouted]), other=[rows[0]["prompt"]])
    about_sets = [finding for finding in found if finding.name not in ("duplicates", "two-golds")]
    assert [finding.name for finding in about_sets] == ["held-out-overlap", "trained-on-the-test"]
    assert "1 of the 1 prompt of other shares" in about_sets[-1].message

    longer = [{**row, "prompt": f"Think. {row['prompt']} Say a number."} for row in held_out]
    found = with_sets(facts(rows=[*longer, *rows]))
    assert [finding.name for finding in found] == ["trained-on-the-test"]


def test_sums_that_differ_in_a_sign_alone_are_different_prompts() -> None:
    signs = rows_of(prompt=lambda i: f"What is {i // 3} {'+-*'[i % 3]} {i // 3 + 4}?")
    assert names(rows=signs) == set()


def test_rows_of_a_mixture_are_checked_by_the_rewards_that_judge_them(folder: Path) -> None:
    tests = [{"input": "1", "output": "2"}]
    rows = rows_of(source=lambda i: "code" if i % 2 else "math", tests=tests)
    rows = [
        {name: row[name] for name in row if name != "answer"} if row["source"] == "code" else row
        for row in rows
    ]
    specs = [
        RewardSpec("correct", "math_answer", when={"source": "math"}),
        RewardSpec("tests", "code_tests", when={"source": "code"}),
    ]
    for ordered in (rows, rows[1:] + rows[:1]):
        mixed = replace(facts(rows=ordered), specs=specs)
        assert {finding.name for finding in run_checks(mixed)} == set()
        report = list(check_gold(mixed))
        lines = [line for line in report if isinstance(line, str)]
        assert any(
            "correct: full score for gold 2" in line and ", wrong 0/2" in line for line in lines
        )
        assert not any("tests: full score for gold" in line for line in lines)
        assert [item.level for item in report if isinstance(item, Finding)] == []


NO_ANSWERS = [None, float("nan"), "nan", "None", "null", "N/A", "", " ", [], "[null]", "$$"]


@pytest.mark.parametrize("gold", NO_ANSWERS, ids=repr)
def test_golds_that_are_no_answers_are_counted_and_above_a_fifth_they_are_wrong(gold: Any) -> None:
    few = rows_of(answer=lambda i: gold if i == 3 else str(i * i))
    many = rows_of(answer=lambda i: gold if i % 4 == 3 else str(i * i))
    assert levels(rows=few) == {"empty-gold": "warning"} and levels(rows=many) == {
        "empty-gold": "wrong"
    }
    message = next(finding.message for finding in run_checks(facts(rows=few)))
    assert "1 of 40 rows" in message and "row 4" in message
    specs = [RewardSpec("correct", "math_answer")]
    check_columns(specs, few)
    with pytest.raises(RecipeError, match="empty-gold: 10 of 40 .*row 4"):
        check_columns(specs, many)


def test_lists_of_answers_need_a_rule_before_the_run() -> None:
    lists = rows_of(answer=lambda i: [str(i * i), str(i * i + 1)])
    assert levels(rows=lists) == {"several-golds": "wrong"}
    ruled = facts(rows=lists)
    specs = [RewardSpec("correct", "math_answer", args={"several": "any"})]
    assert list(run_checks(replace(ruled, specs=specs))) == []
    check_columns(specs, lists)
    with pytest.raises(RecipeError, match="several-golds: 40 of 40"):
        check_columns([RewardSpec("correct", "math_answer")], lists)
    singles = rows_of(answer=lambda i: [str(i * i)])
    assert levels(rows=singles) == {}
    check_columns([RewardSpec("correct", "math_answer")], singles)


def test_remarks_in_place_of_answers_are_counted() -> None:
    rows = rows_of(answer=lambda i: "not found" if i % 10 == 3 else str(i * i))
    found = [
        finding for finding in run_checks(facts(rows=rows)) if finding.name == "placeholder-gold"
    ]
    assert [finding.level for finding in found] == ["warning"] and "4 of 40 rows" in found[
        0
    ].message


def test_a_task_that_is_judged_by_rule_needs_no_gold(folder: Path) -> None:
    rows = rows_of(answer=None, task="graph_color", metadata={})
    known = replace(facts(rows=rows), specs=[RewardSpec("correct", "gym_answer")])
    assert list(run_checks(known)) == []
    items = list(check_gold(known))
    assert [(item.level, item.name) for item in items if isinstance(item, Finding)] == [
        ("note", "gold-not-checked")
    ]


def test_a_tokenizer_without_an_end_and_one_that_cannot_write_the_tags() -> None:
    lost = byte_tokenizer()
    lost.eos_token = None
    assert levels(tokenizer=lost)["no-end-token"] == "wrong"
    assert levels("sample.stop=['END']", tokenizer=lost)["no-end-token"] == "warning"
    quickstart = AutoTokenizer.from_pretrained(BASE)  # knows numbers and signs, no letters
    assert (
        levels(
            "data.template=plain",
            "rewards.format={use: think_format, weight: 0.1}",
            tokenizer=quickstart,
            rows=[{"prompt": f"{i} 2 3 make 4", "answer": "1"} for i in range(9)],
        )["tags-cannot-be-written"]
        == "wrong"
    )
    assert "tags-cannot-be-written" not in levels("rewards.format={use: think_format, weight: 0.1}")
    chat = byte_tokenizer()
    chat.chat_template = "{{ messages[0]['content'] }}"
    assert levels("data.template=plain", tokenizer=chat) == {"chat-model-without-chat": "note"}


@pytest.mark.parametrize(
    "message, name",
    [
        ("recipe: rewards.correct wants the column answer, but row 1 has prompt", "missing-column"),
        (
            "data: row 1 of x has no column question, which data.columns.prompt names",
            "missing-column",
        ),
        (
            "recipe: sample.prompts is 64, but only 40 rows train; lower sample.prompts",
            "too-few-rows",
        ),
        (
            "recipe: data.template is chat, but the tokenizer has no chat template",
            "no-chat-template",
        ),
        ("data: every prompt is longer than 10 tokens", "prompts-too-long"),
        ("data: gold-in-the-prompt: data.columns.prompt is {answer}", "gold-in-the-prompt"),
        ("data: call-missing: the tokenizer's chat template leaves the call", "call-missing"),
        ("data: question-missing: all 4 prompts of x are 'a'", "question-missing"),
        ("data: empty-gold: 3 of 4 rows that rewards.correct scores", "empty-gold"),
        ("data: several-golds: 3 of 4 rows have a list", "several-golds"),
        ("data: there is no file x.jsonl", "data-not-loaded"),
        ("model: x is gated: accept its terms", "model-not-loaded"),
        ("run folder: runs/x exists; continue it with --resume", "run-folder"),
    ],
)
def test_a_refusal_gets_the_name_of_its_mistake(message: str, name: str) -> None:
    assert refusal(RecipeError(message)) == Finding("wrong", name, message)


# ---- with the judge, the planner and a model ------------------------------------------------------------------


REWARDS = """
def always(text, answer): return 1.0
def whole(text, answer): return float(answer.strip() in text)
def lazy(text, answer): return float(bool(text))
def broken(text, answer): raise KeyError("no such thing")
def large(text, num_tokens): return 100.0 + num_tokens
def brief(text, answer, num_tokens): return float(answer in text) * (1 - num_tokens / 2048)
def never(text, num_tokens): return 0.0
def easy(text, num_tokens): return float(num_tokens > 0)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(REWARDS)
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gold_findings(
    use: str, rows: list[dict[str, Any]] | None = None, *overrides: str
) -> dict[str, str]:
    specs = [RewardSpec("correct", use, timeout_seconds=5.0)]
    report = check_gold(replace(facts(*overrides, rows=rows), specs=specs))
    return {item.name: item.level for item in report if isinstance(item, Finding)}


def test_gold_answers_that_a_reward_can_read_say_nothing(folder: Path) -> None:
    assert gold_findings("math_answer") == {}
    assert (
        gold_findings("math_answer", rows_of(answer=lambda i: rf"{i} \mathrm{{~cm}}^{{2}}")) == {}
    )
    assert gold_findings("math_answer", rows_of(answer=lambda i: f"{WRITTEN}{i}")) == {}


@pytest.mark.parametrize(
    "use, rows, findings",
    [
        (
            "mine.py:always",
            None,
            {"constant-reward": "wrong", "wrong-answers-paid": "wrong", "empty-is-paid": "warning"},
        ),
        ("mine.py:lazy", None, {"wrong-answers-paid": "wrong"}),
        ("mine.py:broken", None, {"faults": "wrong", "gold-scores-zero": "wrong"}),
        (
            "mine.py:whole",
            rows_of(answer=lambda i: f"{WRITTEN}{i + 11}"),
            {"solution-not-extracted": "wrong", "constant-reward": "wrong"},
        ),
        (
            "mine.py:whole",
            rows_of(answer=lambda i: rf"{i} \mathrm{{~cm}}^{{2}}"),
            {"unit-demanded": "warning"},
        ),
        (
            "countdown",
            rows_of(numbers=[1, 2], target=3),
            {"gold-scores-zero": "wrong", "constant-reward": "wrong"},
        ),
        (
            "math_answer",
            rows_of(answer=lambda i: r"\frac{1}{" if i % 8 == 0 else str(i)),
            {"faults": "warning"},
        ),
    ],
)
def test_rewards_and_gold_answers_that_do_not_fit_are_caught(
    folder: Path, use: str, rows: Any, findings: Any
) -> None:
    assert gold_findings(use, rows) == findings


def test_a_dense_reward_is_not_taken_for_a_wrong_column(folder: Path) -> None:
    assert gold_findings("mine.py:brief") == {"gold-below-full-score": "warning"}
    assert gold_findings("mine.py:brief", None, "evaluate.threshold=0.5") == {}


CHATS = {
    "thinks": "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|><think>\n",
    "does not": "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|><think>\n\n</think>\n",
    "plain": "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>",
}


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("as_messages", [False, True])
@pytest.mark.parametrize("use", ["math_answer", "gym_answer"])
@pytest.mark.thin(5)
def test_gold_is_written_on_from_the_rendered_prompt(
    folder: Path, chat: str, as_messages: bool, use: str
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATS[chat]
    rows = rows_of(12, task="gcd", metadata={})
    for row in rows if as_messages else ():
        row["prompt"] = [{"role": "user", "content": row["prompt"]}]
    specs = [RewardSpec("correct", use)]
    specs += [
        RewardSpec("format", "think_format", weight=0.1),
        RewardSpec("tags", "tag_count", weight=0.1),
    ]
    known = replace(facts("data.template=chat", rows=rows, tokenizer=tokenizer), specs=specs)
    report = list(check_gold(known))
    scores = [item for item in report if isinstance(item, str)]
    assert "correct: full score for gold 12/12, wrong 0/12, empty 0/12" in scores[0]
    assert "format: full score for gold 12/12" in scores[1]
    assert {item.name for item in report if isinstance(item, Finding)} <= {"constant-reward"}


def test_a_reward_from_elsewhere_is_told_that_the_prompt_opens_the_reasoning(folder: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATS["thinks"]
    for use, expected in (("mine.py:whole", {"prompt-opens-think": "note"}), ("math_answer", {})):
        known = facts("data.template=chat", tokenizer=tokenizer)
        found = run_checks(replace(known, specs=[RewardSpec("correct", use)]))
        assert {finding.name: finding.level for finding in found} == expected


def memory_findings(known: RunFacts) -> list[str]:
    return [item.name for item in check_memory(known) if isinstance(item, Finding)]


def test_more_memory_than_there_is_is_wrong_before_a_weight_is_made() -> None:
    config = AutoConfig.for_model(
        "llama",
        hidden_size=32768,
        num_hidden_layers=6,
        intermediate_size=98304,
        num_attention_heads=64,
        num_key_value_heads=8,
    )
    large = facts(
        "sample.prompts=32",
        "optim.tokens_per_micro_batch=1000000",
        "sample.max_tokens=4096",
        rows=rows_of(80),
        config=config,
    )
    assert memory_findings(large) == ["not-enough-memory"]
    assert number_of_parameters(config) > 60e9
    quantized = Recipe.from_mapping(
        {}, *SOUND, "sample.prompts=4", "model.lora={rank: 2}", "model.quantize=nf4"
    )
    # a base at 4 bits is not what is counted, so nothing is refused
    assert memory_findings(replace(large, recipe=quantized)) == ["memory-of-a-plain-base"]


def test_a_model_whose_weights_cannot_be_divided_is_wrong_where_that_is_asked_for() -> None:
    divided = facts("distributed.shard=true")
    (experts,) = divided_weights(divided, tiny_policy("qwen3_moe"))
    assert (experts.level, experts.name) == ("wrong", "weights-not-divided")
    assert "Qwen3MoeForCausalLM is a mixture of experts" in experts.message
    (latent,) = divided_weights(divided, tiny_policy("deepseek_v3"))
    assert "caches compressed keys and values" in latent.message
    assert not list(divided_weights(divided, tiny_policy("llama")))
    assert not list(divided_weights(facts(), tiny_policy("qwen3_moe")))


def test_a_turn_that_ends_in_a_token_which_stops_nothing_is_wrong() -> None:
    from grpo.model.policy import Policy

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<turn>{% endfor %}"
    policy = Policy(tiny_model("llama", 0, vocabulary=300), tokenizer)
    known = facts("data.template=chat", tokenizer=tokenizer)
    assert [finding.name for finding in end_of_turn(known, policy)] == ["end-of-turn-is-no-stop"]
    tokenizer.chat_template = tokenizer.chat_template.replace("<turn>", "</s>")
    assert list(end_of_turn(known, policy)) == []


def run_preflight(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(
        [
            "quickstart",
            "steps=2",
            "sample.prompts=2",
            "sample.group_size=4",
            "data.held_out=4",
            "run_dir=run",
            *arguments,
            "--preflight",
        ]
    )
    out, err = capsys.readouterr()
    assert not Path("run").exists() and not err.strip()
    return code, out


def test_the_quickstart_passes_with_a_pass_rate_and_a_cost_and_writes_nothing(
    folder: Path, capsys
) -> None:
    before = sorted(folder.rglob("*"))
    code, out = run_preflight(capsys)
    assert code == 0 and "8 base completions of 2 prompts" in out and "preflight: 0 wrong" in out
    assert "memory of an update at its peak" in out and "cost     the run about" in out
    assert [path for path in sorted(folder.rglob("*")) if "__pycache__" not in str(path)] == before


@pytest.mark.parametrize(
    "name, overrides",
    [
        ("too-hard", ["rewards.correct={use: mine.py:never}"]),
        ("truncated", ["sample.max_tokens=4"]),
        pytest.param("too-easy", ["rewards.correct={use: mine.py:easy}"], marks=pytest.mark.slow),
        pytest.param(
            "reward-scale", ["rewards.correct={use: mine.py:large}"], marks=pytest.mark.slow
        ),
    ],
)
def test_a_sample_of_completions_shows_what_only_the_model_can(
    folder: Path, capsys, name, overrides
) -> None:
    code, out = run_preflight(capsys, *overrides)
    assert code == 0 and f"warning  {name}: " in out


@pytest.mark.parametrize(
    "name, overrides",
    [
        ("too-few-rows", ["sample.prompts=5000"]),
        ("missing-column", ["rewards.correct={use: math_answer}"]),
        ("prompts-too-long", ["sample.max_tokens=4096"]),
        ("no-chat-template", ["data.template=chat"]),
        ("data-not-loaded", ["data.source=nowhere.jsonl", "data.args={}"]),
    ],
)
def test_what_is_refused_is_named_and_exits_with_2(
    folder: Path, capsys, name: str, overrides: list[str]
) -> None:
    code, out = run_preflight(capsys, *overrides)
    assert (
        code == 2 and f"WRONG    {name}: " in out and "the run would not work as it stands" in out
    )


def test_too_many_faults_in_the_sample_are_wrong(folder: Path, capsys) -> None:
    code, out = run_preflight(capsys, "rewards.other={use: mine.py:broken, args: {answer: 1}}")
    assert code == 2 and "WRONG    too-many-faults: 8 of 8 completions could not be judged" in out
    assert "no such thing" in out


def test_a_recipe_with_a_teacher_is_tried_with_it(folder: Path, capsys) -> None:
    (folder / "teacher").mkdir()
    for file in BASE.glob("*.json"):
        shutil.copy(file, folder / "teacher")
    code, out = run_preflight(capsys, "loss.teacher=./teacher")
    assert code == 2 and "WRONG" in out and "loss.teacher" in out
    shutil.copy(BASE / "model.safetensors", folder / "teacher")
    code, out = run_preflight(capsys, "loss.teacher=./teacher")
    assert code == 0 and "update " in out and "preflight: 0 wrong" in out


def test_a_term_that_the_model_does_not_have_is_wrong(folder: Path, capsys) -> None:
    code, out = run_preflight(capsys, "loss.load_balance=0.01")
    assert code == 2 and "WRONG" in out and "loss.load_balance is set, but" in out
    assert "the run would not work as it stands" in out


def test_advice_on_a_sample_follows_its_numbers() -> None:
    recipe = Recipe.from_mapping({}, *SOUND)
    baseline = BaselineSample(
        groups=(),
        pass_rate=0.5,
        truncated=0.0,
        flat=0.2,
        length=10.0,
        sample_seconds=1.0,
        judge_seconds=0.1,
        update_seconds=1.0,
    )

    def named(**changed: float) -> list[str]:
        return [finding.name for finding in advice(recipe, replace(baseline, **changed))]

    assert named() == []
    assert named(pass_rate=0.8) == ["too-easy"] and named(pass_rate=0.79) == []
    assert named(pass_rate=0.0, flat=1.0) == ["too-hard"] and named(truncated=0.97) == ["truncated"]
    assert named(flat=0.9, pass_rate=0.05) == ["mostly-flat"]
    assert (
        "97% of the completions were cut off"
        in next(advice(recipe, replace(baseline, truncated=0.97))).message
    )


@pytest.mark.parametrize(
    "override, message",
    [
        ("sample.group_size=1", "sample.group_size is 1"),
        ("sample.temperature=0", "sample.temperature is 0"),
        ("loss.reference_every=10", "loss.beta is 0, so there is no reference"),
    ],
)
def test_contradictions_in_the_recipe_itself_are_reported_before_all_else(
    folder: Path, capsys, override, message
) -> None:
    assert main(["quickstart", override, "--preflight"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err


@pytest.mark.slow
def test_a_command_without_preflight_is_what_it_was(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grpo.train", "quickstart", "--dry-run"],
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and "base completions" not in done.stdout
