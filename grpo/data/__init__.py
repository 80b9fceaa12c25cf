"""From a data set to the prompts of a step.

``reading`` has the rows of a source as they are; ``rows`` gives them the recipe's columns, selects and checks them;
``sources`` loads each source of a recipe and holds rows out; ``prompts`` renders and tokenizes them; ``stream`` draws
prompts in an order that the seed fixes; ``curriculum`` chooses which of them are sampled and which groups are trained.
Sampling completions is up to ``grpo.rollout``, scoring them to ``grpo.scoring``.
"""
