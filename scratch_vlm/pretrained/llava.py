"""LLaVA of the Transformers library: a tower of CLIP or SigLIP, a connector, and a Llama."""

from scratch_vlm.layers.connector import ConnectorConfig, connector_init
from scratch_vlm.models.lm import lm_init
from scratch_vlm.models.unified import UnifiedConfig
from scratch_vlm.models.vision import SightConfig, TowerConfig, tower_of
from scratch_vlm.models.vit import vit_init
from scratch_vlm.pretrained import clip, llama, siglip
from scratch_vlm.pretrained.layout import Layout, blank, linear, under
from scratch_vlm.pretrained.options import OptionError

ALIASES = (  # names that other versions of the library gave
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
)
BUFFERS = r".*(rotary_emb\.inv_freq|embeddings\.position_ids)"
TOWERS = {
    "clip_vision_model": (clip.image_tower, clip.vision_rules),
    "siglip_vision_model": (siglip.vision_tower, siglip.vision_rules),
}


def configure(options):
    """Turn a published config into ours.

    Parameters
    ----------
    options : Options
        Of config.json.

    Returns
    -------
    UnifiedConfig
    """
    vision, text = options.inner("vision_config"), options.inner("text_config")
    kind = vision.get("model_type", "clip_vision_model")
    if kind not in TOWERS or text.only("model_type", "llama") != "llama":
        raise OptionError(
            f"{vision.where}: a tower of type {kind!r} is not implemented; known are "
            f"{', '.join(TOWERS)}"
        )
    vit = TOWERS[kind][0](vision, 0)
    lm = llama.configure(text)
    several = isinstance(options.content.get("vision_feature_layer"), list)
    layers = options.get("vision_feature_layer", -2, like=[] if several else 1)
    strategy = options.only("vision_feature_select_strategy", "default", "full")
    if strategy == "default" and not vit.extra:
        raise OptionError(
            "vision_feature_select_strategy 'default' leaves out the first token, and a tower of "
            "SigLIP has none to leave out"
        )
    tower = TowerConfig(
        vit,
        tuple(layers) if several else (layers,),
        cls=strategy == "full" and bool(vit.extra),
    )
    connector = ConnectorConfig(
        "mlp",
        tower.outputs,
        lm.block.width,
        activation=options.activation("projector_hidden_act"),
        bias=options.get("multimodal_projector_bias", True),
    )
    image = options.get("image_token_index", options.get("image_token_id", 32000))
    config = UnifiedConfig(SightConfig(tower, connector), lm, image)
    options.done("image_seq_length", "ignore_index", "tie_word_embeddings", "vocab_size")
    return config


def layout(config):
    """Lay out the checkpoint.

    Parameters
    ----------
    config : UnifiedConfig
        The model.

    Returns
    -------
    Layout
        Of the whole tower, also the blocks behind the last layer that is used; `used` leaves
        them out.
    """
    vit, lm = config.sight.tower.vit, config.lm
    kind = "clip_vision_model" if vit.norm_first else "siglip_vision_model"
    shapes = {
        "sight": {
            "tower": blank(vit_init, vit),
            "connector": blank(connector_init, config.sight.connector),
        },
        "lm": blank(lm_init, lm),
    }
    rules = [
        *under("vision_tower.", "sight/tower/", TOWERS[kind][1](vit)),
        *linear("multi_modal_projector.linear_1", "sight/connector/mlp/fc"),
        *linear("multi_modal_projector.linear_2", "sight/connector/mlp/proj"),
        *under("language_model.", "lm/", llama.rules(lm)),
    ]
    tied = {}
    if lm.tied:
        tied["language_model.lm_head.weight"] = "language_model.model.embed_tokens.weight"
    return Layout(shapes, tuple(rules), ALIASES, BUFFERS, tied)


def used(tree, config):
    """Leave out the part of the vision tower that a LLaVA has and does not use.

    Parameters
    ----------
    tree : dict
        Parameters, or gradients.
    config : UnifiedConfig
        The model.

    Returns
    -------
    dict
        The same arrays, for `unified_forward` and its backward.
    """
    tower = tower_of(tree["sight"]["tower"], config.sight.tower)
    return {**tree, "sight": {**tree["sight"], "tower": tower}}
