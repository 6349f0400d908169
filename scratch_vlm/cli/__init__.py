"""The command ``scratch-vlm``: `entry` lists what it can do, each of the others holds a family."""

from scratch_vlm.cli.entry import main

__all__ = ["main"]
