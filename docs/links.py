"""Names of the library are links on the pages of the reference, wherever they stand."""

import re
from pathlib import Path

from docutils import nodes
from numpydoc.xref import DEFAULT_LINKS
from sphinx.util.nodes import make_refnode

import scratch_vlm

PACKAGE = Path(scratch_vlm.__file__).parent


def name_classes(app, config):
    """Tell numpydoc where the classes are, so that "config : ViTConfig" is a link."""
    known = {name: name for name in DEFAULT_LINKS}  # "int" and "array" stay plain
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        for name in re.findall(r"(?m)^class ([A-Z]\w*)", path.read_text(encoding="utf-8")):
            known[name] = f"{module}.{name}"
    config.numpydoc_xref_aliases = known


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
    """Register with Sphinx, before numpydoc looks at its settings."""
    app.connect("config-inited", name_classes, priority=100)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
