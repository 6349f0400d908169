"""Lessons bear their numbers on their pages, and where one is named there is a link to it."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref

FOLDER = Path(__file__).parents[1] / "lessons"
LESSONS = {path.stem[:2]: path.stem for path in FOLDER.glob("[0-9][0-9]_*.py")}
NAMED = re.compile(r"([Ll]essons?\s(\d\d))(?: and (\d\d))?\b")
CARD = '<div class="sphx-glr-thumbnail-title">'


def link(text, number):
    """Make a link to a lesson that Sphinx resolves, and warns of, like one that was written."""
    kind = {"refdomain": "std", "reftype": "doc", "refexplicit": True, "refwarn": True}
    target = f"/lessons/{LESSONS.get(number, number)}"
    return pending_xref("", nodes.inline("", text), reftarget=target, **kind)


def linked(text):
    """Split a text into pieces, of which those that name a lesson are links."""
    pieces, start = [], 0
    for found in NAMED.finditer(text):
        first, number, second = found.groups()
        pieces += [nodes.Text(text[start : found.start()]), link(first, number)]
        if second:
            pieces += [nodes.Text(" and "), link(second, second)]
        start = found.end()
    return [*pieces, nodes.Text(text[start:])]


def number(app, doctree):
    """Put the number before the title of a page, and links where lessons are named."""
    folder, _, name = app.env.docname.rpartition("/")
    if folder != "lessons":
        return
    if name == "index":
        return number_cards(doctree)
    title = next(doctree.findall(nodes.title))
    title.insert(0, nodes.Text(f"{name[:2]} · "))
    for text in list(doctree.findall(nodes.Text)):
        silent = isinstance(text.parent, nodes.literal | nodes.FixedTextElement | nodes.raw)
        if not silent and NAMED.search(text):
            text.parent.replace(text, linked(text))


def number_cards(doctree):
    """Put the number before the title of each card; the link of a card stands before its title."""
    target = ""
    for node in list(doctree.findall()):
        if isinstance(node, pending_xref):
            target = node["reftarget"].rpartition("/")[2]
        elif isinstance(node, nodes.raw) and CARD in node.astext():
            html = node.astext().replace(CARD, f"{CARD}{target[:2]} · ")
            node.parent.replace(node, nodes.raw("", html, format="html"))


def setup(app):
    """Register with Sphinx, before it collects the titles."""
    app.connect("doctree-read", number, priority=100)
    return {"parallel_read_safe": True}
