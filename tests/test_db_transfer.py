"""Exports: what goes in comes out, and nothing else comes in."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path

import pytest
from database_fixtures import KEY, real_entry, small_entry
from hypothesis import given
from hypothesis import strategies as st

from prefilltune.database import (
    MalformedExportError,
    RecordStore,
    TargetKey,
    export,
    merge,
    target_keys,
    unpack,
)
from prefilltune.workloads import PrefilltuneError

OTHER_KEY = TargetKey("cuda", "sm_90a", "h100")
RECORDS = {KEY: [small_entry(1, workload=1), small_entry(2)], OTHER_KEY: []}
ENDINGS = (".json", ".tar.gz", ".tgz")


@pytest.fixture(scope="module", params=ENDINGS)
def file(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / f"records{request.param}"
    export(RECORDS, path)
    return path


def test_what_is_exported_is_what_is_unpacked(file, tmp_path):
    unpack(file, tmp_path)
    assert target_keys(tmp_path) == [OTHER_KEY, KEY]
    store = RecordStore.open(tmp_path, KEY)
    assert {entry.record_id: entry for entry in store.entries} == {
        entry.record_id: entry for entry in RECORDS[KEY]
    }
    assert not store.problems


def test_equal_records_are_equal_files(file, tmp_path):
    again = tmp_path / file.name
    export({OTHER_KEY: [], KEY: RECORDS[KEY][::-1]}, again)
    assert again.read_bytes() == file.read_bytes()


def test_an_unpacked_archive_is_a_database(tmp_path):
    export(RECORDS, tmp_path / "records.tar.gz")
    with tarfile.open(tmp_path / "records.tar.gz") as archive:
        names = archive.getnames()
    assert f"{KEY}/records.json" in names


def test_a_record_survives_export_import_and_judgement(tmp_path):
    entry = real_entry()
    roots = [tmp_path / ending for ending in ENDINGS[:2]]
    for root in roots:
        export({KEY: [entry]}, tmp_path / f"records{root.name}")
        unpack(tmp_path / f"records{root.name}", root)
    (done,) = merge(roots, tmp_path / "into")
    assert (done.added, done.refused) == ((entry,), {})
    assert RecordStore.open(tmp_path / "into", KEY).entries == [entry]


@pytest.mark.parametrize("name", ["records.zip", "records", "records.tar"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(MalformedExportError, match=r"\.json or \.tar\.gz"):
        export(RECORDS, tmp_path / name)
    with pytest.raises(MalformedExportError, match=r"\.json or \.tar\.gz"):
        unpack(tmp_path / name, tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MalformedExportError, match="does not exist"):
        unpack(tmp_path / "none.json", tmp_path)


@given(st.sampled_from(ENDINGS[:2]), st.data())
def test_a_damaged_file_is_refused_or_its_damage_found(ending, data):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        export(RECORDS, root / f"records{ending}")
        content = bytearray((root / f"records{ending}").read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            del content[place:]
        else:
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        (root / f"damaged{ending}").write_bytes(content)
        try:
            unpack(root / f"damaged{ending}", root / "out")
        except MalformedExportError:
            return
        wanted = {entry.record_id: entry for entry in RECORDS[KEY]}
        for key in target_keys(root / "out"):
            try:
                entries = RecordStore.open(root / "out", key).entries
            except PrefilltuneError:
                continue
            for entry in entries:  # provenance itself is for people: it has no digest
                assert entry.trace == wanted[entry.record_id].trace
                assert entry.workload_line == wanted[entry.record_id].workload_line


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for member, content in members:
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


HOSTILE = {
    "up.tar.gz": archive((tarfile.TarInfo("../records.json"), b"")),
    "root.tar.gz": archive((tarfile.TarInfo("/etc/llvm-x/records.json"), b"")),
    "other.tar.gz": archive((tarfile.TarInfo(f"{KEY}/setup.py"), b"")),
    "link.tar.gz": archive((link(f"{KEY}/records.json", "/etc/passwd"), b"")),
    "twice.tar.gz": archive(*[(tarfile.TarInfo(f"{KEY}/records.json"), b"")] * 2),
    "plain.tar.gz": gzip.compress(b"no archive"),
    "empty.tar.gz": b"",
    "up.json": json.dumps(
        {"format": "prefilltune records", "schema": 1, "targets": {"..": {"records.json": []}}}
    ).encode(),
    "deep.json": b"[" * 200_000,
    "list.json": b"[]",
    "newer.json": b'{"format": "prefilltune records", "schema": 2, "targets": {}}',
    "lines.json": json.dumps(
        {"format": "prefilltune records", "schema": 1, "targets": {str(KEY): {"records.json": 1}}}
    ).encode(),
    "files.json": json.dumps(
        {"format": "prefilltune records", "schema": 1, "targets": {str(KEY): []}}
    ).encode(),
    "targets.json": b'{"format": "prefilltune records", "schema": 1, "targets": 1}',
    "huge.json": b"1" * 5000,
    "bytes.json": b"\xff\xfe",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_write_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(MalformedExportError, match=name):
        unpack(tmp_path / name, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    from prefilltune.database import transfer

    export({KEY: [real_entry()]}, tmp_path / "records.tar.gz")
    monkeypatch.setattr(transfer, "MAX_BYTES", 1000)
    with pytest.raises(MalformedExportError, match="too large"):
        unpack(tmp_path / "records.tar.gz", tmp_path / "out")
