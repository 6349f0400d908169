import base64
import os
import re
import xml.etree.ElementTree as ElementTree
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest

from scratch_vlm.viz.curves import learning_curve
from scratch_vlm.viz.figures import patches
from scratch_vlm.viz.report import Report

CURVE = partial(learning_curve, np.arange(1, 51), np.linspace(4.8, 0.3, 50))
PATCHES = partial(patches, np.linspace(0, 1, 64).reshape(8, 8), 4)
PNG = b"\x89PNG\r\n\x1a\n"


def full():
    report = Report("Towers & <scenes>", "What 2 < 3 says.")
    report.section("Learning <fast>", "One & two.\n\nThree <script>alert(1)</script>.")
    report.figure(CURVE, "It falls <quickly>.", 'A "curve" that falls')
    report.section("Patches")
    report.figure(PATCHES, "Four.", "Four patches")
    report.table({"clip": {"zero_shot": {"value": 0.94, "chance": 0.125}}}, "On <test>.")
    report.facts({"seed": 0, "split <b>": "forms 12 & 13"}, "Enough to repeat it.")
    return report


class Page(HTMLParser):
    """Collects tags with their attributes, and the text of each."""

    VOID = frozenset({"meta", "img", "source", "wbr"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if data.strip() and self.open[-1:] != ["style"]:
            self.text.append(data.strip())

    def find(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def embedded(uri):
    head, _, data = uri.partition(";base64,")
    return head, base64.b64decode(data, validate=True)


def test_page_is_well_formed_and_asks_for_nothing():
    text = full().html()
    page = Page(text)
    assert not page.open
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    sources = [i["src"] for i in page.find("img")] + [s["srcset"] for s in page.find("source")]
    assert len(sources) == 4
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"url\(|@import|https?://", text)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_text_is_escaped_everywhere():
    report = full()
    said = Page(report.html()).text
    for text in (
        "Towers & <scenes>",
        "What 2 < 3 says.",
        "Learning <fast>",
        "Three <script>alert(1)</script>.",
        "It falls <quickly>.",
        "On <test>.",
        "split <b>",
        "forms 12 & 13",
    ):
        assert text in said
    assert "<script" not in report.html()
    assert Page(report.html()).find("img")[0]["alt"] == 'A "curve" that falls'


def test_braces_in_text_are_kept():
    report = Report("{title} {body}")
    assert "{title} {body}" in Page(report.html()).text


def test_blank_lines_separate_paragraphs():
    assert len(Page(full().html()).find("p")) == 3


def test_curves_are_vectors_and_pixels_are_png_of_twice_the_size():
    curve, patches = Page(full().html()).find("img")
    kind, svg = embedded(curve["src"])
    assert kind == "data:image/svg+xml"
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    kind, png = embedded(patches["src"])
    assert kind == "data:image/png" and png.startswith(PNG)
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    assert abs(width - 2 * int(patches["width"])) <= 2
    assert abs(height - 2 * int(patches["height"])) <= 2


def test_callable_is_drawn_for_both_themes_and_a_figure_once():
    seen = []

    def draw(theme):
        seen.append(theme)
        return PATCHES(theme=theme)

    report = Report("Themes")
    report.figure(draw, "Both.", "Patches")
    (source,) = Page(report.html()).find("source")
    (image,) = Page(report.html()).find("img")
    assert seen == ["light", "dark"]
    assert "prefers-color-scheme: dark" in source["media"]
    assert source["srcset"] != image["src"]
    report.figure(PATCHES(), "One.", "Patches")
    assert len(Page(report.html()).find("source")) == 1


def test_figure_without_words_for_those_who_cannot_see_it_is_an_error():
    with pytest.raises(ValueError, match="alt text"):
        Report("Blind").figure(CURVE, "A curve.", " ")


def test_table_shows_value_chance_and_baseline():
    said = Page(full().html()).text
    start = said.index("metric")
    assert said[start : start + 4] == ["metric", "value", "chance", "baseline"]
    assert said[start + 4 : start + 8] == ["CLIP: zero shot", "0.940", "0.125", "–"]


def test_same_calls_give_the_same_bytes():
    assert full().html() == full().html()


def test_report_is_written_whole_and_replaces_an_older_one(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    report = full()
    assert report.write(str(path)) == path
    assert path.read_text(encoding="utf-8") == report.html()
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failure_while_writing_leaves_the_older_report(tmp_path, monkeypatch, step):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(OSError, match="No space"):
        full().write(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Report("Nowhere").write(tmp_path / "missing" / "report.html")
