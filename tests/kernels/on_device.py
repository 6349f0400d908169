"""`DeviceModule`: run a kernel on a GPU for arrays of NumPy, so that it gets the emulator's cases.

The memory that an array lies in is copied to the GPU as a whole, and back after the launch, so that
a kernel finds what it reads by strides.
"""

import ctypes

import cupy
import numpy as np


class DeviceModule:
    """A compiled CUDA source; takes what `launch.library` gives to `cupy.RawModule`."""

    def __init__(self, *, code, options):
        self._module = cupy.RawModule(code=code, options=options)

    def get_function(self, name):
        """Return a kernel, called as ``kernel(grid, block, arguments, shared_mem=0)``."""
        return DeviceKernel(self._module.get_function(name))


class DeviceKernel:
    """One kernel; `max_dynamic_shared_size_bytes` as in CuPy."""

    def __init__(self, function):
        super().__setattr__("_function", function)

    def __setattr__(self, name, value):
        setattr(self._function, name, value)

    def __call__(self, grid, block, arguments, *, shared_mem=0):
        memory = {}  # of the host and of the GPU, by address: several arguments may lie in one
        passed = [self._pass(one, memory) for one in arguments]
        self._function(grid, block, tuple(passed), shared_mem=shared_mem)
        for here, there in memory.values():
            here[...] = there.get()

    def _pass(self, argument, memory):
        if not isinstance(argument, np.ndarray):
            return argument
        whole = argument
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        start = whole.ctypes.data
        if start not in memory:
            here = np.ctypeslib.as_array((ctypes.c_uint8 * whole.nbytes).from_address(start))
            memory[start] = here, cupy.asarray(here)
        there = memory[start][1]
        return cupy.ndarray(1, "uint8", there.data + (argument.ctypes.data - start))
