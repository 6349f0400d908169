"""Train a published model further on photographs of the user, from a table of what is on them.

`tune_folder` is the command ``scratch-vlm tune``. What comes out is a folder like the one that went
in: the library that published it reads it, and so do ``scratch-vlm ask`` and the others.
"""

import csv
import difflib
import hashlib
import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from scratch_vlm.data.files import MediaError, read_pixels
from scratch_vlm.experiments.ask import DESCRIBE
from scratch_vlm.inference.published import CLIPS, Published, open_published
from scratch_vlm.layers.linear import linear_init
from scratch_vlm.models.clip import clip_clamp
from scratch_vlm.pretrained.images import fit_patches, read_recipe, resize_images
from scratch_vlm.pretrained.load import Pretrained, configure, load_pretrained
from scratch_vlm.pretrained.prompts import write_example
from scratch_vlm.pretrained.tensors import INDEX, FileError, read_json
from scratch_vlm.training.loop import TrainConfig
from scratch_vlm.training.optimizer import EVERYTHING
from scratch_vlm.training.tune import objective, tune
from scratch_vlm.tree import by_rule, leaves

VIT, ENCODER, LLAVA, IDEFICS = (
    "ViTForImageClassification",
    "ViTModel",  # which becomes a classifier
    "LlavaForConditionalGeneration",
    "IdeficsForVisionText2Text",
)
SEEING = (*CLIPS, LLAVA, IDEFICS)
COLUMNS = {
    VIT: "label",
    ENCODER: "label",
    **dict.fromkeys(CLIPS, "caption"),
    LLAVA: "answer",
    IDEFICS: "answer",
}
TWO_TOWERS = {
    "projector": r"(image|text)/(head|pool)/.*|log_scale|bias",
    "vision": "image/.*",
    "language": "text/.*",
    "all": ".*",
}
SPEAKING = {
    "projector": "sight/connector/.*",
    "vision": "sight/tower/.*",
    "language": "lm/.*",
    "all": ".*",
}
PARTS = {  # kind of model: its parts, the one that learns by default first
    VIT: {"head": "head/.*", "all": ".*"},
    **dict.fromkeys(CLIPS, TWO_TOWERS),
    LLAVA: SPEAKING,
    IDEFICS: {"cross": "gated/.*", **SPEAKING},
}
ADAPTED = {LLAVA: "language", IDEFICS: "language"}  # what adapters stand in by default; else "all"
ATTENTION = r"(.*/)?attn/(qkv|q|kv|out)"
RATES = {"head": 1e-3, "projector": 1e-3, "cross": 1e-4}  # and of whole towers:
TOWER_RATE, ADAPTER_RATE = 2e-5, 2e-4
RUN = "training"  # folder in the one that is written
LARGEST = 2**30  # bytes of resized images that are kept in memory
HELD, LEAST, MOST = 10, 20, 100  # one row in HELD is kept aside, at most MOST, of LEAST or more


class Rows(NamedTuple):
    """What a table says.

    Attributes
    ----------
    images : list of path
        Of each row.
    questions : list of str
        What is asked about it; empty for models that are asked nothing.
    texts : list of str
        A caption, an answer, or a label.
    """

    images: list
    questions: list
    texts: list

    def __len__(self):
        return len(self.images)

    def take(self, rows):
        """Return some rows."""
        return Rows(*([column[i] for i in rows] for column in self))


class Settings(NamedTuple):
    """What the user wants.

    Attributes
    ----------
    part : str or None
        What learns; default the first of the kind's ``PARTS``.
    rank : int or None
        Of adapters in the attention of that part, if only those are to learn.
    question : str
        For rows that have none.
    steps, batch, seed, save_every : int
        See `TrainConfig`.
    rate : float or None
        Highest learning rate; default one for the part.
    dtype : str or None
        Of the file; default that of the model.
    new_head : bool
        Whether a ViT gets a new head, for the labels of the table.
    """

    part: str | None = None
    rank: int | None = None
    question: str = DESCRIBE
    steps: int = 200
    batch: int = 8
    seed: int = 0
    save_every: int = 50
    rate: float | None = None
    dtype: str | None = None
    new_head: bool = False


def tune_folder(folder, images, table, out, settings, *, xp=np, progress=True, say=print):
    """Train a published model further, and write it.

    Parameters
    ----------
    folder : str or path
        Of the model.
    images : str or path
        Folder that the names in the table are in.
    table : str or path
        A CSV file, see `read_table`.
    out : str or path
        Where to write the model. An interrupted run goes on there.
    settings : Settings
        How.
    xp : module, default numpy
        Where to compute.
    progress : bool, default True
        Show progress bars.
    say : callable, default print
        Takes a line about what was done.

    Returns
    -------
    before, after : float or None
        Loss on the rows that were kept aside, of the model that was read and of the one that was
        written; None where there are too few rows to keep any.

    Raises
    ------
    FileError, OptionError
        If the model, the table or an image is missing or damaged, or `out` is not free.
    ValueError
        If an option does not fit the model.
    TrainingInterrupted, TrainingDiverged
        As `train` does.
    """
    folder, out = Path(folder), Path(out)
    _check_free(out, folder)
    kind = _kind(folder, settings)
    rows = read_table(table, images, COLUMNS[kind], settings.question)
    model, examples = _open(folder, kind, rows, settings, progress)
    part, trained, adapters = _learning(model, settings)
    rng = np.random.default_rng([settings.seed, len(rows)])
    order = rng.permutation(len(rows))
    aside = min(len(rows) // HELD, MOST) if len(rows) >= LEAST else 0
    kept, held = rows.take(np.sort(order[aside:])), rows.take(np.sort(order[:aside]))
    if len(kept) < settings.batch:
        raise ValueError(
            f"a batch of {settings.batch} is more than the {len(kept)} rows to learn from; "
            "choose a smaller --batch-size"
        )
    rate = settings.rate or (RATES.get(part, TOWER_RATE) if adapters is None else ADAPTER_RATE)
    config = TrainConfig(
        settings.steps,
        settings.batch,
        rate,
        warmup=min(10, settings.steps // 10),
        weight_decay=0.0,
        trained=trained,
        seed=settings.seed,
        checkpoint_every=settings.save_every,
    )
    about = {"data": _digest(rows), "part": part, "rank": settings.rank}
    batch = _Batches(kept, examples, config, progress)
    measure = partial(_measured, _Batches(held, examples, config, progress), settings.batch)
    before = measure(model) if aside else None
    after_step = clip_clamp if model.kind == "CLIPModel" else None
    say(f"{_learned(model, trained, adapters)}; {len(kept)} rows to learn from, {aside} kept aside")

    out.mkdir(parents=True, exist_ok=True)
    _copy_beside(folder, out)
    tune(
        model if settings.dtype is None else replace(model, stored=settings.dtype),
        batch,
        config,
        out / RUN,
        recipe=examples.published.recipe,
        adapters=adapters,
        rank=settings.rank,
        out=out,
        about=about,
        after_step=after_step,
        xp=xp,
        progress=progress,
    )
    shutil.rmtree(out / RUN / "checkpoint")  # the curve stays
    after = measure(load_pretrained(out)) if aside else None
    if aside:
        say(f"loss on what was kept aside: {before:.3f} before, {after:.3f} as written")
    say(f"{out}: the model; {out / RUN / 'metrics.csv'}: its curve")
    return before, after


def read_table(path, images, column, question=""):
    """Read what is on which image.

    Parameters
    ----------
    path : str or path
        A CSV file in UTF-8 whose first row names its columns: ``image``, the name of a file, and
        ``caption``, ``answer`` or ``label``, whichever the model learns; ``question`` if there
        are several. What else there is, is not read.
    images : str or path
        Folder that the names are in.
    column : {"caption", "answer", "label"}
        What the model learns; an answer may also be called a caption.
    question : str, default ""
        What is asked where the table does not say it.

    Returns
    -------
    Rows

    Raises
    ------
    FileError
        If the table or an image is missing, a column or a cell is, or there are no rows; the
        message says which line.
    """
    path, images = Path(path), Path(images)
    if not images.is_dir():
        raise FileError(f"there is no folder of images {images}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = [str(name).strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            lines = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    columns = (column, "caption") if column == "answer" else (column,)
    found = next((name for name in columns if name in names), None)
    if "image" not in names or found is None:
        raise FileError(
            f"{path} needs the columns image and {' or '.join(columns)}; its first line names "
            f"{', '.join(names) or 'none'}"
        )
    if not lines:
        raise FileError(f"{path} has no rows below the names of its columns")
    rows = Rows([], [], [])
    for line, row in lines:
        name, text = ((row[key] or "").strip() for key in ("image", found))
        if not name or not text:
            raise FileError(f"{path}, line {line}: no {'image' if not name else found}")
        if not (images / name).is_file():
            raise FileError(f"{path}, line {line}: there is no file {images / name}")
        rows.images.append(images / name)
        rows.questions.append((row.get("question") or question).strip())
        rows.texts.append(text)
    return rows


def _check_free(out, folder):
    if out.resolve() == folder.resolve():
        raise FileError(f"--out must be another folder than {folder}, which is not changed")
    if out.is_file():
        raise FileError(f"cannot write into {out}: it is a file")
    if (out / "config.json").exists():
        raise FileError(f"{out} holds a model already; choose another --out, or remove it")
    if out.is_dir() and any(out.iterdir()) and not (out / RUN).is_dir():
        raise FileError(f"{out} is not empty, and was not begun by this command; choose another")


def _kind(folder, settings):
    kind, _, _ = configure(read_json(folder / "config.json"))
    if kind == ENCODER and not settings.new_head:
        raise FileError(
            f"{folder} holds a {kind}, which has no classes; give it some by --new-head"
        )
    if kind not in COLUMNS:
        raise FileError(f"{folder} holds a {kind}; to be tuned it must be a {', '.join(COLUMNS)}")
    if settings.new_head and COLUMNS[kind] != "label":
        raise ValueError(f"--new-head is for a ViT, and {folder} holds a {kind}")
    return kind


def _open(folder, kind, rows, settings, progress):
    # The model, and how a row becomes what its objective reads.
    with tqdm(unit="tensor", desc="loading", leave=False, delay=0.5, disable=not progress) as bar:

        def read(name, count):
            bar.total = count
            bar.update()

        if COLUMNS[kind] == "label":
            model = load_pretrained(folder, on_tensor=read)
            if settings.new_head:
                model = _with_classes(model, sorted(set(rows.texts)), settings.seed)
            published = Published(model, read_recipe(folder, model.published), None, (), folder)
        else:
            published = open_published(folder, kinds=SEEING, on_tensor=read)
    make = {"label": _Labels, "answer": _Answers, "caption": _Captions}[COLUMNS[kind]]
    return published.model, make(published)


def _with_classes(model, classes, seed):
    # The same encoder with another head, and the config that says so.
    published = {
        **model.published,
        "architectures": [VIT],
        "id2label": {str(i): name for i, name in enumerate(classes)},
        "label2id": {name: i for i, name in enumerate(classes)},
    }
    kind, config, layout = configure(published)
    width = config.block.width
    head = linear_init(np.random.default_rng(seed), width, config.outputs, std=0.02)
    p = {name: x for name, x in model.p.items() if name != "head"} | {"head": head}
    names = {name: name for name in layout.published}
    return Pretrained(kind, config, p, layout, names, published, model.stored)


def _learning(model, settings):
    # What learns: the name of the part, rules of `TrainConfig`, and rules of adapters or None.
    parts = PARTS[model.kind]
    usual = next(iter(parts)) if settings.rank is None else ADAPTED.get(model.kind, "all")
    part = settings.part or usual
    if part not in parts:
        raise ValueError(f"a {model.kind} has no {part!r}; its parts are {', '.join(parts)}")
    rules = ((parts[part], True), (".*", False)) if part != "all" else ((".*", True),)
    if not any(re.fullmatch(parts[part], name) for name, _ in leaves(model.p)):
        raise ValueError(f"the {part} of this {model.kind} has nothing that could learn")
    if settings.rank is None:
        return part, rules, None
    inside = "" if part == "all" else parts[part].removesuffix(".*")
    if "|" in inside:
        raise ValueError(f"the {part} of a {model.kind} has no attention for adapters")
    return part, EVERYTHING, ((inside + ATTENTION, True), (".*", False))


def _learned(model, rules, adapters):
    count = sum(x.size for _, x in leaves(model.p))
    if adapters is not None:
        return f"adapters learn beside {count:,} parameters"
    own = by_rule([name for name, _ in leaves(model.p)], rules)
    some = sum(x.size for name, x in leaves(model.p) if own[name])
    return f"{some:,} of {count:,} parameters learn"


class _Captions:
    """Rows for CLIP and SigLIP: images, and rows of ids."""

    def __init__(self, published):
        self.published, config = published, published.model.config
        self.vit, self.context = config.image, config.text.context
        reader = published.reader
        pad = reader.id("pad_token") if "pad_token" in reader.specials else None
        self.pad = published.model.published.get("text_config", {}).get("pad_token_id", 1)
        self.pad = self.pad if pad is None else pad

    def texts(self, rows):
        return list(self.published.reader.rows(rows.texts, self.context, pad=self.pad))

    def batch(self, images, texts):
        return images, np.stack(texts)


class _Labels:
    """Rows for a classifier of images: images, and numbers of classes."""

    def __init__(self, published):
        self.published, self.vit = published, published.model.config
        names = published.model.published.get("id2label", {})
        self.numbers = {str(name): int(i) for i, name in names.items()}

    def texts(self, rows):
        for text in rows.texts:
            if text not in self.numbers:
                near = difflib.get_close_matches(text, self.numbers, 1) or list(self.numbers)[:5]
                raise FileError(
                    f"the model has no class {text!r} among its {len(self.numbers)}; it has, for "
                    f"example, {', '.join(near)}; for other classes give it a --new-head"
                )
        return [self.numbers[text] for text in rows.texts]

    def batch(self, images, texts):
        return images, np.array(texts)


class _Answers:
    """Rows for LLaVA and Idefics: ids of a question and its answer, labels, and an image."""

    def __init__(self, published):
        self.published, self.config = published, published.model.config
        self.vit = self.config.sight.tower.vit
        self.span = self.config.sight.tokens() if published.family == "llava" else 1
        reader = published.reader
        pad = reader.id("pad_token") if "pad_token" in reader.specials else None
        self.pad = 0 if pad is None else pad

    def texts(self, rows):
        written = []
        for question, answer in zip(rows.questions, rows.texts, strict=True):
            ids, start = write_example(
                self.published.reader,
                self.published.family,
                question,
                answer,
                image=self.config.image,
                span=self.span,
            )
            ids = [*ids, *self.published.stop[:1]]
            if len(ids) > self.config.lm.context:
                raise ValueError(
                    f"{answer[:60]!r} and what is asked are {len(ids)} tokens; the model reads "
                    f"{self.config.lm.context}"
                )
            written.append((ids, start))
        return written

    def batch(self, images, texts):
        longest = max(len(ids) for ids, _ in texts)
        ids = np.full((len(texts), longest), self.pad)
        labels = np.full_like(ids, -100)
        for row, (own, start) in enumerate(texts):
            ids[row, : len(own)] = own
            labels[row, start : len(own)] = own[start:]
        return ids, labels, images[:, None]  # each a video of one frame


class _Batches:
    """Rows as batches: by the number of a step, in another order in each round through them."""

    def __init__(self, rows, examples, config, progress):
        self.rows, self.examples, self.config = rows, examples, config
        self.texts = examples.texts(rows)
        self.ready = {}
        each = np.prod(examples.vit.image)
        if len(rows) * each <= LARGEST:  # else they are read when their turn comes
            bar = tqdm(
                range(len(rows)), desc="images", unit="", leave=False, disable=not progress or None
            )
            self.ready = {i: self._image(i) for i in bar}

    def __call__(self, step):
        size, count = self.config.batch_size, len(self.rows)
        chosen, orders = [], {}
        for place in range(step * size, (step + 1) * size):
            round, at = divmod(place, count)
            if round not in orders:
                rng = np.random.default_rng([self.config.seed, round])
                orders[round] = rng.permutation(count)
            chosen.append(orders[round][at])
        return self.of(chosen)

    def of(self, chosen):
        images = [self.ready[i] if i in self.ready else self._image(i) for i in chosen]
        return self.examples.batch(np.stack(images), [self.texts[i] for i in chosen])

    def _image(self, i):
        path = self.rows.images[i]
        try:
            x = resize_images([read_pixels(path)], self.examples.published.recipe)
        except MediaError as error:
            raise MediaError(
                f"{path}: {error}" if str(path) not in str(error) else error
            ) from error
        x = fit_patches(x, self.examples.vit.patch)[0]
        if x.shape[:2] != self.examples.vit.image[:2]:
            raise FileError(
                f"images are prepared to {x.shape[:2]} px, and the model takes "
                f"{self.examples.vit.image[:2]}"
            )
        return x


def _measured(batches, size, model):
    # Mean loss over rows in their order; what CLIP tells apart are the rows of a batch.
    forward, _ = objective(model, batches.examples.published.recipe)
    parts = [range(i, min(i + size, len(batches.rows))) for i in range(0, len(batches.rows), size)]
    losses = [float(forward(*batches.of(part), model.p)[0]) * len(part) for part in parts]
    return sum(losses) / len(batches.rows)


def _digest(rows):
    told = [[str(p), p.stat().st_size, *texts] for p, *texts in zip(*rows, strict=True)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _copy_beside(folder, out):
    # Tokenizer, templates and how images are prepared: all that is small, and no weights.
    for path in sorted(folder.iterdir()):
        small = path.suffix in (".json", ".txt", ".jinja", ".model", ".md")
        if small and path.is_file() and path.name not in ("config.json", INDEX):
            shutil.copyfile(path, out / path.name)
