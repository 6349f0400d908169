"""Images side by side, each with a few words under it."""

from scratch_vlm.viz import inputs
from scratch_vlm.viz.style import MARGIN, SMALL, WIDTH, Sheet, line_height, styled, wrap


def gallery(images, captions, *, across=8, title=None, theme="light"):
    """Show images in rows, each with its caption.

    Parameters
    ----------
    images : array of shape (B, H, W) or (B, H, W, C)
        In [0, 1], of 1 or 3 channels.
    captions : sequence of str
        One for each image; may have several lines.
    across : int, default 8
        Images in a row.
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
        If there are no images, or not as many captions.
    """
    images = inputs.images(images)
    if len(captions) != len(images):
        raise ValueError(f"there are {len(images)} images and {len(captions)} captions")
    if across < 1:
        raise ValueError(f"across must be at least 1, got {across}")
    with styled(theme) as look:
        gap = 0.12
        size = min(1.3, (WIDTH - 2 * MARGIN + gap) / across - gap)
        tall = size * images.shape[1] / images.shape[2]
        said = [
            [part for line in caption.split("\n") for part in wrap(line, size, SMALL)]
            for caption in captions
        ]
        row = tall + 0.06 + max(map(len, said)) * line_height(SMALL) + gap
        rows = -(-len(images) // across)
        width = 2 * MARGIN + min(across, len(images)) * (size + gap) - gap
        sheet = Sheet(max(width, 3), MARGIN + rows * row, look, title)
        for i, (image, lines) in enumerate(zip(images, said, strict=True)):
            x, y = MARGIN + i % across * (size + gap), MARGIN + i // across * row
            sheet.image(x, y, size, image)
            sheet.text(x, y + tall + 0.04, "\n".join(lines), size=SMALL, va="top")
        return sheet.figure
