"""Query tiles that begin with the first row that is no padding: what they visit, mask and store."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from cuda_schedules import first_proposal
from tvm import tirx
from tvm.sym import Analyzer

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.replaying import replay
from prefilltune.tuning.derivation import PipelinedTiles, pipelined_attention
from prefilltune.tuning.derivation.expressions import equal, substituted, with_loads
from prefilltune.tuning.pipeline import pipeline
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape

CAUSAL = PrefillSpec(2, 1, 16, "float16", "causal_padded_left")
ROWS = 8


def _described(spec: PrefillSpec, shape: Any, aligned: bool) -> Any:
    tiles = PipelinedTiles(ROWS, ROWS, "float16", staged_output=True, aligned=aligned)
    return pipelined_attention(spec, shape, tiles)["main"]


def _tile_of_rows(function: Any) -> Any:
    """The sblock of a tile of rows."""
    from tvm import s_tir

    stmt = function.body.block.body
    while not isinstance(stmt, s_tir.SBlockRealize):
        stmt = stmt.body
    return stmt.block


def _known(block: Any, valid_len: int, tile: int) -> dict[str, int]:
    """What a tile of rows knows, by the names of variables."""
    stored: Any = None
    values: dict[Any, Any] = {block.iter_vars[0].var: 0, block.iter_vars[-1].var: tile}

    def number(expr: Any) -> Any:
        lens = with_loads(expr, lambda load: tirx.const(valid_len, "int32"))
        return Analyzer().simplify(substituted(lens, values))

    for stmt in block.body.seq:
        if isinstance(stmt, tirx.BufferStore):
            stored = number(stmt.value)
        elif isinstance(stmt, tirx.Bind):
            values[stmt.var] = number(stmt.value) if stored is None else stored
    return {var.name: int(value) for var, value in values.items()}


@pytest.mark.parametrize("window", [(None, 0), (39, 0)], ids=str)
def test_an_aligned_tile_masks_one_tile_of_keys(window: tuple[int | None, int]) -> None:
    spec, shape = PrefillSpec(2, 1, 16, "float16", padding="left", window=window), (1, 40)
    masked = {}
    for aligned in (False, True):
        block = _tile_of_rows(_described(spec, PrefillShape(*shape), aligned))
        count = int(block.iter_vars[-1].dom.extent)
        assert count == 5 + aligned
        masked[aligned] = 0
        for valid in (-1, 0, 1, 7, 8, 9, 16, 27, 39, 40, 41):
            tiles = [_known(block, valid, tile) for tile in range(count)]
            some = [each for each in tiles if each["tiles"] > 0]
            assert len(some) == -(-min(max(valid, 0), 40) // ROWS)
            for each in some:
                ends = (each["begin"] + (tile + 1) * ROWS for tile in range(each["tiles"]))
                masked[aligned] = max(masked[aligned], sum(e > each["full_end"] for e in ends))
            if aligned:
                begins = [each["row_begin"] for each in tiles]
                assert begins[0] in range(1 - ROWS, 1)
                assert begins[-1] + ROWS >= 40
                assert all(b - a == ROWS for a, b in itertools.pairwise(begins))
                assert all(each["row_begin"] >= 0 for each in some)
    assert masked == {False: 2, True: 1}


def test_rows_before_all_are_neither_read_nor_stored() -> None:
    text = _described(CAUSAL, PrefillShape(2, 20), aligned=True).script()
    assert "q[vb, T.min(T.max(row_begin + wi, 0), 19), vh, wd]" in text
    assert text.count("if row_begin + wi >= 0:") == 2
    assert "if begin + wjt * 8 + 8 <= full_end:" in text


def test_rows_of_an_aligned_tile_are_not_asked_whether_they_are_padding() -> None:
    """None is, if the tile sees a key; but with fewer keys than rows some may see none."""
    kept = "acc[wi, wd] * inv_sum[wi], T.float32(0.0)))"
    for shape, asked in ((PrefillShape(2, 20), ""), (PrefillShape(2, 20, 12), " and ")):
        text = _described(CAUSAL, shape, aligned=True).script()
        (line,) = (each for each in text.splitlines() if kept in each)
        _, condition = line.removesuffix(f", {kept}").split("if_then_else(")
        assert condition.startswith(f"tiles > 0{asked}")
        assert "row_begin + wi >=" not in line
        assert ("valid_lens" in condition) == bool(asked)


@pytest.mark.parametrize(
    "spec",
    [PrefillSpec(2, 1, 16, "float16"), PrefillSpec(2, 1, 16, "float16", layout="packed")],
    ids=str,
)
def test_without_padding_in_front_nothing_is_to_be_aligned(spec: PrefillSpec) -> None:
    shape = PackedShape.fresh() if spec.is_packed else PrefillShape(2, 20)
    plain, aligned = (_described(spec, shape, each) for each in (False, True))
    assert equal(plain, aligned)


@pytest.mark.parametrize(
    ("spec", "shape", "some"),
    [
        (CAUSAL, PrefillShape(2, 512), {64, 128, 192, 256}),
        (CAUSAL, PrefillShape(32, 128), {64}),
        (PrefillSpec(2, 1, 16, "float16", padding="left", window=(99, 0)), PrefillShape(2, 129),
         {64, 128}),
        (PrefillSpec(2, 1, 16, "float16", padding="left", window=(9, 9)), PrefillShape(2, 512), {}),
        (PrefillSpec(2, 1, 16, "float16", padding="left"), PrefillShape(2, 512), {}),
        (PrefillSpec(2, 1, 16, "float16", "causal_padded"), PrefillShape(2, 512), {}),
        (PrefillSpec(2, 1, 16, "float16", layout="packed", window=(None, 0)), PrefillShape(2, 512),
         {}),
    ],
    ids=str,
)  # fmt: skip
def test_alignment_is_offered_where_it_saves_a_masked_tile(
    spec: PrefillSpec, shape: PrefillShape, some: set[int]
) -> None:
    target = resolve_target("cuda", arch="sm_90a")
    offered = SPACES["cuda_wgmma"].variants(spec, shape, target)
    aligned = [each for each in offered if each.get("aligned")]
    assert {each["q_tile"] for each in aligned if "heads" not in each} == set(some)
    shared = [each["q_tile"] // each["heads"] for each in aligned if "heads" in each]
    assert all(length < shape.qo_len for length in shared)
    assert all(each["producer"] for each in aligned)
    # Each beside the one that differs in nothing else.
    others = [{k: v for k, v in each.items() if k != "aligned"} for each in aligned]
    assert all(each in offered for each in others)


def test_what_is_tuned_aligned_serves_every_shape() -> None:
    space, target = SPACES["cuda_wgmma"], resolve_target("cuda", arch="sm_90a")
    variant = {"q_tile": 64, "kv_tile": 64, "overlap": True, "ring": 2, "persistent": 3}
    variant |= {"producer": True, "aligned": True}
    proposal = first_proposal("cuda_wgmma", variant, CAUSAL, PrefillShape(2, 140), target)
    assert space.facts(CAUSAL, variant)["tiles"].endswith("first that is no padding on")
    found_again = replay(space, CAUSAL, SymbolicShape.fresh(), variant, proposal.trace)
    assert "row_begin" in found_again.module.script()


@pytest.mark.parametrize("aligned", [False, True])
def test_a_tile_whose_rows_are_known_within_it_alone_is_not_cleared_from_outside(
    aligned: bool,
) -> None:
    """All rows of a head are no tile's."""
    variant = {"q_tile": 64, "kv_tile": 64, "ring": 2} | ({"aligned": True} if aligned else {})
    target = resolve_target("cuda", arch="sm_90a")
    proposal = first_proposal("cuda_wgmma", variant, CAUSAL, PrefillShape(2, 140), target)
    assert ("prefill_fill" in pipeline(proposal.module).script()) == (not aligned)
