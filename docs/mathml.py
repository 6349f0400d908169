"""Equations of the pages as MathML, made by docutils when the pages are built.

A browser draws MathML by itself, so the pages show their equations without a script, fonts or a
network. Sphinx alone would load MathJax from elsewhere.
"""

from docutils import nodes
from docutils.utils.math import latex2mathml

UNKNOWN = (r"\!", r"\bigl", r"\bigr", r"\Big", r"\big")  # only spacing and sizes, which are lost


def convert(tex, *, block):
    """Turn TeX into MathML."""
    for name in UNKNOWN:
        tex = tex.replace(name, "")
    if block and (r"\\" in tex or "&" in tex):
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    return latex2mathml.tex2mathml(tex, as_block=block)


def visit_inline(translator, node):
    """Write an equation in a line of text."""
    translator.body.append(convert(node.astext(), block=False))
    raise nodes.SkipNode


def visit_block(translator, node):
    """Write an equation that stands alone."""
    translator.body.append(f'<div class="math">{convert(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    """Register with Sphinx; chosen by ``html_math_renderer = "mathml"``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
