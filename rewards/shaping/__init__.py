"""Rewards for the shape of a completion: format, length, language, repetition. They do not judge the answer itself.

Each module holds rewards that ``rewards.table`` names; nothing here is imported before a recipe asks for it.
"""
