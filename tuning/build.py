"""From a scheduled module to a library on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import EnvironmentMismatchError


def build_library(module: Any, target: Any, path: str) -> str:
    """Compile and link a module.

    ``meta_schedule``'s own builder imports every tensor intrinsic of TVM first, which takes longer
    than most builds and which no space here needs.

    Parameters
    ----------
    module : tvm.IRModule
        Scheduled PrimFuncs.
    target : tvm.target.Target
        What to compile for.
    path : str
        The shared library to write.

    Returns
    -------
    str
        ``path``.
    """
    from tvm.driver import build
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    module = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module)
    executable = build(module, target=target)
    try:
        executable.export_library(path)
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        raise EnvironmentMismatchError(
            f"linking {path} failed ({str(error).strip().splitlines()[-1]}); a working C++ "
            "compiler is needed, for example: apt-get install g++"
        ) from error
    return path
