"""Compile a CUDA C++ file of `scratch_vlm/kernels` and launch its kernels, arguments checked.

CuPy passes whatever it is given: a float64 array where the kernel reads float32, a transposed view
where it expects rows, a Python int as eight bytes. Each of these runs, and computes nonsense. So
the declaration of the kernel is read from its source, and every argument is held against it.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scratch_vlm.backend.arrays import name_of, namespace

FOLDER = Path(__file__).parents[1] / "kernels"
NUMBERS = {"float32": "float", "bfloat16": "__nv_bfloat16", "float16": "__half"}
DTYPES = {
    "float": "float32",
    "__nv_bfloat16": "bfloat16",
    "__half": "float16",
    "int": "int32",
    "long long": "int64",
    "bool": "bool",
    "unsigned char": "uint8",
}
BLOCK_BYTES = 48 * 1024  # of shared memory; a kernel that wants more has to ask
MOST_BLOCKS = 2**16 - 1  # of a grid along y, and along z; along x it may have 2^31 - 1

_compilers = {}  # module of arrays -> something with the interface of cupy.RawModule


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel, as its source declares it.

    Attributes
    ----------
    name : str
        What the source calls it.
    dtype : str
        NumPy's name for its type, or for the type that it points to.
    pointer : bool
        Whether it is an array.
    written : bool
        Whether the kernel may write to the array.
    """

    name: str
    dtype: str
    pointer: bool
    written: bool


@dataclass(frozen=True)
class View:
    """An array that the kernel reads by strides, which are among the other arguments.

    Attributes
    ----------
    array : array
        Of any layout.
    """

    array: object


def source(file, folder=FOLDER):
    """Read a CUDA file and paste the local files that it includes into it.

    CuPy finds compiled kernels again by their text, and does not look into included files: with
    an include left in place, a change there would go unnoticed.

    Parameters
    ----------
    file : str
        Name of the file.
    folder : pathlib.Path, optional
        Where it is, and what it includes. Default `scratch_vlm/kernels`.

    Returns
    -------
    text : str
        With ``#line`` directives, so that a compiler names the file and line that were written.
    """
    return "\n".join(_lines(file, folder, set())) + "\n"


def _lines(file, folder, pasted):
    pasted.add(file)
    yield f'#line 1 "{file}"'
    for number, line in enumerate((folder / file).read_text(encoding="utf-8").splitlines(), 1):
        local = re.match(r'#include "([^"]+)"', line)
        if not local:
            yield line
        elif local[1] not in pasted:
            yield from _lines(local[1], folder, pasted)
            yield f'#line {number + 1} "{file}"'
        else:
            yield ""


def signatures(text, number="float", output=None):
    """Read the declarations of all kernels in a source.

    Parameters
    ----------
    text : str
        CUDA C++; a kernel is a function that starts with ``extern "C" __global__ void``.
    number : str, default "float"
        The C++ type that ``number`` stands for.
    output : str, optional
        The one that ``output`` stands for. Default that of ``number``.

    Returns
    -------
    dict of str to tuple of Parameter
        By the names of the kernels.

    Raises
    ------
    TypeError
        If a parameter has a type that no NumPy array has.

    Examples
    --------
    >>> signatures('extern "C" __global__ void twice(const float* x, int n) {}')["twice"][1]
    Parameter(name='n', dtype='int32', pointer=False, written=False)
    """
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    kernel = r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)'
    types = {"number": number, "output": output or number}
    return {
        name: tuple(_parameter(name, one, types) for one in _split(parameters))
        for name, parameters in re.findall(kernel, text)
    }


def _split(parameters):
    return [one.strip() for one in parameters.split(",") if one.strip()]


def _parameter(kernel, declaration, types):
    words = re.fullmatch(r"(const )?\s*([\w ]+?)\s*(\*)?\s*(\w+)", declaration)
    kind = words and types.get(words[2], words[2])
    if kind not in DTYPES:
        raise TypeError(f"{kernel}: cannot read the parameter {declaration!r}")
    return Parameter(words[4], DTYPES[kind], bool(words[3]), bool(words[3]) and not words[1])


def check_arguments(kernel, parameters, arguments):
    """Hold the arguments of a launch against the declaration of the kernel.

    Parameters
    ----------
    kernel : str
        Its name, for the errors.
    parameters : sequence of Parameter
        As `signatures` returns them.
    arguments : sequence
        Arrays or None for pointers, `View` for arrays with strides, Python numbers for the rest.

    Returns
    -------
    tuple
        The arguments as CuPy takes them: numbers have the dtype of their parameter.

    Raises
    ------
    TypeError
        If the number of arguments, or the type of one, is not the declared one.
    ValueError
        If an array is not C-contiguous or not writable, lives elsewhere than the others, or a
        number does not fit its type.
    """
    if len(arguments) != len(parameters):
        names = ", ".join(one.name for one in parameters)
        raise TypeError(
            f"{kernel} takes {len(parameters)} arguments ({names}), got {len(arguments)}"
        )
    kinds, checked = set(), []
    for parameter, argument in zip(parameters, arguments, strict=True):
        if not parameter.pointer:
            checked.append(_number(kernel, parameter, argument))
            continue
        strided = isinstance(argument, View)
        array = argument.array if strided else argument
        checked.append(array)
        if array is not None:
            _check_array(kernel, parameter, array, strided)
            kinds.add(type(array))
    if len(kinds) > 1:
        arrays = (array for array in checked if type(array) in kinds)
        homes = sorted({namespace(array).__name__ for array in arrays})
        if len(homes) > 1:
            raise ValueError(f"{kernel}: arrays of {' and '.join(homes)} in one launch")
    return tuple(checked)


def _check_array(kernel, parameter, array, strided):
    if not hasattr(array, "dtype") or not hasattr(array, "strides"):
        kind = type(array).__name__
        raise TypeError(f"{kernel}: {parameter.name} must be an array, got {kind}")
    if name_of(array.dtype) != parameter.dtype:
        raise TypeError(
            f"{kernel}: {parameter.name} must be {parameter.dtype}, got {name_of(array.dtype)}"
        )
    flags = array.flags
    if not strided and not flags.c_contiguous:
        raise ValueError(
            f"{kernel}: {parameter.name} must be C-contiguous, got shape {array.shape} with "
            f"strides {array.strides}"
        )
    if parameter.written and not getattr(flags, "writeable", True):
        raise ValueError(
            f"{kernel}: {parameter.name} is written to, but the array given is read-only"
        )


def _number(kernel, parameter, argument):
    if isinstance(argument, bool) or not isinstance(argument, int | float):
        kind = type(argument).__name__
        raise TypeError(f"{kernel}: {parameter.name} must be a Python number, got {kind}")
    if parameter.dtype == "float32":
        return np.float32(argument)
    if not isinstance(argument, int):
        raise TypeError(f"{kernel}: {parameter.name} must be an integer, got {argument}")
    least, most, integer = _limits(parameter.dtype)
    if not least <= argument <= most:
        raise ValueError(
            f"{kernel}: {parameter.name} is {argument}, and does not fit {parameter.dtype}"
        )
    return integer(argument)


@functools.cache
def _limits(dtype):
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max), np.dtype(dtype).type


def set_compiler(xp, compiler):
    """Say how kernels for the arrays of a module are compiled.

    Parameters
    ----------
    xp : module
        `cupy`; or `numpy`, to let an emulator run kernels on the host.
    compiler : callable or None
        With the interface of ``cupy.RawModule``. None forgets it.
    """
    if _compilers.get(xp) is compiler:
        return
    library.cache_clear()
    _compilers.pop(xp, None)
    if compiler is not None:
        _compilers[xp] = compiler


def has_compiler(xp):
    """Tell whether something compiles kernels for the arrays of a module.

    Parameters
    ----------
    xp : module
        `numpy` or `cupy`.

    Returns
    -------
    bool
        Whether `set_compiler` was told.
    """
    return xp in _compilers


def can_launch(x):
    """Tell whether kernels can read an array.

    Parameters
    ----------
    x : array
        Of NumPy or CuPy.

    Returns
    -------
    bool
        True if a compiler is set for the module that owns it, and its numbers are float32,
        bfloat16 or float16.
    """
    return has_compiler(namespace(x)) and name_of(x.dtype) in NUMBERS


def one_number(value, xp):
    """Put a number where kernels can read it.

    Parameters
    ----------
    value : float or array of shape ()
        A number of the host is written by a kernel, not copied: a copy could not be captured in a
        graph.
    xp : module
        `numpy` or `cupy`.

    Returns
    -------
    array of shape ()
        Of float32.
    """
    if isinstance(value, int | float | np.generic):
        return xp.full((), float(value), "float32")
    return value.astype("float32", copy=False)


def address(x):
    """Say where an array starts.

    Parameters
    ----------
    x : array
        Of NumPy or CuPy.

    Returns
    -------
    int
        The address of its first number.
    """
    return x.ctypes.data if namespace(x) is np else x.data.ptr


@functools.cache
def library(xp, file, number, output, constants):
    """Compile a CUDA file, once in a process for each choice of types and constants.

    CuPy keeps what it compiled on disk, too, so that the next process only loads it.

    Parameters
    ----------
    xp : module
        Where the arrays live.
    file : str
        Name of the file.
    number, output : str
        NumPy's names of the types that ``number`` and ``output`` stand for.
    constants : tuple of (str, int)
        Names in capitals that the source leaves open.

    Returns
    -------
    module : object
        With the interface of ``cupy.RawModule``.
    parameters : dict of str to tuple of Parameter
        See `signatures`.
    """
    text = source(file)
    kinds = NUMBERS[number], NUMBERS[output]
    options = ["--std=c++17", f"-DNUMBER={kinds[0]}"]
    if output != number:
        options.append(f"-DOUTPUT={kinds[1]}")
    options += [f"-D{name}={value}" for name, value in constants]
    return _compilers[xp](code=text, options=tuple(options)), signatures(text, *kinds)


def launch(file, kernel, grid, block, *arguments, number, output=None, shared=0, **constants):
    """Run a kernel once for every block of a grid.

    Parameters
    ----------
    file, kernel : str
        The CUDA file and the kernel in it.
    grid : int or tuple of int
        Blocks along x, y and z.
    block : int
        Threads of a block.
    *arguments
        As `check_arguments` takes them.
    number : dtype
        What ``number`` stands for in the source: float32, bfloat16 or float16.
    output : dtype, optional
        What ``output`` stands for, where a kernel writes in another type. Default `number`.
    shared : int, default 0
        Bytes of shared memory of a block, beyond what the source declares by size.
    **constants : int
        What names in capitals stand for in the source; each value is compiled once.

    Raises
    ------
    TypeError, ValueError
        See `check_arguments`.
    """
    grid = (grid,) if isinstance(grid, int) else tuple(grid)
    if 0 in grid:
        return  # nothing to do, and CUDA refuses an empty grid
    arrays = (one.array if isinstance(one, View) else one for one in arguments)
    xp = next(namespace(one) for one in arrays if hasattr(one, "dtype"))
    types = name_of(number), name_of(number if output is None else output)
    module, parameters = library(xp, file, *types, tuple(constants.items()))
    checked = check_arguments(kernel, parameters[kernel], arguments)
    function = module.get_function(kernel)
    if shared > BLOCK_BYTES:
        function.max_dynamic_shared_size_bytes = shared
    function(grid, (block,), checked, shared_mem=shared)
