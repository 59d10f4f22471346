"""The space on ordinary arithmetic, without a GPU: its variants and what schedules become."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tvm
from cuda_on_cpu import ORDERS, kernel_on_cpu
from kernel_checks import error_on_arrays, kernel_error
from machine_code import compile_device
from tvm.s_tir import Schedule

from prefilltune.database import apply_trace
from prefilltune.tuning.backends.cuda_code import device_source
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import generate
from prefilltune.tuning.derivation import pipelined_attention
from prefilltune.tuning.search.strategies import make_strategy
from prefilltune.tuning.search.strategies.context import tune_context
from prefilltune.tuning.spaces import SPACES, Variant
from prefilltune.tuning.spaces.cuda_simt import schedule, structure_of
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import (
    TOLERANCE,
    TVM_MASK_MODES,
    PrefillShape,
    PrefillSpec,
    regimes,
)
from prefilltune.workloads.elementary import POLYNOMIALS

pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")

SIMT = SPACES["cuda_simt"]
ARCHS = ("sm_75", "sm_80", "sm_90a")
HEAD_DIMS = (32, 64, 80, 96, 128, 192, 256)


def _scheduled(spec: PrefillSpec, shape: PrefillShape, variant: Variant, seed: int) -> Schedule:
    sch = Schedule(SIMT.describe(spec, shape, variant), seed=seed)
    schedule(sch, structure_of(spec, variant))
    return sch


def _target(arch: str) -> ResolvedTarget:
    return resolve_target("cuda", arch=arch)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("arch", [*ARCHS, "sm_60"])
def test_variants_fit_every_gpu(arch: str, head_dim: int) -> None:
    target = _target(arch)
    limit = int(target.target.attrs["max_shared_memory_per_block"])
    spec = PrefillSpec(4, 2, head_dim, "float32")
    for length in (1, 40, 512):
        variants = SIMT.variants(spec, PrefillShape(2, length), target)
        assert variants
        assert len({tuple(each.values()) for each in variants}) == len(variants)
        for structure in (structure_of(spec, each) for each in variants):
            assert structure.shared_bytes <= limit
            assert structure.warps * 32 <= 1024


def test_tiles_fit_the_lengths() -> None:
    spec = PrefillSpec(4, 4, 64, "float32")
    short = SIMT.variants(spec, PrefillShape(2, 16), _target("sm_90a"))
    assert max(structure_of(spec, each).q_tile for each in short) == 32
    assert SIMT.variants(PrefillSpec(1, 1, 20), PrefillShape(2, 16), _target("sm_90a"))


@pytest.mark.parametrize("mask_mode", TVM_MASK_MODES)
def test_description_computes_attention(mask_mode: str) -> None:
    spec, shape = PrefillSpec(4, 2, 32, "float32", mask_mode), PrefillShape(3, 45, 70)
    variant = {"rows": 1, "warps": 2, "kv_tile": 16, "exchange": True}
    described = pipelined_attention(spec, shape, structure_of(spec, variant).tiles, POLYNOMIALS)
    kernel = tvm.compile(described, target="llvm")["main"]
    for seed, lens in enumerate(regimes(shape.batch, 70)):
        assert kernel_error(kernel, spec, shape, lens, seed) <= TOLERANCE["float32"]


@pytest.mark.parametrize(
    ("arch", "dtype", "mask_mode", "head_dim"),
    [
        ("sm_75", "float32", "causal_padded_left", 64),
        ("sm_75", "float16", "padded", 256),
        ("sm_80", "bfloat16", "causal_padded_left", 80),
        ("sm_80", "float32", "padded", 128),
        ("sm_90a", "float32", "causal_padded_left", 128),
        ("sm_90a", "float16", "padded", 96),
        ("sm_90a", "float32", "padded", 192),
    ],
)
def test_kernels_compile_to_registers(arch: str, dtype: str, mask_mode: str, head_dim: int) -> None:
    """A local array that is indexed at run time, or too many values, would be in memory."""
    spec, shape = PrefillSpec(4, 2, head_dim, dtype, mask_mode), PrefillShape(3, 301, 77)
    target = _target(arch)
    sch = _scheduled(spec, shape, SIMT.variants(spec, shape, target)[0], seed=1)
    _, cubin = compile_device(sch.mod, target.target)
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in cubin.log
    assert re.search(r"Used \d+ registers", cubin.log)


@pytest.mark.parametrize(
    ("spec", "shape", "variant"),
    [
        (
            PrefillSpec(4, 2, 64, "float32", "causal_padded_left"),
            PrefillShape(3, 77, 130),
            {"rows": 2, "warps": 4, "kv_tile": 32, "exchange": True},
        ),
        (
            PrefillSpec(2, 1, 80, "float32", "padded"),
            PrefillShape(4, 131, 77),
            {"rows": 4, "warps": 2, "kv_tile": 16, "exchange": True},
        ),
        (
            PrefillSpec(2, 2, 32, "float32", "causal_padded_left"),
            PrefillShape(2, 150, 33),
            {"rows": 8, "warps": 2, "kv_tile": 64, "exchange": False},
        ),
        (
            PrefillSpec(2, 1, 46, "float32", "causal_padded_left", padding_output="untouched"),
            PrefillShape(2, 70, 33),
            {"rows": 2, "warps": 2, "kv_tile": 16, "exchange": True},
        ),
        pytest.param(
            PrefillSpec(2, 2, 45, "float32", "padded"),
            PrefillShape(2, 33, 70),
            {"rows": 4, "warps": 2, "kv_tile": 32, "exchange": False},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_scheduled_kernels_compute_attention(
    spec: PrefillSpec, shape: PrefillShape, variant: Variant, seed: int, tmp_path: Path
) -> None:
    """In any order that the barriers allow the threads."""
    structure = structure_of(spec, variant)
    module = _scheduled(spec, shape, variant, seed).mod
    source = device_source(generate(module, _target("sm_80").target))
    grid = (-(-shape.qo_len // structure.q_tile), spec.num_qo_heads, shape.batch)
    kernel = kernel_on_cpu(source, grid, structure.warps, structure.shared_bytes, tmp_path)
    length = max(shape.qo_len, shape.num_kv)
    lens = [*regimes(shape.batch, length), np.full(shape.batch, -3), np.full(shape.batch, 999)]
    for index, valid_lens in enumerate(lens):
        run = partial(kernel, order=ORDERS[index % len(ORDERS)])
        assert error_on_arrays(run, spec, shape, valid_lens, seed) <= TOLERANCE["float32"]


def test_every_decision_replays_from_json() -> None:
    spec, shape = PrefillSpec(4, 2, 64, "float32"), PrefillShape(2, 301)
    variant = {"rows": 2, "warps": 4, "kv_tile": 32, "exchange": True}
    module, generator = SIMT.describe(spec, shape, variant), SIMT.generator(spec, variant)
    context = tune_context(module, _target("sm_80").target, generator, "simt", 1, 1)
    proposals = make_strategy(context, None, 8, 1, "simt").propose(1000)
    assert len(proposals) == 3**3
    assert len({each.module.script() for each in proposals}) == len(proposals)
    for proposal in proposals[:3]:
        fresh = apply_trace(json.loads(json.dumps(proposal.trace)), module)
        tvm.ir.assert_structural_equal(fresh.mod, proposal.module)
