"""Every equation of the lessons and docstrings can be drawn without a script."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("docutils", reason='the pages need the extra "docs"')

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "lessons").rglob("*.py"), *(ROOT / "scratch_vlm").rglob("*.py")])
BLOCK = r"(?m)^( *)\.\. math::(.*(?:\n(?:\1 +.*|\s*$))*)"


@pytest.fixture(scope="module")
def mathml():
    spec = importlib.util.spec_from_file_location("mathml", ROOT / "docs" / "mathml.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(path):
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""
    yield re.sub("(?m)^# ?|^[^#].*$", "", source)  # the prose of a lesson


def equations(path):
    for text in texts(path):
        yield from ((tex, False) for tex in re.findall(r":math:`([^`]*)`", text))
        yield from ((tex, True) for _, tex in re.findall(BLOCK, text))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_equations_can_be_drawn(path, mathml):
    for tex, block in equations(path):
        assert "<math" in mathml.convert(tex, block=block), tex


def test_equations_are_found():
    found = [tex for path in FILES for tex, _ in equations(path)]
    assert len(found) > 200 and any("softmax" in tex for tex in found)


def test_an_unknown_command_is_noticed(mathml):
    with pytest.raises(Exception, match="mathrel"):
        mathml.convert(r"a \mathrel{+}= b", block=True)
