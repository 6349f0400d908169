"""The command that trains a published model further: what it needs, learns, writes and refuses."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="tokenizers, of the extra published, is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow, of the extra io, is not installed")

from published import make_published  # noqa: E402

from scratch_vlm import cli  # noqa: E402
from scratch_vlm.experiments import tuning  # noqa: E402
from scratch_vlm.experiments.ask import ask  # noqa: E402
from scratch_vlm.experiments.tuning import read_table  # noqa: E402
from scratch_vlm.pretrained.load import load_pretrained, save_pretrained  # noqa: E402
from scratch_vlm.pretrained.tensors import FileError, Tensors  # noqa: E402
from scratch_vlm.pretrained.vit import Encoder  # noqa: E402
from scratch_vlm.training import loop  # noqa: E402
from scratch_vlm.tree import leaves  # noqa: E402

COLOURS = {"red": (220, 30, 20), "green": (30, 200, 60)}
VIT = Path(__file__).parents[1] / "parity" / "cases" / "vit_interpolated"
KINDS = {  # family: column of the table, and the parameters that learn by default
    "clip": ("caption", r"(image|text)/head/|log_scale"),
    "siglip": ("caption", r"text/head/|image/pool/|log_scale|bias"),
    "llava": ("answer", "sight/connector/"),
    "idefics": ("caption", "gated/"),
    "vit": ("label", "head/"),
}


def write_photos(folder, column, texts, count=24):
    """Write pictures, each of one colour, and a table that says something about each colour."""
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        colour = list(COLOURS)[i % len(COLOURS)]
        pixels = np.array(COLOURS[colour]) + rng.integers(-20, 20, (40, 50, 3))
        name = f"{i}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "photos" / name)
        rows.append({"image": name, column: texts[colour]})
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def setting(folder, family, **options):
    """Make a model and photographs in a folder, and the command for them."""
    texts = {"red": "a cat", "green": "two dogs on a table"}
    if family == "vit":
        shutil.copytree(VIT, folder / "model")
        texts = {"red": "LABEL_1", "green": "LABEL_3"}
    else:
        make_published(folder / "model", family)
    write_photos(folder, KINDS[family][0], texts)
    return command(folder, **options)


def command(folder, out="out", **options):
    told = {"images": folder / "photos", "captions": folder / "table.csv", "out": folder / out}
    told |= {"steps": 6, "batch-size": 4, **options}
    flags = [str(x) for name, value in told.items() for x in (f"--{name}", value) if x is not None]
    return ["tune", str(folder / "model"), *flags]


@pytest.mark.parametrize("family", KINDS)
def test_the_usual_part_learns_and_the_rest_is_written_as_it_was(family, tmp_path, capsys):
    _, learns = KINDS[family]
    assert cli.main(setting(tmp_path, family, rate=1e-2)) == 0
    said = capsys.readouterr().out
    assert "22 rows to learn from, 2 kept aside" in said and "as written" in said
    before = dict(leaves(load_pretrained(tmp_path / "model").p))
    after = dict(leaves(load_pretrained(tmp_path / "out").p))
    changed = {name for name, x in before.items() if not np.array_equal(x, after[name])}
    assert changed and changed <= {name for name in before if re.match(learns, name)}
    assert sorted(p.name for p in (tmp_path / "out" / "training").iterdir()) == ["metrics.csv"]
    beside = {p.name for p in (tmp_path / "model").iterdir() if p.suffix == ".json"}
    assert beside <= {p.name for p in (tmp_path / "out").iterdir()}


def test_a_llava_learns_to_say_what_it_is_shown(tmp_path, capsys):
    told = setting(tmp_path, "llava", only="all", rate=5e-3, steps=150, question="Which?")
    assert cli.main(told) == 0
    before, after = (float(x) for x in _losses(capsys.readouterr().out))
    assert after < 0.1 < 1 < before
    for name, text in (("0.png", "a cat"), ("1.png", "two dogs on a table")):
        assert ask(tmp_path / "out", tmp_path / "photos" / name, "Which?").text == text


def _losses(said):
    words = said[said.index("kept aside: ") :].split()
    return words[2], words[4]


def test_photographs_are_kept_and_handed_on_as_bytes(tmp_path, monkeypatch):
    drawn = []

    def look(model, batch, config, folder, **options):
        drawn.append(batch(0))
        return tune(model, batch, config, folder, **options)

    tune = tuning.tune
    monkeypatch.setattr(tuning, "tune", look)
    assert cli.main(setting(tmp_path, "vit")) == 0
    ((images, _),) = drawn
    assert images.dtype == "uint8" and np.ptp(images) > 100


def test_adapters_learn_and_are_gone_from_what_is_written(tmp_path, capsys):
    told = setting(tmp_path, "llava", lora=2, rate=1e-2, dtype="float32")
    assert cli.main(told) == 0
    assert "adapters learn beside" in capsys.readouterr().out
    before, after = Tensors(tmp_path / "model"), Tensors(tmp_path / "out")
    assert set(before) == set(after)
    changed = {n for n in before if not np.array_equal(before[n], after[n])}
    assert changed == {n for n in before if "language_model" in n and "self_attn" in n}


def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path, monkeypatch, capsys):
    told = setting(tmp_path, "clip", steps=4, **{"save-every": 2})
    taken, train_step = [], loop.add_gradients

    def breaks_off(*args):
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return train_step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "add_gradients", breaks_off)
        assert cli.main(told) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "out" / "config.json").exists()
    assert cli.main([*told, "--rate", "0.5"]) == 2  # another run than the one that was begun
    assert "holds a run with" in capsys.readouterr().err
    assert cli.main(told) == 0
    assert cli.main(command(tmp_path, "whole", steps=4, **{"save-every": 2})) == 0
    first, second = (load_pretrained(tmp_path / name).p for name in ("out", "whole"))
    for (name, a), (_, b) in zip(leaves(first), leaves(second), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_nothing_is_overwritten(tmp_path, capsys):
    told = setting(tmp_path, "clip")
    assert cli.main(told) == 0
    capsys.readouterr()
    assert cli.main(told) == 2
    assert "holds a model already; choose another --out" in capsys.readouterr().err
    assert cli.main(command(tmp_path, "model")) == 2
    assert "must be another folder" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert cli.main(command(tmp_path, "mine")) == 2
    assert "is not empty, and was not begun by this command" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    assert cli.main(command(tmp_path, "mine/letter.txt")) == 2
    assert "it is a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"only": "gates"}, "has no 'gates'; its parts are projector, vision, language, all"),
        ({"batch-size": 23}, "a batch of 23 is more than the 22 rows to learn from"),
        ({"rate": -1}, "--rate must be positive, got -1"),
        ({"only": "projector", "lora": 4}, "the projector of a CLIPModel has no attention"),
        ({"images": "nowhere"}, "there is no folder of images nowhere"),
        ({"captions": "nowhere.csv"}, "cannot read nowhere.csv: No such file"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(options, said, tmp_path, capsys):
    assert cli.main(setting(tmp_path, "clip", **options)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_that_see_nothing_are_refused(tmp_path, capsys):
    told = setting(tmp_path, "clip")
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(VIT.with_name("gpt2"), tmp_path / "model")
    assert cli.main(told) == 2
    assert "holds a GPT2LMHeadModel; to be tuned it must be" in capsys.readouterr().err


def test_an_unknown_label_is_named_with_one_that_is_near(tmp_path, capsys):
    told = setting(tmp_path, "vit")
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace("LABEL_3", "LABEL3"))
    assert cli.main(told) == 2
    assert "has no class 'LABEL3' among its 5; it has, for example, LABEL_3" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "ViTModel"])
def test_a_vit_gets_new_classes(kind, tmp_path, capsys):
    told = setting(tmp_path, "vit", steps=30, rate=1e-2)
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace("LABEL_1", "wine").replace("LABEL_3", "leaf"))
    if kind == "ViTModel":
        classifier = load_pretrained(tmp_path / "model")
        shutil.rmtree(tmp_path / "model")
        p = {name: x for name, x in classifier.p.items() if name != "head"}
        published = {**classifier.published, "architectures": [kind]}
        layout = Encoder.layout(replace(classifier.config, outputs=0))
        names = {name: name for name in layout.published}
        encoder = replace(classifier, p=p, layout=layout, names=names, published=published)
        save_pretrained(encoder, tmp_path / "model")
    assert cli.main(told) == 2
    assert "--new-head" in capsys.readouterr().err
    assert cli.main([*told, "--new-head"]) == 0
    before, after = (float(x) for x in _losses(capsys.readouterr().out))
    assert after < 0.2 < 0.5 < before
    model = load_pretrained(tmp_path / "out")
    assert model.kind == "ViTForImageClassification"
    assert model.published["id2label"] == {"0": "leaf", "1": "wine"}
    assert model.p["head"]["w"].shape[1] == 2


def test_a_new_head_is_for_a_vit(tmp_path, capsys):
    assert cli.main([*setting(tmp_path, "clip"), "--new-head"]) == 2
    assert "--new-head is for a ViT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs the columns image and caption; its first line names none"),
        ("file,caption\na.png,x\n", "its first line names file, caption"),
        ("image,caption\n", "has no rows"),
        ("image,caption\na.png,\n", "line 2: no caption"),
        ("image,caption\na.png,x\n,y\n", "line 3: no image"),
        ("image,caption\nb.png,x\n", r"line 2: there is no file .*b\.png"),
        ('image,caption\na.png,"x\n', "cannot read .*unexpected end of data"),
        ("image,caption\na.png\n", "line 2: no caption"),
        (b"image,caption\na.png,\xff\n", "cannot read .*codec can't decode"),
    ],
)
def test_a_table_that_says_too_little_is_refused_with_the_line(text, said, tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileError, match=said):
        read_table(tmp_path / "t.csv", tmp_path, "caption")


def test_a_table_may_have_other_columns_a_mark_of_order_and_its_own_questions(tmp_path):
    (tmp_path / "a.png").touch()
    lines = '\ufeffid, question ,image,answer\n7,Who?,a.png,"A cat, asleep"\n8,,a.png,No\n'
    (tmp_path / "t.csv").write_text(lines, encoding="utf-8")
    rows = read_table(tmp_path / "t.csv", tmp_path, "answer", "What?")
    assert rows.questions == ["Who?", "What?"] and rows.texts == ["A cat, asleep", "No"]


@pytest.mark.filterwarnings("ignore")  # of the library
@pytest.mark.parametrize("family", KINDS)
def test_the_library_that_published_the_model_reads_it(family, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("torch", reason="torch is not installed")
    assert cli.main(setting(tmp_path, family, rate=1e-2)) == 0
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    kind = getattr(transformers, content["architectures"][0])
    model, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model.save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_pretrained(tmp_path / name).p for name in ("out", "theirs"))
    for (name, a), (_, b) in zip(leaves(ours), leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
