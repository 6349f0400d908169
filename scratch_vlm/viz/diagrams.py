"""Architectures as diagrams: what is done in boxes, on the arrows the shapes of real arrays."""

from scratch_vlm.viz.boxes import Diagram, shaped
from scratch_vlm.viz.style import MARGIN, WIDTH, styled

ROW = 0.78  # inches from one row of boxes to the next
GAP = 0.64  # the same inside a block
BLOCK = 6 * GAP  # what is inside, from first to last
FOOT = 0.32  # for the key
MOST = 32  # images that are drawn one by one


def cross_attention(asking, answering, *, heads, head_width=None, title=None, theme="light"):
    """Draw how one sequence reads another.

    Parameters
    ----------
    asking : (int, int)
        T and D: tokens that ask, and their channels.
    answering : (int, int)
        S and E: tokens that answer, and their channels.
    heads : int
        A.
    head_width : int, optional
        K, channels of a head; default D over the heads.
    title : str, optional
        A line above the figure.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure

    See Also
    --------
    scratch_vlm.layers.attention.cross_attention_forward : What is drawn.

    Raises
    ------
    ValueError
        If the heads do not divide the channels.
    """
    (t, d), (s, e) = asking, answering
    if head_width is None and d % heads:
        raise ValueError(f"{heads} heads do not divide {d} channels; say the head_width")
    k = d // heads if head_width is None else head_width
    inside = f"{_count(heads, 'head')} of {k}"
    own, found = shaped("B", t, d), shaped("B", heads, s, k)
    with styled(theme) as look:
        picture = Diagram(WIDTH, 7.4 * ROW, look, title)
        x, z, wide = 2.3, 5.7, 2.2
        y = [MARGIN + 0.2 + ROW * row for row in range(8)]
        words = {"hue": "words", "width": wide}
        seen = {"hue": "visual", "width": wide}
        asks = picture.box(x, y[0], "tokens that ask", kind="array", **words)
        answers = picture.box(z, y[0], "tokens that answer", kind="array", **seen)
        queries = picture.box(x, y[1], "queries", f"linear, {inside}", **words)
        keys = picture.box(z, y[1], "keys and values", f"linear, {inside} each", **seen)
        scores = picture.box(x, y[2], "scores", f"queries · keys / √{k}", **words)
        softmax = picture.box(x, y[3], "softmax", "over the tokens that answer", **words)
        read = picture.box(x, y[4], "read", "weights · values", **words)
        out = picture.box(x, y[5], "linear", f"{heads * k} to {d}", **words)
        plus = picture.dot(x, y[6] - 0.18, hue="words")
        fused = picture.box(x, y[7] - 0.4, "fused tokens", kind="array", **words)
        picture.arrow(asks.bottom, queries.top, shape=own)
        picture.arrow(answers.bottom, keys.top, shape=shaped("B", s, e))
        picture.arrow(queries.bottom, scores.top, shape=shaped("B", heads, t, k))
        for box, name, shift in ((scores, "keys", -0.5), (read, "values", 0.5)):
            start, corner = (z + shift, keys.bottom[1]), (z + shift, box.y)
            picture.arrow(start, corner, box.right, shape=f"{name} {found}", on=1)
        square = shaped("B", heads, t, s)
        picture.arrow(scores.bottom, softmax.top, shape=square)
        picture.arrow(softmax.bottom, read.top, shape=square)
        picture.arrow(read.bottom, out.top, shape=shaped("B", t, heads * k))
        picture.arrow(out.bottom, plus.top, shape=own)
        picture.arrow(plus.bottom, fused.top, shape=own)
        picture.around(_between(asks, queries), plus, x - wide / 2 - 0.35)
    return picture.figure


def vit(config, *, title=None, theme="light"):
    """Draw a Vision Transformer, with one of its blocks opened.

    Parameters
    ----------
    config : ViTConfig
        The model.
    title : str, optional
        A line above the figure.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure

    See Also
    --------
    scratch_vlm.models.vit.vit_forward : What is drawn.
    """
    (height, width, channels), (tall, wide), d = config.image, config.patch, config.block.width
    (rows, columns), numbers = config.grid, tall * wide * channels
    n = rows * columns
    tokens, patches = shaped("B", config.tokens, d), shaped("B", n, d)
    known = {"learned": "a learned vector each", "axial": "learned, of row and column"}
    cut = [
        ("cut into patches", f"{tall} × {wide} px, {rows} rows of {columns}", (height, width, channels)),
        ("linear", f"{numbers} to {d}", (n, numbers)),
        *([("put CLS in front", "one learned vector", (n, d))] if config.extra else []),
        ("add positions", known.get(config.positions, "sines and cosines"), (config.tokens, d)),
        *([(_norm(config.block), None, (config.tokens, d))] if config.norm_first else []),
    ]
    norm = (_norm(config.block), None)
    pools = {
        "cls": [("take CLS", "token 0", (config.tokens, d)), (*norm, (d,))],
        "mean": [(*norm, (config.tokens, d)), ("mean", "over all patches", (config.tokens, d))],
        "attention": [
            (*norm, (config.tokens, d)),
            ("attention pool", "a learned query reads", (config.tokens, d)),
        ],
    }
    head = pools[config.pool]
    if config.outputs:
        head = [*head, ("linear", f"{d} to {config.outputs}", (d,))]
    with styled(theme) as look:
        long = max(ROW * (max(len(cut), len(head) + 1)) + 0.3, BLOCK + 1.5)
        picture = Diagram(WIDTH, MARGIN + 0.2 + long, look, title)
        first, second, third, top = 1.15, 3.8, 6.4, MARGIN + 0.2
        box = {"hue": "visual", "width": 1.9}
        images = picture.box(first, top, "images", kind="array", **box)
        last = _column(picture, first, images, cut, **box)
        start, end = _block(picture, second, top + 0.85, config.block, tokens)
        frame = top + 0.3, end[1] + 0.3
        picture.frame(second - 1.25, frame[0], second + 1.1, frame[1], f"× {config.depth}")
        lane = (last.right[0] + second - 1.25) / 2
        corners = (lane, last.y), (lane, top), (second, top)
        picture.arrow(last.right, *corners, start, shape=tokens, on=2)
        low, lane = frame[1] + 0.2, (second + 1.1 + third - 0.95) / 2
        name, note, _ = head[0]
        pooled = picture.box(third, top + 0.45, name, note, **box)
        corners = (second, low), (lane, low), (lane, top), (third, top)
        picture.arrow(end, *corners, pooled.top, shape=tokens, on=1, before=True)
        last = _column(picture, third, pooled, head[1:], **box)
        name = "scores or embedding" if config.outputs else "embedding"
        scores = picture.box(third, last.y + ROW, name, kind="array", **box)
        picture.arrow(last.bottom, scores.top, shape=shaped("B", config.outputs or d))
    return picture.figure


def _column(picture, x, last, steps, **options):
    """Draw steps below a box; each is its name, a note, and the axes of what it takes."""
    for name, note, axes in steps:
        step = picture.box(x, last.y + ROW, name, note, **options)
        picture.arrow(last.bottom, step.top, shape=shaped("B", *axes))
        last = step
    return last


def _block(picture, x, y, config, tokens, hue="visual"):
    """Draw the inside of a block; return where it begins and where it ends."""
    norm = (_norm(config), None)
    halves = [
        ("self-attention", f"{_count(config.heads, 'head')} of {config.per_head}"),
        ("MLP", f"{config.width} to {config.hidden} and back"),
    ]
    last = start = None

    def step(name, note):
        nonlocal last, start, y
        here = picture.box(x, y, name, note, hue=hue, width=1.75)
        if last:
            picture.arrow(last.bottom, here.top, shape=tokens)
        start, last, y = start or here.top, here, y + GAP
        return here

    for half in halves:
        before = step(*norm) if config.order == "pre" else None
        inside = step(*half)
        tap = x, (before or inside).top[1] - 0.2
        plus = picture.dot(x, y - 0.05, hue=hue)
        picture.arrow(last.bottom, plus.top, shape=tokens)
        picture.around(tap, plus, x - 1.08)
        last, y = plus, y + GAP - 0.05
        if config.order == "post":
            step(*norm)
    return start, last.bottom


def _norm(block):
    return {"layer": "LayerNorm", "rms": "RMSNorm"}[block.norm]


def _count(number, noun):
    return f"{number} {noun}" + "s" * (number != 1)


def _between(above, below):  # a point on the arrow from one box to the next, near its start
    (x, start), (_, end) = above.bottom, below.top
    return x, start + 0.3 * (end - start)
