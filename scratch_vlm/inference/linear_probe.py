"""Linear probe: how much of the labels can be read off frozen features by a linear layer."""

from dataclasses import dataclass

import numpy as np

from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.linear import linear_backward, linear_forward
from scratch_vlm.ops.losses import cross_entropy_backward, cross_entropy_forward
from scratch_vlm.tree import arena, zeros_like


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of features.

    Attributes
    ----------
    p : dict
        Its linear layer, for standardised features.
    mean, std : numpy.ndarray of shape (D,)
        Of the features it was fitted on.
    """

    p: dict
    mean: np.ndarray
    std: np.ndarray

    def predict(self, features):
        """Return the class of each row of features, (B, D) -> (B,)."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"features must be (B, {len(self.mean)}), got {features.shape}")
        scores, _ = linear_forward((features - self.mean) / self.std, self.p)
        return scores.argmax(1)


def fit_linear_probe(features, labels, classes, *, penalty=1e-3, iterations=500):
    """Fit a linear classifier to frozen features.

    Parameters
    ----------
    features : numpy.ndarray of shape (B, D)
        What a frozen model says about B samples.
    labels : integer array of shape (B,)
        0 to `classes` - 1.
    classes : int
        How many there are.
    penalty : float, default 1e-3
        Weight of half the squared norm of the matrix, added to the mean cross-entropy.
    iterations : int, default 500
        At most, of L-BFGS.

    Returns
    -------
    LinearProbe

    Raises
    ------
    TypeError
        If the labels are not integers.
    ValueError
        If shapes do not fit, a label is not a class, or the penalty is negative.

    Notes
    -----
    The problem is convex; SciPy's L-BFGS-B minimises it with the gradient of this library's own
    backwards, in float64.

    References
    ----------
    .. [1] A. Radford et al., "Learning Transferable Visual Models From Natural Language
       Supervision", 2021, arXiv:2103.00020, section 3.2 and appendix A.3.
    """
    from scipy.optimize import minimize  # slow to import

    if features.ndim != 2 or not features.size:
        raise ValueError(f"features must be (B, D), neither of them 0; got {features.shape}")
    check_counts(classes=classes, iterations=iterations)
    if not penalty >= 0:
        raise ValueError(f"penalty must be at least 0, got {penalty}")

    features = features.astype(np.float64)
    mean, std = features.mean(0), features.std(0) + 1e-8
    x = (features - mean) / std
    flat, p = arena({"w": np.zeros((x.shape[1], classes)), "b": np.zeros(classes)})
    flat_g, g = arena(zeros_like(p))

    def loss_and_gradient(point):
        flat[:] = point
        flat_g[:] = 0
        scores, s_linear = linear_forward(x, p)
        loss, s_loss = cross_entropy_forward(scores, labels)
        linear_backward(cross_entropy_backward(1.0, s_loss), s_linear, g)
        g["w"] += penalty * p["w"]
        return float(loss) + 0.5 * penalty * float((p["w"] * p["w"]).sum()), flat_g.copy()

    best = minimize(
        loss_and_gradient, flat.copy(), jac=True, method="L-BFGS-B", options={"maxiter": iterations}
    )
    flat[:] = best.x
    return LinearProbe(p, mean, std)
