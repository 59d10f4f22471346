"""Packed sequences: descriptions against the reference, and what offsets may be."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from cuda_on_cpu import ORDERS, kernel_on_cpu
from cuda_schedules import first_proposal, last_proposal, pipelined
from database_fixtures import PROVENANCE, filled
from description_forms import DESCRIPTIONS
from machine_code import compile_device
from small_libraries import SHAPE as RECORDED
from small_libraries import small_record
from tvm import tirx

from prefilltune.database import Entry, Finder, StaleRecordError
from prefilltune.tuning.backends.cuda_code import device_source
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import generate
from prefilltune.tuning.building.replaying import replay, replay_record
from prefilltune.tuning.measuring import cpu
from prefilltune.tuning.measuring.checking import expect, poisoned_results
from prefilltune.tuning.pipeline import rewriting
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import (
    TOLERANCE,
    Inputs,
    InvalidSpecError,
    PackedShape,
    PrefillShape,
    PrefillSpec,
    make_inputs,
    max_error,
    numpy_dtype,
    reference_attention,
    reference_packed_attention,
)
from prefilltune.workloads.layouts import Offsets
from prefilltune.workloads.pairs import valid_positions
from prefilltune.workloads.shapes import squared

SPEC = PrefillSpec(4, 2, 6, "float32", layout="packed")
SHAPE, LENS = PrefillShape(5, 11), np.array([7, 0, 1, 11, 4])

WRONG_OFFSETS = (
    [0, 5, 3, 9], [-7, 2, 99, 99], [4, 6, 8, 9], [0, 1, 2, 3], [9, 9, 0, 0], [0, 0, 0, 2**31 - 1],
    [-(2**31), -1, 4, 9], [3, 8, -(2**31), 7],
)  # fmt: skip


def kernel_of(form: str, spec: PrefillSpec, sizes: PackedShape | None = None) -> Any:
    module = DESCRIPTIONS[form](spec, sizes or PackedShape.fresh())
    return tvm.compile(module, target=tvm.target.Target("llvm"))["main"]


def run(kernel: Any, spec: PrefillSpec, *arguments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    query = arguments[0]
    output = np.full(query.shape, np.nan, query.dtype)
    lse = np.full(query.shape[:2], np.nan, numpy_dtype(spec.lse_type))
    tensors = [tvm.runtime.tensor(each) for each in (*arguments, output, lse)]
    kernel(*tensors)
    return tensors[-2].numpy(), tensors[-1].numpy()


def tight(inputs: Inputs) -> tuple[np.ndarray, ...]:
    """The arguments, without what is behind the last sequence."""
    query, key, value, queries, keys, *bias = inputs.arguments
    return query[: queries[-1]], key[: keys[-1]], value[: keys[-1]], queries, keys, *bias


def assert_right(kernel: Any, spec: PrefillSpec, shape: PrefillShape, lens: np.ndarray) -> None:
    arguments = tight(make_inputs(spec, shape, lens, 0))
    found = run(kernel, spec, *arguments)
    for actual, expected in zip(found, reference_packed_attention(spec, *arguments), strict=True):
        assert max_error(actual, expected) <= TOLERANCE[spec.dtype]


@pytest.mark.parametrize(
    "form", ["plain", "online", "pipelined", pytest.param("staged", marks=pytest.mark.slow)]
)
def test_every_batch_total_and_length(form: str) -> None:
    spec = replace(SPEC, window=(5, 2), softcap=3.0, bias="relative")
    kernel = kernel_of(form, spec)
    assert_right(kernel, spec, SHAPE, LENS)
    assert_right(kernel, spec, PrefillShape(3, 9, 5), np.array([9, 2, 6]))
    assert_right(kernel, spec, PrefillShape(3, 5, 9), np.array([0, 8, 9]))
    assert_right(kernel, spec, PrefillShape(1, 13), np.array([13]))
    assert_right(kernel, spec, PrefillShape(40, 6), np.arange(40) % 7)


@pytest.mark.parametrize(
    ("form", "window"),
    [("online", (None, 0)), ("pipelined", (None, None)), ("pipelined", (2, None))],
    ids=str,
)
def test_every_kind_of_mask(form: str, window: tuple[int | None, int | None]) -> None:
    spec = replace(SPEC, window=window)
    assert_right(kernel_of(form, spec), spec, SHAPE, LENS)


@pytest.mark.parametrize(
    "form", ["plain", "online", pytest.param("pipelined", marks=pytest.mark.slow)]
)
def test_offsets_of_queries_are_those_of_keys_where_both_are_rows_of_the_same(form: str) -> None:
    spec = replace(SPEC, window=(5, 0), bias="relative")
    kernel = kernel_of(form, spec, squared(PackedShape.fresh()))
    for shape, lens in ((SHAPE, LENS), (PrefillShape(1, 13), np.array([13]))):
        assert_right(kernel, spec, shape, lens)
    arguments = [*tight(make_inputs(spec, SHAPE, LENS, 0))]
    expected = reference_packed_attention(spec, *arguments)
    arguments[4] = np.full_like(arguments[4], -3)  # nobody reads these
    for actual, wanted in zip(run(kernel, spec, *arguments), expected, strict=True):
        assert max_error(actual, wanted) <= TOLERANCE[spec.dtype]
    plain = kernel_of(form, SPEC, squared(PackedShape.fresh()))
    for offsets in WRONG_OFFSETS:
        assert_within(plain, offsets)


def test_packed_is_what_padded_is() -> None:
    spec = replace(SPEC, window=(3, 1), bias="relative")
    packed = make_inputs(spec, SHAPE, LENS, 0)
    padded = make_inputs(replace(spec, layout="padded"), SHAPE, LENS, 0)
    rows = valid_positions(spec, LENS, SHAPE.qo_len)
    for one, other in zip(
        reference_packed_attention(spec, *tight(packed)),
        reference_attention(replace(spec, layout="padded"), *padded.arguments),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other[rows])


def test_a_record_of_padded_tensors_serves_packed_ones(tmp_path: Path) -> None:
    target = resolve_target("llvm")
    spec = PrefillSpec(4, 2, 16, "float32", layout="packed", window=(3, 0))
    entry = small_record(replace(spec, layout="padded", padding="left"), target, "llvm_fused")
    filled(tmp_path, [entry], target.key)
    match = Finder([tmp_path]).find(target.key, spec, RECORDED)
    assert match.entry.record_id == entry.record_id
    module = replay_record(match.entry, PackedShape.fresh(), spec)
    kernel = tvm.compile(module, target=target.target)["main"]
    assert_right(kernel, spec, SHAPE, LENS)


def test_what_a_record_decided_for_padded_tensors_is_decided_for_packed_ones() -> None:
    target = resolve_target("cuda", arch="sm_90a")
    spec = PrefillSpec(4, 2, 16, "bfloat16", layout="packed", window=(None, 0))
    space, variant = SPACES["cuda_wgmma"], {"q_tile": 128, "kv_tile": 64, "ring": 3}
    shape = PrefillShape(2, 512)

    def record(of: PrefillSpec) -> Entry:
        trace = last_proposal(space.name, variant, of, shape, target).trace
        fields = {"spec": str(of), "shape": str(shape), "space": space.name, "variant": variant}
        replayed = replay(space, of, shape, variant, trace)
        return replayed.entry([1e-3], target.target, replace(PROVENANCE, **fields))

    padded, own = map(record, (replace(spec, layout="padded"), spec))
    modules = [replay_record(each, PackedShape.fresh(), spec) for each in (padded, own)]
    assert modules[0].script() == modules[1].script()
    stale = replace(padded, trace=[padded.trace[0], padded.trace[1][1:]])
    with pytest.raises(StaleRecordError):
        replay_record(stale, PackedShape.fresh(), spec)


def test_a_decision_is_what_was_chosen_and_not_its_number() -> None:
    """Candidates may come in another order than where a record was made."""
    target = resolve_target('{"kind": "llvm", "mcpu": "x86-64-v4"}')
    spec, shape = PrefillSpec(4, 2, 16, "float32", layout="packed"), PrefillShape(2, 64)
    space = SPACES["llvm_fused"]
    variant = {"q_tile": 32, "kv_tile": 64, "packed": False, "registers": 32, "lanes": 16}
    padded = replace(spec, layout="padded")
    instructions, decisions = last_proposal(space.name, variant, padded, shape, target).trace
    other, numbers = copy.deepcopy(instructions), []
    for place, number in decisions:
        candidates = other[place][2][0]
        candidates.reverse()
        numbers.append([place, len(candidates) - 1 - number])
    modules = [
        replay(space, spec, PackedShape.fresh(), variant, trace, decisions_alone=True).module
        for trace in ([instructions, decisions], [other, numbers])
    ]
    assert numbers != decisions
    assert modules[0].script() == modules[1].script()


def test_kernels_are_timed_on_exactly_the_total_and_checked_on_more_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, batches = replace(SPEC, bias="relative"), ((7, 0, 1, 11, 4), (3, 3, 3, 3, 3))
    totals: list[tuple[int, int]] = []

    def kernel(*arguments: Any) -> None:
        query, key, value, *_, output, lse = arguments
        assert key.shape[0] == value.shape[0]
        assert output.shape[0] == lse.shape[0] == query.shape[0]
        totals.append((query.shape[0], key.shape[0]))
        output.copyfrom(np.zeros(output.shape, "float32"))

    monkeypatch.setattr(cpu, "_function", lambda _: kernel)
    shape = PrefillShape(5, 11, 8)
    assert cpu.check_kernel("", spec, shape, batches[:1], 0) == np.inf  # the first writes padding
    assert totals == [(55, 40), (23, 20)]
    cpu.time_kernel("", spec, shape, batches, 0, 0.0)
    assert set(totals[2:]) == {(23, 20), (15, 15)}


def test_what_lies_behind_the_last_sequence_is_neither_read_nor_written() -> None:
    spec = replace(SPEC, bias="relative", window=(None, 0))
    inputs = make_inputs(spec, SHAPE, LENS, 0, poison_padding=True)
    expected = expect(spec, SHAPE, inputs)
    found = run(kernel_of("online", spec), spec, *inputs.arguments)
    assert expected.error(*found) <= TOLERANCE["float32"]
    found[0][-1] = 0.0
    assert expected.error(*found) == np.inf


@pytest.mark.parametrize(
    ("space", "dtype", "variant", "q_tile", "warps"),
    [
        ("cuda_mma", "float16", {"q_tile": 64, "kv_tile": 32}, 64, 4),
        (
            "cuda_simt",
            "float32",
            {"rows": 2, "warps": 2, "kv_tile": 16, "exchange": False},
            32,
            2,
        ),
    ],
)
def test_cuda_kernels(
    space: str,
    dtype: str,
    variant: dict[str, Any],
    q_tile: int,
    warps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of wgmma, they search so on their own.
    monkeypatch.setattr(rewriting, "_waits_for_a_search", lambda _: space == "cuda_mma")
    spec = PrefillSpec(
        2, 1, 64, dtype, layout="packed", window=(20, 9), softcap=1.5, bias="relative"
    )
    shape, target = PrefillShape(5, 70), resolve_target("cuda", arch="sm_80")
    module = first_proposal(space, variant, spec, shape, target).module
    source = device_source(generate(module, target.target))
    tiles = shape.batch * shape.qo_len // q_tile + shape.batch
    kernel = kernel_on_cpu(source, (tiles, spec.num_qo_heads, 1), warps, 1 << 17, tmp_path)
    for order, lens in zip(ORDERS, ([70, 0, 1, 33, 64], [0, 0, 65, 2, 70]), strict=False):
        inputs = make_inputs(spec, shape, np.array(lens), order, poison_padding=True)
        results = poisoned_results(spec, shape)
        kernel(*inputs.arguments, *results, order=order)
        assert expect(spec, shape, inputs).error(*results) <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    "pipeline",
    [
        {"ring": 2},
        pytest.param({"overlap": True, "ring": 2}, marks=pytest.mark.slow),
        pytest.param(
            {"overlap": True, "ring": 2, "persistent": 132, "producer": True},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_wgmma_kernels_compile(pipeline: dict[str, Any]) -> None:
    spec = PrefillSpec(4, 2, 128, layout="packed", window=(None, 0))
    shape, target = PrefillShape(4, 256), resolve_target("cuda", arch="sm_90a")
    variants = SPACES["cuda_wgmma"].variants(spec, shape, target)
    variant = pipelined(variants, pipeline)
    assert variant is not None
    trace = first_proposal("cuda_wgmma", variant, spec, shape, target).trace
    for_every_call = replay(SPACES["cuda_wgmma"], spec, PackedShape.fresh(), variant, trace)
    source, cubin = compile_device(for_every_call.module, target.target)
    assert "wgmma" in source
    assert re.search(r"\b0 bytes spill stores", cubin.log)


def test_the_output_lies_where_keys_were_as_in_padded_kernels() -> None:
    """Shared memory decides how many blocks run at once."""
    target = resolve_target("cuda", arch="sm_90a")
    padded = PrefillSpec(2, 1, 64, padding_output="untouched")
    shape = PrefillShape(4, 256)
    variant = pipelined(SPACES["cuda_wgmma"].variants(padded, shape, target), {"ring": 2})
    assert variant is not None

    def places(spec: PrefillSpec) -> set[str]:
        """Where a kernel has tiles in shared memory, in elements."""
        proposal = first_proposal("cuda_wgmma", variant, spec, shape, target)
        source = device_source(generate(proposal.module, target.target))
        tiles = re.findall(r"\(half\*\)buf_dyn_shmem_ptr\)\[(\d+)\]", source)
        (staged,) = re.findall(r"\(half\*\)buf_dyn_shmem_ptr\) \+ .* (\d+)\)\) = __", source)
        assert staged in tiles
        return set(tiles)

    found, expected = (
        max(map(int, places(spec))) for spec in (PrefillSpec(2, 1, 64, layout="packed"), padded)
    )
    assert found == expected


@pytest.mark.parametrize("form", ["online", "pipelined"])
def test_what_is_not_finite_stays_within_its_sequence(form: str) -> None:
    arguments = tight(make_inputs(SPEC, SHAPE, LENS, 0))
    kernel, begin, end = kernel_of(form, SPEC), 7, 8
    expected = reference_packed_attention(SPEC, *arguments)
    for array in arguments[:3]:
        array[begin:end] = np.nan
    for actual, other in zip(run(kernel, SPEC, *arguments), expected, strict=True):
        assert np.isnan(actual[begin:end]).all()
        clean = np.r_[0:begin, end : len(actual)]
        assert max_error(actual[clean], other[clean]) <= TOLERANCE["float32"]


@pytest.mark.parametrize("form", ["online", "pipelined"])
def test_wrong_offsets_lead_nowhere_else(form: str) -> None:
    """Nothing beside the tensors is read or written: what lies there is kept, and is NaN."""
    kernel = kernel_of(form, SPEC)
    for offsets in WRONG_OFFSETS:
        assert_within(kernel, offsets)


def assert_within(kernel: Any, offsets: list[int]) -> None:
    total, guard = 9, 48
    shapes = [(total, 4, 6), (total, 2, 6), (total, 2, 6), (total, 4, 6), (total, 4)]
    sizes = [int(np.prod(shape)) for shape in shapes]
    memory = [_aligned(size + 2 * guard) for size in sizes]
    views = [
        each[guard : guard + size].reshape(shape)
        for each, size, shape in zip(memory, sizes, shapes, strict=True)
    ]
    for each in views:
        each[...] = 1.0
    cu_seqlens = tvm.runtime.tensor(np.array(offsets, np.int32))
    query, key, value, output, lse = (tvm.runtime.from_dlpack(each) for each in views)
    kernel(query, key, value, cu_seqlens, cu_seqlens, output, lse)
    assert np.isfinite(views[3]).all()
    assert np.isfinite(views[4]).all()
    for each, size in zip(memory, sizes, strict=True):
        assert np.isnan(each[:guard]).all()
        assert np.isnan(each[guard + size :]).all()


def test_lengths_lie_within_what_there_is() -> None:
    """Asked without optimization: compilers take it that nothing leaves what 32 bits hold."""
    for offsets in (*WRONG_OFFSETS, [8, -(2**31), 8, 2**31 - 1]):
        ends = [min(max(each, 0), 9) for each in offsets]
        expected = [max(end - first, 0) for first, end in pairwise(ends)]
        assert _lengths(offsets, total=9) == expected


def _lengths(offsets: list[int], total: int) -> list[int]:
    """Of the sequences, as a kernel works them out."""
    given, found = (tirx.decl_buffer((size,), "int32") for size in (len(offsets), len(offsets) - 1))
    sequence, count = tirx.Var("s", "int32"), tirx.const(len(offsets) - 1, "int32")
    length = Offsets(given, tirx.const(total, "int32")).length(sequence)
    store = tirx.BufferStore(found, length, [sequence])
    loop = tirx.For(sequence, tirx.const(0, "int32"), count, tirx.ForKind.SERIAL, store)
    plain = tvm.target.Target({"kind": "llvm", "opt-level": 0})
    function: Any = tirx.PrimFunc([given, found], loop).with_attr("global_symbol", "main")
    kernel = tvm.compile(function, plain)["main"]
    result = tvm.runtime.tensor(np.empty(len(offsets) - 1, np.int32))
    kernel(tvm.runtime.tensor(np.array(offsets, np.int32)), result)
    return result.numpy().tolist()


def _aligned(size: int) -> np.ndarray:
    """NaNs from a multiple of 64 bytes on."""
    held = np.full(size + 16, np.nan, np.float32)
    first = -held.ctypes.data % 64 // 4
    return held[first : first + size]


def test_a_packed_spec() -> None:
    spec = PrefillSpec(4, 2, 64, mask_mode="causal_packed", softcap=30)
    assert str(spec) == "causal_packed_hq4_hkv2_d64_float16_s0.125_cap30.0"
    assert PrefillSpec.parse(str(spec)) == spec
    assert spec == PrefillSpec(4, 2, 64, layout="packed", window=(None, 0), softcap=30)
    with pytest.raises(InvalidSpecError, match="padding is 'left' of a packed layout"):
        PrefillSpec(4, 2, 64, layout="packed", padding="left")
    with pytest.raises(InvalidSpecError, match="says the layout"):
        PrefillSpec(4, 2, 64, mask_mode="padded", layout="packed")
