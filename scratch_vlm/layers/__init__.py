"""Layers with parameters, from a linear one to a block, each with its gradient under it."""
