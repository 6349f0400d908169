"""Embedding many samples a few at a time."""

import numpy as np
import pytest

from scratch_vlm.inference.embed import embed_images, embed_texts
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.clip import (
    CLIPConfig,
    clip_init,
    encode_images_forward,
    encode_texts_forward,
)
from scratch_vlm.models.text import TextConfig
from scratch_vlm.models.vit import ViTConfig

BLOCK = BlockConfig(8, 2, 12)
CONFIG = CLIPConfig(ViTConfig((4, 4, 3), (2, 2), 4, BLOCK, 1), TextConfig(10, 5, 9, 4, BLOCK, 1))
RNG = np.random.default_rng(0)
P = clip_init(RNG, CONFIG)
IMAGES = RNG.standard_normal((7, 4, 4, 3)).astype("float32")
IDS = np.concatenate([RNG.integers(0, 9, (7, 3)), np.full((7, 1), 9)], axis=1)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_pieces_give_the_embeddings_of_the_whole(size):
    images, _ = encode_images_forward(IMAGES, P["image"], config=CONFIG.image)
    texts, _ = encode_texts_forward(IDS, P["text"], config=CONFIG.text)
    np.testing.assert_allclose(embed_images(IMAGES, P, CONFIG, size=size), images, atol=1e-6)
    np.testing.assert_allclose(embed_texts(IDS, P, CONFIG, size=size), texts, atol=1e-6)


def test_no_images_have_no_embeddings():
    assert embed_images(IMAGES[:0], P, CONFIG).shape == (0, 4)
    assert embed_texts(IDS[:0], P, CONFIG).shape == (0, 4)


def test_pieces_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        embed_images(IMAGES, P, CONFIG, size=0)
