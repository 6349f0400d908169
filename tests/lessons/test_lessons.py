"""Each lesson and each answer runs; the prose says no number that the code does not show."""

import ast
import importlib
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
SILENT = (  # what is no claim about the lesson: code, equations, publications, other lessons
    r"``.*?``",
    r":\w+:`.*?`",
    r"`.*?`",
    r"arXiv:\S+",
    r"Llama \d(\.\d)?",
    r"(issues?|pull requests?)\s\d+(\sand\s\d+)?",  # of other projects
    r"[Ll]essons? \d\d( (and|to) \d\d)?",
    r"\*\*\d\. ",  # the number of an exercise
)
NUMBER = r"(?<![\w.])\d[\d,]*(?:\.\d+)?"


@cache
def output(lesson, folder):
    """Run the answers to a lesson's exercises, which runs the lesson, in a Python of its own."""
    answers = lesson.parent / "solutions" / lesson.name
    run = subprocess.run(
        [sys.executable, "-W", "error", str(answers)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SCRATCH_VLM_FIGURES": folder, "MPLBACKEND": "Agg"},
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    return run.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("figures"))


def text_of(lesson):
    source = lesson.read_text(encoding="utf-8")
    lines = [ast.get_docstring(ast.parse(source))]
    lines += [line[2:] for line in source.splitlines() if line.startswith("# ") and line != "# %%"]
    return "\n".join(lines)


def prose(lesson):
    """The text of a lesson up to its sources, without what makes no claim about the lesson."""
    text = text_of(lesson).split("\nSources\n")[0]
    text = re.sub(r"\.\. math::.*?(?=\n\S|\Z)", "", text, flags=re.S)  # and its indented lines
    for pattern in SILENT:
        text = re.sub(pattern, "", text, flags=re.S)
    return text


def numbers(text):
    return {float(number.replace(",", "")) for number in re.findall(NUMBER, text)}


def test_there_are_lessons_and_every_one_has_answers():
    assert LESSONS
    answers = sorted((ROOT / "lessons" / "solutions").glob("*.py"))
    assert [path.name for path in answers] == [path.name for path in LESSONS]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_lesson_and_its_answers_run(lesson, folder):
    said = output(lesson, folder)
    for path in re.findall(r"^figure: (.*)$", said, re.M):
        assert Path(path).stat().st_size > 5000


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_numbers_in_the_prose_are_in_the_code_or_in_what_it_prints(lesson, folder):
    tree = ast.parse(lesson.read_text(encoding="utf-8"))
    shown = numbers(output(lesson, folder))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            shown.add(float(node.value))
    missing = numbers(prose(lesson)) - shown
    assert not missing, f"said and not shown: {sorted(missing)}"


def test_a_number_that_nothing_shows_is_noticed(tmp_path):
    made_up = tmp_path / "99_lies.py"
    made_up.write_text('"""\nA lie\n=====\n"""\n\n# %%\n# It reaches 0.987 (``0.5``, lesson 07).\n')
    assert numbers(prose(made_up)) == {0.987}


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_lesson_has_all_its_parts(lesson):
    source = lesson.read_text(encoding="utf-8")
    answers = (lesson.parent / "solutions" / lesson.name).read_text(encoding="utf-8")
    title, rule = ast.get_docstring(ast.parse(source)).splitlines()[:2]
    assert rule == "=" * len(title) and title.endswith("?")
    assert "show(figure" in source, "a picture worth keeping"
    assert source.count("assert ") >= 5
    checks = re.findall(r"^def (check_\w+)", source, re.M)
    assert len(checks) == 3, "three exercises"
    for number, check in enumerate(checks, start=1):
        assert f"# **{number}. " in source
        assert f'["{check}"]' in answers
    assert "\n# Sources\n# -------\n" in source


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_names_of_the_library_exist(lesson):
    for name in re.findall(r"`(scratch_vlm[\w.]*)`", lesson.read_text(encoding="utf-8")):
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ImportError:
            assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_other_lessons_that_are_named_exist(lesson):
    there = {path.stem[:2] for path in LESSONS} - {lesson.stem[:2]}
    for one, other in re.findall(r"[Ll]essons?\s(\d\d)(?: and (\d\d))?\b", text_of(lesson)):
        assert {one, other or one} <= there, f"lesson {one} {other}"
