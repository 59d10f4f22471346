"""Warm starts: which records the search for another workload begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tvm_ffi
from cuda_schedules import first_proposal
from database_fixtures import KEY, filled, small_entry
from small_libraries import small_record

from prefilltune.database import Entry, Finder, TargetKey, Tier, record_id, without_end
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.search.arms import Arm
from prefilltune.tuning.search.builders import BuilderProcess
from prefilltune.tuning.search.search import Search
from prefilltune.tuning.search.state import Limit
from prefilltune.tuning.search.trial_log import Trial, TrialLog
from prefilltune.tuning.search.warm_start import nearest_trials
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths

SPACE = "llvm_fused"


@pytest.fixture(scope="module")
def target() -> ResolvedTarget:
    return resolve_target("llvm", threads=1)


def _tiles(folder: Path, case: Case, records: list[tuple[str, str, str]]) -> list[int]:
    """Numbers of the records (spec, shape, lengths) in the order that a search takes them."""
    entries = [
        small_entry(
            number, secs=9.0, spec=spec, shape=shape, lens=lens, space=SPACE, variant={"n": number}
        )
        for number, (spec, shape, lens) in enumerate(records)
    ]
    found = nearest_trials(filled(folder, entries, KEY), case, [SPACE])
    return [trial.variant["n"] for trial in found]


def test_the_nearest_workload_comes_first(tmp_path: Path, target: ResolvedTarget) -> None:
    spec, near = PrefillSpec(12, 12, 64), PrefillSpec(16, 16, 64)
    case = Case(spec, PrefillShape(4, 128), parse_lengths("full"))
    records = [
        (str(spec), "b4_q128_kv128", "full"),  # the case itself
        (str(spec), "b32_q2048_kv2048", "full"),
        (str(near), "b4_q128_kv128", "full"),
        (str(spec), "b4_q128_kv128", "uniform"),
        (str(PrefillSpec(12, 12, 128)), "b4_q128_kv128", "full"),
        (str(PrefillSpec(12, 12, 64, mask_mode="causal_padded_left")), "b4_q128_kv128", "full"),
        (str(PrefillSpec(12, 12, 64, "float32")), "b4_q128_kv128", "full"),
        (str(PrefillSpec(12, 12, 64, window=(64, 64))), "b4_q128_kv128", "full"),
        (f"{spec}_sparse7", "b4_q128_kv128", "full"),  # of another version
    ]
    assert _tiles(tmp_path, case, records) == [0, 3, 2, 7]


def test_a_case_begins_with_its_own_record_though_others_are_faster(tmp_path: Path) -> None:
    """Shorter lengths of the same shape take less time, with tiles that suit them."""
    spec = PrefillSpec(12, 12, 64)
    names = [str(replace(spec, padding_output="untouched")), str(replace(spec, layout="packed"))]
    records = [(each, "uniform", 1.0) for each in (*names, str(spec))]
    records += [(names[0], "full", 2.0), (names[1], "full", 2.5)]
    entries = [
        small_entry(n, secs=secs, spec=name, shape="b4_q128_kv128", lens=lens, space=SPACE,
                    variant={"n": n})
        for n, (name, lens, secs) in enumerate([*records, (str(spec), "full", 3.0)])
    ]  # fmt: skip
    case = Case(spec, PrefillShape(4, 128), parse_lengths("full"))
    found = nearest_trials(filled(tmp_path, entries, KEY), case, [SPACE])
    assert [trial.variant["n"] for trial in found] == [5, 3, 4, 2]


def test_records_of_other_targets_are_taken_too(tmp_path: Path) -> None:
    """The first candidate on a machine that nobody tuned for is that of its level.

    And on one that was tuned for, before what it has for a workload that is far away.
    """
    case = Case(PrefillSpec(12, 12, 64), PrefillShape(4, 128), parse_lengths("full"))

    def entry(number: int, shape: str) -> Entry:
        fields = {"spec": str(case.spec), "shape": shape, "space": SPACE, "variant": {"n": number}}
        return small_entry(number, **fields)

    asked = replace(KEY, levels=("x86-64-v3",))
    (level,) = asked.portable
    filled(tmp_path, [entry(0, "b4_q128_kv128"), entry(1, "b1_q128_kv128")], KEY)
    filled(tmp_path, [entry(2, "b4_q128_kv128"), entry(1, "b1_q128_kv128")], level)
    filled(tmp_path, [entry(3, "b4_q128_kv128")], TargetKey("llvm", "apple_m1", "8c"))
    own, *others = Finder([tmp_path]).stores(asked, Tier.OTHER_TARGET)
    found = nearest_trials(own, case, [SPACE], others)
    assert [trial.variant["n"] for trial in found] == [0, 2, 3, 1]


def test_what_padded_records_decided_begins_a_packed_search(
    tmp_path: Path, target: ResolvedTarget, builders: Sequence[BuilderProcess]
) -> None:
    """And arms that only replay, of earlier versions, take the place of none that proposes."""
    padded = PrefillSpec(4, 2, 16, "float32")
    entry = small_record(padded, target, SPACE)
    case = Case(replace(padded, layout="packed"), PrefillShape(2, 40), parse_lengths("uniform"))
    (near,) = nearest_trials(filled(tmp_path, [entry], target.key), case, [SPACE])
    old = [Trial(SPACE, {"q_tile": tile, "kv_tile": 32, "packed": False}, [[], []])
           for tile in (16, 32)]  # fmt: skip
    log = TrialLog(tmp_path / "log", {})
    with Search(
        case, target, [SPACES[SPACE]], log, lambda _: None, builders=builders, warm=[near, *old]
    ) as search:
        state = search.run(Limit(trials=2))
    assert (state.trials, state.failures) == (2, {})
    first = search.trials[0]
    assert first.variant == entry.provenance.variant
    mine, theirs = ([value for _, value in sorted(each[1])] for each in (first.trace, entry.trace))
    assert mine == theirs


def test_few_trials_leave_out_nothing_that_was_fast_nearby(
    tmp_path: Path, target: ResolvedTarget, builders: Sequence[BuilderProcess]
) -> None:
    """Of more variants than so few trials refine, the last ones of the space among them."""
    case = Case(PrefillSpec(4, 2, 16, "float32"), PrefillShape(2, 40), parse_lengths("full"))
    warm = []
    for variant in SPACES[SPACE].variants(case.spec, case.shape, target)[-1:-4:-1]:
        proposal, *_ = Arm(case, target, SPACES[SPACE], dict(variant), None, 1, 1).propose(1)
        warm.append(Trial(SPACE, dict(variant), proposal.trace))
    log = TrialLog(tmp_path / "log", {})
    with Search(
        case, target, [SPACES[SPACE]], log, lambda _: None, builders=builders, warm=warm
    ) as search:
        search.run(Limit(trials=3))
    tried = {each.identity for each in search.trials}
    assert tried == {each.identity for each in warm}


def test_packed_sequences_learn_from_padding_on_either_side(tmp_path: Path) -> None:
    """Their own side says nothing: decoders' records are padded on the left."""
    left, right = (
        PrefillSpec(8, 4, 64, padding=side, window=(None, 0)) for side in ("left", "right")
    )
    shape = "b4_q128_kv128"
    records = [(str(left), shape, "full"), (str(right), shape, "uniform")]
    packed = Case(replace(right, layout="packed"), PrefillShape(4, 128), parse_lengths("full"))
    assert _tiles(tmp_path / "packed", packed, records) == [0, 1]
    assert _tiles(tmp_path / "padded", replace(packed, spec=right), records) == [1]
    of_packed = [(str(packed.spec), shape, "full")]
    assert _tiles(tmp_path / "left", replace(packed, spec=left), of_packed) == [0]


def test_another_dtype_of_the_same_width_is_near(tmp_path: Path, target: ResolvedTarget) -> None:
    case = Case(PrefillSpec(8, 4, 64, "bfloat16"), PrefillShape(4, 128), parse_lengths("full"))
    records = [
        (str(PrefillSpec(8, 4, 64, "float16")), "b4_q128_kv128", "full"),
        (str(PrefillSpec(8, 4, 64, "float32")), "b4_q128_kv128", "full"),
        (str(PrefillSpec(8, 4, 64, "bfloat16")), "b4_q256_kv128", "full"),
    ]
    assert _tiles(tmp_path, case, records) == [0, 2]


def test_other_spaces_are_left_alone(tmp_path: Path, target: ResolvedTarget) -> None:
    case = Case(PrefillSpec(8, 4, 64), PrefillShape(4, 128), parse_lengths("full"))
    store = filled(tmp_path, [small_entry(0, spec=str(case.spec), shape="b1_q64_kv64")], KEY)
    assert nearest_trials(store, case, [SPACE]) == []


@pytest.mark.parametrize(
    ("dtype", "other"),
    [("float16", "bfloat16"), pytest.param("bfloat16", "float16", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("more", [{}, {"ring": 2}], ids=["cp.async", "ring"])
def test_a_trace_of_another_dtype_replays(
    dtype: str, other: str, more: dict[str, int], tmp_path: Path
) -> None:
    cuda, shape = resolve_target("cuda", arch="sm_90a"), PrefillShape(2, 128)
    spec, wanted = PrefillSpec(4, 2, 64, dtype), PrefillSpec(4, 2, 64, other)
    variant = {"q_tile": 64, "kv_tile": 64, **more}
    trace = first_proposal("cuda_wgmma", variant, spec, shape, cuda).trace
    near = small_entry(0, spec=str(spec), shape=str(shape), space="cuda_wgmma", variant=variant)
    record = replace(near, trace=trace, record_id=record_id("0", trace))
    case = Case(wanted, shape, parse_lengths("full"))
    (trial,) = nearest_trials(filled(tmp_path, [record], KEY), case, ["cuda_wgmma"])
    arm = Arm(case, cuda, SPACES["cuda_wgmma"], trial.variant, None, 8, 1)
    replayed = arm.replay(trial)
    assert replayed is not None
    expected = first_proposal("cuda_wgmma", variant, wanted, shape, cuda)
    assert tvm_ffi.structural_equal(replayed.module, expected.module)


def test_what_is_replayed_is_the_trial_of_what_was_proposed() -> None:
    """A search that begins with a record of its own case measures that schedule once, though the
    record has lost the mark that ends what is proposed."""
    spec, shape = PrefillSpec(2, 1, 64), PrefillShape(2, 128)
    target = resolve_target("cuda", arch="sm_90a")
    variant = SPACES["cuda_wgmma"].variants(spec, shape, target)[0]
    proposed = first_proposal("cuda_wgmma", dict(variant), spec, shape, target).trace
    case = Case(spec, shape, parse_lengths("full"))
    arm = Arm(case, target, SPACES["cuda_wgmma"], variant, None, 1, 1)
    again = arm.replay(Trial("cuda_wgmma", variant, without_end(proposed)))
    assert again is not None
    assert again.trace != proposed
    one, other = (Trial("cuda_wgmma", variant, each) for each in (proposed, again.trace))
    assert one.identity == other.identity
    assert one.identity != replace(one, trace=[proposed[0], []]).identity
