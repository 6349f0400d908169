"""Sequences of tokens: what stands in them, what may come next, and which image each word sees."""

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
)

_SAID = {"size": SMALL}
_LINED = {"va": "center_baseline"}  # words in a line, whatever hangs below some of them


def next_words(words, candidates, probabilities, *, title=None, theme="light"):
    """Draw, after each word of a text, how probable every candidate is as the next one.

    Parameters
    ----------
    words : sequence of str
        The text, T words from left to right.
    candidates : sequence of str
        V words that may come next, from top to bottom.
    probabilities : array of shape (T, V)
        After each word, that of each candidate. Rows may sum to less than 1: the rest is for
        words that are not shown.
    title : str, optional
        A line above the figure.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure
        A column for each word; the candidate that did come next is framed. Shades grow with the
        root of the probability, so that one of ten is seen beside a certain one.

    Raises
    ------
    ValueError
        If the sizes disagree, or rows are not of probabilities.
    """
    probabilities = _shares(probabilities, "probabilities", (len(words), len(candidates)))
    with styled(theme) as look:
        row, top = 0.215, MARGIN + line_height(TEXT) + line_height(SMALL) + 0.12
        left = MARGIN + max(map(text_width, candidates)) + 0.12
        pitch = min(1.15, (WIDTH - left - MARGIN) / len(words))
        width, tall = pitch * len(words), row * len(candidates)
        sheet = Sheet(left + width + MARGIN, top + tall + MARGIN, look, title)
        sheet.text(MARGIN, MARGIN + 0.06, "after", size=SMALL, color=look.muted)
        axes = sheet.axes(left, top, width, tall)
        colours = look.ramp()(0.92 * probabilities.T**0.5)
        axes.imshow(colours, aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=look.rule)
        for t, word in enumerate(words):
            middle = left + (t + 0.5) * pitch
            sheet.text(
                middle,
                MARGIN + line_height(SMALL) + 0.06,
                word,
                **_LINED,
                ha="center",
                weight="bold",
            )
            if t:
                axes.axvline(t - 0.5, color=look.rule, linewidth=0.8)
            for v in np.flatnonzero(probabilities[t] >= 0.005):
                said = f"{probabilities[t, v]:.0%}"
                ink = ink_on(colours[v, t])
                axes.text(t, v, said, size=SMALL, color=ink, ha="center", va="center")
        for v, word in enumerate(candidates):
            sheet.text(left - 0.1, top + (v + 0.5) * row, word, **_LINED, ha="right")
        for t, word in enumerate(words[1:]):
            if word in candidates:
                corner = t - 0.5, candidates.index(word) - 0.5
                axes.add_patch(Rectangle(corner, 1, 1, **_framed(look.ink), clip_on=False))
        return sheet.figure


def token_row(
    tokens, labels, weights=None, *, names=("reads", "learns"), title=None, theme="light"
):
    """Draw a sequence in which words and pieces of images stand side by side, as a model reads it.

    Parameters
    ----------
    tokens : sequence of str or array of shape (H, W, C)
        The T tokens in order: words, and pieces of images in [0, 1].
    labels : sequence of str or None
        What is to be learned at each of them; None where nothing is.
    weights : array of shape (T,), optional
        How much of its attention some token pays to each, drawn as bars above them.
    names : (str, str)
        What the bars and the labels are called at the left.
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
        If the lengths differ, or the weights are not of probabilities.
    """
    if len(labels) != len(tokens):
        raise ValueError(f"there are {len(tokens)} tokens and {len(labels)} labels")
    if weights is not None:
        weights = _shares(np.asarray(weights)[None], "weights", (1, len(tokens)))[0]
    with styled(theme) as look:
        gap, side = 0.05, 0.36
        left = MARGIN + max(text_width(name, SMALL) for name in names) + 0.12
        widths = [
            max(side if not isinstance(token, str) else text_width(token) + 0.12, _wide(label))
            for token, label in zip(tokens, labels, strict=True)
        ]
        scale = min(1.0, (WIDTH - left - MARGIN - gap * len(tokens)) / sum(widths))
        widths = [scale * width for width in widths]
        bars = 0.0 if weights is None else 0.75
        top = MARGIN + bars
        height = top + side + line_height(TEXT) + 0.16
        right = left + sum(widths) + gap * len(widths)
        sheet = Sheet(max(right + MARGIN, 4.2), height, look, title)
        below = top + side + 0.06 + line_height(TEXT) / 2
        sheet.text(left - 0.1, below, names[1], size=SMALL, color=look.muted, ha="right")
        if weights is not None:
            sheet.text(left - 0.1, top - 0.16, names[0], size=SMALL, color=look.muted, ha="right")
            sheet.page.plot([left, right - gap], [top - 0.05] * 2, color=look.rule, linewidth=0.8)
        x = left
        for i, (token, label, width) in enumerate(zip(tokens, labels, widths, strict=True)):
            if isinstance(token, str):
                colour = look.right if label is not None else look.rule
                box = Rectangle((x, top), width, side, facecolor=look.paper, edgecolor=colour)
                sheet.page.add_patch(box)
                sheet.text(x + width / 2, top + side / 2, token, **_LINED, ha="center")
            else:
                sheet.image(x + (width - side) / 2, top, side, token)
            if label is None:
                sheet.text(x + width / 2, below, "·", ha="center", color=look.muted)
            else:
                sheet.text(x + width / 2, below, label, **_LINED, ha="center", color=look.right)
            if weights is not None:
                _bar(sheet, x, top - 0.05, width, weights[i], weights.max(), look)
            x += width + gap
        return sheet.figure


def seen_images(words, images, weights, seen, *, title=None, theme="light"):
    """Draw which patches of which image each word of a text looks at.

    Parameters
    ----------
    words : sequence of str
        The text, T words from top to bottom.
    images : array of shape (I, H, W, C)
        The images of the text in [0, 1].
    weights : array of shape (T, I, N)
        Attention of each word to the N patches of each image, in reading order.
    seen : boolean array of shape (T, I)
        Which images a word may look at; the others are hatched.
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
        If the sizes disagree, or the weights of a word are not of probabilities.
    """
    count, patches = len(images), np.shape(weights)[-1]
    if np.shape(weights)[:-1] != (len(words), count) or np.shape(seen) != (len(words), count):
        raise ValueError(
            f"{len(words)} words and {count} images need weights {(len(words), count)} by patches "
            f"and seen {(len(words), count)}; got {np.shape(weights)} and {np.shape(seen)}"
        )
    flat = _shares(np.reshape(weights, (len(words), -1)), "weights", (len(words), count * patches))
    with styled(theme) as look:
        left = MARGIN + max(map(text_width, words)) + 0.14
        gap, row = 0.14, 0.2
        pitch = min(1.9, (WIDTH - left - MARGIN + gap) / count)
        size = pitch - gap
        picture = min(size, 0.9)
        top = MARGIN + picture * images.shape[1] / images.shape[2] + 0.1
        tall = row * len(words)
        foot = line_height(SMALL)
        sheet = Sheet(left + count * pitch - gap + MARGIN, top + tall + foot + MARGIN, look, title)
        sheet.text(
            left - 0.1, top + tall + foot / 2, "patch", **_SAID, color=look.muted, ha="right"
        )
        numbered = patches if size / patches > text_width(str(patches), SMALL) + 0.03 else 0
        high = float(flat.max()) or 1.0
        for i, image in enumerate(images):
            x = left + i * pitch
            sheet.image(x + (size - picture) / 2, MARGIN, picture, image)
            axes = sheet.axes(x, top, size, tall)
            axes.imshow(look.ramp()(np.asarray(weights)[:, i] / high), aspect="auto")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=look.rule)
            for n in range(numbered):
                middle = x + (n + 0.5) * size / patches
                said = {**_SAID, "color": look.muted, "ha": "center"}
                sheet.text(middle, top + tall + foot / 2, str(n + 1), **said)
            for t in np.flatnonzero(~np.asarray(seen)[:, i]):
                corner = -0.5, t - 0.5
                axes.add_patch(
                    Rectangle(
                        corner, patches, 1, facecolor=look.paper, edgecolor=look.rule, hatch="////"
                    )
                )
        for t, word in enumerate(words):
            sheet.text(left - 0.1, top + (t + 0.5) * row, word, **_LINED, ha="right")
        return sheet.figure


def _bar(sheet, x, foot, width, share, most, look):
    tall = 0.55 * share / (most or 1)
    sheet.page.add_patch(Rectangle((x, foot - tall), width, tall, facecolor=look.main))
    if share >= 0.1:
        said = {"size": SMALL, "color": look.muted, "ha": "center", "va": "bottom"}
        sheet.text(x + width / 2, foot - tall - 0.02, f"{share:.0%}", **said)


def _wide(label):
    return 0.0 if label is None else text_width(label)


def _framed(colour):
    return {"fill": False, "edgecolor": colour, "linewidth": 1.6, "zorder": 3}


def _shares(x, name, shape):
    x = np.asarray(x, float)
    if x.shape != shape:
        raise ValueError(f"{name} must be of shape {shape}, got {x.shape}")
    if not ((x >= 0).all() and (x.sum(axis=-1) <= 1 + 1e-3).all()):
        raise ValueError(f"{name} must hold probabilities, whose rows add up to 1 at most")
    return x
