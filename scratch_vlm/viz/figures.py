"""The figures of the lessons and reports: arrays and names in, a Matplotlib figure out."""

import math

import numpy as np
from matplotlib.patches import Rectangle

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

TICK, CROSS = "✓", "✗"


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
    steps, losses = _numbers(steps, "steps", 1), _numbers(losses, "losses", 1)
    rates = None if rates is None else _numbers(rates, "rates", 1)
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


def similarity_matrix(similarity, images, captions, *, title=None, theme="light"):
    """Draw how similar every image is to every caption.

    Parameters
    ----------
    similarity : array of shape (B, B)
        Entry (i, j) belongs to image i and caption j; pairs that belong together are on the
        diagonal. Images become columns and captions rows, so that captions stay readable.
    images : array of shape (B, H, W) or (B, H, W, C)
        In [0, 1], of 1 or 3 channels.
    captions : sequence of str
        One for each image.
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
        If the numbers of images, captions, rows and columns differ.
    """
    images, similarity = _images(images), _numbers(similarity, "similarity", 2)
    n = len(images)
    if similarity.shape != (n, n) or len(captions) != n:
        raise ValueError(
            f"similarity has shape {similarity.shape} for {n} images and {len(captions)} captions; "
            "it must have a row for each image and a column for each caption, one each per pair"
        )
    with styled(theme) as look:
        labels = [wrap(caption, 2.5) for caption in captions]
        left = _widest(labels) + 0.25
        cell = min(0.62, max(0.4, (WIDTH - left - MARGIN) / n))
        rows = max(cell * 0.75, max(map(len, labels)) * line_height(TEXT) + 0.06)
        picture = cell * 0.86
        top = MARGIN + picture * images.shape[1] / images.shape[2] + 0.08
        footer = wrap(
            "Solid frame: the image and the caption that belong together. "
            "Dashed: where another image comes first for a caption.",
            max(left + n * cell, 5) - MARGIN,
            SMALL,
        )
        height = top + n * rows + 0.2 + len(footer) * line_height(SMALL)
        sheet = Sheet(max(left + n * cell, 5) + MARGIN, height, look, title)
        for i, image in enumerate(images):
            sheet.image(left + i * cell + (cell - picture) / 2, MARGIN, picture, image)
        axes = sheet.axes(left, top, n * cell, n * rows)
        low, high = similarity.min(), similarity.max()
        spread = (similarity.T - low) / (high - low if high > low else 1)
        _cells(
            axes,
            look.ramp()(0.9 * spread),
            look.paper,
            [[_decimal(x) for x in row] for row in similarity.T],
        )
        best = similarity.argmax(axis=0)
        for j, lines in enumerate(labels):
            sheet.text(left - 0.12, top + (j + 0.5) * rows, "\n".join(lines), ha="right")
            _frame(axes, j, j, look.ink)
            if best[j] != j and similarity[best[j], j] > similarity[j, j]:
                _frame(axes, j, best[j], look.wrong, dashed=True)
        sheet.text(
            MARGIN, height - MARGIN, "\n".join(footer), size=SMALL, color=look.muted, va="bottom"
        )
        return sheet.figure


def confusion(counts, names, *, title=None, theme="light"):
    """Draw which class is taken for which.

    Parameters
    ----------
    counts : array of int of shape (n, n)
        Entry (i, j) counts the samples of class i that were called j.
    names : sequence of str
        The classes.
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
        If `counts` is not square, holds anything but whole numbers from 0, or has another size
        than `names`.

    Notes
    -----
    Colour is the share of the row, so rare classes weigh as much as frequent ones. Errors have a
    colour and a scale of their own: beside a diagonal near 1 they would be invisible.
    """
    counts, n = np.asarray(counts), len(names)
    if counts.shape != (n, n):
        raise ValueError(
            f"counts has shape {counts.shape} and there are {n} names; "
            f"{n} names need shape {(n, n)}: truth down, answer across"
        )
    if n == 0 or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError(f"counts must be whole numbers from 0; got {_brief(counts)}")
    with styled(theme) as look:
        labels = [wrap(name, 2.2) for name in names]
        cell = max(text_width(str(counts.max())) + 0.14, min(0.45, 5.0 / n), 0.3)
        upright = _widest(labels) > cell - 0.06
        widest = _widest(labels)
        tall = max(map(len, labels)) * line_height(TEXT)
        left = MARGIN + line_height(TEXT) + 0.1 + widest + 0.12
        top = MARGIN + line_height(TEXT) + 0.1 + (widest if upright else tall) + 0.06
        height = top + n * max(cell, tall + 0.04) + MARGIN
        cell = max(cell, tall + 0.04)
        side = n * cell
        sheet = Sheet(left + side + 0.75, height, look, title)
        axes = sheet.axes(left, top, side, side)

        totals = counts.sum(axis=1, keepdims=True)
        share = counts / np.maximum(totals, 1)
        wrong = share * (1 - np.eye(n))
        colours = look.ramp(look.wrong)(0.15 * (wrong > 0) + 0.65 * wrong / (wrong.max() or 1))
        own = np.arange(n)
        colours[own, own] = look.ramp()(0.9 * share[own, own])
        _cells(axes, colours, look.rule, [[str(x) if x else "" for x in row] for row in counts])

        for i, lines in enumerate(labels):
            middle = (i + 0.5) * cell
            sheet.text(left - 0.1, top + middle, "\n".join(lines), ha="right")
            sheet.text(
                left + middle,
                top - 0.08,
                "\n".join(lines),
                ha="center",
                va="bottom",
                rotation=90 if upright else 0,
            )
            rate = f"{share[i, i]:.0%}" if totals[i, 0] else "–"
            sheet.text(left + side + 0.1, top + middle, rate, color=look.muted)
        muted = {"size": SMALL, "color": look.muted}
        sheet.text(left + side / 2, MARGIN + 0.06, "answer", ha="center", **muted)
        sheet.text(MARGIN + 0.06, top + side / 2, "truth", ha="center", rotation=90, **muted)
        sheet.text(left + side + 0.1, top - 0.08, "correct", va="bottom", **muted)
        return sheet.figure


def retrieval(captions, images, scores, *, correct, top=5, title=None, theme="light"):
    """Show which images are found first for each caption.

    Parameters
    ----------
    captions : sequence of str
        T questions.
    images : array of shape (B, H, W) or (B, H, W, C)
        The images searched, in [0, 1], of 1 or 3 channels.
    scores : array of shape (T, B)
        Of each caption with each image; more is better.
    correct : sequence of int
        For each caption the index of its image.
    top : int, default 5
        How many images to show for each caption.
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
        If the sizes disagree or an index in `correct` is none of an image.
    """
    images, scores = _images(images), _numbers(scores, "scores", 2)
    correct = np.asarray(correct)
    if scores.shape != (len(captions), len(images)):
        raise ValueError(
            f"scores has shape {scores.shape} for {len(captions)} captions and {len(images)} "
            f"images; it must have shape {(len(captions), len(images))}"
        )
    if correct.shape != (len(captions),) or correct.dtype.kind not in "iu":
        raise ValueError(
            f"correct must hold one image index for each of {len(captions)} captions; "
            f"got {_brief(correct)}"
        )
    if (correct < 0).any() or (correct >= len(images)).any():
        raise ValueError(
            f"correct holds {_brief(correct)}; there are images 0 to {len(images) - 1}"
        )
    if top < 1:
        raise ValueError(f"top must be at least 1; got {top}")
    top = min(top, len(images))
    with styled(theme) as look:
        labels = [wrap(caption, 2.6) for caption in captions]
        left = (
            MARGIN + max(_widest(labels), text_width("its image: rank 1000 of 1000", SMALL)) + 0.3
        )
        pitch = min(1.0, max(0.62, (WIDTH - left - MARGIN) / top))
        size = pitch - 0.18
        tall = size * images.shape[1] / images.shape[2]
        row = max(tall + 0.36, max(map(len, labels)) * line_height(TEXT) + 0.42)
        start = MARGIN + 0.22
        sheet = Sheet(left + top * pitch + MARGIN, start + len(captions) * row, look, title)
        muted = {"size": SMALL, "color": look.muted}
        for place in range(top):
            middle = left + place * pitch + size / 2
            sheet.text(middle, MARGIN + 0.06, _ordinal(place + 1), ha="center", **muted)
        order = np.argsort(-scores, axis=1, kind="stable")
        for t, lines in enumerate(labels):
            y = start + t * row
            rank = int(np.flatnonzero(order[t] == correct[t])[0]) + 1
            block = len(lines) * line_height(TEXT) + line_height(SMALL)
            upper = y + (tall - block) / 2
            sheet.text(MARGIN, upper, "\n".join(lines), va="top")
            sheet.text(
                MARGIN,
                upper + len(lines) * line_height(TEXT) + 0.04,
                f"{TICK} its image comes first"
                if rank == 1
                else f"its image: rank {rank} of {len(images)}",
                va="top",
                size=SMALL,
                color=look.right if rank == 1 else look.wrong,
            )
            for place, i in enumerate(order[t, :top]):
                x, own = left + place * pitch, i == correct[t]
                sheet.image(x, y, size, images[i], frame=look.right if own else None)
                sheet.text(
                    x + size / 2,
                    y + tall + 0.11,
                    _decimal(scores[t, i]) + (f" {TICK}" if own else ""),
                    ha="center",
                    size=SMALL,
                    color=look.right if own else look.muted,
                    weight="bold" if own else "normal",
                )
        return sheet.figure


def attention_maps(image, attention, *, grid, labels=None, mean=True, title=None, theme="light"):
    """Draw where a token looks: its attention over the patches of an image, head by head.

    Parameters
    ----------
    image : array of shape (H, W) or (H, W, C)
        In [0, 1], of 1 or 3 channels.
    attention : array of shape (A, N)
        For each head, the probabilities with which one token (the class token, as a rule)
        attends to the patches in reading order. Where they add up to less than 1, the rest
        goes to tokens that are not patches, and the figure says so.
    grid : tuple of int
        Rows and columns of patches; N of them.
    labels : sequence of str, optional
        A name for each head; default "head 1", "head 2", ...
    mean : bool, default True
        Begin with the mean of several heads.
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
        If the sizes disagree, the patches do not divide the image, or a row of `attention` is
        not of probabilities.
    """
    image, attention = _image(image), _numbers(attention, "attention", 2)
    rows, columns = grid
    h, w = image.shape[:2]
    if attention.shape[1] != rows * columns:
        raise ValueError(
            f"attention covers {attention.shape[1]} patches and a grid of {rows} x {columns} has "
            f"{rows * columns}; leave out the columns of tokens that are not patches"
        )
    if rows < 1 or columns < 1 or h % rows or w % columns:
        raise ValueError(f"an image of {h} x {w} does not divide into {rows} x {columns} patches")
    if (attention < 0).any() or (attention.sum(axis=1) > 1 + 1e-3).any():
        raise ValueError(
            "attention must hold probabilities; its rows run from "
            f"{attention.min():.3g} and add up to {attention.sum(axis=1).max():.3g} at most"
        )
    heads = len(attention)
    labels = [f"head {a + 1}" for a in range(heads)] if labels is None else list(labels)
    if len(labels) != heads:
        raise ValueError(f"there are {len(labels)} labels for {heads} heads")

    maps = list(zip(labels, attention, strict=True))
    if mean and heads > 1:
        maps.insert(0, ("mean of heads", attention.mean(axis=0)))
    high = float(attention.max()) or 1.0
    with styled(theme) as look:
        lines = -(-(len(maps) + 1) // 6)
        across = max(2, -(-(len(maps) + 1) // lines))
        bar = 0.95  # for the colour bar and what is written beside it
        pitch = min(1.9, (WIDTH - bar - MARGIN) / across)
        size = pitch - 0.14
        tall = size * h / w
        elsewhere = bool((attention.sum(axis=1) < 1 - 1e-3).any())
        names = [wrap(label, size, SMALL) for label in ["image", *(label for label, _ in maps)]]
        head = max(map(len, names)) * line_height(SMALL)
        row = head + tall + (0.38 if elsewhere else 0.2)
        width = max(MARGIN + across * pitch + bar, 4.2)
        sheet = Sheet(width, lines * row + MARGIN, look, title)
        colours = look.ramp()
        shade = _strokes(image)
        for number, weights in enumerate([None, *(weights for _, weights in maps)]):
            x = MARGIN + number % across * pitch
            y = MARGIN + head + number // across * row
            sheet.text(x, y - 0.05, "\n".join(names[number]), size=SMALL, va="bottom")
            if weights is None:
                sheet.image(x, y, size, image)
                continue
            blocks = np.kron(weights.reshape(rows, columns), np.ones((h // rows, w // columns)))
            over = colours(blocks / high)[..., :3]
            sheet.image(x, y, size, over * (1 - shade) + 0.5 * shade)
            if elsewhere:
                rest = max(0.0, 1 - weights.sum())
                sheet.text(
                    x, y + tall + 0.12, f"elsewhere {rest:.0%}", size=SMALL, color=look.muted
                )
        length = (lines - 1) * row + tall
        scale = sheet.axes(MARGIN + across * pitch + 0.05, MARGIN + head, 0.12, length)
        scale.imshow(
            colours(np.linspace(1, 0, 256))[:, None], aspect="auto", extent=(0, 1, 0, high)
        )
        scale.set(xticks=[])
        scale.yaxis.tick_right()
        even = 1 / attention.shape[1]
        marks = {0: "0", high: f"{high:.0%}"}
        if 0.16 < length * even / high < length - 0.16:
            marks[even] = f"even {even:.0%}"
        scale.set_yticks(list(marks), list(marks.values()))
        scale.spines[:].set(visible=True)
        return sheet.figure


def patches(image, patch, *, title=None, theme="light"):
    """Draw an image as a transformer meets it: cut into patches, each a row of numbers.

    Parameters
    ----------
    image : array of shape (H, W) or (H, W, C)
        In [0, 1], of 1 or 3 channels.
    patch : int or tuple of int
        Side, or height and width, of a patch in pixels.
    title : str, optional
        A line above the figure.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure
        The image, its numbered patches, and the table of tokens: row n holds the numbers of
        patch n in the order (row, column, channel).

    Raises
    ------
    ValueError
        If the patches do not divide the image.
    """
    image = _image(image)
    high, wide = (patch, patch) if np.ndim(patch) == 0 else patch
    h, w = image.shape[:2]
    if high < 1 or wide < 1 or h % high or w % wide:
        raise ValueError(f"an image of {h} x {w} does not divide into patches of {high} x {wide}")
    rows, columns = h // high, w // wide
    channels = image.shape[2] if image.ndim == 3 else 1
    pieces = image.reshape(rows, high, columns, wide, channels).swapaxes(1, 2)
    tokens = pieces.reshape(rows * columns, high * wide * channels)
    with styled(theme) as look:
        gap = min(0.2, 0.9 / columns)
        side = min(1.75, 3.0 * w / h)
        tile = side / columns
        pitch = tile + gap
        line = tile * high / wide + gap  # one row of patches and the gap above it
        tall = max(side * h / w, rows * line)
        x2 = MARGIN + side + 0.45
        x3 = x2 + columns * pitch + 0.55
        width = WIDTH - x3 - MARGIN
        top = 0.15
        sheet = Sheet(WIDTH, top + tall + 0.62, look, title)
        sheet.image(MARGIN, top + (tall - side * h / w) / 2, side, image)
        every = gap >= 0.13  # room for a number above each patch, else beside some of the rows
        numbered = {columns * row for row in _few(rows, rows * line)}
        start = top + (tall - rows * line) / 2
        for n in range(rows * columns):
            x, y = x2 + n % columns * pitch, start + n // columns * line + gap
            piece = pieces[n // columns, n % columns]
            sheet.image(x, y, tile, piece if channels == 3 else piece[..., 0])
            if every:
                sheet.text(x, y - gap / 2, str(n), size=6.5, color=look.muted)
            elif n in numbered:
                at = x - 0.05
                sheet.text(at, y + tile / 2, str(n), size=6.5, color=look.muted, ha="right")
        table = sheet.axes(x3, top + gap, width, tall - gap)
        table.imshow(tokens, cmap="gray", vmin=0, vmax=1, aspect="auto")
        table.set(xticks=[])
        table.set_yticks(_few(len(tokens), tall - gap))
        table.tick_params(length=0, pad=3, labelsize=6.5)
        table.spines[:].set(visible=True)
        for n in range(1, len(tokens)):
            table.axhline(n - 0.5, color=look.paper, linewidth=min(1.5, 20 / len(tokens)))
        numbers = f"{high} × {wide}" + (f" × {channels}" if image.ndim == 3 else "")
        shape = f"{h} × {w}" + (f" × {channels}" if image.ndim == 3 else "")
        y = top + tall + 0.3
        for x, first, second in (
            (MARGIN, shape, "the image"),
            (x2, f"{len(tokens)} patches of {numbers}", "in reading order"),
            (x3, f"{len(tokens)} tokens of {tokens.shape[1]} numbers", "one patch a row"),
        ):
            sheet.text(x, y - 0.09, first)
            sheet.text(x, y + 0.1, second, size=SMALL, color=look.muted)
        for x in (x2, x3):
            sheet.text(x - 0.33, top + tall / 2, "→", size=14, ha="center", color=look.muted)
        return sheet.figure


def zero_shot_example(image, captions, probabilities, truth, *, title=None, theme="light"):
    """Draw how probable a model finds each caption of an image.

    Parameters
    ----------
    image : array of shape (H, W) or (H, W, C)
        In [0, 1], of 1 or 3 channels.
    captions : sequence of str
        The candidates; drawn from the most to the least probable.
    probabilities : array of shape (n,)
        Of each caption.
    truth : int
        Index of the caption that is true.
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
        If the sizes disagree, `truth` is no index, or the numbers are not probabilities.
    """
    image, probabilities = _image(image), _numbers(probabilities, "probabilities", 1)
    n = len(captions)
    if len(probabilities) != n:
        raise ValueError(f"there are {n} captions and {len(probabilities)} probabilities")
    if (probabilities < 0).any() or (probabilities > 1 + 1e-3).any():
        raise ValueError(f"probabilities must lie in [0, 1]; got {_brief(probabilities)}")
    if not 0 <= truth < n:
        raise ValueError(f"truth is {truth}; there are captions 0 to {n - 1}")
    with styled(theme) as look:
        labels = [wrap(caption, 2.6) for caption in captions]
        row = max(map(len, labels)) * line_height(TEXT) + 0.09
        side = 1.7
        left = MARGIN + side + 0.3 + _widest(labels, bold=True) + 0.12
        width = WIDTH - left - MARGIN - text_width(f"100%  {TICK} true", bold=True) - 0.15
        tall = side * image.shape[0] / image.shape[1]
        height = max(tall, n * row)
        sheet = Sheet(WIDTH, height + 2 * MARGIN, look, title)
        sheet.image(MARGIN, MARGIN + (height - tall) / 2, side, image)
        top = MARGIN + (height - n * row) / 2
        axes = sheet.axes(left, top, width, n * row)
        order = np.argsort(-probabilities, kind="stable")
        for place, i in enumerate(order):
            true, first = i == truth, place == 0
            colour = look.right if true else look.wrong if first else look.muted
            weight = "bold" if true else "normal"
            mark = f"  {TICK} true" if true else f"  {CROSS}" if first else ""
            axes.barh(place, probabilities[i], height=0.6, color=colour)
            ends = {"va": "center", "weight": weight, "color": colour if mark else look.ink}
            axes.annotate(
                f"{probabilities[i]:.0%}{mark}",
                (probabilities[i], place),
                (5, 0),
                textcoords="offset points",
                **ends,
            )
            sheet.text(
                left - 0.1,
                top + (place + 0.5) * row,
                "\n".join(labels[i]),
                ha="right",
                weight=weight,
            )
        axes.set(xlim=(0, 1), ylim=(n - 0.5, -0.5), xticks=[], yticks=[])
        axes.spines["bottom"].set_visible(False)
        return sheet.figure


def digit_errors(images, labels, predictions, *, limit=24, title=None, theme="light"):
    """Show the images that were classified wrongly.

    Parameters
    ----------
    images : array of shape (B, H, W) or (B, H, W, C)
        All that were classified, in [0, 1], of 1 or 3 channels.
    labels, predictions : sequence
        What each image is and what it was taken for: numbers or names.
    limit : int, default 24
        How many errors to show; the first ones.
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
        If there are not as many labels and predictions as images.
    """
    images = _images(images)
    if not len(images) == len(labels) == len(predictions):
        raise ValueError(
            f"there are {len(images)} images, {len(labels)} labels and {len(predictions)} "
            "predictions; they go together"
        )
    if limit < 1:
        raise ValueError(f"limit must be at least 1; got {limit}")
    wrong = [i for i in range(len(images)) if labels[i] != predictions[i]]
    shown = wrong[:limit]
    summary = f"{len(wrong)} of {len(images)} wrong ({len(wrong) / len(images):.1%})"
    if len(shown) < len(wrong):
        summary += f", the first {limit} of them"
    across = 8
    with styled(theme) as look:
        pitch = (WIDTH - MARGIN) / across
        size = pitch - 0.18
        tall = size * images.shape[1] / images.shape[2]
        names = [wrap(f"{labels[i]} read as {predictions[i]}", pitch - 0.06, SMALL) for i in shown]
        row = tall + 0.22 + max(map(len, names), default=0) * line_height(SMALL)
        start = MARGIN + 0.3
        sheet = Sheet(WIDTH, start + -(-len(shown) // across) * row, look, title)
        sheet.text(MARGIN, MARGIN + 0.08, summary, color=look.muted)
        for place, i in enumerate(shown):
            x = MARGIN + place % across * pitch
            y = start + place // across * row
            sheet.image(x, y, size, images[i])
            name = "\n".join(names[place])
            sheet.text(x + size / 2, y + tall + 0.05, name, ha="center", va="top", size=SMALL)
        return sheet.figure


def _numbers(x, name, axes):
    x = np.asarray(x)
    if x.ndim != axes or x.size == 0 or x.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be {axes}-dimensional numbers, one at least; {_brief(x)}")
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise ValueError(f"{name}{list(where)} is {x[where]}; a figure needs finite numbers")
    return x


def _images(images):
    images = np.asarray(images)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.size == 0 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
        raise ValueError(
            f"images have shape {images.shape}; needed is (B, H, W), (B, H, W, 1) or (B, H, W, 3)"
        )
    if images.dtype.kind != "f":
        raise ValueError(
            f"images are {images.dtype}; figures take float in [0, 1]: divide bytes by 255"
        )
    if not (images.min() >= -1e-4 and images.max() <= 1 + 1e-4):  # so written, NaN fails too
        raise ValueError(
            f"images run from {images.min():.3g} to {images.max():.3g} and must lie in [0, 1]: "
            "take them before normalisation"
        )
    return images.clip(0, 1)


def _image(image):
    image = np.asarray(image)
    if image.ndim not in (2, 3):
        raise ValueError(f"the image has shape {image.shape}; needed is (H, W) or (H, W, C)")
    return _images(image[None])[0]


def _brief(x):
    text = np.array2string(x, threshold=8, precision=3).replace("\n", "")
    return f"{x.dtype} of shape {x.shape}: {text}"


def _running_mean(x, window):
    """Centred mean of what a window covers, fewer numbers at both ends: no lag, no padding."""
    sums = np.concatenate([[0.0], np.cumsum(x)])
    places = np.arange(len(x))
    low = np.maximum(places - window, 0)
    high = np.minimum(places + window + 1, len(x))
    return (sums[high] - sums[low]) / (high - low)


def _decimal(x):
    text = f"{x:.2f}".replace("-", "−")
    return "0.00" if text == "−0.00" else text


def _chance(loss):
    choices = round(math.exp(loss)) if loss < 20 else 0
    exact = choices > 1 and abs(math.log(choices) - loss) < 1e-6
    return f"ln {choices} = {loss:.2f}" if exact else f"{loss:.2f}"


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


def _cells(axes, colours, lines, texts):
    axes.imshow(colours, aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=lines)
    rows, columns = colours.shape[:2]
    for y in range(1, rows):
        axes.axhline(y - 0.5, color=lines, linewidth=0.8)
    for x in range(1, columns):
        axes.axvline(x - 0.5, color=lines, linewidth=0.8)
    for y in range(rows):
        for x in range(columns):
            ink = ink_on(colours[y, x])
            axes.text(x, y, texts[y][x], size=SMALL, color=ink, ha="center", va="center")


def _frame(axes, y, x, colour, dashed=False):
    axes.add_patch(
        Rectangle(
            (x - 0.46, y - 0.44),
            0.92,
            0.88,
            fill=False,
            edgecolor=colour,
            linewidth=2.4 if dashed else 1.8,
            linestyle=(0, (2, 1.2)) if dashed else "-",
        )
    )


def _widest(labels, bold=False):
    return max(text_width("\n".join(lines), bold=bold) for lines in labels)


def _ordinal(n):
    return f"{n}{'th' if 10 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def _few(n, inches):
    """Rows to number: all while they fit, else every second, fifth, tenth, ..."""
    for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if n / step <= inches / 0.11:
            break
    return range(0, n, step)


def _strokes(image):
    """How far each pixel stands out from the background: what to draw over a colour, in [0, 0.7].

    The background keeps its colour exactly, so that it can be compared with the colour bar.
    """
    grey = image if image.ndim == 2 else image.mean(axis=2)
    distance = np.abs(grey - np.median(grey))
    return 0.7 * (distance / (distance.max() or 1))[..., None]
