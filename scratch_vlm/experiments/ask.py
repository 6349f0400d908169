"""Trained models and files of the user: ask about an image or a video, describe it, classify it."""

import difflib
import math
from typing import NamedTuple

import numpy as np

from scratch_vlm.backend import namespace, to_device, to_host
from scratch_vlm.data.chat import Turn, answer_text, encode_chat
from scratch_vlm.data.files import MediaError, media_kind, read_image, stream_video
from scratch_vlm.data.tokens import END
from scratch_vlm.experiments.chats import placeholders
from scratch_vlm.experiments.runs import ROOT, Model, ModelError, load_model, newest_model
from scratch_vlm.experiments.scenes import prepare
from scratch_vlm.inference.answer import answer
from scratch_vlm.inference.embed import embed_images, embed_texts
from scratch_vlm.inference.zero_shot import class_embeddings, zero_shot_probabilities
from scratch_vlm.ops.resize import resize_forward

NEW = 32  # most tokens of an answer: enough for the caption of a full board
SIZE = (24, 24)
CHAT = ("unified", "cross_modal")
JOBS = {  # what is asked of a model: the kinds that can, and where to get one
    "ask": (CHAT, "scratch-vlm train --help says what trains one"),
    "caption": (CHAT, "scratch-vlm train --help says what trains one"),
    "classify": (("clip",), "scratch-vlm train clip makes one"),
}
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
    if frames is not None and frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    kind = media_kind(path)
    if takes not in (kind, "both"):
        which = "an image" if kind == "image" else "a video"
        raise MediaError(f"{path} is {which}; this model was trained on {takes}s")
    if kind == "image":
        return _fitted(read_image(path), size)[None]
    # Twice, so that the memory holds one frame as it is in the file and those that are kept.
    count = sum(1 for _ in stream_video(path))
    kept = range(count)
    if frames is not None and frames < count:
        kept = {(2 * i + 1) * count // (2 * frames) for i in range(frames)}
    return np.stack(
        [_fitted(frame, size) for i, (frame, _) in enumerate(stream_video(path)) if i in kept]
    )


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


def model_for(job, path, *, root=ROOT):
    """Choose a model: of those that can do what is asked with a file, the one trained last.

    Parameters
    ----------
    job : {"ask", "caption", "classify"}
        What is asked.
    path : str or path
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
    media = "video" if is_video(path) else "image"
    if job == "classify" and media == "video":
        raise MediaError(f"{path} is a video; a CLIP classifies images")

    def suits(about):
        return _takes(about) in (media, "both") and (job != "caption" or "caption" in about)

    found = newest_model(kinds, root=root, suits=suits)
    if found is None:
        which = f"to describe {media}s" if job == "caption" else f"that takes {media}s"
        raise ModelError(
            f"there is no model under {root} {which}; {source}, and --model names its "
            "folder if it is elsewhere"
        )
    return found


def ask(model, path, question, *, new=NEW, temperature=0.0, seed=0, frames=None, on_text=None):
    """Ask a vision language model about an image or a video.

    Parameters
    ----------
    model : Model, str or path
        The model, or the folder of its run.
    path : str or path
        An image or a video file, see `open_media`.
    question : str
        What to ask. Capitals, needless spaces and a question mark are taken away, as in training
        there are none.
    new : int, default 32
        Most tokens of the answer; fewer where the model has no more room.
    temperature : float, default 0
        0 for the most probable words; above, they are drawn.
    seed : int, default 0
        Draws them.
    frames : int, optional
        Most frames of a video; default as many as the model was trained with.
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
        If the question is empty or too long, or an option is out of range.
    """
    model = _opened(model, "ask")
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
    written, said = [], ""

    def hear(_, token, __):
        nonlocal said
        written.append(token)
        text = answer_text(bpe, written)
        if not text.endswith(UNFINISHED):
            on_text(text[len(said) :])
            said = text

    found = answer(
        [prompt],
        media,
        model.p,
        model.config,
        new=min(new, room),
        temperature=temperature,
        rng=np.random.default_rng(seed),
        stop=(END,),
        on_token=hear if on_text else None,
    )
    text = answer_text(bpe, found.ids[0])
    if on_text and text != said:
        on_text(text[len(said) :])
    return Answer(text, float(found.logprobs[0].sum()))


def caption(model, path, **options):
    """Let a vision language model describe an image or a video.

    Parameters
    ----------
    model : Model, str or path
        The model, or the folder of its run.
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
    model : Model, str or path
        A CLIP, or the folder of its run.
    path : str or path
        An image file, see `open_media`.
    labels : sequence of str
        At least two, of words in the vocabulary of the model; capitals do not matter.
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
    labels = [plain(label) for label in labels]
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
    prompts = [plain(t.replace("{}", label)) for label in labels for t in templates]
    ids = model.tokenizer.encode(prompts, model.config.text.context)
    image = prepare(open_media(path, model.config.image.image[:2], takes="image"))
    xp = namespace(model.p["log_scale"])
    image = embed_images(to_device(image, xp), model.p, model.config)  # (1, E)
    texts = embed_texts(to_device(ids, xp), model.p, model.config)  # (V M, E)
    classes = class_embeddings(texts.reshape(len(labels), len(templates), -1))
    probabilities = to_host(zero_shot_probabilities(image, classes, model.p["log_scale"]))[0]
    best = np.argsort(-probabilities, kind="stable")
    return [(labels[i], float(probabilities[i])) for i in best]


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
    """
    bpe = model.tokenizer
    known = [bpe.text([i]) for i in range(len(bpe))]
    known = [word[1:] for word in known if word.startswith(" ")]
    # Most are beginnings of words, left over from merging.
    known = [w for w in known if not any(k != w and k.startswith(w) for k in known)]
    unread = [word for word in plain(question).split() if len(bpe.tokens(" " + word)) > 1]
    near = [difflib.get_close_matches(word, known, 1) for word in unread]
    return [(word, close[0] if close else None) for word, close in zip(unread, near, strict=True)]


def _opened(model, job):
    kinds, _ = JOBS[job]
    if not isinstance(model, Model):
        return load_model(model, kinds=kinds)
    if model.kind not in kinds:
        raise ModelError(f"to {job} takes a model of kind {' or '.join(kinds)}, not {model.kind}")
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
