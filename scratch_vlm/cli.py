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

DESCRIPTION = """\
Vision language models from scratch: every forward with its backward, no autograd.

Start with
  scratch-vlm demo            train a ViT, a CLIP and models that see and speak, look at all (5 min)
  scratch-vlm compare         train two vision language models, and ask them (30 min)
  scratch-vlm gradcheck       check the gradient of every layer and model to machine precision
  scratch-vlm info            what is installed here, and whether a GPU can be used
"""

EPILOG = """\
An error is one line that says what to do. To see where it comes from, set SCRATCH_VLM_TRACEBACK=1.
"""

DEMO = """\
Train one model of each kind on real handwritten digits, on two cores in about five minutes:

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

ASK = """\
Ask a trained vision language model about an image or a video.

  scratch-vlm ask board.png "what colour is seven"
  scratch-vlm ask board.png "what digit is left of three?" --model runs/vqa-0
  scratch-vlm ask clip.mp4 "which way does the red one move" --frames 8
  scratch-vlm ask board.png "what digit is red" --temperature 1 --seed 3

The answer is followed by the probability that the model gave to it: how sure it was. It knows
only the words, and only the kind of image, that it was trained with.

Images are PNG, JPEG, WebP, ...; videos are MP4, WebM, animated GIF, ... The middle of the image is
cut out in the shape of the model's images, and resized to their size, 24 x 24 pixels. Of a video,
frames at equal distances are taken. Reading files needs: pip install "scratch-vlm[io]"
"""

CAPTION = """\
Let a trained vision language model describe what an image or a video shows.

  scratch-vlm caption board.png
  scratch-vlm caption board.png --model runs/captions-0

That is one question, which models that were trained to describe know the words of; to ask others,
see scratch-vlm ask --help, which also says what files are read and how.
"""

CLASSIFY = """\
Classify an image zero-shot, with a CLIP: the classes are texts, and it was trained on none of them
as a class. Each text is compared with the image, and a softmax makes probabilities of it.

  scratch-vlm classify scene.png --labels "red seven,blue seven,red three"
  scratch-vlm classify scene.png --labels "red seven above blue three,blue three above red seven"
  scratch-vlm classify scene.png --labels one,seven --template "red {}" --template "blue {}"

Several templates make one class of several texts, the mean of their embeddings. The probabilities
sum to 1: one label always wins, even if none is right. Train a CLIP with scratch-vlm train clip.
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
        it was stopped by Ctrl-C.
    """
    # One BLAS thread: several wait for each other on a busy machine, and the second core is needed
    # to draw batches. NumPy reads this when it is first imported, so it must not have been yet.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except SystemExit as stop:  # TrainingInterrupted, which only the training commands import
        message = stop
    except KeyboardInterrupt:
        goes_on = options.command in ("demo", "train")
        message = "stopped; the same command goes on" if goes_on else "stopped"
    print(f"scratch-vlm {options.command}: {message}", file=sys.stderr)
    return 130


def _run(options):
    from scratch_vlm.backend import BackendError, keep_freed_memory, memory_shortage

    keep_freed_memory()
    try:
        return options.run(options)
    except (BackendError, ImportError, OSError, ValueError, ArithmeticError) as error:
        if os.environ.get("SCRATCH_VLM_TRACEBACK"):
            raise
        message = error
    except MemoryError as error:
        if os.environ.get("SCRATCH_VLM_TRACEBACK"):
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

    def command(name, run, summary, description, out):
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
            "or SCRATCH_VLM_BACKEND); strict is numpy that refuses what cupy would, for tests",
        )
        sub.add_argument(
            "--seed", type=_at_least(0), default=0, help="of all random numbers (default 0)"
        )
        sub.add_argument("--out", type=Path, default=None, metavar="DIR", help=out)
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

    for name, run, summary, description in (
        ("ask", _ask, "ask a model about an image or a video", ASK),
        ("caption", _caption, "let a model describe an image or a video", CAPTION),
        ("classify", _classify, "classify an image with labels of your own", CLASSIFY),
    ):
        sub = command(name, run, summary, description, f"folder to write {name}.json into")
        what = "an image" if name == "classify" else "an image or a video"
        sub.add_argument("file", type=Path, metavar="FILE", help=what)
        if name == "ask":
            sub.add_argument("question", metavar="QUESTION", help="in quotes")
        if name == "classify":
            sub.add_argument(
                "--labels", required=True, metavar="A,B,...", help="at least two, between commas"
            )
            sub.add_argument(
                "--template",
                action="append",
                metavar="TEXT",
                help="a text with {} in the place of the label; may be given several times",
            )
        else:
            sub.add_argument(
                "--temperature",
                type=float,
                default=0.0,
                metavar="T",
                help="0 for the most probable answer (default), above to draw one with --seed",
            )
            sub.add_argument(
                "--frames",
                type=_at_least(1),
                default=None,
                metavar="N",
                help="most frames of a video (default: as many as the model was trained with)",
            )
        sub.add_argument(
            "--model",
            type=Path,
            default=None,
            metavar="RUN",
            help="folder of its run (default: under runs/, the newest that fits)",
        )
        sub.add_argument("--json", type=Path, default=None, metavar="FILE", help="write it here")

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
    training = {} if options.batch_size is None else {"batch_size": options.batch_size}
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


def _ask(options):
    return _answer(options, "ask", options.question)


def _caption(options):
    return _answer(options, "caption")


def _answer(options, job, *question):
    from scratch_vlm.experiments import ask

    model = _model(options, job)
    for word, near in ask.unread_words(model, *question) if question else ():
        hint = f"; do you mean {near!r}?" if near else ""
        print(f"the model has not met the word {word!r} in training{hint}", file=sys.stderr)
    said = getattr(ask, job)(
        model,
        options.file,
        *question,
        temperature=options.temperature,
        seed=options.seed,
        frames=options.frames,
        on_text=lambda text: print(text, end="", flush=True),
    )
    print("" if said.text else "(an empty answer)")
    print(f"probability {said.probability:.3f}")
    about = {"question": question[0]} if question else {}
    answer = {"answer": said.text, "logprob": said.logprob, "probability": said.probability}
    _write(options, job, {**about, **answer}, model)
    return 0


def _classify(options):
    from scratch_vlm.experiments.ask import classify

    model = _model(options, "classify")
    templates = options.template or ["{}"]
    found = classify(model, options.file, options.labels.split(","), templates=templates)
    width = max(len(label) for label, _ in found)
    for label, probability in found:
        print(f"{label:{width}}  {probability:6.3f}  {'#' * round(40 * probability)}".rstrip())
    _write(options, "classify", {"labels": dict(found), "templates": templates}, model)
    return 0


def _model(options, job):
    from scratch_vlm.experiments.ask import JOBS, model_for
    from scratch_vlm.experiments.runs import load_model
    from scratch_vlm.training.run import prepare_file

    for file in _files(options, job):
        prepare_file(file)
    folder = options.model
    if folder is None:
        folder = model_for(job, options.file)
        print(f"model: {folder}", file=sys.stderr)
    return load_model(folder, kinds=JOBS[job][0], xp=_backend(options))


def _files(options, job):
    return [file for file in (options.json, options.out and options.out / f"{job}.json") if file]


def _write(options, job, result, model):
    from scratch_vlm.training.run import write_json

    for file in _files(options, job):
        write_json(file, {"model": str(model.folder), "file": str(options.file), **result})


def _info(options):
    from scratch_vlm.experiments.checks import describe_installation

    describe_installation(options.backend, options.out)
    return 0
