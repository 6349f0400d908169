"""Something to check every pair of the library with: random inputs, parameters and options.

`pairs` finds pairs by their names and judges them, `draw` makes a case for each, and `case` says
what that is. A pair without a case is an error, so that none goes unchecked.
"""

from scratch_vlm.cases.case import Case, Sizes, random_mask, random_parameters
from scratch_vlm.cases.pairs import (
    Pair,
    check_case,
    find_pairs,
    make_case,
    measure_case,
    snippet,
    whole_models,
)

__all__ = [
    "Case",
    "Pair",
    "Sizes",
    "check_case",
    "find_pairs",
    "make_case",
    "measure_case",
    "random_mask",
    "random_parameters",
    "snippet",
    "whole_models",
]
