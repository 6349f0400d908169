"""Diagrams of architectures: their shapes are those of real arrays, and nothing stands outside."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.vit import ViTConfig, vit_forward, vit_init
from scratch_vlm.viz import diagrams
from scratch_vlm.viz.diagrams import Node, flow

VIT = ViTConfig((8, 12, 3), (4, 2), 10, BlockConfig(16, 2, 32), depth=3)
DIAGRAMS = {
    "cross_attention": lambda **o: diagrams.cross_attention(3, 9, 16, 24, heads=2, **o),
    "vit": lambda **o: diagrams.vit(VIT, **o),
    "video_tensors": lambda **o: diagrams.video_tensors(8, (24, 24, 3), 36, 32, **o),
    "perceiver": lambda **o: diagrams.perceiver(64, 19, 8, 64, depth=2, repeats=4, **o),
    "gated_block": lambda **o: diagrams.gated_block(8, 64, 9, 64, **o),
    "fusions": lambda **o: diagrams.fusions(8, 9, 64, depth=2, **o),
}


def texts(figure):
    (page,) = figure.axes
    return [text for text in page.texts if text.get_text()]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", DIAGRAMS)
def test_texts_stand_inside_and_do_not_touch(name, theme):
    figure = DIAGRAMS[name](theme=theme, title="A title")
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in texts(figure)]
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 and box.x1 <= figure.bbox.x1 and 0 <= box.y0 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_shapes_of_the_vit_are_those_of_its_arrays():
    p = vit_init(np.random.default_rng(0), VIT)
    images = np.ones((5, *VIT.image), "float32")
    logits, saved = vit_forward(images, p, config=VIT)
    said = {text.get_text() for text in texts(diagrams.vit(VIT))}
    blocks = saved["features"]["blocks"]
    arrays = [images, blocks["0"]["ln1"][0], logits]
    for array in arrays:
        assert f"(B, {', '.join(map(str, array.shape[1:]))})" in said
    assert "(B, 12, 24)" in said, "12 patches of 4 x 2 pixels with 3 channels"


def test_an_arrow_to_nowhere_is_refused():
    with pytest.raises(ValueError, match="there is no box 'b'; there are a"):
        flow({"a": Node(0, 0, "a")}, [("a", "b", "")], columns=1)
