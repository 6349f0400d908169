"""`StrictModule`: the emulator for arrays of the stand-in for CuPy, and for graphs of them."""

import emulator
from strict import tape


class StrictModule(emulator.EmulatedModule):
    """A compiled CUDA source, as `cupy.RawModule` is one."""

    def get_function(self, name):
        """Return a kernel, called as ``kernel(grid, block, arguments, shared_mem=0)``."""
        return StrictKernel(self, name)


class StrictKernel(emulator.EmulatedKernel):
    """One kernel; a capture takes down its launches."""

    def __call__(self, grid, block, arguments, *, shared_mem=0):
        held = tuple(getattr(one, "host", one) for one in arguments)
        super().__call__(grid, block, held, shared_mem=shared_mem)
        tape.record(super().__call__, grid, block, held, shared_mem=shared_mem)
