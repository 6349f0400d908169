"""Where tokens look in an image: attention over its patches, by head or by word."""

import numpy as np
from matplotlib.patches import Rectangle

from scratch_vlm.viz import inputs
from scratch_vlm.viz.style import MARGIN, SMALL, TEXT, WIDTH, Sheet, line_height, styled, wrap


def attention_maps(
    image, attention, *, grid, labels=None, asking=None, mean=True, title=None, theme="light"
):
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
    asking : sequence of int, optional
        For each map the patch that looks, which is framed.
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
    image, attention = inputs.image(image), inputs.probabilities(attention, "attention")
    _check_grid(image, attention, grid)
    (rows, columns), (h, w) = grid, image.shape[:2]
    heads = len(attention)
    labels = [f"head {a + 1}" for a in range(heads)] if labels is None else list(labels)
    if len(labels) != heads:
        raise ValueError(f"there are {len(labels)} labels for {heads} heads")
    own = [None] * heads if asking is None else list(asking)
    if len(own) != heads or any(n is not None and not 0 <= n < rows * columns for n in own):
        raise ValueError(
            f"asking must hold a patch from 0 to {rows * columns - 1} for each of {heads} maps; "
            f"got {own}"
        )

    maps = list(zip(labels, attention, own, strict=True))
    if mean and heads > 1:
        maps.insert(0, ("mean of heads", attention.mean(axis=0), None))
    high = float(attention.max()) or 1.0
    with styled(theme) as look:
        lines = -(-(len(maps) + 1) // 6)
        across = max(2, -(-(len(maps) + 1) // lines))
        bar = 0.95  # for the colour bar and what is written beside it
        pitch = min(1.9, (WIDTH - bar - MARGIN) / across)
        size = pitch - 0.14
        tall = size * h / w
        elsewhere = bool((attention.sum(axis=1) < 1 - 1e-3).any())
        names = [wrap(label, size, SMALL) for label in ["image", *(label for label, _, _ in maps)]]
        head = max(map(len, names)) * line_height(SMALL)
        row = head + tall + (0.38 if elsewhere else 0.2)
        width = max(MARGIN + across * pitch + bar, 4.2)
        sheet = Sheet(width, lines * row + MARGIN, look, title)
        for number, (_, weights, patch) in enumerate([("image", None, None), *maps]):
            x = MARGIN + number % across * pitch
            y = MARGIN + head + number // across * row
            sheet.text(x, y - 0.08, "\n".join(names[number]), size=SMALL, va="baseline")
            if weights is None:
                sheet.image(x, y, size, image)
                continue
            sheet.image(x, y, size, _map(image, weights / high, grid, look))
            if patch is not None:
                i, j = divmod(patch, columns)
                corner, cell = (x + j * size / columns, y + i * tall / rows), size / columns
                frame = {"fill": False, "edgecolor": look.wrong, "linewidth": 2.2, "zorder": 4}
                sheet.page.add_patch(Rectangle(corner, cell, tall / rows, **frame))
            if elsewhere:
                rest = max(0.0, 1 - weights.sum())
                sheet.text(
                    x, y + tall + 0.12, f"elsewhere {rest:.0%}", size=SMALL, color=look.muted
                )
        length = (lines - 1) * row + tall
        left, even = MARGIN + across * pitch + 0.05, 1 / attention.shape[1]
        sheet.scale(left, MARGIN + head, length, high, even=even)
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
    image, weights = inputs.image(image), inputs.probabilities(weights, "weights")
    if len(words) != len(weights):
        raise ValueError(f"there are {len(words)} words and weights of {len(weights)}")
    _check_grid(image, weights, grid)
    elsewhere = bool((weights.sum(axis=1) < 1 - 1e-3).any())
    high = float(weights.max()) or 1.0
    with styled(theme) as look:
        count = len(words) + 1
        lines = -(-count // 6)
        across = max(2, -(-count // lines))
        bar = 0.95  # for the colour bar and what is written beside it
        pitch = min(1.6, (WIDTH - bar - MARGIN) / across)
        size = pitch - 0.14
        tall = size * image.shape[0] / image.shape[1]
        names = [wrap(word, size) for word in ["image", *words]]
        head = max(map(len, names)) * line_height(TEXT) + 0.04
        row = head + tall + (0.38 if elsewhere else 0.2)
        sheet = Sheet(max(MARGIN + across * pitch + bar, 4.2), lines * row + MARGIN, look, title)
        for number, lines_ in enumerate(names):
            x = MARGIN + number % across * pitch
            y = MARGIN + head + number // across * row
            style = {"weight": "bold"} if number else {"color": look.muted}
            sheet.text(x, y - 0.05, "\n".join(lines_), va="bottom", **style)
            if number == 0:
                sheet.image(x, y, size, image)
                continue
            own = weights[number - 1]
            sheet.image(x, y, size, _map(image, own / high, grid, look))
            if elsewhere:
                said = f"elsewhere {max(0.0, 1 - own.sum()):.0%}"
                sheet.text(x, y + tall + 0.12, said, size=SMALL, color=look.muted)
        length = (lines - 1) * row + tall
        sheet.scale(MARGIN + across * pitch + 0.05, MARGIN + head, length, high)
        return sheet.figure


def _check_grid(image, weights, grid):
    (rows, columns), (h, w) = grid, image.shape[:2]
    if weights.shape[1] != rows * columns:
        raise ValueError(
            f"attention covers {weights.shape[1]} patches and a grid of {rows} x {columns} has "
            f"{rows * columns}; leave out the columns of tokens that are not patches"
        )
    if rows < 1 or columns < 1 or h % rows or w % columns:
        raise ValueError(f"an image of {h} x {w} does not divide into {rows} x {columns} patches")


def _map(image, weights, grid, look):
    """The image in grey over the colours of its patches, whose weights are in [0, 1]."""
    cell = [pixels // patches for pixels, patches in zip(image.shape, grid, strict=False)]
    colours = look.ramp()(np.kron(weights.reshape(grid), np.ones(cell)))[..., :3]
    shade = _strokes(image)
    return colours * (1 - shade) + 0.5 * shade


def _strokes(image):
    """How far each pixel stands out from the background: what to draw over a colour, in [0, 0.7].

    The background keeps its colour exactly, so that it can be compared with the colour bar.
    """
    grey = image if image.ndim == 2 else image.mean(axis=2)
    distance = np.abs(grey - np.median(grey))
    return 0.7 * (distance / (distance.max() or 1))[..., None]
