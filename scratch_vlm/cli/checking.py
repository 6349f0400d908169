"""Commands about the library itself: gradcheck, bench, parity, lessons, info."""

import os
from pathlib import Path

from scratch_vlm.cli.shared import at_least, command, json_files, more_than_zero, option, part_of


@command(
    "check the gradient of every layer and model",
    """\
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
""",
    option("--pair", default="", metavar="TEXT", help="only pairs whose name has TEXT"),
    option(
        "--examples", type=at_least(1), default=6, help="random variants of each pair (default 6)"
    ),
    option(
        "--dtype",
        choices=("float64", "float32"),
        default="float64",
        help="judge gradients in this precision as well (default float64)",
    ),
    option(
        "--part",
        type=part_of,
        default=(1, 1),
        metavar="I/N",
        help="only every Nth pair, from the Ith on: for N processes side by side",
    ),
    option("--json", type=Path, metavar="FILE", help="write results here"),
    out="folder to write gradcheck.json into",
)
def gradcheck(options):
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
        part=options.part,
        files=files,
    )
    return 0 if passed else 1


@command(
    "time it beside PyTorch, on the CPU and on a GPU",
    """\
Time this library on NumPy and on CuPy beside PyTorch, eager and compiled: every op, every block,
training steps of a ViT and of both kinds of vision language model, and generation. Whoever is not
here is left out, and so is what would take too long or does not fit; the end says what, and why.

  scratch-vlm bench                       with whatever is here, in 8 minutes
  scratch-vlm bench --quick               small sizes and models
  scratch-vlm bench --only attention GELU
  scratch-vlm bench --backend numpy       on the host, though there is a GPU
  scratch-vlm bench --backend cupy        an error where CuPy does not work
  scratch-vlm bench --minutes 20          for more of it; the same command goes on where it ended

What matters most comes first: training steps that a GPU is held against, then each op at one size
before the next, then other models. PyTorch's compiler, which may take a minute for a model, comes
behind what is certain, and only if it seems to fit into the time that is left. Each piece of work
is written down when it is done, so nothing is lost when it is cut off: the same command keeps what
is in its folder and does what is missing or failed. --again does all anew.

All take turns (A B C A B C) on the same numbers, and must have computed the same before. On a GPU
time is that between two of its events. The floor is the least that the FLOPs and bytes of the work
can take at the speed that products and copies reach on this machine, measured in the same run.
On the host, ops, blocks and generation have one core, and training steps --cores. Copies between
host and device count for nobody, and nobody but this library waits for the loss after each step.

Writes a folder:

  bench.json    every sample, of which commit and when, seconds until the first result, ceilings,
                memory, versions, what was skipped; from which size on the GPU is faster, and
                whether it is as fast as it should be
  bench.txt     the table
  bench.png     times over sizes, with floors

Press Ctrl-C at any time, or send SIGTERM. Exit status 1 if something that is here did not work, or
computed something else.
""",
    option("--quick", action="store_true", help="small sizes and models"),
    option("--only", nargs="+", default=(), metavar="NAME", help="only what has NAME in its name"),
    option(
        "--cores",
        type=at_least(1),
        default=2,
        metavar="N",
        help="of the host, in training steps (default 2)",
    ),
    option(
        "--minutes",
        type=more_than_zero,
        default=8.0,
        metavar="N",
        help="be done by then (default 8)",
    ),
    option("--again", action="store_true", help="forget what was measured in the folder before"),
    option("--note", metavar="TEXT", help="about the machine, to be written down"),
    out="folder to write (default runs/bench)",
)
def bench(options):
    from scratch_vlm.bench.run import run_bench

    report = run_bench(
        options.out or Path("runs") / "bench",
        backend=options.backend or os.environ.get("SCRATCH_VLM_BACKEND"),
        seed=options.seed,
        quick=options.quick,
        only=options.only,
        cores=options.cores,
        minutes=options.minutes,
        again=options.again,
        note=options.note,
    )
    return 130 if report["interrupted"] else 1 if report["failed"] else 0


@command(
    "run our models beside what published implementations computed",
    """\
Run our models beside what the published implementations computed, in folders that hold a model as
its library saves it, its inputs, and everything that came of them in double precision.

  scratch-vlm parity cases/clip                  a row for each group of arrays
  scratch-vlm parity cases/*                     a row for each case
  scratch-vlm parity cases/* --dtype float32     in single precision, to 1e-4
  scratch-vlm parity cases/* --json parity.json  the error of every array

The error of an array is the length of the difference over the length of the reference's array;
of gradients that are zero by symmetry, over the largest gradient of the case. Exit status 1 if one
is larger than --tolerance.
""",
    option("folders", type=Path, nargs="+", metavar="DIR", help="folders of cases"),
    option("--dtype", choices=("float64", "float32"), default="float64", help="(default float64)"),
    option(
        "--tolerance",
        type=float,
        metavar="E",
        help="largest error that passes (default 1e-9, in float32 1e-4)",
    ),
    option("--json", type=Path, metavar="FILE", help="write errors here"),
    out="folder to write parity.json into",
)
def parity(options):
    from scratch_vlm.parity.run import check_cases
    from scratch_vlm.training.run import prepare_file

    files = json_files(options, "parity")
    for file in files:
        prepare_file(file)
    passed = check_cases(
        options.folders, dtype=options.dtype, tolerance=options.tolerance, files=files
    )
    return 0 if passed else 1


@command(
    "list, run and open the lessons",
    """\
Read, run and look at the lessons: from "what is an array" to a model that answers questions about
videos, every gradient included. Each is a script that proves what it says.

  scratch-vlm lessons            all of them, with the question that each answers
  scratch-vlm lessons run 02     run one; its figures go to runs/lessons
  scratch-vlm lessons run        run all
  scratch-vlm lessons open 02    open its page in the browser, or its script if no pages are built

To build the pages, which runs every lesson:
  pip install -e ".[docs]" && python -m sphinx -b html docs docs/_build/html
""",
    option("action", nargs="?", choices=("list", "run", "open"), default="list"),
    option("lesson", nargs="?", metavar="NN", help="its number (default all)"),
)
def lessons(options):
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


@command(
    "versions, backends, and why CuPy is or is not usable",
    "Say what is installed here, and whether a GPU can be used.",
    out="folder to write info.json into",
)
def info(options):
    from scratch_vlm.experiments.checks import describe_installation

    describe_installation(options.backend, options.out)
    return 0
