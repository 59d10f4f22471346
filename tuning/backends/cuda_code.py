"""From the CUDA source that TVM generates to machine code in its place within a library."""

from __future__ import annotations

import os
import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from .nvrtc import Cubin

_FORCE_SOURCE = "TVM_COMPILE_FORCE_FALLBACK"
_environment_lock = threading.Lock()

_KERNEL = re.compile(r'^(extern "C" __global__ [^;{]*\{\n)(.*?^\}\n)', re.MULTILINE | re.DOTALL)
# Hides CUDA's variable of the same name.
_THREAD = """\
  const struct { int x, y, z; } threadIdx = {(int)::threadIdx.x, (int)::threadIdx.y,
                                             __shfl_sync(0xffffffffu, (int)::threadIdx.z, 0)};
"""


@contextmanager
def stays_source() -> Iterator[None]:
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


def device_source(host: Any) -> str:
    """The CUDA source of a module built for a GPU, as NVRTC is given it."""
    return _warps_known(_generated(host))


def packed_as_machine_code(cubin: Cubin) -> Callable[..., str]:
    """A ``fpack_imports`` for ``export_library`` that puts a cubin where the source would stand."""
    return partial(_pack_cubin, cubin)


def _generated(host: Any) -> str:
    """The CUDA source that a module carries."""
    (device,) = host.imports
    return device.inspect_source("cuda")


def _warps_known(source: str) -> str:
    """The source, with kernels that ask for a warp's number told that ``threadIdx.z`` is one.

    What is computed of it is then computed once for a warp, and not for each of its lanes.
    """

    def told(kernel: re.Match[str]) -> str:
        head, body = kernel.groups()
        return head + _THREAD + body if "prefill_warp_number()" in body else kernel[0]

    return _KERNEL.sub(told, source)


def _pack_cubin(cubin: Cubin, host: Any, is_system_lib: bool, prefix: str, folder: str) -> str:
    """Write the object that a library loads its device code from, with the cubin for the source.

    Returns
    -------
    str
        Path of the object.
    """
    import tvm_ffi

    packed = tvm_ffi.get_global_func("runtime.ModulePackImportsToTensor")(host).numpy().tobytes()
    blob = _with_cubin(packed, _generated(host).encode(), cubin.image)
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
