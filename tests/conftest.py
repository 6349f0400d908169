"""Hypothesis profiles: the same examples on every run, or many with --hypothesis-profile=night.

What fails is shrunk to the smallest example, and printed with the lines that show it again.
"""

from hypothesis import settings

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=25, print_blob=True
)
settings.register_profile("night", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("repeatable")
