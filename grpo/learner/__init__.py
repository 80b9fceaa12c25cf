"""From scored groups to changed weights: batches, the update, its statistics, AdamW, and who is wrong on drift.

`learner.Learner` makes the updates. What is optimised is ``grpo.objective``'s, how a model runs is ``grpo.model``'s,
and what alarms lead to is decided in ``grpo.monitor``.
"""
