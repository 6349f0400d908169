"""Published models of full size, here and by the reference library: loading, images, tokens.

  python benchmarks/published.py --folder /tmp/published

writes two folders of random weights in bfloat16, a CLIP ViT-B/32 and a LLaVA of a CLIP ViT-L/14
and a Llama of 1.1 billion parameters, and measures both libraries on them in turn, each run in a
process of its own with two threads: seconds to load, peak memory, seconds for an image, seconds to
read a prompt with an image, and tokens a second after it. Needs torch and transformers, 8 GB of
memory and 4 GB of disk.

The floor of a token is the time that reading all weights of the language model takes: their bytes
in float32 over the bandwidth of memory, which is measured beside.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "published.json"
CLIP = {
    "model_type": "clip",
    "architectures": ["CLIPModel"],
    "projection_dim": 512,
    "text_config": {"model_type": "clip_text_model", "eos_token_id": 49407},
    "vision_config": {"model_type": "clip_vision_model"},
}
LLAVA = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "image_token_index": 32000,
    "text_config": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32064,
        "max_position_embeddings": 2048,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "image_size": 224,
        "patch_size": 14,
    },
}
MODELS = {"clip": CLIP, "llava": LLAVA}
PROMPT, NEW, IMAGES = 32, 24, 8  # words of a question, tokens that are written, images in a batch


def write_folder(folder, published, seed=0):
    """Write random weights as the reference library saves a model, in bfloat16."""
    import numpy as np

    from scratch_vlm.pretrained.load import configure
    from scratch_vlm.pretrained.tensors import SINGLE, write_tensors

    rng = np.random.default_rng(seed)
    _, _, layout = configure(published)

    class Drawn:
        """A tensor that is drawn when it is written, so that memory holds one at a time."""

        def __init__(self, name, shape):
            norm = name.endswith("weight") and ("norm" in name or "layrnorm" in name)
            self.shape, self.mean = shape, float(norm)

        def __array__(self, dtype=None, copy=None):
            x = rng.standard_normal(self.shape, dtype=np.float32)
            return np.asarray(0.02 * x + self.mean, np.float32)

    tensors = {name: Drawn(name, shape) for name, shape in layout.published.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / SINGLE, tensors, dtype="bfloat16")
    (folder / "config.json").write_text(json.dumps(published | {"dtype": "bfloat16"}))


def peak_memory():
    """Return the most bytes that this process held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def inputs(published):
    """Draw images and, for a LLaVA, a prompt that shows one."""
    import numpy as np

    rng = np.random.default_rng(1)
    images = rng.standard_normal((IMAGES, 224, 224, 3)).astype(np.float32)
    visual = (224 // published["vision_config"].get("patch_size", 32)) ** 2
    prompt = [1, *[32000] * visual, *rng.integers(3, 30000, PROMPT).tolist()]
    return images, prompt


def timed(call, repeats=3):
    """Return the median seconds of a call, and what it returned."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def run_here(folder, name):
    """Measure this library."""
    from scratch_vlm.backend import keep_freed_memory

    keep_freed_memory()
    from scratch_vlm.inference.answer import answer
    from scratch_vlm.inference.embed import embed_images
    from scratch_vlm.pretrained.llava import used
    from scratch_vlm.pretrained.load import load_pretrained

    start = time.perf_counter()
    model = load_pretrained(folder)
    found = {"load": time.perf_counter() - start, "loaded bytes": peak_memory()}
    images, prompt = inputs(MODELS[name])
    if name == "clip":
        seconds, _ = timed(lambda: embed_images(images, model.p, model.config, size=8))
        found["image"] = seconds / IMAGES
    else:
        p, at = used(model.p, model.config), []
        start = time.perf_counter()
        said = answer(
            [prompt],
            images[:1, None],
            p,
            model.config,
            new=NEW,
            on_token=lambda *_: at.append(time.perf_counter()),
        )
        found["prompt"] = at[0] - start
        found["token"] = (at[-1] - at[0]) / (len(at) - 1)
        found["ids"] = said.ids[0].tolist()
    return found | {"peak bytes": peak_memory()}


def run_reference(folder, name, dtype="float32"):
    """Measure the reference library."""
    import torch
    import transformers

    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kind = getattr(transformers, MODELS[name]["architectures"][0])
    start = time.perf_counter()
    model = kind.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    found = {"load": time.perf_counter() - start, "loaded bytes": peak_memory()}
    images, prompt = inputs(MODELS[name])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(model.dtype).contiguous()
    with torch.no_grad():
        if name == "clip":
            seconds, _ = timed(lambda: model.get_image_features(pixel_values=pixels))
            found["image"] = seconds / IMAGES
        else:
            at = []

            class Clock(transformers.generation.streamers.BaseStreamer):
                def put(self, value):
                    at.append(time.perf_counter())

                def end(self):
                    pass

            start = time.perf_counter()
            said = model.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                pixel_values=pixels[:1],
                max_new_tokens=NEW,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                streamer=Clock(),
            )
            at = at[1:]  # the first is the prompt
            found["prompt"] = at[0] - start
            found["token"] = (at[-1] - at[0]) / (len(at) - 1)
            found["ids"] = said[0, len(prompt) :].tolist()
    return found | {"peak bytes": peak_memory()}


def bandwidth():
    """Measure how many bytes a second two threads read from memory."""
    import numpy as np

    w, x = np.ones((2**15, 2**13), np.float32), np.ones(2**13, np.float32)  # 1 GiB
    seconds, _ = timed(lambda: w @ x, 5)
    return w.nbytes / seconds


RUNS = {"here": run_here, "reference": run_reference}


def in_a_process(arguments):
    """Run this script on its own, and return what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def parameters(published):
    """Count the numbers of the language model that a token needs: all but its embedding."""
    from scratch_vlm.pretrained.load import configure

    _, _, layout = configure(published)
    sizes = {n: s for n, s in layout.published.items() if n.startswith("language_model.")}
    return sum(s[0] * (s[1] if len(s) > 1 else 1) for n, s in sizes.items() if "embed" not in n)


def main():
    """Write the folders, measure in turn, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/published"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=tuple(MODELS))
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, name = options.one
        run = {"bandwidth": lambda *_: {"bandwidth": bandwidth()}, **RUNS}.get(what)
        if what == "reference bfloat16":
            found = run_reference(options.folder / name, name, "bfloat16")
        else:
            found = run(options.folder / name, name)
        print(json.dumps(found))
        return
    result = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result |= {"threads": 2, "load average": [os.getloadavg()], "models": {}}
    for name in [options.only] if options.only else MODELS:
        folder = options.folder / name
        if not (folder / "model.safetensors").exists():
            write_folder(folder, MODELS[name])
        runs = {"here": [], "reference": [], "reference bfloat16": []}
        for turn in range(options.rounds):
            for what in runs if turn == 0 else RUNS:  # in bfloat16 once, for comparison
                found = in_a_process(["--folder", options.folder, "--one", what, name])
                print(name, what, {k: v for k, v in found.items() if k != "ids"}, flush=True)
                runs[what].append(found)
        result["models"][name] = summary(name, runs)
        result["load average"].append(os.getloadavg())
    if "llava" in result["models"]:
        speed = in_a_process(["--folder", options.folder, "--one", "bandwidth", "llava"])
        nbytes = 4 * parameters(LLAVA)
        result["floor of a token"] = {
            "bytes": nbytes,
            "bytes a second": speed["bandwidth"],
            "seconds": nbytes / speed["bandwidth"],
        }
    result["preliminary"] = busy(result["load average"])
    if not options.only:
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def busy(loads):
    """Say whether others computed meanwhile, so that the numbers are only a first look."""
    return max(one for one, *_ in loads) > 2.5


def summary(name, runs):
    """Take medians, and medians of the ratios of runs that stood side by side."""
    keys = [key for key in runs["here"][0] if key != "ids"]
    medians = {w: {k: statistics.median(r[k] for r in rs) for k in keys} for w, rs in runs.items()}
    pairs = list(zip(runs["here"], runs["reference"], strict=True))
    ratios = {key: statistics.median(a[key] / b[key] for a, b in pairs) for key in keys}
    same = [a["ids"] == b["ids"] for a, b in pairs if "ids" in a]
    return {"medians": medians, "here / reference": ratios} | (
        {"same tokens": same} if same else {}
    )


if __name__ == "__main__":
    main()
