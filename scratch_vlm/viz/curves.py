"""Curves: losses, gates, accuracies and costs, each line with its name."""

import math

import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from scratch_vlm.viz import inputs
from scratch_vlm.viz.style import (
    MARGIN,
    SERIES,
    SMALL,
    TEXT,
    WIDTH,
    Sheet,
    flow,
    line_height,
    styled,
    text_width,
    widest,
    wrap,
)
from scratch_vlm.viz.table import readable

MARKERS = "os^Dv"
DASHES = ("-", (0, (5, 2)), (0, (1, 1.6)))
MOST = len(SERIES["light"]) * len(DASHES)  # lines that can be told apart


def learning_curve(steps, losses, *, chance=None, rates=None, title=None, theme="light"):
    """Draw a loss against training steps, with the loss of guessing as its yardstick.

    Parameters
    ----------
    steps : array of shape (n,)
        Step numbers, increasing.
    losses : array of shape (n,)
        The loss at each step: a thin line, under its running mean over 1/40 of the steps.
    chance : float, optional
        The loss of guessing, in nats: ln N for a choice among N.
    rates : array of shape (n,), optional
        The learning rate at each step, drawn below.
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
        If the lengths differ, nothing was recorded, or a number is not finite.
    """
    steps, losses = inputs.numbers(steps, "steps", 1), inputs.numbers(losses, "losses", 1)
    rates = None if rates is None else inputs.numbers(rates, "rates", 1)
    for name, x in (("losses", losses), ("rates", rates)):
        if x is not None and len(x) != len(steps):
            raise ValueError(f"there are {len(steps)} steps and {len(x)} {name}; they go together")
    if (np.diff(steps) <= 0).any():
        raise ValueError("steps must increase; was a resumed run written twice?")

    smooth = _running_mean(losses, len(losses) // 80)
    ends = [(smooth[-1], f"loss {smooth[-1]:.2f}", "main")]
    if chance is not None:
        ends.append((chance, f"chance: {_chance(chance)}", "muted"))

    with styled(theme) as look:
        left = 0.62
        width = WIDTH - left - max(text_width(label) for _, label, _ in ends) - 0.25
        below = 0 if rates is None else 1.05
        sheet = Sheet(WIDTH, 3.3 + below, look, title)
        axes = sheet.axes(left, 0.35, width, 2.45)
        axes.plot(steps, losses, color=look.main, linewidth=0.6, alpha=0.4)
        axes.plot(steps, smooth, color=look.main, linewidth=2)
        if chance is not None:
            axes.axhline(chance, color=look.muted, linewidth=1, linestyle=(0, (5, 3)), zorder=0)
        top = max(losses.max(), chance or 0.0) * 1.05
        bottom = min(0.0, losses.min() * 1.05)
        axes.set_ylim(bottom, top if top > bottom else bottom + 1)
        _panel(axes, steps, "loss", look)
        for y, (_, label, colour) in zip(_apart([y for y, _, _ in ends], axes), ends, strict=True):
            axes.annotate(
                label,
                (1, y),
                (8, 0),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                va="center",
                color=getattr(look, colour),
                annotation_clip=False,
            )
        last = axes
        if rates is not None:
            last = sheet.axes(left, 3.25, width, 0.6)
            last.plot(steps, rates, color=look.muted, linewidth=1.2)
            last.set_ylim(0, rates.max() * 1.1 or 1)
            marks = {0: "0"} | ({rates.max(): f"{rates.max():.2g}"} if rates.max() else {})
            last.set_yticks(list(marks), list(marks.values()))
            _panel(last, steps, "learning rate", look)
            axes.tick_params(labelbottom=False)
        last.set_xlabel("step", loc="right")
        return sheet.figure


def learning_curves(curves, *, chance=None, title=None, theme="light"):
    """Draw the losses of several runs against training steps.

    Parameters
    ----------
    curves : dict of str to tuple
        For each run ``(steps, losses)``, arrays of shape (n,) with n of its own: a faint line
        under its running mean over 1/40 of the steps.
    chance : float, optional
        The loss of guessing.
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
        If there are no curves or too many, lengths differ, steps do not increase, or a number is
        not finite.
    """
    if not curves:
        raise ValueError("curves is empty; give a dict of name to (steps, losses)")
    inputs.few_enough(curves, "curves", MOST)
    lines = {}
    for name, (steps, losses) in curves.items():
        steps = _increasing(steps, f"steps of {name!r}")
        losses = inputs.numbers(losses, f"losses of {name!r}", 1)
        if len(steps) != len(losses):
            raise ValueError(f"{name!r} has {len(steps)} steps and {len(losses)} losses")
        lines[name] = (steps, _running_mean(losses, len(losses) // 80), losses)
    high = max(losses.max() for _, _, losses in lines.values())
    high = 1.05 * max(high, chance or 0.0)
    low = min(0.0, 1.05 * min(losses.min() for _, _, losses in lines.values()))
    with styled(theme) as look:
        return _line_panels(
            [("", lines)],
            look,
            theme,
            title,
            xname="step",
            yname="loss",
            ylim=(low, high if high > low else low + 1),
            chance=chance,
            height=2.6,
            last="{:.2f}".format,
        )


def gate_curves(steps, gates, *, names=None, title=None, theme="light"):
    """Draw how far the gates of cross-attention open while models are trained.

    Parameters
    ----------
    steps : array of shape (n,)
        Step numbers, increasing; those of all runs.
    gates : dict of str to array of shape (n, G) or (n,)
        For each run tanh(alpha) of each of its gates: 0 is closed.
    names : sequence of str, optional
        Of the G gates; default "gate 1", "gate 2", ...
    title : str, optional
        A line above the figure.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each run with a line for each gate, all on one scale; runs of one gate share
        a panel.

    Raises
    ------
    ValueError
        If sizes disagree, steps do not increase, or a value is beyond [-1, 1].
    """
    steps = _increasing(steps, "steps")
    if not gates:
        raise ValueError("gates is empty; give a dict of run to values")
    runs = {}
    for run, values in gates.items():
        values = inputs.numbers(values, f"gates[{run!r}]", 2 if np.ndim(values) == 2 else 1)
        values = values.reshape(len(values), -1)
        if len(values) != len(steps):
            raise ValueError(f"there are {len(steps)} steps and gates[{run!r}] has {len(values)}")
        if np.abs(values).max() > 1 + 1e-6:
            raise ValueError(
                f"gates[{run!r}] run from {values.min():.3g} to {values.max():.3g}; tanh(alpha) "
                "lies in [-1, 1]: give it, and not alpha"
            )
        runs[run] = values
    counts = {values.shape[1] for values in runs.values()}
    if len(counts) > 1:
        raise ValueError(f"runs have {_listed(sorted(counts))} gates; all must have as many")
    (count,) = counts
    if names is not None and len(names) != count:
        raise ValueError(f"there are {len(names)} names for {count} gates")
    names = [f"gate {k + 1}" for k in range(count)] if names is None else list(names)
    if count == 1:
        panels = {"": {run: values[:, 0] for run, values in runs.items()}}
    else:
        panels = {
            run: dict(zip(names, values.T, strict=True)) if len(set(names)) == count else None
            for run, values in runs.items()
        }
        if None in panels.values():
            raise ValueError(f"names of gates must differ; got {_listed(names)}")
    inputs.few_enough(next(iter(panels.values())), "lines in a panel", MOST)
    low = min(0.0, min(values.min() for values in runs.values()))
    high = max(0.0, max(values.max() for values in runs.values()))
    pad = 0.06 * (high - low or 1.0)
    with styled(theme) as look:
        curves = [(run, {k: (steps, v, None) for k, v in x.items()}) for run, x in panels.items()]
        options = {"ylim": (low - pad if low < 0 else 0, high + pad), "yname": "tanh(alpha)"}
        return _line_panels(curves, look, theme, title, xname="step", zero=True, **options)


def shots(counts, accuracies, chance=None, *, chance_name="chance", title=None, theme="light"):
    """Draw accuracy against the number of examples shown before the question.

    Parameters
    ----------
    counts : array of int of shape (n,)
        Numbers of shots, increasing from 0 or more.
    accuracies : dict of str to array of shape (n,)
        For each model or type of question, in [0, 1].
    chance : float, optional
        The accuracy of guessing.
    chance_name : str, default "chance"
        What is guessed.
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
        If sizes disagree, counts are not increasing whole numbers, or a number is no share.
    """
    counts = _increasing(counts, "counts")
    if (counts < 0).any() or (counts % 1).any():
        raise ValueError(f"counts must be whole numbers from 0; got {inputs.brief(counts)}")
    if not accuracies:
        raise ValueError("accuracies is empty; give a dict of name to accuracies")
    lines = {}
    for name, values in accuracies.items():
        values = inputs.numbers(values, f"accuracies[{name!r}]", 1)
        if len(values) != len(counts):
            raise ValueError(
                f"there are {len(counts)} counts and accuracies[{name!r}] has {len(values)}"
            )
        for value in values:
            inputs.share(value, f"accuracies[{name!r}]")
        lines[name] = (counts, values, None)
    inputs.few_enough(lines, "lines", MOST)
    if chance is not None:
        inputs.share(chance, "chance")
    with styled(theme) as look:
        return _line_panels(
            [("", lines)],
            look,
            theme,
            title,
            xname="examples shown before the question",
            yname="accuracy",
            ylim=(0, 1.03),
            marked=True,
            chance=chance,
            chance_name=chance_name,
            height=2.6,
            last=lambda value: f"{value:.0%}",
        )


def cost_curves(images, costs, *, title=None, theme="light"):
    """Draw what more images cost, in a panel for each kind of cost.

    Parameters
    ----------
    images : array of int of shape (n,)
        Numbers of images, increasing.
    costs : dict
        Name of a cost with its unit -> dict of architecture to array of shape (n,), none
        negative: ``{"KV cache (bytes)": {"unified": ..., "cross_modal": ...}}``.
    title : str, optional
        A line above the figure.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure
        Panels, three in a row. Where costs span more than a factor of 30 the axis is
        logarithmic, and says so; else it starts at 0.

    Raises
    ------
    ValueError
        If there is nothing to draw, sizes disagree, or a cost is negative.
    """
    images = _increasing(images, "images")
    if not costs or not all(costs.values()):
        raise ValueError("costs must hold a dict of architecture to numbers for each kind of cost")
    panels = {}
    for cost, curves in costs.items():
        panels[cost] = {}
        for name, values in curves.items():
            values = inputs.numbers(values, f"costs[{cost!r}][{name!r}]", 1)
            if len(values) != len(images):
                raise ValueError(
                    f"there are {len(images)} numbers of images and costs[{cost!r}][{name!r}] has "
                    f"{len(values)}"
                )
            if (values < 0).any():
                raise ValueError(f"costs[{cost!r}][{name!r}] is negative: {inputs.brief(values)}")
            panels[cost][name] = values
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    inputs.few_enough(names, "architectures", len(MARKERS))
    with styled(theme) as look:
        style = {
            name: {"color": SERIES[theme][k], "marker": MARKERS[k], "linestyle": DASHES[k % 3]}
            for k, name in enumerate(names)
        }
        across = min(3, len(panels))
        left, gap, tall = 0.62, 0.2, 1.75
        width = min(3.6, (WIDTH - MARGIN - (left + gap) * across) / across)
        heads = {
            cost: wrap(cost + _logarithmic(curves) * ", log scale", width + left - 0.1, SMALL)
            for cost, curves in panels.items()
        }
        head = max(map(len, heads.values())) * line_height(SMALL) + 0.1
        spots, legend = flow([(readable(n), 0.56) for n in names], WIDTH - 2 * MARGIN, 0.3)
        start = MARGIN + legend * 0.2 + 0.08
        row = head + tall + 0.55
        rows = -(-len(panels) // across)
        total = MARGIN + across * (left + width + gap)
        sheet = Sheet(max(total, 4.2), start + rows * row, look, title)
        line = {"linewidth": 1.8, "markersize": 4.5}
        for name, (x, place) in zip(names, spots, strict=True):
            x, y = MARGIN + x, MARGIN + (place + 0.5) * 0.2
            sheet.page.plot([x, x + 0.21, x + 0.42], [y] * 3, **line | style[name])
            sheet.text(x + 0.56, y, readable(name))
        for k, (cost, curves) in enumerate(panels.items()):
            x = MARGIN + k % across * (left + width + gap)
            y = start + k // across * row
            axes = sheet.axes(x + left, y + head, width, tall)
            for name, values in curves.items():
                axes.plot(images, values, **line | style[name], clip_on=False)
            muted = {"size": SMALL, "color": look.muted}
            sheet.text(x, y + head - 0.1, "\n".join(heads[cost]), va="bottom", **muted)
            _panel(axes, images, "", look)
            values = np.concatenate(list(curves.values()))
            if _logarithmic(curves):
                axes.set_yscale("log")
                axes.set_ylim(
                    10 ** math.floor(math.log10(values.min())),
                    10 ** math.ceil(math.log10(values.max()) + 1e-9),
                )
                axes.yaxis.set_major_locator(LogLocator(numticks=6))
                axes.yaxis.set_minor_formatter(NullFormatter())
                axes.tick_params(axis="y", which="minor", length=0)
            else:
                axes.set_ylim(0, values.max() * 1.08 or 1)
                axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
            low, high = axes.get_xlim()
            axes.set_xlim(low - 0.06 * (high - low), high)  # markers keep off the numbers
            axes.set_xticks(_ticks(images, width))
            axes.set_xlabel("images", loc="right")
        return sheet.figure


def _line_panels(
    panels,
    look,
    theme,
    title,
    *,
    xname,
    yname,
    ylim,
    height=1.5,
    marked=False,
    zero=False,
    chance=None,
    chance_name="chance",
    last=None,
):
    """Panels under one another, of lines {name: (x, y, faint or None)} named at their ends."""
    ends = []  # for each panel (y, lines of its label, colour)
    for _, lines in panels:
        own = []
        for k, (name, (_, y, _)) in enumerate(lines.items()):
            said = readable(name) + (f" {last(y[-1])}" if last else "")
            own.append((y[-1], wrap(said, 1.9), _series(k, theme)["color"]))
        if chance is not None:
            said = chance_name + (f" {last(chance)}" if last else "")
            own.append((chance, [said], look.muted))
        ends.append(own)
    left = 0.62
    right = max(widest([lines for _, lines, _ in own]) for own in ends)
    width = WIDTH - left - right - 0.25 - MARGIN
    rows = [[len(lines) * line_height(TEXT) for _, lines, _ in own] for own in ends]
    talls = [max(height, sum(own)) for own in rows]
    heads = [wrap(f"{name}: {yname}" if name else yname, width, SMALL) for name, _ in panels]
    tops = [0.08 + len(lines) * line_height(SMALL) + 0.06 for lines in heads]
    below = 0.24  # of every panel: its ticks
    sheet = Sheet(WIDTH, sum(tops) + sum(talls) + below * len(panels) + 0.22, look, title)
    xs = np.unique(np.concatenate([x for _, lines in panels for x, _, _ in lines.values()]))
    at = 0.0
    for k, (_, lines) in enumerate(panels):
        top, tall = at + tops[k], talls[k]
        axes = sheet.axes(left, top, width, tall)
        for place, (x, y, faint) in enumerate(lines.values()):
            style = _series(place, theme)
            if faint is not None:
                axes.plot(x, faint, color=style["color"], linewidth=0.5, alpha=0.3, zorder=1)
            if marked or len(x) == 1:
                style |= {"marker": MARKERS[place % len(MARKERS)], "markersize": 5}
            axes.plot(x, y, linewidth=1.8, clip_on=False, zorder=3, **style)
            if x[-1] < xs[-1]:  # lead the eye from where it stops to its name
                lead = {"linewidth": 0.7, "linestyle": DASHES[2], "color": style["color"]}
                axes.plot([x[-1], xs[-1]], [y[-1]] * 2, **lead)
        _panel(axes, xs, "", look)
        axes.set_ylim(ylim)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        if zero:
            axes.axhline(0, color=look.muted, linewidth=0.8, zorder=0)
        if chance is not None:
            axes.axhline(chance, color=look.muted, linewidth=1, linestyle=(0, (5, 3)), zorder=0)
        if marked:
            axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
            axes.set_xticks(_ticks(xs, width))
        sheet.text(left, top - 0.06, "\n".join(heads[k]), size=SMALL, color=look.muted, va="bottom")
        wanted = [tall * (ylim[1] - y) / (ylim[1] - ylim[0]) for y, _, _ in ends[k]]
        for (_, label, colour), want, got in zip(
            ends[k], wanted, _spread(wanted, rows[k], tall), strict=True
        ):
            sheet.text(left + width + 0.22, top + got, "\n".join(label), color=colour)
            sheet.page.plot(
                [left + width + 0.06, left + width + 0.18],
                [top + want, top + got],
                color=colour,
                linewidth=0.7,
            )
        if k == len(panels) - 1:
            axes.set_xlabel(xname, loc="right")
        at = top + tall + below
    return sheet.figure


def _spread(wanted, heights, room):
    """Middles of labels near those wanted, none over another, all in [0, room] if they fit."""
    blocks = []  # of labels that touch: [where its top wants to be, labels]
    for k in sorted(range(len(wanted)), key=lambda k: wanted[k]):
        blocks.append([wanted[k] - heights[k] / 2, [k]])
        while True:
            top, own = blocks[-1]
            length = sum(heights[i] for i in own)
            blocks[-1][0] = top = max(0.0, min(top, room - length))
            if len(blocks) == 1:
                break
            before, others = blocks[-2]
            if before + sum(heights[i] for i in others) <= top + 1e-9:
                break
            blocks.pop()
            own = others + own
            tops = np.cumsum([0.0] + [heights[i] for i in own[:-1]])
            ideal = [wanted[i] - heights[i] / 2 - t for i, t in zip(own, tops, strict=True)]
            blocks[-1] = [float(np.mean(ideal)), own]
    middles = [0.0] * len(wanted)
    for top, own in blocks:
        for i in own:
            middles[i] = top + heights[i] / 2
            top += heights[i]
    return middles


def _series(k, theme):
    colours = SERIES[theme]
    return {"color": colours[k % len(colours)], "linestyle": DASHES[k // len(colours)]}


def _panel(axes, steps, name, look):
    axes.set_title(name, loc="left", size=SMALL, color=look.muted, pad=6)
    axes.set_xlim(steps[0], steps[-1] if len(steps) > 1 else steps[0] + 1)
    axes.grid(axis="y", color=look.rule, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _apart(ys, axes):
    """Move two labels away from each other as far as a line of text needs."""
    low, high = axes.get_ylim()
    need = (high - low) * 0.075
    if len(ys) == 2 and abs(ys[0] - ys[1]) < need:
        middle, sign = sum(ys) / 2, 1 if ys[0] > ys[1] else -1
        return [middle + sign * need / 2, middle - sign * need / 2]
    return ys


def _running_mean(x, window):
    """Centred mean of what a window covers, fewer numbers at both ends: no lag, no padding."""
    sums = np.concatenate([[0.0], np.cumsum(x)])
    places = np.arange(len(x))
    low = np.maximum(places - window, 0)
    high = np.minimum(places + window + 1, len(x))
    return (sums[high] - sums[low]) / (high - low)


def _chance(loss):
    choices = round(math.exp(loss)) if loss < 20 else 0
    exact = choices > 1 and abs(math.log(choices) - loss) < 1e-6
    return f"ln {choices} = {loss:.2f}" if exact else f"{loss:.2f}"


def _increasing(x, name):
    x = inputs.numbers(x, name, 1)
    if (np.diff(x) <= 0).any():
        raise ValueError(f"{name} must increase; got {inputs.brief(x)}")
    return x


def _logarithmic(curves):
    values = np.concatenate(list(curves.values()))
    return bool(values.min() > 0 and values.max() > 30 * values.min())


def _ticks(xs, width):
    """The first and last of the given places, and those between that have room for a number."""
    need = (0.08 + max(text_width(f"{x:g}", SMALL) for x in xs)) * (xs[-1] - xs[0]) / width
    kept = [xs[-1]]
    for x in xs[-2:0:-1]:
        if min(kept[-1] - x, x - xs[0]) > need:
            kept.append(x)
    return [xs[0], *kept[::-1]] if len(xs) > 1 else kept


def _listed(things):
    return ", ".join(map(str, things))
