"""A persistent grid: every tile once, the longest first, its loads before the last one's output."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cuda_schedules import first_proposal
from machine_code import compile_device, instructions
from tvm import tirx
from tvm.ir import Range
from tvm.s_tir import SBlock, SBlockRealize, Schedule
from tvm.sym.analyzer import Analyzer

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import generate
from prefilltune.tuning.building.replaying import replay
from prefilltune.tuning.errors import PipelineError
from prefilltune.tuning.intrinsics.registers import left_over
from prefilltune.tuning.pipeline import ALTERNATE, BULK, PERSISTENT, SECTIONS, pipeline
from prefilltune.tuning.pipeline.steps import substituted
from prefilltune.tuning.pipeline.taking import Taken, TakenInSections
from prefilltune.tuning.pipeline.telling import Told
from prefilltune.tuning.pipeline.without_keys import without_keys
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape

pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")

SPEC, SHAPE = PrefillSpec(4, 2, 64, "bfloat16", "causal_padded"), PrefillShape(5, 301)
VARIANT = {"q_tile": 128, "kv_tile": 64, "overlap": True, "ring": 2, "persistent": 3}


@cache
def _proposal(**more: Any) -> Any:
    target = resolve_target("cuda", arch="sm_90a")
    return first_proposal("cuda_wgmma", {**VARIANT, **more}, SPEC, SHAPE, target)


def _pipelined(**more: Any) -> str:
    return re.sub(r"source_code=.*\)", "source_code)", pipeline(_proposal(**more).module).script())


@pytest.mark.parametrize(
    ("blocks", "items"), [(5, 1), (5, 5), (5, 13), (5, 23), (1, 4), (132, 900)]
)
def test_every_item_is_taken_once(blocks: int, items: int) -> None:
    taken = [each for block in range(blocks) for each, _ in _taken(block, blocks, items, 1)]
    assert sorted(taken) == list(range(items))


@pytest.mark.parametrize("sections", [2, 3, 4])
@pytest.mark.parametrize(("blocks", "items"), [(5, 1), (5, 13), (1, 4), (4, 0), (132, 528)])
def test_every_item_of_every_section_is_taken_once(blocks: int, items: int, sections: int) -> None:
    taken = [_taken(block, blocks, items, sections) for block in range(blocks)]
    assert all([section for _, section in each] == sorted(s for _, s in each) for each in taken)
    every = [(item, section) for section in range(sections) for item in range(items)]
    assert sorted(itertools.chain(*taken)) == sorted(every)


def test_turns_of_two_sections_even_out() -> None:
    taken = [_taken(block, 5, 13, 2) for block in range(5)]
    assert [len(each) for each in taken] == [5, 5, 6, 5, 5]


def _taken(block: int, blocks: int, items: int, sections: int) -> list[tuple[int, int]]:
    """Items that a block takes, and of which section each is."""
    of = [tirx.const(each, "int32") for each in (block, blocks, items)]
    taken = Taken(*of) if sections == 1 else TakenInSections(*of, sections)
    known: dict[Any, Any] = {}

    def value(of: Any) -> Any:
        return Analyzer().simplify(substituted(of, known))

    def bind(stmts: Sequence[Any]) -> None:
        memory: dict[int, Any] = {}
        for each in stmts:
            if isinstance(each, tirx.BufferStore):
                memory[int(each.indices[0])] = value(each.value)
            else:
                known[each.var] = memory[int(each.value.indices[0])]

    bind(taken.begin)
    found = []
    for turn in range(int(value(taken.turns))):
        item = taken.item(tirx.const(turn, "int32"))
        bind(item.binds)
        found.append((int(value(item.number)), int(value(item.section)) if sections > 1 else 0))
    return found


@pytest.mark.parametrize("overlap", [True, False])
def test_the_next_loads_are_started_before_the_output_is_written(overlap: bool) -> None:
    text = _pipelined(overlap=overlap)
    before, tile = text.split("for turn in")
    assert before.count('"prefill_ring_load') == 3  # query, keys and values of a block's first tile
    # A tile without keys is cleared, behind the next one's loads.
    skipped, cleared, tile = re.split(r'"prefill_fill_\d+"', tile)
    assert skipped.count('"prefill_ring_load_128') == 1
    assert '"prefill_ring_load_128' not in cleared
    loop, rest = re.split(r"for \w+ in range\(tiles(?: - 1)?\):", tile)
    assert '"prefill_ring_load_128' not in loop
    assert 0 < rest.index('"prefill_ring_load_128') < rest.index('"prefill_write_rows')
    # Where overlapped, even before the last product of values has ended.
    last_wait = rest.rindex('"prefill_wait_product')
    assert (rest.index('"prefill_ring_load_128') < last_wait) == overlap
    assert rest.count('"prefill_ring_load_128') == 1


@pytest.mark.parametrize("grid", [{"persistent": 0}, {}, {"producer": True}], ids=str)
def test_tiles_of_padding_are_skipped_where_it_stays_untouched(grid: dict[str, Any]) -> None:
    spec, target = replace(SPEC, padding_output="untouched"), resolve_target("cuda", arch="sm_90a")
    proposal = first_proposal("cuda_wgmma", {**VARIANT, **grid}, spec, SHAPE, target)
    text = re.sub(r"source_code=.*\)", "source_code)", pipeline(proposal.module).script())
    assert ("thread_return" in text) == ("persistent" in grid)
    assert "continue_loop" not in text
    assert "prefill_fill" not in text
    if "persistent" not in grid:  # the first rows of a tile, up to the valid length
        (end,) = re.findall(r'"prefill_write_\w+", .*?, 0, (T.min\(.*?\)), T.Cast', text)
        assert "valid_lens" in end


def test_rings_go_on_from_tile_to_tile() -> None:
    text = _pipelined().split("for turn in")[1]
    read = re.findall(r"T.match_buffer\([kv]_rows\w*\[(.*?), 0[:,]", text)
    assert set(read) == {"(wjt_o % 2 + tiles_before) % 2"}
    turns = re.findall(r'"prefill_ring_arrived".*, (.*?), source_code', text)
    assert turns.pop(0) == "queries_before"
    assert all("tiles_before" in each for each in turns)


def test_a_producer_loads_and_the_others_compute() -> None:
    text = _pipelined(producer=True)
    before, compute, others = re.split(
        r"if warp < 8:|(?=T.cuda.func_call..prefill_reg\w+_dec)", text
    )
    assert '"prefill_ring_load' not in before + compute
    assert "prefill_wait_product" not in others
    assert '"prefill_registers_inc_240"' in compute
    # The query's slot is free behind the last scores, and not only behind their softmax.
    for text in compute.split("for step in"):
        free = re.search(
            r'if .* == tiles - 1:\n +T.cuda.func_call\("prefill_ring_done".*, turn % 2, ', text
        )
        assert free is not None
        assert text.index("prefill_wait_product") < free.start() < text.index("prefill_exp2")
    assert '"prefill_registers_dec_24"' in others
    assert 'thread="threadIdx.z"' not in compute.split("for turn in")[1]
    # Tiles without keys come last, and only those who write them get there.
    assert before.count('"prefill_rank"') == 1
    ends = [
        each.split("for turn in range(")[1].split("):")[0]
        for each in (compute, *others.split("else:")[:2])
    ]
    assert ["some" in each for each in ends] == [True, False, True]
    # All rows of a thread at once, and none asks which threads are there.
    assert '"prefill_quad_max"' in compute
    assert "T.axis.reduce(4, lane)" not in compute
    # One warp loads: a tile's first keys, its query, keys and values. Others write what is empty.
    write, load, nothing = others.split("else:")
    assert '"prefill_ring_load' not in nothing
    assert load.count('"prefill_ring_load') == 4
    assert re.findall(r"(?:output|lse)\[.*?\] = (.*)", write) == [
        "T.bfloat16(0.0)",
        "T.bfloat16(-338953138925153547590470800371487866880.0)",
    ]


def test_those_that_compute_look_nothing_up() -> None:
    for layout in ("padded", "packed"):
        spec, target = replace(SPEC, layout=layout), resolve_target("cuda", arch="sm_90a")
        proposal = first_proposal("cuda_wgmma", {**VARIANT, "producer": True}, spec, SHAPE, target)
        text = pipeline(proposal.module).script()
        compute = re.split(r"if warp < 8:|(?=T.cuda.func_call..prefill_reg\w+_dec)", text)[1]
        assert "prefill_rank" not in compute
        assert not re.search(r"(valid_lens|cu_seqlens_\w+)\[", compute)
        # Who loads tells them, before they are let go on.
        told = text.rindex('"prefill_tell"')
        assert text.rindex('"prefill_ring_free"') < told < text.rindex('"prefill_ring_filled"')
        # What is the same for all tiles is known anyway.
        assert re.search(r"begin\w*: T.let\[T.int32\] = 0\n", compute)


def test_what_is_told_of_a_tile_is_few_whole_numbers() -> None:
    barriers = tirx.decl_buffer((128,), "uint64", scope="shared.dyn")
    many = tuple(tirx.Var(f"v{i}", "int32") for i in range(65))
    Told(many[:64], 2, barriers)
    for variables, told in ((many, "v64 (int32)"), ((tirx.Var("w", "float32"),), "w (float32)")):
        with pytest.raises(PipelineError, match=re.escape(told)):
            Told(variables, 2, barriers)


def test_tiles_of_packed_sequences_are_found_once_and_come_longest_first() -> None:
    spec, target = replace(SPEC, layout="packed"), resolve_target("cuda", arch="sm_90a")
    proposal = first_proposal("cuda_wgmma", {**VARIANT, "producer": True}, spec, SHAPE, target)
    text = re.sub(r"source_code=.*\)", "source_code)", pipeline(proposal.module).script())
    made, tiles = text.split('"prefill_rank"')
    # How many keys a tile sees, and of which sequence it is: then it is searched no more.
    assert re.search(r'"prefill_rank_count", .*, sequence, ', made)
    assert "vb_ends[" not in made
    assert "while " not in tiles
    loading, writing = re.findall(r"vb_ends\[0\] = (.*)", tiles)
    assert "prefill_rank_group" in loading
    assert "prefill_rank_group" in writing
    # Behind the last row of a sequence lies the next one.
    (end,) = re.findall(r'"prefill_write_\w+", .*?, 0, (.*?), T.Cast', tiles)
    assert "clamped" in end


def test_how_many_tiles_there_are_is_read_where_it_is_asked_for() -> None:
    """TVM would go through the division in every condition, for a minute."""
    spec, target = replace(SPEC, layout="packed"), resolve_target("cuda", arch="sm_90a")
    trace = first_proposal("cuda_wgmma", VARIANT, spec, SHAPE, target).trace
    found = replay(SPACES["cuda_wgmma"], spec, PackedShape.fresh(), VARIANT, trace)
    text = pipeline(found.module).script()
    assert len(re.findall(r"if pt_extent\w* <= ", text)) > 1
    assert not re.search(r"total_q // \d+ \+ \(num_offsets - 1\) <= ", text)


def test_rows_of_packed_sequences_are_written_up_to_one() -> None:
    spec, target = replace(SPEC, layout="packed"), resolve_target("cuda", arch="sm_90a")
    schedule = Schedule(first_proposal("cuda_wgmma", VARIANT, spec, SHAPE, target).module)
    loops: list[Any] = [*schedule.get_loops(schedule.get_sblock("output"))]
    schedule.split(loops[-1], [3, None])  # what is left over asks for columns too
    with pytest.raises(PipelineError, match="rows of packed sequences are stored where"):
        pipeline(schedule.mod)


def test_a_tile_without_keys_is_given_constants() -> None:
    computed = tirx.decl_buffer((4,), "float32", name="computed")
    output = tirx.decl_buffer((4,), "float32", name="output")
    i = tirx.IterVar(Range(0, 4), tirx.Var("i", "int32"), tirx.IterVar.DataPar)
    value = computed[i.var] + tirx.const(1.0, "float32")
    store = tirx.BufferStore(output, value, [i.var])
    block = SBlock([i], [], [], "output", store)
    with pytest.raises(PipelineError, match="output has no constant for rows that attend to noth"):
        without_keys([SBlockRealize([tirx.const(0, "int32")], True, block)])


@pytest.mark.parametrize(
    ("blocks", "warpgroups", "count"), [(1, 2, 240), (1, 3, 160), (2, 1, 232), (2, 2, 104)]
)
def test_registers_go_to_those_that_compute(blocks: int, warpgroups: int, count: int) -> None:
    assert left_over(blocks, warpgroups) == count
    assert blocks * 128 * (count * warpgroups + 24) <= 65536


@pytest.mark.parametrize("more", [{}, {"producer": True}], ids=str)
def test_warps_meet_nowhere_between_tiles(more: dict[str, Any]) -> None:
    module = _proposal(**more).module
    source, _ = compile_device(module, resolve_target("cuda", arch="sm_90a").target)
    kernel = source[source.rindex("main_kernel(") :]
    assert "__syncthreads" in kernel.split("for (int turn")[0]
    assert "__syncthreads" not in kernel.split("for (int turn")[1]


@pytest.mark.parametrize("mode", ["padded", "causal_padded"])
def test_what_a_warp_shares_is_computed_once_for_it(mode: str, tmp_path: Path) -> None:
    # Where ptxas does not see that lanes agree, it moves each descriptor of a tile to the warp: 64
    # moves for 24 products here, and three instructions a move to compute it.
    target = resolve_target("cuda", arch="sm_90a")
    variant = {**VARIANT, "producer": True, "persistent": 132}
    spec, shape = PrefillSpec(4, 2, 64, "bfloat16", mode), PrefillShape(5, 1000)
    module = first_proposal("cuda_wgmma", variant, spec, shape, target).module
    code = instructions(compile_device(module, target.target)[1].image, tmp_path)
    assert code.count("R2UR") < code.count("HGMMA")


def test_a_grid_with_fewer_tiles_than_blocks_compiles() -> None:
    target = resolve_target("cuda", arch="sm_90a")
    source, _ = compile_device(_proposal(overlap=True, persistent=132).module, target.target)
    assert "for (int turn" not in source


@pytest.mark.slow
def test_a_kernel_for_every_shape_compiles_and_spills_nothing() -> None:
    target, proposal = resolve_target("cuda", arch="sm_90a"), _proposal()
    sizes = SymbolicShape.fresh()
    found = replay(SPACES["cuda_wgmma"], SPEC, sizes, VARIANT, proposal.trace)
    _, cubin = compile_device(found.module, target.target)
    assert re.search(r"\b0 bytes spill stores", cubin.log)


def test_the_output_has_shared_memory_of_its_own_or_none() -> None:
    space, target = SPACES["cuda_wgmma"], resolve_target("cuda", arch="sm_90a")
    spec, shape = PrefillSpec(4, 4, 256, "bfloat16"), PrefillShape(4, 2048)
    offered = list(map(dict, space.variants(spec, shape, target)))
    assert {"q_tile": 128, "kv_tile": 64, "ring": 2} in offered
    wide = [each for each in offered if "persistent" in each and each["q_tile"] == 128]
    assert [each["kv_tile"] for each in wide] == [64, 80]
    assert all(each.get("direct") for each in wide)


@pytest.mark.parametrize(
    "more", [{}, {"producer": True}, {"producer": True, "direct": True}], ids=str
)
def test_a_block_is_given_the_shared_memory_that_its_variant_is_judged_by(
    more: dict[str, Any],
) -> None:
    said = SPACES["cuda_wgmma"].facts(SPEC, {**VARIANT, **more})["shared memory of a block"]
    target = resolve_target("cuda", arch="sm_90a").target
    host: Any = generate(_proposal(**more).module, target)
    asked = {int(each) for each in re.findall(r"i64 (\d+)\b", host.inspect_source("ll"))}
    assert said in {f"{each / 1024:.0f} KiB" for each in asked if each % 1024 == 0}


@pytest.mark.parametrize("more", [{}, {"direct": True}], ids=str)
def test_the_output_leaves_registers_at_once_where_others_load(more: dict[str, Any]) -> None:
    text = _pipelined(producer=True, **more)
    assert '"prefill_write_rows' not in text
    # Then there is room for the next query, unless there never was any for the output.
    slot, *_ = re.findall(r'"prefill_ring_arrived", .*?, 128, 0\), (.*?), ', text)
    assert slot == ("0" if more else "turn % 2")
    # Who says how rows are set apart is asked for what it writes; a library's kernels do not say.
    assert "buffer_dim_align" not in text
    (write,) = re.findall(r'"prefill_write_fragments_64_64", T.address_of\((\w+)\[', text)
    assert re.search(rf'{write} = .*scope="m16n8k8.matrixC"', text)


def _reannotated(name: str, value: int | None, **more: Any) -> Any:
    schedule = Schedule(_proposal(**more).module)
    loops: list[Any] = [*schedule.get_loops(schedule.get_sblock("scores"))]
    stmts: list[Any] = [schedule.get(each) for each in loops]
    annotations = [each.annotations for each in stmts]
    index = next(i for i, each in enumerate(annotations) if PERSISTENT in each)
    loop = loops[index]
    if name in annotations[index]:
        schedule.unannotate(loop, name)
    if value is not None:
        schedule.annotate(loop, name, value)
    return schedule.mod


def test_a_persistent_grid_needs_rings() -> None:
    with pytest.raises(PipelineError, match=f"a loop with {PERSISTENT} needs {BULK} too"):
        pipeline(_reannotated(BULK, None))


def test_a_producer_needs_a_persistent_grid() -> None:
    with pytest.raises(PipelineError, match=f"annotate it with {PERSISTENT} too"):
        pipeline(_reannotated(PERSISTENT, None, producer=True))


def test_rings_have_no_more_slots_than_barriers() -> None:
    pipeline(_proposal(producer=True, ring=15).module)
    with pytest.raises(PipelineError, match=r"rings of 34 slots in all .* use at most 32 slots"):
        pipeline(_proposal(producer=True, ring=16).module)


def test_registers_are_moved_by_whole_warpgroups() -> None:
    with pytest.raises(PipelineError, match="6 warps that compute cannot be given the registers"):
        pipeline(_reannotated(BULK, 6, producer=True))


def test_one_warpgroup_takes_no_turns() -> None:
    with pytest.raises(PipelineError, match="4 warps cannot take turns at the tensor cores"):
        pipeline(_reannotated(ALTERNATE, 1, q_tile=64))


def test_sections_need_a_producer_and_divide_the_heads() -> None:
    for sections, more in ((2, {}), (3, {"producer": True})):
        with pytest.raises(PipelineError, match=f"4 heads cannot be taken in {sections} sections"):
            pipeline(_reannotated(SECTIONS, sections, **more))
    pipeline(_reannotated(SECTIONS, 2, producer=True))


def test_sections_are_tried_where_a_cache_would_lose_keys() -> None:
    space, target = SPACES["cuda_wgmma"], resolve_target("cuda", arch="sm_90a")

    def tried(spec: PrefillSpec, shape: PrefillShape) -> set[int]:
        return {each.get("sections", 1) for each in space.variants(spec, shape, target)}

    spec = PrefillSpec(32, 8, 128, "bfloat16", "causal_padded_left")
    assert tried(spec, PrefillShape(4, 2048)) == {1, 2, 4}
    assert tried(replace(spec, num_qo_heads=28, num_kv_heads=14), PrefillShape(4, 2048)) == {1, 2}
    assert tried(spec, PrefillShape(1, 2048)) == {1}
    assert tried(replace(spec, window=(256, 0)), PrefillShape(4, 2048)) == {1}
    assert tried(replace(spec, window=(None, None)), PrefillShape(4, 2048)) == {1}
