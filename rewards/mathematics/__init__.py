"""Mathematics in answers: how one is extracted and read, and how two of them are compared.

Others use `extraction.extract` and `extraction.bare_answer`, which locate an answer in a text, and `equality.equal`,
which compares two. Inside, in reading order:

============= ==================================================================================
from text to tree
------------------------------------------------------------------------------------------------
plain_number  numbers as people write them, without a parser, and the rules of rounding
words         multiple choice, times and dates, names, sentences
letters       several letters of a multiple choice
around        the unit, noun or larger units that belong to a number in prose
prose         what a sentence states: its value, the options that it calls correct
surface       quotes, full-width signs, marks at the end
notation      one spelling for what is written in many ways
plain_text    plain-text mathematics in LaTeX's signs
tokens        text becomes tokens
cursor        a position in the tokens, and the rules of the grammar that call each other
latex         tokens become a tree: sums, products, factors
statements    its upper half: lists, relations, sets, ratios
juxtaposition mixed numbers, units, products without a sign; further parts: brackets, commands, suffixes, digits
tree          the tree's node and its bounds
measures      the table of units and prefixes
unit_phrases  units in every spelling; further: siunitx, unit_tokens (where one may stand), bare_values
units         what a unit's name stands for
from tree to verdict
------------------------------------------------------------------------------------------------
comparison    what two trees are, item by item
labels        names in front of values, and double signs
equations     equations and inequalities that are multiples of each other, or have the same solution
real_sets     intervals, unions, inequalities and set-builders as sets of numbers
quantities    values with their units, percent signs and roundings
agreement     two expressions at random points
expressions   canonical structure; values at 50 digits
exact         rational parts folded exactly
symbolic      the last resort: sympy, only in a process that can be killed
============= ==================================================================================

Nothing here executes the text of an answer, and importing it loads neither sympy nor mpmath. Every bound counts work;
the only clock is the backstop of `symbolic`, and running into it is no verdict. Scores and statuses are
``rewards.math_answer``.
"""
