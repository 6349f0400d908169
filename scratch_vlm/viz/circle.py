"""Pairs of arrows of length one in the plane: who points where, and who belongs together."""

import numpy as np

from scratch_vlm.viz.style import MARGIN, SMALL, WIDTH, Sheet, styled

AROUND = 1.35  # half the width of a panel, where the circle has radius 1


def pairs_on_circle(panels, *, title=None, theme="light"):
    """Draw images and their texts as arrows on a circle, side by side at several times.

    Parameters
    ----------
    panels : dict of str to array of shape (2, N, 2)
        The arrows of N images and of their N texts, of length one, by what to write below; up to
        four panels of up to four pairs.
    title : str, optional
        A line above the figure.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are no panels or more than four, or one holds something else.
    """
    if not 1 <= len(panels) <= 4:
        raise ValueError(f"there may be 1 to 4 panels, got {len(panels)}")
    for name, arrows in panels.items():
        shape = np.shape(arrows)
        if len(shape) != 3 or shape[0] != 2 or not 1 <= shape[1] <= 4 or shape[2] != 2:
            raise ValueError(f"{name} has shape {shape} and must be (2, N, 2), N from 1 to 4")
    with styled(theme) as look:
        side = (WIDTH - 2 * MARGIN) / max(len(panels), 3)
        sheet = Sheet(2 * MARGIN + side * len(panels), side + 0.6, look, title)
        colours = (look.main, look.wrong, look.right, look.ink)
        for i, (name, arrows) in enumerate(panels.items()):
            left = MARGIN + i * side
            axes = sheet.axes(left, 0, side, side)
            axes.set(xlim=(-AROUND, AROUND), ylim=(-AROUND, AROUND))
            axes.set_axis_off()
            turn = np.linspace(0, 2 * np.pi, 181)
            axes.plot(np.cos(turn), np.sin(turn), color=look.rule, linewidth=0.8)
            for number, (image, text, colour) in enumerate(
                zip(*np.asarray(arrows, float), colours, strict=False), start=1
            ):
                _arrow(axes, text, colour, (0, (3, 2)), size=10, face=look.paper)
                _arrow(axes, image, colour, "-", size=6, face=colour)
                apart = image @ text < 0.95  # else one number is enough for both
                for x, y in (image, text) if apart else (image,):
                    at = {"ha": "center", "va": "center", "size": SMALL, "color": colour}
                    axes.text(1.2 * x, 1.2 * y, str(number), **at)
            sheet.text(left + side / 2, side + 0.1, name, ha="center")
        key = "●  image     ○  text     same number: they belong together"
        sheet.text(MARGIN, side + 0.42, key, size=SMALL, color=look.muted)
    return sheet.figure


def _arrow(axes, tip, colour, dash, *, size, face):
    axes.plot([0, tip[0]], [0, tip[1]], color=colour, linestyle=dash, linewidth=1.6)
    axes.plot(*tip, "o", markersize=size, markerfacecolor=face, markeredgecolor=colour)
