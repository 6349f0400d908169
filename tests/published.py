"""Small folders of published models with random weights and a tokenizer trained on the spot."""

import json

import numpy as np
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from scratch_vlm.pretrained.load import Pretrained, configure, save_pretrained
from scratch_vlm.tree import tree_map

TEXTS = [
    "a photo of a cat", "a photo of a dog", "a cup of coffee on a table", "the astronaut smiles",
    "What is in the picture? A red car.", "How many people are there? Two people.",
]  # fmt: skip
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "image_size": 56,
    "patch_size": 14,
}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
SPECIALS = {  # begin, end, padding, and what stands for an image and around it
    "clip": ("<|startoftext|>", "<|endoftext|>", "<|endoftext|>"),
    "siglip": ("<unk>", "</s>", "</s>"),
    "llava": ("<s>", "</s>", "<pad>", "<image>"),
    "idefics": ("<s>", "</s>", "<unk>", "<fake_token_around_image>", "<image>"),
    "mllama": ("<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>",
               "<|start_header_id|>", "<|end_header_id|>", "<|image|>"),
}  # fmt: skip


def make_published(folder, family, *, seed=0, dtype="float32", scale=0.3):
    """Write the folder of a model of a family."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(family)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIALS[family]}
    published = CONFIGS[family](tokenizer.get_vocab_size(), ids)
    rng = np.random.default_rng(seed)
    kind, config, layout = configure(published)
    shapes = layout.shapes
    p = tree_map(lambda x: np.array(scale * rng.standard_normal(x.shape), "float32"), shapes)
    if "log_scale" in p:
        p["log_scale"][...] = 2.0
    names = {name: name for name in layout.published}
    save_pretrained(Pretrained(kind, config, p, layout, names, published, dtype), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    begin, end, pad = SPECIALS[family][:3]
    roles = {"bos_token": begin, "eos_token": end, "pad_token": pad}
    if family == "siglip":
        del roles["bos_token"]
    write(folder / "tokenizer_config.json", roles | {"tokenizer_class": "PreTrainedTokenizerFast"})
    write(folder / "preprocessor_config.json", PROCESSORS[family])
    return folder


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


def train_tokenizer(family):
    """Train a tokenizer that puts the same tokens around texts as those of the family."""
    specials = SPECIALS[family]
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if family in ("clip", "siglip"):
        tokenizer.normalizer = normalizers.Lowercase()
    ends = ("idefics", "siglip", "llava")  # these know <unk> or <pad> as a token like others
    last = specials[3:] if family in ("idefics", "mllama") else ()
    first = [s for s in dict.fromkeys(specials) if s not in last]
    trainer = trainers.BpeTrainer(
        vocab_size=300 if family in ends else 310,
        special_tokens=first,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 9, trainer)
    if last:
        tokenizer.add_special_tokens(list(last))
    ids = {token: tokenizer.token_to_id(token) for token in specials}
    begin, end = specials[:2]
    if family == "clip":
        tokenizer.post_processor = processors.RobertaProcessing(
            (end, ids[end]), (begin, ids[begin])
        )
    elif family == "siglip":
        tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [(end, ids[end])])
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            f"{begin} $A", None, [(begin, ids[begin])]
        )
    return tokenizer


def _clip(words, ids):
    text = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    text |= {"num_hidden_layers": 2, "vocab_size": words, "max_position_embeddings": 32}
    text |= {"eos_token_id": ids["<|endoftext|>"], "model_type": "clip_text_model"}
    vision = VISION | {"model_type": "clip_vision_model"}
    return {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 24,
            "text_config": text, "vision_config": vision}  # fmt: skip


def _siglip(words, ids):
    text = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    text |= {"num_hidden_layers": 2, "vocab_size": words, "max_position_embeddings": 32}
    text |= {"model_type": "siglip_text_model", "pad_token_id": ids["</s>"]}
    vision = VISION | {"model_type": "siglip_vision_model"}
    return {"model_type": "siglip", "architectures": ["SiglipModel"], "text_config": text,
            "vision_config": vision}  # fmt: skip


def _llava(words, ids):
    text = LLAMA | {"model_type": "llama", "vocab_size": words}
    return {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": text,
        "vision_config": VISION | {"model_type": "clip_vision_model"},
        "image_token_index": ids["<image>"],
        "eos_token_id": ids["</s>"],
    }


def _idefics(words, ids):
    vision = {"embed_dim": 32, "image_size": 56, "intermediate_size": 48, "patch_size": 14}
    vision |= {"num_attention_heads": 4, "num_hidden_layers": 2, "model_type": "idefics_vision"}
    perceiver = {"resampler_depth": 2, "resampler_head_dim": 8, "resampler_n_heads": 4}
    perceiver |= {"resampler_n_latents": 6, "model_type": "idefics_perciever"}
    return {
        **{name: n for name, n in LLAMA.items() if name != "num_key_value_heads"},
        "model_type": "idefics",
        "architectures": ["IdeficsForVisionText2Text"],
        "vocab_size": words - 2,
        "additional_vocab_size": 2,
        "alpha_type": "float",
        "cross_layer_interval": 2,
        "num_hidden_layers": 4,
        "use_resampler": True,
        "perceiver_config": perceiver,
        "vision_config": vision,
        "eos_token_id": ids["</s>"],
        "bos_token_id": ids["<s>"],
        "pad_token_id": ids["<unk>"],
    }


def _mllama(words, ids):
    text = LLAMA | {"vocab_size": words - 1, "cross_attention_layers": [1]}
    text |= {"rope_theta": 500000.0, "model_type": "mllama_text_model"}
    text |= {"eos_token_id": ids["<|eot_id|>"], "bos_token_id": ids["<|begin_of_text|>"]}
    text |= {"pad_token_id": ids["<|finetune_right_pad_id|>"]}
    vision = {"hidden_size": 32, "attention_heads": 4, "intermediate_size": 48, "patch_size": 14}
    vision |= {"num_hidden_layers": 3, "num_global_layers": 2, "image_size": 28}
    vision |= {"intermediate_layers_indices": [0, 2], "vision_output_dim": 96, "max_num_tiles": 4}
    vision |= {"model_type": "mllama_vision_model"}
    return {
        "model_type": "mllama",
        "architectures": ["MllamaForConditionalGeneration"],
        "text_config": text,
        "vision_config": vision,
        "image_token_index": ids["<|image|>"],
    }


CONFIGS = {
    "clip": _clip, "siglip": _siglip, "llava": _llava, "idefics": _idefics, "mllama": _mllama,
}  # fmt: skip
_CROPPED = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}, "resample": 3}
PROCESSORS = {
    "clip": {"image_processor_type": "CLIPImageProcessor"} | _CROPPED,
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 56, "width": 56}},
    "llava": {"image_processor_type": "CLIPImageProcessor"} | _CROPPED,
    "idefics": {"image_processor_type": "IdeficsImageProcessor", "image_size": 56},
    "mllama": {
        "image_processor_type": "MllamaImageProcessor",
        "size": {"height": 28, "width": 28},
        "max_image_tiles": 4,
    },
}
