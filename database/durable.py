"""Writes that survive a crash, or leave things as they were."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

_BLOCK_BYTES = 1 << 20
# What file systems answer that cannot sync a file or a folder; all is written all the same.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def append(path: Path, lines: Iterable[bytes]) -> None:
    """Append whole lines; when it returns, they are on disk.

    A last line without its newline stays a line of its own.

    Raises
    ------
    OSError
        If they cannot be written; the file is then as long as it was.
    """
    content = b"".join(line + b"\n" for line in lines)
    if not content:
        return
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size:
            os.lseek(descriptor, size - 1, os.SEEK_SET)
            if os.read(descriptor, 1) != b"\n":
                content = b"\n" + content
        try:
            _write(descriptor, content)
            sync(descriptor)
        except OSError:  # a full disk
            os.ftruncate(descriptor, size)
            if is_new:
                path.unlink()
            raise
    finally:
        os.close(descriptor)
    if is_new:
        sync_folder(path.parent)


def write_atomically(path: Path, lines: Iterable[bytes]) -> None:
    """Let ``path`` hold ``lines``: at any moment all of them, or what was there before.

    Raises
    ------
    OSError
        If they cannot be written; the file is then as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # under a lock, nobody else writes it
    try:
        with temporary.open("wb") as file:
            file.writelines(line + b"\n" for line in lines)
            file.flush()
            sync(file.fileno())
        os.replace(temporary, path)
    except (OSError, ValueError):
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def torn_line(path: Path) -> bytes:
    """What follows the last newline of a file; a crash in :func:`append` leaves such a rest."""
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return b""
    with file:
        rest, end = b"", file.seek(0, os.SEEK_END)
        while end and b"\n" not in rest:
            start = max(0, end - _BLOCK_BYTES)
            file.seek(start)
            rest, end = file.read(end - start) + rest, start
    return rest.rpartition(b"\n")[2]


def cut(path: Path, count: int) -> None:
    """Remove the last ``count`` bytes of a file, on disk too."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - count)
        sync(descriptor)
    finally:
        os.close(descriptor)


def is_writable(path: Path) -> bool:
    """Whether this process may write a file, or into a folder."""
    return os.access(path, os.W_OK)


def sync(descriptor: int) -> None:
    """Put a file or a folder on disk, where its file system can do that.

    Raises
    ------
    OSError
        If there is no room, or the disk fails.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def sync_folder(folder: Path) -> None:
    """Put new names and renames on disk, where the system can sync a folder."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
