"""Clips, frame by frame: what was asked about them, and which frames are attended to."""

import numpy as np

from scratch_vlm.viz import inputs
from scratch_vlm.viz.answers import check_questions, signed, verdict
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
    thinned,
    widest,
    wrap,
)
from scratch_vlm.viz.table import readable

RISE = 0.12  # inches from the top of a line of text to its letters' feet


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
        mark if isinstance(mark, str) else check_questions(mark, f"marks[{i}]")
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
    (clip,), weights = clips, inputs.probabilities(weights, "weights")
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
        left = MARGIN + widest(labels) + 0.12
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
        for r in range(count) if named else thinned(count, tall * 0.7):
            sheet.text(left - 0.1, top + (r + 0.5) * row, "\n".join(labels[r]), ha="right")
        x, need = left + length * pitch + 0.12, 0.5
        start = top if tall >= need else top + tall - need  # a bar that can be read
        even = None if tall < need else 1 / length
        sheet.scale(x, start, max(tall, need), high, even=even)
        return sheet.figure


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
    return [inputs.images(clip) for clip in frames]


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
                for said, right in [signed(replies, model, truth)]
                for piece in [(f"{readable(model)}:\N{NO-BREAK SPACE}{said}", verdict(right, look))]
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
