"""Configs from plain data: they come back the same, and what does not fit is named."""

import json
from dataclasses import asdict

import pytest

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.config import from_dict
from scratch_vlm.models.bert import BERTConfig
from scratch_vlm.models.clip import CLIPConfig
from scratch_vlm.models.text import TextConfig
from scratch_vlm.models.vit import ViTConfig

BLOCK = BlockConfig(8, 2, 12, order="post", rotary_base=100.0)
IMAGE = ViTConfig((4, 6, 3), (2, 3), 4, BLOCK, 2, pool="mean")
TEXT = TextConfig(10, 5, 9, 4, BLOCK, 2, causal=False)
CONFIGS = [BLOCK, IMAGE, TEXT, CLIPConfig(IMAGE, TEXT, "sigmoid"), BERTConfig(10, 6, BLOCK, 2)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_config_survives_json(config):
    assert from_dict(type(config), json.loads(json.dumps(asdict(config)))) == config


def test_what_is_left_out_has_its_default():
    plain = {"width": 8, "heads": 2, "hidden": 12}
    assert from_dict(BlockConfig, plain) == BlockConfig(8, 2, 12)


def test_an_unknown_key_is_named_with_the_nearest_and_all():
    plain = {**asdict(BLOCK), "droput": 0.1}
    message = r"BlockConfig: unknown 'droput' \(did you mean 'dropout'\?\); its keys are width, "
    with pytest.raises(ValueError, match=message):
        from_dict(BlockConfig, plain)


def test_keys_that_are_missing_are_named():
    with pytest.raises(ValueError, match="BlockConfig: missing 'heads'; missing 'hidden'; its"):
        from_dict(BlockConfig, {"width": 8})


def test_an_unknown_key_of_an_inner_config_is_named():
    plain = asdict(CONFIGS[3])
    plain["image"]["block"]["xyzzy"] = 1
    with pytest.raises(ValueError, match="BlockConfig: unknown 'xyzzy'; its keys"):
        from_dict(CLIPConfig, plain)


def test_what_is_no_mapping_is_refused():
    with pytest.raises(TypeError, match=r"BlockConfig is built from a mapping, got \[8, 2\]"):
        from_dict(BlockConfig, [8, 2])
