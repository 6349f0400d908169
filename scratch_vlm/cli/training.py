"""Commands that train models on real handwriting: demo, train, compare."""

import importlib
from pathlib import Path

from scratch_vlm.cli.shared import at_least, backend, command, option

EXPERIMENTS = {  # module of experiments, and the stages that must have been trained before
    "vit": ("digits", ()),
    "clip": ("scenes", ()),
    "lm": ("language", ()),
    "perceiver": ("perceiver", ()),
    "vqa": ("vqa", ("clip", "lm")),
    "video": ("motion", ("clip", "lm", "unified")),
    "shots": ("shots", ("clip", "lm")),
}
STYLES = {  # options of single models, with their defaults
    "lm": {"style": "gpt"},
    "vqa": {"arm": "unified", "connector": "mlp"},
    "video": {"arm": "clips"},
}

KERNELS = option(
    "--kernels",
    action="store_true",
    help="with cupy: CUDA kernels of our own do what some ops take many steps for, attention only "
    "in bf16 and fp16",
)


@command(
    "train one model of each kind on real handwriting, look at the results",
    """\
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
""",
    option("--quick", action="store_true", help="a taste, in a minute"),
    KERNELS,
    out="folder to write (default runs/demo-SEED)",
)
def demo(options):
    from scratch_vlm.experiments.demo import run_demo

    name = f"demo-quick-{options.seed}" if options.quick else f"demo-{options.seed}"
    out = options.out or Path("runs") / name
    run_demo(out, seed=options.seed, quick=options.quick, xp=backend(options))
    return 0


@command(
    "train one model",
    """\
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
""",
    option("model", choices=tuple(EXPERIMENTS), help="which model"),
    option("--steps", type=at_least(1), help="training steps"),
    option(
        "--batch-size",
        type=at_least(1),
        metavar="N",
        help="samples in a step; fewer need less memory",
    ),
    option(
        "--precision",
        metavar="NAME",
        help="of matrix products: float32 (default), tf32, bf16 or fp16, as the tensor cores of a "
        "GPU compute them; numpy rounds alike, and is slower for it",
    ),
    option(
        "--graph",
        action="store_true",
        help="with cupy: record a step as CUDA graphs and launch those, which saves time between "
        "kernels where a step is short",
    ),
    option("--style", choices=("gpt", "llama"), help="kind of language model (default gpt)"),
    option("--arm", help="for vqa and video (default unified, clips)"),
    option("--connector", help="for vqa: linear, mlp, pixel_shuffle or resampler"),
    option(
        "--base",
        type=Path,
        metavar="DIR",
        help="folder of the models to start from (default runs/base-SEED)",
    ),
    KERNELS,
    out="folder to write (default runs/MODEL-SEED, with the style, arm or connector in between)",
)
def train(options):
    from scratch_vlm.training.run import RunFolder, write_metrics
    from scratch_vlm.viz.table import results_table

    module, before = EXPERIMENTS[options.model]
    experiment = importlib.import_module(f"scratch_vlm.experiments.{module}")
    style = _style(options)
    name = "-".join([options.model, *style.values()])
    out = options.out or Path("runs") / f"{name}-{options.seed}"
    how = {"seed": options.seed, "xp": backend(options)}
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


def _style(options):
    wanted = STYLES.get(options.model, {})
    for name in ("style", "arm", "connector"):
        if getattr(options, name) and name not in wanted:
            users = " and ".join(model for model, names in STYLES.items() if name in names)
            raise ValueError(f"--{name} is for {users}; {options.model} has none")
    if options.base and not EXPERIMENTS[options.model][1]:
        raise ValueError(f"--base is for what starts from other models; {options.model} does not")
    return {name: getattr(options, name) or default for name, default in wanted.items()}


@command(
    "train both fusions of vision and language, and compare them",
    """\
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
""",
    option("--quick", action="store_true", help="a taste, in two minutes"),
    KERNELS,
    out="folder to write (default runs/compare-SEED)",
)
def compare(options):
    from scratch_vlm.experiments.compare import run_compare

    name = f"compare-quick-{options.seed}" if options.quick else f"compare-{options.seed}"
    out = options.out or Path("runs") / name
    run_compare(out, seed=options.seed, quick=options.quick, xp=backend(options))
    return 0
