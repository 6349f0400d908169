"""The list of kernels that a step runs."""

import doctest
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from scratch_vlm.backend import cupy_problem

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu_profile.py"


@pytest.fixture(scope="module")
def gpu_profile():
    spec = importlib.util.spec_from_file_location("gpu_profile", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_as_its_example_says(gpu_profile):
    failed, tried = doctest.testmod(gpu_profile)
    assert tried and not failed


def test_without_a_profiler_it_says_what_is_missing(gpu_profile, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.profiler", None)
    monkeypatch.setenv("TEARDOWN_CUPTI", "0")
    assert gpu_profile.main([]) == 3
    assert "pip install torch" in capsys.readouterr().err


def test_a_profiler_that_sees_nothing_is_named(gpu_profile, monkeypatch, capsys):
    for name in ("torch", "torch.profiler"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    contender = SimpleNamespace(name="cupy tf32 graph", takes_part=lambda subject: True)
    monkeypatch.setattr(gpu_profile, "contenders", lambda backend: ([contender], {}))
    monkeypatch.setattr(gpu_profile, "WHO", {"lesson ViT": contender.name})
    monkeypatch.setattr(gpu_profile, "watch", lambda contender, subject: [])
    monkeypatch.setenv("TEARDOWN_CUPTI", "0")
    assert gpu_profile.main([]) == 3
    assert "saw no kernel" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(cupy_problem() is not None, reason=str(cupy_problem()))
def test_the_kernels_of_a_step_are_listed(gpu_profile, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    assert gpu_profile.main(["--only", "lesson", "--out", str(tmp_path / "profile.txt")]) == 0
    text = (tmp_path / "profile.txt").read_text(encoding="utf-8")
    assert "norm_backward" in text and "adamw" in text
