"""Turns are answered by what was written alone, within their budgets, on the very tokens that were sampled."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from chat_templates import CHATML, LLAMA_TOOLS, QWEN_TOOLS, chat_tokenizer
from scripted_pool import ScriptedPool, echo
from tiny import tiny_model

from grpo.data.templates import Template
from grpo.environments.separators import Separators
from grpo.environments.session import Budgets, EnvironmentTurns
from grpo.kernels.sampling.spec import Sampling
from grpo.learner.batch import make_batch
from grpo.model.packing import pack
from grpo.model.policy import Policy
from grpo.rollout.engine import Engine
from grpo.rollout.sequence import RolloutSequence
from grpo.run.sample_rows import token_ends
from grpo.types import Completion, Group, Prompt, ScoredGroup
from rewards import Score
from rewards.environments import Observation, Result, Turn, format_of

MERGES = [("a", "b"), ("Ċ", "Ċ"), ("e", "r"), ("Ġ", "t")]
"""With merges most sampled tokens are not those that the tokenizer makes of their text."""
SOME_ENDS = range(30, 100)
"""Tokens that a random policy draws often enough to end turns of a few tokens."""


@dataclass
class Talk:
    """A random policy in a chat with an environment."""

    template: str = CHATML
    seed: int = 0
    budgets: Budgets = Budgets(8, 32, 200)
    format: str | None = None
    begins: bool = True
    max_tokens: int = 60
    policy: Policy = field(init=False)

    def __post_init__(self) -> None:
        tokenizer = chat_tokenizer(self.template, MERGES)
        size = len(tokenizer)
        model = tiny_model(
            "qwen3", self.seed, vocabulary=size, max_position_embeddings=4096, num_hidden_layers=1
        )
        self.policy = Policy(model, tokenizer)
        end = "<|eot_id|>" if "eot_id" in self.template else "<|im_end|>"
        self.policy.stop_ids |= {tokenizer.convert_tokens_to_ids(end), *SOME_ENDS}
        template = Template("chat")
        self.separators = Separators(tokenizer, template, self.policy.stop_ids, 200)
        texts = [template.render(f"question {i}", tokenizer)[0] for i in range(3)]
        self.prompts = [
            Prompt(f"p{i}", tuple(tokenizer.encode(text, add_special_tokens=False)), {"row": i})
            for i, text in enumerate(texts)
        ]

    def turns(self, pool: ScriptedPool, **options) -> EnvironmentTurns:
        return EnvironmentTurns(
            pool,
            None if self.format is None else format_of(self.format),
            self.policy.tokenizer,
            separators_of=lambda prompt: self.separators,
            budgets=self.budgets,
            begins=self.begins,
            **options,
        )

    def groups(self, pool: ScriptedPool, **options) -> list[Group]:
        sampled = Engine(self.policy, max_rows=options.pop("max_rows", 256)).sample(
            self.prompts,
            group_size=2,
            max_tokens=self.max_tokens,
            sampling=Sampling(),
            seed=("talk", self.seed),
            turns=self.turns(pool, **options),
        )
        return [group for _, group in sorted(sampled)]


def for_turns(number: int):
    """An answer to each of so many turns, then the end."""

    def answer(row, texts):
        if len(texts) > number:
            return Observation(done=True, reward=0.5)
        return Observation(f'seen "{len(texts)}" of {row["row"]}\nand more', reward=0.25)

    return answer


@pytest.mark.parametrize(
    "template", [CHATML, QWEN_TOOLS, LLAMA_TOOLS], ids=["chatml", "qwen", "llama"]
)
def test_over_twenty_turns_the_trainer_sees_the_sampled_tokens_and_agrees_on_them(template: str):
    talk = Talk(template, max_tokens=400)
    groups = talk.groups(ScriptedPool(for_turns(20)))
    completions = [c for group in groups for c in group.completions]
    assert max(len(completion.turns) for completion in completions) == 21
    for completion in completions:
        check_tokens(talk, completion)
    scored = [
        ScoredGroup(group.prompt, group.completions, (Score(0.0), Score(1.0))) for group in groups
    ]
    batch = make_batch(
        scored,
        [[0.0, 1.0]] * 3,
        num_updates=1,
        epochs=1,
        max_tokens=400,
        mask_truncated=False,
        forward_flat=True,
    )
    packed = pack(batch.rows)
    with torch.no_grad():
        logp_T = talk.policy.token_stats(packed, 1.0).logp_T
    sampled_T = torch.cat([row.sampled_logps for row in batch.rows])
    assert len(sampled_T) == sum(c.num_tokens for c in completions) > 200
    assert (logp_T - sampled_T).abs().max() < 1e-5


def check_tokens(talk: Talk, completion) -> None:
    """Each given span is the template's text around what was observed; the rest are the policy's own tokens."""
    tokenizer = talk.policy.tokenizer
    written = []
    start = 0
    for (first, end), turn in zip(completion.given, completion.turns):
        stop = completion.token_ids[first - 1]
        assert stop in talk.policy.stop_ids
        message = {"role": "user", "content": turn.observed}
        assert (
            completion.token_ids[first:end] == talk.separators.messages([message], stop).token_ids
        )
        assert turn.text == tokenizer.decode(list(completion.token_ids[start : first - 1]))
        written.append(turn.text)
        start = end
    assert completion.text.startswith("\n".join(written))
    assert len(completion.sampled_logps) == completion.num_tokens


def test_what_the_tokenizer_would_make_of_the_text_is_not_what_was_sampled():
    talk = Talk()
    (first, *_), *_ = [group.completions for group in talk.groups(ScriptedPool(for_turns(6)))]
    tokenizer = talk.policy.tokenizer
    again = tokenizer.encode(tokenizer.decode(list(first.token_ids)), add_special_tokens=False)
    assert tuple(again) != first.token_ids


def alike(a: list[Group], b: list[Group], tolerance: float = 0.0) -> bool:
    pairs = [pair for x, y in zip(a, b) for pair in zip(x.completions, y.completions)]
    return all(
        x.token_ids == y.token_ids
        and torch.allclose(x.sampled_logps, y.sampled_logps, rtol=0, atol=tolerance)
        and (x.text, x.finish, x.given) == (y.text, y.finish, y.given)
        and [turn.to_mapping() for turn in x.turns] == [turn.to_mapping() for turn in y.turns]
        for x, y in pairs
    )


@pytest.mark.parametrize("in_step", [False, True])
def test_the_order_in_which_answers_come_changes_nothing(in_step: bool):
    talk = Talk()
    at_once = talk.groups(ScriptedPool(for_turns(5)))
    late = ScriptedPool(for_turns(5), most_seconds=0.01, seed=1)
    assert alike(at_once, talk.groups(late, in_step=in_step))
    assert alike(at_once, talk.groups(ScriptedPool(for_turns(5)), max_rows=8))
    assert set(late.opened) == set(late.forgotten) and len(late.opened) == 6


def test_every_answered_turn_is_kept_with_its_reward_and_the_end_is_the_environments():
    (group, *_) = Talk().groups(ScriptedPool(for_turns(2)))
    for completion in group.completions:
        assert completion.finish == "stop" and len(completion.turns) == 3
        assert [turn.reward for turn in completion.turns] == [0.25, 0.25, 0.5]
        assert completion.turns[-1].observed is None and len(completion.given) == 2
        assert completion.text == "\n".join(turn.text for turn in completion.turns)


def test_what_is_observed_first_stands_behind_the_prompt_and_is_not_learnt():
    pool = ScriptedPool(for_turns(1), first=lambda row: Observation(f"board {row['row']}"))
    for group in Talk().groups(pool):
        for completion in group.completions:
            start, end = completion.given[0]
            assert start == 0 and completion.turns[0].text == ""
            assert f"board {group.prompt.truth['row']}" in Talk().policy.tokenizer.decode(
                list(completion.token_ids[start:end])
            )
            assert (
                len(completion.sampled_logps) == completion.num_tokens < len(completion.token_ids)
            )


def test_an_environment_that_cannot_begin_is_an_error_that_is_counted():
    failed = Observation("no board", done=True, status="died")
    for group in Talk().groups(ScriptedPool(first=lambda row: failed)):
        for completion in group.completions:
            assert completion.finish == "error" and completion.turns[0].status == "died"
            assert not completion.token_ids


def test_turns_beyond_the_budget_end_the_completion_as_cut_off():
    talk = Talk(budgets=Budgets(8, 3, 200))
    for group in talk.groups(ScriptedPool(echo)):
        for completion in group.completions:
            assert completion.finish == "length" and completion.truncated
            assert len(completion.turns) == 3


def test_token_log_probs_are_placed_in_the_text_that_leaves_observations_out():
    tokenizer = chat_tokenizer(CHATML)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    turns = [[*tokenizer.encode("one two", add_special_tokens=False), end]]
    observed = tokenizer.encode("seen", add_special_tokens=False)
    turns.append([*tokenizer.encode("né", add_special_tokens=False), end])
    token_ids = [*turns[0], *observed, *turns[1]]
    completion = Completion(
        "one two\nné",
        tuple(token_ids),
        torch.zeros(len(token_ids) - len(observed)),
        "stop",
        stop=end,
        given=((len(turns[0]), len(turns[0]) + len(observed)),),
        turns=(Turn("one two", "seen"),),
    )
    ends = token_ends(tokenizer, completion)
    assert ends == [1, 2, 3, 4, 5, 6, 7, 7, 9, 9, 10, 10]
    assert len(ends) == completion.num_tokens == len(completion.sampled_logps)


# ---- calls ------------------------------------------------------------------------------------------------------

CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'


class Written:
    """A policy whose turns are written out: what the engine would ask, without a model."""

    def __init__(self, format: str, budgets: Budgets = Budgets(2, 9, 200), begins: bool = False):
        self.talk = Talk(QWEN_TOOLS, format=format, budgets=budgets, begins=begins)
        self.pool = ScriptedPool(self.answer)
        self.turns = self.talk.turns(self.pool)
        self.end = self.talk.policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.sequence = RolloutSequence(0, 0, self.talk.prompts[0], 0, 10**6, None)
        self.turns.begin([self.sequence])

    def answer(self, row, texts) -> Observation:
        calls = format_of(self.talk.format).parse(texts[-1]).calls
        results = tuple(Result(call.name, f"result {len(texts)}") for call in calls)
        return Observation("\n".join(result.text for result in results), results=results)

    def write(self, text: str, by: str = "stop") -> bool:
        """Whether a turn is answered; it has been, then."""
        sequence = self.sequence
        token_ids = self.talk.policy.tokenizer.encode(text, add_special_tokens=False)
        for token in token_ids:
            sequence.tokens.append(token)
            sequence.logps.append(-1.0)
        sequence.stop = self.turns.ends_call(sequence)
        if by == "stop":
            sequence.tokens.append(self.end)
            sequence.logps.append(-1.0)
            sequence.stop = self.end
        sequence.finish = by
        if not self.turns.pauses(sequence):
            return False
        assert self.turns.take_ready(wait=True) == [sequence]
        return True

    def shown(self) -> str:
        """The last observation, with what the template writes around it."""
        start, end = self.sequence.given[-1]
        return self.talk.policy.tokenizer.decode(self.sequence.tokens[start:end])


class Counting:
    """A tokenizer that keeps what it was asked to tokenise and to decode."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.encoded: list[str] = []
        self.decoded: list[int] = []

    def __call__(self, text: str, **options):
        self.encoded.append(text)
        return self.tokenizer(text, **options)

    def decode(self, token_ids, **options) -> str:
        self.decoded.append(len(token_ids))
        return self.tokenizer.decode(token_ids, **options)

    def __getattr__(self, name: str):
        return getattr(self.tokenizer, name)


@pytest.mark.parametrize(
    "format, text, by",
    [
        ("hermes", "Well, NUMBER: I call.\n" + CALL, "stop"),
        ("<calc>", "Well, NUMBER: 1 > 0, so <calc>6*7</calc>", "call"),
        ("fenced", "Well, NUMBER:\n```python\nprint(1)\n```", "call"),
    ],
)
def test_an_observation_is_tokenised_once_and_what_was_sampled_never(format, text, by):
    one = Written(format, Budgets(200, 200, 200))
    tokenizer = Counting(one.talk.policy.tokenizer)
    assert one.write(text, by)  # finds the separators
    one.turns.tokenizer = one.turns.ends.tokenizer = one.talk.separators.tokenizer = tokenizer
    for number in range(1, 129):
        assert one.write(text.replace("NUMBER", str(number)), by)
    assert len(tokenizer.encoded) == 128
    for number, encoded in enumerate(tokenizer.encoded, start=2):
        assert f"result {number}" in encoded and "Well" not in encoded
    length = len(one.talk.policy.tokenizer.encode(text, add_special_tokens=False))
    assert max(tokenizer.decoded) <= length  # of one turn, however many there were
    assert len(tokenizer.decoded) <= 4 * 128


def test_an_observation_that_is_cut_is_tokenised_a_few_times_more():
    one = Written("<calc>", Budgets(200, 200, 8))
    tokenizer = Counting(one.talk.policy.tokenizer)
    one.talk.separators = Separators(
        tokenizer, one.talk.separators.template, frozenset(), max_tokens=8
    )
    assert one.write("<calc>6*7</calc>", by="call")
    assert (
        2 < len(tokenizer.encoded) < 12 and one.sequence.given[0][1] - one.sequence.given[0][0] <= 8
    )


def test_a_turn_without_a_call_ends_the_completion_and_opens_nothing():
    one = Written("hermes")
    assert not one.write("It is 42.") and one.sequence.finish == "stop"
    assert not one.pool.opened and not one.sequence.turns


def test_several_calls_of_one_turn_are_answered_in_a_turn_of_their_own():
    one = Written("hermes")
    assert one.write(f"{CALL}\n{CALL}")
    response = "<tool_response>\nresult 1\n</tool_response>"
    assert one.shown() == (
        f"\n<|im_start|>user\n{response}\n{response}<|im_end|>\n<|im_start|>assistant\n"
    )
    (turn,) = one.sequence.turns
    assert (
        turn.calls == ("f", "f") and turn.status == "ok" and turn.observed == "result 1\nresult 1"
    )


def test_a_call_beyond_the_budget_is_refused_once_and_the_next_ends_the_completion():
    one = Written("hermes")
    assert one.write(CALL) and one.write(CALL) and one.write(CALL)
    assert [turn.status for turn in one.sequence.turns] == ["ok", "ok", "refused"]
    assert "No calls are left: a completion may make 2 calls" in one.shown()
    assert len(one.pool.texts[next(iter(one.pool.texts))]) == 2  # the third was never run
    assert not one.write(CALL) and one.sequence.finish == "stop"


def test_after_a_refusal_the_policy_may_still_finish():
    one = Written("hermes", Budgets(1, 9, 200))
    assert one.write(CALL) and one.write(CALL) and not one.write("So 42.")
    assert one.sequence.finish == "stop"
    assert set(one.pool.forgotten) == set(one.pool.opened)


def test_a_call_in_the_middle_of_a_turn_is_answered_within_it():
    one = Written("<calc>")
    assert one.write("it is <calc>6*7</calc>", by="call")
    assert one.sequence.turns[0].calls == ("calc",)
    assert one.shown() == "<result>result 1</result>"
    assert one.turns.ends_call(one.sequence) == "" and not one.write(" so 42")


def test_a_call_is_complete_with_its_last_token_and_not_before():
    one = Written("fenced")
    encode = one.talk.policy.tokenizer.encode
    ends = []
    for token in encode("so\n```python\nprint(1)\n```", add_special_tokens=False):
        one.sequence.tokens.append(token)
        ends.append(one.turns.ends_call(one.sequence))
    assert ends[-1] == "```" and not any(ends[:-1])


def test_a_resumed_completion_plays_its_turns_again_and_asks_the_last_one_anew():
    talk = Talk(budgets=Budgets(8, 32, 200))
    whole = talk.groups(ScriptedPool(for_turns(5)))
    slow = ScriptedPool(for_turns(5), most_seconds=0.05)
    engine = Engine(talk.policy)
    options = {
        "group_size": 2,
        "max_tokens": talk.max_tokens,
        "sampling": Sampling(),
        "seed": ("talk", talk.seed),
    }
    sampled = engine.sample(talk.prompts, **options, enough=1, turns=talk.turns(slow, in_step=True))
    done = [group for _, group in sampled]
    partial = engine.partial_groups
    assert len(done) == 1 and len(partial) == 2
    assert any(c.turns for group in partial for c in group.completions)
    pool = ScriptedPool(for_turns(5))
    resumed = engine.sample([], **options, partial_groups=partial, turns=talk.turns(pool))
    done += [group for _, group in resumed]
    done.sort(key=lambda group: group.prompt.id)
    assert alike(whole, done, tolerance=1e-5)  # what is resumed is read in one forward
    played = [texts for _, texts in pool.opened.values()]
    assert max(map(len, played)) > 0
