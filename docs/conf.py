"""Sphinx: the lessons as pages, and a page for every function of the library.

python -m pip install -e ".[docs]" && python -m sphinx -W -b html docs docs/_build/html
"""

import os
import re
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # gallery, mathml, numbering

import matplotlib
from docutils import nodes
from numpydoc.xref import DEFAULT_LINKS
from sphinx.util.nodes import make_refnode

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
    "numbering",
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
# A font whose brackets and bars stretch in equations, for browsers on machines without one.
html_static_path = ["_static", f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSerif.ttf"]
html_css_files = ["pages.css"]
html_extra_path = ["explorer"]  # a page of its own: explorer.html
html_show_sourcelink = False

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True  # xp=np, not where NumPy lies on the machine that built the page
numpydoc_show_class_members = False
numpydoc_attributes_as_param_list = True
numpydoc_xref_param_type = True  # "config : ViTConfig" is a link to the class
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = {name: name for name in DEFAULT_LINKS}  # "int" is none
PACKAGE = Path(scratch_vlm.__file__).parent
for path in sorted(PACKAGE.rglob("*.py")):
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for name in re.findall(r"(?m)^class ([A-Z]\w*)", path.read_text(encoding="utf-8")):
        numpydoc_xref_aliases[name] = f"{module.removesuffix('.__init__')}.{name}"

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


def link_names(app, doctree, page):
    """Make `vit_init` a link on pages of other modules, too, where only one thing has that name."""
    known = app.env.domains.python_domain.objects
    for node in list(doctree.findall(lambda n: isinstance(n, nodes.emphasis | nodes.literal))):
        if "py-obj" not in node["classes"] or isinstance(node.parent, nodes.reference):
            continue
        name = node.astext()
        found = [
            entry
            for path, entry in known.items()
            if path.endswith(f".{name}") and entry.objtype in ("function", "class")
        ]
        if len(found) == 1 and not (name.islower() and name.isalpha()):  # else a parameter
            to, text = found[0], nodes.literal("", name, classes=["xref"])
            node.replace_self(make_refnode(app.builder, page, to.docname, to.node_id, text))


def skip_fields(app, what, name, obj, skip, options):
    """Leave out what a NamedTuple says of its fields; the docstring says more."""
    return skip or str(getattr(obj, "__doc__", "")).startswith("Alias for field number")


def setup(app):
    """Register with Sphinx, behind numpydoc, which renames the references."""
    app.connect("autodoc-process-docstring", keep_initials, priority=900)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-resolved", link_names)
