"""Questions about images: the right answers, those of models, and how many are right."""

from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

from scratch_vlm.viz import inputs
from scratch_vlm.viz.style import (
    CROSS,
    MARGIN,
    SERIES,
    SMALL,
    TEXT,
    TICK,
    WIDTH,
    Sheet,
    flow,
    line_height,
    styled,
    text_width,
    widest,
    wrap,
)
from scratch_vlm.viz.table import DASH, readable

YARDSTICKS = ("chance", "question_only", "goal")


def answers(images, rows, *, title=None, theme="light"):
    """Show images with what was asked about them, the right answer, and what models answered.

    Parameters
    ----------
    images : array of shape (B, H, W) or (B, H, W, C)
        In [0, 1], of 1 or 3 channels.
    rows : sequence of list of tuple
        For each image its questions, each ``(question, truth, {model: answer})``. An answer is
        right if it is the truth, letter for letter. A model that was not asked has a dash.
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
        If there are not as many lists of questions as images, an image has no question, a
        question has not three parts, or nobody answered.
    """
    images = inputs.images(images)
    if len(rows) != len(images):
        raise ValueError(f"there are {len(images)} images and {len(rows)} lists of questions")
    rows = [check_questions(asked, f"rows[{i}]") for i, asked in enumerate(rows)]
    models = list(dict.fromkeys(m for asked in rows for *_, replies in asked for m in replies))
    if not models:
        raise ValueError("no model answered any question; rows need at least one answer")
    with styled(theme) as look:
        side, gap, pad = 1.15, 0.18, 0.07
        left = MARGIN + side + gap
        head = ["question", "right answer", *map(readable, models)]
        table = [
            [[q, truth, *(signed(replies, m, truth)[0] for m in models)] for q, truth, replies in x]
            for x in rows
        ]
        cells = [head, *(line for asked in table for line in asked)]
        natural = [max(map(text_width, column)) + 0.02 for column in zip(*cells, strict=True)]
        widths = _columns(natural, WIDTH - left - MARGIN - gap * (len(head) - 1))
        lefts = [left + sum(widths[:k]) + gap * k for k in range(len(head))]
        head = [wrap(text, width, SMALL) for text, width in zip(head, widths, strict=True)]
        table = [
            [
                [wrap(text, width) for text, width in zip(line, widths, strict=True)]
                for line in asked
            ]
            for asked in table
        ]
        heights = [
            [max(map(len, line)) * line_height(TEXT) + 2 * pad for line in asked] for asked in table
        ]
        tall = side * images.shape[1] / images.shape[2]
        top = MARGIN + max(map(len, head)) * line_height(SMALL) + 0.08
        blocks = [max(tall, sum(line)) for line in heights]
        sheet = Sheet(WIDTH, top + sum(blocks) + 0.24 * len(blocks), look, title)
        for x, lines in zip(lefts, head, strict=True):
            sheet.text(x, top - 0.04, "\n".join(lines), size=SMALL, color=look.muted, va="bottom")
        y = top
        for i, asked in enumerate(rows):
            sheet.page.plot([MARGIN, WIDTH - MARGIN], [y, y], color=look.rule, linewidth=0.8)
            y += 0.12
            sheet.image(MARGIN, y, side, images[i])
            at = y
            for (_, truth, replies), line, height in zip(asked, table[i], heights[i], strict=True):
                for k, (x, cell) in enumerate(zip(lefts, line, strict=True)):
                    right = None if k < 2 else signed(replies, models[k - 2], truth)[1]
                    sheet.text(x, at + pad, "\n".join(cell), va="top", **verdict(right, look))
                at += height
            y += blocks[i] + 0.12
        return sheet.figure


def accuracy_bars(groups, *, title=None, theme="light"):
    """Draw accuracies as bars, in groups, with what they must be compared to as ticks.

    Parameters
    ----------
    groups : dict
        Name of a group (a type of question) -> dict of accuracies in [0, 1] or None. Those named
        ``chance``, ``question_only`` and ``goal`` become ticks across the bars of their group, all
        others bars: ``{"colour": {"unified": 0.97, "cross_modal": 0.95, "chance": 0.25}}``.
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
        If a group has no bar, there are too many bars, or a number is no share.
    """
    if not groups:
        raise ValueError("groups is empty; there is nothing to draw")
    groups = {
        name: {k: v for k, v in values.items() if v is not None} for name, values in groups.items()
    }
    for name, values in groups.items():
        for key, value in values.items():
            inputs.share(value, f"groups[{name!r}][{key!r}]")
        if not set(values) - set(YARDSTICKS):
            raise ValueError(f"groups[{name!r}] has no accuracy beside {', '.join(YARDSTICKS)}")
    found = dict.fromkeys(key for values in groups.values() for key in values)
    bars = [key for key in found if key not in YARDSTICKS]
    ticks = [key for key in YARDSTICKS if key in found]
    inputs.few_enough(bars, "kinds of bars", len(SERIES["light"]))
    with styled(theme) as look:
        colours = dict(zip(bars, SERIES[theme], strict=False))
        bar, gap = 0.17, 0.16
        labels = {name: wrap(readable(name), 2.2) for name in groups}
        tall = {
            name: max(
                bar * sum(key in values for key in bars), len(labels[name]) * line_height(TEXT)
            )
            for name, values in groups.items()
        }
        left = MARGIN + widest(labels.values()) + 0.12
        width = WIDTH - left - MARGIN - text_width("100.0%") - 0.1
        entries = [(readable(key), colours[key], "bar") for key in bars]
        entries += [(readable(key), look.ink, key) for key in ticks]
        spots, legend = flow([(text, 0.34) for text, *_ in entries], WIDTH - 2 * MARGIN, 0.28)
        top = MARGIN + legend * 0.2 + 0.1
        height = sum(tall.values()) + gap * len(groups)
        sheet = Sheet(WIDTH, top + height + 0.38, look, title)
        for (text, colour, kind), (x, line) in zip(entries, spots, strict=True):
            x, y = MARGIN + x, MARGIN + (line + 0.5) * 0.2
            if kind == "bar":
                sheet.page.add_patch(Rectangle((x, y - 0.06), 0.24, 0.12, color=colour))
            else:
                _yardstick(sheet.page, kind, x + 0.12, y - 0.08, y + 0.08, look)
            sheet.text(x + 0.34, y, text)
        axes = sheet.axes(left, top, width, height)
        axes.set(xlim=(0, 1), ylim=(height, 0), yticks=[])
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
        axes.grid(axis="x", color=look.rule, linewidth=0.5, alpha=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("accuracy", loc="right")
        y = gap / 2
        for name, values in groups.items():
            middle = y + tall[name] / 2
            sheet.text(left - 0.1, top + middle, "\n".join(labels[name]), ha="right")
            own = [key for key in bars if key in values]
            upper = middle - bar * len(own) / 2
            for place, key in enumerate(own):
                at = upper + (place + 0.5) * bar
                axes.barh(at, values[key], height=bar * 0.88, color=colours[key])
                sheet.text(
                    WIDTH - MARGIN,
                    top + at,
                    f"{values[key]:.1%}",
                    ha="right",
                    size=SMALL,
                    color=colours[key],
                )
            for key in ticks:
                if key in values:
                    lower = upper + bar * len(own)
                    _yardstick(axes, key, values[key], upper - 0.03, lower + 0.03, look)
            y += tall[name] + gap
        return sheet.figure


def check_questions(asked, name):
    """Check the questions about one image or clip.

    Parameters
    ----------
    asked : list of tuple
        Each ``(question, truth, {model: answer})``.
    name : str
        What errors call them.

    Returns
    -------
    list of (str, str, dict of str to str)

    Raises
    ------
    ValueError
        If there is none, or one has not three parts.
    """
    if not asked:
        raise ValueError(f"{name} has no question; give (question, truth, answers) for each")
    for row in asked:
        if len(row) != 3 or isinstance(row, str) or not isinstance(row[2], dict):
            raise ValueError(f"{name} holds {row!r}; needed is (question, truth, answers by model)")
    return [(str(q), str(t), {m: str(a) for m, a in replies.items()}) for q, t, replies in asked]


def signed(replies, model, truth):
    """Write an answer with the sign of right or wrong.

    Parameters
    ----------
    replies : dict of str to str
        Answers by model.
    model : str
        Whose answer.
    truth : str
        The right one.

    Returns
    -------
    said : str
        A dash if the model was not asked.
    right : bool or None
        None if the model was not asked.

    Examples
    --------
    >>> signed({"unified": "red"}, "unified", "red")
    ('✓ red', True)
    """
    if model not in replies:
        return DASH, None
    said = replies[model]
    return f"{TICK if said == truth else CROSS} {said or '(nothing)'}", said == truth


def verdict(right, look):
    """Choose the colour of an answer.

    Parameters
    ----------
    right : bool or None
        What `signed` returned.
    look : Theme
        The colours.

    Returns
    -------
    dict
        Options of `Sheet.text`; none for what is neither right nor wrong.
    """
    if right is None:
        return {}
    return {"color": look.right if right else look.wrong}


def _columns(natural, room):
    """Widths of columns: what they need if it is less than their share of what is left."""
    if sum(natural) <= room:
        return list(natural)
    widths, left = {}, room
    for k in sorted(range(len(natural)), key=lambda k: natural[k]):
        widths[k] = min(natural[k], left / (len(natural) - len(widths)))
        left -= widths[k]
    return [widths[k] for k in range(len(natural))]


def _yardstick(axes, kind, x, upper, lower, look):
    """A tick across bars, told apart by its shape: chance, question_only or goal."""
    edge = [withStroke(linewidth=3.2, foreground=look.paper)]
    line = {"color": look.ink, "linewidth": 1.4, "solid_capstyle": "butt", "clip_on": False}
    line |= {"path_effects": edge, "zorder": 4}
    if kind == "goal":
        axes.plot([x, x], [upper, lower], **line)
        axes.plot(x, upper, marker="v", markersize=5, **line)
    else:
        dashes = (0, (1, 1)) if kind == "chance" else (0, (3.5, 1.2))
        axes.plot([x, x], [upper, lower], linestyle=dashes, dash_capstyle="butt", **line)
        if kind == "question_only":
            axes.plot(x, (upper + lower) / 2, marker="D", markersize=3.5, **line)
