"""Kernels on AMX's tiles, whose instructions are functions in C here, and what they compile to."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from amx_on_cpu import Tiles, on_cpu
from kernel_checks import kernel_error
from tvm.s_tir import Schedule

from prefilltune.database import trace_to_json
from prefilltune.tuning.backends.llvm import LLVM
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.finishing import finished
from prefilltune.tuning.building.replaying import replay
from prefilltune.tuning.errors import PipelineError
from prefilltune.tuning.pipeline import PAIR
from prefilltune.tuning.spaces import SPACES, Variant
from prefilltune.workloads import (
    TOLERANCE,
    PackedShape,
    PrefillShape,
    PrefillSpec,
    SymbolicShape,
    make_inputs,
    max_error,
    reference_packed_attention,
    regimes,
)

AMX = SPACES["llvm_amx"]
SERVER = '{"kind": "llvm", "mcpu": "sapphirerapids"}'
SHAPE = PrefillShape(3, 150, 170)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Tiles:
    return Tiles(tmp_path_factory.mktemp("amx"))


def _scheduled(spec: PrefillSpec, shape: PrefillShape, variant: Variant) -> tvm.IRModule:
    description = AMX.describe(spec, shape, variant)
    (schedule,) = AMX.generator(spec, variant).generate_design_space(description)
    return finished(schedule.mod)


@pytest.mark.parametrize(
    ("mask_mode", "head_dim", "q_tile", "kv_tile"),
    [
        ("padded", 64, 64, 64),
        ("causal_padded", 128, 128, 64),
        ("causal_padded_left", 64, 32, 128),
        ("padded_w64-64", 32, 64, 32),
    ],
)
def test_kernels_are_right(
    tiles: Tiles, mask_mode: str, head_dim: int, q_tile: int, kv_tile: int
) -> None:
    spec = PrefillSpec(4, 2, head_dim, "bfloat16", mask_mode)
    module = on_cpu(_scheduled(spec, SHAPE, {"q_tile": q_tile, "kv_tile": kv_tile}))
    kernel = tvm.compile(module, target=resolve_target("llvm", 2).target)["main"]
    errors = [
        kernel_error(kernel, spec, SHAPE, lens, seed)
        for seed, lens in enumerate(regimes(SHAPE.batch, SHAPE.num_kv))
    ]
    assert max(errors) <= TOLERANCE["bfloat16"]


def test_a_kernel_for_every_shape_is_right(tiles: Tiles) -> None:
    spec, variant = (
        PrefillSpec(2, 1, 32, "bfloat16", "causal_padded"),
        {"q_tile": 32, "kv_tile": 32},
    )
    description = AMX.describe(spec, PrefillShape(1, 64), variant)
    (schedule,) = AMX.generator(spec, variant).generate_design_space(description)
    trace = trace_to_json(schedule.trace)
    replayed = replay(AMX, spec, SymbolicShape.fresh(), variant, trace)
    module = on_cpu(finished(replayed.module))
    kernel = tvm.compile(module, target=resolve_target("llvm", 2).target)["main"]
    for shape in (PrefillShape(2, 45), PrefillShape(1, 7, 90)):
        for seed, lens in enumerate(regimes(shape.batch, shape.num_kv)):
            assert kernel_error(kernel, spec, shape, lens, seed) <= TOLERANCE["bfloat16"]


def test_packed_sequences_are_right(tiles: Tiles) -> None:
    spec, variant = (
        PrefillSpec(2, 1, 32, "bfloat16", layout="packed"),
        {"q_tile": 32, "kv_tile": 32},
    )
    description = AMX.describe(spec, PackedShape.fresh(), variant)
    (schedule,) = AMX.generator(spec, variant).generate_design_space(description)
    kernel = tvm.compile(on_cpu(finished(schedule.mod)), target=resolve_target("llvm", 2).target)[
        "main"
    ]
    inputs = make_inputs(spec, PrefillShape(3, 70), np.array([70, 0, 33]), 0).arguments
    output = np.full(inputs[0].shape, np.nan, inputs[0].dtype)
    lse = np.full(output.shape[:2], np.nan, output.dtype)
    tensors = [tvm.runtime.tensor(each) for each in (*inputs, output, lse)]
    kernel(*tensors)
    total = int(inputs[3][-1])
    for found, expected in zip(
        tensors[-2:], reference_packed_attention(spec, *inputs), strict=True
    ):
        assert max_error(found.numpy()[:total], expected[:total]) <= TOLERANCE["bfloat16"]


def test_records_are_for_bfloat16_alone() -> None:
    assert AMX.takes(PrefillSpec(2, 1, 64, "bfloat16"))
    assert not AMX.takes(PrefillSpec(2, 1, 64, "float16"))
    assert not AMX.takes(PrefillSpec(2, 1, 72, "bfloat16"))


def test_without_tiles_a_kernel_says_so(tiles: Tiles) -> None:
    spec = PrefillSpec(2, 1, 32, "bfloat16")
    module = on_cpu(_scheduled(spec, PrefillShape(1, 40), {"q_tile": 32, "kv_tile": 32}))
    kernel = tvm.compile(module, target=resolve_target("llvm", 1).target)["main"]
    with tiles.refused(), pytest.raises(RuntimeError, match=r"no AMX tiles.*--space llvm_fused"):
        kernel_error(kernel, spec, PrefillShape(1, 40), [40], 0)


def test_pairs_are_of_two_rows_that_are_copied() -> None:
    spec, shape = PrefillSpec(2, 1, 32, "bfloat16"), PrefillShape(1, 64)
    sch = Schedule(AMX.describe(spec, shape, {"q_tile": 32, "kv_tile": 32}))
    sch.annotate(sch.get_loops(sch.get_sblock("k_rows"))[-1], PAIR, 1)
    with pytest.raises(PipelineError, match=r"says prefill\.pair: let it have in it"):
        finished(sch.mod)


def test_products_are_tile_instructions() -> None:
    """With loads for each two of them, and none of what the vectors would multiply."""
    spec, cpu = PrefillSpec(2, 1, 64, "bfloat16"), resolve_target(SERVER, 2)
    module = _scheduled(spec, PrefillShape(1, 512), {"q_tile": 64, "kv_tile": 64})
    code = tvm.compile(module, target=cpu.target).mod.inspect_source("asm")
    counts = {
        each: len(re.findall(rf"^\s*{each}\b", code, re.MULTILINE))
        for each in ("ldtilecfg", "tilerelease", "tdpbf16ps", "tileloadd", "tilestored")
    }
    products = counts["tdpbf16ps"]
    assert counts == {
        "ldtilecfg": 1, "tilerelease": 1, "tdpbf16ps": products, "tileloadd": products,
        "tilestored": products // 2,
    }  # fmt: skip
    assert products > 0
    assert not re.search(r"^\s*vpinsrw\b", code, re.MULTILINE)


@pytest.mark.parametrize(
    ("mcpu", "dtype", "head_dim", "offered"),
    [
        ("sapphirerapids", "bfloat16", 64, True),
        ("sapphirerapids", "bfloat16", 72, False),
        ("sapphirerapids", "float32", 64, False),
        ("znver4", "bfloat16", 64, False),
    ],
)
def test_the_space_is_for_cpus_with_amx(
    mcpu: str, dtype: str, head_dim: int, offered: bool
) -> None:
    cpu = resolve_target(f'{{"kind": "llvm", "mcpu": "{mcpu}"}}', 2)
    spec = PrefillSpec(2, 1, head_dim, dtype)
    found = LLVM.default_spaces(spec, [PrefillShape(1, 512)], cpu)
    assert ("llvm_amx" in found) is offered
