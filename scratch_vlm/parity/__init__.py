"""Parity: our models beside what the published implementations compute, gradients included."""
