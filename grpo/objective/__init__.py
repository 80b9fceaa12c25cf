"""What is optimised, as pure functions of tensors: advantages, policy losses, KL, corrections, and their sum.

Each table binds functions to the names in ``grpo.recipe.objectives``. `objective.Objective` puts a recipe's choice
together; forwards, backwards and the optimizer are ``grpo.learner``'s.
"""
