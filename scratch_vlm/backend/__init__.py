"""Where an array lives, and the few primitives whose best form differs between NumPy and CuPy.

The only package that knows CuPy exists. Nothing here imports it before it is asked for by name.
"""

from scratch_vlm.backend.arrays import floating, namespace, to_device, to_host
from scratch_vlm.backend.choose import BackendError, cupy_problem, load
from scratch_vlm.backend.memory import keep_freed_memory, memory_shortage
from scratch_vlm.backend.primitives import add_at, erf, project, row_dot, row_mean, rows

__all__ = [
    "BackendError",
    "add_at",
    "cupy_problem",
    "erf",
    "floating",
    "keep_freed_memory",
    "load",
    "memory_shortage",
    "namespace",
    "project",
    "row_dot",
    "row_mean",
    "rows",
    "to_device",
    "to_host",
]
