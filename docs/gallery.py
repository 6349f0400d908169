"""Figures in the colours of light and of dark pages.

While pages are built, `show` hands figures over instead of writing files. Each function of
`scratch_vlm.viz` is wrapped, so that its figure can be drawn once more in the dark theme. Beside
``name.png`` then lies ``name_dark.png``, and wherever a page shows the one, it has the other, too.
"""

import importlib
import inspect
import pkgutil
from functools import partial, wraps
from pathlib import Path

from docutils import nodes
from PIL import Image, ImageOps

from scratch_vlm import viz
from scratch_vlm.viz import show as module
from scratch_vlm.viz.style import THEMES

shown = []

IMAGE = """
.. image:: /{path}
   :alt: {alt}
   :class: figure
"""


def twice(draw):
    """Let the figures of a function know how to be drawn on a dark page."""

    @wraps(draw)
    def drawn(*args, **options):
        figure = draw(*args, **options)
        figure.on_dark = partial(draw, *args, **options | {"theme": "dark"})
        return figure

    return drawn


def hand_over(figure, name):
    """Stand in for `scratch_vlm.viz.show.show` while pages are built."""
    shown.append({"light": figure, "dark": figure.on_dark()})


def scrape(block, block_vars, gallery_conf):
    """Save the figures that a cell has shown, and return what includes them."""
    text, sources = "", Path(gallery_conf["src_dir"])
    while shown:
        path = Path(next(block_vars["image_path_iterator"]))
        alt = path.stem.removeprefix("sphx_glr_").replace("_", " ")
        figures = shown.pop(0)
        figures["light"].savefig(path, dpi=192)
        figures["dark"].savefig(dark_of(path), dpi=192)
        text += IMAGE.format(path=path.relative_to(sources).as_posix(), alt=alt)
    return text


def dark_of(path):
    """Where the dark twin of a figure lies."""
    return path.with_stem(f"{path.stem}_dark")


def pair(app, doctree):
    """Put the dark twin behind each figure that has one; the theme of the page hides one."""
    for image in list(doctree.findall(nodes.image)):
        path = Path(app.env.relfn2path(image["uri"])[1])
        figure = path.parent.with_name(path.name.replace("_thumb", "_001_dark"))
        if path.parent.name == "thumb" and figure.exists():
            darken_card(path, figure)
        if dark_of(path).exists():
            twin = image.deepcopy()
            twin["uri"] = image["uri"].replace(path.name, dark_of(path).name)
            image["classes"].append("only-light")
            twin["classes"].append("only-dark")
            image.parent.insert(image.parent.index(image) + 1, twin)


def darken_card(path, figure):
    """Make the dark twin of a picture on a card of the dark twin of a lesson's first figure."""
    with Image.open(path) as card, Image.open(figure) as image:
        paper = THEMES["dark"].paper
        ImageOps.pad(image.convert("RGB"), card.size, color=paper).save(dark_of(path))


def setup(app):
    """Register with Sphinx, before it collects the images."""
    app.connect("doctree-read", pair, priority=100)
    return {"parallel_read_safe": True}


module.show = hand_over
for _, name, _ in pkgutil.iter_modules(viz.__path__):
    part = importlib.import_module(f"scratch_vlm.viz.{name}")
    for name, draw in inspect.getmembers(part, inspect.isfunction):
        own = draw.__module__ == part.__name__ and not name.startswith("_")
        if own and "theme" in inspect.signature(draw).parameters:
            setattr(part, name, twice(draw))
