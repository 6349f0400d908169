"""The language model on captions: its splits, its baseline, and a short training."""

import json

import numpy as np
import pytest

from scratch_vlm import cli
from scratch_vlm.data.tokens import BEGIN, PAD
from scratch_vlm.experiments import language
from scratch_vlm.experiments.language import TOKENS, Bigrams, captions, tokenizer
from scratch_vlm.inference.generate import log_probabilities
from scratch_vlm.training.checkpoint import CheckpointError
from scratch_vlm.tree import leaves


def test_no_caption_stands_in_two_splits_and_all_describe_scenes():
    splits = [set(captions(name)) for name in ("train", "val", "test", "single")]
    assert sum(map(len, splits)) == len(set.union(*splits)) < len(captions("all"))
    assert set.union(*splits) < set(captions("all"))
    assert len(captions("val")) == len(captions("test")) > 100


def test_held_back_captions_are_made_of_known_words_and_tokens():
    known = {word for caption in captions("train") for word in caption.split()}
    assert {word for caption in captions("all") for word in caption.split()} == known
    for name in ("val", "test"):
        assert {len(tokenizer().tokens(caption)) for caption in captions(name)} == {5}


def test_a_split_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="come in train, val, test, single and all, not 'dev'"):
        captions("dev")


def test_bigrams_are_a_distribution_that_knows_pairs_and_forgets_the_rest():
    bigrams = Bigrams()
    np.testing.assert_allclose(np.exp(bigrams.unigrams()).sum(), 1)
    row = np.full((1, len(tokenizer())), BEGIN)
    ids = np.stack([row[0], np.arange(len(tokenizer()))], 1)
    np.testing.assert_allclose(np.exp(bigrams.log_probabilities(ids)).sum(), 1)
    right, wrong = tokenizer().encode(
        ["red seven above blue one", "red red above blue one"], TOKENS
    )
    assert (
        bigrams.log_probabilities(right[None]).sum() > bigrams.log_probabilities(wrong[None]).sum()
    )


@pytest.mark.parametrize("style", ["gpt", "llama"])
def test_a_short_training_learns_and_is_read_back_with_its_tokenizer(style, tmp_path):
    p = language.train_model(tmp_path, steps=40, style=style, progress=False)
    again, config, bpe = language.load_model(tmp_path, style=style)
    for (name, a), (_, b) in zip(leaves(p), leaves(again), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    ids = bpe.encode(captions("val"), TOKENS)
    counted = (ids != PAD)[:, 1:]
    loss = -log_probabilities(ids, again, config)[:, 1:][counted].mean()
    unigrams = -Bigrams().unigrams()[ids[:, 1:]][counted].mean()
    assert loss < unigrams

    metrics = language.measure(p, "val", style=style)
    np.testing.assert_allclose(metrics["perplexity"]["val"]["value"], np.exp(loss), rtol=1e-5)
    assert 1 < metrics["perplexity"]["lowest"] < metrics["perplexity"]["val"]["baseline"]
    assert metrics["perplexity"]["val"]["baseline"] < metrics["perplexity"]["unigram"]
    for name in ("written_valid", "written_valid_and_new"):
        assert 0 <= metrics[name]["value"] <= 1
    other = {"gpt": "llama", "llama": "gpt"}[style]
    with pytest.raises(CheckpointError, match="does not fit the model"):
        language.load_model(tmp_path, style=other)


def test_the_command_line_trains_either_style(tmp_path, capsys):
    out = tmp_path / "lm"
    assert cli.main(["train", "lm", "--style", "llama", "--steps", "2", "--out", str(out)]) == 0
    assert "lm-llama.perplexity.val" in capsys.readouterr().out
    assert "lm-llama" in json.loads((out / "metrics.json").read_text())
    assert (out / "tokenizer.json").exists()


def test_a_style_of_what_has_none_is_refused(capsys):
    assert cli.main(["train", "vit", "--style", "gpt"]) == 2
    assert "--style is for lm; vit has none" in capsys.readouterr().err
    with pytest.raises(ValueError, match="style must be one of gpt, llama, got 'bert'"):
        language.model_of("bert")
