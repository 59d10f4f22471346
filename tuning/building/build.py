"""From a scheduled module to a library on disk."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import EnvironmentMismatchError
from ..pipeline import pipeline
from .nvrtc import Cubin, compile_cubin

#: Of TVM's PassContext for every kernel, by target kind.
PASS_CONFIG: dict[str, dict[str, Any]] = {
    "llvm": {},
    "cuda": {
        # The compiler unrolls from a pragma: explicit copies make its input three times as long.
        "tirx.UnrollLoop": {"explicit_unroll": False},
    },
}

_FORCE_SOURCE = "TVM_COMPILE_FORCE_FALLBACK"
_environment_lock = threading.Lock()


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
        If NVRTC refuses the generated source.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    host = _generate(module, target)
    pack = {}
    if target.kind.name == "cuda":
        source = device_source(host)
        cubin = compile_cubin(source, str(target.attrs["arch"]))
        pack = {"fpack_imports": partial(_pack_cubin, source, cubin)}
    try:
        host.export_library(path, addons=list(addons), **pack)
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        raise EnvironmentMismatchError(
            f"linking {path} failed ({str(error).strip().splitlines()[-1]}); a working C++ "
            "compiler is needed, for example: apt-get install g++"
        ) from error
    return path


def compile_device(module: Any, target: Any) -> tuple[str, Cubin]:
    """The CUDA source of a scheduled module and what NVRTC makes of it."""
    source = device_source(_generate(module, target))
    return source, compile_cubin(source, str(target.attrs["arch"]))


def device_source(host: Any) -> str:
    """The CUDA source that a module built for a GPU carries."""
    (device,) = host.imports
    return device.inspect_source("cuda")


def _generate(module: Any, target: Any) -> Any:
    """TVM's code generation: a host module, which imports the source of the device's kernels."""
    from tvm.driver import build
    from tvm.ir.transform import PassContext
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    from ..intrinsics import fragment_layout

    module = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(pipeline(module))
    config = PassContext(config=PASS_CONFIG[target.kind.name])
    with config, fragment_layout(), _device_code_stays_source():
        return build(module, target=target)


@contextmanager
def _device_code_stays_source() -> Iterator[None]:
    """Keep TVM from compiling device code itself, which it does with a toolkit and a GPU alone."""
    with _environment_lock:
        before = os.environ.get(_FORCE_SOURCE)
        os.environ[_FORCE_SOURCE] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_FORCE_SOURCE]
            else:
                os.environ[_FORCE_SOURCE] = before


def _pack_cubin(
    source: str, cubin: Cubin, host: Any, is_system_lib: bool, prefix: str, folder: str
) -> str:
    """Write the object that a library loads its device code from, with the cubin for the source.

    Returns
    -------
    str
        Path of the object.
    """
    import tvm_ffi

    packed = tvm_ffi.get_global_func("runtime.ModulePackImportsToTensor")(host).numpy().tobytes()
    blob = _with_cubin(packed, source.encode(), cubin.image)
    target = host.get_function("_get_target_string")()
    make_object = tvm_ffi.get_global_func("codegen.codegen_blob")
    path = Path(folder) / f"{prefix}devc.o"
    make_object(blob, is_system_lib, target, prefix).write_to_file(str(path))
    return str(path)


def _with_cubin(packed: bytes, source: bytes, image: bytes) -> bytes:
    """Put machine code in the place of the source in TVM's serialized imports.

    These are a length and the import tree, then for each module its kind and its content; CUDA's
    content is a format, the kernels' signatures and the code (``CUDAModuleNode::SaveToBytes``).
    """
    kind = _string(b"cuda")
    before, _, rest = packed[8:].partition(kind)
    (size,) = struct.unpack_from("<Q", rest)
    content, after = rest[8 : 8 + size], rest[8 + size :]
    signatures = content.removeprefix(kind).removesuffix(_string(source))
    new = _string(b"cubin") + signatures + _string(image)
    blob = before + kind + _string(new) + after
    return struct.pack("<Q", len(blob)) + blob


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text
