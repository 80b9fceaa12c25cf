"""Talking to a model in the terminal: ``grpo chat``.

``conversation`` keeps the turns and asks the engine, ``reply`` turns tokens into text as they come and tells thinking
from answer, ``terminal`` reads questions and shows replies. Sampling itself is ``grpo.rollout``.
"""
