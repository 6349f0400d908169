"""A report in one HTML file: figures, tables and words; nothing to fetch, nothing to run."""

import base64
import html
import io
import os
from pathlib import Path

import matplotlib

from scratch_vlm.viz.style import WIDTH
from scratch_vlm.viz.table import COLUMNS, result_rows

PIXELS = 96  # of a browser to an inch
SWIPE = 500  # pixels; on a narrower screen a wide figure scrolls, lest its letters shrink away

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --muted: #5f6771;
  --rule: #d0d5db; --shade: #f5f6f8; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #16191d; --ink: #e8eaed; --muted: #a0a8b2; --rule: #434a53; --shade: #1e2227; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: COLUMN; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1 { margin: 0 0 .5rem; font-size: 2rem; line-height: 1.2; letter-spacing: -.01em; }
h2 { margin: 3.25rem 0 .5rem; font-size: 1.35rem; line-height: 1.3; }
p { margin: 0 0 1rem; max-width: 42rem; overflow-wrap: break-word; }
.summary { color: var(--muted); font-size: 1.15rem; }
figure { margin: 1.5rem 0 2rem; }
.wide { overflow-x: auto; }
figure img { display: block; height: auto; max-width: max(100%, SWIPE); }
figcaption, caption { color: var(--muted); font-size: .9rem; line-height: 1.5; text-align: left; }
figcaption { margin-top: .6rem; max-width: 42rem; }
caption { caption-side: bottom; padding-top: .6rem; }
table { border-collapse: collapse; font-size: .95rem; line-height: 1.4; margin: 1rem 0; }
th, td { padding: .4rem .75rem; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }
th:first-child { padding-left: 0; }
tr > :last-child { padding-right: 0; }
thead th { color: var(--muted); font-weight: 500; border-bottom-width: 2px; }
tbody th { font-weight: 500; overflow-wrap: anywhere; }
.results { width: 100%; }
.results tr > :nth-child(n + 2) { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.results td:nth-child(2) { font-weight: 700; }
.results td:nth-child(n + 3) { color: var(--muted); }
.facts { font-size: .9rem; }
.facts th { color: var(--muted); white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
@media (max-width: 30rem) {
  main { padding: 1.75rem 1rem 3rem; }
  h1 { font-size: 1.6rem; }
  th, td { padding-left: .4rem; padding-right: .4rem; }
  .results { font-size: .85rem; }
  .swipe + figcaption::after { content: " (Swipe the figure to see all of it.)"; }
}
@media print {
  main { max-width: none; padding: 0; }
  figure, table { break-inside: avoid; }
  h2, p { break-after: avoid; }
  h2 { margin-top: 2rem; }
  figure img { max-width: 100%; }
}
""".replace("COLUMN", f"{WIDTH * PIXELS / 16 + 2.5}rem").replace("SWIPE", f"{SWIPE}px")

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


class Report:
    """Collect sections, figures and tables, then write them as one page.

    The page follows the reader's light or dark theme, fits a telephone, prints, and makes no
    request: every figure is inside the file.

    Parameters
    ----------
    title : str
        The heading of the page.
    summary : str, optional
        A sentence or two under it.

    Examples
    --------
    >>> report = Report("First light", "Two towers learn to agree.")
    >>> report.section("Results", "Measured on handwriting never seen in training.")
    >>> report.table({"accuracy": {"value": 0.94, "chance": 0.125}})
    >>> "<td>0.940</td>" in report.html()
    True
    """

    def __init__(self, title, summary=""):
        self.title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>", *_paragraphs(summary, "summary")]

    def section(self, heading, text=""):
        """Begin a section.

        Parameters
        ----------
        heading : str
            Its heading.
        text : str, optional
            What the reader is about to see and why; blank lines separate paragraphs.
        """
        self._parts += [f"<h2>{html.escape(heading)}</h2>", *_paragraphs(text)]

    def figure(self, draw, caption, alt):
        """Add a figure: curves as vectors, whatever shows pixels as a PNG of twice the size.

        Parameters
        ----------
        draw : callable or matplotlib.figure.Figure
            Called as ``draw(theme="light")`` and ``draw(theme="dark")``, and the reader's
            browser shows the one that fits; ``functools.partial`` of a function of
            `scratch_vlm.viz.curves` is such a callable. A figure stays as it is in both themes.
        caption : str
            What to see in it.
        alt : str
            What it shows, for readers who cannot see it.

        Raises
        ------
        ValueError
            If `alt` is empty.
        """
        if not alt.strip():
            raise ValueError("a figure needs an alt text that says what it shows")
        light = draw(theme="light") if callable(draw) else draw
        width, height = (round(PIXELS * inches) for inches in light.get_size_inches())
        image = (
            f'<img src="{_embed(light)}" alt="{html.escape(alt)}" '
            f'width="{width}" height="{height}">'
        )
        if callable(draw):
            dark = _embed(draw(theme="dark"))
            query = "screen and (prefers-color-scheme: dark)"
            image = f'<picture><source media="{query}" srcset="{dark}">{image}</picture>'
        self._parts.append(
            f'<figure>\n<div class="wide{" swipe" * (width > SWIPE)}">{image}</div>\n'
            f"<figcaption>{html.escape(caption)}</figcaption>\n</figure>"
        )

    def table(self, metrics, caption=""):
        """Add a table of results.

        Parameters
        ----------
        metrics : dict
            Nested, as for `scratch_vlm.viz.table.results_table`.
        caption : str, optional
            What the numbers are of.
        """
        self.grid(COLUMNS, result_rows(metrics), caption)

    def grid(self, head, rows, caption=""):
        """Add a table of any columns.

        Parameters
        ----------
        head : sequence of str
            Names of the columns.
        rows : sequence of sequence of str
            Cells of each row; the first one names it.
        caption : str, optional
            What the numbers are of.

        Raises
        ------
        ValueError
            If a row has more or fewer cells than there are columns.
        """
        for cells in rows:
            if len(cells) != len(head):
                raise ValueError(f"{len(head)} columns need as many cells, got {list(cells)}")
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
        rows = "\n".join(
            f'<tr><th scope="row">{_breakable(name)}</th>'
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            + "</tr>"
            for name, *cells in rows
        )
        self._parts.append(
            f'<div class="wide"><table class="results">{_caption(caption)}\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
        )

    def facts(self, facts, caption=""):
        """Add a small table of what a reader needs to repeat the run.

        Parameters
        ----------
        facts : dict
            Name and value of each: seed, split, versions, durations.
        caption : str, optional
            A sentence below.
        """
        rows = "\n".join(
            f'<tr><th scope="row">{html.escape(str(name))}</th>'
            f"<td>{html.escape(str(value))}</td></tr>"
            for name, value in facts.items()
        )
        self._parts.append(
            f'<table class="facts">{_caption(caption)}\n<tbody>\n{rows}\n</tbody></table>'
        )

    def html(self):
        """Return the page so far.

        Returns
        -------
        str
            The same text for the same calls.
        """
        title, body = html.escape(self.title), "\n".join(self._parts)
        return PAGE.format(title=title, style=STYLE, body=body)

    def write(self, path):
        """Write the page; a reader of the file sees the old one or the new one, never a part.

        Parameters
        ----------
        path : str or os.PathLike
            Such as ``runs/demo/report.html``; its folder must exist.

        Returns
        -------
        pathlib.Path
            Where it is.
        """
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with open(partial, "w", encoding="utf-8", newline="\n") as file:
                file.write(self.html())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return path


def _embed(figure):
    """A figure as a data URI; the same figure gives the same bytes."""
    file = io.BytesIO()
    pixels = any(axes.images for axes in figure.axes)
    if pixels:
        figure.savefig(
            file,
            format="png",
            dpi=2 * PIXELS,
            metadata={"Software": None},
            pil_kwargs={"optimize": True},
        )
    else:
        with matplotlib.rc_context({"svg.hashsalt": "scratch-vlm"}):
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    kind = "png" if pixels else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _paragraphs(text, kind=""):
    style = f' class="{kind}"' if kind else ""
    blocks = (block.strip() for block in text.split("\n\n"))
    return [f"<p{style}>{html.escape(block)}</p>" for block in blocks if block]


def _caption(text):
    return f"\n<caption>{html.escape(text)}</caption>" if text else ""


def _breakable(name):
    """A dotted name that may continue on the next line after a dot or an underscore."""
    return html.escape(name).replace(".", ".<wbr>").replace("_", "_<wbr>")
