"""Parameter counts of published models: one number that most misreadings of a paper change."""

import math
from dataclasses import replace

import numpy as np
import pytest

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.bert import BERTConfig, bert_init
from scratch_vlm.models.text import TextConfig, text_init
from scratch_vlm.models.vit import ViTConfig, vit_init
from scratch_vlm.tree import leaves


class NoDice:
    """In place of a generator: zeros cost neither time nor, until they are used, memory."""

    def standard_normal(self, shape):
        return np.zeros(shape, "float32")


def count(init, config):
    """Count parameters; every block has as many, so two short towers tell of a tall one."""
    one, two = (
        sum(math.prod(x.shape) for _, x in leaves(init(NoDice(), replace(config, depth=depth))))
        for depth in (1, 2)
    )
    return one + (config.depth - 1) * (two - one)


def vit(width, heads, depth, patch=16, outputs=1000, **options):
    block = BlockConfig(width, heads, 4 * width, eps=1e-6)
    return ViTConfig((224, 224, 3), (patch, patch), outputs, block, depth, **options)


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (vit(192, 3, 12), 5_717_416),  # ViT-Ti/16
        (vit(384, 6, 12), 22_050_664),  # ViT-S/16
        (vit(768, 12, 12), 86_567_656),  # ViT-B/16
        (vit(768, 12, 12, patch=32), 88_224_232),  # ViT-B/32
        (vit(1024, 16, 24), 304_326_632),  # ViT-L/16
    ],
)
def test_vit_with_a_thousand_classes(config, published):
    assert count(vit_init, config) == published


CLIP_IMAGE = vit(
    768, 12, 12, patch=32, outputs=512, patch_bias=False, head_bias=False, norm_first=True
)
CLIP_TEXT = TextConfig(49408, 77, 49407, 512, BlockConfig(512, 8, 2048, mlp="quick_gelu"), 12)


def test_clip_vit_b_32():
    image, text = count(vit_init, CLIP_IMAGE), count(text_init, CLIP_TEXT)
    assert image == 87_849_216
    assert image + text + 1 == 151_277_313  # and the scale


def test_image_tower_of_siglip_base():
    config = vit(768, 12, 12, outputs=0, pool="attention")
    assert count(vit_init, config) == 92_884_224


def test_bert_base():
    config = BERTConfig(30522, 512, BlockConfig(768, 12, 3072, order="post", eps=1e-12), 12)
    assert count(bert_init, config) == 109_482_240


def test_the_count_by_two_short_towers_is_the_count():
    config = vit(192, 3, 12)
    full = sum(x.size for _, x in leaves(vit_init(NoDice(), config)))
    assert full == count(vit_init, config)
