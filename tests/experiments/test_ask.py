"""Asking trained models about files: what they are shown, what they say, and how they say no."""

import json
import math
import os
import sys

import numpy as np
import pytest

from scratch_vlm import cli
from scratch_vlm.data.bpe import train_bpe
from scratch_vlm.data.chat import CHAT_SPECIALS, IMAGE, Turn, answer_text, encode_chat
from scratch_vlm.data.files import MediaError
from scratch_vlm.data.tokens import END
from scratch_vlm.experiments import ask as asking
from scratch_vlm.experiments import scenes
from scratch_vlm.experiments.ask import (
    Answer,
    ask,
    caption,
    classify,
    is_video,
    model_for,
    open_media,
    plain,
    unread_words,
)
from scratch_vlm.experiments.runs import KINDS, ModelError, load_model, save_model
from scratch_vlm.inference.answer import answer
from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.connector import ConnectorConfig
from scratch_vlm.layers.gated import GatedConfig
from scratch_vlm.models.cross_modal import CrossModalConfig
from scratch_vlm.models.lm import LMConfig
from scratch_vlm.models.unified import UnifiedConfig
from scratch_vlm.models.vision import SightConfig, TowerConfig
from scratch_vlm.models.vit import ViTConfig
from scratch_vlm.training.checkpoint import save_checkpoint

Image = pytest.importorskip("PIL.Image", reason="Pillow, of the extra io, is not installed")

QUESTIONS = ["what colour is seven", "what digit is red", "describe the board"]
WORDS = " ".join([*QUESTIONS, "blue three"]).split()
BPE = train_bpe(
    [f" {word}" for word in WORDS] * 9,
    vocabulary=400,
    specials=CHAT_SPECIALS,
    split="spaces",
)
BLOCK = BlockConfig(8, 2, 12)
SIGHT = SightConfig(
    TowerConfig(ViTConfig((24, 24, 3), (8, 8), 4, BLOCK, 2)), ConnectorConfig("linear", 8, 8)
)
LM = LMConfig(len(BPE), 100, BLOCK, 1, tied=False, token_std=1.0)
UNIFIED = UnifiedConfig(SIGHT, LM, BPE.id(IMAGE))
CROSS = CrossModalConfig(SIGHT, LM, GatedConfig(BLOCK, 8, gate=0.9), (0,), BPE.id(IMAGE))
ABOUT = {"media": "image", "questions": QUESTIONS[:2], "caption": QUESTIONS[2]}
STATE = {"step": 2, "run": {"config": {"steps": 2}}}


def make(folder, kind="unified", **about):
    """Write the folder of a run with random parameters."""
    config = {"unified": UNIFIED, "cross_modal": CROSS, "clip": scenes.MODEL, "lm": LM}[kind]
    p = KINDS[kind][1](np.random.default_rng(1), config)
    if "lm" in p:  # it says whole words: no single bytes, no special tokens but the end
        silent = [i for i in range(len(BPE)) if i != END and BPE.text([i]).strip() not in WORDS]
        p["lm"]["ln"]["beta"][0] = 3
        p["lm"]["head"]["w"] = np.random.default_rng(2).normal(size=(8, len(BPE))).astype("f")
        p["lm"]["head"]["w"][0] = 0
        p["lm"]["head"]["w"][0, silent] = -100
    save_checkpoint(folder / "checkpoint", p, {}, STATE)
    tokenizer = scenes.VOCABULARY if kind == "clip" else BPE
    save_model(folder, kind, config, tokenizer, {**ABOUT, **about})
    return folder


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(noise(24, 24)).save(path)
    return path


@pytest.fixture
def film(tmp_path):
    """Seven frames, each of a single grey that tells its number."""
    path = tmp_path / "film.gif"
    first, *rest = (Image.new("L", (30, 24), 10 * i) for i in range(7))
    first.save(path, save_all=True, append_images=rest, duration=100)
    return path


def numbers(frames):
    return [round(float(frame.mean()) * 25.5) for frame in frames]


def test_image_of_the_right_size_is_read_exactly(picture):
    media = open_media(picture)
    assert media.shape == (1, 24, 24, 3) and media.dtype == np.float32
    np.testing.assert_array_equal(media[0], noise(24, 24).astype(np.float32) / 255)


@pytest.mark.parametrize(("height", "width"), [(40, 20), (20, 40), (23, 7), (1, 9)])
def test_the_middle_of_an_image_is_kept_unsqueezed(tmp_path, height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    media = open_media(tmp_path / "a.png", (12, 12))
    assert media.shape == (1, 12, 12, 3)
    np.testing.assert_allclose(media, 1, rtol=1e-6)


def test_oblong_models_see_the_middle_in_their_shape(tmp_path):
    Image.fromarray(noise(20, 20)).save(tmp_path / "a.png")
    media = open_media(tmp_path / "a.png", (10, 20))
    np.testing.assert_array_equal(media[0], noise(20, 20)[5:15].astype(np.float32) / 255)


@pytest.mark.parametrize(
    ("frames", "kept"),
    [(None, range(7)), (10**12, range(7)), (7, range(7)), (1, [3]), (2, [1, 5]), (3, [1, 3, 5])],
)
def test_frames_are_taken_at_equal_distances(film, frames, kept):
    media = open_media(film, frames=frames)
    assert media.shape[1:] == (24, 24, 3) and numbers(media) == list(kept)


def test_video_files_are_read_like_animations(tmp_path):
    av = pytest.importorskip("av", reason="PyAV, of the extra io, is not installed")
    path = tmp_path / "film.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=5)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for i in range(4):
            frame = np.full((32, 48, 3), 60 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert is_video(path)
    assert numbers(open_media(path, takes="video", frames=2)) == [6, 18]


def test_video_of_no_frames_is_refused(tmp_path):
    av = pytest.importorskip("av", reason="PyAV, of the extra io, is not installed")
    for path, codec in ((tmp_path / "none.webm", "libvpx"), (tmp_path / "none.mp4", "libx264")):
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=5)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
            container.start_encoding()
        with pytest.raises(MediaError, match=rf"{path.name} (has no pictures|is damaged)"):
            open_media(path, takes="video")
        assert not is_video(path)


def test_media_that_the_model_was_not_trained_on_are_refused(picture, film):
    with pytest.raises(MediaError, match=r"picture.png is an image; .* trained on videos"):
        open_media(picture, takes="video")
    with pytest.raises(MediaError, match=r"film.gif is a video; .* trained on images"):
        open_media(film, takes="image")
    with pytest.raises(ValueError, match="frames must be at least 1, got 0"):
        open_media(film, frames=0)


@pytest.mark.parametrize("takes", ["image", "video", "both"])
def test_files_that_cannot_be_read_are_named(tmp_path, picture, film, takes):
    (tmp_path / "note.txt").write_text("what colour is seven? é\n" * 200, encoding="utf-8")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(noise(30, 30).tobytes())
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:200])
    (tmp_path / "head.png").write_bytes(picture.read_bytes()[:20])
    (tmp_path / "cut.gif").write_bytes(film.read_bytes()[:-20])
    for name, message in (
        ("note.txt", r"note.txt is a text, not an image or a video"),
        ("empty.png", r"empty.png is empty: 0 bytes"),
        ("noise.mp4", r"noise.mp4 is (no image|damaged, cut short, or of an unknown kind)"),
        ("cut.png", r"cut.png is (damaged, cut short|an image)"),
        ("head.png", r"head.png is damaged or cut short"),
        (".", r"is a folder, not an image or a video"),
    ):
        with pytest.raises(MediaError, match=message):
            open_media(tmp_path / name, takes=takes)
        assert not is_video(tmp_path / name)
    (tmp_path / "none.gif").write_bytes(film.read_bytes()[:13] + b";")  # of zero frames
    with pytest.raises(MediaError, match=r"none.gif is (damaged|a video; .* on images)"):
        open_media(tmp_path / "none.gif", takes=takes)
    with pytest.raises(MediaError, match=r"cut.gif is (damaged|a video; .* on images)"):
        open_media(tmp_path / "cut.gif", takes=takes)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.png"):
        open_media(tmp_path / "none.png", takes=takes)


@pytest.mark.parametrize("kind", ["unified", "cross_modal"])
def test_answer_is_that_of_the_model_for_the_image_and_question(tmp_path, picture, kind):
    model = load_model(make(tmp_path / "run", kind))
    pieces = []
    said = ask(model, picture, QUESTIONS[0], on_text=pieces.append)
    media = scenes.prepare(noise(24, 24).astype(np.float32)[None, None] / 255)
    prompt, _ = encode_chat(
        BPE, [Turn(QUESTIONS[0], media=1)], placeholders=9 if kind == "unified" else 1
    )
    right = answer([prompt], media, model.p, model.config, new=32, stop=(END,))
    assert said.text == answer_text(BPE, right.ids[0]) != ""
    assert said.logprob == right.logprobs[0].sum() < 0
    assert said.probability == math.exp(said.logprob)
    assert "".join(pieces) == said.text and len(pieces) > 1
    assert ask(tmp_path / "run", str(picture), "  What colour is\nSEVEN ? ") == said


def test_temperature_draws_with_the_seed(tmp_path, picture):
    model = load_model(make(tmp_path / "run"))
    drawn = [ask(model, picture, "red", temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_answers_stop_where_the_model_has_no_more_room(tmp_path, picture):
    model = load_model(make(tmp_path / "run", "cross_modal"))
    prompt = 2 + 95  # begin and image, words
    said = ask(model, picture, "red " * 95)
    assert len(said.text.split()) == LM.context - prompt == 3
    with pytest.raises(ValueError, match="1 frames are 102 tokens; the model reads 100, its answ"):
        ask(model, picture, "red " * 100)


@pytest.mark.parametrize("question", ["", " \n", "?"])
def test_empty_question_is_refused_with_examples(tmp_path, picture, question):
    with pytest.raises(ValueError, match="is empty; ask, for example: what colour is seven, what"):
        ask(make(tmp_path / "run"), picture, question)


def test_videos_get_as_many_frames_as_the_model_was_trained_with(tmp_path, film, monkeypatch):
    model = load_model(make(tmp_path / "run", media="video", frames=3))
    seen = []

    def looked(prompts, media, *args, **options):
        seen.append(media.shape)
        return answer(prompts, media, *args, **options)

    monkeypatch.setattr(asking, "answer", looked)
    said = [ask(model, film, "what digit is red", frames=f) for f in (None, 3, 2)]
    assert seen == [(1, f, 24, 24, 3) for f in (3, 3, 2)]
    assert said[0] == said[1] != said[2]


def test_caption_is_the_answer_to_its_question(tmp_path, picture):
    model = load_model(make(tmp_path / "run"))
    assert caption(model, picture) == ask(model, picture, "describe the board")
    save_model(tmp_path / "run", "unified", UNIFIED, BPE, {"questions": ["what is red"]})
    with pytest.raises(ModelError, match=r"not trained to describe .*; ask, for example: what is"):
        caption(tmp_path / "run", picture)


def test_models_of_other_kinds_are_refused(tmp_path, picture):
    lm, vlm = make(tmp_path / "lm", "lm"), make(tmp_path / "vlm")
    with pytest.raises(ModelError, match="lm holds a language model, where a unified vision"):
        ask(lm, picture, "red")
    with pytest.raises(ModelError, match="to caption takes a model of kind unified or cross_mod"):
        caption(load_model(lm), picture)
    with pytest.raises(ModelError, match=r"vlm holds a unified .*, where a CLIP is needed"):
        classify(vlm, picture, ["red", "blue"])


def test_words_that_were_never_read_are_named_with_the_nearest(tmp_path):
    model = load_model(make(tmp_path / "run"))
    assert unread_words(model, "What color is xyz?") == [("color", "colour"), ("xyz", None)]
    assert unread_words(model, QUESTIONS[0]) == []


@pytest.mark.parametrize("kind", ["unified", "cross_modal"])
def test_question_with_a_special_token_is_refused_in_one_line(tmp_path, picture, kind, capsys):
    folder = make(tmp_path / "run", kind)
    for token in ("<image>", "<pad>", "<bos>", "<eos>"):
        said = f"the question 'what {token} is' holds {token}, a special token"
        assert cli.main(["ask", str(picture), f"What {token} is?", "--model", str(folder)]) == 2
        assert capsys.readouterr().err.startswith(f"scratch-vlm ask: {said}")
        with pytest.raises(ValueError, match=said):
            ask(folder, picture, f"what {token} is")


def test_plain_keeps_words_with_hyphens():
    assert plain("What digit is  Top-Left ?!") == "what digit is top-left"


def test_classes_are_the_probabilities_of_the_clip(tmp_path):
    folder = make(tmp_path / "clip", "clip")
    p = load_model(folder).p
    images = noise(1, 24, 24).astype(np.float32) / 255
    Image.fromarray(noise(24, 24)).save(tmp_path / "a.png")
    labels = ["red seven", "blue three", "green one"]
    scores = scenes.image_embeddings(p, images) @ scenes.text_embeddings(p, labels).T
    right = np.exp(math.exp(float(p["log_scale"])) * scores[0].astype(float))
    right = dict(zip(labels, right / right.sum(), strict=True))
    found = classify(folder, tmp_path / "a.png", ["Red seven", " blue three", "green  one"])
    assert [probability for _, probability in found] == sorted(dict(found).values(), reverse=True)
    assert dict(found) == pytest.approx(right, rel=1e-4)
    assert sum(dict(found).values()) == pytest.approx(1, rel=1e-6)


def test_templates_make_a_class_of_several_texts(tmp_path, picture):
    model = load_model(make(tmp_path / "clip", "clip"))
    one = classify(model, picture, ["one", "two"], templates=["red {}"])
    assert dict(one) == {
        label.split()[1]: p for label, p in classify(model, picture, ["red one", "red two"])
    }
    both = dict(classify(model, picture, ["one", "two"], templates=["red {}", "blue {}"]))
    assert both["one"] != dict(one)["one"]


@pytest.mark.parametrize(
    ("labels", "templates", "error", "message"),
    [
        (["red"], ["{}"], ValueError, "at least two labels to choose among, got 1"),
        (["red", ""], ["{}"], ValueError, "a label is empty"),
        (["red", "Red"], ["{}"], ValueError, "the label 'red' stands twice"),
        (["red", "bleu"], ["{}"], ValueError, "unknown word 'bleu'; did you mean 'blue'"),
        (["red", "blue"], ["a {}"], ValueError, "unknown word 'a'"),
        (["red", "blue"], ["red"], ValueError, r"needs \{\} in the place of the label"),
        (["red", "blue"], [], ValueError, r"needs \{\} in the place of the label"),
        ("red,blue", ["{}"], TypeError, "labels is a list of strings, got 'red,blue'"),
        (["red", "blue"], "{}", TypeError, "templates is a list of strings"),
    ],
)
def test_labels_that_cannot_be_classes_are_refused(
    tmp_path, picture, labels, templates, error, message
):
    with pytest.raises(error, match=message):
        classify(make(tmp_path / "clip", "clip"), picture, labels, templates=templates)


def test_the_newest_model_that_takes_the_file_is_chosen(tmp_path, picture, film):
    root = tmp_path / "runs"
    for age, (name, kind, about) in enumerate(
        [
            ("lm", "lm", {}),
            ("shots", "cross_modal", {"shots": 4}),
            ("clip", "clip", {}),
            ("video", "cross_modal", {"media": "video"}),
            ("image", "unified", {}),
            ("old", "unified", {"media": "both"}),
        ]
    ):
        state = make(root / name, kind, **about) / "checkpoint" / "state.json"
        os.utime(state, (1e9 - age, 1e9 - age))
    for name in ("image", "video"):
        model = load_model(root / name)
        facts = {key: value for key, value in model.about.items() if key != "caption"}
        save_model(root / name, model.kind, model.config, BPE, facts)
    chosen = {
        (job, path.stem): model_for(job, path, root=root).name
        for job, path in (
            ("ask", picture),
            ("ask", film),
            ("caption", picture),
            ("caption", film),
            ("classify", picture),
        )
    }
    assert chosen == {
        ("ask", "picture"): "image",
        ("ask", "film"): "video",
        ("caption", "picture"): "old",
        ("caption", "film"): "old",
        ("classify", "picture"): "clip",
    }
    with pytest.raises(MediaError, match=r"film.gif is a video; a CLIP classifies images"):
        model_for("classify", film, root=root)


def test_commands_print_what_the_functions_return(tmp_path, picture, film, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = make(tmp_path / "runs" / "vqa", media="both", frames=2)
    clip = make(tmp_path / "runs" / "clip", "clip")
    assert cli.main(["ask", "picture.png", "What color is red?", "--json", "new/a.json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "model: runs/vqa".replace("/", os.sep),
        "the model has not met the word 'color' in training; do you mean 'colour'?",
    ]
    written = json.loads((tmp_path / "new" / "a.json").read_text())
    assert captured.out == f"{written['answer']}\nprobability {written['probability']:.3g}\n"
    assert written["question"] == "What color is red?" and written["file"] == "picture.png"

    printed = set()
    for seed in range(4):
        options = ["--temperature", "2", "--seed", str(seed), "--frames", "3"]
        options += ["--model", str(folder)]
        assert cli.main(["ask", "film.gif", "what digit is red", *options]) == 0
        said = ask(folder, film, "what digit is red", temperature=2.0, seed=seed, frames=3)
        assert capsys.readouterr() == (f"{said.text}\nprobability {said.probability:.3g}\n", "")
        printed.add(said.text)
    assert len(printed) == 4

    assert cli.main(["caption", str(picture), "--out", "out"]) == 0
    said = caption(folder, picture)
    text = said.text or "(an empty answer)"
    assert capsys.readouterr().out == f"{text}\nprobability {said.probability:.3g}\n"
    assert json.loads((tmp_path / "out" / "caption.json").read_text())["answer"] == said.text

    options = ["--labels", "one,two, three", "--template", "red {}", "--template", "blue {}"]
    assert cli.main(["classify", str(picture), *options, "--json", "c.json"]) == 0
    found = classify(clip, picture, ["one", "two", "three"], templates=["red {}", "blue {}"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[a, f"{b:.3f}"] for a, b in found]
    assert [line.count("#") for line in lines] == [round(40 * b) for _, b in found]
    assert json.loads((tmp_path / "c.json").read_text())["labels"] == dict(found)


def test_empty_answer_is_called_so(tmp_path, picture, monkeypatch, capsys):
    folder = make(tmp_path / "run")
    monkeypatch.setattr("scratch_vlm.experiments.ask.ask", lambda *_, **__: Answer("", -1.0))
    assert cli.main(["ask", str(picture), "what digit is red", "--model", str(folder)]) == 0
    assert capsys.readouterr().out == "(an empty answer)\nprobability 0.368\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ask", "none.png", "what"], "ask: there is no file none.png"),
        (["ask", "picture.png", "what", "--model", "none"], "ask: there is no folder none"),
        (["ask", "picture.png", "what"], "under runs that takes images; scratch-vlm train --help"),
        (["caption", "film.gif"], "no model under runs to describe videos; scratch-vlm"),
        (
            ["classify", "picture.png", "--labels", "a,b"],
            "takes images; scratch-vlm train clip makes one",
        ),
        (["ask", "picture.png", "what", "--json", "."], "it is a folder; give the name of a file"),
    ],
)
def test_commands_say_in_one_line_what_is_missing(
    tmp_path, picture, film, monkeypatch, capsys, arguments, said
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_command_without_pillow_says_what_to_install(tmp_path, picture, monkeypatch, capsys):
    folder = make(tmp_path / "run")

    monkeypatch.setitem(sys.modules, "PIL.ImageOps", None)
    assert cli.main(["caption", str(picture), "--model", str(folder)]) == 2
    assert 'install it with pip install "scratch-vlm[io]"' in capsys.readouterr().err
