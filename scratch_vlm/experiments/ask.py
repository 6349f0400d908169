"""Models and files of the user: ask about an image or a video, describe, classify, embed it.

A model is the folder of a run, trained here, or that of a published model. Both are opened by
`open_model`, and every function takes either.
"""

import difflib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scratch_vlm.backend import namespace, to_device, to_host
from scratch_vlm.data.chat import CHAT_SPECIALS, Turn, answer_text, encode_chat
from scratch_vlm.data.files import (
    MediaError,
    media_kind,
    read_image,
    read_pixels,
    stream_video,
    to_bytes,
)
from scratch_vlm.data.tokens import END, SPECIALS, refuse_specials
from scratch_vlm.experiments.chats import placeholders
from scratch_vlm.experiments.runs import ROOT, Model, ModelError, load_model, newest_model
from scratch_vlm.experiments.scenes import prepare
from scratch_vlm.inference.answer import answer
from scratch_vlm.inference.embed import embed_images, embed_texts
from scratch_vlm.inference.published import (
    CHATS,
    CLIPS,
    WHERE,
    Published,
    answer_pictures,
    embed_pictures,
    embed_words,
    is_published,
    open_published,
)
from scratch_vlm.inference.zero_shot import class_embeddings, zero_shot_probabilities
from scratch_vlm.ops.resize import resize_forward

NEW = 32  # most tokens of an answer: enough for the caption of a full board
LONGER = 256  # of one of a published model
FRAMES = 4  # of a video that a published model is shown, each as an image
DESCRIBE = "Describe the image in a few words."
SIZE = (24, 24)
CHAT = ("unified", "cross_modal")
JOBS = {  # what is asked of a model: the kinds that can, and where to get one
    "ask": (CHAT, "scratch-vlm train --help says what trains one"),
    "caption": (CHAT, "scratch-vlm train --help says what trains one"),
    "classify": (("clip",), "scratch-vlm train clip makes one"),
    "embed": (("clip",), "scratch-vlm train clip makes one"),
    "search": (("clip",), "scratch-vlm train clip makes one"),
}
RUN_FILES = ("model.json", "checkpoint", "state.json")
UNFINISHED = "\ufffd"  # where the bytes of a character are not complete


class Answer(NamedTuple):
    """What a model said.

    Attributes
    ----------
    text : str
        The answer.
    logprob : float
        Logarithm of the probability that the model gave to it, its end included, in nats.
    """

    text: str
    logprob: float

    @property
    def probability(self):
        """Of this answer among all texts, 0 to 1: how sure the model was, not whether it is right.

        Temperature does not change it.
        """
        return math.exp(self.logprob)


def open_media(path, size=SIZE, *, takes="both", frames=None):
    """Read an image or a video file as a model sees it.

    Parameters
    ----------
    path : str or path
        What it is, is found out from its contents.
    size : tuple of int, default (24, 24)
        Height and width of the model's images, in pixels.
    takes : {"image", "video", "both"}
        What the model was trained on.
    frames : int, optional
        Most frames of a video. Of a longer one, as many are taken at equal distances: it is cut
        into `frames` equal parts, and the middle frame of each is kept. Default all.

    Returns
    -------
    array of shape (F, H, W, 3)
        RGB in [0, 1], in float32, not yet normalised; F is 1 for an image.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If Pillow or PyAV, which the file needs, is not installed.
    MediaError
        If the file is neither image nor video, is damaged, or is not what the model takes.
    ValueError
        If `frames` is not positive.

    Notes
    -----
    An image of another shape is not squeezed: the largest middle part that has the shape of
    `size` is kept, and what is outside is not seen. That part is then resized, bilinearly and
    with antialiasing. The models of this library were trained on 24 x 24 pixels and see little of
    a photograph.
    """
    pictures = read_frames(path, takes=takes, frames=frames)
    return np.stack([_fitted(picture, size) for picture in pictures])


def read_frames(path, *, takes="both", frames=None, bytes=False):
    """Read an image, or frames of a video at equal distances, as they are in the file.

    Parameters
    ----------
    path, takes, frames
        As in `open_media`.
    bytes : bool, default False
        Whether pixels are wanted as bytes, see `read_pixels`.

    Returns
    -------
    iterator of array of shape (H, W, 3)
        One for an image.

    Raises
    ------
    FileNotFoundError, ImportError, MediaError, ValueError
        As `open_media` does; some of them when the files are read.
    """
    if frames is not None and frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    kind = media_kind(path)
    if takes not in (kind, "both"):
        which = "an image" if kind == "image" else "a video"
        raise MediaError(f"{path} is {which}; this model was trained on {takes}s")
    if kind == "image":
        return iter([read_pixels(path) if bytes else read_image(path)])
    # Twice, so that the memory holds one frame as it is in the file and those that are kept.
    count = sum(1 for _ in stream_video(path))
    kept = range(count)
    if frames is not None and frames < count:
        kept = {(2 * i + 1) * count // (2 * frames) for i in range(frames)}
    found = (frame for i, (frame, _) in enumerate(stream_video(path)) if i in kept)
    return (to_bytes(frame) for frame in found) if bytes else found


def is_video(path):
    """Tell videos from everything else.

    Parameters
    ----------
    path : str or path
        A file.

    Returns
    -------
    bool
        Whether it is a video, an animated GIF among them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If Pillow or PyAV, which the file needs, is not installed.
    """
    try:
        return media_kind(path) == "video"
    except MediaError:
        return False


def model_for(job, path=None, *, root=ROOT):
    """Choose a model: of those that can do what is asked with a file, the one trained last.

    Those that learn from examples in the prompt are passed over, since `ask` gives none.

    Parameters
    ----------
    job : {"ask", "caption", "classify", "embed", "search"}
        What is asked.
    path : str or path, optional
        The image or the video.
    root : str or path, default "runs"
        Where to look.

    Returns
    -------
    path
        A folder for `load_model`.

    Raises
    ------
    FileNotFoundError
        If there is no file `path`.
    ImportError
        If Pillow or PyAV, which the file needs, is not installed.
    MediaError
        If a video is to be classified.
    ModelError
        If there is no such model; the message says where to get one.
    """
    kinds, source = JOBS[job]
    media = "video" if path is not None and is_video(path) else "image"
    if job == "classify" and media == "video":
        raise MediaError(f"{path} is a video; a CLIP classifies images")

    def suits(about):
        takes = _takes(about) in (media, "both") and "shots" not in about
        return takes and (job != "caption" or "caption" in about)

    found = newest_model(kinds, root=root, suits=suits)
    if found is None:
        which = f"to describe {media}s" if job == "caption" else f"that takes {media}s"
        raise ModelError(
            f"there is no model under {root} {which}; {source}, and --model names its "
            "folder if it is elsewhere, or the folder of a published model"
        )
    return found


def open_model(folder, job, *, xp=np, on_tensor=None):
    """Open a model: the folder of a run, or that of a published model.

    Parameters
    ----------
    folder : str or path
        The folder.
    job : {"ask", "caption", "classify", "embed", "search"}
        What it is for; models that cannot are refused.
    xp : module, default numpy
        Where runs are computed.
    on_tensor : callable, optional
        ``on_tensor(name, count)`` for each tensor of a published model that was read.

    Returns
    -------
    Model or Published

    Raises
    ------
    ModelError
        If it is no such folder; the message says where to get one.
    FileError, OptionError
        If a published model is damaged, or not implemented.
    """
    kinds, _ = JOBS[job]
    if is_published(folder):
        return open_published(folder, kinds=CHATS if kinds == CHAT else CLIPS, on_tensor=on_tensor)
    try:
        return load_model(folder, kinds=kinds, xp=xp)
    except ModelError as error:
        found = Path(folder)
        if found.is_dir() and any((found / name).exists() for name in RUN_FILES):
            raise
        raise ModelError(f"{error}; nor is it a published model: {WHERE}") from None


def ask(model, path, question, *, new=None, temperature=0.0, seed=0, frames=None, on_text=None):
    """Ask a vision language model about an image or a video.

    Parameters
    ----------
    model : Model, Published, str or path
        The model, or its folder.
    path : str or path
        An image or a video file, see `open_media`.
    question : str
        What to ask. For a model that was trained here capitals, needless spaces and a question
        mark are taken away, as in training there are none.
    new : int, optional
        Most tokens of the answer, fewer where the model has no more room; default 32, and of a
        published model 256.
    temperature : float, default 0
        0 for the most probable words; above, they are drawn.
    seed : int, default 0
        Draws them.
    frames : int, optional
        Most frames of a video; default as many as the model was trained with. A published model
        sees frames, by default 4, as so many images.
    on_text : callable, optional
        Called with each piece of the answer as soon as it is written.

    Returns
    -------
    Answer

    Raises
    ------
    FileNotFoundError, ImportError, MediaError
        As `open_media` does.
    ModelError
        If the folder holds no vision language model.
    ValueError
        If the question is empty or too long or holds a special token, or an option is out of range.
    """
    model = _opened(model, "ask")
    how = {"temperature": temperature, "rng": np.random.default_rng(seed)}
    if isinstance(model, Published):
        if not question.strip():
            raise ValueError("the question is empty")
        pictures = read_frames(path, frames=FRAMES if frames is None else frames, bytes=True)
        heard = Heard(lambda ids: model.reader.text(ids).strip(), on_text)
        found = answer_pictures(
            model,
            list(pictures),
            question.strip(),
            new=LONGER if new is None else new,
            on_token=heard.add,
            **how,
        )
        return heard.answer(found)
    question = plain(question)
    if not question:
        raise ValueError("the question is empty" + _examples(model.about))
    vit, bpe = model.config.sight.tower.vit, model.tokenizer
    frames = model.about.get("frames") if frames is None else frames
    media = open_media(path, vit.image[:2], takes=_takes(model.about), frames=frames)
    media = prepare(media)[None]  # (1, F, H, W, C)
    places = placeholders(model.config, media.shape[1])
    prompt, _ = encode_chat(bpe, [Turn(question, media=1)], placeholders=places)
    room = model.config.lm.context - len(prompt)
    if room < 1:
        raise ValueError(
            f"the question and {media.shape[1]} frames are {len(prompt)} tokens; "
            f"the model reads {model.config.lm.context}, its answer included"
        )
    heard = Heard(lambda ids: answer_text(bpe, ids), on_text)
    found = answer(
        [prompt],
        media,
        model.p,
        model.config,
        new=min(NEW if new is None else new, room),
        stop=(END,),
        on_token=heard.add,
        **how,
    )
    return heard.answer(found)


class Heard:
    """An answer while it is written, handed on in pieces of whole characters.

    Parameters
    ----------
    text : callable
        Turns token ids into a text.
    on_text : callable, optional
        Called with each piece.
    """

    def __init__(self, text, on_text=None):
        self._text, self._on_text, self._ids, self._said = text, on_text, [], ""

    def add(self, row, token, logprob):
        """Hear one more token; for `decode`."""
        self._ids.append(token)
        if self._on_text:
            text = self._text(self._ids)
            if not text.endswith(UNFINISHED):
                self._say(text)

    def answer(self, found):
        """Say what is left, and return the answer that `found` is."""
        text = self._text(found.ids[0])
        if self._on_text:
            self._say(text)
        return Answer(text, float(found.logprobs[0].sum()))

    def _say(self, text):
        # What was said cannot be taken back: only what goes on from it is.
        if len(text) > len(self._said) and text.startswith(self._said):
            self._on_text(text[len(self._said) :])
            self._said = text


def caption(model, path, **options):
    """Let a vision language model describe an image or a video.

    Parameters
    ----------
    model : Model, Published, str or path
        The model, or its folder.
    path : str or path
        An image or a video file, see `open_media`.
    **options
        Those of `ask`.

    Returns
    -------
    Answer

    Raises
    ------
    ModelError
        If the folder holds no vision language model, or one that was not trained to describe.
    FileNotFoundError, ImportError, MediaError, ValueError
        As `ask` does.
    """
    model = _opened(model, "caption")
    if isinstance(model, Published):
        return ask(model, path, DESCRIBE, **options)
    if "caption" not in model.about:
        raise ModelError(
            f"the model in {model.folder} was not trained to describe what it is shown"
            + _examples(model.about)
        )
    return ask(model, path, model.about["caption"], **options)


def classify(model, path, labels, *, templates=("{}",)):
    """Classify an image zero-shot: which label describes it best?

    Parameters
    ----------
    model : Model, Published, str or path
        A CLIP or a SigLIP, or its folder.
    path : str or path
        An image file, see `open_media`.
    labels : sequence of str
        At least two; of words in the vocabulary of the model, if it was trained here, where
        capitals do not matter.
    templates : sequence of str, default ("{}",)
        Prompts with ``{}`` in the place of the label. Of several, the embeddings are averaged.

    Returns
    -------
    list of (str, float)
        Labels and their probabilities, which sum to 1, the most probable first. One of the
        labels always wins, even if none is right.

    Raises
    ------
    TypeError
        If `labels` or `templates` is a single string.
    ModelError
        If the folder holds no CLIP.
    FileNotFoundError, ImportError, MediaError
        As `open_media` does.
    ValueError
        If there are fewer than two labels, one stands twice or is empty, a template has no place
        for it, or a word is not in the vocabulary.
    """
    for name, texts in (("labels", labels), ("templates", templates)):
        if isinstance(texts, str):
            raise TypeError(f"{name} is a list of strings, got {texts!r}")
    model = _opened(model, "classify")
    written = str.strip if isinstance(model, Published) else plain
    labels = [written(label) for label in labels]
    if not all(labels):
        raise ValueError("a label is empty; separate labels by single commas")
    if len(labels) < 2:
        raise ValueError(
            f"give at least two labels to choose among, got {len(labels)}: "
            "the probabilities sum to 1, so a single one always has 1"
        )
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"the label {twice!r} stands twice")
    without = [template for template in templates if "{}" not in template]
    if without or not len(templates):
        raise ValueError(f"a template needs {{}} in the place of the label, got {without}")
    prompts = [written(t.replace("{}", label)) for label in labels for t in templates]
    image = embed(model, path)[None]  # (1, E)
    classes = class_embeddings(embed_text(model, prompts).reshape(len(labels), len(templates), -1))
    scale = model.model.p["log_scale"] if isinstance(model, Published) else model.p["log_scale"]
    probabilities = zero_shot_probabilities(image, classes, to_host(scale))[0]
    best = np.argsort(-probabilities, kind="stable")
    return [(labels[i], float(probabilities[i])) for i in best]


def embed(model, path, *, frames=None):
    """Turn an image or a video file into a vector.

    Parameters
    ----------
    model : Model, Published, str or path
        A CLIP or a SigLIP, or its folder.
    path : str or path
        An image file; for a published model also a video, whose vector is the mean of those of
        its frames.
    frames : int, optional
        Most frames of a video, at equal distances; default 4.

    Returns
    -------
    numpy.ndarray of shape (E,)
        A unit vector, in float32.

    Raises
    ------
    FileNotFoundError, ImportError, MediaError
        As `open_media` does.
    ModelError
        If the folder holds no such model.
    """
    model = _opened(model, "embed")
    if isinstance(model, Published):
        pictures = read_frames(path, frames=FRAMES if frames is None else frames, bytes=True)
        return class_embeddings(embed_pictures(model, list(pictures))[None])[0]
    media = prepare(open_media(path, model.config.image.image[:2], takes="image"))
    xp = namespace(model.p["log_scale"])
    return to_host(embed_images(to_device(media, xp), model.p, model.config))[0]


def embed_text(model, texts):
    """Turn texts into vectors, to compare with those of images.

    Parameters
    ----------
    model : Model, Published, str or path
        A CLIP or a SigLIP, or its folder.
    texts : sequence of str
        Texts; of words in the vocabulary of the model, if it was trained here.

    Returns
    -------
    numpy.ndarray of shape (B, E)
        Unit vectors, in float32.

    Raises
    ------
    ModelError
        If the folder holds no such model.
    ValueError
        If a text is too long or holds a special token, or a word is not in the vocabulary.
    """
    model = _opened(model, "embed")
    if isinstance(model, Published):
        return embed_words(model, texts)
    ids = model.tokenizer.encode([plain(text) for text in texts], model.config.text.context)
    xp = namespace(model.p["log_scale"])
    return to_host(embed_texts(to_device(ids, xp), model.p, model.config))


def plain(text):
    """Write a text as those that models were trained on.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        In small letters, with single spaces and without punctuation at the end.

    Examples
    --------
    >>> plain(" What colour is  seven? ")
    'what colour is seven'
    """
    return " ".join(text.lower().rstrip("?!. \n\t").split())


def unread_words(model, question):
    """List the words of a question that a model cannot have met in training.

    Parameters
    ----------
    model : Model
        A vision language model whose tokenizer has a token for each word that was trained on.
    question : str
        The question.

    Returns
    -------
    list of (str, str or None)
        Each with the nearest word that is known, if one is near.

    Raises
    ------
    ValueError
        If a special token is written out in the question.
    """
    question = plain(question)
    refuse_specials(question, (*SPECIALS, *CHAT_SPECIALS), "question")
    bpe = model.tokenizer
    known = [bpe.text([i]) for i in range(len(bpe))]
    known = [word[1:] for word in known if word.startswith(" ")]
    # Most are beginnings of words, left over from merging.
    known = [w for w in known if not any(k != w and k.startswith(w) for k in known)]
    unread = [word for word in question.split() if len(bpe.tokens(" " + word)) > 1]
    near = [difflib.get_close_matches(word, known, 1) for word in unread]
    return [(word, close[0] if close else None) for word, close in zip(unread, near, strict=True)]


def _opened(model, job):
    if not isinstance(model, Model | Published):
        return open_model(model, job)
    kinds, _ = JOBS[job]
    kind = model.model.kind if isinstance(model, Published) else model.kind
    wanted = (CHATS if kinds == CHAT else CLIPS) if isinstance(model, Published) else kinds
    if kind not in wanted:
        raise ModelError(f"to {job} takes a model of kind {' or '.join(wanted)}, not {kind}")
    return model


def _takes(about):
    return about.get("media", "image")


def _examples(about):
    questions = about.get("questions")
    return f"; ask, for example: {', '.join(questions)}" if questions else ""


def _fitted(image, size):
    """Cut the middle out of an image and bring it to a size."""
    height, width = image.shape[:2]
    h = min(height, max(1, round(width * size[0] / size[1])))
    w = min(width, max(1, round(height * size[1] / size[0])))
    top, left = (height - h) // 2, (width - w) // 2
    image = image[None, top : top + h, left : left + w]
    return resize_forward(image, size=size)[0][0]
