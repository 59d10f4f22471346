"""What the machine and the installed packages must offer, checked before any work."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import sys

from .errors import EnvironmentMismatchError

_COMPILERS = ("g++", "clang++", "c++")
#: What names another compiler, in the order in which TVM asks.
_VARIABLES = ("CXX", "CC")


def check_packages() -> None:
    """Refuse package versions that are known to corrupt a search.

    Raises
    ------
    EnvironmentMismatchError
        If ``apache-tvm`` is not 0.27, or ``apache-tvm-ffi`` is 0.1.15 or newer (MetaSchedule then
        ends in a segmentation fault).
    """
    tvm, ffi = (importlib.metadata.version(name) for name in ("apache-tvm", "apache-tvm-ffi"))
    if _release(tvm)[:2] != (0, 27):
        raise EnvironmentMismatchError(
            f"apache-tvm {tvm} is installed, but prefilltune's records and schedules need 0.27; "
            f"{pip_install('apache-tvm==0.27.*')}"
        )
    if not (0, 1, 14) <= _release(ffi)[:3] < (0, 1, 15):
        raise EnvironmentMismatchError(
            f"apache-tvm-ffi {ffi} is installed, with which TVM 0.27's MetaSchedule crashes; "
            f"{pip_install('apache-tvm-ffi>=0.1.14.post0,<0.1.15')}"
        )


def check_compiler(processor: str = "") -> None:
    """Refuse a machine without a C++ compiler, which links every kernel.

    Parameters
    ----------
    processor : str
        That kernels are linked for, as Linux calls it; the machine's own when empty.

    Raises
    ------
    EnvironmentMismatchError
        If none is on the PATH, or what CXX or CC names is none.
    """
    for name in _VARIABLES:
        if chosen := os.environ.get(name):
            if shutil.which(chosen) is None:
                raise EnvironmentMismatchError(
                    f"{name} is {chosen!r}, which is no program, and kernels are linked with it; "
                    "correct it, or unset it to have g++ or clang++ found"
                )
            return
    if cross := cross_compiler(processor):
        if shutil.which(cross) is None:
            raise EnvironmentMismatchError(
                f"no C++ compiler for {processor} found (looked for {cross} on the PATH), and the "
                f"target's kernels are linked with one; {install_cross(processor)}, or name "
                "another one in CXX"
            )
    elif not any(shutil.which(name) for name in _COMPILERS):
        raise EnvironmentMismatchError(
            f"no C++ compiler found (looked for {', '.join(_COMPILERS)} on the PATH), and kernels "
            "are linked with one; install it, for example: apt-get install g++"
        )


def cross_compiler(processor: str) -> str:
    """The program that links for another processor, as GNU names it.

    Returns
    -------
    str
        Empty for the machine's own processor, and where CXX or CC names a compiler.

    Examples
    --------
    >>> cross_compiler("riscv64")
    'riscv64-linux-gnu-g++'
    """
    if processor in ("", platform.machine()) or any(map(os.environ.get, _VARIABLES)):
        return ""
    return f"{processor}-linux-gnu-g++"


def install_cross(processor: str) -> str:
    """What a message says of how to get the compiler for another processor.

    >>> install_cross("x86_64")
    'install it, for example: apt-get install g++-x86-64-linux-gnu'
    """
    package = f"g++-{processor.replace('_', '-')}-linux-gnu"
    return f"install it, for example: apt-get install {package}"


def pip_install(package: str) -> str:
    """What a message ends in: how to install a package for the Python that runs.

    An extra of prefilltune's is one, such as ``prefilltune[cuda]``: what is installed of it already
    is left as it is.
    """
    return f"run: {shlex.quote(sys.executable)} -m pip install '{package}'"


def _release(version: str) -> tuple[int, ...]:
    """Leading numbers of a version.

    >>> _release('0.1.14.post1')
    (0, 1, 14)
    """
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
