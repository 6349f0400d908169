"""What is measured first, and what there is no time for."""

import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

from scratch_vlm.bench.floors import floor_seconds
from scratch_vlm.bench.judge import TARGETS
from scratch_vlm.bench.subjects import OPS

CLOSING = 10.0  # seconds for what comes after the last piece
# Seconds that a floor may be.
PATIENCE = {"pair": 0.5, "update": 0.5, "step": 2.0, "generation": 2.0}
SHARE = 60.0  # seconds that one may take to get ready, without compiling
COMPILING = 4.0  # seconds for each block of a model, before one has been compiled here
MARGIN = 1.1  # how much longer than the last one compiling may take
KEPT = 0.35  # of what is free; a graph keeps its memory while the others are timed


class TooLongError(BaseException):
    """A piece of work was stopped after its share of the time.

    No `Exception`, for a compiler takes those for errors of its own.
    """


@dataclass(frozen=True)
class Piece:
    """Those who take turns at one piece of work.

    Attributes
    ----------
    subject : Subject
        The work.
    who : tuple of Contender
        All of them; what the first computes is taken for right.
    aimed : bool, default False
        Whether targets speak of them.
    part : str, default ""
        What tells it from the piece of everybody who is not compiled.
    """

    subject: object
    who: tuple
    aimed: bool = False
    part: str = ""

    @property
    def key(self):
        """What tells it from others: family, size, and the part if it is one."""
        return (self.subject.family, self.subject.size, *filter(None, [self.part]))


def pieces(chosen, found):
    """List all pieces of work, what matters most first, since time may be up.

    Parameters
    ----------
    chosen : list of Subject
        The work.
    found : list of Contender
        Who is there.

    Returns
    -------
    list of Piece
        Those whom targets speak of; the same compiled, beside whom it is held against; ops and
        blocks, each at one size before the next; models, the largest first, with everybody; and
        what else is compiled. Compiling takes a minute, and may not end: so it comes after what
        is certain.
    """
    sizes, every = {}, []
    for subject in chosen:
        sizes.setdefault(subject.family, []).append(subject.size)
        able = [contender for contender in found if contender.takes_part(subject)]
        others = tuple(one for one in able if one.only != "compiled")
        names = {
            name
            for families, *both, _ in TARGETS
            if families.get(subject.family) == subject.size
            for name in both
        }
        few = tuple(one for one in others if one.name in names)
        apart = 1 < len(few) < len(others)
        if apart:
            every.append(Piece(subject, few, aimed=True, part="targets"))
        every.append(Piece(subject, others, aimed=bool(names) and not apart))
        every += [
            Piece(subject, (_partner(one, others), one), one.name in names, one.name)
            for one in able
            if one not in others
        ]
    return sorted(every, key=lambda piece: _importance(piece, sizes[piece.subject.family]))


def _partner(compiled, others):  # the last of another maker that computes alike: a graph, perhaps
    alike = [
        one
        for one in others
        if (one.precision, one.on_device) == (compiled.precision, compiled.on_device)
        and one.maker != compiled.maker
    ]
    return alike[-1] if alike else others[0]


def _importance(piece, sizes):
    subject, compiled = piece.subject, any(one.only == "compiled" for one in piece.who)
    model, n, i = subject.kind not in OPS, len(sizes), sizes.index(subject.size)
    first = [n - 1] if model else [n // 2, 0, n - 1]
    turn = first.index(i) if i in first else len(first) + i
    return not piece.aimed, compiled, model, 0 if piece.aimed else turn


def why_not(subject, contender, report, until):
    """Say why a piece of work would be too much.

    Parameters
    ----------
    subject : Subject
        The work.
    contender : Contender
        Who would do it.
    report : dict
        Of `run_bench`: its ``ceilings``, and how many seconds ``compiling`` takes for each block.
    until : float
        When to begin nothing more, as `time.monotonic` tells it.

    Returns
    -------
    str or None
        None if it would not.
    """
    left = until - time.monotonic()
    if left <= 0:
        return "time was up; the same command goes on, and --minutes gives more"
    ceiling = report["ceilings"][contender.place(contender.cores_for(subject))]
    floor = floor_seconds(subject, ceiling, contender.precision)
    if floor > PATIENCE[subject.kind]:
        return f"its products alone would take {floor:.1f} s each time"
    if contender.only == "compiled":
        wanted = subject.blocks * (report["compiling"] or COMPILING) * MARGIN
        if wanted > left:
            return (
                f"compiling may take {wanted:.0f} s, and {left:.0f} are left; the same command "
                "goes on, and --minutes gives more"
            )
    free = contender.free()
    if subject.memory > free / 2:
        return f"needs about {subject.memory / 2**30:.0f} GiB, and there are {free / 2**30:.0f}"
    if contender.only == "graph" and subject.memory > KEPT * free:
        return (
            f"a graph would keep about {subject.memory / 2**30:.0f} GiB of {free / 2**30:.0f} "
            "while others are timed"
        )
    return None


def share_of_time(subject, contender, until):
    """How long one may take until there is a first result.

    Parameters
    ----------
    subject, contender, until
        As for `why_not`.

    Returns
    -------
    float
        Seconds.
    """
    if contender.only == "compiled":
        return max(until - time.monotonic(), 1.0)
    return SHARE


@contextmanager
def limited(seconds):
    """Stop what is inside if it takes too long, as far as it is Python that runs.

    Parameters
    ----------
    seconds : float
        After which it is stopped. Nothing is, where there are no such alarms: on Windows, and in
        threads.

    Raises
    ------
    TooLongError
        If it was stopped.
    """
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def stop(number, frame):
        raise TooLongError(f"stopped after {seconds:.0f} s, its share of the time")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)  # again, should somebody swallow it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def ended_by_sigterm():
    """Let SIGTERM, as of ``timeout``, end what is inside as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
