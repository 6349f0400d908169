"""Show the figure of a lesson wherever the lesson runs."""

import os
from pathlib import Path

FOLDER = Path("runs", "lessons")


def show(figure, name):
    """Show a figure: under its cell in a notebook, else as a PNG file whose path is printed.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        As the functions of `scratch_vlm.viz` return it.
    name : str
        Of the file, see `figure_file`.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        shell = None
    else:
        shell = get_ipython()
    if shell is not None:
        from IPython.display import display

        display(figure)
        return
    path = figure_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"figure: {path}")


def figure_file(name):
    """Say where a figure goes.

    Parameters
    ----------
    name : str
        Of the figure.

    Returns
    -------
    path
        In the folder that the environment variable SCRATCH_VLM_FIGURES names, by default
        runs/lessons.
    """
    return Path(os.environ.get("SCRATCH_VLM_FIGURES", FOLDER)) / f"{name}.png"
