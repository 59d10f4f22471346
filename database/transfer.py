"""Records as one file that travels: JSON, or the folders themselves in a ``.tar.gz``."""

from __future__ import annotations

import gzip
import io
import json
import shlex
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .contents import FILES, PROVENANCE
from .entry import Entry
from .errors import InvalidTargetKeyError, MalformedExportError, NotWritableError
from .scratch import ScratchFolder
from .store import RecordStore
from .target_key import TargetKey
from .writing import rescued, write_file

FORMAT = "prefilltune records"
SCHEMA_VERSION = 1
MAX_BYTES = 1 << 30  # unpacked: a small archive can hold far more than fits a disk


def export(records: Mapping[TargetKey, Sequence[Entry]], file: Path) -> None:
    """Write records to one file; equal records give equal bytes.

    Parameters
    ----------
    records : Mapping of TargetKey to sequence of Entry
        What to write.
    file : Path
        Ends in ``.json``, ``.tar.gz`` or ``.tgz``; overwritten if it exists.

    Raises
    ------
    MalformedExportError
        For another ending.
    NotWritableError
        If ``file`` cannot be written.
    """
    write_file(file, _packed(records, _packer(file)))


def rescued_records(
    error: NotWritableError, records: Mapping[TargetKey, Sequence[Entry]], root: Path
) -> NotWritableError:
    """The error of a database that takes no records, once an export elsewhere holds them."""
    number = sum(map(len, records.values()))
    mend = (
        f"the {number} new record{'' if number == 1 else 's'} would be lost, and "
        f"{'is' if number == 1 else 'are'} in {{path}}; once that is mended, run: prefilltune db "
        f"import {{path}} --database {shlex.quote(str(root))}"
    )
    return rescued(error, "records.json", _packed(records, _pack_json), mend) if number else error


def unpack(file: Path, folder: Path) -> None:
    """Write what :func:`export` wrote as a database into ``folder``; nothing is judged yet.

    Raises
    ------
    MalformedExportError
        If ``file`` is none of ours or was cut; then ``folder`` is left as it is.
    """
    unpacker = _unpack_json if _packer(file) is _pack_json else _unpack_tar
    try:
        content = unpacker(file.read_bytes())
    except FileNotFoundError:
        raise MalformedExportError(f"{file} does not exist; correct the path") from None
    except (
        ValueError, RecursionError, EOFError, OSError, tarfile.TarError, zlib.error
    ) as error:  # fmt: skip
        raise MalformedExportError(
            f"{file} is no file of records: {error}; export it again"
        ) from error
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def _packed(
    records: Mapping[TargetKey, Sequence[Entry]], pack: Callable[[Mapping[str, bytes]], bytes]
) -> bytes:
    with ScratchFolder() as folder:
        for key, entries in records.items():
            RecordStore.open(folder, key, create=True).replace(entries)
        return pack({
            f"{key}/{name}": (folder / str(key) / name).read_bytes()
            for key in sorted(map(str, records))
            for name in FILES
        })  # fmt: skip


def _packer(file: Path) -> Callable[[Mapping[str, bytes]], bytes]:
    if file.name.endswith(".json"):
        return _pack_json
    if file.name.endswith((".tar.gz", ".tgz")):
        return _pack_tar
    raise MalformedExportError(f"{file} must end in .json or .tar.gz: rename it")


def _pack_json(content: Mapping[str, bytes]) -> bytes:
    targets: dict[str, dict[str, Any]] = {}
    for path, data in content.items():
        key, name = path.split("/")
        value = (
            json.loads(data)
            if name == PROVENANCE
            else [json.loads(line) for line in data.splitlines()]
        )
        targets.setdefault(key, {})[name] = value
    frame = {"format": FORMAT, "schema": SCHEMA_VERSION, "targets": targets}
    return (json.dumps(frame, indent=1, ensure_ascii=False) + "\n").encode()


def _unpack_json(data: bytes) -> dict[str, bytes]:
    frame = json.loads(data)
    expected = {"format": FORMAT, "schema": SCHEMA_VERSION}
    if not isinstance(frame, dict) or any(frame.get(name) != expected[name] for name in expected):
        raise ValueError(f"expected an object with {expected}")
    targets = frame.get("targets")
    if not isinstance(targets, dict):
        raise ValueError("its targets are no object")
    content = {}
    for key, files in targets.items():
        if not isinstance(files, dict):
            raise ValueError(f"the files of {key!r} are no object")
        for name, value in files.items():
            path = _checked_path(f"{key}/{name}")
            if name != PROVENANCE and not isinstance(value, list):
                raise ValueError(f"{path} is no list of lines")
            lines = [value] if name == PROVENANCE else value
            content[path] = b"".join(_dumps(line) + b"\n" for line in lines)
    return content


def _pack_tar(content: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for path, data in content.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _unpack_tar(data: bytes) -> dict[str, bytes]:
    content: dict[str, bytes] = {}
    total = 0
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            path = _checked_path(member.name)
            total += member.size
            if not member.isreg() or path in content or total > MAX_BYTES:
                raise ValueError(f"{path} is no plain file, is there twice or is too large")
            file = archive.extractfile(member)
            assert file is not None
            content[path] = file.read()
    return content


def _checked_path(path: str) -> str:
    """``path`` if an export can hold it; so no other place is ever written to."""
    key, _, name = path.partition("/")
    try:
        if name in FILES and str(TargetKey.parse(key)) == key:
            return path
    except InvalidTargetKeyError as error:
        raise ValueError(str(error)) from error
    raise ValueError(f"it holds {path!r}; expected TARGET/{{{', '.join(FILES)}}}")


def _dumps(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="surrogatepass")
