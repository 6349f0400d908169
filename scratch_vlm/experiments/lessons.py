"""The lessons: find them, run them, open them."""

import ast
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BUILT = Path("docs", "_build", "html", "lessons")


class Lesson(NamedTuple):
    """A lesson.

    Attributes
    ----------
    number : str
        Two digits.
    question : str
        What it answers: its first line.
    path : path
        Its script.
    """

    number: str
    question: str
    path: Path


def find_lessons(root=ROOT):
    """Find all lessons.

    Parameters
    ----------
    root : str or path, optional
        The checkout. Default the one that this package was installed from.

    Returns
    -------
    list of Lesson
        In order.

    Raises
    ------
    FileNotFoundError
        If there are none, as where the package was installed without its checkout.
    """
    folder = Path(root) / "lessons"
    paths = sorted(folder.glob("[0-9][0-9]_*.py"))
    if not paths:
        raise FileNotFoundError(
            f"there are no lessons in {folder}: they come with the source, not with the installed "
            "package; get the source and `pip install -e .` in its folder"
        )
    return [Lesson(path.stem[:2], _question(path), path) for path in paths]


def find_lesson(number, root=ROOT):
    """Find one lesson.

    Parameters
    ----------
    number : str
        "2" and "02" are the same; its name will do, too.
    root : str or path, optional
        The checkout.

    Returns
    -------
    Lesson

    Raises
    ------
    FileNotFoundError
        If there are no lessons.
    ValueError
        If there is none of this number.
    """
    lessons = find_lessons(root)
    for lesson in lessons:
        if number.zfill(2) == lesson.number or number == lesson.path.stem:
            return lesson
    numbers = ", ".join(lesson.number for lesson in lessons)
    raise ValueError(f"there is no lesson {number!r}; there are {numbers}")


def run_lesson(lesson):
    """Run a lesson as its readers would, in a Python of its own.

    Parameters
    ----------
    lesson : Lesson
        Which.

    Returns
    -------
    int
        0 if all its assertions hold.
    """
    return subprocess.run([sys.executable, str(lesson.path)], check=False).returncode


def open_lesson(lesson, root=ROOT):
    """Open the page of a lesson in the browser if the pages are built, else its script.

    Parameters
    ----------
    lesson : Lesson
        Which.
    root : str or path, optional
        The checkout.

    Returns
    -------
    path
        What was opened.
    """
    page = Path(root) / BUILT / f"{lesson.path.stem}.html"
    path = page if page.exists() else lesson.path
    webbrowser.open(path.resolve().as_uri())
    return path


def _question(path):
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]
