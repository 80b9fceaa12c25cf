"""Statistics of evaluations: pure functions of numbers, without torch.

``intervals`` bounds a mean over prompts, ``curves`` is pass@k, ``votes`` is maj@k, ``comparison`` tells two models
apart, ``distributions`` holds the quantiles. What is sampled and scored is another's business.
"""
