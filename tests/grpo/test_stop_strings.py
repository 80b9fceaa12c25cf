"""A stop string that closes what a reward looks for is part of what rewards, files and other commands see."""

from __future__ import annotations

import pytest
from tiny import byte_tokenizer, parrot_policy

from grpo.kernels.sampling.spec import Sampling
from grpo.rollout.engine import Engine
from grpo.sample import lines
from grpo.scoring import Scorer
from grpo.types import Group, Prompt
from rewards import RewardSpec

CLOSING = "</answer>"


@pytest.fixture(scope="module")
def group() -> Group:
    """One completion of a policy that goes on with the closing tag, whatever it would say behind it."""
    tokenizer = byte_tokenizer()
    ids = tokenizer("4" + CLOSING)["input_ids"]
    policy = parrot_policy(dict(zip(ids, ids[1:])), tokenizer, vocabulary=len(tokenizer))
    shown = "2 + 2?\n<think>\nI add.\n</think>\n<answer>\n4"
    prompt = Prompt(
        "p", tuple(tokenizer(shown)["input_ids"]), {"prompt": "2 + 2?", "answer": "4"}, shown
    )
    engine = Engine(policy, stop=[CLOSING])
    sampled = engine.sample(
        [prompt], group_size=1, max_tokens=40, sampling=Sampling(temperature=0), seed=(0,)
    )
    return next(iter(sampled))[1]


def test_the_string_that_ended_a_completion_ends_its_text(group: Group) -> None:
    completion = group.completions[0]
    assert (completion.text, completion.finish, completion.stop) == (CLOSING, "stop", CLOSING)
    assert len(completion.token_ids) == len(CLOSING)
    assert lines(group, with_tokens=False)[0]["completion"] == CLOSING


def test_rewards_see_it_closed(group: Group) -> None:
    specs = [
        RewardSpec("tags", "tag_count", args={"line_breaks": False}),
        RewardSpec(
            "mine", lambda text, prompt_text: float((prompt_text + text).endswith("4</answer>"))
        ),
    ]
    with Scorer(specs) as scorer:
        parts = scorer.submit(group).result().verdicts[0]
    assert (parts["tags"].value, parts["mine"].value) == (0.25, 1.0)
