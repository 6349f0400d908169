"""Make the bundled handwriting, scratch_vlm/data/digits.npz, from scikit-learn's copy of it.

The images and labels are taken as they are. What this script adds is the form that each digit was
written on: all forms ask for the same 130 digits in the same order, and 23 of the 14 x 130 digits
are missing from the data, so one alignment of the labels with 14 copies of that order tells where
every form begins.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parents[1] / "scratch_vlm" / "data" / "digits.npz"
FORMS, ASKED = 14, 130


def align(labels, template):
    """Give every written digit a place on the forms, at the fewest labels that disagree.

    The digits keep their order, and some places stay empty. With the number of empty places known
    (places - digits), digit i stands at place i + k, where k, the empty places so far, never
    falls: a table of disagreements for every i and k holds all alignments.

    Parameters
    ----------
    labels : integer array of shape (N,)
        Digits in the order of the data.
    template : integer array of shape (T,)
        Digits that the forms ask for; T is at least N.

    Returns
    -------
    first, last : integer array of shape (N,)
        The place of every digit, in the best alignment that leaves places empty as late as
        possible and in the one that leaves them as early as possible.
    disagreements : int
        Labels that differ from the digit asked for.
    """
    n, empty = len(labels), len(template) - len(labels)
    if empty < 0:
        raise ValueError(f"{n} digits do not fit the {len(template)} places of the forms")
    places = np.arange(n)[:, None] + np.arange(empty + 1)  # (N, K)
    differs = labels[:, None] != template[places]

    forward = np.zeros((n, empty + 1), int)  # fewest disagreements up to and including digit i
    backward = np.zeros((n, empty + 1), int)  # and from digit i on
    up_to, from_on = np.zeros(empty + 1, int), np.zeros(empty + 1, int)
    for i in range(n):
        up_to = forward[i] = differs[i] + np.minimum.accumulate(up_to)
        j = n - 1 - i
        from_on = backward[j] = differs[j] + np.minimum.accumulate(from_on[::-1])[::-1]
    best = int(forward[-1].min())
    on_a_best_path = forward + backward - differs == best
    first = on_a_best_path.argmax(axis=1)
    last = empty - on_a_best_path[:, ::-1].argmax(axis=1)
    return np.arange(n) + first, np.arange(n) + last, best


def find_forms(labels):
    """Number the form of every digit.

    Parameters
    ----------
    labels : integer array of shape (N,)
        Digits in the order of the data, which begins with a complete form.

    Returns
    -------
    forms : integer array of shape (N,)
        From 0 to 13.
    evidence : str
        A table of what each form lacks.

    Raises
    ------
    ValueError
        If two equally good alignments put a digit on different forms.
    """
    template = np.tile(labels[:ASKED], FORMS)
    first, last, disagreements = align(labels, template)
    doubtful = np.flatnonzero(first // ASKED != last // ASKED)
    if doubtful.size:
        raise ValueError(f"the labels do not tell the form of digits {doubtful.tolist()}")
    forms = first // ASKED
    lines = ["form  starts at  digits  missing  disagreements"]
    for form in range(FORMS):
        on_form = np.flatnonzero(forms == form)
        wrong = [
            f"digit {i} is {labels[i]}, asked for {template[first[i]]}"
            for i in on_form
            if labels[i] != template[first[i]]
        ]
        lines.append(
            f"{form:4}  {on_form[0]:9}  {on_form.size:6}  {ASKED - on_form.size:7}  "
            + ("; ".join(wrong) or "0")
        )
    lines.append(f"{len(labels)} digits on {FORMS} forms, {disagreements} labels disagree")
    return forms, "\n".join(lines)


def make():
    """Read scikit-learn's digits and number their forms.

    Returns
    -------
    arrays : dict of str to array
        What `digits.npz` holds.
    evidence : str
        The table of `find_forms`.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        message = "this script reads scikit-learn's digits: pip install scikit-learn"
        raise SystemExit(message) from error
    digits = load_digits()
    forms, evidence = find_forms(digits.target)
    arrays = {
        "images": digits.images.astype(np.uint8),
        "labels": digits.target.astype(np.uint8),
        "forms": forms.astype(np.uint8),
    }
    return arrays, evidence


def main():
    """Write the file, or compare it with what would be written."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python benchmarks/make_digits.py --check   is the bundled file what this makes?\n"
        "  python benchmarks/make_digits.py           make it anew (needs scikit-learn)",
    )
    parser.add_argument("--out", type=Path, default=TARGET, help="file to write (%(default)s)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if the file differs"
    )
    options = parser.parse_args()

    arrays, evidence = make()
    print(evidence)
    if options.check:
        with np.load(options.out, allow_pickle=False) as bundled:
            same = sorted(bundled.files) == sorted(arrays) and all(
                bundled[name].dtype == array.dtype and np.array_equal(bundled[name], array)
                for name, array in arrays.items()
            )
        print(f"{options.out} {'is' if same else 'is NOT'} what this script makes")
        return 0 if same else 1
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    options.out.write_bytes(buffer.getvalue())
    print(f"wrote {options.out} ({options.out.stat().st_size:,} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
