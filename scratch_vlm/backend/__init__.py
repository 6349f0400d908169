"""Where an array lives, and the few primitives whose best form differs between NumPy and CuPy.

The only package that knows CuPy exists. Nothing here imports it before it is asked for by name.
"""

from scratch_vlm.backend.arrays import drawn, floating, namespace, to_device, to_host
from scratch_vlm.backend.blocks import in_blocks, in_turns
from scratch_vlm.backend.choose import BackendError, cupy_problem, load
from scratch_vlm.backend.dispatch import fused
from scratch_vlm.backend.factors import as_factor, factor_room, room_back, room_between
from scratch_vlm.backend.feed import Feed
from scratch_vlm.backend.graph import GraphError, Graphs
from scratch_vlm.backend.memory import is_shortage, keep_freed_memory, memory_shortage
from scratch_vlm.backend.precision import PRECISIONS, in_precision, products_in, rounded
from scratch_vlm.backend.primitives import (
    add_at,
    add_sum,
    column_sum,
    erf,
    project,
    row_dot,
    row_max,
    row_mean,
    row_sum,
    rows,
    squared_length,
)
from scratch_vlm.backend.products import add_product, product
from scratch_vlm.backend.token_blocks import back_in_token_blocks, in_token_blocks

__all__ = [
    "PRECISIONS",
    "BackendError",
    "Feed",
    "GraphError",
    "Graphs",
    "add_at",
    "add_product",
    "add_sum",
    "as_factor",
    "back_in_token_blocks",
    "column_sum",
    "cupy_problem",
    "drawn",
    "erf",
    "factor_room",
    "floating",
    "fused",
    "in_blocks",
    "in_precision",
    "in_token_blocks",
    "in_turns",
    "is_shortage",
    "keep_freed_memory",
    "load",
    "memory_shortage",
    "namespace",
    "product",
    "products_in",
    "project",
    "room_back",
    "room_between",
    "rounded",
    "row_dot",
    "row_max",
    "row_mean",
    "row_sum",
    "rows",
    "squared_length",
    "to_device",
    "to_host",
]
