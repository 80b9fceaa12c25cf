"""Keys that contradict each other are refused, with the reason."""

import pytest

from grpo.recipe import AdvantageSection, LossSection, Recipe, RecipeError, check_loss


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "sample: {group_size: 1}",
            "sample.group_size is 1, but advantage.rule group_std compares",
        ),
        ("sample: {prompts: 2}\noptim: {updates: 3}", "optim.updates is 3 but sample.prompts is 2"),
        ("sample: {temperature: 0}", "sample.temperature is 0"),
        ("loss: {reference_every: 4}", "loss.reference_every is set but loss.beta is 0"),
        (
            "advantage: {rule: pass_k, k: 9}",
            "advantage.k is 9; the best of k compares 2 to sample.group_size (8)",
        ),
        ("advantage: {rule: pass_k, k: 1}", "advantage.k is 1; the best of k compares 2"),
        ("advantage: {k: 4}", "advantage.k is set but advantage.rule group_std does not read it"),
        (
            "sample: {oversample: 0.5}",
            "sample.oversample samples more prompts to choose from, but advantage.flat keep",
        ),
        (
            "advantage: {rule: reinforce_pp, flat: drop}\nsample: {group_size: 1}",
            "advantage.flat is drop, but a group of one",
        ),
        (
            "data: {pass_low: 0.9, pass_high: 0.1}",
            "data.pass_low is 0.9, above data.pass_high (0.1)",
        ),
        (
            "loss: {policy: gspo}",
            "loss.policy gspo has one ratio for a whole completion, but the correction is per token, a "
            "token-level trust region around a sequence-level ratio",
        ),
        (
            "loss: {preset: gspo, aggregation: token_mean}",
            "loss.policy gspo has one ratio for a whole completion, which "
            "loss.aggregation token_mean would weight by its tokens; set "
            "sequence_mean or sequence_sum; or use gspo_token",
        ),
        (
            "loss: {policy: gmpo, correction: none, correction_mask: token}",
            "loss.policy gmpo has one ratio",
        ),
        ("loss: {policy: kimi}", "loss.policy kimi has one ratio for a whole completion"),
        (
            "loss: {preset: gspo, top_entropy: 0.2}",
            "loss.policy gspo has one ratio for a whole completion, but "
            "loss.top_entropy takes single tokens out of it",
        ),
        (
            "loss: {preset: reinforce_pp, policy: gspo, aggregation: sequence_mean, correction: none}",
            "loss.policy gspo reads one advantage a completion, but advantage.rule reinforce_pp",
        ),
        (
            "loss: {policy: cispo, dual_clip: 3}",
            "loss.dual_clip is set, but loss.policy cispo does not read it",
        ),
        (
            "loss: {policy: sapo, ratio_cap: 4}",
            "loss.ratio_cap is set, but loss.policy sapo does not read it",
        ),
        (
            "loss: {constant: 100}",
            "loss.constant is set, but loss.aggregation sequence_mean does not read it",
        ),
        ("loss: {policy: none}", "loss.policy is none and there is no loss.teacher"),
        (
            "loss: {beta: 0.1, kl: k3_unbiased, kl_in: reward}",
            "loss.kl k3_unbiased is k3 times a ratio that carries gradient",
        ),
        (
            "loss: {beta: 0.1, kl_in: reward}\nadvantage: {rule: gdpo}",
            "advantage.rule gdpo normalises each reward by itself",
        ),
        (
            "loss: {policy: clip_cov, cov_low: 5, cov_high: 1}",
            "loss.cov_low is 5, not below loss.cov_high (1)",
        ),
        (
            "loss: {correction_mask: token, correction_low: 3, correction_high: 2}",
            "loss.correction_low is 3, not below",
        ),
        (
            "rewards: {a: {weight: 1}}",
            "rewards.a.use is missing; name a function, e.g. math_answer",
        ),
        (
            "rewards: {correct: {use: x}}\nevaluate: {reward: corect}",
            "evaluate.reward names corect, which is not among rewards; did you mean correct?",
        ),
        (
            "distributed: {shard: true}\nmodel: {quantize: nf4, lora: {rank: 2}}",
            "distributed.shard is true, but the 4-bit base of model.quantize",
        ),
        (
            "distributed: {shard: true}\noptim: {state: 8bit}",
            "distributed.shard is true, but 8-bit moments",
        ),
        (
            "distributed: {shard: true}\nsample: {keep_graphs: true}",
            "distributed.shard is true, but sample.keep_graphs relies on weights that stay where they are",
        ),
        (
            "distributed: {shard: true}\nsample: {compile: true}",
            "distributed.shard is true, but sample.compile relies on",
        ),
        (
            "distributed: {shard: true}\nsample: {engine: vllm, servers: ['http://a:1'], staleness: 1}",
            "distributed.shard is true, but sample.staleness samples while",
        ),
        (
            "distributed: {shard: true}\nloss: {load_balance: 0.1}",
            "distributed.shard is true, but loss.load_balance needs a mixture of experts",
        ),
        (
            "distributed: {shard: true}\nstage: reject",
            "distributed.shard is true, but stage reject trains nothing",
        ),
        (
            "data: {columns: {prompt: 3}}",
            "data.columns.prompt must name a column of the data set, not 3",
        ),
        (
            "data: {columns: {prompt: null}}",
            "data.columns.prompt must name a column of the data set, not nothing",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(refusal, text, message):
    assert refusal(text).startswith(f"recipe: {message}")


def test_one_completion_a_prompt_will_do_where_no_group_is_compared():
    recipe = Recipe.from_mapping({"loss": {"preset": "reinforce_pp"}, "sample": {"group_size": 1}})
    assert recipe.sample.group_size == 1
    assert recipe.advantage.rule == "reinforce_pp"


def test_a_loss_can_be_checked_without_a_recipe():
    check_loss(LossSection(), AdvantageSection())
    with pytest.raises(RecipeError, match="recipe: loss.policy gspo has one ratio"):
        check_loss(LossSection(policy="gspo"), AdvantageSection())


def test_the_first_of_several_contradictions_is_told():
    with pytest.raises(RecipeError, match="^recipe: advantage.k is set") as caught:
        Recipe.from_mapping({"advantage": {"k": 4}, "loss": {"constant": 100}})
    assert "loss.constant" not in str(caught.value)
