"""Figures of the lessons on their pages, in the colours of light and of dark pages.

`show` hands figures over instead of writing files. Each function of `scratch_vlm.viz` is wrapped,
so that its figure can be drawn once more in the dark theme.
"""

import importlib
import inspect
import pkgutil
from functools import partial, wraps
from pathlib import Path

from scratch_vlm import viz
from scratch_vlm.viz import show as module

shown = []

IMAGE = """
.. image:: /{path}
   :alt: {alt}
   :class: figure only-{theme}
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
        for theme, figure in shown.pop(0).items():
            place = path if theme == "light" else path.with_stem(f"{path.stem}_dark")
            figure.savefig(place, dpi=192)
            place = place.relative_to(sources).as_posix()
            text += IMAGE.format(path=place, alt=alt, theme=theme)
    return text


module.show = hand_over
for _, name, _ in pkgutil.iter_modules(viz.__path__):
    part = importlib.import_module(f"scratch_vlm.viz.{name}")
    for name, draw in inspect.getmembers(part, inspect.isfunction):
        own = draw.__module__ == part.__name__ and not name.startswith("_")
        if own and "theme" in inspect.signature(draw).parameters:
            setattr(part, name, twice(draw))
