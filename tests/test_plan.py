"""Tuning plans: what they may say, what they do next, and that they can be gone on with."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from processes import processes_with
from rich.console import Console
from small_spaces import SplitScores
from typer.testing import CliRunner

from prefilltune.database import NotWritableError
from prefilltune.database.locking import file_lock
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.cli import app
from prefilltune.tuning.devices.machine import Wanted
from prefilltune.tuning.errors import (
    InvalidOptionError,
    InvalidPlanError,
    PlanRunningError,
)
from prefilltune.tuning.plans.agenda import PlannedCase
from prefilltune.tuning.plans.job import run_plan
from prefilltune.tuning.plans.ledger import Ledger, ledger_path, plan_lock, read_ledger
from prefilltune.tuning.plans.plan import PlannedTarget, read_plan
from prefilltune.tuning.plans.progress import Progress, Slice
from prefilltune.tuning.plans.sharing import HERE, Devices
from prefilltune.tuning.plans.status import plan_tables
from prefilltune.tuning.search.progress import PlanDisplay
from prefilltune.tuning.search.state import Limit, Listener, SearchState
from prefilltune.tuning.search.tune import log_path
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths

WIDTHS = ((2, 4), (3, 6))
LEAST = 'heads = ["2/1x16"]\nshapes = ["2x24"]\nbudget = "1h"\n'


def _written(folder: Path, text: str) -> Path:
    path = folder / "night.toml"
    path.write_text(text)
    return path


def test_a_plan_names_models_heads_and_targets(tmp_path: Path) -> None:
    text = """
models = ["bge-base"]
heads = ["4/2x64"]
mask_mode = "causal_padded_left"
shapes = ["1x128", "4x64x128", "1x128"]
dtypes = ["float16", "float32"]
targets = ["llvm", {target = "cuda", tracker = "10.0.0.1:9190", key = "h100"}]
lens = "uniform"
budget = "2h"
trials = 200
"""
    plan = read_plan(_written(tmp_path, text))
    assert (plan.name, plan.lens, plan.seconds) == ("night", "uniform", 7200.0)
    assert (plan.trials, plan.slice, plan.seed, plan.keep) == (200, 64, 0, 2)
    assert [spec.num_qo_heads for spec, _ in plan.workloads] == [12] * 4 + [4] * 4
    assert {spec.dtype for spec, _ in plan.workloads} == {"float16", "float32"}
    assert plan.targets == (
        PlannedTarget("llvm"),
        PlannedTarget("cuda", tracker="10.0.0.1:9190", key="h100"),
    )
    usual = read_plan(_written(tmp_path, 'models = ["bge-base"]\nbudget = "1h"\n'))
    assert len(usual.workloads) > 1
    assert (usual.targets, usual.has_dtypes) == ((PlannedTarget("llvm"),), False)


@pytest.mark.parametrize("window", ['"4095,0"', "[4095, 0]"])
def test_heads_of_a_plan_take_what_a_spec_may_choose(tmp_path: Path, window: str) -> None:
    choices = f'padding = "left"\nwindow = {window}\nsoftcap = 50\nbias = "relative"\n'
    ((spec, shape),) = read_plan(_written(tmp_path, LEAST + choices)).workloads
    assert str(spec) == "padded_left_w4095-0_hq2_hkv1_d16_float32_s0.25_cap50.0_biasrelative"
    assert str(shape) == "b2_q24_kv24"
    for ends in ('"open,0"', '["open", 0]'):
        ((spec, _),) = read_plan(_written(tmp_path, LEAST + f"window = {ends}")).workloads
        assert spec.mask_mode == "causal_padded"


def test_a_plan_tunes_each_attention_of_a_model_or_one(tmp_path: Path) -> None:
    def masks(model: str) -> list[str]:
        text = f'models = ["{model}"]\nshapes = ["1x128"]\nbudget = "1h"\n'
        return [spec.mask_mode for spec, _ in read_plan(_written(tmp_path, text)).workloads]

    assert masks("modernbert-base") == ["padded", "padded_w64-64"]
    assert masks("modernbert-base:local") == ["padded_w64-64"]
    text = 'models = ["modernbert-base"]\nshapes = ["1x128"]\nbudget = "1h"\n'
    read = read_plan(_written(tmp_path, text + 'padding_output = "untouched"\n'))
    assert {spec.padding_output for spec, _ in read.workloads} == {"untouched"}
    text = 'models = ["qwen3-embedding-0.6b"]\nshapes = ["1x128"]\nbudget = "1h"\n'
    ((spec, _),) = read_plan(_written(tmp_path, text + 'layout = "packed"\n')).workloads
    assert spec.mask_mode == "causal_packed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = [", "is no plan"),
        ('models = ["bge-base"]', "budget is missing"),
        ('budget = "1h"', "it tunes nothing"),
        ('models = ["bge"]\nbudget = "1h"', "models: preset 'bge' is unknown; did you mean bge-"),
        ('models = ["modernbert-base:all"]\nbudget = "1h"', "has no attention 'all'; choose"),
        ('models = ["bge-base"]\nwindow = "5,3"\nbudget = "1h"', "window goes with heads; models"),
        ('models = ["bge-base"]\nmask_mode = "padded"\nbudget = "1h"', "mask_mode goes with heads"),
        ('heads = ["2x16"]\nbudget = "1h"', "heads need shapes too"),
        ('heads = ["2"]\nshapes = ["1x8"]\nbudget = "1h"', "write QOxDIM"),
        (LEAST + "shape = 1", "shape is unknown; choose among models"),
        (LEAST + 'trials = "9"', "trials is '9'; it must be a whole number"),
        (LEAST + "trials = true", "trials is True; it must be a whole number"),
        (LEAST + "trials = 0", "trials is 0; it must lie in 1 to"),
        (LEAST + "seed = -1", "seed is -1; it must lie in 0 to"),
        (LEAST + "dtypes = [1]", "dtypes holds 1; it must be a list of texts"),
        (LEAST + "dtypes = []", "dtypes is empty"),
        (LEAST + 'dtypes = ["int8"]', "int8"),
        (LEAST + 'lens = "some"', "some"),
        (LEAST + 'mask_mode = "none"', "mask mode 'none' is unknown"),
        (LEAST + 'mask_mode = "padded"\nwindow = [5, 3]', "window (5, 3) is given besides"),
        (LEAST + "window = 5", "window is 5; it has two ends"),
        (LEAST + "window = [5, -3]", "window is '5,-3'; write LEFT,RIGHT"),
        (LEAST + "softcap = true", "softcap is True; it must be a finite number"),
        (LEAST + "bias = 1", "bias is 1; choose None or relative"),
        (LEAST + "targets = [1]", "targets holds 1; write a text or a table"),
        (LEAST + "targets = []", "targets is empty"),
        (LEAST + '[[targets]]\nkey = "a"', "a table has no target"),
        (LEAST + '[[targets]]\ntarget = "cuda"\ntracker = "a:1"', "tracker and key go together"),
        (LEAST + '[[targets]]\ntarget = "cuda"\ntracker = "a"\nkey = "b"', "write HOST:PORT"),
        (LEAST + '[[targets]]\ntarget = "cuda"\ngpus = "0"', "targets: gpus is unknown"),
        (LEAST.replace("1h", "soon"), "'soon' is no duration"),
    ],
)
def test_a_wrong_plan_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidPlanError, match=r"night\.toml") as refused:
        read_plan(_written(tmp_path, text))
    assert message in str(refused.value)


def test_a_missing_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidPlanError, match="No such file"):
        read_plan(tmp_path / "none.toml")


def _progress(*bests: float | None, seconds: float = 10.0) -> Progress:
    slices = (Slice(8 * (n + 1), best, seconds) for n, best in enumerate(bests))
    return Progress(tuple(slices))


def test_the_workload_that_promises_most_is_next() -> None:
    ledger = Ledger(Path("unused"))
    ledger.progress = {"steep": _progress(4.0, 2.0), "slow": _progress(4.0, 3.8), "new": Progress()}
    assert ledger.next_case() == "new"
    del ledger.progress["new"]
    assert ledger.next_case() == "steep"
    ledger.progress["cheap"] = _progress(4.0, 2.0, seconds=1.0)
    assert ledger.next_case() == "cheap"
    assert ledger.next_case({"cheap"}) == "steep"
    ledger.progress = {"flat": _progress(2.0, 1.99, 1.985)}
    assert ledger.next_case() is None


def test_a_workload_ends_when_its_curve_is_flat_or_nothing_is_left() -> None:
    assert _progress(2.0).ended(None) == ""
    assert _progress(2.0, 2.0).ended(None) == ""
    assert _progress(2.0, 2.0, 2.0).ended(None) == "flat"
    assert _progress(2.0, 2.0, 1.9).ended(None) == ""
    assert _progress(None).ended(None) == ""
    assert _progress(None, None).ended(None) == "nothing found"
    assert _progress(2.0, 1.0).ended(16) == "all trials made"
    assert Progress((Slice(3, 1.0, 5.0, exhausted=True),)).ended(None) == "exhausted"


def test_what_was_noted_survives_the_way_and_damage_is_told(tmp_path: Path) -> None:
    ledger = Ledger(ledger_path(tmp_path, "night"), 60.0, 24, {"a": Progress()})
    ledger.add("a", Slice(8, None, 5.0), {"crash": 1})
    ledger.spent, ledger.searching = 7.5, ["a"]
    ledger.add("a", Slice(16, 1e-3, 5.0), {"crash": 2})
    again = read_ledger(ledger.path)
    assert again == ledger
    assert (again.spent, again.faults) == (7.5, {"crash": 3})
    for text in ("", "[]", '{"version": 1}', '{"version": 2, "progress": {"a": [{}]}}'):
        ledger.path.write_text(text)
        with pytest.raises(InvalidPlanError, match="delete it: no trial is lost"):
            read_ledger(ledger.path)


def test_a_ledger_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "plans").write_text("a file in the place of the folder")
    with pytest.raises(NotWritableError, match=r"cannot write .*plans is a file, not a folder"):
        Ledger(ledger_path(tmp_path, "night")).write()


@contextlib.contextmanager
def _unseen(_: str) -> Iterator[Listener]:
    yield lambda state: None


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SplitScores:
    """A small space that child processes know too."""
    (tmp_path / "sitecustomize.py").write_text(
        "from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch\n"
        "import_tvm_without_torch()\n"
        "from small_spaces import SplitScores\n"
        "from prefilltune.tuning.spaces import SPACES\n"
        f"SPACES[SplitScores.name] = SplitScores({WIDTHS})\n"
    )
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    return SplitScores(WIDTHS)


def _planned(space: SplitScores, devices: Devices, *batches: int) -> list[PlannedCase]:
    target, spec = resolve_target("llvm", 1), PrefillSpec(2, 1, 16, "float32")
    cases = [Case(spec, PrefillShape(each, 24), parse_lengths("full")) for each in batches]
    return [PlannedCase(case, target, (space.name,), Wanted("llvm", 1), devices) for case in cases]


def test_a_plan_tunes_every_workload_and_starts_from_its_neighbours(
    tmp_path: Path, space: SplitScores
) -> None:
    plan = read_plan(_written(tmp_path, LEAST + "slice = 9\nkeep = 1"))
    planned = _planned(space, HERE, 2, 3)
    lines: list[str] = []
    assert run_plan(plan, planned, tmp_path, _unseen, lines.append)
    logs = [_trials(log_path(each.case, each.target.key, tmp_path)) for each in planned]
    assert [len(log) for log in logs] == [8, 8]
    assert [len(set(log)) for log in logs] == [8, 8]
    assert logs[1][0] in logs[0]  # the neighbour's record is tried first
    ledger = read_ledger(ledger_path(tmp_path, "night"))
    assert {done.ended(None) for done in ledger.progress.values()} == {"exhausted"}
    assert len(lines) == 2
    assert run_plan(plan, planned, tmp_path, _unseen, lines.append)
    assert len(lines) == 2  # nothing was left to do
    (table,) = plan_tables(tmp_path, "night")
    assert (table.row_count, str(table.title).startswith("night: not running")) == (2, True)


def _trials(log: Path) -> list[str]:
    fields = [json.loads(line) for line in log.read_text().splitlines()]
    return [json.dumps([each["variant"], each["trace"]]) for each in fields]


def test_only_one_process_runs_a_plan(tmp_path: Path) -> None:
    with plan_lock(tmp_path, "night"):
        script = (
            "import sys; from pathlib import Path; from prefilltune.tuning.plans.ledger import *\n"
        )
        script += "with plan_lock(Path(sys.argv[1]), 'night'): pass"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", script, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert PlanRunningError.__name__ in done.stderr
    with plan_lock(tmp_path, "night"):
        pass


def test_who_asks_whether_a_plan_runs_does_not_keep_it_from_running(tmp_path: Path) -> None:
    with plan_lock(tmp_path, "night"):
        pass
    held = Event()

    def ask() -> None:
        with file_lock(ledger_path(tmp_path, "night").with_suffix(".lock"), 0):
            held.set()
            time.sleep(0.1)

    asking = Thread(target=ask)
    asking.start()
    held.wait()
    with plan_lock(tmp_path, "night"):
        pass
    asking.join()


def test_a_plan_s_name_may_have_dots(tmp_path: Path) -> None:
    path = ledger_path(tmp_path, "night.v2")
    path.parent.mkdir()
    Ledger(path, 60.0).write()
    (tmp_path / "plans" / "night.json").write_bytes(path.read_bytes())
    for named in ("night.v2", "night.v2.toml", "plans/night.v2.toml", "night.v2.plan"):
        done = CliRunner().invoke(app, ["plan", "status", named, "--database", str(tmp_path)])
        assert done.exit_code == 0, done.output
        assert done.output.count("not running") == done.output.count("night.v2: ") == 1


@pytest.mark.slow
def test_a_killed_plan_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    text = LEAST + 'slice = 4\ntrials = 4\ntargets = [{target = "llvm", threads = 1}]\n'
    path, root = _written(tmp_path, text), tmp_path / "database"
    command = [sys.executable, "-m", "prefilltune.tuning"]
    run = [*command, "plan", "run", str(path), "--database", str(root)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["PREFILLTUNE_TEST"] = str(tmp_path)
    with subprocess.Popen(run, env=environment, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        next(line for line in first.stdout if "1 of 4 trials" in line)
        first.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while processes_with(f"PREFILLTUNE_TEST={tmp_path}"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    (log,) = root.glob("*/trials/*.jsonl")
    trials = _trials(log)
    assert len(trials) == len(set(trials)) >= 4
    status = [*command, "plan", "status", "night", "--database", str(root)]
    shown = subprocess.run(status, env=environment, capture_output=True, text=True)
    assert "all trials made" in " ".join(shown.stdout.split()), shown
    missing = subprocess.run([*status[:-3], "day", *status[-2:]], env=environment, text=True,
                             capture_output=True)  # fmt: skip
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("place", [[], ["--database", "a database"]])
def test_the_former_commands_name_the_ones_that_do_their_work(
    place: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("prefilltune.tuning.cli.plan.work_root", lambda: tmp_path)
    Ledger(ledger_path(tmp_path / place[-1] if place else tmp_path, "one night")).write()
    ran = []
    for former in (["tune", "--plan", "a day.toml"], ["status"], ["status", "one night"]):
        refused = CliRunner().invoke(app, [*former, *place]).exception
        assert isinstance(refused, InvalidOptionError)
        program, *arguments = shlex.split(str(refused).partition("; run: ")[2])
        assert program == "prefilltune"
        ran.append(CliRunner().invoke(app, arguments))
    assert "a day.toml is no plan" in str(ran[0].exception)
    for shown in ran[1:]:
        assert "one night: not running" in shown.output


@pytest.mark.parametrize("terminal", [True, False])
def test_searches_side_by_side_are_told_apart(terminal: bool) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=120)
    with (
        PlanDisplay(console) as display,
        display.search("first") as first,
        display.search("second") as second,
    ):
        first(SearchState(Limit(8), time.monotonic(), trials=3))
        second(SearchState(Limit(8), time.monotonic(), trials=5, best_seconds=2e-3))
        for pattern in ("first.* 3 of 8 trials", "second.* 5 of 8 trials.* 2.000 ms"):
            deadline = time.monotonic() + 60
            while not re.search(pattern, shown.getvalue()):  # a terminal is written now and then
                assert time.monotonic() < deadline
                time.sleep(0.01)
