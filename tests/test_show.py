"""`prefilltune show`: each stage of one kernel, from what it means to machine code."""

from __future__ import annotations

import ast
import io
import re
import shlex
from pathlib import Path

import dispatch_fixtures as fixtures
import pytest
from command_line import HEADS, THREADS, prepared, said
from dispatch_fixtures import SHORT, SPEC
from rich.console import Console

from prefilltune.database import RecordStore, TargetKey, committed_root
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.building.build import generate
from prefilltune.tuning.building.replaying import replay_record
from prefilltune.tuning.building.showing import STAGES, UNTUNED
from prefilltune.tuning.cli import console as console_module
from prefilltune.tuning.spaces.llvm_fused import LlvmFused
from prefilltune.workloads import plain_attention
from prefilltune.workloads.elementary import BUILT_IN

H100 = TargetKey("cuda", "sm_90a", "h100")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of this machine."""
    root = tmp_path_factory.mktemp("show")
    prepared(root)
    return root


def shown(*options: object) -> str:
    done = said("show", *options)
    assert (done.code, done.err) == (0, "")
    return done.out


def test_every_stage_of_a_tuned_kernel(root: Path) -> None:
    given = (*HEADS, *THREADS, "--shape", "1x16", "--database", root)
    entry = fixtures.record(SPEC, SHORT)
    replayed = replay_record(entry)
    target = fixtures.target()
    source = backend_of(target.kind).source(generate(replayed, target.target))
    expected = {
        "plain": plain_attention(SPEC, SHORT, BUILT_IN).script(),
        "tiled": LlvmFused().describe(SPEC, SHORT, entry.provenance.variant).script(),
        "scheduled": replayed.script(),
        "source": source,
    }
    for stage in STAGES:
        out = shown(*given, "--stage", stage)
        assert out.startswith(f"# {stage}: {STAGES[stage]}\n# {SPEC} at {SHORT}\n")
        assert (f"record {entry.record_id} of llvm_fused" in out) == (
            stage not in ("plain", "online")
        )
        if stage == "online":
            ast.parse(out)
        else:
            assert out.endswith("\n\n" + expected[stage].strip("\n") + "\n")
    assert "ret" in source
    assert ".cfi_" not in source
    assert ".debug_" not in source


def test_without_a_stage_it_says_which_there_are(root: Path) -> None:
    out = shown(*HEADS, *THREADS, "--shape", "1x16", "--database", root)
    lengths = dict(re.findall(r"(\w+) +│ +(\d+) │", out))
    assert list(lengths) == list(STAGES)
    (again,) = re.findall(r"run: prefilltune (.*)", out)
    text = shown(*shlex.split(again)[1:])
    assert len(text.partition("\n\n")[2].splitlines()) == int(lengths["online"])


def test_what_is_not_tuned_is_shown_up_to_its_description(root: Path) -> None:
    given = (*HEADS, *THREADS, "--shape", "3x5x7", "--database", root, "--accept", "exact")
    out = shown(*given)
    assert re.findall(r"(\w+) +│ +- │", out) == ["scheduled", "source"]
    assert "no record for " in out
    for stage in UNTUNED:
        assert shown(*given, "--stage", stage)
    assert "llvm_fused with q_tile" in shown(*given, "--stage", "tiled")
    for stage in {*STAGES} - {*UNTUNED}:
        done = said("show", *given, "--stage", stage)
        assert done.code == 2
        assert "run: prefilltune tune --target llvm" in done.err


def test_a_record_of_a_gpu_is_cuda() -> None:
    entry = next(
        each
        for each in RecordStore.open(committed_root(), H100).entries
        if each.provenance.space == "cuda_wgmma"
    )
    out = shown("--record", entry.record_id, "--stage", "source")
    assert out.startswith(f"// source: {STAGES['source']}\n// {entry.provenance.spec} at ")
    assert "__global__" in out
    assert "wgmma.mma_async" in out
    scheduled = shown("--record", entry.record_id, "--stage", "scheduled")
    assert re.search(r"prefill_dot_wgmma_\w+", scheduled)
    assert "wgmma.mma_async" not in scheduled  # device functions stand in the source alone
    assert max(map(len, scheduled.splitlines())) < 1000


def test_a_file_holds_what_is_printed(root: Path, tmp_path: Path) -> None:
    given = (*HEADS, *THREADS, "--shape", "1x16", "--database", root, "--stage", "plain")
    assert "wrote " in shown(*given, "--output", tmp_path / "new" / "plain.py")
    assert (tmp_path / "new" / "plain.py").read_text() == shown(*given)


def test_a_terminal_has_colours(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("--database", root, "--stage", "online")
    plain = shown("--record", fixtures.record(SPEC, SHORT).record_id, *given)
    file = io.StringIO()
    colours = Console(file=file, force_terminal=True, color_system="standard", width=40)
    monkeypatch.setattr(console_module, "console", colours)
    shown("--record", fixtures.record(SPEC, SHORT).record_id, *given)
    assert "\x1b[" in file.getvalue()
    assert re.sub(r"\x1b\[[\d;]*m", "", file.getvalue()) == plain


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--stage lowered --shape 1x16", "choose plain, online, tiled, scheduled, source"),
        ("--output here", "name it with --stage"),
        ("--record 0123 --shape 1x16", "leave out other options"),
        ("--heads 13x48", "such as --shape 4x128"),
    ],
)
def test_what_cannot_be_shown_is_said(options: str, words: str, root: Path) -> None:
    heads = () if "--record" in options or "--heads" in options else HEADS
    done = said("show", *shlex.split(options), *heads, "--database", root)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err


def test_a_record_that_there_is_not(root: Path) -> None:
    done = said("show", "--record", "nothing", "--database", root)
    assert done.code == 2
    assert "no record begins with 'nothing'" in done.err


def test_a_record_that_went_is_looked_for_in_the_history(tmp_path: Path) -> None:
    root = tmp_path / "of mine"
    prepared(root)
    assert "git" not in said("db", "show", "0123abcd", "--database", root).err
    (tmp_path / ".git").mkdir()
    done = said("db", "show", "0123abcd", "--database", root)
    (line,) = done.err.splitlines()
    _, log = line.split("is in git: ")
    assert shlex.split(log)[:5] == ["git", "-C", str(root), "log", "-S0123abcd"]
