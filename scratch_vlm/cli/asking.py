"""Commands that use a model: ask, caption, classify, embed, search."""

import sys
from pathlib import Path

from scratch_vlm.cli.shared import at_least, backend, command, json_files, option

FOLDERS = """\
Such folders hold config.json, model.safetensors,
tokenizer.json and preprocessor_config.json: the Transformers library writes them with
save_pretrained, and the Hugging Face Hub offers many. Nothing is downloaded by scratch-vlm."""
MEDIA = option("file", type=Path, metavar="FILE", help="an image or a video")
TEMPERATURE = option(
    "--temperature",
    type=float,
    default=0.0,
    metavar="T",
    help="0 for the most probable answer (default), above to draw one with --seed",
)
TOKENS = option(
    "--tokens",
    type=at_least(1),
    metavar="N",
    help="most tokens of the answer (default 32, of a published model 256)",
)
FRAMES = option(
    "--frames",
    type=at_least(1),
    metavar="N",
    help="most frames of a video (default: as many as the model was trained with, 4 of a "
    "published one)",
)
MODEL = option(
    "--model",
    type=Path,
    metavar="DIR",
    help="folder of a run (default: under runs/, the newest that fits) or of a published model",
)
JSON = option("--json", type=Path, metavar="FILE", help="write it here")


@command(
    "ask a model about an image or a video",
    f"""\
Ask a vision language model about an image or a video.

  scratch-vlm ask board.png "what colour is seven"
  scratch-vlm ask board.png "what digit is left of three?" --model runs/vqa-0
  scratch-vlm ask clip.mp4 "which way does the red one move" --frames 8
  scratch-vlm ask photo.jpg "What is the man holding?" --model llava-1.5-7b-hf
  scratch-vlm ask board.png "what digit is red" --temperature 1 --seed 3

The answer is followed by the probability that the model gave to it: how sure it was. A model that
was trained here knows only the words, and only the kind of image, that it was trained with: the
middle of an image is cut out in the shape of its images, and resized to 24 x 24 pixels.

--model may also name the folder of a published LLaVA, Idefics or Llama 3.2 Vision. Photographs are
then prepared as its own processor does; of a video it is shown --frames frames (default 4), each as
an image. {FOLDERS}

Images are PNG, JPEG, WebP, ...; videos are MP4, WebM, animated GIF, ... Of a video, frames at equal
distances are taken. Reading files needs: pip install "scratch-vlm[io]"
""",
    MEDIA,
    option("question", metavar="QUESTION", help="in quotes"),
    TEMPERATURE,
    TOKENS,
    FRAMES,
    MODEL,
    JSON,
    out="folder to write ask.json into",
    trains=False,
)
def ask(options):
    return _answer(options, "ask", options.question)


@command(
    "let a model describe an image or a video",
    """\
Let a trained vision language model describe what an image or a video shows.

  scratch-vlm caption board.png
  scratch-vlm caption board.png --model runs/captions-0

That is one question, which models that were trained to describe know the words of; to ask others,
see scratch-vlm ask --help, which also says what files are read and how.
""",
    MEDIA,
    TEMPERATURE,
    TOKENS,
    FRAMES,
    MODEL,
    JSON,
    out="folder to write caption.json into",
    trains=False,
)
def caption(options):
    return _answer(options, "caption")


def _answer(options, job, *question):
    from scratch_vlm.experiments import ask
    from scratch_vlm.experiments.runs import Model

    model = _model(options, job, options.file)
    for word, near in (
        ask.unread_words(model, *question) if question and isinstance(model, Model) else ()
    ):
        hint = f"; do you mean {near!r}?" if near else ""
        print(f"the model has not met the word {word!r} in training{hint}", file=sys.stderr)
    said = getattr(ask, job)(
        model,
        options.file,
        *question,
        new=options.tokens,
        temperature=options.temperature,
        seed=options.seed,
        frames=options.frames,
        on_text=lambda text: print(text, end="", flush=True),
    )
    print("" if said.text else "(an empty answer)")
    print(f"probability {said.probability:.3g}")
    about = {"question": question[0]} if question else {}
    answer = {"answer": said.text, "logprob": said.logprob, "probability": said.probability}
    _write(options, job, {**about, **answer}, model)
    return 0


@command(
    "classify an image with labels of your own",
    f"""\
Classify an image zero-shot, with a CLIP: the classes are texts, and it was trained on none of them
as a class. Each text is compared with the image, and a softmax makes probabilities of it.

  scratch-vlm classify scene.png --labels "red seven" "blue seven" "red three"
  scratch-vlm classify scene.png --labels "red seven above blue three,blue three above red seven"
  scratch-vlm classify scene.png --labels one seven --template "red {{}}" --template "blue {{}}"
  scratch-vlm classify photo.jpg --labels "a cat" "a dog" --model clip-vit-base-patch32

Several templates make one class of several texts, the mean of their embeddings. The probabilities
sum to 1: one label always wins, even if none is right. Train a CLIP with scratch-vlm train clip, or
name the folder of a published CLIP or SigLIP. {FOLDERS}
""",
    option("file", type=Path, metavar="FILE", help="an image"),
    option(
        "--labels",
        required=True,
        nargs="+",
        metavar="LABEL",
        help="at least two, each in quotes; or one text with commas between them",
    ),
    option(
        "--template",
        action="append",
        metavar="TEXT",
        help="a text with {} in the place of the label; may be given several times",
    ),
    MODEL,
    JSON,
    out="folder to write classify.json into",
    trains=False,
)
def classify(options):
    from scratch_vlm.experiments.ask import classify

    model = _model(options, "classify", options.file)
    labels = options.labels
    labels = labels[0].split(",") if len(labels) == 1 else labels
    templates = options.template or ["{}"]
    found = classify(model, options.file, labels, templates=templates)
    width = max(len(label) for label, _ in found)
    for label, probability in found:
        print(f"{label:{width}}  {probability:6.3f}  {'#' * round(40 * probability)}".rstrip())
    _write(options, "classify", {"labels": dict(found), "templates": templates}, model)
    return 0


@command(
    "turn images into vectors",
    f"""\
Turn images into vectors with a CLIP, and write them as rows of a NumPy file: of float32, each of
length 1, in the order of the files. The product of two is the cosine of the angle between them.

  scratch-vlm embed photos/*.jpg --model clip-vit-base-patch32 --out photos.npy
  scratch-vlm embed scene.png --out scene.npy

--model names the run of a CLIP, or the folder of a published CLIP or SigLIP, which also takes
videos: the mean of --frames of their frames. {FOLDERS}
""",
    option("files", type=Path, nargs="+", metavar="FILE", help="images or videos"),
    FRAMES,
    MODEL,
    out="file of the vectors (default embeddings.npy)",
    kind="FILE",
    trains=False,
)
def embed(options):
    import numpy as np
    from tqdm import tqdm

    from scratch_vlm.experiments.ask import embed
    from scratch_vlm.pretrained.tensors import replacing
    from scratch_vlm.training.run import prepare_file

    out = options.out or Path("embeddings.npy")
    prepare_file(out)
    model = _model(options, "embed", options.files[0])
    alone = True if len(options.files) == 1 else None  # None: unless there is no terminal
    with tqdm(options.files, unit="image", leave=False, disable=alone) as files:
        found = np.stack([embed(model, file, frames=options.frames) for file in files])
    with replacing(out) as file:
        np.save(file, found)
    print(f"{out}: {found.shape[0]} x {found.shape[1]}, {found.dtype}")
    return 0


@command(
    "find the images that a text describes",
    f"""\
Find the images in a folder, and in those below it, that a text describes best.

  scratch-vlm search photos "a red car" --model clip-vit-base-patch32
  scratch-vlm search photos "people at a table" --model clip-vit-base-patch32 --top 20

The first search looks at every image and keeps their vectors in an index, in ~/.cache/scratch-vlm
unless --index says where; the next ones look only at what is new or changed. In front of each name
stands the cosine of image and text: only its order means something. --model names the run of a
CLIP, or the folder of a published CLIP or SigLIP. {FOLDERS}
""",
    option("folder", type=Path, metavar="FOLDER", help="of images"),
    option("text", metavar="TEXT", help="in quotes"),
    option("--top", type=at_least(1), default=10, metavar="N", help="how many (default 10)"),
    option("--index", type=Path, metavar="FILE", help="file of the index"),
    MODEL,
    JSON,
    out="folder to write search.json into",
    trains=False,
)
def search(options):
    from tqdm import tqdm

    from scratch_vlm.experiments.ask import embed, embed_text
    from scratch_vlm.inference.index import best_matches, index_file, model_mark, update_index

    if not options.folder.is_dir():
        raise FileNotFoundError(f"there is no folder {options.folder}")
    if not options.text.strip():
        raise ValueError("the text to search for is empty")
    model = _model(options, "search")
    file = options.index or index_file(options.folder, model.folder)
    with tqdm(unit="image", leave=False, delay=0.5, disable=None) as bar:

        def see(count):
            bar.total = count
            bar.update()

        index = update_index(
            options.folder,
            file,
            lambda path: embed(model, path),
            mark=model_mark(model.folder),
            on_image=see,
        )
    images = f"{len(index.names)} image{'s' * (len(index.names) > 1)}"
    print(f"{images}, {index.new} new; index: {file}", file=sys.stderr)
    for name, why in index.skipped.items():
        print(f"passed over {name}: {why}", file=sys.stderr)
    (query,) = embed_text(model, [options.text])
    found = best_matches(index, query, options.top)
    for name, cosine in found:
        print(f"{cosine:6.3f}  {options.folder / name}")
    _write(options, "search", {"text": options.text, "found": dict(found)}, model)
    return 0


def _model(options, job, file=None):
    from tqdm import tqdm

    from scratch_vlm.experiments.ask import model_for, open_model
    from scratch_vlm.training.run import prepare_file

    for wanted in () if job == "embed" else json_files(options, job):
        prepare_file(wanted)
    folder = options.model
    if folder is None:
        folder = model_for(job, file)
        print(f"model: {folder}", file=sys.stderr)
    with tqdm(unit="tensor", desc="loading", leave=False, delay=0.5, disable=None) as bar:

        def read(name, count):
            bar.total = count
            bar.update()

        return open_model(folder, job, xp=backend(options), on_tensor=read)


def _write(options, job, result, model):
    from scratch_vlm.training.run import write_json

    for file in json_files(options, job):
        about = options.folder if job == "search" else options.file
        write_json(file, {"model": str(model.folder), "file": str(about), **result})
