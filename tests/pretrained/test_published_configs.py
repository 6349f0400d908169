"""Configs as released models have them: much in them is of training, generation, or long gone."""

import json

import pytest

from scratch_vlm.pretrained.load import CLASSES, REFUSED, configure
from scratch_vlm.pretrained.options import OptionError

EVERY = {  # what older versions of the library wrote into every config, and every one inside
    "_name_or_path": "", "add_cross_attention": False, "architectures": None,
    "bad_words_ids": None, "begin_suppress_tokens": None, "bos_token_id": 0,
    "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None,
    "decoder_start_token_id": None, "diversity_penalty": 0.0, "do_sample": False,
    "early_stopping": False, "encoder_no_repeat_ngram_size": 0, "eos_token_id": 2,
    "exponential_decay_length_penalty": None, "finetuning_task": None,
    "forced_bos_token_id": None, "forced_eos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False,
    "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0,
    "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1,
    "num_beams": 1, "num_return_sequences": 1, "output_attentions": False,
    "output_hidden_states": False, "output_scores": False, "pad_token_id": 1, "prefix": None,
    "problem_type": None, "pruned_heads": {}, "remove_invalid_values": False,
    "repetition_penalty": 1.0, "return_dict": True, "return_dict_in_generate": False,
    "sep_token_id": None, "suppress_tokens": None, "task_specific_params": None,
    "temperature": 1.0, "tf_legacy_loss": False, "tie_encoder_decoder": False,
    "tie_word_embeddings": True, "tokenizer_class": None, "top_k": 50, "top_p": 1.0,
    "torch_dtype": None, "torchscript": False, "transformers_version": "4.31.0",
    "typical_p": 1.0, "use_bfloat16": False,
}  # fmt: skip
TEXT = {**EVERY, "attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "quick_gelu",
        "hidden_size": 768, "initializer_factor": 1.0, "initializer_range": 0.02,
        "intermediate_size": 3072, "layer_norm_eps": 1e-05, "max_position_embeddings": 77,
        "model_type": "clip_text_model", "num_attention_heads": 12, "num_hidden_layers": 12,
        "projection_dim": 768, "vocab_size": 49408}  # fmt: skip
VISION = {**EVERY, "attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "quick_gelu",
          "hidden_size": 1024, "image_size": 224, "intermediate_size": 4096,
          "layer_norm_eps": 1e-05, "model_type": "clip_vision_model", "num_attention_heads": 16,
          "num_channels": 3, "num_hidden_layers": 24, "patch_size": 14,
          "projection_dim": 768}  # fmt: skip
CLIP = {"_commit_hash": None, "architectures": ["CLIPModel"], "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592, "model_type": "clip", "projection_dim": 768,
        "text_config": TEXT, "vision_config": VISION, "torch_dtype": "float32",
        "transformers_version": None}  # fmt: skip
TWICE = {
    "text_config_dict": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
                         "num_hidden_layers": 12, "projection_dim": 768},
    "vision_config_dict": {"hidden_size": 1024, "intermediate_size": 4096,
                           "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14},
}  # fmt: skip
SLOW = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"}  # fmt: skip
TOWER = {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
         "model_type": "clip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 24,
         "patch_size": 14, "projection_dim": 768, "vocab_size": 32000}  # fmt: skip
BERT = {"model_type": "bert", "hidden_size": 768, "type_vocab_size": 2, "vocab_size": 30522}

RELEASED = {
    "a CLIP": {**CLIP, "text_config_dict": None, "vision_config_dict": None},
    "a CLIP that says it twice": CLIP | TWICE,
    "an image tower": {**VISION, "architectures": ["CLIPVisionModelWithProjection"]},
    "a BERT of many languages": {
        **BERT, "architectures": ["BertForMaskedLM"], "directionality": "bidi",
        "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3,
        "pooler_size_per_head": 128, "pooler_type": "first_token_transform",
    },
    "a small GPT-2": {
        "_num_labels": 1, "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
        "n_layer": 6, "output_past": True, "predict_special_tokens": True,
    },
    "a first Llama": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_sequence_length": 2048,
        "pad_token_id": -1, "rms_norm_eps": 1e-6, "use_cache": True,
    },
    "a small Llama": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576,
        "num_attention_heads": 9, "num_key_value_heads": 3, "is_llama_config": True,
        "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000,
        "tie_word_embeddings": True, "transformers.js_config": {"dtype": "q4"},
    },
    "a Llama of long texts": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "max_position_embeddings": 65536,
        "rope_scaling": {"factor": 16.0, "type": "yarn", "finetuned": True,
                         "original_max_position_embeddings": 4096},
    },
    "a LLaVA": {
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava",
        "ignore_index": -100, "image_token_index": 32000, "pad_token_id": 32001,
        "projector_hidden_act": "gelu", "vocab_size": 32064, "image_seq_length": 576,
        "text_config": {"_name_or_path": "vicuna", "architectures": ["LlamaForCausalLM"],
                        "max_position_embeddings": 4096, "model_type": "llama",
                        "rms_norm_eps": 1e-05, "torch_dtype": "float16", "vocab_size": 32064},
        "vision_config": TOWER, "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    },
    "a LLaVA of a Mistral": {
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava",
        "text_config": {"architectures": ["MistralForCausalLM"], "intermediate_size": 14336,
                        "max_position_embeddings": 32768, "model_type": "mistral",
                        "num_key_value_heads": 8, "sliding_window": 4096, "vocab_size": 32064},
        "vision_config": TOWER,
    },
    "a LLaVA of a Qwen": {
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava",
        "text_config": {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 1024,
                        "intermediate_size": 2816, "max_window_layers": 21,
                        "model_type": "qwen2", "num_attention_heads": 16,
                        "num_key_value_heads": 16, "rope_theta": 1000000.0,
                        "sliding_window": 32768, "tie_word_embeddings": True,
                        "vocab_size": 152000},
        "vision_config": {"hidden_size": 1152, "image_size": 384, "intermediate_size": 4304,
                          "model_type": "siglip_vision_model", "num_attention_heads": 16,
                          "num_hidden_layers": 26, "patch_size": 14, "vision_use_head": False},
        "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
    },
    "an Idefics": {
        "additional_vocab_size": 2, "alpha_initializer": "zeros", "alpha_type": "float",
        "architectures": ["IdeficsForVisionText2Text"], "cross_layer_interval": 4,
        "cross_layer_activation_function": "swiglu", "ffn_dim": 16384, "max_new_tokens": 100,
        "max_sequence_length": 2048, "model_type": "idefics", "qk_layer_norms": True,
        "tie_word_embeddings": False, "unk_token_id": 0, "use_resampler": True,
        "perceiver_config": {**EVERY, "model_type": "idefics", "qk_layer_norms_perceiver": True,
                             "use_resampler": False},
        "vision_config": {**EVERY, "embed_dim": 1280, "model_type": "idefics",
                          "projection_dim": 512, "vision_model_name": "laion"},
        "word_embed_proj_dim": 4096,
    },
    "an Mllama": {
        "architectures": ["MllamaForConditionalGeneration"], "image_token_index": 128256,
        "model_type": "mllama",
        "text_config": {**EVERY, "model_type": "mllama_text_model", "rope_scaling": SLOW,
                        "rope_theta": 500000.0, "tie_word_embeddings": False},
        "vision_config": {**EVERY, "attention_heads": 16, "model_type": "mllama_vision_model"},
    },
    "a Perceiver": {
        **EVERY, "_label_trainable_num_channels": 1024, "audio_samples_per_frame": 1920,
        "architectures": ["PerceiverForImageClassificationLearned"], "d_latents": 1024,
        "d_model": 512, "image_size": 56, "model_type": "perceiver", "num_blocks": 8,
        "num_cross_attention_heads": 1, "num_frames": 16, "num_latents": 512,
        "num_self_attends_per_block": 6, "output_shape": [1, 16, 224, 224],
        "samples_per_patch": 16, "train_size": [368, 496], "vocab_size": 262,
    },
}  # fmt: skip


def read(content):
    return configure(json.loads(json.dumps(content)))


@pytest.mark.parametrize("name", RELEASED)
def test_configs_of_released_models_are_read(name):
    kind, _, layout = read(RELEASED[name])
    assert kind == RELEASED[name]["architectures"][0]
    assert layout.published


@pytest.mark.parametrize(
    ("options", "context"),
    [({}, 4096), ({"sliding_window": None}, 8192), ({"sliding_window": 512}, 512)],
)
def test_a_mistral_reads_no_more_than_its_tokens_see(options, context):
    config = {"model_type": "mistral", "max_position_embeddings": 8192, **options}
    assert read(config)[1].context == context


def test_a_qwen_looks_at_all_unless_told_otherwise():
    config = {"model_type": "qwen2", "sliding_window": 512, "layer_types": ["full_attention"]}
    assert read(config)[1].context == 32_768
    assert read({**config, "use_sliding_window": True})[1].context == 512


def test_what_a_clip_says_twice_is_taken_from_the_second_as_the_library_does():
    once, twice = read(CLIP)[1], read(CLIP | TWICE)[1]
    assert once.image == twice.image
    assert (once.text.pool, twice.text.pool) == ("largest", "end")  # its default replaces 2
    other = {**TWICE, "vision_config_dict": {**TWICE["vision_config_dict"], "patch_size": 16}}
    assert read(CLIP | other)[1].image.patch == (16, 16)


@pytest.mark.parametrize(
    ("where", "option", "said"),
    [
        ("a BERT of many languages", {"is_decoder": True}, "is_decoder True is not implemented"),
        ("a first Llama", {"pruned_heads": {"0": [1]}}, "not known here: pruned_heads"),
        ("a first Llama", {"sliding": True}, "not known here: sliding"),
        ("a first Llama", {"sliding": 0}, "not known here: sliding"),
        ("a first Llama", {"quantization_config": {"quant_method": "gptq"}}, "quantised by gptq"),
    ],
)
def test_an_option_that_is_on_and_changes_something_is_refused(where, option, said):
    with pytest.raises(OptionError, match=said):
        read(RELEASED[where] | option)


@pytest.mark.parametrize("kind", REFUSED)
def test_models_of_the_families_that_are_not_implemented_say_why(kind):
    assert kind not in CLASSES
    with pytest.raises(OptionError, match=f"the model '{kind}': {REFUSED[kind]}"):
        read({"architectures": [kind], "model_type": "perceiver"})
