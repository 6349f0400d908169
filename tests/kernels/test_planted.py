"""Errors planted in the kernels; the comparison with their twins notices each."""

import emulator
import numpy as np
import pytest
from kernel_cases import CASES, ROUNDING, agrees

from scratch_vlm import kernels
from scratch_vlm.backend import launch

NORM = {"number": "float32", "rows": 5, "width": 132}
MANY = {"number": "float32", "rows": 200, "width": 12}
WIDE = {"number": "float32", "rows": 2, "width": 1030}
ROWS = {"number": "float32", "classes": 600}
RULED_OUT = {"number": "float32", "classes": 600, "ruled_out": 0.7}
FEW = {"number": "float32"}
ATTENTION = {"number": "bfloat16", "queries": 70, "keys": 140, "mask": "random"}
PLANTED = [  # file, what it says, what it should not say, case, sizes
    ("norm.cu", "- xhat[k] * along_xhat", "", "norm", NORM),
    ("norm.cu", "sum += parts", "sum = parts", "norm", MANY),
    ("norm.cu", "dgamma[k] += dxhat", "dgamma[k] = dxhat", "norm", MANY),
    ("norm.cu", "if (turn) {", "if (false) {", "norm", NORM),
    ("norm.cu", "bool inside = channel(k) < WIDTH", "bool inside = true", "norm", NORM),
    ("norm.cu", "LANES > WARP ? block_sum(value, of_warps) : ", "", "norm", WIDE),
    ("norm.cu", "dgamma[i] += ", "dgamma[i] = ", "norm", NORM),
    ("norm.cu", "centre = row_sum(centre, of_warps)", "centre = centre", "norm", NORM),
    ("common.cuh", "apart = WARP / 2", "apart = WARP / 4", "norm", NORM),
    ("cross_entropy.cu", "sum *= expf(largest - score);", "", "cross_entropy", ROWS),
    ("cross_entropy.cu", "weight * dloss[0]", "dloss[0]", "cross_entropy", ROWS),
    ("cross_entropy.cu", "if (score != -INFINITE) ", "", "cross_entropy", RULED_OUT),
    ("cross_entropy.cu", "weight * dloss[0]", "weight", "cross_entropy", ROWS | {"dloss": 0.3}),
    ("adamw.cu", "root_over_bias2 + eps", "root_over_bias2", "adamw", FEW),
    ("adamw.cu", "* factor[row] * decay[row]", "* decay[row]", "adamw", FEW),
    (
        "embedding.cu",
        "i < count && sorted[i] == id",
        "i == blockIdx.x",
        "add_at",
        {**FEW, "count": 300},
    ),
    ("embedding.cu", "sorted[place] = id", "sorted[place] = token", "add_at", FEW),
    ("contrastive.cu", "row == column ? 2.0f", "row == column ? 1.0f", "contrastive", FEW),
    ("contrastive.cu", "sums[half] *= expf(largest[half] - score);", "", "contrastive", FEW),
    ("tiles.cuh", "left[i], b + 2", "left[i], b", "attention", ATTENTION),
    ("attention_forward.cu", "so_far.sum[n][j] *= shrink[j / 2]", "", "attention", ATTENTION),
    ("attention_forward.cu", "so_far.total[half] *= shrink[half];", "", "attention", ATTENTION),
    ("attention_forward.cu", "&& lacks ?", "&& false ?", "attention", ATTENTION),
    ("attention_forward.cu", "i % 32 & 1) << query", "i % 32 & 1)", "attention", ATTENTION),
    ("tiles.cuh", "n * 8 + j % 2 < count", "true", "attention", ATTENTION | {"mask": "none"}),
    ("attention_backward.cu", " = -deltas[j / 2]", " = 0.0f", "attention", ATTENTION),
    ("attention_backward.cu", " = -deltas[n", " = deltas[n", "attention", ATTENTION),
]


@pytest.mark.parametrize(("file", "right", "wrong", "case", "sizes"), PLANTED)
def test_a_planted_error_is_noticed(emulated, monkeypatch, file, right, wrong, case, sizes):
    def planted(name, folder=launch.FOLDER):
        text = source(name, folder)
        return text.replace(right, wrong)

    source = launch.source
    assert right in (launch.FOLDER / file).read_text(encoding="utf-8")
    monkeypatch.setattr(launch, "source", planted)
    launch.library.cache_clear()
    kernels.use_kernels(np)
    with emulator.running(flags=("-O0",)):  # quicker to build
        assert not agrees(CASES[case], ROUNDING[sizes["number"]], **sizes)
    launch.library.cache_clear()


def test_without_an_error_they_agree(emulated):
    kernels.use_kernels(np)
    for case, sizes in {case: sizes for _, _, _, case, sizes in PLANTED}.items():
        assert agrees(CASES[case], ROUNDING[sizes["number"]], **sizes), case
