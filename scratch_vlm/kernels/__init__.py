"""CUDA C++ kernels, and for each op that has one a function of its signature that launches it.

A ``.cu`` file is to be read beside the op that it does the work of. ``docs/kernels.md`` says what
they save, how they are tested without a GPU, and what has not been run on one yet.
"""

from scratch_vlm.backend.fused import set_kernels
from scratch_vlm.kernels import (
    activation,
    attention,
    contrastive,
    cross_entropy,
    embedding,
    norm,
    optimizer,
)

KERNELS = {
    kernel.__name__: kernel
    for kernel in (
        activation.gelu_forward,
        activation.gelu_tanh_forward,
        activation.quick_gelu_forward,
        attention.attend_forward,
        contrastive.contrastive_forward,
        cross_entropy.cross_entropy_forward,
        embedding.add_at,
        norm.layer_norm_forward,
        norm.rms_norm_forward,
        optimizer.adamw_update,
    )
}


def use_kernels(names=None):
    """Let kernels do the work of ops, on arrays that they can read.

    Parameters
    ----------
    names : iterable of str, optional
        Ops; an empty one goes back to NumPy's lines everywhere. Default all that have a kernel.

    Raises
    ------
    ValueError
        If an op has no kernel.

    See Also
    --------
    scratch_vlm.backend.launch.set_compiler : Says which arrays kernels can read.

    Notes
    -----
    A backward needs no entry: it follows what its forward saved.
    """
    names = list(KERNELS) if names is None else list(names)
    for name in names:
        if name not in KERNELS:
            raise ValueError(f"{name!r} has no kernel; those that have are {', '.join(KERNELS)}")
    set_kernels({name: KERNELS[name] for name in names})
