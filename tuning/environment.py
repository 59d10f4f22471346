"""What the machine and the installed packages must offer, checked before any work."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import sys

from .errors import EnvironmentMismatchError

_COMPILERS = ("g++", "clang++", "c++")


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


def check_compiler() -> None:
    """Refuse a machine without a C++ compiler, which links every kernel.

    Raises
    ------
    EnvironmentMismatchError
        If none is on the PATH, or what CXX or CC names is none.
    """
    for name in ("CXX", "CC"):  # as TVM chooses
        if chosen := os.environ.get(name):
            if shutil.which(chosen) is None:
                raise EnvironmentMismatchError(
                    f"{name} is {chosen!r}, which is no program, and kernels are linked with it; "
                    "correct it, or unset it to have g++ or clang++ found"
                )
            return
    if not any(shutil.which(name) for name in _COMPILERS):
        raise EnvironmentMismatchError(
            f"no C++ compiler found (looked for {', '.join(_COMPILERS)} on the PATH), and kernels "
            "are linked with one; install it, for example: apt-get install g++"
        )


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
