"""float16 on CPUs that have no instruction for it: integers convert as IEEE 754 does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm.script import tirx as T

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library, generate
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import PrefillShape, PrefillSpec

COUNT = 1 << 16
OLD, NEW = (f'{{"kind": "llvm", "mcpu": "x86-64-{level}"}}' for level in ("v2", "v3"))
CALL = re.compile(r"\b(?:call|jmp)q?\s.*(?:__extendhfsf2|__truncsfhf2)")


def converting(given: str, found: str) -> tvm.IRModule:
    """Elements of one dtype as another, eight at a time."""

    @T.prim_func
    def main(source: T.Buffer((COUNT,), given), target: T.Buffer((COUNT,), found)):  # pyright: ignore
        T.func_attr({"global_symbol": "main", "tirx.is_scheduled": True})
        for block in range(COUNT // 8):
            for lane in T.vectorized(8):
                target[block * 8 + lane] = T.Cast(found, source[block * 8 + lane])

    return tvm.IRModule({"main": main})


@pytest.fixture(scope="module")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Callable[[np.ndarray, str], np.ndarray]:
    """What a kernel for an old CPU makes of an array."""
    folder: Path = tmp_path_factory.mktemp("half")

    def converted(given: np.ndarray, dtype: str) -> np.ndarray:
        module, path = converting(str(given.dtype), dtype), folder / f"to-{dtype}.so"
        build_library(module, resolve_target(OLD).target, str(path))
        source, found = tvm.runtime.tensor(given), tvm.runtime.empty((COUNT,), dtype)
        tvm.runtime.load_module(str(path))["main"](source, found)
        return found.numpy()

    return converted


def test_every_half_float_is_widened_exactly(convert: Any) -> None:
    given = np.arange(COUNT, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(convert(given, "float32"), given.astype(np.float32))


def test_the_nearest_half_float_is_found(convert: Any) -> None:
    """Between any two neighbours, at the middle and beside it, and of any bits."""
    order = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (order[:-1] + order[1:]) / 2
    edges = [65504.0, 65519.996, 65520.0, 65536.0, 3e38, np.inf, -np.inf, np.nan, -0.0, 1e-45]
    bits = np.random.default_rng(0).integers(0, 1 << 32, COUNT, dtype=np.uint32).view(np.float32)
    near = [middle, np.nextafter(middle, np.inf), -np.nextafter(middle, -np.inf), order]
    with np.errstate(invalid="ignore"):
        given = np.concatenate([*near, edges, bits], dtype=np.float32, casting="unsafe")
    given.resize(-(-len(given) // COUNT) * COUNT)
    for part in given.reshape(-1, COUNT):
        with np.errstate(over="ignore"):
            expected = part.astype(np.float16)
        found = convert(part, "float16")
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


def test_kernels_for_old_cpus_call_no_function_to_convert() -> None:
    spec, shape = PrefillSpec(2, 1, 32, "float16"), PrefillShape(2, 64)
    space = SPACES["llvm_fused"]
    for level in (OLD, NEW):
        target = resolve_target(level).target
        variant = space.variants(spec, shape, resolve_target(level))[0]
        (schedule,) = space.generator(spec, variant).generate_design_space(
            space.describe(spec, shape, variant)
        )
        assembly = generate(schedule.mod, target).inspect_source("asm")
        assert not CALL.search(assembly)
        assert ("vcvtph2ps" in assembly) == (level == NEW)
