"""What makes a command, and what several of them do."""

import argparse
import math
import os
import sys
from pathlib import Path


def command(summary, text, *options, out=None, kind="DIR", trains=True):
    """Make a command of the function below, which does it and returns the exit status.

    Its name is what is typed. It imports what it needs itself, so that ``--help`` waits for
    nothing.

    Parameters
    ----------
    summary : str
        A line for the list of all commands.
    text : str
        What ``--help`` says above the options.
    *options : tuple
        What this command alone takes, see `option`.
    out : str, optional
        Help of ``--out``. Without, there are no ``--backend``, ``--seed`` and ``--out``.
    kind : str, default "DIR"
        What ``--out`` names.
    trains : bool, default True
        False for what only uses a model, and takes all cores for its products.

    Returns
    -------
    callable
        A decorator. What it makes of the function, ``add(commands, typed)``, adds the command to
        the subparsers of argparse; with its options, if its name is among the words `typed`.
    """

    def decorate(run):
        def add(commands, typed):
            parser = commands.add_parser(
                run.__name__,
                help=summary,
                description=text,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            if run.__name__ not in typed:
                return  # only its summary will be read
            parser.set_defaults(run=run, trains=trains)
            common = (BACKEND, SEED, option("--out", type=Path, metavar=kind, help=out))
            for names, how in (*(common if out else ()), *options):
                parser.add_argument(*names, **how)

        return add

    return decorate


def option(*names, **how):
    """Write down an option, or a place, of a command.

    Parameters
    ----------
    *names : str
        As `argparse.ArgumentParser.add_argument` takes them.
    **how
        Likewise.

    Returns
    -------
    names : tuple
    how : dict
    """
    return names, how


def more_than_zero(text):
    """Check a number that an option takes.

    Parameters
    ----------
    text : str
        As it was given.

    Returns
    -------
    float

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none, or not more than zero.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than zero, got {text!r}")
    return value


def part_of(text):
    """Read which part of how many is meant.

    Parameters
    ----------
    text : str
        Such as ``2/4``.

    Returns
    -------
    (int, int)

    Raises
    ------
    argparse.ArgumentTypeError
        If there is no such part.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"must be like 2/4, the second of four; got {text!r}")
    return int(number), int(count)


def at_least(least):
    """Make a type for options that are whole numbers.

    Parameters
    ----------
    least : int
        The smallest that is taken.

    Returns
    -------
    callable
    """

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


BACKEND = option(
    "--backend",
    help="numpy, cupy for an NVIDIA GPU, or auto for cupy where it works (default numpy, or "
    "SCRATCH_VLM_BACKEND)",
)
SEED = option("--seed", type=at_least(0), default=0, help="of all random numbers (default 0)")


def backend(options):
    """Load the module that computes, and what else was asked of it.

    Parameters
    ----------
    options : argparse.Namespace
        What was typed.

    Returns
    -------
    module
        NumPy or CuPy.

    Raises
    ------
    BackendError, GraphError
        If it cannot be used here.
    """
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


def json_files(options, name):
    """List the files that a result is written into.

    Parameters
    ----------
    options : argparse.Namespace
        With ``json`` and ``out``, what was typed.
    name : str
        Of the command.

    Returns
    -------
    list of path
    """
    return [file for file in (options.json, options.out and options.out / f"{name}.json") if file]
