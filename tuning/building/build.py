"""From a scheduled module to a library on disk."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...database.scratch import ScratchFolder
from ...database.writing import (
    OTHER_TMPDIR,
    make_folder,
    replacing,
    require_room,
    require_writable,
    writing,
)
from ..backends import backend_of
from ..backends.backend import Backend
from ..environment import check_compiler, cross_compiler, install_cross
from ..errors import LinkError
from .finishing import finished

# Of what a compiler says, the line that says why it failed.
_TELLING = ("error:", "cannot", "failed", "No such", "not found", "No space")
#: Of the compiler that links a library, for sources that are linked into it.
_ADDON_OPTIONS = ["-O2", "-pthread"]


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
        The shared library to write: whole, or not at all.
    addons : Sequence[str]
        Sources or objects to link too.

    Returns
    -------
    str
        ``path``.

    Raises
    ------
    NotWritableError
        If it cannot be written, or there is no room for temporary files.
    EnvironmentMismatchError
        If a compiler is missing.
    KernelCompileError
        If the target's compiler refuses the generated source.
    LinkError
        If the C++ compiler does.
    """
    folder = Path(path).parent
    make_folder(folder)
    host = generate(module, target)
    backend = backend_of(target.kind.name)
    packing = backend.packing(host, target)
    processor = backend.processor(target)
    linked = Path(path).suffix == ".so"  # an archive holds what a linker would take
    if linked and (linker := cross_compiler(processor)):
        packing["cc"] = linker
    if addons:
        packing["options"] = _ADDON_OPTIONS
    with writing(Path(path)), ScratchFolder() as scratch:
        require_room(scratch, or_else=OTHER_TMPDIR)  # on a full disk LLVM ends the process
        with replacing(Path(path)) as aside, _temporary_files_in(scratch):
            try:
                host.export_library(
                    str(aside), addons=list(addons), workspace_dir=str(scratch), **packing
                )
            except (RuntimeError, ValueError, OSError, TypeError) as error:
                # A compiler that cannot write, or is none, says so in words of its own, if at all.
                require_writable(scratch, or_else=OTHER_TMPDIR)
                require_writable(folder)
                check_compiler(processor)
                raise LinkError(_not_linked(path, processor, error)) from error
    return path


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Have compilers put theirs there: one that is killed removes none."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before


def _not_linked(path: str, processor: str, error: Exception) -> str:
    said = [
        line.strip()
        for line in str(error).splitlines()
        if line.strip() and not line.startswith(("Compilation error:", "Command line:"))
    ]
    telling = [line for line in said if any(each in line for each in _TELLING)]
    why = (telling or said or ["the compiler does not say why"])[0]
    if processor != platform.machine():
        return (
            f"linking {path} failed: {why}; the library is for {processor}, of which a C++ "
            f"compiler is needed: name it in CXX, such as CXX={processor}-linux-gnu-g++, or "
            f"{install_cross(processor)}"
        )
    return (
        f"linking {path} failed: {why}; a working C++ compiler is needed: reinstall g++, or name "
        "another one in CXX"
    )


def generate(module: Any, target: Any) -> Any:
    """TVM's code generation: a host module, which imports the source of the device's kernels."""
    from tvm.driver import build
    from tvm.ir.transform import PassContext
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    backend = backend_of(target.kind.name)
    module = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(finished(module))
    module = _legalized(module, backend, target)
    config = dict(backend.pass_config)
    module, disabled = backend.lowered_alike(module, target)
    with PassContext(config=config, disabled_pass=disabled), backend.generating():
        return build(module, target=target)


def _legalized(module: Any, backend: Backend, target: Any) -> Any:
    import tvm
    from tvm.tirx import PrimFunc

    functions = {
        name: backend.legalized(each, target) if isinstance(each, PrimFunc) else each
        for name, each in module.functions.items()
    }
    return tvm.IRModule(functions, attrs=module.attrs)
