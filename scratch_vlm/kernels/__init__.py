"""CUDA C++ kernels, and for each op that has one a function of its signature that launches it.

A ``.cu`` file is to be read beside the op that it does the work of. ``docs/kernels.md`` says what
they save, how they are tested without a GPU, and what one said about them.
"""

from scratch_vlm.backend.dispatch import set_kernels
from scratch_vlm.backend.launch import has_compiler, set_compiler
from scratch_vlm.kernels import (
    activation,
    attention,
    column_sums,
    contrastive,
    cross_entropy,
    embedding,
    lowered,
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
        column_sums.add_sum,
        contrastive.contrastive_forward,
        cross_entropy.cross_entropy_forward,
        embedding.add_at,
        lowered.lowered,
        norm.add_norm,
        norm.layer_norm_forward,
        norm.rms_norm_forward,
        optimizer.adamw_update,
    )
}
KERNELS |= dict.fromkeys(
    ("gelu_backward", "gelu_tanh_backward", "quick_gelu_backward"), activation.backward
)


def use_kernels(xp, names=None):
    """Let kernels do the work of ops, on arrays of a module that can run them.

    Parameters
    ----------
    xp : module
        `cupy`, as `backend.load` returns it. Another module needs a compiler of its own first,
        see `backend.launch.set_compiler`.
    names : iterable of str, optional
        Ops; an empty one goes back to NumPy's lines everywhere. Default all that have a kernel.

    Raises
    ------
    ValueError
        If an op has no kernel, or nothing compiles kernels for the module.

    Notes
    -----
    Only the forwards are named: a backward follows what its forward saved. What a kernel does not
    take, such as float64, goes the way of the op as before.
    """
    names = list(KERNELS) if names is None else list(names)
    for name in names:
        if name not in KERNELS:
            raise ValueError(f"{name!r} has no kernel; those that have are {', '.join(KERNELS)}")
    if hasattr(xp, "RawModule"):
        set_compiler(xp, xp.RawModule)
    if not has_compiler(xp):
        raise ValueError(
            f"kernels run on arrays of CuPy, and nothing compiles them for {xp.__name__}: "
            "add --backend cupy, or leave --kernels out"
        )
    set_kernels({name: KERNELS[name] for name in names})
