"""Time everything, say what was skipped and why, and write it down as it goes."""

import gc
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scratch_vlm.backend import is_shortage, memory_shortage
from scratch_vlm.bench.agree import CLOSE, TEXTS, difference, host_arrays, texts_apart
from scratch_vlm.bench.clock import in_turn, seconds_of
from scratch_vlm.bench.contenders import contenders
from scratch_vlm.bench.floors import raise_ceilings
from scratch_vlm.bench.judge import finish
from scratch_vlm.bench.machine import code_version, describe_machine, unlike
from scratch_vlm.bench.plan import (
    CLOSING,
    TooLongError,
    ended_by_sigterm,
    limited,
    pieces,
    share_of_time,
    why_not,
)
from scratch_vlm.bench.show import draw, table
from scratch_vlm.bench.subjects import OPS, subjects
from scratch_vlm.training.run import RunFolder, RunFolderError, write_json

FORMAT = 2  # of bench.json
SHORT = 0.05  # seconds; too short to see how many cores were busy
BUSY = 0.75  # of the cores that one was given; with less, it shared them or did not need them


def run_bench(
    folder,
    *,
    backend=None,
    seed=0,
    quick=False,
    only=(),
    cores=2,
    minutes=8.0,
    again=False,
    note=None,
):
    """Compare NumPy, CuPy and PyTorch, as far as they are here, and print a table.

    Parameters
    ----------
    folder : str or path
        Where to write ``bench.json`` and ``bench.txt``, after each piece of work, and
        ``bench.png``. What an earlier run measured there is kept, and only what is missing or
        failed is done.
    backend : str, optional
        As for `contenders`.
    seed : int, default 0
        Of all numbers.
    quick : bool, default False
        Small sizes and models only.
    only : sequence of str, default ()
        Families whose name contains one of these; all if there are none.
    cores : int, default 2
        Of the host, in training steps.
    minutes : float, default 8
        What has not begun shortly before is skipped.
    again : bool, default False
        Forget what an earlier run measured in the folder.
    note : str, optional
        What readers of the numbers should know about the machine.

    Returns
    -------
    dict
        What was written. ``interrupted`` after Ctrl-C or SIGTERM, with what was measured until
        then; ``failed`` names what should have worked.

    Raises
    ------
    ValueError
        If nothing matches `only`.
    BackendError
        If a backend was asked for that does not work here.
    RunFolderError
        If the folder cannot be written, another process writes into it, or it holds results that
        cannot stand beside new ones; said before anything is measured.
    """
    folder, until = Path(folder), time.monotonic() + 60 * minutes - CLOSING
    chosen = choose(subjects(quick=quick), only)
    RunFolder(folder).prepare()
    report = {
        "format": FORMAT,
        "date": time.strftime("%Y-%m-%d"),
        "quick": quick,
        "seed": seed,
        "machine": describe_machine(cores) | {"note": note},
        "ceilings": {},
        "compiling": None,
        "results": [],
        "skipped": {},
        "remarks": {},
        "failed": {},
        "interrupted": False,
    }
    with RunFolder(folder).alone():
        if not again:
            go_on(report, folder)
        found, report["skipped"] = contenders(backend, cores=cores)
        if report["machine"]["blas_threads"] > 1:
            report["remarks"]["numpy"] = (
                f"its BLAS had {report['machine']['blas_threads']} threads, whatever --cores "
                "says; OPENBLAS_NUM_THREADS=1 gives it one"
            )
        try:
            with ended_by_sigterm():
                fill(report, folder, chosen, found, until)
        except KeyboardInterrupt:
            report["interrupted"] = True
        print(write(report, folder))
        if report["results"]:
            draw(report).savefig(folder / "bench.png", dpi=144)
    return report


def fill(report, folder, chosen, found, until):
    """Measure what a report lacks, and write it down piece by piece.

    Parameters
    ----------
    report : dict
        Of `run_bench`.
    folder : path
        Where to write.
    chosen : list of Subject
        The work.
    found : list of Contender
        Who is there.
    until : float
        See `why_not`.
    """
    quick, version = report["quick"], code_version()
    order = [(subject.family, subject.size) for subject in subjects(quick=quick)]
    if not all(one.place(one.cores) in report["ceilings"] for one in found):
        raise_ceilings(report["ceilings"], found)
    bar = tqdm(pieces(chosen, found), unit="piece", disable=None, leave=False)
    for piece in bar:
        bar.set_postfix_str(piece.subject.name)
        if is_whole(piece, report, until):
            continue
        seconds = 0.5 if quick or piece.subject.kind in OPS else 1.0
        entry = measure(piece, report, report["seed"], 5 if quick else 15, seconds, until)
        if entry["times"]:
            entry |= {"code": version, "date": time.strftime("%Y-%m-%d %H:%M")}
            keep(report, entry, order)
            write(report, folder)
    raise_ceilings(report["ceilings"], found)  # whoever was disturbed has another try


def go_on(report, folder):
    """Take over what an earlier run has measured.

    Parameters
    ----------
    report : dict
        Of `run_bench`; gains ``results``, ``ceilings``, and how long compiling takes.
    folder : path
        Where it wrote.

    Raises
    ------
    RunFolderError
        If that was another machine, or other work.
    """
    try:
        before = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        before = {}
    if before.get("format") != FORMAT:
        why = "was not written by this version of the benchmark"
    elif (before["quick"], before["seed"]) != (report["quick"], report["seed"]):
        why = "was measured with another --quick or --seed"
    else:
        why = unlike(report["machine"], before["machine"])
        why = why and f"was measured elsewhere: {why}"
    if why:
        raise RunFolderError(
            f"{folder / 'bench.json'} {why}; choose another folder with --out, or --again to "
            "measure all anew"
        )
    for name in ("results", "ceilings", "compiling", "remarks"):
        report[name] = before[name]
    report["machine"]["note"] = report["machine"]["note"] or before["machine"]["note"]
    if before["results"]:
        print(
            f"{folder / 'bench.json'} holds {len(before['results'])} pieces of work from before; "
            "what is missing or failed is done now (--again measures all)",
            flush=True,
        )


def choose(found, only):
    """Keep the families that were asked for.

    Parameters
    ----------
    found : list of Subject
        All.
    only : sequence of str
        Parts of names; none for all.

    Returns
    -------
    list of Subject

    Raises
    ------
    ValueError
        If one is in no name.
    """
    families = list(dict.fromkeys(subject.family for subject in found))
    for text in only:
        if not any(text.lower() in family.lower() for family in families):
            raise ValueError(f"nothing to time has {text!r} in its name: {'; '.join(families)}")
    return [
        subject
        for subject in found
        if not only or any(text.lower() in subject.family.lower() for text in only)
    ]


def is_whole(piece, report, until):
    """Whether everybody who can has done a piece of work before, without failing.

    Parameters
    ----------
    piece : Piece
        The work, and who takes part.
    report : dict
        Of `run_bench`.
    until : float
        See `why_not`.

    Returns
    -------
    bool
        If so, ``skipped`` gains who cannot.
    """
    times = [one["times"] for one in report["results"] if tuple(one["piece"]) == piece.key]
    if not times:
        return False
    reasons = {
        contender.name: why_not(piece.subject, contender, report, until)
        for contender in piece.who
        if contender.name not in times[0]
    }
    if not all(reasons.values()):
        return False
    for name, why in reasons.items():
        report["skipped"][f"{name}: {piece.subject.name}"] = why
    return True


def keep(report, entry, order):
    """Put an entry where it belongs, in place of an earlier one.

    Parameters
    ----------
    report : dict
        Of `run_bench`.
    entry : dict
        Of `measure`.
    order : list of (str, int)
        Families and sizes.
    """
    others = [one for one in report["results"] if one["piece"] != entry["piece"]]
    report["results"] = sorted(
        [*others, entry],
        key=lambda one: (order.index((one["family"], one["size"])), len(one["piece"])),
    )


def write(report, folder):
    """Write what is known until now.

    Parameters
    ----------
    report : dict
        Of `run_bench`.
    folder : path
        Where to.

    Returns
    -------
    str
        The table.
    """
    finish(report)
    text = table(report)
    write_json(folder / "bench.json", report)
    (folder / "bench.txt").write_text(text + "\n", encoding="utf-8")
    return text


def measure(piece, report, seed, rounds, seconds, until):
    """Time one piece of work, after seeing that all compute the same.

    Parameters
    ----------
    piece : Piece
        What is timed, and who takes part.
    report : dict
        Of `run_bench`; gains who was skipped or failed, and why.
    seed : int
        Of all numbers.
    rounds, seconds
        As for `in_turn`.
    until : float
        See `why_not`.

    Returns
    -------
    dict
    """
    subject = piece.subject
    works, about, right = {}, {}, None
    gc.collect()  # works of the piece before may have cycles, and memory
    drawn = None
    for contender in piece.who:
        at = f"{contender.name}: {subject.name}"
        why = why_not(subject, contender, report, until)
        if why:
            report["skipped"][at] = why
            continue
        report["remarks"].pop(at, None)  # of an earlier run
        drawn = drawn or subject.draw(np.random.default_rng(seed))
        try:
            with limited(share_of_time(subject, contender, until)):
                work, values, facts = first_results(subject, contender, drawn)
            right = values if right is None else right
            if wrong := mistake(subject, contender, values, right):
                report["failed"][at] = wrong
                continue
            if contender.only == "compiled":
                report["compiling"] = facts["first"] / subject.blocks
            cores = contender.cores_for(subject)
            if facts["busy"] is not None and facts["busy"] < BUSY * cores:
                report["remarks"][at] = f"had {facts['busy']} cores of {cores} to itself"
            if remark := contender.remark():
                report["remarks"][at] = remark
            works[contender.name] = partial(_measure, contender, work, piece.who)
            about[contender.name] = facts
        except TooLongError as error:
            report["skipped"][at] = str(error)
        except Exception as error:  # one who fails must not take the others' results away
            report["skipped" if _is_full(error) else "failed"][at] = _in_words(error)
        finally:
            contender.rest()
    try:
        samples = in_turn(works, rounds=rounds, seconds=seconds, until=until)
    except Exception as error:
        at = f"{', '.join(works)}: {subject.name}"
        why = f"while they took turns: {_in_words(error)}"
        report["skipped" if _is_full(error) else "failed"][at] = why
        samples = {}
    for contender in piece.who:
        contender.forget()
    return {
        **{name: getattr(subject, name) for name in ("family", "kind", "size", "unit")},
        **{name: getattr(subject, name) for name in ("flops", "bytes", "exact")},
        "piece": list(piece.key),
        "times": {
            contender.name: {
                "seconds": seconds_of(taken),
                "samples": [x and float(f"{x:.4g}") for x in taken],
                "place": contender.place(contender.cores_for(subject)),
                "precision": contender.precision,
                **about[contender.name],
            }
            for contender in piece.who
            for name, taken in samples.items()
            if name == contender.name
        },
    }


def mistake(subject, contender, values, right):
    """Say whether somebody computes something else.

    Parameters
    ----------
    subject, contender
        What was done, and by whom.
    values, right : list of array
        What came of it, and what should have.

    Returns
    -------
    str or None
        None if it is close enough. Words that are written in low precision may be others.
    """
    if subject.kind == "generation":
        share = texts_apart(values, right) if contender.precision == "float32" else 0.0
        return f"writes something else in {share:.0%} of the texts" if share > TEXTS else None
    far = difference(values, right)
    return f"computes something else, {far:.2g} apart" if far > CLOSE[contender.precision] else None


def first_results(subject, contender, drawn):
    """Let one do a piece of work for the first time.

    Parameters
    ----------
    subject : Subject
        The work.
    contender : Contender
        Who does it.
    drawn : tuple
        What the subject has drawn.

    Returns
    -------
    work : callable
        What does it again.
    values : list of array
        What came of it; of two training steps, so that the update is seen as well.
    facts : dict
        Seconds until there was a ``first`` result, with all compiling; the ``memory`` of a step;
        and how many cores of the host were ``busy``, None on a device or if it was short.
    """
    step = subject.kind == "step"
    before = contender.held() if step else None
    began = time.perf_counter()
    work = contender.prepare(subject, *drawn)
    values = host_arrays(contender.run(work))
    first = time.perf_counter() - began
    busy = None
    if step:
        clocks = time.perf_counter(), time.process_time()
        values += host_arrays(contender.run(work))
        if not contender.on_device:
            wall, used = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
            busy = round(used / wall, 2) if wall > SHORT else None
    memory = contender.memory(work, before) if step else None
    return work, values, {"first": float(f"{first:.4g}"), "memory": memory, "busy": busy}


def _measure(contender, work, found, times=1):
    try:
        return contender.measure(work, times)
    except Exception as error:
        if not _is_full(error):
            raise
    for one in found:  # each of whom keeps memory for a next time
        one.rest()
    return contender.measure(work, times)


def _is_full(error):
    return is_shortage(error) or type(error).__name__ == "OutOfMemoryError"  # PyTorch's


def _in_words(error):
    if is_shortage(error):
        return memory_shortage(error)
    return f"{type(error).__name__}: {error}".partition("\n")[0]
