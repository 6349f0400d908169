"""Hypothesis profiles: the same examples on every run, or many with --hypothesis-profile=night."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25)
settings.register_profile("night", deadline=None, max_examples=2000)
settings.load_profile("repeatable")
