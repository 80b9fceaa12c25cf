"""A conversation asks as the model was trained to be asked, streams what it samples, and can be stopped."""

from __future__ import annotations

import pytest
import torch
from exports import byte_level, random_policy

from grpo.chat.conversation import Conversation, Settings
from grpo.chat.reply import ANSWER, THINKING
from grpo.data.templates import Template
from grpo.kernels.sampling.spec import Sampling
from grpo.recipe import RecipeError
from grpo.rollout.engine import Engine

SAMPLING = Sampling(temperature=1.0)


def conversation(policy=None, *, template=Template("chat"), max_tokens=24, sampling=SAMPLING):
    engine = Engine(policy or random_policy("qwen2", max_position_embeddings=256, peak=1.0))
    settings = Settings(
        template=template,
        sampling=sampling,
        max_tokens=max_tokens,
        seed=3,
        keeps_turns=template.pattern == "chat",
    )
    return Conversation(engine, settings)


def asked(talk: Conversation, question: str, stop_after: int | None = None):
    """The reply, and the pieces that were shown; stopped after so many of them."""
    pieces = []
    reply = talk.ask(
        question, pieces.append, lambda: stop_after is not None and len(pieces) >= stop_after
    )
    return reply, pieces


def test_the_pieces_make_the_reply_and_the_prompts_tag_makes_them_thinking():
    reply, pieces = asked(conversation(), "2 + 2?")
    shown = "".join(piece.text for piece in pieces)
    assert shown.strip() == reply.completion.text.strip()
    assert {piece.kind for piece in pieces} == {THINKING} and len(pieces) > 5
    assert reply.completion.finish == "length" and reply.num_tokens == 24


def test_replies_are_the_engines_own_and_repeat_with_the_seed():
    first, _ = asked(conversation(), "2 + 2?")
    second, _ = asked(conversation(), "2 + 2?")
    assert first.completion.token_ids == second.completion.token_ids
    talk = conversation()
    asked(talk, "2 + 2?")
    talk.reset()
    third, _ = asked(talk, "2 + 2?")
    assert third.completion.token_ids != first.completion.token_ids  # another turn, another draw


def test_the_next_question_is_rendered_behind_the_turns_before_it():
    talk = conversation()
    talk.turns = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "<think>\nso\n</think>4"},
    ]
    prompt, dropped = talk._prompt("3 + 3?")
    expected = (
        "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
        "<|im_start|>user\n3 + 3?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    assert (prompt.text, dropped) == (expected, 0)
    asked(talk, "3 + 3?")
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"] * 2
    assert talk.turns[-1]["content"].startswith("<think>\n")


def test_old_turns_make_room_and_a_question_that_never_fits_is_refused():
    talk = conversation()
    for number in range(6):
        reply, _ = asked(talk, f"{number}: " + "abc " * 5)
    assert reply.num_dropped >= 2 and len(talk.turns) < 12
    with pytest.raises(RecipeError, match="chat: the question has .* tokens"):
        asked(talk, "abc " * 400)


def test_a_reply_that_is_stopped_while_it_thinks_is_forgotten():
    talk = conversation(max_tokens=200)
    reply, pieces = asked(talk, "2 + 2?", stop_after=3)
    assert reply.completion.finish == "cancelled" and reply.num_tokens < 20
    assert pieces and talk.turns == []


def test_a_model_of_single_questions_sees_no_turns():
    talk = conversation(template=Template("Q: {prompt} A:"))
    asked(talk, "1")
    prompt, _ = talk._prompt("2")
    assert prompt.text == "Q: 2 A:" and talk.turns == []


@pytest.mark.parametrize("family", ["qwen2", "gpt_neox"])
def test_the_end_token_ends_the_reply_and_is_not_shown(family):
    tokenizer = byte_level()
    policy = random_policy(family, tokenizer=tokenizer)
    head = policy.base.get_output_embeddings()
    with torch.no_grad():
        head.weight.zero_()
        if family == "gpt_neox":
            policy.fall_back_because("it is sampled by generate here")
    talk = conversation(policy, template=Template("plain"), sampling=Sampling(temperature=0.0))
    reply, pieces = asked(talk, "2")  # all logits are equal: the lowest id, which is an end
    assert reply.completion.finish == "stop" and reply.completion.token_ids == (0,)
    assert pieces == []


def test_generate_streams_too():
    policy = random_policy("qwen2", max_position_embeddings=256, peak=1.0)
    policy.fall_back_because("it is sampled by generate here")
    reply, pieces = asked(conversation(policy), "2 + 2?")
    served, _ = asked(conversation(), "2 + 2?")
    assert reply.completion.token_ids == served.completion.token_ids
    assert len(pieces) > 5 and pieces[0].kind == THINKING != ANSWER
