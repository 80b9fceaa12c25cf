"""Conversations as prompts: every spelling is read, the solution is left out, and the question is in what is rendered."""

from __future__ import annotations

import json

import pytest
from tiny import byte_tokenizer

from grpo.data.conversation import LeftOut, question_turns
from grpo.data.rows import load_rows
from grpo.data.templates import Template, check_questions
from grpo.recipe import DataSection, RecipeError
from rewards.reasoning import opens_reasoning

LOOP = "{% for m in messages %}"
END = "{% endfor %}{% if add_generation_prompt %}"
CHATML = LOOP + "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n" + END
FIELDS = LOOP + "[{{ m.role }}] {{ m.content | trim }}\n" + END + "[assistant] {% endif %}"
PLAIN = CHATML + "<|im_start|>assistant\n{% endif %}"
THINKS = CHATML + "<|im_start|>assistant\n<think>\n{% endif %}"
DOES_NOT_THINK = CHATML + "<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
PARTS = (
    LOOP
    + "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}\n"
    + END
    + "Assistant:{% endif %}"
)
JSON = LOOP + "{{ {'role': m.role, 'content': m.content} | tojson }}\n" + END + "{% endif %}"
TEMPLATES = {
    "fields": FIELDS,
    "plain": PLAIN,
    "thinks": THINKS,
    "no thinking": DOES_NOT_THINK,
    "parts": PARTS,
    "json": JSON,
}
LOSES = {
    "other keys": LOOP + "<{{ m['from'] }}>{{ m['value'] }}\n" + END + "<bot>{% endif %}",
    "the system alone": LOOP
    + "{% if m.role == 'system' %}{{ m.content }}{% endif %}"
    + END
    + "Assistant:{% endif %}",
    "other roles": LOOP
    + "{% if m.role == 'human' %}{{ m.content }}{% endif %}"
    + END
    + "Assistant:{% endif %}",
}
QUESTION = 'What is "2" + 3?'
SOLUTION = "It is \\boxed{5}."


def tokenizer(template):
    made = byte_tokenizer()
    made.chat_template = template
    return made


def shown(prompt, template=PLAIN):
    return Template("chat").render(prompt, tokenizer(template))[0]


SPELLINGS = {
    "role, content": ("role", "content", "user", "assistant"),
    "from, value": ("from", "value", "human", "gpt"),
    "from, value with roles": ("from", "value", "user", "assistant"),
    "role, value": ("role", "value", "Human", "bot"),
    "speaker, text": ("speaker", "text", "human", "model"),
    "author, message": ("author", "message", "prompter", "assistant"),
}
FORMS = {
    "text": lambda text: text,
    "parts": lambda text: [{"type": "text", "text": text}],
    "two parts": lambda text: [
        {"type": "text", "text": text[:5]},
        {"type": "text", "text": text[5:]},
    ],
    "texts": lambda text: [text],
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_question_is_shown_and_the_solution_is_not(spelling, template):
    role, content, user, assistant = SPELLINGS[spelling]
    for form in FORMS.values():
        messages = [
            {role: user, content: form(QUESTION)},
            {role: assistant, content: form(SOLUTION)},
        ]
        for prompt in (messages, json.dumps(messages), messages[:1]):
            left_out = LeftOut()
            turns = question_turns(prompt, "row 1", left_out)
            text = shown(turns, TEMPLATES[template])
            assert "".join(QUESTION.split()) in "".join(text.replace("\\", "").split()), text
            assert "boxed" not in text and left_out.number == (prompt != messages[:1])
            check_questions([{"prompt": turns}], Template("chat"), tokenizer(TEMPLATES[template]))


def test_only_the_last_turns_of_the_assistant_are_left_out():
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}, {"role": "assistant", "content": "e"}]  # fmt: skip
    left_out = LeftOut()
    assert question_turns(talk, "row 7 of x", left_out) == talk[:4]
    assert (
        question_turns(talk[:4], "row 8 of x", left_out) == talk[:4]
        and left_out.first == "row 7 of x"
    )
    assert "row 7 of x: 'e'" in left_out.describe(9)
    assert (
        question_turns([*talk[:4], {"role": "assistant", "content": ""}], "row 1", LeftOut())
        == talk[:4]
    )


@pytest.mark.parametrize(
    "begun", ["<think>\n", "<think>", "Let me solve this step by step.\n<think>", "<think>\nOkay,"]
)
def test_a_turn_that_begins_its_reasoning_is_continued(begun):
    turns = question_turns(
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": begun}],
        "row 1",
        LeftOut(),
    )
    assert shown(turns).endswith("<|im_start|>assistant\n" + begun)
    if begun.startswith("<think>"):
        assert shown(turns, THINKS).count("<think>") == 1
    for template in (PLAIN, THINKS):
        assert opens_reasoning(shown(turns, template))


@pytest.mark.parametrize(
    "prompt",
    [
        [{"role": "assistant", "content": "5"}],
        [{"role": "system", "content": "s"}],
        [{"role": "system", "content": "s"}, {"from": "gpt", "value": "5"}],
        [{"role": "user", "content": ""}, {"role": "assistant", "content": "5"}],
        [{"role": "user", "utterance": "q"}],
    ],
)
def test_a_conversation_without_a_question_is_refused_by_row(prompt):
    with pytest.raises(RecipeError, match="question-missing: .*row 3"):
        question_turns(prompt, "row 3 of x", LeftOut())


@pytest.mark.parametrize("template", LOSES)
def test_a_template_that_leaves_the_question_out_is_refused_by_row(template):
    rows = [{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": QUESTION}]}]
    with pytest.raises(RecipeError, match="question-missing: .*question of row 1 "):
        check_questions(rows, Template("chat"), tokenizer(LOSES[template]))
    with pytest.raises(RecipeError, match="question-missing"):
        check_questions([{"prompt": QUESTION}], Template("chat"), tokenizer(LOSES[template]))


def test_what_is_no_conversation_stays_as_it_is():
    for prompt in ("text", "[{not json", '[{"a": 1}]', ["a"], [1], None, 5):
        assert question_turns(prompt, "row 1", LeftOut()) == prompt


def rows_of(tmp_path, rows, columns=None, template="plain", report=None):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = DataSection(source=str(path), columns=columns or {}, template=template)
    loaded = load_rows(section) if report is None else load_rows(section, report=report)
    return loaded.rows


SUMS = [
    (f"What is {a} plus {b}?", str(a + b)) for a, b in ((2, 3), (4, 5), (1, 7), (6, 6), (8, 30))
]


def test_a_column_of_conversations_is_repaired_once_for_all_commands_and_said(tmp_path, capsys):
    rows = [
        {
            "conversations": [
                {"from": "human", "value": q},
                {"from": "gpt", "value": f"It is {a}."},
            ],
            "answer": a,
        }
        for q, a in SUMS
    ]
    said = []
    loaded = rows_of(tmp_path, rows, {"prompt": "conversations"}, "chat", said.append)
    assert [row["prompt"] for row in loaded] == [[{"role": "user", "content": q}] for q, _ in SUMS]
    assert (
        len(said) == 1 and "5 of 5" in said[0] and "row 1 of" in said[0] and "It is 5." in said[0]
    )
    rows_of(tmp_path, rows, {"prompt": "conversations"}, "chat")
    assert "end with the assistant's turn" in capsys.readouterr().err


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": "{question} {answer}"},
        {"prompt": "Question: {question}\nAnswer: {answer}"},
        {"prompt": "{question} {solution}"},
        {"prompt": "{question} ({gold})", "answer": "gold"},
        {"prompt": "{question} ({gold})"},
        {"prompt": "{question} {final}", "answer": "final"},
        {"prompt": "answer"},
        {"prompt": "gold", "answer": "gold"},
        {"prompt": "text"},
        {"prompt": "instruct"},
        {"prompt": "boxed"},
        {"prompt": "hashes"},
        {"prompt": "worked"},
        {"prompt": "{question}\n{proof}"},
        {"prompt": "{question} {rationale}"},
        {"prompt": "short"},
        {"prompt": "{question} {rm}", "answer": "rm.ground_truth"},
        {"prompt": "{question} {info}"},
        {"prompt": "{question} {info_json}"},
        {"prompt": "{question} {index:letter}", "answer": "index"},
        {"prompt": "turns.1.value"},
        {"prompt": "{turns.0.value} {turns.-1.value}"},
    ],
    ids=str,
)
def test_a_prompt_that_states_its_answer_is_refused_by_row(tmp_path, columns):
    rows = [
        {
            "question": q, "answer": a, "gold": a, "final": f"#### {a}", "solution": f"We add.\n#### {a}",
            "text": f"Question: {q}\nAnswer: {a}", "instruct": f"### Instruction:\n{q}\n\n### Response:\n{a}",
            "boxed": f"{q} So we get $\\boxed{{{a}}}$.", "hashes": f"{q}\nWe add.\n#### {a}",
            "worked": f"<|user|>{q}<|assistant|>{a}<|end|>", "proof": f"Adding up, the answer is **{a}**.",
            "rationale": f"We add, and so it must be {a}.", "short": f"Q: {q}\nA: {a}", "rm": {"ground_truth": a},
            "info": {"level": 1, "final_answer": a}, "info_json": json.dumps({"solution": a}), "index": int(a) % 5,
            "turns": [{"from": "human", "value": q}, {"from": "gpt", "value": f"I think of {a}."}],
        }
        for q, a in SUMS
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="gold-in-the-prompt: .*row 1 of"):
        rows_of(tmp_path, rows, columns)


@pytest.mark.parametrize(
    "prompt",
    [
        "What is {q} Answer (A), (B), (C) or (D).",
        "{q} Answer: 5, 9, 8, 12 or 38?",
        "{q} The answer is one of 5, 9, 8, 12, 38.",
        "{q} State the final answer as \\boxed{{5}}.",
        "Q: What is 2 plus 2?\nAnswer: 4\nQ: {q}\nAnswer:",
        "{q}\n5) 5\n9) 9\n8) 8\n12) 12\n38) 38",
        "{q} Put the solution between <answer> and </answer>.",
        "Is {a} right? {q}",
        "{q}\nA: {a}\nB: 17",
    ],
)
def test_prompts_with_options_examples_or_formats_load(tmp_path, prompt):
    rows = [{"prompt": prompt.format(q=q, a=a), "answer": a} for q, a in SUMS]
    assert len(rows_of(tmp_path, rows)) == len(SUMS)


def test_columns_that_are_not_the_gold_may_be_written_into_the_prompt(tmp_path):
    rows = [
        {"question": q, "answer": str(int(a) + i % 2), "label": "yes" if i % 2 == 0 else "no"}
        for i, (q, a) in enumerate(SUMS)
    ]
    loaded = rows_of(tmp_path, rows, {"prompt": "{question} Is it {answer}?", "answer": "label"})
    assert loaded[0]["prompt"].endswith("Is it 5?") and loaded[0]["answer"] == "yes"


@pytest.mark.parametrize(
    "pattern", ["{context} {q}", "{q} {choices:lettered}", "{q} {options}", "{q} {level}"]
)
def test_columns_that_only_mention_the_gold_may_be_written_into_the_prompt(tmp_path, pattern):
    rows = [
        {"q": q, "answer": a, "context": f"The box holds {a}.", "choices": ["7", a], "options": {"A": a, "B": "7"},
         "level": {"level": 3}}
        for q, a in SUMS
    ]  # fmt: skip
    assert len(rows_of(tmp_path, rows, {"prompt": pattern})) == len(SUMS)


@pytest.mark.parametrize(
    "prompt",
    [
        {"from": ["human", "gpt"], "value": [QUESTION, SOLUTION]},
        [{"role": "user", "content": {"type": "text", "text": QUESTION}}],
    ],
    ids=["a list of roles and one of contents", "content as an object"],
)
def test_turns_in_other_containers_are_read(prompt):
    assert question_turns(prompt, "row 1", LeftOut()) == [{"role": "user", "content": QUESTION}]


@pytest.mark.parametrize("prompt", [["a"], [{"question": "a"}], [["a"]]], ids=str)
def test_a_list_that_is_no_conversation_is_refused(tmp_path, prompt):
    with pytest.raises(RecipeError, match="row 1 of .* is list, .*not a list of messages"):
        rows_of(tmp_path, [{"prompt": prompt}], template="auto")


def test_a_conversation_written_into_a_text_is_refused(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in SUMS
    ]
    for columns in ({"prompt": "{messages}"}, {"prompt": "Solve: {messages}"}):
        with pytest.raises(RecipeError, match="gold-in-the-prompt: .*name the column alone"):
            rows_of(tmp_path, rows, columns, "chat")


def test_one_prompt_for_different_answers_is_refused_and_names_the_columns(tmp_path):
    rows = [{"instruction": "Solve the problem.", "input": q, "output": a} for q, a in SUMS]
    with pytest.raises(RecipeError, match="question-missing: all 5 prompts .*input"):
        rows_of(tmp_path, rows, {"prompt": "instruction", "answer": "output"})
    assert rows_of(tmp_path, rows, {"prompt": "{instruction} {input}", "answer": "output"})
    same = [{"prompt": "Write a haiku.", "answer": "x"}] * 3
    assert len(rows_of(tmp_path, same)) == 3
