"""Programs that completions hold, and whether they pass a data set's tests.

``extraction`` finds the program in a completion, ``formats`` reads the tests that data sets carry, ``protocols`` runs
them in a sandbox, ``comparison`` says whether outputs agree. The reward that puts them together is
``rewards.code_tests``. Nothing here parses or runs a completion's program in this process.
"""

from rewards.programs.comparison import COMPARISONS, same_output, same_value
from rewards.programs.extraction import extract_program
from rewards.programs.formats import AssertTests, CallTests, IOTests, TestData, read_tests
from rewards.programs.protocols import Outcome, run_tests

__all__ = [
    "COMPARISONS",
    "AssertTests",
    "CallTests",
    "IOTests",
    "Outcome",
    "TestData",
    "extract_program",
    "read_tests",
    "run_tests",
    "same_output",
    "same_value",
]
