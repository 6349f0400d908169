"""Damage folders of published models at random, and see that the reader says so.

  python benchmarks/fuzz_reader.py --minutes 10

A damaged folder may still be readable. If it is not, the error must be one that says what is wrong
(a ValueError or an OSError, as for every input of a user). Anything else is a finding: it is
printed with the seed that makes it again, and kept in ``tests/pretrained/damaged.json``, which the
tests read ever after.
"""

import argparse
import json
import shutil
import struct
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
CASES = ROOT / "tests" / "parity" / "cases"
CORPUS = ROOT / "tests" / "pretrained" / "damaged.json"
ODD = (
    None,
    True,
    -1,
    0,
    1,
    2,
    7,
    2**31,
    2**63,
    1e308,
    0.5,
    "",
    "gelu",
    "x" * 99,
    [],
    [0],
    {},
    {"a": 1},
)
INDEX = "model.safetensors.index.json"


def damage(rng, folder):
    """Change one to three things in a folder; returns what was done."""
    done = []
    for _ in range(rng.integers(1, 4)):
        kind = rng.choice(
            ["config", "header", "bytes", "cut", "index"], p=(0.4, 0.3, 0.15, 0.1, 0.05)
        )
        done.append(str(kind))
        weights = rng.choice(sorted(folder.glob("*.safetensors")))
        if kind == "config":
            path = folder / "config.json"
            path.write_text(json.dumps(_odd_json(rng, json.loads(path.read_text()))))
        elif kind == "header":
            _odd_header(rng, weights)
        elif kind == "bytes":
            raw = bytearray(weights.read_bytes())
            for _ in range(rng.integers(1, 9)):
                if raw:
                    raw[rng.integers(min(len(raw), 4096))] = rng.integers(256)
            weights.write_bytes(raw)
        elif kind == "cut":
            raw = weights.read_bytes()
            weights.write_bytes(raw[: rng.integers(len(raw) + 1)])
        else:
            index = {
                "weight_map": {"a": rng.choice([weights.name, "../x", "/x", "", "nul\0"]).item()}
            }
            if (folder / INDEX).exists():
                index = json.loads((folder / INDEX).read_text())
            (folder / INDEX).write_text(json.dumps(_odd_json(rng, index)))
    return done


def _odd_json(rng, tree):
    # Replace, drop or add something somewhere.
    if isinstance(tree, dict) and tree:
        name = str(rng.choice(list(tree)))
        if isinstance(tree[name], dict | list) and rng.random() < 0.7:
            return tree | {name: _odd_json(rng, tree[name])}
        if rng.random() < 0.15:
            return {key: value for key, value in tree.items() if key != name}
        return tree | {name: ODD[rng.integers(len(ODD))]}
    if isinstance(tree, list) and tree and rng.random() < 0.8:
        i = rng.integers(len(tree))
        return [*tree[:i], _odd_json(rng, tree[i]), *tree[i + 1 :]]
    return ODD[rng.integers(len(ODD))]


def _odd_header(rng, path):
    raw = path.read_bytes()
    try:
        (size,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + size])
    except (ValueError, struct.error, OverflowError):
        return  # damaged before
    text = json.dumps(_odd_json(rng, header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


def outcome(name, seed):
    """Damage a copy of a case and read it; returns None, or the error that no user should see."""
    from scratch_vlm.pretrained.load import load_pretrained

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "model"
        shutil.copytree(CASES / name, folder)
        done = damage(np.random.default_rng(seed), folder)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                load_pretrained(folder)
        except (ValueError, OSError):
            return None
        except Exception as error:
            return f"{'+'.join(done)}: {type(error).__name__}: {error}"
    return None


def main():
    """Damage and read until the time is over."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first damage")
    options = parser.parse_args()
    names = sorted(path.parent.name for path in CASES.glob("*/config.json"))
    found = json.loads(CORPUS.read_text()) if CORPUS.exists() else []
    start, seed, said = time.monotonic(), options.seed, {line["error"] for line in found}
    while time.monotonic() < start + 60 * options.minutes:
        name = names[seed % len(names)]
        error = outcome(name, seed)
        if error and error not in said:
            said.add(error)
            print(f"{name}, seed {seed}: {error}", flush=True)
            found.append({"case": name, "seed": seed, "error": error})
            CORPUS.write_text(json.dumps(found, indent=1) + "\n")
        seed += 1
    print(f"{seed - options.seed} folders damaged and read, {len(found)} findings in {CORPUS.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
