"""TVM's runtime library, without the compiler that ``import tvm`` brings."""

from __future__ import annotations

import ctypes
import importlib.util
import shlex
import sys
from pathlib import Path

import tvm_ffi

from .errors import RuntimeNotFoundError

# A function that tells, where it is registered, that a library is loaded; and the library's file.
_RUNTIME = {"device_api.cpu": "libtvm_runtime.so"}
_NEEDED = {"llvm": _RUNTIME, "cuda": {**_RUNTIME, "device_api.cuda": "libtvm_runtime_cuda.so"}}


def load_runtime(kind: str) -> None:
    """Load what kernels of a target kind call, unless it is loaded.

    Raises
    ------
    RuntimeNotFoundError
        If it cannot be loaded.
    """
    for registered, name in _NEEDED[kind].items():
        if tvm_ffi.get_global_func(registered, allow_missing=True) is None:
            _load(name)


def llvm_features() -> frozenset[str]:
    """Features of this CPU that LLVM finds, by its names; none where TVM's compiler is missing.

    Imports all of TVM: what its functions return without that would keep it from being imported
    later.
    """
    try:
        import tvm  # noqa: F401
    except (ImportError, OSError):
        return frozenset()
    found = tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return frozenset(str(name) for name, present in found.items() if int(present))


def _load(name: str) -> None:
    package = importlib.util.find_spec("tvm")
    if package is None or package.origin is None:
        raise RuntimeNotFoundError(
            f"{name} comes with TVM, which is not installed; run: {shlex.quote(sys.executable)} -m "
            "pip install 'apache-tvm==0.27.*'"
        )
    path = Path(package.origin).parent / "lib" / name
    try:
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise RuntimeNotFoundError(
            f"TVM's runtime cannot be loaded ({error}); install what it names: for a GPU the "
            "driver, and the CUDA runtime that TVM was built with"
        ) from None
