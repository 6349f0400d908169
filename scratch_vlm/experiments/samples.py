"""Files to try trained models on: a board, a clip and a scene, in handwriting of the test forms."""

from pathlib import Path

import numpy as np

from scratch_vlm.data.boards import evaluation_boards
from scratch_vlm.data.clips import evaluation_clips
from scratch_vlm.data.scenes import evaluation_set

ENLARGED = 8  # times, to be seen by people
FRAMES = 5
MILLISECONDS = 250  # each frame of the clip is shown


def write_samples(folder):
    """Write a board, a clip and a scene as files, and say what they can be asked.

    Parameters
    ----------
    folder : str or path
        Where to; it is made.

    Returns
    -------
    dict of path to list of str
        For each file, ``board.png``, ``clip.gif`` and ``scene.png``, questions or labels that fit
        it, the first ones harder.

    Notes
    -----
    Pillow writes them, which Matplotlib needs too.
    """
    from PIL import Image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    board = evaluation_boards("test", 1)
    clip = evaluation_clips("test", 1, FRAMES)
    scene = evaluation_set("test", 1)

    def picture(image):
        pixels = np.rint(255 * image).astype(np.uint8)
        return Image.fromarray(pixels.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1))

    files = folder / "board.png", folder / "clip.gif", folder / "scene.png"
    picture(board.images[0]).save(files[0])
    first, *rest = map(picture, clip.frames[0])
    first.save(files[1], save_all=True, append_images=rest, duration=MILLISECONDS, loop=0)
    picture(scene.images[0]).save(files[2])
    asked = [every[0].text for every in board.questions.values()][::-1]
    moving = [question.text for question in clip.questions[0] if question.kind != "place"]
    return dict(zip(files, (asked, moving, list(scene.candidates[0])), strict=True))


def invite(folder, clip):
    """Write samples into a folder of trained models, and print commands that ask about them.

    Parameters
    ----------
    folder : path
        With the stages ``unified``, ``cross_modal`` and ``video`` in it.
    clip : path
        Folder of the trained CLIP.
    """
    board, film, scene = (samples := write_samples(folder / "samples"))
    print("\nask about the samples, or about files of your own:")
    for command, file, words, model in (
        ("ask", board, samples[board][0], folder / "cross_modal"),
        ("caption", board, None, folder / "unified"),
        ("ask", film, samples[film][0], folder / "video"),
        ("classify", scene, ",".join(samples[scene][:3]), clip),
    ):
        said = "" if words is None else f' {"--labels " * (command == "classify")}"{words}"'
        print(f"  scratch-vlm {command} {file}{said} --model {model}")
