"""Whole models: a config, parameters, forward and backward."""
