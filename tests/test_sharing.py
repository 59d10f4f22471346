"""Query tiles that heads of a group share: what they compute, and where they are offered."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from cuda_schedules import first_proposal
from plain_descriptions import compiled, smoothed

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.replaying import replay
from prefilltune.tuning.derivation import (
    Names,
    PipelinedTiles,
    Tiling,
    derive_online,
    pipelined_attention,
)
from prefilltune.tuning.errors import DerivationError
from prefilltune.tuning.measuring.checking import expect, poisoned_results
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import (
    TOLERANCE,
    PackedShape,
    PrefillShape,
    PrefillSpec,
    SymbolicShape,
    make_inputs,
    regimes,
)
from prefilltune.workloads.elementary import POLYNOMIALS

CAUSAL = {"padding": "left", "window": (None, 0)}


def _tiles(heads: int, **more: Any) -> PipelinedTiles:
    return PipelinedTiles(8, 8, "float16", staged_output=True, heads=heads, **more)


@pytest.mark.parametrize(
    ("of_keys", "heads", "chosen", "shape", "more"),
    [
        (2, 2, CAUSAL, PrefillShape(3, 21), {"aligned": True}),
        (1, 4, {"padding_output": "untouched"}, PrefillShape(3, 5, 11), {}),
        (
            1,
            2,
            {"padding": "left", "window": (6, 2), "softcap": 1.5, "bias": "relative"},
            PrefillShape(3, 13),
            {},
        ),
        (2, 2, {"layout": "packed", "window": (None, 0)}, PrefillShape(5, 19), {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("known", [True, False])
def test_tiles_of_several_heads_compute_attention(
    of_keys: int,
    heads: int,
    chosen: dict[str, Any],
    shape: PrefillShape,
    more: dict[str, Any],
    known: bool,
) -> None:
    spec = PrefillSpec(4, of_keys, 16, "float16", **chosen)
    of_call = PackedShape.fresh() if spec.is_packed else SymbolicShape.fresh()
    sizes = shape if known and not spec.is_packed else of_call
    library = compiled(pipelined_attention(spec, sizes, _tiles(heads, **more), POLYNOMIALS)["main"])
    for seed, lens in enumerate(regimes(shape.batch, max(shape.qo_len, shape.num_kv))):
        inputs = make_inputs(spec, shape, lens, seed, poison_padding=True)
        results = poisoned_results(spec, shape)
        tensors = [tvm.runtime.tensor(each) for each in (*inputs.arguments, *results)]
        library(*tensors)
        found = [each.numpy() for each in tensors[-len(results) :]]
        assert expect(spec, shape, inputs).error(*found) <= TOLERANCE["float16"]


def test_a_key_is_read_once_for_all_heads_of_a_tile() -> None:
    spec = PrefillSpec(8, 2, 16, "float16", **CAUSAL)
    text = pipelined_attention(spec, PrefillShape(2, 20), _tiles(4))["main"].script()
    assert "for b, hg, it in T.grid(2, 2, 10):" in text
    assert "k[vb, T.min(begin + wjt * 8 + wj, end - 1), vhg, wd]" in text
    assert "q[vb, T.min(vit * 2 + wi // 4, 19), vhg * 4 + wi % 4, wd]" in text


@pytest.mark.parametrize(
    ("of_keys", "heads", "message"),
    [
        (4, 4, "which is not the same for 4 neighbours of"),
        (2, 3, "cannot share a tile: 8 rows are no multiple"),
        (2, 8, "cannot share a tile: 4 vh are no multiple"),
    ],
)
def test_heads_that_share_no_keys_share_no_tile(of_keys: int, heads: int, message: str) -> None:
    spec = PrefillSpec(4, of_keys, 16, "float16")
    with pytest.raises(DerivationError, match=message):
        pipelined_attention(spec, PrefillShape(2, 20), _tiles(heads))


def test_points_that_see_other_columns_share_no_tile() -> None:
    """Of a description without names that passes know: each group has a count of its own."""
    with pytest.raises(DerivationError, match="see other columns"):
        derive_online(smoothed(), Tiling(4, 3, shared=2), {}, Names({}))


@pytest.mark.parametrize(
    ("heads", "shape", "shared"),
    [
        ((16, 8), PrefillShape(32, 128), {2}),
        ((32, 8), PrefillShape(32, 128), {4}),
        ((28, 4), PrefillShape(32, 128), set()),  # seven do not divide a tile
        ((12, 12), PrefillShape(32, 128), set()),
        ((32, 8), PrefillShape(32, 16), {4}),  # 64 rows of 16 positions
    ],
    ids=str,
)
def test_tiles_of_heads_are_offered_where_heads_share_keys(
    heads: tuple[int, int], shape: PrefillShape, shared: set[int]
) -> None:
    spec = PrefillSpec(*heads, 128, "float16", **CAUSAL)
    offered = SPACES["cuda_wgmma"].variants(spec, shape, resolve_target("cuda", arch="sm_90a"))
    found = [each for each in offered if "heads" in each]
    assert {each["heads"] for each in found} == shared
    assert all(each["producer"] for each in found)
    if shared:
        (count,) = shared
        said = f"keys, rows of {count} heads side by side"
        assert said in SPACES["cuda_wgmma"].facts(spec, found[0])["tiles"]
    if shape.qo_len == 16:
        assert {each["q_tile"] for each in found} == {64}


def test_a_cpu_tries_tiles_of_heads_beside_those_of_one() -> None:
    cpu = resolve_target('{"kind": "llvm", "mcpu": "x86-64-v4"}')
    space, shape = SPACES["llvm_fused"], PrefillShape(1, 20)
    for heads, shared in (((32, 8), 4), ((28, 4), 1), ((12, 12), 1)):
        spec = PrefillSpec(*heads, 64, "float32", **CAUSAL)
        found = space.variants(spec, shape, cpu)
        assert {each.get("heads", 1) for each in found} == {1, shared}
        for each in found:  # nearly as many positions as there are, of each head that shares
            assert each["q_tile"] // each.get("heads", 1) <= 32
            said = f"rows of {shared} heads side by side" in space.facts(spec, each)["tiles"]
            assert said == ("heads" in each)


def test_what_is_tuned_with_heads_serves_every_shape() -> None:
    spec, shape = PrefillSpec(4, 2, 64, "float16", **CAUSAL), PrefillShape(2, 140)
    variant = {"q_tile": 64, "kv_tile": 64, "overlap": True, "ring": 2, "persistent": 3}
    variant |= {"producer": True, "aligned": True, "heads": 2}
    target = resolve_target("cuda", arch="sm_90a")
    proposal = first_proposal("cuda_wgmma", variant, spec, shape, target)
    space = SPACES["cuda_wgmma"]
    found_again = replay(space, spec, SymbolicShape.fresh(), variant, proposal.trace)
    assert "% 2" in found_again.module.script()
