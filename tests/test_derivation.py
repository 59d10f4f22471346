"""Derived descriptions: right for any mask and score that plain says, and what records know."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from plain_descriptions import SIZES, compiled, smoothed
from tvm import tirx
from tvm.s_tir import meta_schedule as ms

from prefilltune.database import RecordStore, TargetKey, committed_root
from prefilltune.tuning.building.describing import describe_for_every_shape
from prefilltune.tuning.derivation import (
    Names,
    PipelinedTiles,
    Tiling,
    derive_online,
    online_attention,
    pipelined_attention,
)
from prefilltune.tuning.errors import DerivationError
from prefilltune.workloads import (
    MASK_MODES,
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    SymbolicShape,
    Tiles,
    make_inputs,
    max_error,
    plain_attention,
    reference_attention,
    regimes,
)
from prefilltune.workloads.elementary import BUILT_IN, POLYNOMIALS

ROOT = Path(__file__).resolve().parent.parent

#: In the order of the nest: traces look them up.
SBLOCKS = [
    *("attention", "q_rows", "score_tile", "k_rows", "dot", "scores", "tile_max"),
    *("max_before", "row_max", "rescale"),
    *("value_tile", "v_rows", "weights", "tile_sum", "probs", "tile_out", "acc", "row_sum"),
    *("final_sum", "inv_sum", "output", "row_lse", "lse"),
]

#: Both ends of a row's columns move.
WINDOW = (2, 2)


def sblocks(function: Any) -> list[str]:
    """Names of the sblocks, in their order."""
    return re.findall(r'^ +with T\.sblock\("(\w+)"\)', function.script(), re.MULTILINE)


def run(library: Any, arguments: list[np.ndarray], outputs: list[np.ndarray]) -> list[np.ndarray]:
    """What ``library`` leaves in ``outputs``, which hold NaN beforehand."""
    tensors = [tvm.runtime.tensor(array) for array in (*arguments, *outputs)]
    library(*tensors)
    return [tensor.numpy() for tensor in tensors[len(arguments) :]]


def assert_same(spec: PrefillSpec, shape: PrefillShape, tiles: Tiles) -> None:
    """Derived and plain, on lengths of every kind, with NaN in the padding."""
    derived = compiled(online_attention(spec, shape, tiles)["main"])
    plain = compiled(plain_attention(spec, shape)["main"])
    for seed, lens in enumerate(regimes(shape.batch, max(shape.qo_len, shape.num_kv))):
        inputs = make_inputs(spec, shape, lens, seed, poison_padding=True)
        arguments = [*inputs.arguments]
        nan = [np.full(inputs.query.shape[:rank], np.nan, spec.dtype) for rank in (4, 3)]
        pairs = zip(run(derived, arguments, nan), run(plain, arguments, nan), strict=True)
        assert all(max_error(a, b.astype("float64")) <= TOLERANCE[spec.dtype] for a, b in pairs)


@pytest.mark.parametrize("shape", [PrefillShape(2, 5, 11), SymbolicShape.fresh()])
@pytest.mark.parametrize("operands", ["float32", "float16"])
def test_sblocks_have_the_names_that_traces_look_up(shape, operands):
    spec = PrefillSpec(4, 2, 6, "float16", "causal_padded_left")
    assert sblocks(online_attention(spec, shape, Tiles(4, 3, operands))["main"]) == SBLOCKS


@pytest.mark.parametrize(
    ("target", "space"),
    [
        ("llvm-znver4-2c", "llvm_fused"),
        pytest.param("cuda-sm_90a-h100", "cuda_wgmma", marks=pytest.mark.slow),
    ],
)
def test_committed_records_hold_what_is_derived(target, space):
    """Structural equality, with attributes and names of functions: what a look-up asks for."""
    store = RecordStore.open(committed_root(), TargetKey.parse(target))
    seen = set()
    for entry in store.entries:
        of = entry.provenance
        if of.space != space or entry.workload_line in seen:
            continue
        seen.add(entry.workload_line)
        derived = describe_for_every_shape(of.space, PrefillSpec.parse(of.spec), of.variant)
        committed = ms.database.Workload.from_json(list(entry.workload_line))
        tvm.ir.assert_structural_equal(derived, committed.mod)
    assert seen


@pytest.mark.parametrize("tiles", [(4, 3), (1, 1), (16, 16)])
def test_a_window_is_said_in_plain_alone(tiles):
    spec, shape = PrefillSpec(4, 2, 6, "float32", window=WINDOW), PrefillShape(3, 7, 9)
    assert_same(spec, shape, Tiles(*tiles))


@pytest.mark.parametrize(
    ("head_dim", "dtype", "mask_mode", "described"),
    [
        (72, "float16", "causal_padded_left", "online"),
        (40, "bfloat16", "padded", "pipelined"),
        (46, "float32", "causal_padded_left", "pipelined"),
    ],
)
def test_tiles_are_extended_with_zeros_and_memory_is_not(head_dim, dtype, mask_mode, described):
    """NaN in what a guard does not keep out would show, and so would what lies behind a head."""
    spec, shape = PrefillSpec(4, 2, head_dim, dtype, mask_mode), PrefillShape(2, 5, 9)
    function = {
        "online": lambda: online_attention(spec, shape, Tiles(4, 3, head_multiple=16)),
        "pipelined": lambda: pipelined_attention(
            spec, shape, PipelinedTiles(4, 8, staged_output=True, head_multiple=16), POLYNOMIALS
        ),
    }[described]()["main"]
    text, columns = function.script(), -(-head_dim // 16) * 16
    assert f"acc = T.sblock_alloc_buffer((4, {columns}))" in text
    assert ("out_rows = T.sblock_alloc_buffer" in text) == (described == "pipelined")
    assert f"out_rows = T.sblock_alloc_buffer((4, {head_dim})" not in text
    for name in ("q", "k", "v"):
        (copy,) = re.findall(rf"^ +{name}_rows\[.*, wd\] = (.*)$", text, re.MULTILINE)
        assert copy.startswith(f"T.if_then_else(wd < {head_dim}, ")
    kernel = compiled(function)
    for seed, lens in enumerate(regimes(2, 9)):
        inputs = make_inputs(spec, shape, lens, seed, poison_padding=True)
        arguments = [inputs.query, inputs.key, inputs.value, inputs.valid_lens]
        nan = [np.full(inputs.query.shape[:rank], np.nan, dtype) for rank in (4, 3)]
        pairs = zip(run(kernel, arguments, nan), reference_attention(spec, *arguments), strict=True)
        assert all(max_error(*pair) <= TOLERANCE[dtype] for pair in pairs)


def test_a_window_visits_what_it_keeps():
    """A tile of 4 rows sees 8 columns, whatever the length: at most 3 tiles of 4."""
    spec, shape = PrefillSpec(1, 1, 4, "float32", window=WINDOW), PrefillShape(1, 64)
    assert _visited(spec, shape, Tiles(4, 4), 64) <= 3 * 64 // 4
    everything = PrefillSpec(1, 1, 4, "float32")
    assert _visited(everything, shape, Tiles(4, 4), 64) == 16 * 64 // 4


def _visited(spec, shape, tiles, valid):
    """Tiles of keys that all tiles of rows together visit."""
    text = online_attention(spec, shape, tiles)["main"].script()
    bounds = {
        name: re.search(rf"{name}: T.let\[T.int32\] = (.*)", text)[1] for name in ("begin", "end")
    }
    env = {"T": _PYTHON, "valid_lens_1": valid}
    tiles_of_rows = range(-(-shape.qo_len // tiles.q_tile))
    each = [{k: eval(v, env | {"vit": i}) for k, v in bounds.items()} for i in tiles_of_rows]
    return sum(-(-(at["end"] - at["begin"]) // tiles.kv_tile) for at in each)


class _PYTHON:
    min, max = min, max

    @staticmethod
    def Select(condition, yes, no):
        return yes if condition else no


@pytest.mark.parametrize("mask_mode", ["padded", "causal_padded_left"])
def test_a_score_is_said_in_plain_alone(mask_mode):
    spec = PrefillSpec(2, 1, 6, "float32", mask_mode, softcap=2.0, bias="relative")
    assert_same(spec, PrefillShape(3, 7, 9), Tiles(4, 3))


@pytest.mark.parametrize(
    "tiling",
    [Tiling(4, 3), Tiling(7, 16, order=(0,)), Tiling(1, 1), Tiling(4, 3, multiple=4)],
)
def test_passes_know_nothing_of_attention(tiling):
    """Another description, with names of its own and e where attention has 2."""
    groups, rows, columns, elements = SIZES
    random = np.random.default_rng(0)
    energy = random.normal(0, 5, (groups, rows, columns)).astype("float32")
    table = random.normal(size=(groups, columns, elements)).astype("float32")
    nan = [np.full((groups, rows, elements), np.nan, "float32")]
    derived = compiled(derive_online(smoothed(), tiling, {}, Names()))
    for counts in ([0, 8], [11, 1], [-3, 40]):
        energy_in, table_in = energy.copy(), table.copy()
        for group, count in enumerate(counts):
            energy_in[group, :, max(count, 0) :] = table_in[group, max(count, 0) :] = np.nan
        (result,) = run(derived, [energy_in, table_in, np.array(counts, "int32")], nan)
        assert max_error(result, _smoothed(energy, table, counts)) <= 1e-5


def _smoothed(energy, table, counts):
    expected = np.zeros((*energy.shape[:2], table.shape[2]))
    for group, count in enumerate(np.clip(counts, 0, energy.shape[2])):
        if count:
            weights = np.exp(energy[group, :, :count].astype("float64"))
            expected[group] = weights @ table[group, :count] / weights.sum(1, keepdims=True)
    return expected


def test_names_come_by_rule():
    assert sblocks(derive_online(smoothed(), Tiling(4, 3), {}, Names({"tile_heap": "part"}))) == [
        *("row_tile", "first_half", "shown", "tile_water", "water_before", "high_water", "rescale"),
        *("second_half", "table_rows", "pull", "tile_mass", "pull_operand", "part", "heap"),
        *("whole_mass", "final_mass", "inv_mass", "result"),
    ]


def test_no_pass_knows_a_name():
    """Of what is derived, :mod:`attention` alone knows names."""
    known = {*SBLOCKS, "valid_lens", "values", *MASK_MODES} - {"rescale"}
    for path in (ROOT / "tuning" / "derivation").glob("*.py"):
        constants = {n.value for n in ast.walk(ast.parse(path.read_text())) if _is_text(n)}
        assert path.name == "attention.py" or not constants & known, path


def _is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


REFUSED = {
    "a square of the running value": (
        {"summand": lambda energy, largest: energy * largest * largest},
        "'whole_mass' reads the running value of 'high_water' in .*exponentials",
    ),
    "a mask with a hole": (
        {"kept": lambda row, column, count: tirx.all(column < count, column != 3)},
        "mask in 'high_water' is no interval",
    ),
    "an end that moves left": (
        {"kept": lambda row, column, count: column < tirx.max(tirx.min(count - row, 11), 0)},
        "may move left from one row to the next",
    ),
    "an end beyond the columns": (
        {"kept": lambda row, column, count: column < tirx.max(count, 0)},
        "may lie outside of those that there are: clamp both ends to 0 and 11",
    ),
    "columns for the table alone": (
        {"kept": lambda row, column, count: column < tirx.max(tirx.min(count - 1, 11), 0)},
        "let that ask for",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_derived_is_refused_by_name(what):
    given, said = REFUSED[what]
    with pytest.raises(DerivationError, match=said):
        derive_online(smoothed(**given), Tiling(4, 3), {}, Names())


def test_without_a_division_nothing_is_inverted():
    names = sblocks(derive_online(smoothed(divided=False), Tiling(4, 3), {}, Names()))
    assert names[-2:] == ["whole_mass", "result"]


def test_calls_take_the_form_of_the_target():
    spec, shape, tiles = PrefillSpec(4, 2, 6), PrefillShape(2, 7), Tiles(4, 3)
    built_in = online_attention(spec, shape, tiles, BUILT_IN)["main"].script()
    fast = online_attention(spec, shape, tiles)["main"].script()
    assert "T.exp2" in built_in
    assert "T.log2" in built_in
    assert "T.exp2" not in fast
    assert "T.log2" not in fast
