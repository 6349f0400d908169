"""What numbers are measured on, and of which code."""

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from scratch_vlm.backend import cupy_problem, load
from scratch_vlm.backend.blocks import cores as blas_threads

LIBRARIES = ("numpy", "scipy", "cupy-cuda13x", "cupy-cuda12x", "torch")
SOURCE = Path(__file__).parents[1]
ALIKE = ("platform", "cores", "cores_of_steps", "blas_threads", "device", "versions")


def describe_machine(cores):
    """Describe what numbers are measured on.

    Parameters
    ----------
    cores : int
        That training steps may use.

    Returns
    -------
    dict
    """
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "cores_of_steps": cores,
        "blas_threads": blas_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "device": _device(),
        "versions": versions,
    }


def unlike(machine, other):
    """List in what two machines differ, so that their times cannot stand side by side.

    Parameters
    ----------
    machine, other : dict
        Of `describe_machine`.

    Returns
    -------
    str
        Empty if they do not.
    """
    return "; ".join(
        f"{name} {other.get(name)} there, {machine.get(name)} here"
        for name in ALIKE
        if machine.get(name) != other.get(name)
    )


def _device():
    if cupy_problem():
        return None
    cuda = load("cupy").cuda
    about = cuda.runtime.getDeviceProperties(cuda.Device().id)
    return {
        "name": about["name"].decode(),
        "bytes": about["totalGlobalMem"],
        "driver": cuda.runtime.driverGetVersion(),
        "cuda": cuda.runtime.runtimeGetVersion(),
    }


def code_version():
    """Name the code that runs, so that numbers of two versions are not taken for one.

    Returns
    -------
    str
        The commit, with ``+`` where files were changed after it; without Git a digest of the
        library's files.
    """
    try:
        _git("ls-files", "--error-unmatch", "tree.py")  # or it is somebody else's repository
        commit = _git("rev-parse", "--short=10", "HEAD")
        return commit + "+" * bool(_git("status", "--porcelain", "--", str(SOURCE)))
    except (OSError, subprocess.CalledProcessError):
        digest = hashlib.sha256()
        for path in sorted(SOURCE.rglob("*")):
            if path.suffix in (".py", ".cu", ".cuh"):
                digest.update(path.relative_to(SOURCE).as_posix().encode() + path.read_bytes())
        return f"files {digest.hexdigest()[:10]}"


def _git(*arguments):
    command = ["git", "-C", str(SOURCE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
