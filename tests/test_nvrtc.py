"""Compiling for GPUs on any machine: what a library carries, and how NVRTC's refusals read."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from gpu_kernels import row_kernel
from machine_code import compile_device

from prefilltune.tuning.backends import nvrtc
from prefilltune.tuning.backends.cuda_code import _string, _with_cubin
from prefilltune.tuning.backends.nvrtc import compile_cubin
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.errors import EnvironmentMismatchError, KernelCompileError

pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")

_EM_CUDA = 190


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_a_library_carries_machine_code_and_no_source(arch: str, tmp_path: Path) -> None:
    target = resolve_target("cuda", arch=arch).target
    source, cubin = compile_device(row_kernel(), target)
    assert "__global__" in source
    assert "0 bytes spill stores" in cubin.log
    assert cubin.image[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", cubin.image, 18) == (_EM_CUDA,)
    path = build_library(row_kernel(), target, str(tmp_path / "kernel.so"))
    library = Path(path).read_bytes()
    assert _string(b"cubin") in library
    assert _string(cubin.image) in library
    assert b"__global__" not in library


def test_other_modules_of_a_library_stay_as_they_are() -> None:
    source, content = (
        b"__global__ ...",
        _string(b"cuda") + b"signatures" + _string(b"__global__ ..."),
    )
    tree = b"import tree"
    packed = tree + _string(b"_lib") + _string(b"cuda") + _string(content) + b"rest"
    blob = _with_cubin(struct.pack("<Q", len(packed)) + packed, source, b"ELF")
    new = _string(b"cubin") + b"signatures" + _string(b"ELF")
    expected = tree + _string(b"_lib") + _string(b"cuda") + _string(new) + b"rest"
    assert blob == struct.pack("<Q", len(expected)) + expected


def test_a_source_that_does_not_compile() -> None:
    with pytest.raises(KernelCompileError, match="undefined_name"):
        compile_cubin('extern "C" __global__ void f(int* a) { *a = undefined_name; }', "sm_90a")


def test_an_architecture_that_nvrtc_does_not_know() -> None:
    words = r"cannot compile for sm_11, .* need CUDA 12's"
    with pytest.raises(EnvironmentMismatchError, match=words):
        compile_cubin('extern "C" __global__ void f() {}', "sm_11")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    nvrtc._nvrtc.cache_clear()
    with pytest.raises(EnvironmentMismatchError, match=r"pip install 'prefilltune\[cuda\]'"):
        nvrtc.check_nvrtc()


def test_without_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvrtc, "_candidate_folders", lambda: [tmp_path])
    nvrtc._include_folders.cache_clear()
    with pytest.raises(EnvironmentMismatchError, match=r"pip install 'prefilltune\[cuda\]'"):
        nvrtc.check_nvrtc()
    nvrtc._include_folders.cache_clear()
