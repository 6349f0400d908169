"""Vision language models from scratch: every forward with its backward, on NumPy and CuPy."""

__version__ = "0.1.0"
