"""What a backward must keep beside the slope: no state, linear in dy, adding and never writing."""

import numpy as np

from scratch_vlm.gradcheck.report import Fault
from scratch_vlm.gradcheck.subject import beside, host, parts_of

ALMOST = 1e-9  # of the largest number: the same but for the order of sums
FLOOR = 1e-3  # of the largest gradient: one that is nothing but rounding is linear in nothing


def broken_promises(subject, point, y, dy, gradients, rng):
    """Call a pair again, in ways that only a wrong one minds.

    Parameters
    ----------
    subject : Subject
    point : dict of str to array
    y : array or tuple of array
        What the forward returned first.
    dy : array or tuple of array
        What the backward was given first.
    gradients : dict of str to array
        What it returned then.
    rng : numpy.random.Generator

    Returns
    -------
    list of Fault
    """
    return [
        *_state(subject, point, dy, gradients),
        *_accumulation(subject, point, dy, gradients, rng),
        *(_linearity(subject, point, y, dy, gradients, rng) if subject.has_cotangent else ()),
    ]


def _state(subject, point, dy, gradients):
    _, saved = subject.run(_copied(point))
    if not subject.own_state:
        # A little nearer to zero, where the domain of most functions goes on.
        elsewhere = {k: x * (1 - 2**-10) if x.dtype.kind == "f" else x for k, x in point.items()}
        subject.run(elsewhere)
    name = _other(subject.pull(copied(dy), saved, point), gradients)
    if name:
        yield Fault(
            "state",
            f"hidden state: the gradient of {name} is another one when the forward is called "
            "elsewhere in between; all that the backward needs belongs into saved",
        )


def same_again(subject, point, y):
    """Say whether a second call of the forward gives the same.

    Parameters
    ----------
    subject : Subject
    point : dict of str to array
    y : array or tuple of array
        What the first call gave.

    Returns
    -------
    bool
    """
    return _alike(parts_of(subject.run(_copied(point))[0]), parts_of(y))


def _accumulation(subject, point, dy, gradients, rng):
    names = [name for name, kind in subject.targets.items() if kind == "parameter"]
    if not names or subject.own_state:
        return
    start = {}
    for name in names:
        size = abs(host(gradients[name])).max(initial=0) or 1.0
        start[name] = beside(size * rng.standard_normal(point[name].shape), point[name])
    _, saved = subject.run(_copied(point))
    after = subject.pull(copied(dy), saved, point, start)
    for name in names:
        g, before, added = (host(t[name]) for t in (gradients, start, after))
        if _alike([added], [before + g]):
            continue
        if _alike([added], [g]):
            yield Fault("accumulation", f"the gradient of {name} is written (=) and not added (+=)")
        else:
            yield Fault("accumulation", f"the gradient of {name} depends on what was there before")


def _linearity(subject, point, y, dy, gradients, rng):
    other = cotangent(rng, y)
    results = []
    for mixed in (other, mapped(lambda a, b: 3 * a - b, dy, other)):
        _, saved = subject.run(_copied(point))
        results.append(subject.pull(mixed, saved, point))
    second, both = results
    largest = max((abs(host(x)).max(initial=0) for t in results for x in t.values()), default=0)
    for name in gradients:
        a, b, c = (host(t[name]) for t in (gradients, second, both))
        if not _alike([3 * a - b], [c], FLOOR * largest):
            yield Fault("linearity", f"the gradient of {name} is not linear in dy")
            return


def cotangent(rng, y):
    """Draw dy, where and in the precision of y.

    Parameters
    ----------
    rng : numpy.random.Generator
    y : array or tuple of array

    Returns
    -------
    array or tuple of array
        Of the shapes of `y`.
    """

    def draw(part):
        return beside(np.asarray(rng.standard_normal(np.shape(part))), part)

    return tuple(map(draw, y)) if isinstance(y, tuple | list) else draw(y)


def mapped(f, *ys):
    """Apply a function to outputs, of which there may be several.

    Parameters
    ----------
    f : callable
    *ys : array or tuple of array

    Returns
    -------
    array or tuple of array
    """
    if isinstance(ys[0], tuple | list):
        return tuple(f(*parts) for parts in zip(*ys, strict=True))
    return f(*ys)


def copied(dy):
    """Copy outputs, of which there may be several.

    Parameters
    ----------
    dy : array or tuple of array

    Returns
    -------
    array or tuple of array
    """
    return mapped(lambda part: part.copy() if hasattr(part, "copy") else part, dy)


def _copied(point):
    return {name: x.copy() for name, x in point.items()}


def _other(found, expected):
    for name, x in expected.items():
        if found.get(name) is None or not _alike([found[name]], [x]):
            return name
    return None


def _alike(found, expected, scale=0.0):
    for a, b in zip(map(host, found), map(host, expected), strict=True):
        largest = max(scale, abs(b).max(initial=0))
        if a.shape != b.shape or not (abs(a - b) <= ALMOST * largest).all():
            return False
    return True
