"""Lines against a number: how something grows, shrinks or turns."""

import numpy as np

from scratch_vlm.viz.style import SMALL, WIDTH, Sheet, styled, text_width

DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1.5, 2)))


def lines(x, series, *, across, up, log="", points=None, height=2.9, title=None, theme="light"):
    """Draw one or more lines against the same numbers, each with its name at its end.

    Parameters
    ----------
    x : array of shape (n,)
        Numbers along the axis, from left to right; the axis may fall.
    series : dict of str to array of shape (n,)
        Up to four lines by name; NaN leaves a gap.
    across, up : str
        What the axes show, with units.
    log : {"", "x", "y", "xy"}, default ""
        Axes on which equal ways are equal factors; what is not positive there is left out.
    points : dict of str to (x, y), optional
        Places to mark, by name.
    height : float, default 2.9
        Inches of the axes.
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
        If there are no lines or more than four, or a line has another length than `x`.
    """
    x = np.asarray(x, float)
    if not 1 <= len(series) <= len(DASHES):
        raise ValueError(f"there may be 1 to {len(DASHES)} lines, got {len(series)}")
    for name, y in series.items():
        if np.shape(y) != x.shape:
            raise ValueError(f"{name} has shape {np.shape(y)} and x {x.shape}; they go together")
    with styled(theme) as look:
        names = max(text_width(name) for name in series)
        left, right = 0.75, names + 0.25
        sheet = Sheet(WIDTH, height + 0.75, look, title)
        axes = sheet.axes(left, 0.15, WIDTH - left - right, height)
        axes.set(xlabel=across, ylabel=up)
        axes.set_xscale("log" if "x" in log else "linear")
        axes.set_yscale("log" if "y" in log else "linear")
        axes.grid(True, color=look.rule, linewidth=0.5)
        axes.tick_params(which="minor", color=look.rule)
        colours = (look.main, look.wrong, look.right, look.ink)
        ends = []
        for (name, y), colour, dash in zip(series.items(), colours, DASHES, strict=False):
            y = np.asarray(y, float)
            if "y" in log:
                y = np.where(y > 0, y, np.nan)
            axes.plot(x, y, color=colour, linestyle=dash, linewidth=2)
            known = np.isfinite(y)
            if known.any():
                end = np.flatnonzero(known)[-1]
                ends.append((x[end], y[end], name, colour))
        for name, place in (points or {}).items():
            axes.plot(*place, marker="o", markersize=6, color=look.ink)
            offset = {"xytext": (6, -10), "textcoords": "offset points"}
            axes.annotate(name, place, **offset, size=SMALL, color=look.ink, zorder=3)
        axes.autoscale_view()
        axes.xaxis.set_inverted(x[0] > x[-1])
        _name_ends(axes, ends)
    return sheet.figure


def _name_ends(axes, ends):
    # From the lowest up: a name that would touch the one below it moves up.
    to_page, back = axes.transAxes.inverted(), axes.transData
    gap = 1.4 * SMALL / 72 / (axes.figure.get_figheight() * axes.get_position().height)
    places = sorted(
        (float(to_page.transform(back.transform((x, y)))[1]), name, colour)
        for x, y, name, colour in ends
    )
    below = -np.inf
    for place, name, colour in places:
        below = max(place, below + gap)
        axes.text(1.015, below, name, transform=axes.transAxes, color=colour, va="center")
