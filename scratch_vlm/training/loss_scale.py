"""Loss scaling: gradients of fp16 are kept from vanishing by making the loss larger."""

import numpy as np

LARGEST = 2.0**24
GROW_EVERY = 1000  # steps without an overflow


class LossScale:
    """A factor on the loss that is as large as the gradients allow.

    The smallest number of float16 is 6e-8, and many factors in a backward are smaller. A backward
    that starts from a loss 2^16 times as large keeps them, and its gradients are divided by 2^16
    afterwards, in float32 [1]_. Where one of them overflows, the step is computed again with half
    the factor, so that no step is left out; after many steps without, the factor doubles.

    Parameters
    ----------
    precision : {"float32", "tf32", "bf16", "fp16"}
        Of the products. All but fp16 have the range of float32, and the factor stays 1.

    Attributes
    ----------
    factor : float
        A power of two.

    References
    ----------
    .. [1] P. Micikevicius et al., "Mixed Precision Training", 2017, arXiv:1710.03740, section 3.2.

    Examples
    --------
    >>> scale = LossScale("fp16")
    >>> scale.factor, scale.lower(), scale.factor
    (65536.0, True, 32768.0)
    """

    def __init__(self, precision):
        self.used = precision == "fp16"
        self.factor = 2.0**16 if self.used else 1.0
        self._good = 0

    def lower(self):
        """Halve the factor after an overflow.

        Returns
        -------
        bool
            Whether to compute the step again: not if the factor is 1 already, where the overflow
            is none of fp16's making.
        """
        if self.factor == 1:
            return False
        self.factor /= 2
        self._good = 0
        return True

    def step_done(self):
        """Count a step without an overflow."""
        self._good += 1
        if self.used and self._good == GROW_EVERY:
            self.factor = min(2 * self.factor, LARGEST)
            self._good = 0

    @property
    def state(self):
        """The tree to save beside the optimizer's; empty where there is nothing to scale."""
        if not self.used:
            return {}
        return {"loss_scale": {"factor": np.array(self.factor), "good": np.array(self._good)}}

    def load_state(self, state):
        """Go on from a saved state, and take it out of the tree.

        Parameters
        ----------
        state : dict
            As `state` returned it, among other branches.
        """
        saved = state.pop("loss_scale", None)
        if saved is not None:
            self.factor, self._good = float(saved["factor"]), int(saved["good"])
