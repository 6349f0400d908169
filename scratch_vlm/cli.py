"""The command ``scratch-vlm``. Each command imports what it needs when it is called."""

import argparse
import importlib
import os
import sys
from pathlib import Path

import scratch_vlm

EXPERIMENTS = {  # module of experiments, and the stages that must have been trained before
    "vit": ("digits", ()),
    "clip": ("scenes", ()),
    "lm": ("language", ()),
    "perceiver": ("perceiver", ()),
    "vqa": ("vqa", ("clip", "lm")),
    "video": ("motion", ("clip", "lm", "unified")),
    "shots": ("shots", ("clip", "lm")),
}

USES = ("ask", "caption", "classify", "embed", "search")  # commands that train nothing

DESCRIPTION = """\
Vision language models from scratch: every forward with its backward, no autograd.

Start with
  scratch-vlm demo            train a ViT, a CLIP and models that see and speak, look at all (7 min)
  scratch-vlm compare         train two vision language models, and ask them (30 min)
  scratch-vlm gradcheck       check the gradient of every layer and model to machine precision
  scratch-vlm lessons         read how all of it works, and run what you read
  scratch-vlm bench           time it beside PyTorch, on the CPU and on a GPU
  scratch-vlm info            what is installed here, and whether a GPU can be used
"""

EPILOG = """\
An error is one line that says what to do. To see where it comes from, set SCRATCH_VLM_TRACEBACK=1.
"""

DEMO = """\
Train one model of each kind on real handwritten digits, on two cores in about seven minutes:

  1. a Vision Transformer that names single digits,
  2. a CLIP that matches scenes of two coloured digits with captions such as
     "red seven above blue three", and then classifies zero-shot,
  3. a language model of questions and answers, and from it
  4. a model that answers questions about images by visual tokens among its words (unified
     embedding), and one whose words look at them from inside (cross-modality attention),
  5. one that answers questions about videos, and one that learns from examples in its prompt.

Prints a table of results (value, chance, a simple baseline) on handwriting of people whose forms
were not trained on, and writes a folder:

  report.html     everything to look at: curves, attention maps, retrieval, questions and answers
  metrics.json    the results
  metrics.csv     the learning curve of the CLIP, a row for each step
  checkpoint/     its weights (safetensors) and what is needed to go on
  vit/ lm/ ...    the same for the other models
  samples/        images and a clip to ask about, with scratch-vlm ask, caption and classify

Press Ctrl-C at any time: the same command goes on from the last checkpoint, and ends with the
same numbers to the last bit. For longer trainings of both fusions, see scratch-vlm compare.
"""

TRAIN = """\
Train one model and measure it on validation data.

  vit         names single handwritten digits
  clip        matches scenes of two coloured digits with captions
  lm          a language model of such captions: --style gpt or llama
  perceiver   reads a digit as an array of 64 pixels
  vqa         answers questions on boards of digits: --arm unified or cross_modal
  video       says which way digits move in clips: --arm clips, or one that cannot know
  shots       learns from examples in the prompt

  scratch-vlm train vit --steps 500 --seed 1
  scratch-vlm train lm --style llama
  scratch-vlm train vqa --arm cross_modal --connector resampler
  scratch-vlm train video --out runs/films

The last three start from a CLIP and a language model, and video from a model of images, which are
trained first, under --base, where they are not there yet. An interrupted training goes on when the
same command is given again.
"""

COMPARE = """\
Train both ways to give a language model eyes on the same data, and put them side by side: visual
tokens among its words (unified embedding, as in LLaVA), and words that look at the image from
inside (cross-modality attention, as in Flamingo).

  scratch-vlm compare                    everything, about half an hour on two cores
  scratch-vlm compare --quick            a taste: the whole report of models that know little
  scratch-vlm compare --seed 1 --out runs/compare-1

It trains a CLIP and a language model, both fusions from them, gates that start closed, models of
videos, and one that learns from examples in the prompt. It writes a folder:

  report.html     accuracy by kind of question, where words look, gates, clips, what it costs
  metrics.json    the results
  unified/ ...    each model, for scratch-vlm ask and caption

Press Ctrl-C at any time: the same command goes on, and ends with the same numbers.
"""

GRADCHECK = """\
Compare every backward of the library with the slope of its forward.

The slope is measured by the complex step, Im f(x + ihu) / h with h = 1e-30: nothing is
subtracted, so it is exact to the last digits. Every input and every parameter is moved along a
random direction; parameters and the incoming gradient are random too.

  scratch-vlm gradcheck                         all pairs
  scratch-vlm gradcheck --pair attention        those with "attention" in their name, in detail
  scratch-vlm gradcheck --dtype float32         as well in float32, which may differ by rounding
  scratch-vlm gradcheck --backend cupy          on the GPU
  scratch-vlm gradcheck --json gradcheck.json   for other programs

What is wrong is located, with a guess at the mistake and the lines that show it again. Exit
status 1 if a pair is wrong. To check a layer of your own:

  from scratch_vlm.gradcheck import check
  print(check(my_forward, my_backward, [x], p))
"""

BENCH = """\
Time this library on NumPy and on CuPy beside PyTorch, eager and compiled: every op, every block,
training steps of a ViT and of both kinds of vision language model, and generation. Whoever is not
here is left out, and so is what would take too long or does not fit; the end says what, and why.

  scratch-vlm bench                       with whatever is here, in 8 minutes
  scratch-vlm bench --quick               small sizes and models
  scratch-vlm bench --only attention GELU
  scratch-vlm bench --backend numpy       on the host, though there is a GPU
  scratch-vlm bench --backend cupy        an error where CuPy does not work

All take turns (A B C A B C) on the same numbers, and must have computed the same before. On a GPU
time is that between two of its events. The floor is the least that the FLOPs and bytes of the work
can take at the speed that products and copies reach on this machine, measured in the same run.
On the host, ops, blocks and generation have one core, and training steps --cores.

Writes a folder:

  bench.json    every sample, ceilings, memory, versions, what was skipped; from which size on the
                GPU is faster, and whether it is as fast as it should be
  bench.png     times over sizes, with floors

Press Ctrl-C at any time: what was measured until then is written. Exit status 1 if something that
is here did not work, or computed something else.
"""

LESSONS = """\
Read, run and look at the lessons: from "what is an array" to a model that answers questions about
videos, every gradient included. Each is a script that proves what it says.

  scratch-vlm lessons            all of them, with the question that each answers
  scratch-vlm lessons run 02     run one; its figures go to runs/lessons
  scratch-vlm lessons run        run all
  scratch-vlm lessons open 02    open its page in the browser, or its script if no pages are built

To build the pages, which runs every lesson:
  pip install -e ".[docs]" && python -m sphinx -b html docs docs/_build/html
"""

TUNE = """\
Train a published model further, on photographs of your own.

  scratch-vlm tune clip --images photos --captions captions.csv --out my-clip
  scratch-vlm tune llava --images photos --captions answers.csv --only projector --out my-llava
  scratch-vlm tune llava --images photos --captions answers.csv --lora 8 --out my-llava
  scratch-vlm tune vit --images photos --captions labels.csv --new-head --out my-vit

The first line of the CSV file names its columns, in any order:

  image,caption             for CLIP and SigLIP
  image,question,answer     for LLaVA and Idefics; without questions, --question is asked
  image,label               for ViT; labels are names of its classes, or of new ones: --new-head

By default a small part learns: the projections of CLIP and SigLIP, the projector of LLaVA, the
gated layers of Idefics, the head of ViT. --only takes another one, --lora adapters in its
attention, which are merged into the weights in the end. One row in ten is kept aside, from 20 rows
on, and the loss on those is shown, before and after.

What is written is a folder like the one that was read, with its tokenizer and all: the
Transformers library loads it with from_pretrained, and so do ask, classify and the others here. In
training/ is the curve. The model that was read is not changed, and no model is overwritten. Press
Ctrl-C at any time: the same command goes on from the last checkpoint.

A model that is stored in 16 bits is written in 16 bits, where little is left of small changes:
--dtype float32 keeps them.
"""

ASK = """\
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
an image. Such folders hold config.json, model.safetensors,
tokenizer.json and preprocessor_config.json: the Transformers library writes them with
save_pretrained, and the Hugging Face Hub offers many. Nothing is downloaded by scratch-vlm.

Images are PNG, JPEG, WebP, ...; videos are MP4, WebM, animated GIF, ... Of a video, frames at equal
distances are taken. Reading files needs: pip install "scratch-vlm[io]"
"""

CAPTION = """\
Let a trained vision language model describe what an image or a video shows.

  scratch-vlm caption board.png
  scratch-vlm caption board.png --model runs/captions-0

That is one question, which models that were trained to describe know the words of; to ask others,
see scratch-vlm ask --help, which also says what files are read and how.
"""

PARITY = """\
Run our models beside what the published implementations computed, in folders that hold a model as
its library saves it, its inputs, and everything that came of them in double precision.

  scratch-vlm parity cases/clip                  a row for each group of arrays
  scratch-vlm parity cases/*                     a row for each case
  scratch-vlm parity cases/* --dtype float32     in single precision, to 1e-4
  scratch-vlm parity cases/* --json parity.json  the error of every array

The error of an array is the length of the difference over the length of the reference's array;
of gradients that are zero by symmetry, over the largest gradient of the case. Exit status 1 if one
is larger than --tolerance.
"""

CLASSIFY = """\
Classify an image zero-shot, with a CLIP: the classes are texts, and it was trained on none of them
as a class. Each text is compared with the image, and a softmax makes probabilities of it.

  scratch-vlm classify scene.png --labels "red seven" "blue seven" "red three"
  scratch-vlm classify scene.png --labels "red seven above blue three,blue three above red seven"
  scratch-vlm classify scene.png --labels one seven --template "red {}" --template "blue {}"
  scratch-vlm classify photo.jpg --labels "a cat" "a dog" --model clip-vit-base-patch32

Several templates make one class of several texts, the mean of their embeddings. The probabilities
sum to 1: one label always wins, even if none is right. Train a CLIP with scratch-vlm train clip, or
name the folder of a published CLIP or SigLIP. Such folders hold config.json, model.safetensors,
tokenizer.json and preprocessor_config.json: the Transformers library writes them with
save_pretrained, and the Hugging Face Hub offers many. Nothing is downloaded by scratch-vlm.
"""

EMBED = """\
Turn images into vectors with a CLIP, and write them as rows of a NumPy file: of float32, each of
length 1, in the order of the files. The product of two is the cosine of the angle between them.

  scratch-vlm embed photos/*.jpg --model clip-vit-base-patch32 --out photos.npy
  scratch-vlm embed scene.png --out scene.npy

--model names the run of a CLIP, or the folder of a published CLIP or SigLIP, which also takes
videos: the mean of --frames of their frames. Such folders hold config.json, model.safetensors,
tokenizer.json and preprocessor_config.json: the Transformers library writes them with
save_pretrained, and the Hugging Face Hub offers many. Nothing is downloaded by scratch-vlm.
"""

SEARCH = """\
Find the images in a folder, and in those below it, that a text describes best.

  scratch-vlm search photos "a red car" --model clip-vit-base-patch32
  scratch-vlm search photos "people at a table" --model clip-vit-base-patch32 --top 20

The first search looks at every image and keeps their vectors in an index, in ~/.cache/scratch-vlm
unless --index says where; the next ones look only at what is new or changed. In front of each name
stands the cosine of image and text: only its order means something. --model names the run of a
CLIP, or the folder of a published CLIP or SigLIP. Such folders hold config.json, model.safetensors,
tokenizer.json and preprocessor_config.json: the Transformers library writes them with
save_pretrained, and the Hugging Face Hub offers many. Nothing is downloaded by scratch-vlm.
"""


def main(arguments=None):
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        What stands behind ``scratch-vlm``; default that of the process.

    Returns
    -------
    int
        Exit status: 0, 1 if a check failed, 2 if the request could not be carried out, 130 if
        it was stopped by Ctrl-C, 141 if whoever read its output, such as ``head``, has gone.
    """
    parser = _parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return 2
    options = parser.parse_args(arguments)
    # One BLAS thread: several wait for each other on a busy machine, and the second core is needed
    # to draw batches. NumPy reads this when it is first imported, so it must not have been yet.
    # What only uses a model draws none, and takes all cores for its products.
    if options.command not in USES:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        return _run(options)
    except SystemExit as stop:  # TrainingInterrupted, which only the training commands import
        message = stop
    except KeyboardInterrupt:
        goes_on = options.command in ("demo", "train", "compare", "tune")
        message = "stopped; the same command goes on" if goes_on else "stopped"
    print(f"scratch-vlm {options.command}: {message}", file=sys.stderr)
    return 130


def _run(options):
    from scratch_vlm.backend import (
        BackendError,
        GraphError,
        is_shortage,
        keep_freed_memory,
        memory_shortage,
    )

    keep_freed_memory()
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141
    except (
        BackendError,
        GraphError,
        ImportError,
        OSError,
        ValueError,
        ArithmeticError,
    ) as error:
        if os.environ.get("SCRATCH_VLM_TRACEBACK"):
            raise
        message = error
    except Exception as error:
        if os.environ.get("SCRATCH_VLM_TRACEBACK") or not is_shortage(error):
            raise
        explained = type(error).__module__.startswith("scratch_vlm.")
        message = error if explained else memory_shortage(error)
    print(f"scratch-vlm {options.command}: {message}", file=sys.stderr)
    return 2


def _parser():
    parser = argparse.ArgumentParser(
        prog="scratch-vlm",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"scratch-vlm {scratch_vlm.__version__}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, run, summary, description, out, kind="DIR"):
        sub = commands.add_parser(
            name,
            help=summary,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        sub.add_argument(
            "--backend",
            default=None,
            help="numpy, cupy for an NVIDIA GPU, or auto for cupy where it works (default numpy, "
            "or SCRATCH_VLM_BACKEND)",
        )
        sub.add_argument(
            "--seed", type=_at_least(0), default=0, help="of all random numbers (default 0)"
        )
        sub.add_argument("--out", type=Path, default=None, metavar=kind, help=out)
        return sub

    demo = command(
        "demo",
        _demo,
        "train one model of each kind on real handwriting, look at the results",
        DEMO,
        "folder to write (default runs/demo-SEED)",
    )
    demo.add_argument("--quick", action="store_true", help="a taste, in a minute")

    train = command(
        "train",
        _train,
        "train one model",
        TRAIN,
        "folder to write (default runs/MODEL-SEED, with the style, arm or connector in between)",
    )
    train.add_argument("model", choices=tuple(EXPERIMENTS), help="which model")
    train.add_argument("--steps", type=_at_least(1), default=None, help="training steps")
    train.add_argument(
        "--batch-size",
        type=_at_least(1),
        metavar="N",
        help="samples in a step; fewer need less memory",
    )
    train.add_argument(
        "--precision",
        metavar="NAME",
        help="of matrix products: float32 (default), tf32, bf16 or fp16, as the tensor cores of a "
        "GPU compute them; numpy rounds alike, and is slower for it",
    )
    train.add_argument(
        "--graph",
        action="store_true",
        help="with cupy: record a step as CUDA graphs and launch those, which saves time between "
        "kernels where a step is short",
    )
    train.add_argument(
        "--style", choices=("gpt", "llama"), help="kind of language model (default gpt)"
    )
    train.add_argument("--arm", help="for vqa and video (default unified, clips)")
    train.add_argument("--connector", help="for vqa: linear, mlp, pixel_shuffle or resampler")
    train.add_argument(
        "--base",
        type=Path,
        metavar="DIR",
        help="folder of the models to start from (default runs/base-SEED)",
    )

    compare = command(
        "compare",
        _compare,
        "train both fusions of vision and language, and compare them",
        COMPARE,
        "folder to write (default runs/compare-SEED)",
    )
    compare.add_argument("--quick", action="store_true", help="a taste, in two minutes")

    for sub in (demo, train, compare):
        sub.add_argument(
            "--kernels",
            action="store_true",
            help="with cupy: CUDA kernels of our own do what some ops take many steps for, "
            "attention only in bf16 and fp16",
        )

    check = command(
        "gradcheck",
        _gradcheck,
        "check the gradient of every layer and model",
        GRADCHECK,
        "folder to write gradcheck.json into",
    )
    check.add_argument("--pair", default="", metavar="TEXT", help="only pairs whose name has TEXT")
    check.add_argument(
        "--examples", type=_at_least(1), default=6, help="random variants of each pair (default 6)"
    )
    check.add_argument(
        "--dtype",
        choices=("float64", "float32"),
        default="float64",
        help="judge gradients in this precision as well (default float64)",
    )
    check.add_argument("--json", type=Path, default=None, metavar="FILE", help="write results here")

    bench = command(
        "bench",
        _bench,
        "time it beside PyTorch, on the CPU and on a GPU",
        BENCH,
        "folder to write (default runs/bench)",
    )
    bench.add_argument("--quick", action="store_true", help="small sizes and models")
    bench.add_argument(
        "--only", nargs="+", default=(), metavar="NAME", help="only what has NAME in its name"
    )
    bench.add_argument(
        "--cores",
        type=_at_least(1),
        default=2,
        metavar="N",
        help="of the host, in training steps (default 2)",
    )
    bench.add_argument(
        "--minutes",
        type=_at_least(1),
        default=8,
        metavar="N",
        help="begin nothing more after this time (default 8)",
    )
    bench.add_argument("--note", metavar="TEXT", help="about the machine, to be written down")

    lessons = commands.add_parser(
        "lessons",
        help="list, run and open the lessons",
        description=LESSONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    lessons.set_defaults(run=_lessons)
    lessons.add_argument("action", nargs="?", choices=("list", "run", "open"), default="list")
    lessons.add_argument("lesson", nargs="?", metavar="NN", help="its number (default all)")

    parity = command(
        "parity",
        _parity,
        "run our models beside what published implementations computed",
        PARITY,
        "folder to write parity.json into",
    )
    parity.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folders of cases")
    parity.add_argument(
        "--dtype", choices=("float64", "float32"), default="float64", help="(default float64)"
    )
    parity.add_argument(
        "--tolerance",
        type=float,
        default=None,
        metavar="E",
        help="largest error that passes (default 1e-9, in float32 1e-4)",
    )
    parity.add_argument("--json", type=Path, default=None, metavar="FILE", help="write errors here")

    tune = command("tune", _tune, "train a published model further", TUNE, "folder to write")
    tune.add_argument("folder", type=Path, metavar="FOLDER", help="of a published model")
    tune.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder of the images"
    )
    tune.add_argument(
        "--captions", type=Path, required=True, metavar="FILE", help="CSV file of what is on them"
    )
    tune.add_argument(
        "--only", metavar="PART", help="what learns: projector, cross, head, vision, language, all"
    )
    tune.add_argument(
        "--lora",
        type=_at_least(1),
        nargs="?",
        const=8,
        metavar="RANK",
        help="learn adapters of this rank (default 8) instead of the weights themselves",
    )
    tune.add_argument(
        "--new-head", action="store_true", help="of a ViT, for the labels of the table"
    )
    tune.add_argument("--question", metavar="TEXT", help="asked about rows that have no question")
    tune.add_argument("--steps", type=_at_least(1), default=200, help="default 200")
    tune.add_argument(
        "--batch-size", type=_at_least(1), default=8, metavar="N", help="rows at once (default 8)"
    )
    tune.add_argument(
        "--rate", type=float, metavar="R", help="highest learning rate (default: by the part)"
    )
    tune.add_argument(
        "--save-every", type=_at_least(1), default=50, metavar="N", help="steps (default 50)"
    )
    tune.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of the file (default that of the model)",
    )

    for name, run, summary, description in (
        ("ask", _ask, "ask a model about an image or a video", ASK),
        ("caption", _caption, "let a model describe an image or a video", CAPTION),
        ("classify", _classify, "classify an image with labels of your own", CLASSIFY),
        ("embed", _embed, "turn images into vectors", EMBED),
        ("search", _search, "find the images that a text describes", SEARCH),
    ):
        out = f"folder to write {name}.json into", "DIR"
        if name == "embed":
            out = "file of the vectors (default embeddings.npy)", "FILE"
        sub = command(name, run, summary, description, *out)
        if name == "embed":
            sub.add_argument("files", type=Path, nargs="+", metavar="FILE", help="images or videos")
        elif name == "search":
            sub.add_argument("folder", type=Path, metavar="FOLDER", help="of images")
            sub.add_argument("text", metavar="TEXT", help="in quotes")
        else:
            what = "an image" if name == "classify" else "an image or a video"
            sub.add_argument("file", type=Path, metavar="FILE", help=what)
        if name == "ask":
            sub.add_argument("question", metavar="QUESTION", help="in quotes")
        if name == "classify":
            sub.add_argument(
                "--labels",
                required=True,
                nargs="+",
                metavar="LABEL",
                help="at least two, each in quotes; or one text with commas between them",
            )
            sub.add_argument(
                "--template",
                action="append",
                metavar="TEXT",
                help="a text with {} in the place of the label; may be given several times",
            )
        if name in ("ask", "caption"):
            sub.add_argument(
                "--temperature",
                type=float,
                default=0.0,
                metavar="T",
                help="0 for the most probable answer (default), above to draw one with --seed",
            )
            sub.add_argument(
                "--tokens",
                type=_at_least(1),
                default=None,
                metavar="N",
                help="most tokens of the answer (default 32, of a published model 256)",
            )
        if name in ("ask", "caption", "embed"):
            sub.add_argument(
                "--frames",
                type=_at_least(1),
                default=None,
                metavar="N",
                help="most frames of a video (default: as many as the model was trained with, 4 "
                "of a published one)",
            )
        if name == "search":
            sub.add_argument(
                "--top", type=_at_least(1), default=10, metavar="N", help="how many (default 10)"
            )
            sub.add_argument("--index", type=Path, metavar="FILE", help="file of the index")
        sub.add_argument(
            "--model",
            type=Path,
            default=None,
            metavar="DIR",
            help="folder of a run (default: under runs/, the newest that fits) or of a published "
            "model",
        )
        if name != "embed":
            sub.add_argument(
                "--json", type=Path, default=None, metavar="FILE", help="write it here"
            )

    command(
        "info",
        _info,
        "versions, backends, and why CuPy is or is not usable",
        "Say what is installed here, and whether a GPU can be used.",
        "folder to write info.json into",
    )
    return parser


def _at_least(least):
    def whole_number(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {least}, got {text!r}"
            )
        return value

    return whole_number


def _backend(options):
    from scratch_vlm.backend import cupy_problem, load

    xp = load(options.backend)
    if (options.backend or os.environ.get("SCRATCH_VLM_BACKEND")) == "auto":
        problem = cupy_problem()
        print(f"backend: {xp.__name__}" + (f" ({problem})" if problem else ""), file=sys.stderr)
    if "kernels" in options and options.kernels:
        from scratch_vlm.kernels import use_kernels

        use_kernels(xp)
    if "graph" in options and options.graph:
        from scratch_vlm.backend import Graphs

        Graphs(xp)  # says that there are none before anything is trained
    return xp


def _demo(options):
    from scratch_vlm.experiments.demo import run_demo

    name = f"demo-quick-{options.seed}" if options.quick else f"demo-{options.seed}"
    out = options.out or Path("runs") / name
    run_demo(out, seed=options.seed, quick=options.quick, xp=_backend(options))
    return 0


def _train(options):
    from scratch_vlm.training.run import RunFolder, write_metrics
    from scratch_vlm.viz.table import results_table

    module, before = EXPERIMENTS[options.model]
    experiment = importlib.import_module(f"scratch_vlm.experiments.{module}")
    style = _style(options)
    name = "-".join([options.model, *style.values()])
    out = options.out or Path("runs") / f"{name}-{options.seed}"
    how = {"seed": options.seed, "xp": _backend(options)}
    start = {}
    if before:
        from scratch_vlm.experiments.stages import STAGES, train_stages

        base = options.base or Path("runs") / f"base-{options.seed}"
        trained = train_stages(base, before, **how)
        stage = next(stage for stage in STAGES.values() if stage.module is experiment)
        start = {argument: trained[source] for argument, source in stage.starts.items()}
    given = {"batch_size": options.batch_size, "precision": options.precision}
    given["graph"] = options.graph or None
    training = {name: value for name, value in given.items() if value is not None}
    p = experiment.train_model(out, steps=options.steps, training=training, **how, **start, **style)
    metrics = {name: experiment.measure(p, name="val", **style)}
    write_metrics(RunFolder(out).metrics, metrics)
    print(results_table(metrics))
    return 0


STYLES = {  # options of single models, with their defaults
    "lm": {"style": "gpt"},
    "vqa": {"arm": "unified", "connector": "mlp"},
    "video": {"arm": "clips"},
}


def _style(options):
    wanted = STYLES.get(options.model, {})
    for name in ("style", "arm", "connector"):
        if getattr(options, name) and name not in wanted:
            users = " and ".join(model for model, names in STYLES.items() if name in names)
            raise ValueError(f"--{name} is for {users}; {options.model} has none")
    if options.base and not EXPERIMENTS[options.model][1]:
        raise ValueError(f"--base is for what starts from other models; {options.model} does not")
    return {name: getattr(options, name) or default for name, default in wanted.items()}


def _compare(options):
    from scratch_vlm.experiments.compare import run_compare

    name = f"compare-quick-{options.seed}" if options.quick else f"compare-{options.seed}"
    out = options.out or Path("runs") / name
    run_compare(out, seed=options.seed, quick=options.quick, xp=_backend(options))
    return 0


def _gradcheck(options):
    from scratch_vlm.experiments.checks import check_pairs

    files = [options.json] if options.json else []
    if options.out:
        files.append(options.out / "gradcheck.json")
    passed = check_pairs(
        options.pair,
        seed=options.seed,
        examples=options.examples,
        backend=options.backend,
        dtype=options.dtype,
        files=files,
    )
    return 0 if passed else 1


def _bench(options):
    from scratch_vlm.bench.run import run_bench

    report = run_bench(
        options.out or Path("runs") / "bench",
        backend=options.backend or os.environ.get("SCRATCH_VLM_BACKEND"),
        seed=options.seed,
        quick=options.quick,
        only=options.only,
        cores=options.cores,
        minutes=options.minutes,
        note=options.note,
    )
    return 130 if report["interrupted"] else 1 if report["failed"] else 0


def _lessons(options):
    from scratch_vlm.experiments import lessons
    from scratch_vlm.training.run import prepare_file

    if options.action == "open" and not options.lesson:
        raise ValueError("which lesson? scratch-vlm lessons open 02")
    chosen = [lessons.find_lesson(options.lesson)] if options.lesson else lessons.find_lessons()
    if options.action == "run":
        from scratch_vlm.viz.show import figure_file

        prepare_file(figure_file("figure"))
    for lesson in chosen:
        print(f"{lesson.number}  {lesson.question}", flush=True)
        if options.action == "open":
            print(f"    {lessons.open_lesson(lesson)}")
        if options.action == "run" and (status := lessons.run_lesson(lesson)):
            return status
    return 0


def _parity(options):
    from scratch_vlm.parity.run import check_cases
    from scratch_vlm.training.run import prepare_file

    files = _files(options, "parity")
    for file in files:
        prepare_file(file)
    passed = check_cases(
        options.folders, dtype=options.dtype, tolerance=options.tolerance, files=files
    )
    return 0 if passed else 1


def _tune(options):
    from scratch_vlm.backend import load
    from scratch_vlm.experiments.tuning import Settings, tune_folder

    if options.out is None:
        raise ValueError("say with --out which folder to write; no model is overwritten")
    if options.rate is not None and not 0 < options.rate < float("inf"):
        raise ValueError(f"--rate must be positive, got {options.rate}")
    settings = Settings(
        part=options.only,
        rank=options.lora,
        steps=options.steps,
        batch=options.batch_size,
        seed=options.seed,
        save_every=options.save_every,
        rate=options.rate,
        dtype=options.dtype,
        new_head=options.new_head,
    )
    if options.question is not None:
        settings = settings._replace(question=options.question)
    tune_folder(
        options.folder,
        options.images,
        options.captions,
        options.out,
        settings,
        xp=load(options.backend),
    )
    return 0


def _ask(options):
    return _answer(options, "ask", options.question)


def _caption(options):
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


def _classify(options):
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


def _embed(options):
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


def _search(options):
    from tqdm import tqdm

    from scratch_vlm.experiments.ask import embed, embed_text
    from scratch_vlm.inference.index import best_matches, index_file, model_mark, update_index

    if not options.folder.is_dir():
        raise FileNotFoundError(f"there is no folder {options.folder}")
    if not options.text.strip():
        raise ValueError("the text to search for is empty")
    model = _model(options, "search")
    file = options.index or index_file(options.folder, model.folder)
    with tqdm(unit="image", leave=False, disable=None) as bar:

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
    print(f"{len(index.names)} images, {index.new} new; index: {file}", file=sys.stderr)
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

    for wanted in () if job == "embed" else _files(options, job):
        prepare_file(wanted)
    folder = options.model
    if folder is None:
        folder = model_for(job, file)
        print(f"model: {folder}", file=sys.stderr)
    with tqdm(unit="tensor", desc="loading", leave=False, delay=0.5, disable=None) as bar:

        def read(name, count):
            bar.total = count
            bar.update()

        return open_model(folder, job, xp=_backend(options), on_tensor=read)


def _files(options, job):
    return [file for file in (options.json, options.out and options.out / f"{job}.json") if file]


def _write(options, job, result, model):
    from scratch_vlm.training.run import write_json

    for file in _files(options, job):
        about = options.folder if job == "search" else options.file
        write_json(file, {"model": str(model.folder), "file": str(about), **result})


def _info(options):
    from scratch_vlm.experiments.checks import describe_installation

    describe_installation(options.backend, options.out)
    return 0
