"""From a data set to the prompts of a step.

``rows`` reads a data set, renames its columns and holds out rows for evaluation; ``prompts`` renders and tokenizes the
rows and draws prompts in an order that the seed fixes; ``curriculum`` chooses which of them are sampled and which
groups are trained. Sampling completions is up to ``grpo.rollout``, scoring them to ``grpo.scoring``.
"""
