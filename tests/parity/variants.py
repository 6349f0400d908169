"""Small models of every family with other sizes and options, for `reference.write_case`.

Each builder makes a model and its call of a few options that differ from the smallest one.
"""

import re
from functools import partial

import numpy as np
import torch
import transformers as hf
from flamingo_pytorch import GatedCrossAttentionBlock, PerceiverResampler
from flamingo_pytorch.flamingo_pytorch import MaskedCrossAttention
from perceiver_pytorch import Perceiver
from reference import Given
from torch.nn.functional import cross_entropy

TEXTS = {"output_hidden_states": True, "use_cache": False}


def dice():
    return np.random.default_rng(5)


def texts(lengths, vocabulary, *, pad=0, left=False):
    """Draw ids from 3 on, and the mask of texts of several lengths; one has a padding id inside."""
    total, rng = max(lengths), dice()
    ids = rng.integers(3, vocabulary, (len(lengths), total))
    places = np.arange(total)
    ends = np.array(lengths)[:, None]
    real = places >= total - ends if left else places < ends
    ids = np.where(real, ids, pad)
    ids[np.argmax(lengths), -2] = pad
    return ids, real.astype(int)


def next_words(ids, real, *never):
    """Make labels: the words but the first of each text, padding, and some ids."""
    labels = np.where(real * (real.cumsum(1) > 1) > 0, ids, -100)
    return np.where(np.isin(labels, never), -100, labels)


def pictures(*shape):
    return dice().standard_normal(shape)


def vit(size=None, dtype="float32", rename=None, batch=2, **options):
    config = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
              "intermediate_size": 40, "image_size": 24, "patch_size": 6,
              "num_labels": 5}  # fmt: skip
    config = hf.ViTConfig(**config | options)
    side = config.image_size
    height, width = size or (side if isinstance(side, tuple | list) else (side, side))
    how = {"interpolate_pos_encoding": True} if size else {"output_attentions": True}
    inputs = {"pixel_values": pictures(batch, config.num_channels, height, width)}
    inputs["labels"] = dice().integers(0, config.num_labels, batch)
    flags = {"output_hidden_states": True, **how}
    model = hf.ViTForImageClassification(config)
    return Given(model, inputs, flags, wrt=("pixel_values",), dtype=dtype, rename=rename)


def vit_in_memory(tensors):
    """Rename tensors to what version 5 of the library calls them in memory."""
    for pattern, instead in (
        (r"^vit\.encoder\.layer\.", "vit.layers."),
        (r"attention\.attention\.(q)uery\.", r"attention.\1_proj."),
        (r"attention\.attention\.(k)ey\.", r"attention.\1_proj."),
        (r"attention\.attention\.(v)alue\.", r"attention.\1_proj."),
        (r"attention\.output\.dense\.", "attention.o_proj."),
        (r"intermediate\.dense\.", "mlp.fc1."),
        (r"output\.dense\.", "mlp.fc2."),
    ):
        tensors = {re.sub(pattern, instead, name): x for name, x in tensors.items()}
    return tensors


CLIP_TEXT = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
             "num_attention_heads": 3, "max_position_embeddings": 12,
             "eos_token_id": 47}  # fmt: skip
CLIP_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
               "num_attention_heads": 4, "image_size": 24, "patch_size": 6}  # fmt: skip


def ended(vocabulary, end, pad, length=9, batch=3):
    """Draw texts with an end token each, and ids larger than it before it unless it is last."""
    rng = dice()
    ids, real = rng.integers(3, vocabulary - 5, (batch, length)), np.ones((batch, length), int)
    for row, place in zip(range(batch), (length - 1, 4, 1), strict=False):
        if end != vocabulary - 1:
            ids[row, place - 1] = vocabulary - 1
        ids[row, place] = end
        ids[row, place + 1 :], real[row, place + 1 :] = pad, 0
    return ids, real


def clip(text=(), vision=(), size=None, mask=True, pad=1, dtype="float32"):
    text, vision = CLIP_TEXT | dict(text), CLIP_VISION | dict(vision)
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=18)
    end = 49 if text["eos_token_id"] == 2 else text["eos_token_id"]
    ids, real = ended(50, end, pad)
    side = vision["image_size"]
    inputs = {"input_ids": ids}
    inputs["pixel_values"] = pictures(3, vision.get("num_channels", 3), *(size or (side, side)))
    inputs |= {"attention_mask": real} if mask else {}
    flags = {"return_loss": True, "output_hidden_states": True}
    flags |= {"interpolate_pos_encoding": True} if size else {}
    return Given(hf.CLIPModel(config), inputs, flags, dtype=dtype)


def clip_vision(**options):
    config = hf.CLIPVisionConfig(**CLIP_VISION | options, projection_dim=7)
    inputs = {"pixel_values": pictures(2, 3, config.image_size, config.image_size)}
    flags = {"output_hidden_states": True, "output_attentions": True}
    model = hf.CLIPVisionModelWithProjection(config)
    return Given(model, inputs, flags, wrt=("pixel_values",), probes=("image_embeds",))


def clip_text(**options):
    config = hf.CLIPTextConfig(**CLIP_TEXT | options, projection_dim=9)
    ids, real = ended(50, 49 if config.eos_token_id == 2 else config.eos_token_id, 0)
    inputs = {"input_ids": ids, "attention_mask": real}
    flags = {"output_hidden_states": True, "output_attentions": True}
    probes = ("text_embeds", "last_hidden_state")
    return Given(hf.CLIPTextModelWithProjection(config), inputs, flags, probes=probes)


def siglip(text=(), vision=(), size=None, mask=True):
    text = {**CLIP_TEXT, "max_position_embeddings": 9, "projection_size": 32, **dict(text)}
    vision = CLIP_VISION | dict(vision)
    config = hf.SiglipConfig(text_config=text, vision_config=vision)
    ids, real = texts((9, 5, 2), 50, pad=1)
    side = vision["image_size"]
    inputs = {"input_ids": ids, "pixel_values": pictures(3, 3, *(size or (side, side)))}
    inputs |= {"attention_mask": real} if mask else {}
    flags = {"return_loss": True, "output_hidden_states": True}
    flags |= {"interpolate_pos_encoding": True} if size else {}
    return Given(hf.SiglipModel(config), inputs, flags)


def bert(words=False, lengths=(10, 6), rename=None, **options):
    config = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48,
              "num_hidden_layers": 2, "num_attention_heads": 4,
              "max_position_embeddings": 20}  # fmt: skip
    config = hf.BertConfig(**config | options)
    ids, real = texts(lengths, 50, pad=config.pad_token_id)
    second = (np.arange(ids.shape[1]) > 3) * real
    inputs = {"input_ids": ids, "attention_mask": real, "token_type_ids": second}
    flags = {"output_hidden_states": True, "output_attentions": True}
    if not words:
        probes = ("last_hidden_state", "pooler_output")
        return Given(hf.BertModel(config), inputs, flags, probes=probes)
    inputs["labels"] = np.where(real * (ids % 3 == 0) > 0, ids, -100)
    return Given(hf.BertForMaskedLM(config), inputs, flags, rename=rename)


def from_tensorflow(tensors):
    """Rename the norms as in files that were converted from TensorFlow."""
    names = {name: name.replace("Norm.weight", "Norm.gamma") for name in tensors}
    return {name.replace("Norm.bias", "Norm.beta"): tensors[old] for old, name in names.items()}


def language(model, lengths=(11, 8, 5), left=False, **more):
    config = model.config
    pad = config.pad_token_id or 0
    ids, real = texts(lengths, config.vocab_size, pad=pad, left=left)
    inputs = {"input_ids": ids, "attention_mask": real, "labels": next_words(ids, real)}
    ids, real = texts((6, 4), config.vocab_size, pad=pad, left=True)
    options = {"max_new_tokens": 8, "pad_token_id": pad}
    generate = {"input_ids": ids, "attention_mask": real, "options": options}
    return Given(model, inputs, TEXTS, generate=generate, **more)


def gpt2(first_files=False, **options):
    config = {"vocab_size": 61, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
    model = hf.GPT2LMHeadModel(hf.GPT2Config(**config | options))
    if not first_files:
        return language(model)
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 40, 40).tril() for i in range(2)}
    return language(model, rename=bare, buffers=masks)


def bare(tensors):
    """Rename tensors as in the first files of GPT-2, which had no prefix."""
    return {name.removeprefix("transformer."): x for name, x in tensors.items()}


LLAMA = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 52, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
         "max_position_embeddings": 128}  # fmt: skip


def llama(left=False, dtype="float32", rope=None, **options):
    if rope:
        options["rope_parameters"] = {"rope_theta": 1e4, **rope}
    return language(hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA | options)), left=left, dtype=dtype)


def perceiver(hidden=(7, 8), dtype="float32", **options):
    config = {"num_latents": 5, "d_latents": 24, "d_model": 20, "num_blocks": 2,
              "num_self_attends_per_block": 2, "num_self_attention_heads": 4,
              "num_cross_attention_heads": 2}  # fmt: skip
    mask = np.ones((2, 11))
    mask[1, list(hidden)] = 0
    inputs = {"inputs": pictures(2, 11, 20), "attention_mask": mask}
    flags = {"output_hidden_states": True, "output_attentions": True}
    model, probes = (
        hf.PerceiverModel(hf.PerceiverConfig(**config | options)),
        ("last_hidden_state",),
    )
    return Given(model, inputs, flags, wrt=("inputs",), probes=probes, dtype=dtype)


def perceiver_images(kind, size, **options):
    config = {"num_latents": 4, "d_latents": 24, "num_blocks": 2, "num_self_attends_per_block": 1,
              "num_self_attention_heads": 4, "num_cross_attention_heads": 1, "num_labels": 5,
              "image_size": 6}  # fmt: skip
    config = hf.PerceiverConfig(**config | options)
    model = getattr(hf, f"PerceiverForImageClassification{kind}")(config)
    inputs = {"pixel_values": pictures(2, 3, *size), "labels": np.array([1, 3])}
    flags = {"output_hidden_states": True}
    if kind == "Learned" and size != (6, 6):
        flags["interpolate_pos_encoding"] = True
    return Given(model, inputs, flags, wrt=("pixel_values",))


def idefics(vision=(), perceiver=(), images=3, left=False, **options):
    config = {"vocab_size": 50, "additional_vocab_size": 2, "hidden_size": 32,
              "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4,
              "cross_layer_interval": 1, "qk_layer_norms": True, "alpha_type": "vector",
              "use_resampler": True}  # fmt: skip
    config |= options
    vision = {"embed_dim": 24, "intermediate_size": 40, "num_hidden_layers": 2,
              "num_attention_heads": 3, "image_size": 18, "patch_size": 6,
              **dict(vision)}  # fmt: skip
    perceiver = {"use_resampler": config["use_resampler"], "resampler_n_latents": 3,
                 "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 7,
                 "qk_layer_norms_perceiver": True, **dict(perceiver)}  # fmt: skip
    words = config["vocab_size"] + config["additional_vocab_size"]
    ids, real = texts((12, 9), words, left=left)
    seen = np.zeros((2, 12, images), int)
    for i in range(images):  # one after another, and in the second text all so far
        seen[0, 2 + 3 * i : 5 + 3 * i if i + 1 < images else None, i] = 1
        seen[1, 4 + 2 * i :, i] = 1
    labels = next_words(ids, real)
    side = vision["image_size"]
    inputs = {"input_ids": ids, "attention_mask": real, "image_attention_mask": seen}
    inputs["pixel_values"] = pictures(2, images, 3, side, side)
    rows = slice(None) if left else slice(1)
    generate = {name: x[rows] for name, x in inputs.items()}
    config = hf.IdeficsConfig(**config, vision_config=vision, perceiver_config=perceiver)

    def loss(out):  # the library's own does not fit logits of additional words
        return cross_entropy(
            out["logits"][:, :-1].flatten(0, 1), torch.tensor(labels)[:, 1:].flatten()
        )

    return Given(
        hf.IdeficsForVisionText2Text(config), inputs, TEXTS, wrt=("pixel_values",), loss=loss,
        beside={"labels": labels}, generate={**generate, "options": {"max_new_tokens": 6}},
    )  # fmt: skip


def llava(vision=(), text=(), images=(1, 2, 0), rename=None, **options):
    vision = {"model_type": "clip_vision_model", **CLIP_VISION, "hidden_size": 24,
              "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 12,
              **dict(vision)}  # fmt: skip
    text = {"model_type": "llama", **LLAMA, **dict(text)}
    top = {"image_token_index": 60, "vision_feature_layer": -2,
           "vision_feature_select_strategy": "default", **options}  # fmt: skip
    config = hf.LlavaConfig(vision_config=vision, text_config=text, **top)
    cls = vision["model_type"] == "clip_vision_model" and (
        top["vision_feature_select_strategy"] == "full"
    )
    span, rng = (vision["image_size"] // vision["patch_size"]) ** 2 + cls, dice()
    rows = []
    for count in images:
        row = list(rng.integers(3, 60, 2))
        for _ in range(count):
            row += [60] * span + list(rng.integers(3, 60, 2))
        rows.append(row)

    def batch(rows, left):
        total = max(map(len, rows)) + (not left)
        ids, real = np.zeros((2, len(rows), total), int)
        for i, row in enumerate(rows):
            start = total - len(row) if left else 0
            ids[i, start : start + len(row)], real[i, start : start + len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": real}

    inputs, side = batch(rows, False), vision["image_size"]
    labels = next_words(inputs["input_ids"], inputs["attention_mask"], 60)
    inputs |= {"pixel_values": pictures(sum(images), 3, side, side), "labels": labels}
    shown = [row for row, count in zip(rows, images, strict=True) if count]
    generate = {**batch(shown, True), "pixel_values": inputs["pixel_values"]}
    generate["options"] = {"max_new_tokens": 6, "suppress_tokens": [60]}
    model = hf.LlavaForConditionalGeneration(config)
    return Given(model, inputs, TEXTS, wrt=("pixel_values",), generate=generate, rename=rename)


def in_memory(tensors):
    """Rename tensors to what the library calls those of LLaVA and Mllama in memory."""
    names = {}
    for name, x in tensors.items():
        name = re.sub(r"^language_model\.lm_head\.", "lm_head.", name)
        name = re.sub(r"^language_model\.model\.", "model.language_model.", name)
        names[re.sub(r"^(vision_\w+|multi_modal_\w+)\.", r"model.\1.", name)] = x
    return names


def mllama(vision=(), text=(), images=1, tiles=((2,), (4,)), ratios=((2,), (6,)), rename=None):
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
              "num_global_layers": 2, "attention_heads": 3, "image_size": 12, "patch_size": 6,
              "max_num_tiles": 4, "intermediate_layers_indices": [0, 2], "vision_output_dim": 72,
              **dict(vision)}  # fmt: skip
    text = {**LLAMA, "num_hidden_layers": 4, "cross_attention_layers": [1, 3], "bos_token_id": 1,
            "eos_token_id": 2, **dict(text)}  # fmt: skip
    words, count = text["vocab_size"], vision["max_num_tiles"]
    config = hf.MllamaConfig(vision_config=vision, text_config=text, image_token_index=words)
    ids, real = texts((10, 7), words)
    labels = next_words(ids, real)
    ids[[0, 1], [2, 1]], labels[[0, 1], [2, 1]] = words, -100
    present = np.arange(count) < np.array(tiles)[..., None]  # (B, J, I)
    seen = np.zeros((2, 10, images, count), int)
    for row, start in enumerate((2, 1)):
        for i in range(images):
            seen[row, start + 2 * i :, i] = present[row, i]
    seen *= real[:, :, None, None]
    pixels = pictures(2, images, count, 3, vision["image_size"], vision["image_size"])
    inputs = {
        "input_ids": ids,
        "attention_mask": real,
        "cross_attention_mask": seen,
        "pixel_values": pixels * present[..., None, None, None],
        "aspect_ratio_ids": np.array(ratios),
        # as the processor says: an image that is none has one tile
        "aspect_ratio_mask": (np.arange(count) < np.maximum(np.array(tiles), 1)[..., None]) * 1,
    }
    generate = {name: x[:1] for name, x in inputs.items()}
    generate["options"] = {"max_new_tokens": 6}
    model = hf.MllamaForConditionalGeneration(config)
    inputs["labels"] = labels
    return Given(model, inputs, TEXTS, wrt=("pixel_values",), generate=generate, rename=rename)


def plain(model, published, kwargs, inputs, positional):
    return Given(
        model(**kwargs), inputs, wrt=positional, positional=positional, probes=("output",),
        published={"model_type": published, "kwargs": kwargs},
    )  # fmt: skip


def resampler(shape=(2, 3, 7, 24), **options):
    kwargs = {"dim": 24, "depth": 2, "dim_head": 6, "heads": 3, "num_latents": 5, **options}
    name, inputs = "flamingo_pytorch.PerceiverResampler", {"x": pictures(*shape)}
    return plain(PerceiverResampler, name, kwargs, inputs, ("x",))


def gated(model=GatedCrossAttentionBlock, at=((0, 3), (1,), ()), **options):
    kwargs = {"dim": 24, "dim_head": 6, "heads": 3, **options}
    inputs = {"x": pictures(3, 9, 24), "media": pictures(3, 2, 4, 24)}
    if at:
        inputs["media_locations"] = np.zeros((3, 9), bool)
        for row, places in enumerate(at):
            inputs["media_locations"][row, list(places)] = True
    return plain(model, f"flamingo_pytorch.{model.__name__}", kwargs, inputs, ("x", "media"))


def lucid_perceiver(shape=(2, 6, 5, 3), visible=None, **options):
    kwargs = {"num_freq_bands": 3, "depth": 3, "max_freq": 10.0, "input_channels": shape[-1],
              "input_axis": len(shape) - 2, "num_latents": 5, "latent_dim": 24, "cross_heads": 2,
              "latent_heads": 3, "cross_dim_head": 8, "latent_dim_head": 6, "num_classes": 7,
              "weight_tie_layers": True, "self_per_cross_attn": 2, **options}  # fmt: skip
    inputs = {"data": pictures(*shape)}
    if visible:
        inputs["mask"] = np.arange(shape[1]) < np.array(visible)[:, None]
    return plain(Perceiver, "perceiver_pytorch.Perceiver", kwargs, inputs, ("data",))


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
SLOW = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}  # fmt: skip
SIGLIP = {"model_type": "siglip_vision_model"}

VARIANTS = {
    "vit rectangle": partial(vit, image_size=(18, 30), patch_size=(6, 5)),
    "vit remainder, no qkv bias": partial(vit, image_size=27, qkv_bias=False),
    "vit smaller image": partial(vit, size=(13, 20), hidden_act="relu"),
    "vit larger image, one channel": partial(vit, size=(31, 26), num_channels=1, dtype="bfloat16"),
    "vit names in memory": partial(vit, rename=vit_in_memory, hidden_act="gelu_fast"),
    "clip": partial(clip, mask=False, pad=47),
    "clip larger image": partial(clip, size=(30, 37), dtype="float16"),
    "clip largest id": partial(clip, text={"eos_token_id": 2}, pad=0),
    "clip activations": partial(
        clip,
        text={"hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
        vision={"hidden_act": "relu", "image_size": 26, "num_channels": 1},
    ),
    "clip image tower": partial(clip_vision, hidden_act="gelu", num_hidden_layers=3),
    "clip text tower": partial(clip_text, eos_token_id=2),
    "siglip": siglip,
    "siglip larger image": partial(siglip, size=(30, 37), mask=False),
    "siglip activations": partial(
        siglip, text={"hidden_act": "gelu"}, vision={"hidden_act": "quick_gelu", "image_size": 26}
    ),
    "bert": partial(bert, hidden_act="relu", type_vocab_size=3, pad_token_id=4),
    "bert words": partial(bert, words=True, hidden_act="gelu_new", rename=from_tensorflow),
    "gpt2": gpt2,
    "gpt2 first files": partial(gpt2, first_files=True, n_inner=50, activation_function="silu"),
    "gpt2 scores": partial(gpt2, scale_attn_by_inverse_layer_idx=True, n_layer=3),
    "gpt2 unscaled, not tied": partial(gpt2, scale_attn_weights=False, tie_word_embeddings=False),
    "llama": partial(llama, dtype="bfloat16"),
    "llama padded in front, tied": partial(llama, left=True, tie_word_embeddings=True),
    "llama biases": partial(llama, attention_bias=True, mlp_bias=True, num_key_value_heads=1),
    "llama heads": partial(llama, head_dim=10, num_key_value_heads=4, hidden_act="gelu"),
    "llama tanh": partial(llama, hidden_act="tanh", rms_norm_eps=1e-3),
    "llama quick_gelu": partial(llama, hidden_act="quick_gelu"),
    "llama linear": partial(llama, rope={"rope_type": "linear", "factor": 4.0}),
    "llama dynamic": partial(llama, rope={"rope_type": "dynamic", "factor": 4.0}),
    "llama llama3": partial(llama, rope=SLOW),
    "llama yarn": partial(llama, rope=YARN),
    "llama yarn, sizes": partial(
        llama, rope={**YARN, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False}
    ),
    "perceiver": perceiver,
    "perceiver queries' width": partial(perceiver, cross_attention_shape_for_attention="q"),
    "perceiver widths": partial(perceiver, qk_channels=16, v_channels=24, num_blocks=3),
    "perceiver no residual": partial(
        perceiver,
        use_query_residual=False,
        cross_attention_widening_factor=2,
        self_attention_widening_factor=3,
    ),
    "perceiver learned": partial(perceiver_images, "Learned", (6, 6), qk_channels=16,
                                 v_channels=24),
    "perceiver learned, stretched": partial(perceiver_images, "Learned", (8, 5)),
    "perceiver fourier": partial(perceiver_images, "Fourier", (4, 7), hidden_act="relu"),
    "idefics": idefics,
    "idefics padded in front": partial(idefics, left=True, images=1, additional_vocab_size=3),
    "idefics no resampler": partial(
        idefics, use_resampler=False, cross_layer_interval=2, num_hidden_layers=4
    ),
    "idefics plain": partial(
        idefics,
        qk_layer_norms=False,
        alpha_type="float",
        hidden_act="gelu",
        additional_vocab_size=0,
        vision={"hidden_act": "quick_gelu", "image_size": 20},
        perceiver={"qk_layer_norms_perceiver": False, "resampler_depth": 2},
    ),
    "llava": llava,
    "llava whole": partial(llava, vision_feature_select_strategy="full", vision_feature_layer=-1),
    "llava several layers": partial(llava, vision_feature_layer=[1, -2, 3], images=(1, 1)),
    "llava first layer, tied": partial(
        llava, vision_feature_layer=[0], text={"tie_word_embeddings": True}
    ),
    "llava activations": partial(
        llava, projector_hidden_act="relu", multimodal_projector_bias=False,
        vision={"hidden_act": "gelu"}, rename=in_memory,
    ),
    "llava siglip": partial(
        llava, vision=SIGLIP, vision_feature_select_strategy="full", vision_feature_layer=-1
    ),
    "llava siglip, no head": partial(
        llava, vision={**SIGLIP, "vision_use_head": False}, vision_feature_select_strategy="full"
    ),
    "mllama": mllama,
    "mllama two images": partial(
        mllama, images=2, tiles=((2, 1), (4, 0)), ratios=((2, 1), (6, 0)), rename=in_memory
    ),
    "mllama two tiles": partial(
        mllama,
        vision={"max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
                "image_size": 20, "hidden_act": "quick_gelu"},
        tiles=((2,), (1,)), ratios=((2,), (1,)),
        text={"hidden_act": "gelu", "num_key_value_heads": 4, "cross_attention_layers": [2]},
    ),
    "mllama layers": partial(
        mllama,
        vision={"intermediate_layers_indices": [2, 0, 1], "vision_output_dim": 96,
                "num_global_layers": 1},
        text={"rope_parameters": {"rope_theta": 1e4, **SLOW}},
    ),
    "flamingo resampler": resampler,
    "flamingo resampler of one": partial(resampler, shape=(2, 7, 24), ff_mult=1, heads=1),
    "flamingo block": gated,
    "flamingo block, all media": partial(gated, only_attend_immediate_media=False, ff_mult=2),
    "flamingo attention": partial(gated, MaskedCrossAttention, at=None),
    "lucid perceiver": lucid_perceiver,
    "lucid perceiver of texts": partial(lucid_perceiver, (2, 9, 4), visible=(9, 4)),
    "lucid perceiver, not tied": partial(lucid_perceiver, weight_tie_layers=False, depth=2),
    "lucid perceiver, latents": partial(
        lucid_perceiver, (1, 3, 2, 2, 3), final_classifier_head=False, fourier_encode_data=False
    ),
}  # fmt: skip
