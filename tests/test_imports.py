"""Imports go one way, and CuPy is imported nowhere but in the backend."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scratch_vlm

ROOT = Path(scratch_vlm.__file__).parent
ORDER = [
    "backend",
    "tree",
    "recompute",
    "gradcheck",
    "ops",
    "kernels",
    "layers",
    "models",
    "costs",
    "cases",
    "data",
    "pretrained",
    "training",
    "inference",
    "parity",
    "viz",
    "experiments",
    "bench",
    "cli",
    "__main__",
]
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(part):
    return ORDER.index(part.removesuffix(".py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_the_list(path):
    here = path.relative_to(ROOT).parts[0]
    for module in imported_modules(path):
        parts = module.split(".")
        if (
            parts[0] == "scratch_vlm"
            and len(parts) > 1
            and (ROOT / parts[1]).exists() | (ROOT / f"{parts[1]}.py").exists()
        ):
            assert place(parts[1]) <= place(here), f"{path.name} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_backend_names_cupy(path):
    if path.relative_to(ROOT).parts[0] == "backend":
        return
    assert not [m for m in imported_modules(path) if m.split(".")[0] in ("cupy", "cupyx")]


def test_nothing_imports_cupy_or_matplotlib_before_it_is_asked_for():
    code = (
        "import sys, scratch_vlm.cli, scratch_vlm.cases, scratch_vlm.models.clip\n"
        "print([m for m in ('cupy', 'matplotlib', 'sklearn', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
