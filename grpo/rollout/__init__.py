"""Rollouts: prompts become groups of completions, sampled from the policy by the trainer's own modules.

``engine`` is the interface; it chooses a ``decoder`` (contiguous, paged, or transformers' ``generate``) and leaves
scoring, advantages and training to others. Import the modules directly.
"""
