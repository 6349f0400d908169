"""Architectures as diagrams: boxes for what is done, arrows that carry the shapes of arrays."""

from typing import NamedTuple

from matplotlib.patches import FancyBboxPatch

from scratch_vlm.viz.style import MARGIN, SMALL, TEXT, WIDTH, Sheet, styled, text_width

PITCH, TALL = 0.8, 0.44  # inches from row to row, and of a box


class Node(NamedTuple):
    """A box of a diagram.

    Attributes
    ----------
    column : float
        Where it stands, from 0 at the left.
    row : float
        From 0 at the top.
    text : str
        What is done, or what the array is.
    kind : {"step", "data", "frozen"}
        Arrays are drawn without a frame, frozen parts dashed.
    """

    column: float
    row: float
    text: str
    kind: str = "step"


def flow(nodes, arrows, *, columns, wide=2.3, title=None, theme="light"):
    """Draw boxes and the arrays that run between them.

    Parameters
    ----------
    nodes : dict of str to Node
        Boxes by name.
    arrows : list of (str, str, str)
        From where, to where, and the shape that is carried. An arrow down a column is straight;
        one between columns enters from the side; one to an earlier or the same column further
        down, past a box, goes around it: what is added again later.
    columns : int
        How many there are.
    wide : float, default 2.3
        Inches of a box.
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
        If an arrow names a box that there is not.
    """
    for start, end, _ in arrows:
        for name in (start, end):
            if name not in nodes:
                raise ValueError(f"there is no box {name!r}; there are {', '.join(nodes)}")
    with styled(theme) as look:
        rows = max(node.row for node in nodes.values()) + 1
        sheet = Sheet(WIDTH, rows * PITCH + MARGIN, look, title)
        gap = WIDTH / columns

        def centre(node):
            return (node.column + 0.5) * gap, MARGIN + node.row * PITCH + TALL / 2

        for node in nodes.values():
            _box(sheet, *centre(node), wide, node, look)
        for start, end, shape in arrows:
            _arrow(sheet, nodes[start], nodes[end], centre, wide, shape, look)
    return sheet.figure


def _box(sheet, x, y, wide, node, look):
    if node.kind != "data":
        box = FancyBboxPatch(
            (x - wide / 2, y - TALL / 2),
            wide,
            TALL,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=look.paper,
            edgecolor=look.muted if node.kind == "frozen" else look.main,
            linestyle="--" if node.kind == "frozen" else "-",
            linewidth=1.4,
        )
        sheet.page.add_patch(box)
    weight = "bold" if node.kind == "data" else "normal"
    sheet.text(x, y, node.text, ha="center", size=TEXT, weight=weight)


def _arrow(sheet, start, end, centre, wide, shape, look):
    (x0, y0), (x1, y1) = centre(start), centre(end)
    style = {"arrowstyle": "-|>", "color": look.muted, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}

    def head(tip, tail):
        sheet.page.annotate("", xy=tip, xytext=tail, arrowprops=style)

    def line(xs, ys):
        sheet.page.plot(xs, ys, color=look.muted, linewidth=1.2, solid_capstyle="butt")

    if start.column == end.column and end.row - start.row <= 1:
        head((x1, y1 - TALL / 2), (x0, y0 + TALL / 2))
        place, side = (x0 + 0.08, (y0 + y1) / 2), "left"
    elif start.column == end.column:  # around what stands between
        out = x0 - wide / 2 - 0.2
        line([x0 - _half(start, wide), out, out], [y0, y0, y1])
        head((x1 - _half(end, wide), y1), (out, y1))
        place, side = (out + 0.06, y0 + TALL / 2 + 0.12), "left"
    else:
        towards = 1 if x1 > x0 else -1
        line([x0, x0], [y0 + TALL / 2, y1])
        head((x1 - towards * wide / 2, y1), (x0, y1))
        place, side = (x0 + 0.08, (y0 + TALL / 2 + y1) / 2), "left"
    sheet.text(*place, shape, ha=side, size=SMALL, color=look.muted)


def _half(node, wide):  # inches from the middle of a box to its edge, or to that of its text
    if node.kind == "data":
        return text_width(node.text, TEXT, bold=True) / 2 + 0.08
    return wide / 2


def cross_attention(tokens, answers, width, source, *, heads, **options):
    """Draw how one sequence reads another.

    Parameters
    ----------
    tokens, answers : int
        T that ask and S that answer.
    width, source : int
        D and E, channels of each.
    heads : int
        A.
    **options
        ``title`` and ``theme``, as in `flow`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    k = width // heads
    asks, found = f"(B, {tokens}, {width})", f"(B, {heads}, {answers}, {k})"
    nodes = {
        "x": Node(0, 0, "tokens that ask", "data"),
        "z": Node(1, 0, "tokens that answer", "data"),
        "q": Node(0, 1, "queries"),
        "kv": Node(1, 1, "keys and values"),
        "attend": Node(0, 2, "softmax, and read"),
        "out": Node(0, 3, "output weights"),
        "sum": Node(0, 4, "add: fused tokens", "data"),
    }
    arrows = [
        ("x", "q", asks),
        ("z", "kv", f"(B, {answers}, {source})"),
        ("q", "attend", f"(B, {heads}, {tokens}, {k})"),
        ("kv", "attend", f"two of {found}"),
        ("attend", "out", asks),
        ("out", "sum", asks),
        ("x", "sum", ""),
    ]
    return flow(nodes, arrows, columns=2, **options)


def vit(config, **options):
    """Draw a Vision Transformer.

    Parameters
    ----------
    config : ViTConfig
        The model.
    **options
        ``title`` and ``theme``, as in `flow`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    h, w, c = config.image
    (rows, columns), (a, b), d = config.grid, config.patch, config.block.width
    n = rows * columns
    tokens = f"(B, {config.tokens}, {d})"
    nodes = {
        "image": Node(0, 0, "image", "data"),
        "cut": Node(0, 1, f"cut into patches of {a} x {b}"),
        "linear": Node(0, 2, "one linear layer"),
        "join": Node(0, 3, "CLS in front, add positions"),
        "blocks": Node(0, 4, f"{config.depth} x block: read, think"),
        "head": Node(0, 5, "norm and linear layer on CLS"),
        "scores": Node(0, 6, "scores", "data"),
    }
    arrows = [
        ("image", "cut", f"(B, {h}, {w}, {c})"),
        ("cut", "linear", f"(B, {n}, {a * b * c})"),
        ("linear", "join", f"(B, {n}, {d})"),
        ("join", "blocks", tokens),
        ("blocks", "head", tokens),
        ("head", "scores", f"(B, {config.outputs})"),
    ]
    return flow(nodes, arrows, columns=1, wide=3.0, **options)


def video_tensors(frames, image, tokens, width, **options):
    """Draw what becomes of a clip: frames folded into the batch, and unfolded again.

    Parameters
    ----------
    frames : int
        F.
    image : (int, int, int)
        H, W and C.
    tokens, width : int
        N and D, of what the image tower makes of a frame.
    **options
        ``title`` and ``theme``, as in `flow`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    size = ", ".join(map(str, image))
    nodes = {
        "clip": Node(0, 0, "clips", "data"),
        "fold": Node(0, 1, "fold frames into the batch"),
        "tower": Node(0, 2, "image tower, frame by frame"),
        "unfold": Node(0, 3, "unfold"),
        "time": Node(0, 4, "add a vector for each moment"),
        "row": Node(0, 5, "one row of tokens", "data"),
    }
    arrows = [
        ("clip", "fold", f"(B, {frames}, {size})"),
        ("fold", "tower", f"({frames} B, {size})"),
        ("tower", "unfold", f"({frames} B, {tokens}, {width})"),
        ("unfold", "time", f"(B, {frames}, {tokens}, {width})"),
        ("time", "row", f"(B, {frames * tokens}, {width})"),
    ]
    return flow(nodes, arrows, columns=1, wide=3.0, **options)


def perceiver(inputs, channels, latents, width, *, depth, repeats, **options):
    """Draw a Perceiver: a few latents read many inputs, and think.

    Parameters
    ----------
    inputs, channels : int
        S, and their channels with positions.
    latents, width : int
        R and D.
    depth : int
        Blocks among the latents after each look.
    repeats : int
        Looks.
    **options
        ``title`` and ``theme``, as in `flow`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    few = f"(B, {latents}, {width})"
    nodes = {
        "latents": Node(0, 0, "learned latents", "data"),
        "inputs": Node(1, 0, "inputs with positions", "data"),
        "look": Node(0, 1, "look: cross-attention"),
        "think": Node(0, 2, f"think: {depth} x block"),
        "again": Node(0, 3, f"look and think, {repeats} times in all"),
        "mean": Node(0, 4, "mean, linear layer"),
        "scores": Node(0, 5, "scores", "data"),
    }
    many = f"(B, {inputs}, {channels})"
    arrows = [
        ("latents", "look", few),
        ("inputs", "look", many),
        ("look", "think", few),
        ("think", "again", few),
        ("inputs", "again", ""),
        ("again", "mean", few),
        ("mean", "scores", "(B, classes)"),
    ]
    return flow(nodes, arrows, columns=2, wide=2.6, **options)


def gated_block(words, width, visual, source, **options):
    """Draw Flamingo's way to let a frozen language model look aside.

    Parameters
    ----------
    words, width : int
        T and D.
    visual, source : int
        S visual tokens that may be looked at, and their channels.
    **options
        ``title`` and ``theme``, as in `flow`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    own = f"(B, {words}, {width})"
    nodes = {
        "words": Node(0, 0, "words", "data"),
        "image": Node(1, 0, "visual tokens", "data"),
        "look": Node(0, 1, "look: cross-attention"),
        "gate": Node(0, 2, "add tanh(gate) times"),
        "mlp": Node(0, 3, "MLP, add tanh(gate) times"),
        "block": Node(0, 4, "block of the language model", "frozen"),
        "next": Node(0, 5, "words", "data"),
    }
    arrows = [
        ("words", "look", own),
        ("image", "look", f"(B, {visual}, {source})"),
        ("look", "gate", own),
        ("words", "gate", ""),
        ("gate", "mlp", own),
        ("mlp", "block", own),
        ("block", "next", own),
    ]
    return flow(nodes, arrows, columns=2, wide=2.5, **options)


def fusions(words, visual, width, *, depth, **options):
    """Draw both ways to give a language model eyes, side by side.

    Parameters
    ----------
    words, visual : int
        T and N tokens.
    width : int
        D.
    depth : int
        Blocks of the language model.
    **options
        ``title`` and ``theme``, as in `flow`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    own, seen = f"(B, {words}, {width})", f"(B, {visual}, {width})"
    both = f"(B, {words + visual}, {width})"
    nodes = {
        "image": Node(0, 0, "visual tokens", "data"),
        "words": Node(1, 0, "words", "data"),
        "splice": Node(0, 1, "splice into one row"),
        "blocks": Node(0, 2, f"{depth} x block"),
        "said": Node(0, 3, "next words", "data"),
        "words2": Node(2, 0, "words", "data"),
        "image2": Node(3, 0, "visual tokens", "data"),
        "look": Node(2, 1, "look aside"),
        "block": Node(2, 2, f"block; {depth} times"),
        "said2": Node(2, 3, "next words", "data"),
    }
    arrows = [
        ("image", "splice", seen),
        ("words", "splice", own),
        ("splice", "blocks", both),
        ("blocks", "said", both),
        ("words2", "look", own),
        ("image2", "look", seen),
        ("look", "block", own),
        ("block", "said2", own),
    ]
    return flow(nodes, arrows, columns=4, wide=1.55, **options)
