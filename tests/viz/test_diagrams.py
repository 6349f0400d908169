"""Diagrams: the shapes on the arrows are those of real arrays, and all that is said is legible."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.path import Path

from scratch_vlm.experiments import perceiver as permuted
from scratch_vlm.experiments import vqa
from scratch_vlm.layers.attention import cross_attention_forward, cross_attention_init
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.gated import GatedConfig
from scratch_vlm.layers.resampler import ResamplerConfig, resampler_forward, resampler_init
from scratch_vlm.models.perceiver import PerceiverConfig, perceiver_forward, perceiver_init
from scratch_vlm.models.video import encode_frames_forward
from scratch_vlm.models.vit import ViTConfig, vit_forward, vit_init
from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.viz import diagrams
from scratch_vlm.viz.boxes import Diagram
from scratch_vlm.viz.style import THEMES, styled

VIT = ViTConfig((8, 12, 3), (4, 2), 10, BlockConfig(16, 2, 24), depth=3)
B16 = ViTConfig((224, 224, 3), (16, 16), 1000, BlockConfig(768, 12, 3072), 12)
POST = ViTConfig((8, 8, 1), (4, 4), 0, BlockConfig(16, 2, 32, order="post"), 1, pool="mean")
POOLED = ViTConfig((8, 8, 1), (4, 4), 5, BlockConfig(16, 2, 32), 2, "attention", norm_first=True)
IMAGENET = PerceiverConfig(
    (224, 224),
    3,
    1000,
    BlockConfig(1024, 8, 1024),
    latents=512,
    depth=6,
    repeats=8,
    crosses=2,
    cross_head_width=261,
)
IO = PerceiverConfig(
    (64,),
    3,
    0,
    BlockConfig(32, 2, 64),
    latents=8,
    depth=2,
    repeats=3,
    variant="io",
    bands=None,
    decoder="query",
)
SAMPLER = ResamplerConfig(BlockConfig(32, 4, 64), latents=6, depth=2, frames=8)
LARGE = ResamplerConfig(BlockConfig(1536, 16, 6144, mlp="squared_relu", bias=False))
GATED = GatedConfig(BlockConfig(64, 4, 256), 48)
LLAMA = GatedConfig(
    BlockConfig(4096, 32, 14336, kv_heads=8, norm="rms", mlp="swiglu", bias=False),
    4096,
    qk_norm=True,
    gate_width="channel",
)
ONE, OTHER = vqa.model_of("unified"), vqa.model_of("cross_modal")
CASES = {
    "cross-attention": lambda **o: diagrams.cross_attention((3, 64), (9, 192), heads=2, **o),
    "large cross-attention": lambda **o: diagrams.cross_attention(
        (2048, 4096), (6400, 7680), heads=32, **o
    ),
    "vit": lambda **o: diagrams.vit(VIT, **o),
    "vit-b/16": lambda **o: diagrams.vit(B16, **o),
    "vit with norms behind": lambda **o: diagrams.vit(POST, **o),
    "vit with attention pool": lambda **o: diagrams.vit(POOLED, **o),
    "video": lambda **o: diagrams.video_tensors(VIT, 3, **o),
    "video of vectors": lambda **o: diagrams.video_tensors(B16, 8, each="embedding", **o),
    "long video": lambda **o: diagrams.video_tensors(B16, 8, batch=4, **o),
    "perceiver": lambda **o: diagrams.perceiver(permuted.MODEL, **o),
    "perceiver of imagenet": lambda **o: diagrams.perceiver(IMAGENET, **o),
    "perceiver io": lambda **o: diagrams.perceiver(IO, **o),
    "resampler": lambda **o: diagrams.resampler(SAMPLER, 8, 9, **o),
    "resampler of flamingo": lambda **o: diagrams.resampler(LARGE, 30, 256, **o),
    "flamingo": lambda **o: diagrams.flamingo(GATED, 12, 9, **o),
    "llama": lambda **o: diagrams.flamingo(LLAMA, 2048, 6404, **o),
    "unified": lambda **o: diagrams.unified(ONE, 12, **o),
    "unified with videos": lambda **o: diagrams.unified(ONE, 12, media=4, frames=8, **o),
    "cross-modal": lambda **o: diagrams.cross_modal(OTHER, 12, media=2, **o),
    "fusions": lambda **o: diagrams.fusions(ONE, OTHER, 12, frozen=("tower", "lm"), **o),
}


def page(figure):
    return figure.axes[0]


def words(figure):
    return [text.get_text() for text in page(figure).texts]


def shape(array):
    return f"({', '.join(map(str, ('B', *array.shape[1:])))})"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("draw", [pytest.param(draw, id=name) for name, draw in CASES.items()])
def test_no_text_is_clipped_or_touched(draw, theme):
    figure = draw(title="A title " * 12, theme=theme)
    assert to_hex(figure.get_facecolor()) == THEMES[theme].paper
    assert figure.get_size_inches()[0] <= 7.6
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = [text for text in page(figure).texts if text.get_text().strip()]
    boxes = [(text.get_text(), _extent(text, renderer)) for text in texts]
    for text, box in boxes:
        inside = box.x0 >= 0 <= box.y0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, f"{text!r} is clipped"
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{one!r} overlaps {other!r}"
    for line in page(figure).lines:
        way = Path(line.get_transform().transform(line.get_xydata()))
        for text, box in boxes:
            assert not way.intersects_bbox(box, filled=False), f"a line crosses {text!r}"
    for patch in page(figure).patches:  # a text is in a box or out of it, not on its edge
        edge = patch.get_window_extent(renderer)
        for text, box in boxes:
            within = edge.x0 <= box.x0 and box.x1 <= edge.x1
            within = within and edge.y0 <= box.y0 and box.y1 <= edge.y1
            assert within or not edge.overlaps(box), f"{text!r} stands on an edge"


def _extent(text, renderer):  # without the paper behind it
    behind, text._bbox_patch = text._bbox_patch, None
    box = text.get_window_extent(renderer).padded(-1)
    text._bbox_patch = behind
    return box


def test_shapes_of_the_vit_are_those_of_a_forward():
    p = vit_init(np.random.default_rng(0), VIT)
    images = np.ones((5, *VIT.image), "float32")
    y, s = vit_forward(images, p, config=VIT)
    embed, block = s["features"]["embed"], s["features"]["blocks"]["0"]
    arrays = [images, embed["patch"][0], block["ln1"][0], s["head"][0], y]
    drawn = words(diagrams.vit(VIT))
    shapes = [said for said in drawn if said.startswith("(")]
    for array in arrays:
        assert shape(array) in shapes
    n = embed["patch"][0].shape[1]
    known = {*map(shape, arrays), f"(B, {n}, {VIT.block.width})"}
    assert set(shapes) == known, "and no other shape is said"
    assert "× 3" in drawn and "16 to 24 and back" in drawn and "2 heads of 8" in drawn


def test_shapes_of_cross_attention_are_those_of_a_forward():
    rng = np.random.default_rng(0)
    p = cross_attention_init(rng, 8, 10, heads=2)
    x, z, kept = rng.normal(size=(5, 3, 8)), rng.normal(size=(5, 6, 10)), {}
    y, s = cross_attention_forward(x, z, p, heads=2)
    cross_attention_forward(x, z, p, heads=2, kept=kept)  # which gives the keys and values away
    drawn = words(diagrams.cross_attention((3, 8), (6, 10), heads=2))
    for array in (x, z, y, s["out"][0], attention_weights(s["attend"])):
        assert shape(array) in drawn
    assert f"keys {shape(kept['k'])}" in drawn and f"values {shape(kept['v'])}" in drawn


def test_shapes_of_a_video_are_those_of_a_forward():
    p = vit_init(np.random.default_rng(0), VIT)
    clips = np.ones((2, 3, *VIT.image), "float32")
    y, _ = encode_frames_forward(clips, p, config=VIT)
    shapes = [said for said in words(diagrams.video_tensors(VIT, 3)) if said.startswith("(")]
    folded, encoded = clips.reshape(6, *VIT.image), y.reshape(6, *y.shape[2:])
    joined = y.reshape(2, -1, y.shape[-1])
    assert shapes == [str(array.shape) for array in (clips, folded, encoded, y, y, joined)]


def test_shapes_of_the_perceiver_are_those_of_a_forward():
    config = permuted.MODEL
    p = perceiver_init(np.random.default_rng(0), config)
    inputs = np.ones((5, 64, 1), "float32")
    y, s = perceiver_forward(inputs, p, config=config)
    cross = s["features"]["repeats"]["0"]["cross"]["attn"]
    drawn = words(diagrams.perceiver(config))
    for array in (inputs, cross["kv"][0], cross["q"][0], s["head"][0], y):
        assert shape(array) in drawn
    assert str(p["latents"].shape) in drawn


def test_shapes_of_the_resampler_are_those_of_a_forward():
    p = resampler_init(np.random.default_rng(0), SAMPLER)
    features = np.ones((5, 8, 9, 32), "float32")
    y, s = resampler_forward(features, p, config=SAMPLER)
    drawn = words(diagrams.resampler(SAMPLER, 8, 9))
    for array in (features, s["blocks"]["1"]["attn"]["kv"][0], y):
        assert shape(array) in drawn


def test_fusions_count_the_same_words_and_only_one_of_them_grows_by_the_image():
    s, d = ONE.sight.tokens(), ONE.lm.block.width
    drawn = words(diagrams.fusions(ONE, OTHER, 12))
    assert f"(B, {12 + s}, {d})" in drawn and f"(B, {12 + 1}, {d})" in drawn
    several = words(diagrams.cross_modal(OTHER, 12, media=3))
    assert f"(B, {12 + 3}, {d})" in several and f"(B, {3 * s}, {d})" in several


def hatched(figure):
    return sum(patch.get_hatch() is not None for patch in page(figure).patches)


def test_what_is_frozen_is_hatched_and_the_key_says_so():
    free, frozen = (diagrams.unified(ONE, 9, frozen=names) for names in ((), ("tower", "lm")))
    assert hatched(free) == 0 and not any("frozen" in said for said in words(free))
    assert hatched(frozen) == 5, "tower, embedding, blocks, head, and the key"
    assert "frozen, does not learn" in words(frozen)


def test_what_is_asked_wrongly_is_refused():
    with pytest.raises(ValueError, match="5 heads do not divide 64 channels"):
        diagrams.cross_attention((3, 64), (9, 64), heads=5)
    with pytest.raises(ValueError, match="'patches' or 'embedding', got 'all'"):
        diagrams.video_tensors(VIT, 3, each="all")
    with pytest.raises(ValueError, match="2 clips of 20 are not"):
        diagrams.video_tensors(VIT, 20)
    with pytest.raises(ValueError, match=re.escape("tower, connector and lm, got vit")):
        diagrams.unified(ONE, 9, frozen=("vit",))
    with styled("light") as look, pytest.raises(ValueError, match="kind must be one of step"):
        Diagram(3, 3, look).box(1, 1, "name", kind="thing")
