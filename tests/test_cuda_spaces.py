"""The tensor-core spaces on a machine without a GPU: what they offer, generate and compile to."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi
from cuda_schedules import (
    MMA_PIPELINES,
    WGMMA_DIRECT,
    WGMMA_HALVES,
    WGMMA_HEADS,
    WGMMA_ON_DEMAND,
    WGMMA_PIPELINES,
    WGMMA_SECTIONS,
    WGMMA_TURNS,
    first_proposal,
    last_proposal,
    pipeline_of,
    proposals,
)
from machine_code import compile_device, instructions
from tvm.s_tir import Schedule

from prefilltune.tuning.backends.cuda import CUDA
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.replaying import replay
from prefilltune.tuning.pipeline import AHEAD, pipeline
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import PrefillShape, PrefillSpec

pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")

GOLDEN = Path(__file__).parent / "golden"
HEAD_DIMS = (32, 64, 80, 96, 128, 192, 256)
# One that is no multiple of 64, the usual one, and the one that takes the most registers.
SOME_HEAD_DIMS = (80, 128, 256)
MASKS = ("padded", "causal_padded_left")
SHAPE = PrefillShape(2, 300)


def _target(arch: str) -> ResolvedTarget:
    return resolve_target("cuda", arch=arch)


def _first(space: str, spec: PrefillSpec, arch: str, shape: PrefillShape = SHAPE) -> Any:
    """The first candidate of the first variant: loads behind the barrier, no bound on registers."""
    target = _target(arch)
    variant = dict(SPACES[space].variants(spec, shape, target)[0])
    return first_proposal(space, variant, spec, shape, target)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_head_dim_has_variants_that_fit(head_dim: int, dtype: str) -> None:
    spec = PrefillSpec(8, 4, head_dim, dtype)
    for space, arch in (("cuda_wgmma", "sm_90a"), ("cuda_mma", "sm_90a"), ("cuda_mma", "sm_80")):
        target = _target(arch)
        variants = SPACES[space].variants(spec, PrefillShape(4, 2048), target)
        assert variants
        limit = int(target.target.attrs["max_shared_memory_per_block"])
        for variant in variants:
            rows = 2 * variant.get("ring", 2) * variant["kv_tile"]
            rows += (space == "cuda_wgmma" or "reload_query" in variant) * variant["q_tile"]
            assert rows * head_dim * 2 <= limit


def test_heads_wider_than_products_of_warpgroups_have_those_of_warps() -> None:
    spec, target = PrefillSpec(8, 8, 320, "float16"), _target("sm_90a")
    shape = PrefillShape(4, 512)
    assert not SPACES["cuda_wgmma"].variants(spec, shape, target)
    assert SPACES["cuda_mma"].variants(spec, shape, target)


@pytest.mark.parametrize(
    ("space", "arch", "dtype"),
    [
        ("cuda_wgmma", "sm_80", "float16"),
        ("cuda_wgmma", "sm_90", "float16"),
        ("cuda_mma", "sm_75", "float16"),
        ("cuda_mma_k8", "sm_75", "bfloat16"),
        ("cuda_wgmma", "sm_90a", "float32"),
        ("cuda_mma", "sm_80", "float32"),
    ],
)
def test_what_the_instructions_cannot_do_has_no_variants(space: str, arch: str, dtype: str) -> None:
    assert not SPACES[space].variants(PrefillSpec(8, 8, 64, dtype), SHAPE, _target(arch))


@pytest.mark.parametrize(
    ("arch", "dtype", "space"),
    [
        ("sm_90a", "bfloat16", "cuda_wgmma"),
        ("sm_90", "float16", "cuda_mma"),
        ("sm_80", "float16", "cuda_mma"),
        ("sm_90a", "float32", "cuda_simt"),
        ("sm_75", "float16", "cuda_mma_k8"),
        ("sm_75", "bfloat16", "cuda_simt"),
    ],
)
def test_the_fastest_space_is_searched(arch: str, dtype: str, space: str) -> None:
    spec = PrefillSpec(8, 4, 64, dtype)
    assert CUDA.default_spaces(spec, [SHAPE], _target(arch)) == [space]


@pytest.mark.parametrize("mask_mode", MASKS)
@pytest.mark.parametrize(("space", "arch"), [("cuda_mma", "sm_80"), ("cuda_mma_k8", "sm_75")])
def test_machine_code_of_mma(space: str, arch: str, mask_mode: str, tmp_path: Path) -> None:
    spec = PrefillSpec(8, 2, 64, "float16", mask_mode)
    _, cubin = compile_device(_first(space, spec, arch).module, _target(arch).target)
    code = instructions(cubin.image, tmp_path)
    assert ("HMMA.16816" if space == "cuda_mma" else "HMMA.1688") in code
    assert ("LDGSTS" in code) == (space == "cuda_mma")  # copies that pass the registers by
    loads, products = (len(re.findall(each, code)) for each in ("LDSM", "HMMA"))
    assert 3 * loads < products  # what a warp reads serves two blocks of 16 rows
    assert len(re.findall("LOP3", code)) < 2 * loads  # addresses are not permuted one by one
    assert not re.search(r"\b(LDL|STL)\b", code)  # nothing lives in local memory


@pytest.mark.parametrize(
    ("pipeline", "mask_mode"),
    [
        *((each, MASKS[0]) for each in WGMMA_PIPELINES if "persistent" not in each),
        *(
            (each, MASKS[1])
            for each in (
                *WGMMA_PIPELINES[:-1],
                *WGMMA_TURNS,
                *WGMMA_DIRECT,
                *WGMMA_HALVES,
                *WGMMA_ON_DEMAND,
                *WGMMA_SECTIONS,
                *WGMMA_HEADS,
            )
        ),
        # What this does, the code of the last one holds too.
        pytest.param(WGMMA_PIPELINES[-1], MASKS[1], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_machine_code_of_wgmma(pipeline: dict[str, Any], mask_mode: str, tmp_path: Path) -> None:
    spec, target = PrefillSpec(8, 2, 64, "float16", mask_mode), _target("sm_90a")
    variant = {"q_tile": 128, "kv_tile": 64, **pipeline}
    first = first_proposal("cuda_wgmma", variant, spec, SHAPE, target)
    _, cubin = compile_device(first.module, target.target)
    code = instructions(cubin.image, tmp_path)
    assert "HGMMA" in code
    assert ("UTMALDG" in code) == ("ring" in pipeline)  # bulk copies
    assert (len(re.findall("LDGSTS", code)) > 8) == ("ring" not in pipeline)
    assert "STG.E.128" in code  # the output, 16 bytes a thread
    waits = re.findall(r"WARPGROUP\.DEPBAR\.LE gsb0, (0x[01])", code)
    assert ("0x1" in waits) == ("overlap" in pipeline)  # one product waited for before another
    assert not re.search(r"\b(LDL|STL)\b", code)  # nothing lives in local memory
    # ptxas serialised no warpgroup product; 13.0 says that it put in a warpgroup.arrive (C7519).
    assert set(re.findall(r"C75\d*", cubin.log)) <= {"C7519"}
    assert "serialized" not in cubin.log
    # Whether the maximum is needed is asked of two numbers at a time.
    questions = len(re.findall(r"\bVIMNMX3\b", code))
    assert (questions >= variant["kv_tile"] // 4) == ("on_demand" in pipeline)
    # With maxima on demand ptxas waits early, but for what stands behind a question of arrivals.
    if "overlap" in pipeline and ("producer" in pipeline or "on_demand" not in pipeline):
        # The softmax of a tile runs beside the value product of the one before.
        beside = code.split("DEPBAR.LE gsb0, 0x1")[1].split("DEPBAR.LE gsb0, 0x0")[0]
        assert len(re.findall("MUFU.EX2", beside)) >= variant["kv_tile"] // 2


@pytest.mark.parametrize(
    ("head_dim", "pipelines"),
    [
        (72, (*WGMMA_PIPELINES, *WGMMA_TURNS, {**WGMMA_PIPELINES[-1], "heads": 2})),
        (40, (*WGMMA_PIPELINES, *WGMMA_TURNS, {**WGMMA_PIPELINES[-1], "heads": 2})),
        (46, ({},)),
    ],
)
def test_tiles_of_any_head_dim_are_offered(
    head_dim: int, pipelines: tuple[dict[str, Any], ...]
) -> None:
    """Bulk copies, where rows begin at a multiple of 16 bytes; never more memory than there is."""
    spec = PrefillSpec(8, 4, head_dim, "bfloat16")
    for space, arch in (("cuda_wgmma", "sm_90a"), ("cuda_mma", "sm_90a"), ("cuda_mma", "sm_80")):
        target = _target(arch)
        variants = SPACES[space].variants(spec, PrefillShape(4, 2048), target)
        limit = int(target.target.attrs["max_shared_memory_per_block"])
        for variant in variants:
            rows = 2 * variant.get("ring", 2) * variant["kv_tile"]
            rows += (space == "cuda_wgmma" or "reload_query" in variant) * variant["q_tile"]
            assert rows * -(-head_dim // 16) * 32 <= limit
        wanted = pipelines if space == "cuda_wgmma" else MMA_PIPELINES
        kinds = ({_besides_maxima(each) for each in some} for some in (variants, wanted))
        assert next(kinds) == next(kinds)


def _besides_maxima(variant: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """How it is pipelined, whenever maxima are computed."""
    return tuple((n, each) for n, each in pipeline_of(variant).items() if n != "on_demand")


@pytest.mark.parametrize(
    ("space", "arch", "head_dim", "dtype", "more"),
    [
        ("cuda_mma", "sm_80", 46, "bfloat16", {}),
        ("cuda_wgmma", "sm_90a", 72, "bfloat16", {"overlap": True, "ring": 2}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("cuda_mma", "sm_80", 72, "float16", {}),
                ("cuda_wgmma", "sm_90a", 46, "float16", {}),
                ("cuda_wgmma", "sm_90a", 40, "float16", {"ring": 3}),
            )
        ),
    ],
    ids=str,
)
def test_machine_code_of_any_head_dim(
    space: str, arch: str, head_dim: int, dtype: str, more: dict[str, Any], tmp_path: Path
) -> None:
    spec, target = PrefillSpec(8, 2, head_dim, dtype, "causal_padded_left"), _target(arch)
    variant = {"q_tile": 64, "kv_tile": 64, **more}
    source, cubin = compile_device(
        first_proposal(space, variant, spec, SHAPE, target).module, target.target
    )
    code = instructions(cubin.image, tmp_path)
    assert ("HMMA" if space == "cuda_mma" else "HGMMA") in code
    assert not re.search(r"\b(LDL|STL)\b", code)  # nothing lives in local memory
    size = 2 * math.gcd(8, head_dim)  # bytes at a multiple of which each row begins
    store = {16: r"STG\.E\.128", 4: r"STG\.E", 2: r"STG\.E\.U16"}[size]
    assert re.search(rf"{store} (desc)?\[", code)
    if "ring" in more:
        assert "UTMALDG" in code
    else:
        copies = re.findall(r"cp\.async\.c[ag]\.shared\.global \[%0\], \[%1\], (\d+), %2", source)
        assert set(copies) == ({str(size)} if size > 2 else set())
        assert ("LDGSTS" in code) == (size > 2)


@pytest.mark.parametrize("ring", [2, 3])
@pytest.mark.parametrize("overlap", [{}, {"overlap": True}], ids=["in turn", "overlap"])
def test_loads_may_fill_the_rings_at_once(overlap: dict[str, Any], ring: int) -> None:
    spec, target = PrefillSpec(8, 2, 64, "float16"), _target("sm_90a")
    variant = {"q_tile": 64, "kv_tile": 64, "ring": ring, **overlap}
    for ahead, proposal_of in ((1, first_proposal), (ring, last_proposal)):
        proposal = proposal_of("cuda_wgmma", variant, spec, SHAPE, target)
        before = pipeline(proposal.module).script().split("prefill_ring_arrived")[0]
        assert before.count('"prefill_ring_load') == 1 + 2 * ahead  # and the query


def test_loads_no_further_ahead_than_a_ring_has_slots() -> None:
    spec, target = PrefillSpec(8, 2, 64, "float16"), _target("sm_90a")
    variant = {"q_tile": 64, "kv_tile": 64, "ring": 2}
    schedule = Schedule(first_proposal("cuda_wgmma", variant, spec, SHAPE, target).module)
    loop = next(
        loop
        for loop in schedule.get_loops(schedule.get_sblock("scores"))
        if AHEAD in schedule.get(loop).annotations
    )
    schedule.unannotate(loop, AHEAD)
    schedule.annotate(loop, AHEAD, 3)
    with pytest.raises(ValueError, match="3 tiles ahead, in rings of 2; at least 1"):
        pipeline(schedule.mod)


@pytest.mark.parametrize(
    ("head_dim", "dtype"),
    [
        *((each, "float16") for each in SOME_HEAD_DIMS),
        *(pytest.param(each, "bfloat16", marks=pytest.mark.thorough) for each in SOME_HEAD_DIMS),
        *(
            pytest.param(each, ("float16", "bfloat16")[number % 2], marks=pytest.mark.slow)
            for number, each in enumerate(HEAD_DIMS)
            if each not in SOME_HEAD_DIMS
        ),
    ],
)
@pytest.mark.parametrize(("space", "arch"), [("cuda_wgmma", "sm_90a"), ("cuda_mma", "sm_80")])
def test_nothing_spills(space: str, arch: str, head_dim: int, dtype: str) -> None:
    spec = PrefillSpec(4, 2, head_dim, dtype, "causal_padded_left")
    target = _target(arch)
    # The estimate of registers lets some variants in that spill; not all of the first ones may.
    firsts = (
        first_proposal(space, dict(variant), spec, SHAPE, target)
        for variant in SPACES[space].variants(spec, SHAPE, target)[:3]
    )
    logs = (compile_device(each.module, target.target)[1].log for each in firsts)
    assert any(re.search(r"\b0 bytes spill stores", log) for log in logs)


@pytest.mark.parametrize("space", ["cuda_wgmma", "cuda_mma"])
def test_traces_replay_from_their_json(space: str) -> None:
    spec, target = PrefillSpec(4, 2, 64, "float16"), _target("sm_90a")
    variant = dict(SPACES[space].variants(spec, SHAPE, target)[0])
    found = proposals(space, variant, spec, SHAPE, target)
    assert len({str(proposal.trace[1]) for proposal in found}) == len(found) > 1
    for proposal in found[:2]:
        found = replay(SPACES[space], spec, SHAPE, variant, proposal.trace)
        assert tvm_ffi.structural_equal(found.module, proposal.module)


@pytest.mark.parametrize(
    ("name", "more"),
    [("cuda_wgmma", {}), ("cuda_wgmma_rings", {"overlap": True, "ring": 2}), ("cuda_mma", {})],
)
def test_scheduled_kernel_is_the_golden_one(
    name: str, more: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """A change in what is generated shows in review; --update-golden accepts it."""
    spec = PrefillSpec(2, 1, 32, "float16", "causal_padded_left")
    shape, target = PrefillShape(2, 100, 130), _target("sm_90a")
    variant = {"q_tile": 64, "kv_tile": 64, **more}
    scheduled = first_proposal(name.removesuffix("_rings"), variant, spec, shape, target).module
    text = re.sub(r'source_code=".*"\)', "source_code=...)", pipeline(scheduled).script())
    text += "\n"
    golden = GOLDEN / f"{name}_causal.py.txt"
    if request.config.getoption("--update-golden"):
        golden.write_text(text)
    assert text == golden.read_text()
