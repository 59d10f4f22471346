"""From a scheduled module to a library on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..backends import backend_of
from ..errors import EnvironmentMismatchError
from .finishing import finished


def build_library(module: Any, target: Any, path: str, addons: Sequence[str] = ()) -> str:
    """Compile and link a module.

    ``meta_schedule``'s own builder imports every tensor intrinsic of TVM first, which takes longer
    than most builds and which no space here needs. A library for a GPU holds machine code for its
    architecture, also when it is made on a machine without one.

    Parameters
    ----------
    module : tvm.IRModule
        Scheduled PrimFuncs.
    target : tvm.target.Target
        What to compile for.
    path : str
        The shared library to write.
    addons : Sequence[str]
        Sources or objects to link too.

    Returns
    -------
    str
        ``path``.

    Raises
    ------
    EnvironmentMismatchError
        If a compiler is missing.
    KernelCompileError
        If the target's compiler refuses the generated source.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    host = generate(module, target)
    packing = backend_of(target.kind.name).packing(host, target)
    try:
        host.export_library(path, addons=list(addons), **packing)
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        raise EnvironmentMismatchError(
            f"linking {path} failed ({str(error).strip().splitlines()[-1]}); a working C++ "
            "compiler is needed, for example: apt-get install g++"
        ) from error
    return path


def generate(module: Any, target: Any) -> Any:
    """TVM's code generation: a host module, which imports the source of the device's kernels."""
    from tvm.driver import build
    from tvm.ir.transform import PassContext
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    backend = backend_of(target.kind.name)
    module = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(finished(module))
    with PassContext(config=dict(backend.pass_config)), backend.generating():
        return build(module, target=target)
