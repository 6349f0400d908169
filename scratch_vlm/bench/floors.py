"""How fast products and copies can be here, and the least time that follows from it."""

SIDES = {False: 1024, True: 8192}  # of the matrices that show how fast products are
COPIES = {False: (2**16, 2**20, 2**24, 2**27), True: (2**20, 2**24, 2**28, 2**30)}  # bytes


def raise_ceilings(ceilings, found):
    """Measure how fast products and copies can be, and keep the best that was seen.

    Parameters
    ----------
    ceilings : dict
        Gains, by place, ``flops``: FLOPs a second of large products; and ``bytes``: pairs of the
        bytes that a copy touches, and bytes a second.
    found : list of Contender
        Whoever is there.
    """
    for contender in found:
        if contender.only:
            continue
        for cores in sorted({1, contender.cores}):
            here = ceilings.setdefault(contender.place(cores), {"flops": 0.0, "bytes": []})
            speed = _speed(contender, *contender.multiply(SIDES[contender.on_device], cores))
            here["flops"] = max(here["flops"], speed)
            best = dict(here["bytes"])
            for size in COPIES[contender.on_device]:
                copy, nbytes = contender.copy(size, cores)
                best[nbytes] = max(best.get(nbytes, 0.0), _speed(contender, copy, nbytes))
            here["bytes"] = sorted(best.items())
        contender.rest()


def _speed(contender, work, amount):
    contender.run(work)
    return amount / min(contender.measure(work) for _ in range(5))


def floor_seconds(subject, ceiling, precision="float32"):
    """Least time that the FLOPs and the bytes of a piece of work can take.

    Parameters
    ----------
    subject : Subject or dict
        With its ``flops`` and ``bytes``; in bf16 also ``exact``, see `Subject`.
    ceiling : dict
        One of `raise_ceilings`.
    precision : {"float32", "tf32", "bf16"}, default "float32"
        Of the work.

    Returns
    -------
    float
        Seconds: the longer of the two, since they may overlap.

    Notes
    -----
    What is small may stay in a cache. So bytes are held against the fastest copy of as many or
    more.

    Examples
    --------
    >>> ceiling = {"flops": 1e9, "bytes": [(100, 5e9), (1000, 1e9)]}
    >>> floor_seconds({"flops": 0, "bytes": 50}, ceiling)
    1e-08
    >>> floor_seconds({"flops": 2000, "bytes": 500}, ceiling)
    2e-06
    >>> floor_seconds({"flops": 0, "bytes": 6000, "exact": 2000}, ceiling, "bf16")
    4e-06
    """
    subject = subject if isinstance(subject, dict) else vars(subject)
    nbytes = subject["bytes"]
    if precision == "bf16":
        nbytes = (nbytes + subject["exact"]) / 2
    speeds = [speed for size, speed in ceiling["bytes"] if size >= nbytes]
    speed = max(speeds) if speeds else ceiling["bytes"][-1][1]
    return max(subject["flops"] / ceiling["flops"], nbytes / speed)
