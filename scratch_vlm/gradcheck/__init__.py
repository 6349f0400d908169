"""Judge any forward/backward pair: measure the same slope twice, and compare.

The forward says how its output changes along a direction; the backward says how the loss changes
with each number. For a cotangent dy and a direction u both give the slope <dy, J u> = <J^T dy, u>.
"""

from scratch_vlm.gradcheck.measure import FLOOR, TOLERANCE, check, measure
from scratch_vlm.gradcheck.report import Entry, Fault, GradientError, Report

__all__ = [
    "FLOOR",
    "TOLERANCE",
    "Entry",
    "Fault",
    "GradientError",
    "Report",
    "check",
    "measure",
]
