"""Sphinx: the lessons as pages, and a page for every function of the library.

python -m pip install -e ".[docs]" && python -m sphinx -W -b html docs docs/_build/html
"""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # gallery, links, mathml, numbering

import scratch_vlm

project = "scratch_vlm"
copyright = "the authors of scratch_vlm, MIT"
release = scratch_vlm.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "myst_parser",
    "mathml",
    "gallery",
    "numbering",
    "links",
]
# Answers bear the names of their lessons. They are no pages, so that no link can mean them.
suppress_warnings = ["sphinx_gallery.duplicate_filename"]
exclude_patterns = ["_build", "explorer", "**sg_execution_times.rst"]
templates_path = ["_templates"]
default_role = "autolink"  # `name` is a link where there is a page for it
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}

html_theme = "furo"
html_title = "scratch_vlm"
html_math_renderer = "mathml"
# A font that says where exponents and fractions belong; not every machine has one.
FONT = Path(find_spec("ziamath").origin).with_name("fonts") / "STIXTwoMath-Regular.ttf"
html_static_path = ["_static", str(FONT)]
html_css_files = ["pages.css"]
html_extra_path = ["explorer"]  # a page of its own: explorer.html
html_show_sourcelink = False

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True  # xp=np, not where NumPy lies on the machine that built the page
numpydoc_show_class_members = False
numpydoc_attributes_as_param_list = True
numpydoc_xref_param_type = True  # see links.py
numpydoc_xref_ignore = "all"

sphinx_gallery_conf = {
    "examples_dirs": "../lessons",
    "gallery_dirs": "lessons",
    "filename_pattern": r"/\d\d_",
    "ignore_pattern": r"/solutions/",
    "nested_sections": False,
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("gallery.scrape",),
    "reset_modules": (),
    "reference_url": {"scratch_vlm": None},
    "backreferences_dir": "gen_modules/backreferences",
    "doc_module": ("scratch_vlm",),
    "abort_on_example_error": True,
    "download_all_examples": True,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "min_reported_time": 10_000,
}


def keep_initials(app, what, name, obj, options, lines):
    """Keep the initial of an author, as in ``.. [1] A. Vaswani``, from starting a list A, B, C."""
    lines[:] = [re.sub(r"^(\s*\.\. \[[^]]+\] )([A-Z])\. ", r"\1\\\2. ", line) for line in lines]


def setup(app):
    """Register with Sphinx, behind numpydoc, which renames the references."""
    app.connect("autodoc-process-docstring", keep_initials, priority=900)
