"""NVIDIA's compiler through ctypes: it needs neither a GPU nor a driver nor CuPy.

The wheels of the extra ``kernels-test`` hold it. What it says about registers and spills is what a
GPU of that architecture would run with.
"""

import ctypes
import importlib.util
import re
from pathlib import Path


def missing():
    """Why nothing can be compiled here, or None."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        if list(Path(folder).glob("cu*/lib/libnvrtc.so.*")):
            return None
    return "the NVRTC wheels are not installed: pip install -e '.[kernels-test]'"


class Nvrtc:
    """The compiler of the wheels."""

    def __init__(self):
        spec = importlib.util.find_spec("nvidia")
        (root,) = (
            path
            for folder in spec.submodule_search_locations
            for path in Path(folder).glob("cu*")
            if list(path.glob("lib/libnvrtc.so.*"))
        )
        (builtins,) = root.glob("lib/libnvrtc-builtins.so.*")
        (library,) = root.glob("lib/libnvrtc.so.*")
        ctypes.CDLL(str(builtins))
        self.library = ctypes.CDLL(str(library))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
        self.include = root / "include"

    def compile(self, text, options, architecture):
        """Compile, and return the PTX's and the assembler's report.

        Parameters
        ----------
        text : str
            CUDA C++ without local includes.
        options : sequence of str
            As CuPy would be given them.
        architecture : str
            Such as ``"sm_90"``.

        Returns
        -------
        dict of str to dict
            For each kernel its ``registers``, bytes of ``spills``, ``byte_stores``, the
            instructions that write a single byte to global memory, and ``halves``, those that
            name a floating point type of 16 bits.
        """
        nvrtc, program = self.library, ctypes.c_void_p()
        self._check(
            nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"k.cu", 0, None, None)
        )
        flags = [f"-arch={architecture}", f"-I{self.include}", "--ptxas-options=-v", *options]
        array = (ctypes.c_char_p * len(flags))(*map(str.encode, flags))
        code = nvrtc.nvrtcCompileProgram(program, len(flags), array)
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        ptx = "" if code else self._ptx(program)
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
        log = log.value.decode()
        if code:
            raise SyntaxError(f"NVRTC refuses the kernel:\n{log}")
        report = (
            r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
            r".*?Used (\d+) registers"
        )
        bodies = dict(re.findall(r"\.entry (\w+)\((.*?)\n}", ptx, re.S))
        return {
            name: {
                "registers": int(registers),
                "spills": int(stores) + int(loads),
                "byte_stores": len(re.findall(r"st\.global\.[ub]8", bodies[name])),
                "halves": set(re.findall(r"\w[\w.]*\.b?f16(?:x2)?\b[\w.]*", bodies[name])),
            }
            for name, stores, loads, registers in re.findall(report, log, re.S)
        }

    def _ptx(self, program):
        size = ctypes.c_size_t()
        self._check(self.library.nvrtcGetPTXSize(program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self._check(self.library.nvrtcGetPTX(program, text))
        return text.value.decode()

    def _check(self, code):
        if code:
            raise RuntimeError(self.library.nvrtcGetErrorString(code).decode())
