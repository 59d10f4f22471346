"""Every path that a command writes to, unwritable in every way: one true line, nothing begun."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import dispatch_fixtures as fixtures
import pytest
from command_line import HEADS, THREADS, prepared, said
from disks import mounted, small_disk

from prefilltune.database import NotWritableError, RecordStore
from prefilltune.database.writing import not_writable
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.comparing.comparison import read_comparisons, write_comparisons
from prefilltune.tuning.deployment import read_sweeps, write_sweep
from prefilltune.tuning.errors import LinkError
from prefilltune.workloads import PrefillShape, PrefillSpec, plain_attention

PLAN = """
heads = ["2/1x16"]
shapes = ["1x16"]
budget = "1h"
targets = [{target = "llvm", threads = 1}]
"""

#: A command that writes into a folder {out}, or a file {out}.json.
INTO_A_FOLDER = {
    "build": "build {heads} --database {root} --output {out}",
    "compare": "compare {heads} --database {root} --output {out}",
    "report": "report --target {key} --database {root} --output {out}",
    "tune": "tune {heads} --shape 1x16 --trials 1 --no-compare --database {out}",
    "tune, compare": "tune {heads} --shape 1x16 --trials 1 --database {out}",
    "plan": "plan run {plan} --database {out}",
    "merge": "db merge {root} {other} --output {out}",
    "import": "db import {export} --database {out}",
    "migrate": "db migrate {root} --database {out}",
}
INTO_A_FILE = {
    "export": "db export {out}.json --database {root}",
    "show": "show {heads} --shape 1x16 --stage plain --database {root} --output {out}.json",
}
#: A command that changes the database {root}.
IN_PLACE = {
    "compare": "compare {heads} --database {root}",
    "report": "report --target {key} --database {root}",
    "sweep": "sweep {heads} --shape 1x16 --database {root}",
    "tune": "tune {heads} --shape 1x16 --trials 1 --no-compare --database {root}",
    "prune": "db prune --keep 1 --database {root}",
    "remove": "db remove {id} --database {root}",
    "repair": "db repair --database {root}",
    "merge": "db merge {root} {other}",
    "import": "db import {export} --database {root}",
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What commands read."""
    root = tmp_path_factory.mktemp("given")
    folder = prepared(root / "database")
    shutil.copytree(root / "database", root / "other")
    (root / "plan.toml").write_text(PLAN)
    assert said("db", "export", root / "export.json", "--database", root / "database").code == 0
    record = RecordStore.open(root / "database", fixtures.target().key).entries[0]
    return {
        "heads": shlex.join([*HEADS, *THREADS]),
        "root": root / "database",
        "other": root / "other",
        "plan": root / "plan.toml",
        "export": root / "export.json",
        "key": folder.name,
        "id": record.record_id,
    }


def is_refused(command: str, *words: str) -> None:
    done = said(*shlex.split(command))
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert done.err.startswith(("prefilltune: cannot write ", "prefilltune: cannot use "))
    for each in words:
        assert each in done.err


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): b""
        if path.is_dir() or path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix != ".lock"  # stays, for others may wait for it
    }


@pytest.mark.parametrize("name", [*INTO_A_FOLDER, *INTO_A_FILE])
def test_a_place_that_takes_nothing(name: str, given: dict[str, object], tmp_path: Path) -> None:
    command = {**INTO_A_FOLDER, **INTO_A_FILE}[name]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "folder.json").mkdir()
    before = tree(tmp_path)
    ways = {
        tmp_path / "file" / "below": "file is a file, not a folder; move it away",
        tmp_path / "link" / "below": "link is a link to " + str(tmp_path / "gone"),
        tmp_path / ("long" * 70): "File name too long; choose a shorter name",
        Path("/proc/nothing"): "No such file or directory; choose another place",
    }
    if name in INTO_A_FOLDER:
        ways[tmp_path / "file"] = "file is a file, not a folder; move it away"
        ways[tmp_path / "link"] = "link is a link to " + str(tmp_path / "gone")
    else:
        ways[tmp_path / "folder"] = "folder.json is a folder, not a file; move it away"
    for out, words in ways.items():
        is_refused(command.format(**given, out=out), words)
        assert tree(tmp_path) == before


@pytest.mark.parametrize("name", [*INTO_A_FOLDER, *INTO_A_FILE])
def test_a_disk_that_takes_nothing(name: str, given: dict[str, object]) -> None:
    command = {**INTO_A_FOLDER, **INTO_A_FILE}[name]
    with small_disk("16k") as disk:
        (disk / "fill").write_bytes(bytes(4 * os.statvfs(disk).f_bavail * 1024))
        before = tree(disk)
        out = disk / "out"
        is_refused(command.format(**given, out=out), str(out), "No space left on device; make room")
        assert tree(disk) == before


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_database_that_takes_nothing(name: str, given: dict[str, object], tmp_path: Path) -> None:
    """Read-only as a whole; full; or with folders where its files would be."""
    command = IN_PLACE[name]
    root = shutil.copytree(str(given["root"]), tmp_path / "database")
    if name == "repair":
        with (root / str(given["key"]) / "records.json").open("a") as file:
            file.write("{}\n")
    with mounted("--bind", str(root)) as copy:
        subprocess.run(["mount", "-o", "remount,bind,ro", copy], check=True)
        before = tree(copy)
        is_refused(command.format(**{**given, "root": copy}), str(copy), "free or unlock it")
        assert tree(copy) == before
    with small_disk("4m") as disk:
        copy = shutil.copytree(root, disk / "copy")
        (disk / "fill").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
        before = tree(disk)
        is_refused(command.format(**{**given, "root": copy}), str(copy), "No space left on device")
        assert tree(disk) == before


@pytest.mark.parametrize("name", ["libprefill.so", "manifest.json", "prefill.h"])
def test_a_folder_where_a_file_of_a_library_would_be(
    name: str, given: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    command = INTO_A_FOLDER["build"].format(**given, out=tmp_path)
    is_refused(command, f"{tmp_path / name} is a folder, not a file")
    assert tree(tmp_path) == {name: b""}


# What compilers cannot write


@pytest.mark.slow
def test_a_full_temporary_disk_is_no_missing_compiler(
    given: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk("64k") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        command = INTO_A_FOLDER["build"].format(**given, out=tmp_path / "dist")
        is_refused(command, str(disk), "No space left", "set TMPDIR to a folder on another disk")
        assert tree(disk) == {}
    assert tree(tmp_path / "dist") == {}


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("echo 'ld: cannot find -lfoo'; exit 1", LinkError, "ld: cannot find -lfoo"),
        ("exit 1", LinkError, "the compiler does not say why"),
        ("head -c 9m /dev/zero >$out; exit 1", NotWritableError, "No space left on device"),
        ("rm -r $(dirname $out)", NotWritableError, "No such file or directory"),
    ],
    ids=["words", "no words", "full", "vanished"],
)
def test_a_linker_that_fails(
    script: str, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\nwhile [ $1 != -o ]; do shift; done; out=$2\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    module = plain_attention(PrefillSpec(1, 1, 16, "float32"), PrefillShape(1, 16))
    with small_disk("6m") as disk:
        with pytest.raises(error, match=words):
            build_library(module, fixtures.target().target, str(disk / "out" / "kernel.so"))
        assert not [path for path in disk.rglob("*") if path.is_file()]


def test_a_linker_for_another_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the one at hand is not, and does not say so."""
    other = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    mcpu = "x86-64-v2" if other == "x86_64" else "generic"
    named = {"kind": "llvm", "mcpu": mcpu, "mtriple": f"{other}-linux-gnu"}
    monkeypatch.setenv("CXX", shutil.which("false") or "")
    module = plain_attention(PrefillSpec(1, 1, 16, "float32"), PrefillShape(1, 16))
    mend = f"the library is for {other}.*CXX={other}-linux-gnu-g"
    with pytest.raises(LinkError, match=mend):
        build_library(module, resolve_target(named).target, str(tmp_path / "kernel.so"))


# What would be lost


@pytest.mark.slow
def test_records_that_cannot_be_kept_go_elsewhere(
    given: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database takes records before the search, and none after it."""
    monkeypatch.chdir(tmp_path)

    def vanished(store: RecordStore, _: object) -> None:
        raise not_writable(store.folder, OSError(errno.EIO, "Input/output error"))

    command = "tune {heads} --shape 1x16 --trials 1 --no-compare --database {out}"
    with monkeypatch.context() as patch:
        patch.setattr(RecordStore, "add", lambda store, new: new and vanished(store, new))
        done = said(*shlex.split(command.format(**given, out=tmp_path / "new")))
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "Input/output error" in done.err
    _, _, mend = done.err.rpartition("run: prefilltune ")
    assert said(*shlex.split(mend)).code == 0
    (entry,) = RecordStore.open(tmp_path / "new", fixtures.target().key).entries
    assert entry.provenance.shape == "b1_q16_kv16"


@pytest.mark.parametrize("kind", ["sweep", "comparison"])
def test_times_that_cannot_be_kept_go_elsewhere(
    kind: str, given: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before, folder = Path(str(given["root"])) / str(given["key"]), tmp_path / "records"
    if kind == "sweep":
        read, write = lambda: [*read_sweeps(folder).values()], write_sweep
        times = [*read_sweeps(before).values()]
    else:
        file = folder / "comparison.json"
        read, write = (
            lambda: read_comparisons(file),
            lambda _, case: write_comparisons(file, [case]),
        )
        times = read_comparisons(before / "comparison.json")
    folder.write_text("in the place of a folder")
    with pytest.raises(NotWritableError, match="records is a file, not a folder") as error:
        write(folder, times[0])
    folder.unlink()
    folder.mkdir()
    subprocess.run(str(error.value).rpartition("is mended: ")[2], shell=True, check=True)
    assert read() == times[:1]
