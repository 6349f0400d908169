"""Images, and what a model takes them for: patches, captions, classes."""

import numpy as np
from matplotlib.patches import Rectangle

from scratch_vlm.viz import inputs
from scratch_vlm.viz.style import (
    CROSS,
    MARGIN,
    SMALL,
    TEXT,
    TICK,
    WIDTH,
    Sheet,
    ink_on,
    line_height,
    styled,
    text_width,
    thinned,
    widest,
    wrap,
)


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
    image = inputs.image(image)
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
        numbered = {columns * row for row in thinned(rows, rows * line)}
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
        table.set_yticks(thinned(len(tokens), tall - gap))
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
    images, similarity = inputs.images(images), inputs.numbers(similarity, "similarity", 2)
    n = len(images)
    if similarity.shape != (n, n) or len(captions) != n:
        raise ValueError(
            f"similarity has shape {similarity.shape} for {n} images and {len(captions)} captions; "
            "it must have a row for each image and a column for each caption, one each per pair"
        )
    with styled(theme) as look:
        labels = [wrap(caption, 2.5) for caption in captions]
        left = widest(labels) + 0.25
        cell = min(0.62, max(0.4, (WIDTH - left - MARGIN) / n))
        rows = max(cell * 0.75, max(map(len, labels)) * line_height(TEXT) + 0.06)
        picture = cell * 0.86
        top = MARGIN + picture * images.shape[1] / images.shape[2] + 0.08
        best, own = similarity.argmax(axis=0), np.arange(n)
        wrong = (best != own) & (similarity[best, own] > similarity[own, own])
        said = "Framed: the image and the caption that belong together."
        if wrong.any():
            said += " Dashed: where another image comes first for a caption."
        footer = wrap(said, max(left + n * cell, 5) - MARGIN, SMALL)
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
        for j, lines in enumerate(labels):
            sheet.text(left - 0.12, top + (j + 0.5) * rows, "\n".join(lines), ha="right")
            _frame(axes, j, j, look.ink)
            if wrong[j]:
                _frame(axes, j, best[j], look.wrong, dashed=True)
        sheet.text(
            MARGIN, height - MARGIN, "\n".join(footer), size=SMALL, color=look.muted, va="bottom"
        )
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
    images, scores = inputs.images(images), inputs.numbers(scores, "scores", 2)
    correct = np.asarray(correct)
    if scores.shape != (len(captions), len(images)):
        raise ValueError(
            f"scores has shape {scores.shape} for {len(captions)} captions and {len(images)} "
            f"images; it must have shape {(len(captions), len(images))}"
        )
    if correct.shape != (len(captions),) or correct.dtype.kind not in "iu":
        raise ValueError(
            f"correct must hold one image index for each of {len(captions)} captions; "
            f"got {inputs.brief(correct)}"
        )
    if (correct < 0).any() or (correct >= len(images)).any():
        raise ValueError(
            f"correct holds {inputs.brief(correct)}; there are images 0 to {len(images) - 1}"
        )
    if top < 1:
        raise ValueError(f"top must be at least 1; got {top}")
    top = min(top, len(images))
    with styled(theme) as look:
        labels = [wrap(caption, 2.6) for caption in captions]
        left = MARGIN + max(widest(labels), text_width("its image: rank 1000 of 1000", SMALL)) + 0.3
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
    image, probabilities = inputs.image(image), inputs.numbers(probabilities, "probabilities", 1)
    n = len(captions)
    if len(probabilities) != n:
        raise ValueError(f"there are {n} captions and {len(probabilities)} probabilities")
    if (probabilities < 0).any() or (probabilities > 1 + 1e-3).any():
        raise ValueError(f"probabilities must lie in [0, 1]; got {inputs.brief(probabilities)}")
    if not 0 <= truth < n:
        raise ValueError(f"truth is {truth}; there are captions 0 to {n - 1}")
    with styled(theme) as look:
        labels = [wrap(caption, 2.6) for caption in captions]
        row = max(map(len, labels)) * line_height(TEXT) + 0.09
        side = 1.7
        left = MARGIN + side + 0.3 + widest(labels, bold=True) + 0.12
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
        raise ValueError(f"counts must be whole numbers from 0; got {inputs.brief(counts)}")
    with styled(theme) as look:
        labels = [wrap(name, 2.2) for name in names]
        cell = max(text_width(str(counts.max())) + 0.14, min(0.45, 5.0 / n), 0.3)
        wide = widest(labels)
        upright = wide > cell - 0.06
        tall = max(map(len, labels)) * line_height(TEXT)
        left = MARGIN + line_height(TEXT) + 0.1 + wide + 0.12
        top = MARGIN + line_height(TEXT) + 0.1 + (wide if upright else tall) + 0.06
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
    images = inputs.images(images)
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


def _decimal(x):
    text = f"{x:.2f}".replace("-", "−")
    return "0.00" if text == "−0.00" else text


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


def _ordinal(n):
    return f"{n}{'th' if 10 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"
