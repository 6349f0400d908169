"""Where the command ``scratch-vlm`` begins: the list of its commands, and how errors are told."""

import argparse
import os
import sys

import scratch_vlm
from scratch_vlm.cli.asking import ask, caption, classify, embed, search
from scratch_vlm.cli.checking import bench, gradcheck, info, lessons, parity
from scratch_vlm.cli.training import compare, demo, train
from scratch_vlm.cli.tuning import tune

COMMANDS = (
    demo, train, compare,
    gradcheck, bench, lessons, parity,
    tune, ask, caption, classify, embed, search,
    info,
)  # fmt: skip

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
    typed = sys.argv[1:] if arguments is None else arguments
    parser = _parser(typed)
    if not typed:
        parser.print_help(sys.stderr)
        return 2
    options = parser.parse_args(typed)
    # One BLAS thread: several wait for each other on a busy machine, and the second core is needed
    # to draw batches. NumPy reads this when it is first imported, so it must not have been yet.
    # What only uses a model draws none, and takes all cores for its products.
    if options.trains:
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


def _parser(typed):
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
    for add in COMMANDS:
        add(commands, typed)
    return parser
