"""Export who reads whom in trained models, for the page that shows it.

    python -m scratch_vlm.experiments.explorer runs/compare-0 docs/explorer/attention.js

The run is one of ``scratch-vlm compare``. The page, docs/explorer/explorer.html, loads the file as
a script, so that it works from a folder, without a server.
"""

import argparse
import base64
import json
from pathlib import Path

import numpy as np

from scratch_vlm.data.boards import evaluation_boards
from scratch_vlm.data.chat import Turn, encode_chat
from scratch_vlm.data.scenes import TOKENS, VOCABULARY, evaluation_set
from scratch_vlm.experiments import chats, scenes, vqa
from scratch_vlm.experiments.runs import load_model
from scratch_vlm.models.clip import encode_images_forward, encode_texts_forward
from scratch_vlm.models.cross_modal import cross_modal_forward
from scratch_vlm.models.unified import unified_forward
from scratch_vlm.ops.attend import attention_weights

SHOWN = 3  # scenes of each model
KIND = "relation"  # of question, on boards
PATCHES = tuple(range(9))


def export(run, path):
    """Write what the page shows.

    Parameters
    ----------
    run : str or path
        The folder of a comparison, with ``clip``, ``unified`` and ``cross_modal`` in it.
    path : str or path
        The script to write.

    Returns
    -------
    dict
        What was written: for each model its name and samples; each sample with its image, its
        tokens, and layers of attention, whose weights are in thousandths.
    """
    run = Path(run)
    data = {
        "models": [
            {"name": "CLIP", "samples": _clip_samples(load_model(run / "clip").p)},
            *(
                {"name": name, "samples": _board_samples(load_model(run / arm).p, arm)}
                for name, arm in (
                    ("Unified embedding", "unified"),
                    ("Cross-modality attention", "cross_modal"),
                )
            ),
        ]
    }
    text = json.dumps(data, separators=(",", ":"))
    Path(path).write_text(f"const ATTENTION = {text};\n", encoding="utf-8")
    return data


def _clip_samples(p):
    test = evaluation_set("test", SHOWN)
    ids = VOCABULARY.encode([scene.caption for scene in test.scenes], length=TOKENS)
    _, seen = encode_images_forward(
        scenes.prepare(test.images), p["image"], config=scenes.MODEL.image
    )
    _, read = encode_texts_forward(ids, p["text"], config=scenes.MODEL.text)
    samples = []
    for i, scene in enumerate(test.scenes):
        words = ["begin", *scene.caption.split(), "end"]
        tokens = [{"text": "CLS", "of": "image"}, *_patches()]
        tokens += [{"text": word, "of": "text"} for word in words]
        image, text = list(range(10)), list(range(10, len(tokens)))
        layers = [
            _layer(f"image tower, block {n}", image, image, _weights(block, i))
            for n, block in seen["tower"]["features"]["blocks"].items()
        ]
        layers += [
            _layer(f"text tower, block {n}", text, text, _weights(block, i, len(words)))
            for n, block in read["tower"]["features"]["blocks"].items()
        ]
        samples.append(_sample(scene.caption, test.images[i], tokens, layers))
    return samples


def _board_samples(p, arm):
    model, bpe, test = vqa.model_of(arm), chats.tokenizer(), evaluation_boards("test", SHOWN)
    places = chats.placeholders(model)
    forward = unified_forward if arm == "unified" else cross_modal_forward
    samples = []
    for image, question in zip(test.images, test.questions[KIND], strict=True):
        ids, _ = encode_chat(bpe, [Turn(question.text, media=1)], placeholders=places)
        media = scenes.prepare(image[None])[:, None]
        _, saved = forward(np.array([ids]), media, p, config=model)
        words = [{"text": bpe.text([i]).strip(), "of": "text"} for i in ids[1 + places :]]
        begin = {"text": "begin", "of": "text"}
        if arm == "unified":
            tokens = [begin, *_patches(), *words]
            every = list(range(len(tokens)))
        else:
            tokens = [begin, {"text": "image", "of": "text"}, *words, *_patches()]
            every = list(range(len(tokens) - len(PATCHES)))
        layers = []
        for n, block in saved["trunk"]["blocks"].items():
            if arm == "cross_modal":
                gated = saved["trunk"]["gated"][n]
                looked = list(range(len(every), len(tokens)))
                name = f"block {n}, words look at the image"
                layers.append(_layer(name, every, looked, _weights(gated, 0)))
            layers.append(
                _layer(f"block {n}, tokens read tokens", every, every, _weights(block, 0))
            )
        title = f"{question.text}? ({question.answer})"
        samples.append(_sample(title, image, tokens, layers))
    return samples


def _patches():
    return [{"text": f"patch {n + 1}", "of": "image", "patch": n} for n in PATCHES]


def _weights(block, sample, tokens=None):
    return attention_weights(block["attn"]["attend"])[sample, :, :tokens, :tokens]  # (A, T, S)


def _layer(name, asks, answers, weights):
    heads = np.rint(1000 * weights).astype(int).tolist()
    return {"name": name, "asks": asks, "answers": answers, "heads": heads}


def _sample(title, image, tokens, layers):
    pixels = np.rint(255 * image).astype("uint8").tobytes()
    pixels = base64.b64encode(pixels).decode()
    return {
        "title": title,
        "side": len(image),
        "pixels": pixels,
        "tokens": tokens,
        "layers": layers,
    }


def main():
    """Export from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a comparison")
    parser.add_argument("path", type=Path, help="script to write")
    options = parser.parse_args()
    data = export(options.run, options.path)
    size = options.path.stat().st_size / 1024
    samples = sum(len(model["samples"]) for model in data["models"])
    print(f"{options.path}: {samples} samples, {size:.0f} KiB")


if __name__ == "__main__":
    main()
