"""Real searches, small ones: from nothing to records that a fresh process can use."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import hear_interrupts, processes_with
from rich.console import Console
from small_spaces import SplitScores

import prefilltune.tuning
from prefilltune.database import RecordStore, Tier, lookup
from prefilltune.tuning.backends import BACKENDS
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.sources import SOURCES, sources_digest
from prefilltune.tuning.ending import Wish
from prefilltune.tuning.errors import WorkerFailedError
from prefilltune.tuning.measuring.cpu import Measurement, check_and_time
from prefilltune.tuning.measuring.worker import Outcome
from prefilltune.tuning.search.builders import BuilderProcess
from prefilltune.tuning.search.choice import next_arm
from prefilltune.tuning.search.progress import SearchDisplay
from prefilltune.tuning.search.search import Search
from prefilltune.tuning.search.state import Limit, SearchState
from prefilltune.tuning.search.trial_log import Trial, TrialLog
from prefilltune.tuning.search.tune import tune_case
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths

SPEC, SHAPE = PrefillSpec(2, 1, 16, "float32"), PrefillShape(2, 24)
TARGET = resolve_target("llvm", 2)


def _case(seed: int = 0) -> Case:
    return Case(SPEC, SHAPE, parse_lengths("full"), seed)


def _ignore(_: SearchState) -> None:
    pass


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the record of a search of four trials."""
    root = tmp_path_factory.mktemp("tuned")
    first = tune_case(_case(), TARGET, ["llvm_fused"], Limit(trials=4), root, 1, _ignore)
    assert first.state.trials == 4
    assert not first.interrupted
    (kept,) = first.kept
    assert kept.provenance.max_abs_error <= 2e-5
    assert kept.provenance.trials == 4
    return root


def test_search_keeps_verified_records_and_goes_on_from_them(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned, tmp_path, dirs_exist_ok=True)
    again = tune_case(_case(), TARGET, ["llvm_fused"], Limit(trials=4), tmp_path, 1, _ignore)
    assert again.state.restored == 4
    assert again.state.trials == 4
    assert len(TrialLog(again.log, _stamp(again.log)).read()) == 8
    key = TARGET.key
    assert len(RecordStore.open(tmp_path, key).entries) == 1
    match = lookup([tmp_path], key, SPEC, SHAPE)
    assert match.tier is Tier.EXACT
    assert math.isfinite(match.entry.provenance.median_secs)


def _stamp(log: Path) -> dict[str, str]:
    return json.loads(log.read_text().splitlines()[0])["stamp"]


@pytest.mark.slow
def test_spaces_share_the_trials(tmp_path: Path) -> None:
    result = tune_case(
        _case(), TARGET, ["llvm_fused", "llvm_stock"], Limit(trials=10), tmp_path, 1, _ignore
    )
    assert {entry.provenance.space for entry in result.kept} == {"llvm_fused", "llvm_stock"}


def test_failures_are_counted_by_kind_and_never_kept(
    builders: Sequence[BuilderProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real search over workers whose answers are replaced by each kind of failure in turn."""
    harms = [
        Outcome("crash", detail="died of SIGSEGV"),
        Outcome("timeout", detail="killed after 60 s"),
        Outcome("error", detail="ValueError"),
    ]
    outcomes = iter(
        [
            Outcome("ok", Measurement(0.5, ())),
            Outcome("ok", Measurement(math.inf, (), "launch failure", "too many threads")),
            *[harm for harm in harms for _ in range(2)],  # believed the second time
        ]
    )
    space = SplitScores(((2, 4), (3, 6)))
    with Search(
        _case(), TARGET, [space], TrialLog(tmp_path / "log", {}), _ignore, builders=builders
    ) as search:
        runner = search.pool.slots[0].runner
        real_call = runner.call

        def call(function, *args, timeout):
            if function is check_and_time:
                return next(outcomes)
            return real_call(function, *args, timeout=timeout)

        monkeypatch.setattr(runner, "call", call)
        state = search.run(Limit(trials=5))
    assert state.failures == {
        "wrong result": 1, "launch failure": 1, "crash": 1, "run timeout": 1, "run error": 1,
    }  # fmt: skip
    assert not state.faults
    assert math.isinf(state.best_seconds)
    assert [trial.run_secs for trial in search.trials] == [()] * 5
    elapsed = [trial.elapsed for trial in search.trials]
    assert elapsed == sorted(elapsed)


@pytest.fixture(params=[True, False], ids=["alone", "overlapping"])
def alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether batches are measured while nothing is built; a GPU's are not."""
    llvm = BACKENDS["llvm"]
    engine = dataclasses.replace(llvm.engine, alone=request.param)
    monkeypatch.setitem(BACKENDS, "llvm", dataclasses.replace(llvm, engine=engine))
    return request.param


def test_small_variants_share_batches_until_all_is_tried(
    builders: Sequence[BuilderProcess], tmp_path: Path, alone: bool
) -> None:
    space = SplitScores(((2, 4), (1,), (2, 1)), scales=(1.0, 2.0))
    log = TrialLog(tmp_path / "log", {})
    with Search(_case(), TARGET, [space], log, _ignore, builders=builders) as search:
        state = search.run(Limit(seconds=300))
    # Sizes of 1 cannot be scheduled, and variants of another scale compute something else.
    unscheduled = [trial.detail for trial in search.trials if trial.failure == "schedule"]
    assert len(unscheduled) == 2, unscheduled
    assert state.trials == 2 * (4 + 1)
    assert state.failures == {"wrong result": 5, "schedule": 2}
    assert len({trial.identity for trial in search.trials}) == state.trials + 2
    assert log.read() == search.trials
    measured = [trial.elapsed for trial in search.trials if trial.failure != "schedule"]
    assert measured == sorted(measured)
    with Search(_case(), TARGET, [space], log, _ignore, builders=builders) as again:
        repeated = again.run(Limit(seconds=300))
    assert (repeated.trials, repeated.failures) == (0, {"schedule": 2})
    assert repeated.best_seconds == state.best_seconds


def test_trials_are_no_more_than_asked_for(
    builders: Sequence[BuilderProcess], tmp_path: Path, alone: bool
) -> None:
    space = SplitScores(((2, 4), (3, 6), (2, 12)))
    with Search(
        _case(), TARGET, [space], TrialLog(tmp_path / "log", {}), _ignore, builders=builders
    ) as search:
        assert search.run(Limit(trials=7)).trials == 7


class _NoProcess:
    """A builder whose process cannot start."""

    def call(self, *_: object, timeout: float) -> Outcome:
        raise WorkerFailedError("a worker process did not start")

    def resident_bytes(self) -> int:
        return 0

    def restart(self) -> None:
        pass


def test_a_builder_that_cannot_start_is_no_failure_of_a_variant(
    tmp_path: Path, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, log = SplitScores(((2, 4), (3, 6))), TrialLog(tmp_path / "log", {})
    monkeypatch.setitem(SPACES, space.name, space)  # so that builders are asked for samples too
    with (
        Search(_case(), TARGET, [space], log, _ignore, builders=[_NoProcess()]) as search,
        pytest.raises(WorkerFailedError, match="did not start"),
    ):
        search.run(Limit(trials=4))
    assert search.trials == []
    assert not search.state.failures


def test_a_child_that_came_to_harm_is_replaced(
    builders: Sequence[BuilderProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm = Measurement(math.inf, (), "device fault", "illegal address", fatal=True)
    children: list[object] = []
    space, log = SplitScores(((2, 4),)), TrialLog(tmp_path / "log", {})
    with Search(_case(), TARGET, [space], log, _ignore, builders=builders) as search:
        runner = search.pool.slots[0].runner
        real_call = runner.call

        def call(function, *args, timeout):
            if function is check_and_time and len(children) == 2:
                return Outcome("ok", harm)
            if function is check_and_time:
                children.append(real_call(os.getpid, timeout=120).value)
            return real_call(function, *args, timeout=timeout)

        def count_harm(state: SearchState) -> None:
            if state.failures["device fault"]:
                children.append(None)

        search.listener = count_harm
        monkeypatch.setattr(runner, "call", call)
        state = search.run(Limit(seconds=300))
    assert state.failures == {"device fault": 1}
    assert len({child for child in children if child is not None}) == 2


def test_a_wrong_kernel_is_refused_by_the_runner(tmp_path: Path) -> None:
    """A kernel for other numbers of the same types: the check, not the type system, must see it."""
    from prefilltune.tuning.building.build import build_library
    from prefilltune.workloads import plain_attention

    case = _case()
    other = PrefillSpec(2, 1, 16, "float32", sm_scale=0.3)
    path = str(tmp_path / "wrong.so")
    build_library(plain_attention(other, SHAPE), TARGET.target, path)
    lens, check_lens = case.batches(), case.check_lens()
    wrong = check_and_time(path, SPEC, SHAPE, lens, check_lens, 0, math.inf)
    assert wrong.run_secs == ()
    assert wrong.error > 1e-3
    right = check_and_time(path, other, SHAPE, lens, check_lens, 0, math.inf)
    assert len(right.run_secs) == 5


class _Arm:
    def __init__(self, best: float, turns: int, exhausted: bool = False) -> None:
        self.best, self.turns, self.exhausted = best, turns, exhausted


def test_budget_goes_to_what_wins() -> None:
    untried, good, bad = _Arm(math.inf, 0), _Arm(1.0, 3), _Arm(5.0, 1)
    arms = [bad, good, untried]
    assert [next_arm(arms, turn) for turn in range(4)] == [untried, good] * 2
    assert next_arm([bad, good], 0) is good
    failed = _Arm(math.inf, 1)
    assert next_arm([failed, untried], 1) is untried
    close = _Arm(1.05, 1)
    assert next_arm([_Arm(1.0, 9), close], 0) is close
    assert next_arm([_Arm(1.0, 9, exhausted=True)], 0) is None


def test_variants_that_trials_do_not_reach_are_the_next_search_s(
    builders: Sequence[BuilderProcess], tmp_path: Path
) -> None:
    space, log = SplitScores(((2, 4),), scales=(1.0, 2.0, 3.0, 4.0, 5.0)), tmp_path / "log"
    beyond = []
    for _ in range(5):
        with Search(
            _case(), TARGET, [space], TrialLog(log, {}), _ignore, builders=builders
        ) as search:
            beyond.append(search.run(Limit(trials=4)).beyond)
    assert beyond == [3, 2, 1, 0, 0]
    assert len({trial.arm for trial in search.trials}) == 5
    assert len(search.trials) == 5 * 4


def test_a_changed_source_is_another_digest(tmp_path: Path) -> None:
    package = Path(prefilltune.tuning.__file__).parents[1]
    for name in SOURCES:
        if (package / name).is_dir():
            assert list((package / name).rglob("*.py")), name
            shutil.copytree(package / name, tmp_path / name)
        else:
            (tmp_path / name).parent.mkdir()
            shutil.copy(package / name, tmp_path / name)
    assert sources_digest(tmp_path) == sources_digest()
    with (tmp_path / "tuning" / "pipeline" / "rings.py").open("a") as file:
        file.write("# another\n")
    sources_digest.cache_clear()
    assert sources_digest(tmp_path) != sources_digest()


def test_trials_of_other_sources_are_not_gone_on_from(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tuned, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("prefilltune.tuning.search.tune.sources_digest", lambda: "others")
    again = tune_case(_case(), TARGET, ["llvm_fused"], Limit(trials=2), tmp_path, 1, _ignore)
    assert (again.state.restored, again.state.trials) == (0, 2)


def test_trial_log_survives_torn_and_foreign_lines(tmp_path: Path) -> None:
    log = TrialLog(tmp_path / "deep" / "log.jsonl", {"tvm": "0.27.0"})
    trial = Trial("llvm_fused", {"q_tile": 32}, [[], []], (1e-3, 2e-3, 3e-3))
    failed = Trial("llvm_fused", {"q_tile": 64}, [[], []], failure="crash", detail="SIGSEGV")
    log.append([trial, failed])
    with log.path.open("a") as file:
        file.write('not json\n{"stamp": {"tvm": "0.26"}}\n\n[1]\n{"stamp": {"tvm": "0.27.0"}, "sp')
    log.append([trial])
    assert log.read() == [trial, failed, trial]
    assert log.skipped == 5
    assert trial.seconds == 1e-3
    assert math.isinf(failed.seconds)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)]
)
def test_an_interrupted_command_keeps_what_it_found(tmp_path: Path, number: int) -> None:
    command = [
        sys.executable, "-m", "prefilltune.tuning", "tune", "--heads", "2/1x16", "--shape", "2x24",
        "--budget", "10m", "--database", str(tmp_path), "--threads", "2",
        "--space", "llvm_fused",
    ]  # fmt: skip
    mark = f"PREFILLTUNE_TEST={tmp_path}"
    environment = {**os.environ, "PREFILLTUNE_TEST": str(tmp_path)}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        env=environment,
        preexec_fn=hear_interrupts,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "x the baseline" in line:
                assert processes_with(mark)
                process.send_signal(number)
                break
        rest = process.stdout.read()
        assert process.wait(timeout=120) == 128 + number
    assert "goes on from" in rest
    # A machine too busy to verify the best within a few seconds keeps the trials alone.
    said = rest.count("1 verified record kept")
    assert said == len(RecordStore.open(tmp_path, TARGET.key, create=True).entries) <= 1
    (log,) = tmp_path.glob("*/trials/*.jsonl")
    assert len(TrialLog(log, _stamp(log)).read()) >= 1
    assert not processes_with(mark)


def test_a_search_that_is_wished_to_end_keeps_its_best(tmp_path: Path) -> None:
    wish = Wish()

    def end(state: SearchState) -> None:
        if math.isfinite(state.best_seconds):
            wish.make()

    result = tune_case(_case(), TARGET, ["llvm_fused"], Limit(), tmp_path, 2, end, wish=wish)
    assert result.interrupted
    (kept,) = result.kept
    assert list(RecordStore.open(tmp_path, TARGET.key).entries) == [kept]


@pytest.mark.slow
def test_a_budget_without_time_for_anything_still_keeps_one_candidate(tmp_path: Path) -> None:
    root, asked = tmp_path / "database", Limit(seconds=0.01)
    result = tune_case(_case(), TARGET, ["llvm_fused", "llvm_stock"], asked, root, 2, _ignore)
    assert 1 <= result.state.trials <= 2
    assert len(result.kept) == 1
    assert "the budget of 0.01 s ended before the first candidate was measured, which took" in (
        result.state.shortfall
    )
    again = tune_case(_case(), TARGET, ["llvm_fused"], asked, root, 2, _ignore)
    assert (again.state.trials, len(again.kept)) == (0, 1)
    assert "before another candidate was measured" in again.state.shortfall


def test_a_search_that_is_late_measures_its_first_candidate_and_no_more(
    builders: Sequence[BuilderProcess], tmp_path: Path, alone: bool
) -> None:
    space = SplitScores(((2, 4), (3, 6), (2, 12)))
    with Search(
        _case(), TARGET, [space], TrialLog(tmp_path / "log", {}), _ignore, builders=builders
    ) as search:
        state = search.run(Limit(trials=7, seconds=1e-3))
        assert state.trials == len(search.trials) == 1
        assert state.shortfall
        assert search.run(Limit(trials=7, seconds=1e-3)).trials == 0  # nothing is owed any more


def test_where_tvm_has_no_kernel_a_search_times_none_and_says_so(
    builders: Sequence[BuilderProcess], tmp_path: Path
) -> None:
    case, activities = _case(), list[str]()
    case = dataclasses.replace(case, spec=dataclasses.replace(case.spec, softcap=5))
    console = Console(width=100, record=True, file=io.StringIO(), force_terminal=True)
    display = SearchDisplay(console, str(case.spec))

    def listen(state: SearchState) -> None:
        activities.append(state.activity)
        display.update(state)

    space, log = SplitScores(((2, 4), (3, 6))), TrialLog(tmp_path / "log", {})
    with Search(case, TARGET, [space], log, listen, builders=builders) as search:
        assert math.isnan(search.run(Limit(trials=1)).baseline_seconds)
    assert activities
    assert not any("hand-written" in each for each in activities)
    console.print(display._render())
    assert "TVM has no hand-written kernel for it" in console.export_text()


def test_a_search_that_owes_a_candidate_goes_on_until_many_have_failed() -> None:
    state = SearchState(Limit(seconds=1.0), started=-math.inf)
    assert state.is_overdue
    assert not state.is_out_of_time
    failed = Trial("llvm_fused", {}, [], failure="wrong result")
    for _ in range(63):
        state.count(failed)
    assert state.is_overdue
    state.count(failed)
    assert state.is_out_of_time
    found = SearchState(Limit(seconds=1.0), started=-math.inf)
    found.count(Trial("llvm_fused", {}, [], (1e-3,), elapsed=14.2))
    assert found.is_out_of_time
    assert found.shortfall.endswith("the first candidate was measured, which took 14.2 s")
    assert not SearchState(Limit(trials=1), started=-math.inf).shortfall


def test_a_search_that_is_wished_to_end_measures_nothing(
    builders: Sequence[BuilderProcess], tmp_path: Path, alone: bool
) -> None:
    wish, space = Wish(), SplitScores(((2, 4),))
    wish.make()
    log = TrialLog(tmp_path / "log", {})
    with Search(_case(), TARGET, [space], log, _ignore, builders=builders, wish=wish) as search:
        state = search.run(Limit(trials=4))
    assert (state.trials, search.trials) == (0, [])


def test_a_record_replays_in_a_fresh_process(tuned: Path) -> None:
    script = """
import sys
from pathlib import Path
import tvm
from kernel_checks import kernel_error
from prefilltune.database import lookup
from prefilltune.tuning.building.replaying import replay_record
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.workloads import PrefillShape, PrefillSpec, regimes

target = resolve_target("llvm", 2)
spec, shape = PrefillSpec(2, 1, 16, "float32"), PrefillShape(2, 24)
module = replay_record(lookup([Path(sys.argv[1])], target.key, spec, shape).entry)
assert module["main"].attrs["tirx.is_scheduled"]
assert "T.parallel" in module.script() and "T.vectorized" in module.script()
kernel = tvm.compile(module, target=target.target)["main"]
print(max(kernel_error(kernel, spec, shape, lens, 5) for lens in regimes(2, 24)))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tuned)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 2e-5
