"""`EmulatedModule`: the interface of `cupy.RawModule`, with g++ and the header beside this file.

The CUDA files are compiled as they are, and the code that launches them is the code that launches
them on a GPU. What it cannot show: speed, memory order between blocks, and whether the tables of
the tensor-core instructions in `tensor_cores.h` are those of the hardware.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from scratch_vlm.backend import launch

HERE = Path(__file__).parent
CACHE = Path(tempfile.gettempdir()) / f"scratch_vlm_emulator-{os.getuid()}"
SCHEDULES = ("round robin", "lowest first", "highest first", "random warps")
# Without -fno-gnu-unique all modules of the process would share one emulated device.
FLAGS = ("-std=c++20", "-O2", "-fPIC", "-shared", "-w", "-fno-gnu-unique", f"-I{HERE}")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1", "-O0")

_run = {
    "schedule": "round robin",
    "seed": 0,  # of the schedule
    "skip": None,  # (key of a module, number of a barrier) to leave out
    "flags": (),  # of the compiler, beside FLAGS
    "record": None,  # a dict that gains the barriers that are met, keys like skip: file and line
    "launched": None,  # a set that gains the names of kernels
}


def missing():
    """Why nothing can be emulated here, or None."""
    if shutil.which("g++") is None:
        return "g++ is not installed; it compiles the kernels for the emulator"
    return None


@contextmanager
def running(**options):
    """Set entries of `_run` for a while."""
    before = dict(_run)
    _run.update(options)
    try:
        yield _run | options
    finally:
        _run.update(before)


class EmulatedModule:
    """A compiled CUDA source; takes what `launch.library` gives to `cupy.RawModule`.

    Parameters
    ----------
    code : str
        CUDA C++ without local includes.
    options : tuple of str
        Of which those that define names are used.
    """

    def __init__(self, *, code, options):
        defines = [option for option in options if option.startswith("-D")]
        types = dict(d.removeprefix("-D").split("=") for d in defines)
        self.signatures = launch.signatures(code, types["NUMBER"], types.get("OUTPUT"))
        text = "\n".join(
            [
                '#include "cuda_emulator.h"',
                '#include "tensor_cores.h"',
                _in_plain_cpp(code),
                *map(_entry, self.signatures),
            ]
        )
        built = _compile(text, (*defines, *_run["flags"]))
        self.key = built.stem
        self.library = ctypes.CDLL(str(built))
        self.library.emulated_error.restype = ctypes.c_char_p
        self.library.emulated_met.restype = ctypes.c_char_p

    def get_function(self, name):
        """Return a kernel, called as ``kernel(grid, block, arguments, shared_mem=0)``."""
        return EmulatedKernel(self, name)


class EmulatedKernel:
    """One kernel; `max_dynamic_shared_size_bytes` as in CuPy, and refused above it."""

    def __init__(self, module, name):
        self.module, self.name = module, name
        self.max_dynamic_shared_size_bytes = launch.BLOCK_BYTES

    def __call__(self, grid, block, arguments, *, shared_mem=0):
        fits = 0 < grid[0] < 2**31 and all(0 < n <= launch.MOST_BLOCKS for n in grid[1:])
        if not fits or not 0 < np.prod(block) <= 1024:
            raise RuntimeError(f"{self.name}: grid {grid} of blocks {block} cannot be launched")
        if shared_mem > min(self.max_dynamic_shared_size_bytes, 227 * 1024):
            raise RuntimeError(f"{self.name}: {shared_mem} bytes of shared memory were not allowed")
        library, key = self.module.library, self.module.key
        skip = _run["skip"] if _run["skip"] and _run["skip"][0] == key else (key, -1)
        held = [_pass(one) for one in arguments]
        pointers = (ctypes.c_void_p * len(held))(*map(ctypes.addressof, held))
        sizes = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
        library.emulated_set(
            sizes,
            SCHEDULES.index(_run["schedule"]),
            ctypes.c_uint64(_run["seed"]),
            skip[1],
        )
        getattr(library, f"emulated_{self.name}")(pointers, ctypes.c_size_t(shared_mem))
        error = library.emulated_error().decode()
        if error:
            raise RuntimeError(f"{self.name}: {error}")
        if _run["launched"] is not None:
            _run["launched"].add(self.name)
        if _run["record"] is not None:
            for number in range(library.emulated_barriers()):
                if where := library.emulated_met(number).decode():
                    _run["record"][key, number] = where


def _pass(argument):  # memory that holds what CUDA would copy into the kernel's parameters
    if argument is None:
        return ctypes.c_void_p(0)
    if isinstance(argument, np.generic):
        return (ctypes.c_char * argument.itemsize).from_buffer_copy(argument.tobytes())
    return ctypes.c_void_p(argument.ctypes.data)


def _in_plain_cpp(code):  # two things that no macro can express
    code = re.sub(
        r"extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];",
        r"\1* \2 = (\1*)emulated::dynamic();",
        code,
    )
    counted = r"emulated::copy_wait(\1, __FILE__, __LINE__, __COUNTER__)"
    return re.sub(r"copy_wait<(\w+)>\(\)", counted, code)


def _entry(name):
    return (
        f"static void {name}_body() {{ emulated::call(&{name}); }}\n"
        f'extern "C" void emulated_{name}(void** arguments, size_t shared) '
        f"{{ emulated::run_grid(arguments, shared, {name}_body); }}"
    )


def _compile(text, flags):
    headers = "".join(path.read_text(encoding="utf-8") for path in sorted(HERE.glob("*.h")))
    key = hashlib.sha256(repr((text, headers, FLAGS, flags)).encode()).hexdigest()[:24]
    built = CACHE / f"{key}.so"
    if not built.exists():
        CACHE.mkdir(exist_ok=True, mode=0o700)
        part = CACHE / f"{key}.{os.getpid()}.so"
        command = ["g++", *FLAGS, *flags, "-x", "c++", "-", "-o", str(part)]
        bare = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        done = subprocess.run(command, input=text, text=True, capture_output=True, env=bare)
        if done.returncode:
            raise SyntaxError(f"g++ refuses the kernel:\n{done.stderr}")
        part.replace(built)
    return built
