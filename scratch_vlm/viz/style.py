"""One visual language for every figure: two themes, three sizes of letters, lengths in inches."""

import textwrap
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

WIDTH = 7.5  # inches; 720 px in a browser, the width of a column of the report
SMALL, TEXT, TITLE = 8, 9, 11  # points; 9 pt are 12 px in a browser
MARGIN = 0.1  # inches around everything
TICK, CROSS = "✓", "✗"
FONT = "DejaVu Sans"  # comes with Matplotlib, so a figure has the same layout on every machine


@dataclass(frozen=True)
class Theme:
    """The colours of a figure.

    Parameters
    ----------
    paper, ink, muted, rule : str
        Background, text, secondary text, thin lines.
    main, right, wrong : str
        Data; what is correct; what is not. Meaning never rests on colour alone: the right is
        also framed in full or ticked, the wrong dashed or crossed.

    Notes
    -----
    The hues are those of Okabe and Ito [1]_, which readers with any common colour vision tell
    apart.

    References
    ----------
    .. [1] M. Okabe and K. Ito, "Color Universal Design", 2002, https://jfly.uni-koeln.de/color/
    """

    paper: str
    ink: str
    muted: str
    rule: str
    main: str
    right: str
    wrong: str

    def ramp(self, colour=None):
        """Return the colour map from the paper to a colour.

        Parameters
        ----------
        colour : str, optional
            The end of the ramp; default `main`.

        Returns
        -------
        matplotlib.colors.LinearSegmentedColormap
        """
        return LinearSegmentedColormap.from_list("ramp", [self.paper, colour or self.main])


THEMES = {
    "light": Theme(
        paper="#ffffff",
        ink="#1f2328",
        muted="#5f6771",
        rule="#d0d5db",
        main="#0072b2",
        right="#008a64",
        wrong="#d55e00",
    ),
    "dark": Theme(
        paper="#16191d",
        ink="#e8eaed",
        muted="#a0a8b2",
        rule="#434a53",
        main="#56b4e9",
        right="#20bd90",
        wrong="#f0883e",
    ),
}
SERIES = {  # the theme's main colour first; none of those that mean right and wrong
    "light": ("#0072b2", "#aa4583", "#8a6d00", "#1f2328", "#7a828c"),
    "dark": ("#56b4e9", "#e39ac4", "#e6cf45", "#e8eaed", "#8b949e"),
}


@contextmanager
def styled(theme):
    """Draw in a theme for the length of a ``with`` block; nothing global stays changed.

    Parameters
    ----------
    theme : {"light", "dark"}
        Which colours.

    Yields
    ------
    Theme

    Raises
    ------
    ValueError
        If there is no such theme.
    """
    if theme not in THEMES:
        raise ValueError(f"there is no theme {theme!r}; the themes are {', '.join(THEMES)}")
    look = THEMES[theme]
    settings = {
        "font.family": FONT,
        "font.size": TEXT,
        "text.color": look.ink,
        "text.parse_math": False,  # a caption may hold dollar signs
        "axes.facecolor": look.paper,
        "axes.edgecolor": look.rule,
        "axes.labelcolor": look.muted,
        "axes.labelsize": SMALL,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": True,
        "image.interpolation": "nearest",  # a pixel is a square, never a blur
        "lines.solid_capstyle": "round",
    }
    with matplotlib.rc_context(settings):
        yield look


class Sheet:
    """A figure whose parts are placed in inches from its upper left corner.

    Natural sizes make letters as large in a gallery of forty images as in a single curve, and
    leave no layout to luck. Use it inside `styled`.

    Parameters
    ----------
    width, height : float
        Inches, not counting the title.
    look : Theme
        The colours.
    title : str, optional
        A line above everything, for which the sheet grows.

    Attributes
    ----------
    figure : matplotlib.figure.Figure
        Not registered with pyplot: nothing to close, no display needed.
    page : matplotlib.axes.Axes
        Covers the whole sheet, in inches.
    """

    def __init__(self, width, height, look, title=None):
        lines = wrap(title, width - 2 * MARGIN, TITLE, bold=True) if title else []
        self.width, self.look = width, look
        self.offset = line_height(TITLE) * len(lines) + MARGIN if lines else 0.0
        self.height = height + self.offset
        self.figure = Figure(figsize=(width, self.height), facecolor=look.paper)
        self.page = self.figure.add_axes((0, 0, 1, 1), frameon=False, autoscale_on=False)
        self.page.set(
            xlim=(0, width), ylim=(self.height - self.offset, -self.offset), xticks=[], yticks=[]
        )
        if lines:
            self.text(
                MARGIN, MARGIN - self.offset, "\n".join(lines), size=TITLE, weight="bold", va="top"
            )

    def axes(self, left, top, width, height):
        """Add axes.

        Parameters
        ----------
        left, top, width, height : float
            Inches from the left and from under the title.

        Returns
        -------
        matplotlib.axes.Axes
        """
        bottom = self.height - self.offset - top - height
        axes = self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )
        axes.tick_params(color=self.look.rule, labelcolor=self.look.muted, labelsize=SMALL)
        return axes

    def text(self, left, top, text, **options):
        """Write on the sheet.

        Parameters
        ----------
        left, top : float
            Inches from the left and from under the title.
        text : str
            What to write.
        **options
            Of `matplotlib.text.Text`, such as ``size``, ``color``, ``ha`` and ``va``.

        Returns
        -------
        matplotlib.text.Text
        """
        defaults = {"size": TEXT, "va": "center", "linespacing": 1.25}
        return self.page.text(left, top, text, **defaults | options)

    def image(self, left, top, width, image, *, frame=None):
        """Show an image with square pixels.

        Parameters
        ----------
        left, top, width : float
            Inches; the height follows from the image.
        image : array of shape (H, W) or (H, W, 3)
            Grey levels or colours in [0, 1].
        frame : str, optional
            The colour of a strong frame; default a thin neutral one.

        Returns
        -------
        matplotlib.image.AxesImage
        """
        height = width * image.shape[0] / image.shape[1]
        extent = (left, left + width, top + height, top)
        self.page.add_patch(
            Rectangle(
                (left, top),
                width,
                height,
                fill=False,
                edgecolor=frame or self.look.rule,
                linewidth=2.2 if frame else 0.6,
                zorder=3,
            )
        )
        return self.page.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto")

    def scale(self, left, top, length, high, *, even=None):
        """Draw the colour bar of shares that are shown in the theme's ramp.

        Parameters
        ----------
        left, top, length : float
            Inches.
        high : float
            The share that has the full colour; the bar begins at 0.
        even : float, optional
            The share that each would have if all had as much; marked where there is room.
        """
        axes = self.axes(left, top, 0.12, length)
        ramp = self.look.ramp()(np.linspace(1, 0, 256))[:, None]
        axes.imshow(ramp, aspect="auto", extent=(0, 1, 0, high))
        axes.set(xticks=[])
        axes.yaxis.tick_right()
        marks = {0: "0", high: f"{high:.0%}"}
        if even is not None and 0.16 < length * even / high < length - 0.16:
            marks[even] = f"even {even:.0%}"
        axes.set_yticks(list(marks), list(marks.values()))
        axes.spines[:].set(visible=True)


def line_height(size):
    """Height of a line of text.

    Parameters
    ----------
    size : float
        Points.

    Returns
    -------
    float
        Inches.
    """
    return 1.46 * size / 72


@lru_cache(maxsize=4096)
def text_width(text, size=TEXT, *, bold=False):
    """Measure a text as it will be drawn.

    Parameters
    ----------
    text : str
        Its widest line counts.
    size : float, default TEXT
        Points.
    bold : bool, default False
        Whether it will be bold.

    Returns
    -------
    float
        Inches.
    """
    font = FontProperties(family=FONT, weight="bold" if bold else "normal")
    lines = [line for line in text.split("\n") if line.strip()]
    paths = [TextPath((0, 0), line, size=size, prop=font, usetex=False) for line in lines]
    return max((path.get_extents().x1 for path in paths), default=0.0) / 72


def wrap(text, width, size=TEXT, *, bold=False):
    """Break a text into lines.

    Parameters
    ----------
    text : str
        Broken between words, and within a word only if it is longer than a line.
    width : float
        Inches that a line may take.
    size : float, default TEXT
        Points.
    bold : bool, default False
        Whether it will be bold.

    Returns
    -------
    list of str
        At least one line; a single letter may be wider than `width`.
    """
    full = text_width(text, size, bold=bold)
    if full <= width:
        return [text]
    for letters in range(max(1, round(1.3 * len(text) * width / full)), 0, -1):
        lines = textwrap.wrap(text, letters)
        if all(text_width(line, size, bold=bold) <= width for line in lines):
            break
    return lines


def widest(labels, *, bold=False):
    """Measure labels that may have several lines.

    Parameters
    ----------
    labels : iterable of list of str
        The lines of each, as `wrap` returns them.
    bold : bool, default False
        Whether they will be bold.

    Returns
    -------
    float
        Inches that the widest takes.
    """
    return max(text_width("\n".join(lines), bold=bold) for lines in labels)


def flow(entries, room, gap):
    """Place the entries of a legend one after another, on as many lines as they need.

    Parameters
    ----------
    entries : iterable of (str, float)
        What each says, and the inches that its sign takes before it.
    room : float
        Inches of a line.
    gap : float
        Inches between two entries.

    Returns
    -------
    places : list of (float, int)
        For each entry the inches from the left, and its line.
    lines : int
        How many there are.
    """
    places, x, line = [], 0.0, 0
    for text, sign in entries:
        width = sign + text_width(text)
        if x and x + width > room:
            x, line = 0.0, line + 1
        places.append((x, line))
        x += width + gap
    return places, line + 1


def thinned(n, inches):
    """Choose the rows to number: all while they fit, else every second, fifth, tenth, ...

    Parameters
    ----------
    n : int
        How many rows there are.
    inches : float
        Height of all together.

    Returns
    -------
    range

    Examples
    --------
    >>> thinned(8, 1.0), thinned(64, 1.0)
    (range(0, 8), range(0, 64, 10))
    """
    for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if n / step <= inches / 0.11:
            break
    return range(0, n, step)


def ink_on(colour):
    """Choose the letters that read best on a colour.

    Parameters
    ----------
    colour : str or tuple of float
        Any colour of Matplotlib.

    Returns
    -------
    str
        Nearly black or white.

    Examples
    --------
    >>> ink_on("white"), ink_on("navy")
    ('#1f2328', '#ffffff')
    """
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue  # of sRGB, IEC 61966-2-1
    return "#1f2328" if luminance > 0.2 else "#ffffff"
