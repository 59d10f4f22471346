"""A library for a processor that this machine has not."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi
from command_line import said
from dispatch_fixtures import SHORT, SPEC, database, record

from benchmarks.emulated_records import CALLER, emulated
from prefilltune.tuning.measuring.checking import expect, poisoned_results
from prefilltune.workloads import TOLERANCE, PrefillShape, make_inputs

HEADS = ("--heads", "2/1x16")
OTHER = "x86_64" if platform.machine() == "aarch64" else "aarch64"
TARGET = json.dumps({"kind": "llvm", "mtriple": f"{OTHER}-linux-gnu"})


def test_without_its_compiler_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = database(tmp_path / "records", record(SPEC, SHORT))
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    output = tmp_path / "dist"
    done = said("build", *HEADS, "--target", TARGET, "--database", root, "--output", output)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert f"looked for {OTHER}-linux-gnu-g++ on the PATH" in done.err
    assert f"apt-get install g++-{OTHER.replace('_', '-')}-linux-gnu" in done.err
    assert not output.exists()


def test_it_computes_under_emulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, emulator = f"{OTHER}-linux-gnu-g++", f"qemu-{OTHER}"
    for program in (compiler, emulator):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    root = database(tmp_path / "records", record(SPEC, SHORT))
    done = said("build", *HEADS, "--target", TARGET, "--database", root, "--output", tmp_path)
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["requires"]["processor"] == OTHER
    _, kernel = manifest["kernels"]
    program = tmp_path / "program"
    includes = (tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path())
    options = [
        *(f"-I{each}" for each in includes),
        f"-D__tvm_ffi_main=__tvm_ffi_{kernel['symbol']}",
    ]
    linked = [f"-L{tmp_path}", "-lprefill", "-rdynamic", f"-Wl,-rpath,{tmp_path}"]
    compiler = compiler.replace("g++", "gcc")
    subprocess.run(
        [compiler, "-O1", *options, str(CALLER), *linked, "-o", str(program)], check=True
    )
    monkeypatch.setenv("QEMU_LD_PREFIX", f"/usr/{OTHER}-linux-gnu")
    shape = PrefillShape(4, 70)
    inputs = make_inputs(SPEC, shape, np.array([70, 33, 0, 1], np.int32), seed=0)
    *_, output, lse = emulated(
        program, emulator, [*inputs.arguments, *poisoned_results(SPEC, shape)]
    )
    assert expect(SPEC, shape, inputs).error(output, lse) <= TOLERANCE[SPEC.dtype]
