"""The figures of vision language models: questions and answers, gates, shots, and what it costs.

Arrays and names in, a Matplotlib figure out, as in `scratch_vlm.viz.figures`.
"""

import math

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from scratch_vlm.viz.figures import (
    CROSS,
    TICK,
    _brief,
    _few,
    _image,
    _images,
    _numbers,
    _panel,
    _running_mean,
    _strokes,
    _widest,
)
from scratch_vlm.viz.style import (
    MARGIN,
    SMALL,
    TEXT,
    WIDTH,
    Sheet,
    ink_on,
    line_height,
    styled,
    text_width,
    wrap,
)
from scratch_vlm.viz.table import DASH, readable

YARDSTICKS = ("chance", "question_only", "goal")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.6)))
MARKERS = "os^Dv"
SERIES = {  # the theme's main colour first; none of those that mean right and wrong
    "light": ("#0072b2", "#aa4583", "#8a6d00", "#1f2328", "#7a828c"),
    "dark": ("#56b4e9", "#e39ac4", "#e6cf45", "#e8eaed", "#8b949e"),
}
RISE = 0.12  # inches from the top of a line of text to its letters' feet
MOST = len(SERIES["light"]) * len(DASHES)  # lines that can be told apart


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
    images = _images(images)
    if len(rows) != len(images):
        raise ValueError(f"there are {len(images)} images and {len(rows)} lists of questions")
    rows = [_asked(asked, f"rows[{i}]") for i, asked in enumerate(rows)]
    models = list(dict.fromkeys(m for asked in rows for *_, replies in asked for m in replies))
    if not models:
        raise ValueError("no model answered any question; rows need at least one answer")
    with styled(theme) as look:
        side, gap, pad = 1.15, 0.18, 0.07
        left = MARGIN + side + gap
        head = ["question", "right answer", *map(readable, models)]
        table = [
            [[q, truth, *(_reply(replies, m, truth)[0] for m in models)] for q, truth, replies in x]
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
                    right = None if k < 2 else _reply(replies, models[k - 2], truth)[1]
                    sheet.text(x, at + pad, "\n".join(cell), va="top", **_verdict(right, look))
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
            _share(value, f"groups[{name!r}][{key!r}]")
        if not set(values) - set(YARDSTICKS):
            raise ValueError(f"groups[{name!r}] has no accuracy beside {', '.join(YARDSTICKS)}")
    found = dict.fromkeys(key for values in groups.values() for key in values)
    bars = [key for key in found if key not in YARDSTICKS]
    ticks = [key for key in YARDSTICKS if key in found]
    _few_enough(bars, "kinds of bars", len(SERIES["light"]))
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
        left = MARGIN + _widest(labels.values()) + 0.12
        width = WIDTH - left - MARGIN - text_width("100.0%") - 0.1
        entries = [(readable(key), colours[key], "bar") for key in bars]
        entries += [(readable(key), look.ink, key) for key in ticks]
        spots, legend = _flow([(text, 0.34) for text, *_ in entries], WIDTH - 2 * MARGIN, 0.28)
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


def word_attention(image, words, weights, grid, *, title=None, theme="light"):
    """Draw where each word of a question or an answer looks in an image.

    Parameters
    ----------
    image : array of shape (H, W) or (H, W, C)
        In [0, 1], of 1 or 3 channels.
    words : sequence of str
        The words; one may occur twice.
    weights : array of shape (T, N)
        For each word, how much of its attention goes to the patches in reading order. Where the
        shares add up to less than 1, the rest goes to other words, and the figure says so.
    grid : tuple of int
        Rows and columns of patches; N of them.
    title : str, optional
        A line above the figure.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure
        The image, and once more under each word, all on one scale.

    Raises
    ------
    ValueError
        If the sizes disagree, the patches do not divide the image, or a row of `weights` is not
        of probabilities.
    """
    image, weights = _image(image), _probabilities(weights, "weights")
    rows, columns = grid
    h, w = image.shape[:2]
    if len(words) != len(weights):
        raise ValueError(f"there are {len(words)} words and weights of {len(weights)}")
    if weights.shape[1] != rows * columns:
        raise ValueError(
            f"weights cover {weights.shape[1]} patches and a grid of {rows} x {columns} has "
            f"{rows * columns}; leave out the columns of tokens that are not patches"
        )
    if rows < 1 or columns < 1 or h % rows or w % columns:
        raise ValueError(f"an image of {h} x {w} does not divide into {rows} x {columns} patches")
    elsewhere = bool((weights.sum(axis=1) < 1 - 1e-3).any())
    high = float(weights.max()) or 1.0
    with styled(theme) as look:
        count = len(words) + 1
        lines = -(-count // 6)
        across = max(2, -(-count // lines))
        bar = 0.95  # for the colour bar and what is written beside it
        pitch = min(1.6, (WIDTH - bar - MARGIN) / across)
        size = pitch - 0.14
        tall = size * h / w
        names = [wrap(word, size) for word in ["image", *words]]
        head = max(map(len, names)) * line_height(TEXT) + 0.04
        row = head + tall + (0.38 if elsewhere else 0.2)
        sheet = Sheet(max(MARGIN + across * pitch + bar, 4.2), lines * row + MARGIN, look, title)
        colours, shade = look.ramp(), _strokes(image)
        for number, lines_ in enumerate(names):
            x = MARGIN + number % across * pitch
            y = MARGIN + head + number // across * row
            style = {"weight": "bold"} if number else {"color": look.muted}
            sheet.text(x, y - 0.05, "\n".join(lines_), va="bottom", **style)
            if number == 0:
                sheet.image(x, y, size, image)
                continue
            own = weights[number - 1]
            blocks = np.kron(own.reshape(rows, columns), np.ones((h // rows, w // columns)))
            over = colours(blocks / high)[..., :3]
            sheet.image(x, y, size, over * (1 - shade) + 0.5 * shade)
            if elsewhere:
                said = f"elsewhere {max(0.0, 1 - own.sum()):.0%}"
                sheet.text(x, y + tall + 0.12, said, size=SMALL, color=look.muted)
        length = (lines - 1) * row + tall
        _scale(sheet, MARGIN + across * pitch + 0.05, MARGIN + head, length, high, look)
        return sheet.figure


def film_strip(frames, title=None, marks=None, *, numbers=None, theme="light"):
    """Show the frames of clips side by side, and under each clip what was asked about it.

    Parameters
    ----------
    frames : array of shape (F, H, W, C), or sequence of such
        One clip, or several that may differ in length; (F, H, W) is a grey one. In [0, 1].
    title : str, optional
        A line above the figure.
    marks : sequence, optional
        For each clip a str, or its questions as `answers` takes them: a list of ``(question,
        truth, {model: answer})``. One clip also has a sequence of one.
    numbers : sequence of sequence of int, optional
        For each clip the number of each frame, for clips that do not show every frame of a video;
        by default counted from 0.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are no clips, or not as many marks as clips or numbers as frames.
    """
    clips = _clips(frames)
    numbers = [range(len(clip)) for clip in clips] if numbers is None else numbers
    if list(map(len, numbers)) != list(map(len, clips)):
        raise ValueError(
            f"clips of {list(map(len, clips))} frames and numbers for {list(map(len, numbers))}; "
            "give a list for each clip, a number for each frame"
        )
    marks = [""] * len(clips) if marks is None else marks
    if isinstance(marks, str) or len(marks) != len(clips):
        given = f"the text {marks!r}" if isinstance(marks, str) else len(marks)
        raise ValueError(f"there are {len(clips)} clips and {given} marks; give a list, one each")
    marks = [
        mark if isinstance(mark, str) else _asked(mark, f"marks[{i}]")
        for i, mark in enumerate(marks)
    ]
    with styled(theme) as look:
        pitch = min(1.1, (WIDTH - 2 * MARGIN + 0.06) / max(_across(len(clip)) for clip in clips))
        size = pitch - 0.06
        lines = []
        for mark in marks:
            pieces = _sentences(mark, look)
            lines.append([_lay(sentence, WIDTH - 2 * MARGIN - 0.2) for sentence in pieces])
        step = line_height(TEXT) + 0.04
        heights = [
            _strip_height(clip, size, _across(len(clip)))
            + step * sum(height for _, height in spots)
            + (0.06 if spots else 0)
            for clip, spots in zip(clips, lines, strict=True)
        ]
        between = 0.2
        inches = MARGIN + sum(heights) + between * (len(clips) - 1) + MARGIN
        sheet = Sheet(WIDTH, inches, look, title)
        y = MARGIN
        for clip, of_frames, spots, height in zip(clips, numbers, lines, heights, strict=True):
            across = _across(len(clip))
            _strip(sheet, MARGIN, y, size, pitch, across, clip, look, of_frames)
            at = y + _strip_height(clip, size, across) + 0.06
            for placed, count in spots:
                for text, x, line, style in placed:
                    sheet.text(MARGIN + x, at + line * step + RISE, text, va="baseline", **style)
                at += count * step
            y += height + between
        return sheet.figure


def frame_attention(frames, weights, *, labels=None, title=None, theme="light"):
    """Draw how much each visual token, or each head, attends to every frame of a clip.

    Parameters
    ----------
    frames : array of shape (F, H, W) or (F, H, W, C)
        The clip, in [0, 1].
    weights : array of shape (R, F)
        For each token or head the share of its attention on each frame, added up over the
        patches of the frame.
    labels : sequence of str, optional
        A name for each row; default "latent 1", "latent 2", ...
    title : str, optional
        A line above the figure.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure
        The frames, each above its column of a heat map of R rows.

    Raises
    ------
    ValueError
        If the sizes disagree or a row of `weights` is not of probabilities.
    """
    clips = _clips(frames)
    if len(clips) != 1:
        raise ValueError(f"frames hold {len(clips)} clips; give one, of shape (F, H, W, C)")
    (clip,), weights = clips, _probabilities(weights, "weights")
    count, length = len(weights), len(clip)
    if weights.shape[1] != length:
        raise ValueError(f"weights cover {weights.shape[1]} frames and the clip has {length}")
    if labels is not None and len(labels) != count:
        raise ValueError(f"there are {len(labels)} labels for {count} rows of weights")
    high = float(weights.max()) or 1.0
    with styled(theme) as look:
        if labels is None:
            labels = [f"latent {r + 1}" for r in range(count)]
        labels = [wrap(label, 1.7) for label in labels]
        left = MARGIN + _widest(labels) + 0.12
        bar = 0.46 + text_width("even 100%", SMALL)
        room = WIDTH - left - bar
        pitch = min(1.0, room / length)
        size = pitch * 0.9
        most = max(map(len, labels))
        named = most > 1 or count <= 24  # longer ones are thinned out: they are numbered
        row = max(most * line_height(TEXT) + 0.04, 0.2) if named else max(0.03, 4.8 / count)
        strip = _strip_height(clip, size, length)
        top = MARGIN + strip + 0.08
        tall = count * row
        width = max(left + length * pitch + bar, 4.2)
        sheet = Sheet(width, top + tall + 1.5 * MARGIN, look, title)
        _strip(sheet, left + (pitch - size) / 2, MARGIN, size, pitch, length, clip, look)
        axes = sheet.axes(left, top, length * pitch, tall)
        colours = look.ramp()(weights / high)
        axes.imshow(colours, aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=look.rule)
        for f in range(1, length):
            axes.axvline(f - 0.5, color=look.rule, linewidth=0.8)
        if named and pitch > text_width("100%", SMALL) + 0.06:
            for r, f in np.ndindex(count, length):
                said, ink = f"{weights[r, f]:.0%}", ink_on(colours[r, f])
                axes.text(f, r, said, size=SMALL, color=ink, ha="center", va="center")
        for r in range(count) if named else _few(count, tall * 0.7):
            sheet.text(left - 0.1, top + (r + 0.5) * row, "\n".join(labels[r]), ha="right")
        x, need = left + length * pitch + 0.12, 0.5
        start = top if tall >= need else top + tall - need  # a bar that can be read
        even = None if tall < need else 1 / length
        _scale(sheet, x, start, max(tall, need), high, look, even=even)
        return sheet.figure


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
        values = _numbers(values, f"gates[{run!r}]", np.ndim(values) if np.ndim(values) == 2 else 1)
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
    _few_enough(next(iter(panels.values())), "lines in a panel", MOST)
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
        raise ValueError(f"counts must be whole numbers from 0; got {_brief(counts)}")
    if not accuracies:
        raise ValueError("accuracies is empty; give a dict of name to accuracies")
    lines = {}
    for name, values in accuracies.items():
        values = _numbers(values, f"accuracies[{name!r}]", 1)
        if len(values) != len(counts):
            raise ValueError(
                f"there are {len(counts)} counts and accuracies[{name!r}] has {len(values)}"
            )
        for value in values:
            _share(value, f"accuracies[{name!r}]")
        lines[name] = (counts, values, None)
    _few_enough(lines, "lines", MOST)
    if chance is not None:
        _share(chance, "chance")
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
            values = _numbers(values, f"costs[{cost!r}][{name!r}]", 1)
            if len(values) != len(images):
                raise ValueError(
                    f"there are {len(images)} numbers of images and costs[{cost!r}][{name!r}] has "
                    f"{len(values)}"
                )
            if (values < 0).any():
                raise ValueError(f"costs[{cost!r}][{name!r}] is negative: {_brief(values)}")
            panels[cost][name] = values
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    _few_enough(names, "architectures", len(MARKERS))
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
        spots, legend = _flow([(readable(n), 0.56) for n in names], WIDTH - 2 * MARGIN, 0.3)
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
    _few_enough(curves, "curves", MOST)
    lines = {}
    for name, (steps, losses) in curves.items():
        steps = _increasing(steps, f"steps of {name!r}")
        losses = _numbers(losses, f"losses of {name!r}", 1)
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
    right = max(_widest([lines for _, lines, _ in own]) for own in ends)
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


def _scale(sheet, left, top, length, high, look, even=None):
    scale = sheet.axes(left, top, 0.12, length)
    ramp = look.ramp()(np.linspace(1, 0, 256))[:, None]
    scale.imshow(ramp, aspect="auto", extent=(0, 1, 0, high))
    scale.set(xticks=[])
    scale.yaxis.tick_right()
    marks = {0: "0", high: f"{high:.0%}"}
    if even is not None and 0.16 < length * even / high < length - 0.16:
        marks[even] = f"even {even:.0%}"
    scale.set_yticks(list(marks), list(marks.values()))
    scale.spines[:].set(visible=True)


def _across(length):
    """Frames in a row: 12 at most, and rows of almost the same length."""
    return -(-length // -(-length // 12))


def _strip_height(clip, size, across):
    rows = -(-len(clip) // across)
    return rows * (size * clip.shape[1] / clip.shape[2] + line_height(SMALL) + 0.05)


def _strip(sheet, left, top, size, pitch, across, clip, look, numbers=None):
    numbers = range(len(clip)) if numbers is None else numbers
    tall = size * clip.shape[1] / clip.shape[2]
    step = tall + line_height(SMALL) + 0.05
    for f, (frame, number) in enumerate(zip(clip, numbers, strict=True)):
        x, y = left + f % across * pitch, top + f // across * step + line_height(SMALL)
        sheet.image(x, y, size, frame)
        time = f"t = {number}" if text_width("t = 00", SMALL) < size else str(number)
        sheet.text(
            x + size / 2, y - 0.02, time, ha="center", va="bottom", size=SMALL, color=look.muted
        )


def _sentences(mark, look):
    """What stands under a clip: for each question, pieces of text with their style."""
    if isinstance(mark, str):
        return [[(part, {})] for part in mark.split("\n") if part.strip()]
    return [
        [
            (question, {}),
            (truth, {"weight": "bold"}),
            *(
                piece
                for model in replies
                for said, right in [_reply(replies, model, truth)]
                for piece in [
                    (f"{readable(model)}:\N{NO-BREAK SPACE}{said}", _verdict(right, look))
                ]
            ),
        ]
        for question, truth, replies in mark
    ]


def _lay(pieces, room, gap=0.22):
    """Place pieces one after another, each wrapped if it is longer than a line."""
    placed, x, line = [], 0.0, 0
    for text, style in pieces:
        bold = style.get("weight") == "bold"
        parts = wrap(text, room, bold=bold)
        for k, part in enumerate(parts):
            width = text_width(part, bold=bold)
            if x and (k or x + width > room):
                x, line = 0.0, line + 1
            placed.append((part, x, line, style))
            x += width + gap
    return placed, line + 1


def _flow(entries, room, gap):
    """Places (x, line) of the entries of a legend: (text, inches of its sign)."""
    places, x, line = [], 0.0, 0
    for text, sign in entries:
        width = sign + text_width(text)
        if x and x + width > room:
            x, line = 0.0, line + 1
        places.append((x, line))
        x += width + gap
    return places, line + 1


def _columns(natural, room):
    """Widths of columns: what they need if it is less than their share of what is left."""
    if sum(natural) <= room:
        return list(natural)
    widths, left = {}, room
    for k in sorted(range(len(natural)), key=lambda k: natural[k]):
        widths[k] = min(natural[k], left / (len(natural) - len(widths)))
        left -= widths[k]
    return [widths[k] for k in range(len(natural))]


def _asked(asked, name):
    if not asked:
        raise ValueError(f"{name} has no question; give (question, truth, answers) for each")
    for row in asked:
        if len(row) != 3 or isinstance(row, str) or not isinstance(row[2], dict):
            raise ValueError(f"{name} holds {row!r}; needed is (question, truth, answers by model)")
    return [(str(q), str(t), {m: str(a) for m, a in replies.items()}) for q, t, replies in asked]


def _reply(replies, model, truth):
    """An answer with its sign, and whether it is right; None if there is none."""
    if model not in replies:
        return DASH, None
    said = replies[model]
    return f"{TICK if said == truth else CROSS} {said or '(nothing)'}", said == truth


def _verdict(right, look):
    if right is None:
        return {}
    return {"color": look.right if right else look.wrong}


def _clips(frames):
    if isinstance(frames, np.ndarray):
        coloured = frames.ndim == 4 and frames.shape[3] in (1, 3)
        frames = [frames] if coloured or frames.ndim == 3 else list(frames)
    if not len(frames):
        raise ValueError("there are no clips; frames must hold one at least")
    if np.ndim(frames[0]) < 3:
        raise ValueError(
            f"frames hold arrays of shape {np.shape(frames[0])}; a clip has shape (F, H, W) or "
            "(F, H, W, C)"
        )
    return [_images(clip) for clip in frames]


def _probabilities(x, name):
    x = _numbers(x, name, 2)
    if (x < 0).any() or (x.sum(axis=1) > 1 + 1e-3).any():
        raise ValueError(
            f"{name} must hold probabilities; its rows run from {x.min():.3g} and add up to "
            f"{x.sum(axis=1).max():.3g} at most"
        )
    return x


def _increasing(x, name):
    x = _numbers(x, name, 1)
    if (np.diff(x) <= 0).any():
        raise ValueError(f"{name} must increase; got {_brief(x)}")
    return x


def _share(x, name):
    if not 0 <= x <= 1:  # so written, NaN fails too
        raise ValueError(f"{name} is {x}; accuracies are shares from 0 to 1")


def _few_enough(names, what, most):
    if len(names) > most:
        raise ValueError(f"there are {len(names)} {what} and {most} can be told apart")


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
