"""Shots: what the model can see, what is measured, and a training of a few steps."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from scratch_vlm.data.chat import chat_batch
from scratch_vlm.data.episodes import ANSWERS, RULES, chats_under, evaluation_episodes
from scratch_vlm.experiments import scenes, shots
from scratch_vlm.experiments.chats import ANSWER_TOKENS, CONTEXT, tokenizer
from scratch_vlm.experiments.runs import load_model
from scratch_vlm.models.clip import clip_init
from scratch_vlm.models.cross_modal import (
    cross_modal_forward,
    cross_modal_init,
    cross_trunk_forward,
    look_forward,
    seen_mask,
)
from scratch_vlm.models.lm import lm_init
from scratch_vlm.tree import leaves

MODEL = shots.MODEL
P = cross_modal_init(np.random.default_rng(0), MODEL)
TEST = evaluation_episodes("val", 3, 2)
IDS, LABELS = chat_batch(tokenizer(), chats_under(TEST.answers, TEST.rules))
MEDIA = scenes.prepare(TEST.images).reshape(9, 1, 24, 24, 3)
TURN = (IDS == MODEL.image).cumsum(1)  # of each token, from 1; the row begins with 0
LAST = np.flatnonzero(TURN[0] == 3)


def with_another_first_image():
    media = MEDIA.copy()
    media[::3] = MEDIA[1::3]
    return media


def test_a_word_sees_the_image_of_its_own_turn_and_no_other():
    tokens = MODEL.sight.tokens(1)
    seen = seen_mask(IDS, MODEL, MEDIA, 3 * tokens)
    assert seen.shape == (3, 1, IDS.shape[1], 3 * tokens)
    for row in range(3):
        for t in range(IDS.shape[1]):
            for s in range(3 * tokens):
                assert seen[row, 0, t, s] == (TURN[row, t] == s // tokens + 1)


def test_the_image_of_a_shot_reaches_the_last_answer_through_words_alone():
    first, other = (
        cross_modal_forward(IDS, media, P, config=MODEL)[0]
        for media in (MEDIA, with_another_first_image())
    )
    assert (first[:, 0] == other[:, 0]).all()  # before it stands only the beginning
    assert abs(first[:, LAST] - other[:, LAST]).max() > 1e-6

    # No word of the last turn reads a word of another: then nothing is left of the change.
    causal = np.tril(np.ones((IDS.shape[1], IDS.shape[1]), bool))
    apart = (causal & (TURN[:, :, None] == TURN[:, None]))[:, None]  # (B, 1, T, T)
    hidden = []
    for media in (MEDIA, with_another_first_image()):
        z, _ = look_forward(IDS, media, P, config=MODEL)
        seen = seen_mask(IDS, MODEL, media, z.shape[1])
        x = P["lm"]["tokens"]["w"][IDS]
        hidden.append(cross_trunk_forward(x, z, P, config=MODEL, seen=seen, mask=apart)[0])
    np.testing.assert_array_equal(hidden[0][:, LAST], hidden[1][:, LAST])
    assert (hidden[0] != hidden[1]).any()


def test_every_answer_is_learned_and_fits_what_a_model_may_write():
    for row, labels in zip(chats_under(TEST.answers, TEST.rules), LABELS, strict=True):
        said = tokenizer().text(labels[labels >= 0]).replace("<eos>", "").split()
        assert said == [turn.answer for turn in row]
    for word in (word for names in ANSWERS.values() for word in names):
        assert len(tokenizer().tokens(f" {word}")) < ANSWER_TOKENS


def test_the_most_shots_fit_the_context():
    most = evaluation_episodes("val", 1, max(shots.MEASURED))
    ids, _ = chat_batch(tokenizer(), chats_under(most.answers, most.rules))
    assert ids.shape[1] <= CONTEXT
    assert max(shots.MEASURED) > shots.SHOTS


def test_questions_come_with_their_images_in_order(monkeypatch):
    given = {}

    def answer(prompts, media, p, config, **_):
        given.update(prompts=prompts, media=media)
        return type("Said", (), {"ids": [tokenizer().tokens(" red") for _ in prompts]})

    monkeypatch.setattr(shots, "answer", answer)
    said = shots.answers(P, TEST.images, chats_under(TEST.answers, TEST.rules, asked=True))
    assert said == ["red"] * 3
    np.testing.assert_array_equal(given["media"], MEDIA)
    for prompt, row in zip(given["prompts"], IDS, strict=True):
        assert prompt == row[: len(prompt)].tolist() and len(row) - len(prompt) == ANSWER_TOKENS


def reader(truth, p, images, chats, *, rule_of):
    """Read every image perfectly, and answer by the rule that `rule_of` makes of the shots."""
    said = []
    for every, chat in zip(images, chats, strict=True):
        facts = [truth[image.tobytes()] for image in every]
        said.append(facts[-1][rule_of(chat[:-1], facts)])
    return said


def by_words(shots, facts):
    return next((i for i, r in enumerate(RULES) for t in shots if t.answer in ANSWERS[r]), 0)


def by_images(shots, facts):
    return next(
        (i for t, f in zip(shots, facts, strict=False) for i in range(3) if t.answer == f[i]), 0
    )


def never(shots, facts):
    return 0


@pytest.mark.parametrize(
    "rule_of, learns, strangers",
    [(by_words, True, True), (by_images, True, False), (never, False, False)],
)
def test_what_is_measured_tells_how_the_rule_was_found(rule_of, learns, strangers, monkeypatch):
    count = 60
    test = evaluation_episodes("val", count, max(shots.MEASURED))
    pixels = test.images.reshape(-1, 24, 24, 3)
    truth = {x.tobytes(): a for x, a in zip(pixels, test.answers.reshape(-1, 3), strict=True)}
    monkeypatch.setattr(shots, "answers", partial(reader, truth, rule_of=rule_of))
    metrics = shots.measure(None, "val", count=count)
    guessed = np.mean(test.rules == 0)
    assert metrics["by_shots"]["0"]["value"] == guessed
    assert metrics["any_rule"]["value"] == 1
    for k in shots.MEASURED[1:]:
        assert metrics["by_shots"][str(k)]["value"] == (1 if learns else guessed)
    assert (
        metrics["by_rule"]["digit"]["value"] == learns
        and metrics["by_rule"]["colour"]["value"] == 1
    )
    assert metrics["other_rule"]["value"] == (1 if learns else np.mean(test.rules == 2))
    value = metrics["strange_images"]["value"]
    assert value == 1 if strangers else guessed <= value < 0.95


def test_a_short_training_learns_and_can_be_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(shots, "TRAINING", replace(shots.TRAINING, batch_size=8))
    rng = np.random.default_rng(0)
    clip, lm = clip_init(rng, scenes.MODEL), lm_init(rng, MODEL.lm)
    p = shots.train_model(tmp_path, clip=clip, lm=lm, steps=12, progress=False)
    losses = np.loadtxt(tmp_path / "metrics.csv", delimiter=",", skiprows=1, usecols=1)
    assert losses[-3:].mean() < 0.8 * losses[0]
    model = load_model(tmp_path)
    assert model.kind == "cross_modal" and model.config == MODEL
    for (name, a), (_, b) in zip(leaves(p), leaves(model.p), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    metrics = shots.measure(p, "val", count=4)
    assert set(metrics["by_shots"]) == {"0", "1", "2", "4", "8"}
    for group in (metrics["by_shots"], metrics["by_rule"]):
        assert all(0 <= entry["value"] <= 1 for entry in group.values())


def test_runs_of_other_seeds_and_steps_are_told_apart():
    config, identity = shots.settings(seed=3, steps=7)
    assert (config.seed, config.steps) == (3, 7)
    assert identity["shots"] == shots.SHOTS
    assert shots.settings()[0].steps == shots.TRAINING.steps
