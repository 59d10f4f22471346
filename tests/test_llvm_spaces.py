"""Scheduled CPU kernels: any decision of any variant computes what the reference does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import tvm
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import kernel_error
from tvm.ir import TensorLoad
from tvm.s_tir import Schedule, transform

from prefilltune.tuning.backends.llvm import LLVM
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.finishing import finished
from prefilltune.tuning.derivation import online_attention
from prefilltune.tuning.search.strategies.context import tune_context
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.spaces.llvm_fused import Packed, Vectors, schedule
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import (
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    Tiles,
    regimes,
)

FUSED = SPACES["llvm_fused"]
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def target() -> ResolvedTarget:
    return resolve_target("llvm", 2)


def _worst_error(module, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget) -> float:
    kernel = tvm.compile(finished(module), target=target.target)["main"]
    length = max(shape.qo_len, shape.num_kv)
    return max(
        kernel_error(kernel, spec, shape, lens, seed)
        for seed, lens in enumerate(regimes(shape.batch, length))
    )


@settings(max_examples=settings().max_examples // 4)
@given(data=st.data())
def test_random_decisions_on_random_workloads(data: st.DataObject, target: ResolvedTarget) -> None:
    group = data.draw(st.sampled_from([1, 2, 4]), "group size")
    kv_heads = data.draw(st.integers(1, 3), "kv heads")
    spec = PrefillSpec(
        kv_heads * group,
        kv_heads,
        data.draw(st.sampled_from([8, 32, 64, 80, 96]), "head_dim"),
        data.draw(st.sampled_from(["float32", "float16", "bfloat16"]), "dtype"),
        data.draw(st.sampled_from(["padded", "causal_padded_left"]), "mask mode"),
    )
    shape = PrefillShape(
        data.draw(st.integers(1, 5), "batch"),
        data.draw(st.integers(1, 150), "qo_len"),
        data.draw(st.integers(1, 150), "kv_len"),
    )
    variant = data.draw(st.sampled_from(list(FUSED.variants(spec, shape, target))), "variant")
    sch = Schedule(
        FUSED.describe(spec, shape, variant), seed=data.draw(st.integers(1, 1000), "seed")
    )
    schedule(sch, packed=cast(Packed, variant["packed"]), vectors=Vectors.of(variant))
    assert _worst_error(sch.mod, spec, shape, target) <= TOLERANCE[spec.dtype]


@pytest.mark.parametrize("mask_mode", ["padded", "causal_padded_left"])
@pytest.mark.parametrize("packed", [False, "values", True])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_real_lengths(
    target: ResolvedTarget, mask_mode: str, packed: Packed, head_dim: int
) -> None:
    spec, shape = PrefillSpec(4, 2, head_dim, "float32", mask_mode), PrefillShape(6, 257)
    sch = Schedule(online_attention(spec, shape, Tiles(32, 64)), seed=7)
    schedule(sch, packed=packed)
    assert _worst_error(sch.mod, spec, shape, target) <= TOLERANCE["float32"]


def test_tiles_fit_the_lengths(target: ResolvedTarget) -> None:
    spec = PrefillSpec(2, 2, 16, "float32")
    short = FUSED.variants(spec, PrefillShape(1, 5), target)
    assert {variant["kv_tile"] for variant in short} == {32}
    long = FUSED.variants(spec, PrefillShape(1, 512), target)
    assert {variant["kv_tile"] for variant in long} == {32, 64, 128, 256}
    assert len({tuple(sorted(variant.items())) for variant in long}) == len(long)


@pytest.mark.parametrize(
    ("mcpu", "registers", "lanes", "q_tiles"),
    [
        ("x86-64-v3", 16, 8, {8, 16, 32, 48, 64, 128, 256}),
        ("x86-64-v4", 32, 16, {16, 32, 48, 64, 128, 256}),
    ],
)
def test_tiles_are_vectors_of_the_cpu(
    mcpu: str, registers: int, lanes: int, q_tiles: set[int]
) -> None:
    cpu = resolve_target(f'{{"kind": "llvm", "mcpu": "{mcpu}"}}')
    found = FUSED.variants(PrefillSpec(2, 2, 16, "float32"), PrefillShape(1, 512), cpu)
    assert {variant["q_tile"] for variant in found} == q_tiles
    assert {variant["packed"] for variant in found} == {True, registers == 16 and "values"}
    assert {(variant["registers"], variant["lanes"]) for variant in found} == {(registers, lanes)}


def test_keys_past_the_valid_length_are_not_visited() -> None:
    """The kv loop's extent is the number of tiles that hold a valid key, not the padded length."""
    spec, shape = PrefillSpec(1, 1, 8, "float32"), PrefillShape(1, 512)
    sch = Schedule(online_attention(spec, shape, Tiles(32, 64)), seed=1)
    schedule(sch, packed=False)
    loops: list[Any] = [sch.get(loop) for loop in sch.get_loops(sch.get_sblock("score_tile"))]
    (tile_loop,) = [loop for loop in loops if loop.loop_var.name == "jt"]
    assert not isinstance(tile_loop.extent, tvm.tirx.IntImm)
    assert "end" in str(tile_loop.extent)


@pytest.mark.parametrize(
    ("head_dim", "q_tile", "packed", "apart"),
    [
        (128, 64, True, {"k_rows": 144, "v_rows": 144}),
        (128, 64, False, {}),
        (128, 64, "values", {"v_rows": 144}),
        (64, 128, True, {"q_rows": 144, "scores": 144, "weights": 144}),
        (256, 32, True, {"k_rows": 272, "v_rows": 272}),
        (64, 64, True, {}),
    ],
)
def test_long_rows_begin_an_odd_number_of_cache_lines_apart(
    head_dim: int, q_tile: int, packed: Packed, apart: dict[str, int]
) -> None:
    """Else a column of a tile lies in an eighth of the sets of a cache, or fewer."""
    spec, shape = PrefillSpec(2, 1, head_dim, "float32"), PrefillShape(2, 512)
    sch = Schedule(online_attention(spec, shape, Tiles(q_tile, 64)), seed=3)
    schedule(sch, packed=packed)
    strides: dict[str, int] = {}

    def see(load: Any) -> None:
        if load.source.strides:
            strides[load.source.name] = int(load.source.strides[0])

    lowered = tvm.transform.Sequential(
        [
            transform.LowerInitBlock(),
            transform.PlanAndUpdateBufferAllocationLocation(),
            transform.ConvertBlocksToOpaque(),
            transform.CompactBufferAllocation(),
        ]
    )(sch.mod)
    tvm_ffi.structural_walk(lowered["main"].body, (TensorLoad, see))
    inner = {"q_rows", "scores", "weights", "k_rows", "v_rows"}
    assert {name: each for name, each in strides.items() if name in inner} == apart


def test_scheduled_kernel_is_the_golden_one(request: pytest.FixtureRequest) -> None:
    """A change in what is generated shows in review; --update-golden accepts it."""
    spec, shape = PrefillSpec(2, 1, 32, "float32", "causal_padded_left"), PrefillShape(2, 100, 130)
    sch = Schedule(online_attention(spec, shape, Tiles(32, 64)), seed=11)
    schedule(sch, packed=True)
    text = sch.mod.script() + "\n"
    golden = GOLDEN / "llvm_fused_causal_packed.py.txt"
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_stock_rules_schedule_what_can_hold_all_scores(target: ResolvedTarget) -> None:
    spec, shape = PrefillSpec(12, 12, 32, "float32"), PrefillShape(16, 256)
    both = ["llvm_fused", "llvm_stock"]
    assert LLVM.default_spaces(spec, [shape], target) == both
    assert LLVM.default_spaces(spec, [shape, PrefillShape(16, 4096)], target) == both[:1]
    assert LLVM.default_spaces(replace(spec, layout="packed"), [shape], target) == both[:1]


def test_stock_space_computes_the_same(target: ResolvedTarget) -> None:
    space = SPACES["llvm_stock"]
    spec, shape = PrefillSpec(2, 2, 16, "float32"), PrefillShape(3, 24)
    module = space.describe(spec, shape, {})
    context = tune_context(module, target.target, space.generator(spec, {}), "stock", 2, 0)
    schedules = context.generate_design_space()
    assert schedules
    assert _worst_error(schedules[0].mod, spec, shape, target) <= TOLERANCE["float32"]
