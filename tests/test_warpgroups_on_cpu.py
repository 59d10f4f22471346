"""Kernels of warpgroup products with a producer, on the CPU: right, whoever waits for whom."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_schedules import first_proposal
from kernel_checks import error_on_arrays
from tvm import tirx
from tvm.sym.analyzer import Analyzer
from tvm_ffi import structural_walk
from warpgroups_on_cpu import ORDERS, kernel_on_cpu

from prefilltune.tuning.backends.cuda_code import device_source
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import generate
from prefilltune.tuning.intrinsics import WARP_ROWS, WARPGROUP
from prefilltune.tuning.measuring.checking import expect, poisoned_results
from prefilltune.tuning.pipeline import pipeline
from prefilltune.workloads import (
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    empty_lse,
    make_inputs,
    max_error,
    reference_packed_attention,
    regimes,
)

#: Few enough blocks that each takes several tiles, one after another.
BLOCKS = 3

PRODUCER = {"overlap": True, "ring": 2, "persistent": BLOCKS, "producer": True}

ALIGNED = {**PRODUCER, "aligned": True}

#: Who sees no more than half of the last tile of keys computes with that half.
HALVES = {**PRODUCER, "halves": True}
BOTH = {**ALIGNED, "halves": True}

#: Maxima of tiles are computed where the anchor has to move.
ON_DEMAND = {**PRODUCER, "on_demand": True}
ALL = {**BOTH, "on_demand": True}

#: Heads are taken in sections, one after another.
SECTIONS = {**PRODUCER, "sections": 2}

#: Heads of a group share query tiles.
HEADS = {**PRODUCER, "heads": 2}

ALL_CHOICES = {
    "padding": "left",
    "window": (70, 0),
    "softcap": 1.5,
    "bias": "relative",
    "padding_output": "untouched",
}
CAUSAL = {"mask_mode": "causal_padded_left"}

#: More than any block of these kernels has.
SHARED_BYTES = 232448


def _kernel(
    spec: PrefillSpec,
    shape: PrefillShape,
    tiles: tuple[int, int],
    more: dict[str, Any],
    folder: Path,
) -> Any:
    """The first kernel of a variant, which runs on the CPU."""
    target = resolve_target("cuda", arch="sm_90a")
    variant = {"q_tile": tiles[0], "kv_tile": tiles[1], **more}
    proposal = first_proposal("cuda_wgmma", variant, spec, shape, target)
    source = device_source(generate(proposal.module, target.target))
    warps = tiles[0] // WARP_ROWS + WARPGROUP
    blocks, heads = _blocks(proposal.module), more.get("heads", 1)
    return kernel_on_cpu(source, blocks, warps, SHARED_BYTES, folder, heads)


def _blocks(module: Any) -> int:
    """How many are launched."""

    def visit(loop: Any) -> None:
        if loop.thread_binding is not None and loop.thread_binding.thread_tag == "blockIdx.x":
            found.append(int(Analyzer().simplify(loop.extent)))  # pyright: ignore[reportArgumentType]

    found: list[int] = []
    structural_walk(pipeline(module)["main"].body, (tirx.For, visit))
    (blocks,) = found
    return blocks


@pytest.mark.parametrize(
    ("head_dim", "chosen", "shape", "tiles", "more"),
    [
        (64, ALL_CHOICES, PrefillShape(4, 140), (64, 128), ALL),
        (64, CAUSAL, PrefillShape(3, 201), (64, 64), {**ALL, "sections": 2}),
        (64, CAUSAL, PrefillShape(3, 201), (64, 64), {**ALL, "heads": 2}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (64, ALL_CHOICES, PrefillShape(4, 140), (64, 64), PRODUCER),
                (64, ALL_CHOICES, PrefillShape(4, 140), (64, 64), ALIGNED),
                (64, CAUSAL, PrefillShape(2, 300), (128, 128), ALL),
                (64, CAUSAL, PrefillShape(2, 300), (128, 128), HALVES),
                (64, CAUSAL, PrefillShape(2, 400), (192, 128), BOTH),
                (64, CAUSAL, PrefillShape(3, 301, 77), (128, 128), BOTH),
                (
                    64,
                    {"window": (90, 70)},
                    PrefillShape(3, 300),
                    (128, 128),
                    {**HALVES, "on_demand": True},
                ),
                (256, CAUSAL, PrefillShape(3, 150), (128, 64), {**BOTH, "direct": True}),
                (64, ALL_CHOICES, PrefillShape(4, 140), (64, 128), {**ALL, "heads": 2}),
                (64, CAUSAL, PrefillShape(2, 300), (128, 128), {**BOTH, "heads": 2}),
                (64, CAUSAL, PrefillShape(3, 77, 201), (128, 64), HEADS),
                (
                    256,
                    CAUSAL,
                    PrefillShape(3, 150),
                    (128, 64),
                    {**BOTH, "direct": True, "heads": 2},
                ),
                (72, CAUSAL, PrefillShape(3, 130), (64, 64), ALIGNED),
                # A mask of two words a row.
                (32, {"window": (90, 70)}, PrefillShape(3, 400), (64, 192), PRODUCER),
                # More tiles than are ranked: some without keys come before others.
                (64, CAUSAL, PrefillShape(260, 20), (64, 64), ALIGNED),
                (64, CAUSAL, PrefillShape(260, 20), (64, 64), {**ALIGNED, "sections": 2}),
                # Fewer tiles than multiprocessors.
                (64, {}, PrefillShape(2, 100), (64, 64), {**SECTIONS, "persistent": 16}),
            )
        ),
        # What these have, the ones above have too.
        *(
            pytest.param(*case, marks=[pytest.mark.slow, pytest.mark.thorough])
            for case in (
                (64, CAUSAL, PrefillShape(3, 300), (64, 64), PRODUCER),
                (64, CAUSAL, PrefillShape(2, 300), (128, 128), PRODUCER),
                (64, CAUSAL, PrefillShape(2, 300), (128, 128), ALIGNED),
                (64, CAUSAL, PrefillShape(3, 300), (128, 64), ALIGNED),
                (64, CAUSAL, PrefillShape(4, 77, 201), (64, 64), ALIGNED),
                (64, CAUSAL, PrefillShape(4, 201, 77), (64, 64), ALIGNED),
                (256, CAUSAL, PrefillShape(3, 150), (128, 64), {**ALIGNED, "direct": True}),
                (64, {}, PrefillShape(3, 77, 301), (192, 128), PRODUCER),
                (256, {}, PrefillShape(2, 150), (128, 64), {**PRODUCER, "direct": True}),
            )
        ),
    ],
    ids=str,
)
def test_kernels_compute_attention(
    head_dim: int,
    chosen: dict[str, Any],
    shape: PrefillShape,
    tiles: tuple[int, int],
    more: dict[str, Any],
    tmp_path: Path,
) -> None:
    spec = PrefillSpec(2, 1, head_dim, "float16", **chosen)
    kernel = _kernel(spec, shape, tiles, more, tmp_path)
    for index, lens in enumerate(regimes(shape.batch, max(shape.qo_len, shape.num_kv))):
        # Products are done late and early by turns.
        run = partial(kernel, order=ORDERS[index * 5 % len(ORDERS)])
        assert error_on_arrays(run, spec, shape, lens, index) <= TOLERANCE["float16"]


@pytest.mark.parametrize(
    "padding",
    [pytest.param("right", marks=[pytest.mark.slow, pytest.mark.thorough]), "left"],
)
def test_maxima_on_demand_are_those_that_are_needed(padding: str, tmp_path: Path) -> None:
    spec = PrefillSpec(1, 1, 64, "float16", padding=padding, window=(None, 0), lse_dtype="float32")
    shape = PrefillShape(2, 300)
    kernels = []
    for name, more in (("always", PRODUCER), ("on_demand", ON_DEMAND)):
        (tmp_path / name).mkdir()
        kernels.append(_kernel(spec, shape, (64, 64), more, tmp_path / name))
    for index, lens in [*enumerate(regimes(shape.batch, shape.qo_len))][::3]:
        inputs = make_inputs(spec, shape, lens, index, poison_padding=True)
        query, key, *_ = inputs.arguments
        query[0] = np.abs(query[0])
        key[0, 64:128] *= -8  # no number above 0, and all below those before
        key[0, 130:140] = np.abs(key[0, 130:140]) * 8  # a maximum that moves once more
        key[0, 200:210] = np.abs(key[0, 200:210]) * 60
        key[1, :200] = -np.abs(key[1, :200]) * 4  # of both signs from there on
        query[1, ::3] = np.abs(query[1, ::3])
        if index % 2:
            key[1, 250] = np.nan
        found = []
        for kernel in kernels:
            results = poisoned_results(spec, shape)
            kernel(*inputs.arguments, *results, order=ORDERS[index * 5 % len(ORDERS)])
            found.append(results)
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)
        if not index % 2:
            assert expect(spec, shape, inputs).error(*found[1]) <= TOLERANCE["float16"]


@pytest.mark.parametrize(
    ("head_dim", "window", "shape", "tiles", "more"),
    [
        (64, (None, 0), PrefillShape(5, 150), (64, 64), PRODUCER),
        (64, (None, 0), PrefillShape(5, 150), (64, 64), {**ON_DEMAND, "heads": 2}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (64, (20, 9), PrefillShape(40, 30), (128, 64), PRODUCER),
                (64, (20, 9), PrefillShape(40, 30), (128, 64), HEADS),
                (64, (None, 0), PrefillShape(4, 300), (128, 128), HALVES),
                # Threads that do not divide the pieces of a tile's rows.
                (72, (None, 0), PrefillShape(3, 200), (128, 64), PRODUCER),
                # More tiles than are ranked.
                (64, (None, 0), PrefillShape(340, 8), (64, 64), PRODUCER),
                (64, (None, 0), PrefillShape(4, 300), (64, 64), SECTIONS),
                (64, (None, 0), PrefillShape(3, 70), (64, 64), {**SECTIONS, "persistent": 64}),
            )
        ),
    ],
    ids=str,
)
def test_packed_kernels_compute_attention(
    head_dim: int,
    window: tuple[int | None, int],
    shape: PrefillShape,
    tiles: tuple[int, int],
    more: dict[str, Any],
    tmp_path: Path,
) -> None:
    spec = PrefillSpec(2, 1, head_dim, "float16", layout="packed", window=window)
    kernel = _kernel(spec, shape, tiles, more, tmp_path)
    for index, lens in enumerate(regimes(shape.batch, shape.qo_len)):
        inputs = make_inputs(spec, shape, lens, index, poison_padding=True)
        results = poisoned_results(spec, shape)
        tensors = (each[None] for each in inputs.arguments[:3])
        offsets, order = inputs.arguments[3:], ORDERS[index * 5 % len(ORDERS)]
        kernel(*tensors, *offsets, *results, order=order)
        assert expect(spec, shape, inputs).error(*results) <= TOLERANCE["float16"]


@pytest.mark.parametrize(
    ("window", "first"),
    [((None, 0), 30), pytest.param((30, 5), 25, marks=pytest.mark.slow)],
    ids=str,
)
def test_packed_rows_without_keys_are_zeros(
    window: tuple[int | None, int], first: int, tmp_path: Path
) -> None:
    spec = PrefillSpec(2, 1, 64, "float16", layout="packed", window=window)
    kernel = _kernel(spec, PrefillShape(4, 100), (64, 64), PRODUCER, tmp_path)
    # Of the first and the last sequence all rows, of the second those before its first key.
    offsets = [np.cumsum([0, *lens], dtype=np.int32) for lens in ([100, 70, 9, 64], [0, 40, 90, 0])]
    rng = np.random.default_rng(0)
    query, key, value = (
        rng.standard_normal((end, heads, 64)).astype(np.float16)
        for end, heads in ((243, 2), (130, 1), (130, 1))
    )
    output, lse = (np.full(shape, np.nan, np.float16) for shape in (query.shape, query.shape[:2]))
    kernel(*(each[None] for each in (query, key, value)), *offsets, output, lse, order=ORDERS[1])
    expected, _ = reference_packed_attention(spec, query, key, value, *offsets)
    assert max_error(output, expected) <= TOLERANCE["float16"]
    without = np.r_[0 : 100 + first, 179:243]
    assert not output[without].any()
    assert (lse[without] == empty_lse("float16")).all()


@pytest.mark.parametrize("more", [PRODUCER, pytest.param(HEADS, marks=pytest.mark.slow)], ids=str)
def test_packed_kernels_end_and_write_within_bounds_whatever_offsets_are(
    more: dict[str, Any], tmp_path: Path
) -> None:
    spec = PrefillSpec(2, 1, 64, "float16", layout="packed", window=(None, 0))
    shape, total = PrefillShape(5, 60), 300
    kernel = _kernel(spec, shape, (64, 64), more, tmp_path)
    inputs = make_inputs(spec, shape, [60] * 5, 0)
    tensors = [each[None] for each in inputs.arguments[:3]]
    rng = np.random.default_rng(0)
    offered = [
        [0, 200, 100, 250, 30, 300],
        [300, 240, 180, 120, 60, 0],
        [-7, 50, 1 << 30, 20, -(1 << 31), 300],
        [0, 0, 0, 0, 0, 0],
        *rng.integers(-50, 400, (4, 6)).tolist(),
    ]
    for index, offsets in enumerate(offered):
        given = np.array(offsets, np.int32)
        made = poisoned_results(spec, shape)
        around = [np.full((total + 128, *each.shape[1:]), 7, each.dtype) for each in made]
        results = [each[64:-64] for each in around]
        kernel(*tensors, given, given, *results, order=ORDERS[index % len(ORDERS)])
        for each in around:
            assert (each[:64] == 7).all()
            assert (each[-64:] == 7).all()
