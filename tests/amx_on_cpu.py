"""Kernels for AMX on a CPU without: tile instructions become calls of functions in C."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.target import codegen

SOURCE = Path(__file__).with_suffix(".c")
_OURS = "prefill_test_"


class Tiles:
    """The functions, in this process.

    Parameters
    ----------
    folder : Path
        Takes their library.
    """

    def __init__(self, folder: Path) -> None:
        library = folder / "amx_on_cpu.so"
        command = ["cc", "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(library)]
        subprocess.run(command, check=True)
        self._library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)

    @contextmanager
    def refused(self) -> Iterator[None]:
        """Have the system refuse tiles."""
        self._library.prefill_test_refuse(1)
        try:
            yield
        finally:
            self._library.prefill_test_refuse(0)


def on_cpu(module: Any) -> Any:
    """A module whose tile instructions, and the system call before them, are those functions."""

    def changed(call: Call) -> Any:
        name = getattr(call.op, "name", "")
        if name in ("tirx.call_llvm_intrin", "tirx.call_llvm_pure_intrin"):
            called = codegen.llvm_get_intrinsic_name(int(call.args[0]))
            arguments = call.args[1:]
        elif name in ("tirx.call_extern", "tirx.call_pure_extern"):
            called, arguments = call.args[0].value, call.args[1:]
        else:
            return call
        last = called.rsplit(".", 1)[-1]
        if not (called.startswith("llvm.x86.t") or last in ("ldtilecfg", "syscall")):
            return call
        result = "int64" if last == "syscall" else "int32"
        return tirx.call_extern(result, f"{_OURS}{last}", *arguments)

    functions = {
        name: function.with_body(tvm_ffi.structural_map(function.body, (Call, changed)))
        for name, function in module.functions.items()
    }
    return tvm.IRModule(functions, attrs=module.attrs)
