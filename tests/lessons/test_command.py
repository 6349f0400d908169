"""The command that lists, runs and opens the lessons."""

import pytest

from scratch_vlm.cli import main
from scratch_vlm.experiments import lessons


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    folder = tmp_path / "lessons"
    folder.mkdir()
    (folder / "01_first.py").write_text('"""\nIs it so?\n=========\n"""\nprint("it is")\n')
    (folder / "02_second.py").write_text('"""\nWhat fails?\n===========\n"""\nassert False\n')
    for function in (lessons.find_lessons, lessons.find_lesson, lessons.open_lesson):
        monkeypatch.setattr(function, "__defaults__", (tmp_path,))
    return tmp_path


def test_lessons_are_listed_with_their_questions(checkout, capsys):
    assert main(["lessons"]) == 0
    assert capsys.readouterr().out == "01  Is it so?\n02  What fails?\n"


def test_a_lesson_runs(checkout, capfd):
    assert main(["lessons", "run", "1"]) == 0
    assert capfd.readouterr().out == "01  Is it so?\nit is\n"


def test_a_lesson_that_fails_is_told_by_the_status(checkout, capfd):
    assert main(["lessons", "run"]) == 1
    assert "AssertionError" in capfd.readouterr().err


def test_a_folder_that_takes_no_figures_is_said_before_anything_runs(checkout, monkeypatch, capfd):
    monkeypatch.setenv("SCRATCH_VLM_FIGURES", str(checkout / "lessons" / "01_first.py"))
    assert main(["lessons", "run", "1"]) == 2
    said = capfd.readouterr()
    assert "01_first.py is a file" in said.err and "it is" not in said.out


def test_a_page_is_opened_where_it_is_built(checkout, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(lessons.webbrowser, "open", opened.append)
    assert main(["lessons", "open", "01_first"]) == 0
    page = checkout / lessons.BUILT / "01_first.html"
    page.parent.mkdir(parents=True)
    page.touch()
    assert main(["lessons", "open", "01"]) == 0
    assert opened == [(checkout / "lessons" / "01_first.py").as_uri(), page.as_uri()]


def test_a_lesson_that_is_not_there_is_an_error_that_names_those_that_are(checkout, capsys):
    assert main(["lessons", "run", "7"]) == 2
    assert "there is no lesson '7'; there are 01, 02" in capsys.readouterr().err


def test_lessons_that_were_not_installed_are_said_to_come_with_the_source(tmp_path):
    with pytest.raises(FileNotFoundError, match="come with the source"):
        lessons.find_lessons(tmp_path)
