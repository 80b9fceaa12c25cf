"""Distillation as a command: ``python -m grpo.distill RECIPE``, the same as ``grpo distill``.

What a run does is in ``grpo.stages.distill``; a recipe of stage distill also runs by ``grpo train``.
"""
