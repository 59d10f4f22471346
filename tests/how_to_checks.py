"""Run by test_how_to with packages to which a design space and a kind of target were added."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tvm
from kernel_checks import kernel_error
from tvm.s_tir import Schedule

from prefilltune.tuning.backends import BACKENDS
from prefilltune.tuning.backends.c import CODE  # pyright: ignore[reportMissingImports]
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.spaces import c_tiles, llvm_simple
from prefilltune.workloads import TOLERANCE, PrefillShape, PrefillSpec

SHAPE, LENS = PrefillShape(2, 40), np.array([40, 13])


def check(kind: str, module, space, spec: PrefillSpec, folder: Path) -> None:
    target = resolve_target(kind)
    sch = Schedule(space.describe(spec, SHAPE, space.variants(spec, SHAPE, target)[0]), seed=1)
    module.schedule(sch)
    path = build_library(sch.mod, target.target, str(folder / f"{kind}.so"))
    kernel = tvm.runtime.load_module(path)["main"]
    assert kernel_error(kernel, spec, SHAPE, LENS, 0) <= TOLERANCE["float32"]


if __name__ == "__main__":
    scratch = Path(sys.argv[1])
    simple = PrefillSpec(2, 1, 16, "float32")
    check("llvm", llvm_simple, llvm_simple.LlvmSimple(), simple, scratch)
    BACKENDS[CODE.kind] = CODE
    untouched = PrefillSpec(2, 1, 16, "float32", padding_output="untouched")
    check("c", c_tiles, c_tiles.CTiles(), untouched, scratch)
