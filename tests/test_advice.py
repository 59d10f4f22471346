"""Commands that messages print can be run as they are: each is provoked, taken out and run.

A search, a sweep, a comparison and a build end where their work would begin, on what the command
said.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMANDS, parsed
from database_fixtures import KEY, edit_provenance, filled, small_entry
from dispatch_fixtures import LONG, SHORT, SPEC, database, record
from typer.testing import CliRunner

from prefilltune.database import (
    Finder,
    Match,
    NoRecordError,
    RecordStore,
    StaleRecordError,
    TargetKey,
    Tier,
)
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.commands import timed_elsewhere
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.replaying import replay_record
from prefilltune.tuning.cli import app
from prefilltune.tuning.cli.console import as_started
from prefilltune.tuning.deployment import choose_serving
from prefilltune.tuning.environment import pip_install
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import CHOICES, Case, PrefillShape, PrefillSpec, Preset

ROOT = Path(__file__).resolve().parent.parent
HEADS = "--heads 2/1x16"


class Reached(Exception):
    """Work that a command was about to begin, and on what."""

    def __init__(self, work: str, spec: object, target: ResolvedTarget, root: object = "") -> None:
        self.facts = (work, str(spec), str(target.key), str(root))


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def tuned(case: Any, target: Any, spaces: Any, limit: Any, root: Any, *rest: Any, **_: Any):
        raise Reached("tune", f"{case.spec} {case.shape}", target, root)

    def swept(spec: Any, found: Any, shapes: Any, lens: Any, target: Any, **_: Any):
        raise Reached("sweep", spec, target)

    def built(fixed: Any, servings: Any, target: Any, output: Any):
        specs = " ".join({str(spec): None for spec, _, _ in fixed})
        shapes = " ".join(str(shape) for _, shape, _ in fixed)
        raise Reached("build", f"{specs} {shapes}", target)

    def compared(bench: Any, case: Any, *_: Any):
        raise Reached("compare", f"{case.spec} {case.shape}", bench._target)

    monkeypatch.setattr("prefilltune.tuning.search.tune.tune_case", tuned)
    monkeypatch.setattr("prefilltune.tuning.deployment.measure_sweep", swept)
    monkeypatch.setattr("prefilltune.tuning.deployment.library.build_kernels", built)
    monkeypatch.setattr("prefilltune.tuning.comparing.cpu_bench.CpuBench.measure", compared)


def run(command: str) -> str:
    """What a command says, its error included; raises what work it would begin."""
    program, *arguments = shlex.split(command)
    assert program == "prefilltune"
    done = CliRunner().invoke(app, arguments)
    assert "Usage: " not in done.output, f"{command}\n{done.output}"
    if isinstance(done.exception, Reached):
        raise done.exception
    return f"{done.output}; {done.exception or ''}"


def advised(message: str) -> str:
    """The command that a message ends in."""
    (command,) = re.findall(r"run(?:, [^:]*)?: (prefilltune [^;\n]+)", message)
    return command.strip()


def reached(command: str) -> tuple[str, str, str, str]:
    with pytest.raises(Reached) as caught:
        run(command)
    return caught.value.facts


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A database with a record of this machine, for one thread."""
    return database(tmp_path / "a database", record(SPEC, SHORT))


def key(threads: int | None = None) -> str:
    return str(resolve_target("llvm", threads).key)


@pytest.mark.parametrize("name", ["build", "compare", "explain", "show", "report", "sweep"])
def test_a_file_is_no_database(name: str, tmp_path: Path) -> None:
    """Else the command that is advised would be refused for it."""
    (tmp_path / "file").touch()
    heads = "" if name == "report" else HEADS
    message = run(f"prefilltune {name} {heads} --database {tmp_path / 'file'}")
    assert "file is a file, not a folder; move it away, or choose another place" in message


def test_what_timed_a_record_if_not_this_machine(tmp_path: Path) -> None:
    here = resolve_target("llvm", 2)
    name = backend_of("llvm").device_name()

    def elsewhere(**device: Any) -> str | None:
        entry = record(SPEC, SHORT)
        entry = replace(entry, provenance=replace(entry.provenance, device=device))
        return timed_elsewhere(Match(entry, Tier.EXACT, 0.0, here.key, tmp_path), here)

    assert elsewhere(name=name, threads=2) is None
    assert elsewhere(name=name) is None
    assert elsewhere(name=name, threads=1) == f"{name} with 1 thread"
    assert elsewhere(name=f"not {name}", threads=2) == f"not {name} with 2 threads"
    assert elsewhere(name="a GPU") == "a GPU"
    assert elsewhere(name="emulation by QEMU", timed=False) == ""


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("name", ["build", "compare", "sweep"])
def test_where_nothing_is_tuned(name: str, layout: str, tmp_path: Path) -> None:
    root = tmp_path / "a database"
    options = f"--heads 13x48 --layout {layout} --threads 1"
    message = run(f"prefilltune {name} {options} --database {shlex.quote(str(root))}")
    spec = PrefillSpec(13, 13, 48, "float32", layout=layout)
    assert reached(advised(message)) == ("tune", f"{spec} b1_q128_kv128", key(1), str(root))


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ("--mask-mode causal_padded_left", {"padding": "left", "window": (None, 0)}),
        ("--mask-mode padded_left_w3-open", {"padding": "left", "window": (3, None)}),
        ("--padding left --window open,0", {"mask_mode": "causal_padded_left"}),
        (
            "--window 4095,0 --softcap 50 --bias relative",
            {"window": (4095, 0), "softcap": 50.0, "bias": "relative"},
        ),
    ],
)
def test_where_a_scale_a_mask_and_scores_are_not_the_usual_ones(
    options: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    spec, shape = PrefillSpec(4, 2, 16, "float32", sm_scale=0.3, **fields), PrefillShape(2, 5, 9)
    tuned = f"{spec.within(shape)} {shape}"
    options += " --heads 4/2x16 --sm-scale 0.3 --shape 2x5x9"
    for name in ("build", "compare"):
        message = run(f"prefilltune {name} {options} --database {tmp_path}")
        assert reached(advised(message)) == ("tune", tuned, key(), str(tmp_path))


def test_a_model_means_each_of_its_attentions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = replace(SPEC, window=(5, 3))
    both = Preset("both", "", "", {"global": SPEC, "local": local}, (SHORT, LONG))
    monkeypatch.setattr("prefilltune.tuning.cli.options.preset", lambda name: both)
    done: list[tuple[PrefillSpec, Any]] = []

    def tuned(case: Case, *_: Any) -> None:
        done.append((case.spec, case.shape))

    monkeypatch.setattr("prefilltune.tuning.search.tune.tune_case", tuned)
    monkeypatch.setattr("prefilltune.tuning.cli.tune._print_kept", lambda *_: None)
    monkeypatch.setattr(
        "prefilltune.tuning.cli.compare.compare_all", lambda each, *_: done.extend(each)
    )
    root = database(tmp_path, record(SPEC, SHORT), record(local, SHORT))
    options = f"--model both --threads 1 --database {root}"
    run(f"prefilltune tune {options} --no-compare")
    assert done == [(spec, shape) for spec in (SPEC, local) for shape in (SHORT, LONG)]
    done.clear()
    run(f"prefilltune tune {options} --no-compare --padding-output untouched --shape 2x5")
    assert {spec for spec, _ in done} == {
        replace(each, padding_output="untouched").within(PrefillShape(2, 5))
        for each in (SPEC, local)
    }
    done.clear()
    run(f"prefilltune tune {options} --no-compare --layout packed --shape 2x5")
    assert {spec for spec, _ in done} == {
        replace(each, layout="packed", padding="right") for each in (SPEC, local)
    }
    done.clear()
    run(f"prefilltune compare {options}")
    assert done == [(SPEC, SHORT), (local, SHORT)]
    assert reached(f"prefilltune build {options}")[1] == f"{SPEC} {local} {SHORT} {SHORT}"
    said = run(f"prefilltune explain {options}")
    assert said.count(str(SPEC)) == said.count(str(local)) == 1


def test_each_choice_of_a_spec_has_an_option() -> None:
    taken = {option for each in COMMANDS.commands["tune"].params for option in each.opts}
    assert taken >= {each.option for each in CHOICES}


@pytest.mark.parametrize("name", ["build", "compare", "show --stage source"])
def test_where_another_shape_is_tuned(name: str, one: Path) -> None:
    options = f"{HEADS} --shape 3x99 --threads 1 --database {shlex.quote(str(one))}"
    message = run(f"prefilltune {name} {options} --accept exact")
    assert reached(advised(message)) == ("tune", f"{SPEC} b3_q99_kv99", key(1), str(one))
    if name in ("build", "compare"):
        assert reached(f"prefilltune {name} {options}")[:2] == (name, f"{SPEC} b3_q99_kv99")


def test_where_no_workload_is_named(tmp_path: Path) -> None:
    for name in ("compare --accept exact", "sweep", "report"):
        message = run(f"prefilltune {name} --threads 1 --database {tmp_path}")
        work, workload, *rest = reached(advised(message))
        assert (work, *rest) == ("tune", key(1), str(tmp_path))
        assert workload == "padded_hq12_hkv12_d64_float32_s0.125 b1_q128_kv128"


def test_where_records_were_never_compared(one: Path) -> None:
    message = run(f"prefilltune report --threads 1 --database {shlex.quote(str(one))}")
    assert reached(advised(message))[:3] == ("compare", f"{SPEC} {SHORT}", key(1))


def test_where_a_folder_of_another_machine_has_no_comparison(tmp_path: Path) -> None:
    message = run(f"prefilltune report --target cuda-sm_89-rtx_4090 --database {tmp_path}")
    assert "run, on a machine of cuda-sm_89-rtx_4090: " in message
    parsed(advised(message))


def test_where_no_sweep_was_made(one: Path) -> None:
    database(one, record(SPEC, LONG, packed=True))
    options = f"{HEADS} --threads 1 --database {shlex.quote(str(one))}"
    message = run(f"prefilltune explain {options}")
    assert reached(advised(message))[:3] == ("sweep", str(SPEC), key(1))
    (note,) = choose_serving(SPEC, resolve_target("llvm", 1), Finder([one])).notes
    assert advised(note) == advised(message)


def test_where_a_sweep_cannot_be_read(one: Path) -> None:
    database(one, record(SPEC, LONG, packed=True))
    path = one / key(1) / "dispatch.json"
    path.write_text("{")
    message = run(f"prefilltune explain {HEADS} --threads 1 --database {shlex.quote(str(one))}")
    command = advised(message)
    path.unlink()
    assert reached(f"{command} --threads 1")[:2] == ("sweep", str(SPEC))


def test_where_explain_finds_nothing(tmp_path: Path) -> None:
    message = run(f"prefilltune explain {HEADS} --threads 1 --database {tmp_path}")
    assert reached(advised(message)) == ("tune", f"{SPEC} b1_q128_kv128", key(1), str(tmp_path))


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_where_there_is_no_gpu() -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")
    for arch in ("", " --arch sm_90a"):
        message = run(f"prefilltune compare --target cuda{arch} --model bge-base")
        work, workload, target, _ = reached(advised(message))
        assert (work, target) == ("build", "cuda-sm_90a")
        assert workload.startswith("padded_hq12_hkv12_d64_float16_s0.125 b")


def test_where_another_cpu_is_named(tmp_path: Path) -> None:
    target = """--target '{"kind": "llvm", "mcpu": "x86-64-v3", "num-cores": 3}'"""
    message = run(f"prefilltune build {HEADS} {target} --database {tmp_path}")
    facts = ("tune", f"{SPEC} b1_q128_kv128", "llvm-x86_64_v3-3c", str(tmp_path))
    assert reached(advised(message)) == facts


def test_where_there_is_no_database(tmp_path: Path) -> None:
    root = tmp_path / "none"
    assert reached(advised(run(f"prefilltune db list --database {root}")))[3] == str(root)


def test_where_a_record_does_not_replay(one: Path) -> None:
    (entry,) = RecordStore.open(one, TargetKey.parse(key(1))).entries
    assert "removed 1 record" in run(advised(entry.mend))
    assert not RecordStore.open(one, TargetKey.parse(key(1))).entries


def test_where_a_record_is_of_an_earlier_description(tmp_path: Path) -> None:
    entry = record(SPEC, SHORT)
    variant = {**entry.provenance.variant, "q_tile": 32}
    forged = replace(entry, provenance=replace(entry.provenance, variant=variant))
    root = database(tmp_path / "a database", forged)
    (stored,) = RecordStore.open(root, TargetKey.parse(key(1))).entries
    with pytest.raises(StaleRecordError, match="was measured on another description") as caught:
        replay_record(stored)
    command = advised(str(caught.value))
    parsed(command)
    _, *arguments = shlex.split(command)
    assert arguments == ["db", "migrate", str(root), "--database", f"{root}-of-today"]


def test_where_records_are_of_another_tvm(tmp_path: Path) -> None:
    edit_provenance(filled(tmp_path / "old", [small_entry(0)]), tvm="0.26.0")
    message = run(f"prefilltune db list --target {KEY} --database {tmp_path / 'old'}")
    said = run(advised(" ".join(message.split())))
    assert "1 record of TVM 0.26.0" in said


def test_where_no_plan_was_run(tmp_path: Path) -> None:
    parsed(advised(run(f"prefilltune plan status --database {tmp_path}")))


def test_where_a_command_has_another_name() -> None:
    for old in ("status night", "tune --model bge-base --plan night.toml"):
        parsed(advised(run(f"prefilltune {old}")))


def test_where_a_call_has_no_kernel() -> None:
    pytest.importorskip("torch")
    import torch

    import prefilltune.torch

    query, lens = torch.zeros(3, 5, 7, 16), torch.ones(3, dtype=torch.int32)
    for scale in (None, 0.3):
        with pytest.raises(prefilltune.torch.NoKernelError) as caught:
            prefilltune.torch.sequence_prefill(query, query, query, lens, sm_scale=scale)
        build, tune = re.findall(r": (prefilltune .*)", str(caught.value))
        spec = PrefillSpec(7, 7, 16, "float32", sm_scale=scale)
        assert reached(tune)[:3] == ("tune", f"{spec} b3_q5_kv5", key())
        assert f"no record for {spec}" in run(build)


def test_a_command_is_named_as_this_program_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a clone no shell finds the name alone."""
    text = "prefilltune is; `prefilltune db list` tells; run: prefilltune tune"
    program = tmp_path / "a clone" / "prefilltune"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", str(tmp_path))
    quoted = shlex.quote(str(program))
    assert as_started(text) == f"prefilltune is; `{quoted} db list` tells; run: {quoted} tune"
    monkeypatch.setenv("PATH", str(program.parent))
    assert as_started(text) == text
    monkeypatch.setattr(sys, "argv", ["-m"])
    assert as_started(text) == text


def test_packages_are_installed_for_the_python_that_runs() -> None:
    program, *arguments = shlex.split(pip_install("prefilltune[cuda]").removeprefix("run: "))
    assert program == sys.executable
    assert arguments == ["-m", "pip", "install", "prefilltune[cuda]"]


def documented() -> Iterator[str]:
    """Lines of shell in the fenced blocks of the documents."""
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ):
        for block in re.findall(r"^```(?:sh|ini)?\n(.*?)^```", path.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                yield line.removeprefix("$ ").partition(" #")[0].strip()


def test_commands_of_the_documents_are_read() -> None:
    found = [
        re.sub(r"^(ExecStart=\S*/|\.venv/bin/)", "", line)
        for line in documented()
        if re.match(r"(ExecStart=\S*/|\.venv/bin/)?prefilltune ", line)
    ]
    assert len(found) >= 20
    for command in found:
        parsed(command)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_runs_commands_that_are_read() -> None:
    found = {line for line in documented() if line.startswith("make ")}
    assert len(found) > 10
    for line in sorted(found):
        done = subprocess.run(
            [*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for command in re.findall(r"^\.venv/bin/(prefilltune .*)", done.stdout, re.M):
            parsed(command)


def texts(*packages: str) -> Iterator[str]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_every_text_names_a_command_that_there_is() -> None:
    groups = {name: each for name, each in COMMANDS.commands.items() if hasattr(each, "commands")}
    for text in texts(
        "tuning", "database", "workloads", "torch_op", "transformers_attention", "benchmarks"
    ):
        for name, rest in re.findall(r"`prefilltune ([a-z]+)(?: ([a-z-]+))?", text):
            assert name in COMMANDS.commands, text
            assert not (name in groups and rest) or rest in groups[name].commands, text


# Options whose meaning depends on another one.


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("tune --model bge-base --mask-mode padded", "--mask-mode padded goes with --heads"),
        ("tune --model bge-base --sm-scale 0.5", "--sm-scale 0.5 goes with --heads"),
        ("compare --mask-mode padded", "--mask-mode padded goes with --heads"),
        ("tune --model bge-base --window 5,3", "--window 5,3 goes with --heads; bge-base has its"),
        ("sweep --softcap 50", "--softcap 50 goes with --heads; give the heads too"),
        ("sweep --padding-output untouched", "untouched goes with --model or --heads; give one"),
        ("build --heads 2x16 --padding-output none", "'none'; choose zero or untouched"),
        ("build --heads 2x16 --mask-mode padded --window 5,3", "says the window, and window (5, 3"),
        ("tune --model bge-base --arch sm_90a", "--arch sm_90a goes with --target cuda"),
        ("build --model bge-base --target cuda --arch sm_90a --threads 2", "--threads 2"),
        ("explain --library x.so --lens full", "--library tells what was built"),
        ("explain --library x.so --model bge-base", "give it alone, or with --json"),
        ("build --model bge-base --accept near", "choose exact, family, portable, "),
        ("build --model bge-base --lens short", "'short' is no distribution of lengths"),
    ],
)
def test_an_option_that_another_one_leaves_without_meaning_is_refused(
    command: str, message: str
) -> None:
    assert message in run(f"prefilltune {command}")


@pytest.mark.parametrize("command", ["explain", "show --stage source", "build --shape 1x77"])
def test_what_would_do_is_named_by_the_nearest_tier_that_takes_it(command: str) -> None:
    """Of another shape too: farther tiers have this one's."""
    message = run(
        f"prefilltune {command} --target cuda --arch sm_80 --model bge-base --accept exact"
    )
    assert "(--accept portable)" in message
    assert "a record serves its own spec alone" not in message


def test_what_is_accepted_is_listed_without_a_shape(tmp_path: Path) -> None:
    """And a device of the family serves a shape of which this machine has a neighbour alone."""
    mine, theirs = record(SPEC, SHORT), record(SPEC, LONG, packed=True)
    database(tmp_path, mine)
    arch = TargetKey.parse(key(1)).arch
    filled(tmp_path, [theirs], TargetKey("llvm", arch, "31c"))
    filled(tmp_path, [replace(theirs)], TargetKey("llvm", "elsewhere", "2c"))
    options = f"{HEADS} --threads 1 --database {tmp_path}"
    shape = f"--shape {LONG.batch}x{LONG.qo_len}"
    message = run(f"prefilltune build {options} {shape} --accept exact")
    assert "accept the tier 'family' (--accept family), or run: " in message
    exact, family = f"{SPEC} {SHORT}", f"{SPEC} {SHORT} {LONG}"
    assert reached(f"prefilltune build {options} --accept exact")[1] == exact
    assert reached(f"prefilltune build {options}")[1] == family
    assert reached(f"prefilltune build {options} --accept family")[1] == family
    assert reached(f"prefilltune build {options} --accept other-target")[1] == family
    for accept in ("", "--accept family"):
        assert reached(f"prefilltune build {options} {accept} {shape}")[1] == f"{SPEC} {LONG}"
    assert reached(f"prefilltune compare {options} --accept family {shape}")[1] == f"{SPEC} {LONG}"
    nothing = f"prefilltune build {HEADS} --threads 2 --database {tmp_path}"
    assert "--accept family takes those of " in run(f"{nothing} --accept exact")
    assert reached(f"{nothing} --accept family")[1] == family
    assert reached(nothing)[1] == family
    given = resolve_target("llvm", 2)
    with pytest.raises(NoRecordError, match="no record that fits any shape"):
        choose_serving(SPEC, given, Finder([tmp_path]))
    served = choose_serving(SPEC, given, Finder([tmp_path]), accept=Tier.OTHER_TARGET)
    assert {match.tier for match in served.matches.values()} == {Tier.FAMILY}


def test_messages_of_the_database_name_the_database(tmp_path: Path) -> None:
    root = tmp_path / "a database"
    store = filled(root, [small_entry(0)])
    with (store.folder / "records.json").open("a") as file:
        file.write("no record\n")
    database = f"--database {shlex.quote(str(root))}"
    for command, expected in (
        (f"db list {database}", "records.json:2"),
        (f"db show 0000 {database}", small_entry(0).record_id),
        (f"db remove 0000 {database}", small_entry(0).record_id),
        (f"db export {tmp_path}/e.json --shape 9x9 {database}", small_entry(0).record_id),
        (f"db list --target llvm-elsewhere-2c {database}", small_entry(0).record_id),
    ):
        (advice,) = re.findall(r"`(prefilltune [^`]*)`", run(f"prefilltune {command}"))
        assert expected in run(advice), command
