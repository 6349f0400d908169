"""Boxes and arrows: how diagrams are laid out, in inches, before there is anything to draw."""

from typing import NamedTuple

from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle

from scratch_vlm.viz.style import (
    MARGIN,
    SERIES,
    SMALL,
    TEXT,
    THEMES,
    Sheet,
    line_height,
    text_width,
)

KINDS = ("step", "array", "learned", "frozen")
HUES = ("visual", "words", "latents", "plain")
TALL, ROUND, DOT = 0.42, 0.06, 0.11  # inches: a box, its corners, half of a circle
TIP, LINE = 0.09, 1.2  # length of an arrow's head in inches; its line in points


class Box(NamedTuple):
    """Where a box stands, and where arrows touch it.

    Attributes
    ----------
    x, y : float
        Its middle, in inches from the left and from under the title.
    width, height : float
        Inches.
    """

    x: float
    y: float
    width: float
    height: float

    @property
    def top(self):
        """Middle of the upper edge."""
        return self.x, self.y - self.height / 2

    @property
    def bottom(self):
        """Middle of the lower edge."""
        return self.x, self.y + self.height / 2

    @property
    def left(self):
        """Middle of the left edge."""
        return self.x - self.width / 2, self.y

    @property
    def right(self):
        """Middle of the right edge."""
        return self.x + self.width / 2, self.y


class Diagram:
    """A sheet of boxes, and arrows that say the shape of what they carry.

    Everything is placed by its middle, in inches from the left and from under the title. Use it
    inside `styled`.

    Parameters
    ----------
    width, height : float
        Inches, not counting the title.
    look : Theme
        The colours.
    title : str, optional
        A line above everything.

    Attributes
    ----------
    sheet : Sheet
        What is drawn on.
    figure : matplotlib.figure.Figure
        The result.
    """

    def __init__(self, width, height, look, title=None):
        self.sheet, self.look = Sheet(width, height, look, title), look
        self.figure, self.height = self.sheet.figure, height
        theme = next(name for name, known in THEMES.items() if known is look)
        self.hues = dict(zip(HUES, (*SERIES[theme][:3], look.muted), strict=True))
        self.kinds = set()

    def tint(self, hue, share):
        """Mix a hue into the paper.

        Parameters
        ----------
        hue : str
            One of `HUES`.
        share : float
            0 for the paper, 1 for the hue.

        Returns
        -------
        str
            A colour.
        """
        pairs = zip(to_rgb(self.look.paper), to_rgb(self.hues[hue]), strict=True)
        return to_hex([(1 - share) * paper + share * own for paper, own in pairs])

    def box(self, x, y, name, note=None, *, kind="step", hue="plain", width=1.9):
        """Draw a box.

        Parameters
        ----------
        x, y : float
            Its middle.
        name : str
            What is done, or what the array is.
        note : str, optional
            A second line.
        kind : {"step", "array", "learned", "frozen"}
            A step has a frame with small corners; an array round ends and no frame; one that is
            learned round ends and a dashed frame; a step that does not learn is hatched.
        hue : {"visual", "words", "latents", "plain"}
            Whose stream it belongs to.
        width : float, default 1.9
            Inches; more where the text asks for it.

        Returns
        -------
        Box

        Raises
        ------
        ValueError
            If there is no such kind or hue.
        """
        if kind not in KINDS or hue not in HUES:
            raise ValueError(
                f"kind must be one of {', '.join(KINDS)} and hue one of {', '.join(HUES)}; got "
                f"{kind!r} and {hue!r}"
            )
        self.kinds.add(kind)
        said = max(text_width(name, TEXT, bold=True), text_width(note or "", SMALL))
        place = Box(x, y, max(width, said + 0.24), TALL if note else 0.8 * TALL)
        self._outline(place, kind, hue)
        shift = line_height(SMALL) / 2 if note else 0.0
        back = {"facecolor": self.look.paper, "edgecolor": "none", "pad": 1.5}
        more = {"ha": "center", "va": "center_baseline", "zorder": 5}
        if kind == "frozen":
            more["bbox"] = back
        self.sheet.text(x, y - shift + 0.01, name, weight="bold", **more)
        if note:
            self.sheet.text(x, y + shift + 0.01, note, size=SMALL, **more)
        return place

    def dot(self, x, y, sign="+", *, hue="plain"):
        """Draw a small circle in which two arrows meet.

        Parameters
        ----------
        x, y : float
            Its middle.
        sign : {"+", "×"}
            Whether what arrives is added or multiplied.
        hue : str, default "plain"
            As in `box`.

        Returns
        -------
        Box
        """
        style = {"facecolor": self.look.paper, "edgecolor": self.hues[hue], "linewidth": 1.3}
        self.sheet.page.add_patch(Circle((x, y), DOT, zorder=4, **style))
        for dx, dy in ((1, 0), (0, 1)) if sign == "+" else ((0.7, 0.7), (0.7, -0.7)):
            arm = 0.55 * DOT
            ends = [x - arm * dx, x + arm * dx], [y - arm * dy, y + arm * dy]
            self.sheet.page.plot(*ends, color=self.look.ink, linewidth=1.3, zorder=5)
        return Box(x, y, 2 * DOT, 2 * DOT)

    def arrow(self, *points, shape=None, on=0, before=False, head=True):
        """Draw an arrow along straight pieces.

        Parameters
        ----------
        *points : (float, float)
            From where, over which corners, to where.
        shape : str, optional
            The shape of the array that it carries.
        on : int, default 0
            The piece beside whose middle the shape is written: right of one that runs down,
            above one that runs across.
        before : bool, default False
            Write it on the other side: left, or below.
        head : bool, default True
            Whether there is a head at the end; False for a line that joins another arrow.
        """
        (x0, y0), (x1, y1) = points[-2:]
        long = max(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5, 1e-9)
        u, v = (x1 - x0) / long, (y1 - y0) / long
        neck = (x1 - TIP * u, y1 - TIP * v) if head else (x1, y1)
        xs, ys = zip(*points[:-1], neck, strict=True)
        style = {"color": self.look.muted, "linewidth": LINE, "solid_joinstyle": "round"}
        self.sheet.page.plot(xs, ys, **style, solid_capstyle="butt", zorder=2)
        if head:
            half = 0.42 * TIP
            sides = [
                (neck[0] - half * v, neck[1] + half * u),
                (neck[0] + half * v, neck[1] - half * u),
            ]
            self.sheet.page.add_patch(Polygon([(x1, y1), *sides], color=self.look.muted, zorder=2))
        if shape:
            (x0, y0), (x1, y1) = points[on : on + 2]
            x, y, said = (x0 + x1) / 2, (y0 + y1) / 2, {"size": SMALL, "color": self.look.ink}
            if x0 == x1:
                side = {"x": x - 0.07, "ha": "right"} if before else {"x": x + 0.07, "ha": "left"}
                self.sheet.text(side.pop("x"), y, shape, **said, **side)
            else:
                self.sheet.text(x, y + (0.1 if before else -0.1), shape, **said, ha="center")

    def around(self, start, end, x):
        """Draw a residual connection: what went into a step is added behind it.

        Parameters
        ----------
        start : (float, float)
            A point on the arrow before the step.
        end : Box
            The circle behind it.
        x : float
            How far to the side it runs.
        """
        side = end.left if x < end.x else end.right
        self.arrow(start, (x, start[1]), (x, end.y), side)

    def frame(self, left, top, right, bottom, times, note=None):
        """Draw the frame of what is repeated.

        Parameters
        ----------
        left, top, right, bottom : float
            Its edges.
        times : str
            How often, written inside its lower right corner.
        note : str, optional
            Written at the right of it.
        """
        style = {"facecolor": self.tint("plain", 0.07), "edgecolor": self.look.rule}
        self._round(left, top, right - left, bottom - top, 0.1, linewidth=1, zorder=0, **style)
        self.sheet.text(right - 0.1, bottom - 0.15, times, ha="right", weight="bold", size=TEXT)
        if note:
            said = {"size": SMALL, "color": self.look.muted}
            self.sheet.text(right + 0.1, bottom - 0.15, note, **said)

    def cells(self, x, y, colours, width=0.13, height=None, *, gap=0.02, grid=(1, 1)):
        """Draw a row of little boxes, one for each image or token.

        Parameters
        ----------
        x, y : float
            The middle of the row.
        colours : sequence of str
            Of each, see `tint`.
        width, height : float
            Inches of each; by default it is a square.
        gap : float, default 0.02
            Inches between them.
        grid : (int, int), default (1, 1)
            Rows and columns into which each is cut.
        """
        height = width if height is None else height
        left = x - (width + gap) * len(colours) / 2 + gap / 2
        (rows, columns), line = grid, {"color": self.look.paper, "linewidth": 0.6, "zorder": 4}
        for i, colour in enumerate(colours):
            corner = left + i * (width + gap), y - height / 2
            box = Rectangle(corner, width, height, facecolor=colour, linewidth=0, zorder=3)
            self.sheet.page.add_patch(box)
            for part in range(1, columns):
                across = corner[0] + width * part / columns
                self.sheet.page.plot([across] * 2, [corner[1], corner[1] + height], **line)
            for part in range(1, rows):
                down = corner[1] + height * part / rows
                self.sheet.page.plot([corner[0], corner[0] + width], [down] * 2, **line)

    def key(self, x=MARGIN):
        """Say at the foot what dashed frames and hatches mean, if there are any.

        Parameters
        ----------
        x : float
            Inches from the left.
        """
        meanings = {"learned": "a parameter, learned", "frozen": "frozen, does not learn"}
        y = self.height - MARGIN - line_height(SMALL) / 2
        for kind in ("learned", "frozen"):
            if kind in self.kinds:
                self._outline(Box(x + 0.2, y, 0.36, 0.15), kind, "plain")
                said = {"size": SMALL, "color": self.look.muted}
                self.sheet.text(x + 0.46, y, meanings[kind], **said)
                x += 0.7 + text_width(meanings[kind], SMALL)

    def _outline(self, place, kind, hue):
        corner = place.height / 2 if kind in ("array", "learned") else ROUND
        style = {
            "step": {"facecolor": self.tint(hue, 0.13), "edgecolor": self.hues[hue]},
            "array": {"facecolor": self.tint(hue, 0.26), "edgecolor": "none"},
            "learned": {
                "facecolor": self.look.paper,
                "edgecolor": self.hues[hue],
                "linestyle": (0, (3, 2)),
            },
            "frozen": {
                "facecolor": self.look.paper,
                "edgecolor": self.tint(hue, 0.6),
                "hatch": "/////",
            },
        }[kind]
        left, top = place.left[0], place.top[1]
        size = place.width, place.height
        self._round(left, top, *size, corner, linewidth=1.3, zorder=3, **style)

    def _round(self, left, top, width, height, corner, **style):
        shape = f"round,pad=0,rounding_size={corner}"
        self.sheet.page.add_patch(
            FancyBboxPatch((left, top), width, height, boxstyle=shape, **style)
        )


def shaped(*axes):
    """Write a shape.

    Parameters
    ----------
    *axes : int or str
        Lengths, or letters where they are free.

    Returns
    -------
    str

    Examples
    --------
    >>> shaped("B", 36, 48)
    '(B, 36, 48)'
    """
    return f"({', '.join(map(str, axes))})"
