"""Published models at work: the same embeddings and answers as their own library gives."""

import json
import warnings

import numpy as np
import pytest
from published import CONFIGS, make_published, write

from scratch_vlm import cli
from scratch_vlm.experiments import ask as asking
from scratch_vlm.experiments.runs import ModelError
from scratch_vlm.inference.index import best_matches, update_index
from scratch_vlm.inference.published import (
    answer_pictures,
    embed_pictures,
    embed_words,
    is_published,
    open_published,
)
from scratch_vlm.inference.tiled import answer_tiled
from scratch_vlm.pretrained.options import OptionError
from scratch_vlm.pretrained.prompts import write_prompt
from scratch_vlm.pretrained.tensors import FileError

Image = pytest.importorskip("PIL.Image", reason="Pillow, of the extra io, is not installed")
QUESTION = "What is in the picture?"
CHATS = ("llava", "idefics", "mllama")


def picture(seed, height=70, width=90):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
    return np.asarray(small.resize((width, height), 3))


PICTURES = [picture(0), picture(1, 120, 60)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("published")
    return {family: make_published(base / family, family) for family in CONFIGS}


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture(scope="module")
def reference():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if not hasattr(transformers, "CLIPImageProcessorPil"):
        pytest.skip("this version of transformers has other processors")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield transformers


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_embeddings_are_those_of_the_library(folders, reference, family):
    torch = pytest.importorskip("torch")
    folder = folders[family]
    name = {"clip": "CLIP", "siglip": "Siglip"}[family]
    images = getattr(reference, f"{name}ImageProcessorPil").from_pretrained(folder)(
        [Image.fromarray(x) for x in PICTURES], return_tensors="pt"
    )
    texts = ["a photo of a cat", "A dog, on two tables!", "zebra"]
    tokenizer = reference.PreTrainedTokenizerFast.from_pretrained(folder)
    pad = "max_length" if family == "siglip" else True
    words = tokenizer(texts, padding=pad, max_length=32, return_tensors="pt")
    if family == "siglip":  # which is trained without
        del words["attention_mask"]
    words.pop("token_type_ids", None)
    with torch.no_grad():
        wanted = reference.AutoModel.from_pretrained(folder).eval()(**images, **words)
    published = open_published(folder)
    tolerance = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(
        embed_pictures(published, PICTURES), wanted.image_embeds, **tolerance
    )
    np.testing.assert_allclose(embed_words(published, texts), wanted.text_embeds, **tolerance)


def reference_inputs(transformers, folder, family, pictures):
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    images, n = [Image.fromarray(x) for x in pictures], len(pictures)
    if family == "idefics":
        own = transformers.IdeficsImageProcessorPil.from_pretrained(folder)
        processor = transformers.IdeficsProcessor(own, tokenizer, image_size=56)
        return processor(text=[["User:", *images, f"{QUESTION}\nAssistant:"]], return_tensors="pt")
    if family == "llava":
        own = transformers.CLIPImageProcessorPil.from_pretrained(folder)
        processor = transformers.LlavaProcessor(
            own, tokenizer, patch_size=14, vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )  # fmt: skip
        text = "USER: " + n * "<image>\n" + QUESTION + " ASSISTANT:"
        return processor(images=images, text=text, return_tensors="pt")
    own = transformers.MllamaImageProcessorPil.from_pretrained(folder)
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    text = "<|begin_of_text|>" + header.format("user") + n * "<|image|>" + QUESTION + "<|eot_id|>"
    return transformers.MllamaProcessor(own, tokenizer)(
        images=[images],
        text=text + header.format("assistant"),
        add_special_tokens=False,
        return_tensors="pt",
    )


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("family", CHATS)
def test_greedy_answers_are_those_of_the_library(tmp_path, reference, family, seed, count):
    torch = pytest.importorskip("torch")
    folder = make_published(tmp_path, family, seed=seed)
    published, pictures = open_published(folder), PICTURES[:count]
    config = published.model.config
    ids, _ = write_prompt(
        published.reader,
        family,
        QUESTION,
        images=count,
        image=config.image,
        span=config.sight.tokens() if family == "llava" else 1,
    )
    inputs = reference_inputs(reference, folder, family, pictures)
    assert inputs["input_ids"][0].tolist() == ids
    kind = getattr(reference, published.model.kind)
    with torch.no_grad():
        wanted = kind.from_pretrained(folder).eval().generate(
            **inputs, max_new_tokens=16, do_sample=False, pad_token_id=0,
            eos_token_id=list(published.stop),
        )  # fmt: skip
    found = answer_pictures(published, pictures, QUESTION, new=16)
    assert found.ids[0].tolist() == wanted[0, len(ids) :].tolist()


@pytest.mark.parametrize("family", CHATS)
def test_answers_depend_on_the_picture_and_stop(folders, family, tmp_path):
    folder = make_published(tmp_path, family, scale=0.6)
    published = open_published(folder)
    said = [answer_pictures(published, [x], QUESTION, new=9).ids[0].tolist() for x in PICTURES]
    logprobs = [answer_pictures(published, [x], QUESTION, new=9).logprobs[0] for x in PICTURES]
    assert not np.array_equal(logprobs[0], logprobs[1])
    stopping = published._replace(stop=(said[0][0],))
    assert answer_pictures(stopping, PICTURES[:1], QUESTION, new=9).ids[0].tolist() == said[0][:1]


@pytest.mark.parametrize("family", CHATS)
def test_ask_streams_what_it_returns(folders, photo, family, capsys):
    pieces = []
    model = asking.open_model(folders[family], "ask")
    said = asking.ask(model, photo, QUESTION, new=12, on_text=pieces.append)
    assert "".join(pieces) == said.text and said.logprob < 0
    arguments = ["ask", str(photo), QUESTION, "--model", str(folders[family]), "--tokens", "12"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.startswith(said.text)


def test_frames_of_a_video_are_shown_as_images(folders, tmp_path):
    path, first, *rest = tmp_path / "a.gif", *(Image.fromarray(picture(i)) for i in range(5))
    first.save(path, save_all=True, append_images=rest)
    two = asking.ask(folders["llava"], path, QUESTION, new=3, frames=2)
    three = asking.ask(folders["llava"], path, QUESTION, new=3, frames=3)
    assert two.logprob != three.logprob
    one = asking.embed(folders["clip"], path)
    assert one.shape == (24,) and abs(one @ one - 1) < 1e-5


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_classify_takes_labels_apart_or_between_commas(folders, photo, family, capsys):
    base = ["classify", str(photo), "--model", str(folders[family]), "--labels"]
    assert cli.main([*base, "a cat", "a dog"]) == 0
    apart = capsys.readouterr().out
    assert cli.main([*base, "a cat,a dog"]) == 0
    assert capsys.readouterr().out == apart and "a cat" in apart
    found = asking.classify(folders[family], photo, ["a cat", "a dog"])
    assert abs(sum(probability for _, probability in found) - 1) < 1e-6
    model = open_published(folders[family])
    cosines = embed_words(model, ["a cat", "a dog"]) @ embed_pictures(model, [picture(0)])[0]
    z = np.exp(np.exp(2.0) * (cosines - cosines.max()))
    np.testing.assert_allclose([dict(found)[x] for x in ("a cat", "a dog")], z / z.sum(), rtol=1e-4)


def test_embed_writes_a_row_for_each_file(folders, photo, tmp_path, capsys):
    out = tmp_path / "new" / "x.npy"
    arguments = ["embed", str(photo), str(photo), "--model", str(folders["clip"])]
    assert cli.main([*arguments, "--out", str(out)]) == 0
    rows = np.load(out)
    assert rows.shape == (2, 24) and rows.dtype == np.float32
    wanted = embed_pictures(open_published(folders["clip"]), [picture(0)])
    np.testing.assert_allclose(rows, np.repeat(wanted, 2, 0), rtol=0, atol=1e-6)
    assert [path.name for path in out.parent.iterdir()] == ["x.npy"]


def test_search_finds_and_remembers(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    album = tmp_path / "album"
    (album / "below").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(picture(i)).save(album / ("below" if i else ".") / f"{i}.png")
    (album / "broken.jpg").write_bytes(b"\xff\xd8\xffno image")
    arguments = ["search", str(album), "a cat", "--model", str(folders["clip"])]
    assert cli.main([*arguments, "--json", str(tmp_path / "found.json")]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and "3 images, 3 new" in err and "broken.jpg" in err
    found = json.loads((tmp_path / "found.json").read_text())["found"]
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert cli.main([*arguments, "--top", "1"]) == 0
    again, err = capsys.readouterr()
    assert again == out.splitlines()[0] + "\n"
    said, passed_over = err.splitlines()  # no bar where nothing is looked at
    assert said.startswith("3 images, 0 new") and passed_over.startswith("passed over broken.jpg")


def test_index_notices_what_changed_and_is_gone(tmp_path):
    album, file, seen = tmp_path / "album", tmp_path / "index.npz", []
    album.mkdir()
    for name in "abc":
        (album / f"{name}.png").write_text(name)

    def embed(path):
        seen.append(path.name)
        return np.eye(3, dtype=np.float32)[ord(path.read_text()[0]) - ord("a")]

    def update(mark="m"):
        seen.clear()
        return update_index(album, file, embed, mark=mark)

    index = update()
    assert seen == ["a.png", "b.png", "c.png"] and index.new == 3
    assert best_matches(index, np.array([0, 1, 0.5], np.float32), 2) == [
        ("b.png", 1),
        ("c.png", 0.5),
    ]
    before = file.stat().st_mtime_ns
    assert update().new == 0 and seen == [] and file.stat().st_mtime_ns == before
    (album / "b.png").write_text("a longer one")
    (album / "c.png").unlink()
    index = update()
    assert seen == ["b.png"] and index.names == ["a.png", "b.png"]
    assert update("another model").new == 2
    file.write_bytes(file.read_bytes()[:40])
    assert update("another model").new == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "index.npz"]
    for other in (album / "a.png", album):  # as named by mistake, with --index
        before = other.stat()
        with pytest.raises(ValueError, match="is no index, and would be replaced by one"):
            update_index(album, other, embed)
        assert other.stat().st_mtime_ns == before.st_mtime_ns
    (album / "a.png").unlink()
    (album / "b.png").unlink()
    with pytest.raises(ValueError, match="there is no image in"):
        update()
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        update_index(tmp_path / "none", file, embed)


def test_folders_that_are_no_models_say_where_models_come_from(tmp_path, photo, capsys):
    for folder, said in ((tmp_path / "none", "there is no folder"), (tmp_path, "no checkpoint")):
        with pytest.raises(ModelError, match=said) as raised:
            asking.open_model(folder, "ask")
        assert "downloaded from the Hugging Face Hub" in str(raised.value)
    assert not is_published(tmp_path)


def test_models_that_cannot_do_what_is_asked_are_refused(folders, photo):
    with pytest.raises(OptionError, match="holds a CLIPModel, where Llava"):
        asking.open_model(folders["clip"], "ask")
    with pytest.raises(OptionError, match="where CLIPModel or SiglipModel is needed"):
        asking.classify(folders["llava"], photo, ["a", "b"])
    with pytest.raises(ModelError, match="to ask takes a model of kind"):
        asking.ask(open_published(folders["clip"]), photo, QUESTION)


def test_folders_whose_files_do_not_fit_are_refused(tmp_path):
    folder = make_published(tmp_path / "a", "clip")
    small = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    write(folder / "preprocessor_config.json", small)
    with pytest.raises(
        FileError, match=r"prepared to \(28, 28\) px, and the model takes \(56, 56\)"
    ):
        embed_pictures(open_published(folder), PICTURES[:1])
    folder = make_published(tmp_path / "b", "clip")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] -= 1
    write(folder / "config.json", config)
    with pytest.raises(FileError, match=r"the tokenizer has \d+ tokens, the model knows \d+"):
        open_published(folder)


def test_questions_that_do_not_fit_are_refused(folders, photo):
    model = open_published(folders["llava"])
    with pytest.raises(ValueError, match=r"the model reads 256, its answer included"):
        answer_pictures(model, PICTURES[:1], "zq" * 300, new=3)
    with pytest.raises(ValueError, match="the question is empty"):
        asking.ask(model, photo, "  ")
    mllama = open_published(folders["mllama"]).model
    with pytest.raises(ValueError, match="keeps places for 0 images; 1 are shown"):
        answer_tiled(
            [1], np.zeros((1, 4, 28, 28, 3), "f"), mllama.p, mllama.config,
            ratios=np.ones(1, int), real=np.ones((1, 4), bool), new=2,
        )  # fmt: skip
