"""Architectures as diagrams: what is done in boxes, on the arrows the shapes of real arrays."""

import math

from scratch_vlm.viz.boxes import Diagram, shaped
from scratch_vlm.viz.style import MARGIN, SMALL, WIDTH, styled

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

    Raises
    ------
    ValueError
        If the heads do not divide the channels.

    See Also
    --------
    scratch_vlm.layers.attention.cross_attention_forward : What is drawn.
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
    tokens = shaped("B", config.tokens, d)
    known = {"learned": "a learned vector each", "axial": "learned, of row and column"}
    cut = [
        (
            "cut into patches",
            f"{tall} × {wide} px, {rows} rows of {columns}",
            (height, width, channels),
        ),
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
        long = max(ROW * (max(len(cut), len(head) + 1)) + 0.3, BLOCK + 1.1)
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


def video_tensors(config, frames, *, batch=2, each="patches", title=None, theme="light"):
    """Draw what becomes of a batch of clips: frames are folded into it, encoded and dealt back.

    Parameters
    ----------
    config : ViTConfig
        What encodes the frames.
    frames : int
        F.
    batch : int, default 2
        B.
    each : {"patches", "embedding"}
        Whether a frame becomes the tokens of its patches, or one vector.
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
        If `each` is neither, or there are too many frames to draw each of them.

    See Also
    --------
    scratch_vlm.models.video.encode_frames_forward : What is drawn, up to the times.
    """
    if each not in ("patches", "embedding"):
        raise ValueError(f"each must be 'patches' or 'embedding', got {each!r}")
    if not 1 <= batch * frames <= MOST:
        raise ValueError(f"1 to {MOST} frames can be drawn; {batch} clips of {frames} are not")
    n = config.grid[0] * config.grid[1]
    patches, images = each == "patches", batch * frames
    vector = (n, config.block.width) if patches else (config.outputs or config.block.width,)
    clips, encoded = (batch, frames, *config.image), (batch, frames, *vector)
    made = _count(n, "token") if patches else "a vector"
    stages = [  # what is done, what it takes, and how that is drawn
        ("fold", "frames into the batch", clips, "frames"),
        ("image encoder", f"ViT, {_count(config.depth, 'block')}", (images, *config.image), "row"),
        ("unfold", "deal back to the clips", (images, *vector), "encoded row"),
        ("add times", "a learned vector for each frame", encoded, "encoded"),
    ]
    if patches:
        stages.append(("join", "all frames in one row", encoded, "encoded"))
    captions = {
        "frames": f"{_count(batch, 'clip')} of {_count(frames, 'frame')}",
        "row": _count(images, "image"),
        "encoded row": f"{made} for each",
        "encoded": "a clip is a row again",
    }
    pitch = 1.06
    with styled(theme) as look:
        picture = Diagram(WIDTH, MARGIN + 0.4 + pitch * (len(stages) + 1), look, title)
        x, left, y = 5.3, 1.95, MARGIN + 0.2
        last = picture.box(x, y, "clips", kind="array", hue="visual", width=2.3)
        for row, (name, note, axes, kind) in enumerate(stages, start=1):
            step = picture.box(x, y + pitch * row, name, note, hue="visual", width=2.3)
            picture.arrow(last.bottom, step.top, shape=shaped(*axes))
            middle = (last.bottom[1] + step.top[1]) / 2
            if kind == "encoded" and name == "join":
                caption = "and knows when each frame was"
            else:
                caption = captions[kind]
            grid = config.grid if patches and "encoded" in kind else (1, 1)
            _film(
                picture,
                left,
                middle,
                batch,
                frames,
                caption,
                row="row" in kind,
                grid=grid,
                thin=not patches and "encoded" in kind,
            )
            last = step
        axes = (batch, frames * n, config.block.width) if patches else encoded
        name = "tokens of each clip" if patches else "vectors of each clip"
        end = picture.box(x, last.y + pitch, name, kind="array", hue="visual", width=2.3)
        picture.arrow(last.bottom, end.top, shape=shaped(*axes))
        middle = (last.bottom[1] + end.top[1]) / 2
        grid = config.grid if patches else (1, 1)
        said = (
            f"{_count(frames * n, 'token')} a clip" if patches else "and knows when each frame was"
        )
        _film(
            picture,
            left,
            middle,
            batch,
            frames,
            said,
            grid=grid,
            gap=0 if patches else 0.03,
            thin=not patches,
        )
    return picture.figure


def _film(picture, x, y, batch, frames, caption, *, row=False, grid=(1, 1), gap=0.03, thin=False):
    """Draw the frames of each clip: a hue for a clip, darker from frame to frame."""
    side = min(0.27, 3.5 / (batch * frames) - 0.03)
    shade = [0.3 + 0.5 * f / max(frames - 1, 1) for f in range(frames)]
    hues = [("visual", "latents", "words", "plain")[b % 4] for b in range(batch)]
    rows = [[picture.tint(hue, share) for share in shade] for hue in hues]
    if max(grid) > 8:  # more lines than can be told apart
        grid = (1, 1)
    if row:
        rows = [[colour for colours in rows for colour in colours]]
    size = (side / 3, side) if thin else (side, side)
    step = side + max(gap, 0.03)
    for r, colours in enumerate(rows):
        height = y - 0.1 + (r - (len(rows) - 1) / 2) * step
        picture.cells(x, height, colours, *size, gap=gap, grid=grid)
    under = y - 0.1 + len(rows) * step / 2 + 0.1
    said = {"size": SMALL, "color": picture.look.muted, "ha": "center"}
    picture.sheet.text(x, under, caption, **said)


def perceiver(config, *, title=None, theme="light"):
    """Draw a Perceiver: a few latents read many inputs, and think.

    Parameters
    ----------
    config : PerceiverConfig
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
    scratch_vlm.models.perceiver.perceiver_forward : What is drawn.
    """
    n, (r, d), cross = math.prod(config.shape), (config.latents, config.block.width), config.cross
    few, many = shaped("B", r, d), shaped("B", n, config.input_width)
    norm, mean = (_norm(config.block), None), ("mean", "over the latents")
    decode = {
        "mean": [(*norm, (r, d)), (*mean, (r, d))],
        "mean_first": [(*mean, (r, d)), (*norm, (d,))],
        "query": [("cross-attention block", "one learned query asks", (r, d))],
    }[config.decoder]
    if config.outputs:
        decode = [*decode, ("linear", f"{d} to {config.outputs}", (d,))]
    with styled(theme) as look:
        once = config.variant == "io"  # latents read once, before what is repeated
        low = 0.3 * ROW if once else 0.0
        height = MARGIN + 0.7 + ROW * (len(decode) + 4) + low + FOOT
        picture = Diagram(WIDTH, height, look, title)
        x, z, y, wide = 2.2, 5.75, MARGIN + 0.2, 2.5
        own, seen = {"hue": "latents", "width": wide}, {"hue": "visual", "width": 2.4}
        latents = picture.box(x, y, "latents", kind="learned", **own)
        inputs = picture.box(z, y, "inputs", kind="array", **seen)
        last = inputs
        if config.bands is not None:
            bands = f"Fourier, {_count(config.bands, 'band')} an axis"
            steps = [("append positions", bands, (n, config.channels))]
            last = _column(picture, z, inputs, steps, **seen)
        elif config.learned is not None:
            steps = [("append positions", "learned, beside a linear layer", (n, config.channels))]
            last = _column(picture, z, inputs, steps, **seen)
        heads = f"latents ask, {_count(cross.heads, 'head')} of {cross.per_head}"
        look_on = picture.box(x, y + 1.75 * ROW, "cross-attention block", heads, **own)
        inside = f"{_count(config.block.heads, 'head')} of {config.block.per_head}"
        name = _count(config.depth, "self-attention block")
        think = picture.box(x, y + 2.75 * ROW + low, name, inside, **own)
        picture.arrow(latents.bottom, look_on.top, shape=shaped(r, d))
        picture.arrow(last.bottom, (z, look_on.y), look_on.right, shape=many, on=1)
        first = think if once else look_on
        edges = x - wide / 2 - 0.2, first.top[1] - 0.17, x + wide / 2 + 0.2, think.bottom[1] + 0.32
        picture.frame(*edges, f"× {config.repeats}", note=_sharing(config))
        rim = (x, edges[1]) if once else think.top
        picture.arrow(look_on.bottom, rim, think.top, shape=few)
        bottom = picture.box(x, y + 4 * ROW + low, *decode[0][:2], **own)
        picture.arrow(think.bottom, bottom.top, shape=None)
        last = _column(picture, x, bottom, decode[1:], **own)
        name = "scores or embedding" if config.outputs else "embedding"
        end = picture.box(x, last.y + ROW, name, kind="array", **own)
        picture.arrow(last.bottom, end.top, shape=shaped("B", config.outputs or d))
        picture.key()
    return picture.figure


def _sharing(config):  # which repeats of a Perceiver share weights, in words
    if config.repeats == 1:
        return None
    reads = config.reads
    if config.towers == 1 and config.crosses == 1:
        return "the same weights every time"
    if config.towers == config.repeats and config.crosses == reads:
        return "own weights each time"
    crosses = _count(config.crosses, "cross-attention")
    return f"weights of {crosses} and\n{_count(config.towers, 'latent transformer')} in turn"


def resampler(config, frames, patches, *, title=None, theme="light"):
    """Draw a Perceiver Resampler: any number of frames becomes R tokens.

    Parameters
    ----------
    config : ResamplerConfig
        The model.
    frames, patches : int
        F and N: frames of a clip, and features of each.
    title : str, optional
        A line above the figure.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure

    See Also
    --------
    scratch_vlm.layers.resampler.resampler_forward : What is drawn.

    Notes
    -----
    Of the norms only the last is drawn; features, latents and what the MLP reads have theirs, too.
    """
    block, r = config.block, config.latents
    d, s = block.width, frames * patches
    few = shaped("B", r, d)
    with styled(theme) as look:
        picture = Diagram(WIDTH, MARGIN + 9.4 * ROW + FOOT, look, title)
        x, z, y, wide = 2.1, 5.5, MARGIN + 0.2, 2.2
        own, seen = {"hue": "latents", "width": wide}, {"hue": "visual", "width": 2.4}
        features = picture.box(z, y, "features of frames", kind="array", **seen)
        steps = [("join", "all frames in one row", (frames, patches, d))]
        if config.frames:
            steps.insert(0, ("add times", "a learned vector for each frame", steps[0][2]))
        last = _column(picture, z, features, steps, **seen)
        latents = picture.box(x, y + 1.5 * ROW, "latents", kind="learned", **own)
        tap = x, y + 3.35 * ROW
        both = picture.box(z, tap[1], "join", "features, then latents", hue="latents", width=2.4)
        picture.arrow(last.bottom, both.top, shape=shaped("B", s, d))
        picture.arrow(tap, both.left, shape=few)
        width = config.head_width or block.per_head
        heads = f"latents ask, {_count(block.heads, 'head')} of {width}"
        attend = picture.box(x, y + 4.45 * ROW, "cross-attention", heads, **own)
        picture.arrow(latents.bottom, attend.top)
        picture.arrow(latents.bottom, tap, shape=shaped(r, d), head=False)
        corner = z, attend.y
        picture.arrow(both.bottom, corner, attend.right, shape=shaped("B", s + r, d), on=1)
        plus = picture.dot(x, attend.y + GAP, hue="latents")
        picture.arrow(attend.bottom, plus.top, shape=few)
        picture.around((x, attend.top[1] - 0.2), plus, x - wide / 2 - 0.25)
        mlp = picture.box(x, plus.y + GAP, "MLP", f"{d} to {block.hidden} and back", **own)
        picture.arrow(plus.bottom, mlp.top, shape=few)
        more = picture.dot(x, mlp.y + GAP, hue="latents")
        picture.arrow(mlp.bottom, more.top, shape=few)
        picture.around((x, mlp.top[1] - 0.2), more, x - wide / 2 - 0.25)
        frame = x - wide / 2 - 0.45, y + 2.85 * ROW, z + 1.4, more.y + 0.32
        picture.frame(*frame, f"× {config.depth}")
        norm = picture.box(x, more.y + 0.9 * ROW + 0.1, _norm(block), **own)
        picture.arrow(more.bottom, norm.top)
        end = picture.box(x, norm.y + 0.9 * ROW, "visual tokens", kind="array", **own)
        picture.arrow(norm.bottom, end.top, shape=few)
        picture.key()
    return picture.figure


def flamingo(config, words, visual, *, title=None, theme="light"):
    """Draw a gated cross-attention block before a block of a frozen language model.

    Parameters
    ----------
    config : GatedConfig
        The gated block.
    words : int
        T, tokens of the text.
    visual : int
        S, visual tokens beside it.
    title : str, optional
        A line above the figure.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure

    See Also
    --------
    scratch_vlm.layers.gated.gated_block_forward : What is drawn.
    """
    block = config.block
    own, norm = shaped("B", words, block.width), (_norm(block), None)
    numbers = "one number" if config.gate_shape == () else f"{block.width} numbers"
    with styled(theme) as look:
        x, z, y, wide = 2.5, 5.7, MARGIN + 0.2, 2.3
        picture = Diagram(WIDTH, MARGIN + 0.4 + 10.3 * GAP + FOOT, look, title)
        text, seen = {"hue": "words", "width": wide}, {"hue": "visual", "width": 2.1}
        last = picture.box(x, y, "words", kind="array", **text)
        answers = picture.box(z, y, "visual tokens", kind="array", **seen)
        heads = f"words ask, {_count(block.heads, 'head')} of {config.head_width or block.per_head}"
        halves = [("cross-attention", heads), ("MLP", f"{block.width} to {block.hidden} and back")]
        y += GAP + 0.12
        top = y - 0.46
        for number, half in enumerate(halves):
            boxes = []
            for said in (norm, half):
                step = picture.box(x, y, *said, **text)
                picture.arrow(last.bottom, step.top, shape=own)
                boxes.append(step)
                last, y = step, y + GAP
            times = picture.dot(x, y - 0.06, "×", hue="words")
            picture.arrow(last.bottom, times.top, shape=own)
            gate = picture.box(
                x + 1.85, times.y, f"tanh α{'₁₂'[number]}", kind="learned", width=1.0
            )
            picture.arrow(gate.left, times.right)
            said = {"size": SMALL, "color": look.muted}
            note = f"{numbers}, starts at {config.gate:g}"
            picture.sheet.text(gate.right[0] + 0.1, gate.y, note, **said)
            plus = picture.dot(x, times.y + 0.52, hue="words")
            picture.arrow(times.bottom, plus.top)
            picture.around((x, boxes[0].top[1] - 0.18), plus, x - wide / 2 - 0.3)
            if not number:
                picture.arrow(
                    answers.bottom,
                    (z, last.y),
                    last.right,
                    shape=shaped("B", visual, config.source),
                    on=1,
                )
            last, y = plus, plus.y + GAP
        picture.frame(x - wide / 2 - 0.5, top, z + 1.25, plus.y + 0.28, "gated block")
        y += 0.1
        frozen = picture.box(
            x,
            y,
            "block of the language model",
            "words read words before them",
            kind="frozen",
            **text,
        )
        picture.arrow(last.bottom, frozen.top)
        end = picture.box(x, y + GAP + 0.04, "words", kind="array", **text)
        picture.arrow(frozen.bottom, end.top, shape=own)
        picture.key()
    return picture.figure


def _column(picture, x, last, steps, **options):
    """Draw steps below a box; each is its name, a note, and the axes of what it takes."""
    for name, note, axes in steps:
        step = picture.box(x, last.y + ROW, name, note, **options)
        picture.arrow(last.bottom, step.top, shape=shaped("B", *axes))
        last = step
    return last


def unified(config, words, *, media=1, frames=1, frozen=("tower",), title=None, theme="light"):
    """Draw a vision language model that reads visual tokens among the words, as LLaVA does.

    Parameters
    ----------
    config : UnifiedConfig
        The model.
    words : int
        Words of a text.
    media, frames : int, default 1
        Images or videos in a text, and F frames of each.
    frozen : sequence of str, default ("tower",)
        What does not learn, of ``tower``, ``connector`` and ``lm``.
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
        If there are no such parts to freeze.

    See Also
    --------
    scratch_vlm.models.unified.unified_forward : What is drawn.
    cross_modal : The other way.
    """
    return _panels([(_unified, config, words, media, frames, frozen)], title, theme)


def cross_modal(
    config, words, *, media=1, frames=1, frozen=("tower", "lm"), title=None, theme="light"
):
    """Draw a vision language model whose words look at images from inside, as Flamingo's do.

    Parameters
    ----------
    config : CrossModalConfig
        The model.
    words : int
        Words of a text.
    media, frames : int, default 1
        I images or videos in a text, and F frames of each.
    frozen : sequence of str, default ("tower", "lm")
        What does not learn, of ``tower``, ``connector`` and ``lm``.
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
        If there are no such parts to freeze.

    See Also
    --------
    scratch_vlm.models.cross_modal.cross_modal_forward : What is drawn.
    unified : The other way.
    """
    return _panels([(_cross_modal, config, words, media, frames, frozen)], title, theme)


def fusions(one, other, words, *, media=1, frames=1, frozen=("tower",), title=None, theme="light"):
    """Draw both ways to give a language model eyes, side by side.

    Parameters
    ----------
    one : UnifiedConfig
        At the left.
    other : CrossModalConfig
        At the right.
    words : int
        Words of a text.
    media, frames : int, default 1
        Images or videos in a text, and F frames of each.
    frozen : sequence of str, default ("tower",)
        What does not learn, of ``tower``, ``connector`` and ``lm``.
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
        If there are no such parts to freeze.

    See Also
    --------
    unified, cross_modal : Each of them alone.
    """
    how = words, media, frames, frozen
    return _panels([(_unified, one, *how), (_cross_modal, other, *how)], title, theme)


def _panels(panels, title, theme):
    parts = {"tower", "connector", "lm"}
    for *_, frozen in panels:
        if not parts.issuperset(frozen):
            raise ValueError(f"frozen may name tower, connector and lm, got {', '.join(frozen)}")
    with styled(theme) as look:
        wide = WIDTH / 2
        picture = Diagram(wide * len(panels), MARGIN + 7.1 * ROW + FOOT, look, title)
        for number, (draw, *how) in enumerate(panels):
            draw(picture, number * wide, *how)
        picture.key()
    return picture.figure


def _unified(picture, left, config, words, media, frames, frozen):
    s, (d, vocabulary) = config.sight.tokens(frames), (config.lm.block.width, config.lm.vocabulary)
    t = words + media * s
    row = shaped("B", t, d)
    causal = "tokens read tokens before them"
    reads = causal if config.order == "causal" else "words causal, images both ways"
    name = "unified\nembedding"
    embed, visual = _eyes(picture, left, name, config, t, media, frames, frozen)
    x, wide = left + WIDTH / 4, 3.3
    kind = "frozen" if "lm" in frozen else "step"
    splice = picture.box(
        x,
        visual.y + 1.1 * ROW,
        "splice",
        "visual tokens into their places",
        hue="words",
        width=wide,
    )
    for box, axes in ((embed, (t, d)), (visual, (s, d))):
        letter = "B" if box is embed else f"{media} B" if media > 1 else "B"
        picture.arrow(box.bottom, (box.x, splice.top[1]), shape=shaped(letter, *axes))
    blocks = picture.box(
        x,
        splice.y + 1.3 * ROW,
        _count(config.lm.depth, "block"),
        reads,
        kind=kind,
        hue="words",
        width=2.4,
    )
    picture.arrow(splice.bottom, blocks.top, shape=row, before=True)
    image = [("visual", 0.65)] * s
    text = [("words", 0.55)]
    first = -(-words // (media + 1))
    order = (text * first + image) * media + text * max(words - first * media, 0)
    if len(order) <= 60:
        cell = min(0.13, 1.6 / len(order))
        colours = [picture.tint(*said) for said in order]
        middle = (splice.bottom[1] + blocks.top[1]) / 2
        picture.cells(x + 0.87, middle, colours, 0.85 * cell, 0.13, gap=0.15 * cell)
    _scores(picture, blocks, row, shaped("B", t, vocabulary), vocabulary, kind)


def _cross_modal(picture, left, config, words, media, frames, frozen):
    s, (d, vocabulary) = config.sight.tokens(frames), (config.lm.block.width, config.lm.vocabulary)
    t = words + media  # a medium keeps one place in the text
    row, kind = shaped("B", t, d), "frozen" if "lm" in frozen else "step"
    name = "cross-modality\nattention"
    embed, visual = _eyes(picture, left, name, config, t, media, frames, frozen)
    gated = picture.box(
        embed.x, visual.y + 1.25 * ROW, "gated block", "words look", hue="words", width=1.6
    )
    picture.arrow(embed.bottom, gated.top, shape=row)
    corner = visual.x, gated.y
    seen = shaped("B", media * s, config.gated.source)
    picture.arrow(visual.bottom, corner, gated.right, shape=seen, on=0, before=True)
    block = picture.box(
        embed.x, gated.y + ROW, "block", "words read words", kind=kind, hue="words", width=1.6
    )
    picture.arrow(gated.bottom, block.top, shape=row)
    depth, places = config.lm.depth, config.places
    note = (
        "a gated block before each"
        if len(places) == depth
        else (f"gated blocks before\n{len(places)} of the {depth} blocks")
    )
    edges = gated.left[0] - 0.12, gated.top[1] - 0.16, gated.right[0] + 0.12, block.bottom[1] + 0.3
    picture.frame(*edges, f"× {depth}")
    said = {"size": SMALL, "color": picture.look.muted}
    picture.sheet.text(edges[2] + 0.08, block.y, note, **said)
    _scores(picture, block, None, shaped("B", t, vocabulary), vocabulary, kind, extra=0.05)


def _eyes(picture, left, name, config, t, media, frames, frozen):
    """Draw how words and images become tokens; return where both end."""
    sight, text = config.sight, {"hue": "words", "width": 1.6}
    m, y, images = (
        "B" if media == 1 else f"{media} B",
        MARGIN + 0.2,
        {"hue": "visual", "width": 1.75},
    )
    x, z = left + 0.98, left + 2.77
    said = {"ha": "center", "weight": "bold", "color": picture.look.muted}
    picture.sheet.text(x, y + 0.05, name, **said)
    tower, connector = sight.tower, sight.connector
    pixels = shaped(m, frames, *tower.vit.image)
    kinds = {name: "frozen" if name in frozen else "step" for name in ("tower", "connector", "lm")}
    seen = picture.box(z, y, "images" if frames == 1 else "videos", kind="array", **images)
    depth = f"{_count(max(tower.used), 'block')} of a ViT"
    tall = picture.box(z, y + ROW, "vision tower", depth, kind=kinds["tower"], **images)
    picture.arrow(seen.bottom, tall.top, shape=pixels, before=True)
    name = {"mlp": "MLP"}.get(connector.kind, connector.kind.replace("_", " "))
    note = f"{name}, {connector.inputs} to {connector.outputs}"
    bridge = picture.box(z, y + 2 * ROW, "connector", note, kind=kinds["connector"], **images)
    picture.arrow(
        tall.bottom, bridge.top, shape=shaped(m, frames, tower.patches, tower.outputs), before=True
    )
    ids = picture.box(x, y + ROW, "token ids", kind="array", **text)
    embed = picture.box(
        x, y + 2 * ROW, "embedding", f"{config.lm.vocabulary} rows", kind=kinds["lm"], **text
    )
    picture.arrow(ids.bottom, embed.top, shape=shaped("B", t))
    return embed, bridge


def _scores(picture, last, row, scores, vocabulary, kind, extra=0.0):
    head = picture.box(
        last.x,
        last.y + ROW + extra,
        "norm, linear",
        f"to {vocabulary} scores",
        kind=kind,
        hue="words",
        width=1.6,
    )
    picture.arrow(last.bottom, head.top, shape=row)
    end = picture.box(last.x, head.y + ROW, "next tokens", kind="array", hue="words", width=1.6)
    picture.arrow(head.bottom, end.top, shape=scores)


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
