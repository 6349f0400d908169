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
        Of the file, without ending. It goes to the folder that the environment variable
        SCRATCH_VLM_FIGURES names, by default runs/lessons.
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
    folder = Path(os.environ.get("SCRATCH_VLM_FIGURES", FOLDER))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=150)
    print(f"figure: {path}")
