"""The inside of `rewards.mathematics.equality`: how an answer is read, and how two of them are compared.

Read in this order:

============= ==================================================================================
from text to tree
------------------------------------------------------------------------------------------------
plain_number  numbers as people write them, without a parser, and the rules of rounding
words         multiple choice, times and dates, names, sentences
notation      one spelling for what is written in many
tokens        text becomes tokens
latex         tokens become a tree; its parts: brackets, commands, suffixes, digits
tree          the tree's node and the bounds it keeps
units         what a unit's name stands for
from tree to verdict
------------------------------------------------------------------------------------------------
expressions   canonical structure; values at 50 digits
labels        names in front of values, and both signs
quantities    values with their units, percent signs and roundings
real_sets     intervals, unions, inequalities and set-builders as sets of numbers
symbolic      the last resort: sympy, only in a process that can be killed
============= ==================================================================================

Nothing here executes the text of an answer, and importing it loads neither sympy nor mpmath.
"""
