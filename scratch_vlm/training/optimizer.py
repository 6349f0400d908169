"""Optimizers on one flat vector that holds every trained parameter."""

import math

import numpy as np

from scratch_vlm.backend import fused, namespace, squared_length, to_device
from scratch_vlm.tree import ALIGN, arena, by_rule, freeze, leaves, zeros_like

EVERYTHING = ((".*", True),)
ALIKE = ((".*", 1.0),)


class Optimizer:
    """What optimizers share: one buffer of all trained parameters, and others of its shape.

    A kind of optimizer brings ``move(now)``, which takes the step, and ``_numbers(rate, shorten)``,
    which gives what `plan` hands to it; `shorten` is what the gradients are to be multiplied with.

    Parameters
    ----------
    p : dict
        Parameters, see `AdamW`.
    moments : sequence of str
        Names of the running means that a kind of optimizer keeps.
    trained, decay, factors, clip, chunk
        See `AdamW`.

    Attributes
    ----------
    p, g : dict
        Parameters and their gradients.
    steps : int
        Steps done.
    """

    def __init__(self, p, moments, *, trained, decay, factors, clip, chunk):
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be positive, or None for no clipping; got {clip}")
        names = [name for name, _ in leaves(p)]
        decays_of, factors_of = _decay_rates(names, decay), _rate_factors(names, factors)
        flat_g, self.g = arena(zeros_like(freeze(p, trained)))
        if flat_g.dtype not in ("float32", "float64"):
            raise TypeError(f"parameters must be float32 or float64, got {flat_g.dtype}")
        flat_p, self.p = arena(p, {name for name, _ in leaves(self.g)})
        flat_moments, self._moments = [], {}
        for name in moments:
            flat, self._moments[name] = arena(self.g)
            flat_moments.append(flat)
        self.clip, self.steps = clip, 0

        # A leaf starts on a multiple of ALIGN, so every row of ALIGN elements has one rate.
        vectors = [flat.reshape(-1, ALIGN) for flat in (flat_p, flat_g, *flat_moments)]
        of_rows = []
        for values in (factors_of, decays_of):
            for name, leaf in leaves(self._moments[moments[0]]):
                leaf[...] = values[name]  # lent for a moment, to learn which rows are whose
            of_rows.append(vectors[2][:, :1].copy())
        flat_moments[0][...] = 0
        self._flat_g = flat_g
        self._vectors = (*vectors, *of_rows)

        xp = namespace(flat_p)
        rows = max(1, (chunk or (2**16 if xp is np else 2**22)) // ALIGN)
        room = xp.empty((min(rows, len(vectors[0])), ALIGN), flat_p.dtype)
        self._chunks = _chunks(vectors, of_rows, room)

    def gradient_norm(self):
        """Measure the gradient of all trained parameters as one vector.

        Returns
        -------
        norm : array of shape ()
            Its Euclidean length; on a device, which is not waited for.
        """
        return namespace(self._flat_g).sqrt(squared_length(self._flat_g))

    def clear_gradients(self):
        """Empty the gradient tree without a step."""
        self._flat_g[...] = 0

    def step(self, rate, norm=None, scale=1.0):
        """Move the parameters by one step and empty the gradient tree.

        Parameters
        ----------
        rate : float
            Learning rate.
        norm : float, optional
            What `gradient_norm` returned, divided by `scale`, if the caller has fetched it from
            the device already.
        scale : float, default 1.0
            By what to divide the gradient, since the loss was multiplied with it.

        Returns
        -------
        float
            Length of the gradient before clipping, and after the division.

        Raises
        ------
        ValueError
            If the length is not finite. Nothing has changed then.
        """
        norm = float(self.gradient_norm()) / scale if norm is None else norm
        self.move(self.plan(rate, norm, scale))
        return norm

    def plan(self, rate, norm, scale=1.0):
        """Count a step and find the numbers that are its own.

        Parameters
        ----------
        rate, norm, scale : float
            As for `step`.

        Returns
        -------
        tuple of float
            For `move`.

        Raises
        ------
        ValueError
            If the length is not finite. The step is not counted then.
        """
        if not math.isfinite(norm):
            raise ValueError(f"the gradient's norm is {norm}; the parameters were not changed")
        self.steps += 1
        shorten = self.clip / norm if self.clip is not None and norm > self.clip else 1.0
        return self._numbers(rate, shorten / scale)

    @property
    def state(self):
        """The tree to save beside the parameters: moments by their names, and ``step``."""
        return {**self._moments, "step": np.array(self.steps)}

    def load_state(self, state):
        """Go on from a saved state.

        Parameters
        ----------
        state : dict
            As `state` returned it; arrays of the host.

        Raises
        ------
        ValueError
            If it belongs to other parameters, or other ones were frozen.
        """
        own, given = dict(leaves(self.state)), dict(leaves(state))
        for name in [*own, *given]:
            have, want = (x[name].shape if name in x else "nothing" for x in (given, own))
            if have != want:
                raise ValueError(f"optimizer state {name}: found {have}, expected {want}")
        for name, x in own.items():
            x[...] = to_device(given[name].astype(x.dtype), namespace(x))
        self.steps = int(state["step"])


class AdamW(Optimizer):
    """Adam with decoupled weight decay and clipping by the global norm.

    Parameters
    ----------
    p : dict
        Parameters, all of float32 or all of float64; not changed. The trained ones are copied
        side by side into one buffer: read and run the model with `AdamW.p` from here on.
    trained : iterable of (str, bool), optional
        Rules of `tree.freeze`: a regular expression over names, and whether to train what it
        matches. Frozen parameters never move. Default everything.
    decay : float or iterable of (str, float), default 0.01
        Weight decay: one rate for the parameters that `decays` picks by name, or rules of
        `tree.by_rule` that give every parameter its own.
    factors : iterable of (str, float), optional
        Rules of `tree.by_rule` for what to multiply the learning rate with, such as
        ``[("gated/.*/gate_.*", 10.0), (".*", 1.0)]``. Default 1 for every parameter.
    betas : (float, float), default (0.9, 0.999)
        How much of the two running means a step keeps; each from 0 to below 1.
    eps : float, default 1e-8
        Added to the root of the second moment; positive.
    clip : float, optional
        A gradient longer than this is shortened to it. Default never.
    coupled : bool, default False
        Add the decay to the gradient instead of taking it off the parameter: Adam with the L2
        penalty that `AdamW` was made to replace.
    chunk : int, optional
        Elements updated at a time. The default fits a core's cache on the host, and makes up
        for the launch of a kernel on a device. It changes no bit of the result.

    Attributes
    ----------
    p : dict
        The parameters; trained leaves are views of the buffer, frozen ones the arrays given.
    g : dict
        The gradient tree, zero at first; backward adds to it and `step` empties it.
    steps : int
        Steps done.

    Raises
    ------
    ValueError
        If a number is outside its range, or the rules do not fit the names.
    TypeError
        If the parameters are neither float32 nor float64.

    Notes
    -----
    With gradient g, rate r (times its factor), decay d and step number t counted from 1 [1]_,
    [2]_::

        m = beta1 m + (1 - beta1) g         mhat = m / (1 - beta1^t)
        v = beta2 v + (1 - beta2) g^2       vhat = v / (1 - beta2^t)
        p = p - r d p - r mhat / (sqrt(vhat) + eps)

    Coupled, g + d p stands for g, and the term r d p falls away.

    One vector instead of hundreds of leaves saves the overhead of small calls, and a chunk that
    stays in the cache for all its passes saves most of the memory traffic.

    References
    ----------
    .. [1] D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", 2014,
       arXiv:1412.6980, algorithm 1.
    .. [2] I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", 2017,
       arXiv:1711.05101, algorithm 2; its schedule multiplies both terms, as here.

    Examples
    --------
    >>> optimizer = AdamW({"w": np.array([1.0, -1.0])}, decay=0.0)
    >>> optimizer.g["w"] += [3.0, -4.0]
    >>> optimizer.step(0.1)
    5.0
    >>> optimizer.p["w"]
    array([ 0.9, -0.9])
    """

    def __init__(
        self,
        p,
        *,
        trained=EVERYTHING,
        decay=0.01,
        factors=ALIKE,
        betas=(0.9, 0.999),
        eps=1e-8,
        clip=None,
        coupled=False,
        chunk=None,
    ):
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, got {betas}")
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps}")
        how = {"trained": trained, "decay": decay, "factors": factors, "clip": clip}
        super().__init__(p, ("m", "v"), **how, chunk=chunk)
        self.betas, self.eps, self.coupled = betas, eps, coupled

    def _numbers(self, rate, shorten):
        beta1, beta2 = self.betas
        rate_over_bias1 = rate / (1 - beta1**self.steps)
        root_over_bias2 = 1 / math.sqrt(1 - beta2**self.steps)
        return rate, rate_over_bias1, root_over_bias2, shorten

    def move(self, now):
        """Move the parameters by one step and empty the gradient tree.

        Parameters
        ----------
        now : tuple of float, or array of shape (4,)
            See `adamw_update`.
        """
        adamw_update(
            self._vectors,
            now,
            betas=self.betas,
            eps=self.eps,
            chunks=self._chunks,
            coupled=self.coupled,
        )


@fused
def adamw_update(vectors, now, *, betas, eps, chunks, coupled=False):
    """Move parameters by one step of AdamW and set their gradients to zero, in place.

    Parameters
    ----------
    vectors : tuple of array
        Parameters, gradients and the two moments, all of shape (rows, ALIGN); then factors of the
        rate and rates of the decay, of shape (rows, 1).
    now : tuple of float, or array of shape (4,)
        What changes from step to step: the rate, the rate over ``1 - beta1^t``, one over the root
        of ``1 - beta2^t``, and what to multiply the gradients with.
    betas : (float, float)
        How much of the two running means a step keeps.
    eps : float
        Added to the root of the second moment.
    chunks : list of tuple
        The vectors in pieces to update at a time, each with an array to compute in. Factor and
        decay are one number where all rows of a piece have the same.
    coupled : bool, default False
        Whether the decay is added to the gradient.
    """
    xp, (beta1, beta2) = namespace(vectors[0]), betas
    # In the type of the parameters, in which a graph that is replayed reads them, too.
    rate, rate_over_bias1, root_over_bias2, shorten = xp.asarray(now, vectors[0].dtype)
    for p, g, m, v, factor, decay, a in chunks:
        if coupled:
            xp.multiply(p, decay / shorten, out=a)
            g += a
        xp.multiply(g, (1 - beta1) * shorten, out=a)
        m *= beta1
        m += a
        g *= math.sqrt(1 - beta2) * shorten
        g *= g
        v *= beta2
        v += g
        g[...] = 0
        xp.sqrt(v, out=a)
        a += eps / root_over_bias2  # sqrt(vhat) + eps, over root_over_bias2
        xp.divide(m, a, out=a)
        a *= rate_over_bias1 / root_over_bias2 * factor
        if not coupled:
            p *= 1 - rate * factor * decay
        p -= a


class SGD(Optimizer):
    """Gradient descent with momentum, which sees no curvature.

    Parameters
    ----------
    p : dict
        Parameters, see `AdamW`.
    trained, factors, clip, chunk
        See `AdamW`.
    decay : float or iterable of (str, float), default 0.0
        See `AdamW`; it is added to the gradient.
    momentum : float, default 0.9
        How much of its pace a parameter keeps, from 0 to below 1.
    nesterov : bool, default False
        Step as if the pace that is kept had been taken already.

    Raises
    ------
    ValueError
        If a number is outside its range, or the rules do not fit the names.
    TypeError
        If the parameters are neither float32 nor float64.

    See Also
    --------
    AdamW : What everything here is trained with.

    Notes
    -----
    With gradient g, rate r (times its factor), decay d and momentum b [1]_::

        g = g + d p
        m = b m + g
        p = p - r m             or, with `nesterov`, p - r (g + b m)

    References
    ----------
    .. [1] I. Sutskever et al., "On the Importance of Initialization and Momentum in Deep
       Learning", 2013, section 2; the pace is in units of the rate here, as in PyTorch.

    Examples
    --------
    >>> optimizer = SGD({"w": np.array([1.0, -1.0])}, momentum=0.5)
    >>> for _ in range(2):
    ...     optimizer.g["w"] += [1.0, 0.0]
    ...     norm = optimizer.step(0.1)
    >>> optimizer.p["w"]
    array([ 0.75, -1.  ])
    """

    def __init__(
        self,
        p,
        *,
        trained=EVERYTHING,
        decay=0.0,
        factors=ALIKE,
        momentum=0.9,
        nesterov=False,
        clip=None,
        chunk=None,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be from 0 to below 1, got {momentum}")
        how = {"trained": trained, "decay": decay, "factors": factors, "clip": clip}
        super().__init__(p, ("m",), **how, chunk=chunk)
        self.momentum, self.nesterov = momentum, nesterov

    def _numbers(self, rate, shorten):
        return rate, shorten

    def move(self, now):
        """Move the parameters by one step and empty the gradient tree.

        Parameters
        ----------
        now : tuple of float, or array of shape (2,)
            The rate, and by what the gradients are multiplied.
        """
        xp, (rate, shorten) = namespace(self._flat_g), now
        for p, g, m, factor, decay, a in self._chunks:
            g *= shorten
            xp.multiply(p, decay, out=a)
            g += a
            m *= self.momentum
            m += g
            xp.multiply(m, rate * factor * (self.momentum if self.nesterov else 1), out=a)
            p -= a
            if self.nesterov:
                g *= rate * factor
                p -= g
            g[...] = 0


def _chunks(vectors, of_rows, room):
    # As many rows at a time as there is room to compute in: what fits the cache.
    chunks = []
    for start in range(0, len(vectors[0]), len(room)):
        rows = slice(start, start + len(room))
        pieces = [vector[rows] for vector in vectors]
        chunks.append((*pieces, *(_rate(x[rows]) for x in of_rows), room[: len(pieces[0])]))
    return chunks


def _rate(x):  # one number if it is that of all rows: faster than a number for each
    return x[0, 0] if (x == x[0, 0]).all() else x


def decays(name):
    """Whether a parameter is a matrix that weight decay should shrink, judged by its name.

    Parameters
    ----------
    name : str
        Name of a leaf.

    Returns
    -------
    bool
        True for weights, the leaves called ``w``; False for positions (``positions/w``), which
        are addresses, and for everything else: biases ``b``, gains ``gamma`` and ``beta``,
        learned tokens, logit scales.

    Examples
    --------
    >>> [decays(name) for name in ("blocks/0/attn/qkv/w", "ln/gamma", "positions/w")]
    [True, False, False]
    """
    keys = name.split("/")
    return keys[-1] == "w" and "positions" not in keys


def _decay_rates(names, decay):
    if isinstance(decay, int | float):
        rates = {name: decay if decays(name) else 0.0 for name in names}
    else:
        rates = by_rule(names, decay)
    for name, rate in rates.items():
        if not 0 <= rate < math.inf:
            raise ValueError(f"weight decay must not be negative, got {rate} for {name}")
    return rates


def _rate_factors(names, factors):
    found = by_rule(names, factors)
    for name, factor in found.items():
        if not 0 < factor < math.inf:
            raise ValueError(f"a factor of the learning rate is positive, got {factor} for {name}")
    return found
