"""Tokenizers and prompts of published models: special tokens, padding, and what is refused."""

import json
import re
import warnings

import numpy as np
import pytest
from published import CONFIGS, SPECIALS, make_published, train_tokenizer, write
from tokenizers import Tokenizer, models

from scratch_vlm.pretrained import prompts
from scratch_vlm.pretrained.prompts import write_prompt
from scratch_vlm.pretrained.tensors import FileError
from scratch_vlm.pretrained.tokenizer import TextReader, read_tokenizer

CHATS = {"llava": "<image>", "idefics": "<image>", "mllama": "<|image|>"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("published")
    return {family: make_published(base / family, family) for family in CONFIGS}


def asked(folders, family, question, **options):
    reader = read_tokenizer(folders[family], family)
    image = reader.id(CHATS[family])
    return reader, *write_prompt(reader, family, question, image=image, **options)


def test_clip_rows_begin_end_and_are_padded(folders):
    reader = read_tokenizer(folders["clip"], "clip")
    begin, end = reader.id("<|startoftext|>"), reader.id("eos_token")
    rows = reader.rows(["a photo", "A Photo of a cat"], 16, pad=end)
    assert rows[:, 0].tolist() == [begin, begin]
    length = len(reader.tokens("a photo"))
    assert set(rows[0, length - 1 :].tolist()) == {end} and end not in rows[0, : length - 1]
    assert reader.text(rows[1]) == "a photo of a cat"


def test_text_that_is_too_long_is_refused(folders):
    reader = read_tokenizer(folders["siglip"], "siglip")
    with pytest.raises(ValueError, match=r"is 1\d\d tokens with its begin and end; 32 fit"):
        reader.rows(["zq" * 60], 32, pad=1)


def test_older_files_of_clip_make_the_same_tokens(tmp_path):
    tokens = ["<|startoftext|>", "<|endoftext|>", *"abcot", *(c + "</w>" for c in "abcot"), "ca"]
    vocabulary = {token: i for i, token in enumerate([*tokens, "cat</w>"])}
    write(tmp_path / "vocab.json", vocabulary)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n", encoding="utf-8")
    reader = read_tokenizer(tmp_path, "clip")
    ids = reader.tokens("A  CAT")
    assert ids == [0, vocabulary["a</w>"], vocabulary["cat</w>"], 1]
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = transformers.CLIPTokenizer.from_pretrained(tmp_path)
        assert other("A  CAT")["input_ids"] == ids


def test_older_files_of_gpt2_are_read(tmp_path):
    write(tmp_path / "vocab.json", {"a": 0, "b": 1, "Ġ": 2, "Ġa": 3})
    (tmp_path / "merges.txt").write_text("Ġ a\n", encoding="utf-8")
    reader = read_tokenizer(tmp_path, "gpt2")
    assert reader.tokens("ab a") == [0, 1, 3] and reader.text([0, 1, 3]) == "ab a"


def test_llava_keeps_a_place_for_each_visual_token(folders):
    reader, ids, source = asked(folders, "llava", "What is it?", images=2, span=5)
    image = reader.id("<image>")
    assert source == "llava" and ids.count(image) == 10 and ids[0] == reader.id("<s>")
    assert reader.text(ids) == "USER: \n\nWhat is it? ASSISTANT:"


def test_idefics_puts_tokens_around_images(folders):
    reader, ids, _ = asked(folders, "idefics", "What is it?", images=2)
    around, image = reader.id("<fake_token_around_image>"), reader.id("<image>")
    marks = [i for i in ids if i in (around, image)]
    assert marks == [around, image, around, image, around] and ids.count(reader.id("<s>")) == 1


def test_mllama_puts_the_image_before_the_question(folders):
    reader, ids, _ = asked(folders, "mllama", "What is it?")
    begin, image = reader.id("<|begin_of_text|>"), reader.id("<|image|>")
    assert ids[0] == begin and ids.count(begin) == ids.count(image) == 1
    assert reader.text(ids) == "user\n\nWhat is it?assistant\n\n"
    plain = TextReader(_without_headers(), {"bos_token": "<|begin_of_text|>"})
    ids, _ = write_prompt(plain, "mllama", "What", image=plain.id("<|image|>"))
    assert [plain.text_of(i) for i in ids[:2]] == ["<|image|>", "<|begin_of_text|>"]


def _without_headers():
    known = ["<|begin_of_text|>", "<|image|>", *"What"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(known)}, []))
    tokenizer.add_special_tokens(known[:2])
    return tokenizer


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}Q: {{ c.text }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} A:{% endif %}"
)


@pytest.mark.parametrize("file", ["chat_template.jinja", "processor_config.json", "list"])
def test_chat_template_is_followed_where_jinja_is_installed(tmp_path, file):
    pytest.importorskip("jinja2", reason="Jinja is not installed")
    folder = make_published(tmp_path, "llava")
    if file.endswith(".jinja"):
        (folder / file).write_text(TEMPLATE)
    elif file == "list":
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] = [{"name": "default", "template": TEMPLATE}]
        write(folder / "tokenizer_config.json", config)
    else:
        write(folder / file, {"chat_template": TEMPLATE})
    reader, ids, source = asked({"llava": folder}, "llava", "why?", span=3)
    assert source == "chat template" and reader.text(ids) == "Q: why? A:"
    assert ids.count(reader.id("<s>")) == 1 and ids.count(reader.id("<image>")) == 3


def test_without_jinja_the_prompt_is_that_of_the_family(tmp_path, monkeypatch):
    folder = make_published(tmp_path, "llava")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    monkeypatch.setattr(prompts, "has_jinja", lambda: False)
    assert asked({"llava": folder}, "llava", "why?")[2] == "llava"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for",
        "{{ raise_exception('no images') }}",
        "{{ 1 / 0 }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_template_that_fails_or_reaches_out_is_refused(tmp_path, template):
    pytest.importorskip("jinja2", reason="Jinja is not installed")
    folder = make_published(tmp_path, "llava")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(FileError, match="chat template of the model is damaged"):
        asked({"llava": folder}, "llava", "why?")


def test_question_with_a_special_token_is_refused(folders):
    for family, mark in CHATS.items():
        with pytest.raises(ValueError, match=re.escape(f"holds {mark}, a special token")):
            asked(folders, family, f"what {mark} is it")
        reader, ids, _ = asked(folders, family, f"what {mark[0]} {mark[1:]} is it")
        assert ids.count(reader.id(mark)) == 1  # what the message says would fit, is read as text
        assert f"what {mark[0]} {mark[1:]} is it" in reader.text(ids)


def test_a_mark_of_images_that_is_not_flagged_as_special_is_refused_too(folders):
    tokenizer = _without_headers()
    tokenizer.add_tokens(["<picture>"])
    reader = TextReader(tokenizer, {"bos_token": "<|begin_of_text|>"})
    assert "<picture>" not in reader.markers
    with pytest.raises(ValueError, match="holds <picture>, a special token"):
        write_prompt(reader, "mllama", "What <picture>", image=reader.id("<picture>"))


@pytest.mark.parametrize(("family", "token"), [("clip", "<|endoftext|>"), ("siglip", "</s>")])
def test_text_of_a_tower_with_a_special_token_is_refused(folders, family, token):
    reader = read_tokenizer(folders[family], family)
    with pytest.raises(ValueError, match=re.escape(f"the text 'a cat{token} or not' holds")):
        reader.rows(["a cat", f"a cat{token} or not"], 30, pad=0)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(FileError, match=r"has no tokenizer.json; the Transformers library"):
        read_tokenizer(tmp_path, "clip")
    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(FileError, match=r"only spiece.model; the Transformers library writes one"):
        read_tokenizer(tmp_path, "siglip")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FileError, match=r"tokenizer.json is no tokenizer"):
        read_tokenizer(tmp_path, "siglip")
    write(tmp_path / "vocab.json", {"a": 0})
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FileError, match=r"cannot read .*merges.txt"):
        read_tokenizer(tmp_path, "clip")
    (tmp_path / "merges.txt").write_text("b c\n")
    with pytest.raises(FileError, match="do not fit"):
        read_tokenizer(tmp_path, "gpt2")


def test_tokenizer_without_the_token_of_images_is_refused(folders):
    reader = read_tokenizer(folders["llava"], "llava")
    with pytest.raises(FileError, match="no token 9999"):
        write_prompt(reader, "llava", "why", image=9999)


def test_padding_that_a_file_asks_for_is_not_done(tmp_path):
    tokenizer = train_tokenizer("clip")
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    reader = read_tokenizer(tmp_path, "clip")
    assert 5 < len(reader.tokens("the astronaut smiles of coffee")) < 40
    assert set(SPECIALS["clip"]) <= set(reader.markers)
    assert isinstance(reader.rows(["a"], 8, pad=0), np.ndarray)
    with pytest.raises(TypeError, match="a list of strings"):
        reader.rows("a cat", 8, pad=0)
