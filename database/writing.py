"""Files that are written whole or not at all, and what is said where they cannot be.

Whatever writes a file for a user does so within :func:`writing`, or with :func:`write_file`: then
all failures are one error, which names the path, what the system says of it and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..workloads.errors import PrefilltuneError
from .durable import sync
from .errors import NotWritableError

#: Of free space: what a command asks for before work that takes long.
ROOM = 4 << 20

#: Advice for temporary files.
OTHER_TMPDIR = "set TMPDIR to a folder on another disk"

# Files that this process is writing, to be removed by whatever ends it.
_UNFINISHED: set[Path] = set()

_OR_ELSE = "choose another place"
_BLOCK = bytes(1 << 16)
_OF_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_OF_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def writing(path: Path, keeps: str = "", or_else: str = _OR_ELSE) -> Iterator[None]:
    """Raise what the system says within as the one error of files that cannot be written.

    Parameters
    ----------
    path : Path
        The file that is being written, or the folder that takes files.
    keeps : str
        What is not lost, for the end of the message.
    or_else : str
        What else can be done than to mend the path.

    Raises
    ------
    NotWritableError
        In the place of an :class:`OSError`.
    """
    try:
        yield
    except PrefilltuneError:  # some are OSErrors too
        raise
    except OSError as error:
        raise not_writable(path, error, keeps, or_else) from error


def not_writable(
    path: Path, error: OSError, keeps: str = "", or_else: str = _OR_ELSE
) -> NotWritableError:
    """The error for a file or a folder that takes nothing: what, why, and what to do.

    >>> print(not_writable(Path("dist/a.so"), OSError(errno.ENOSPC, "No space left on device")))
    cannot write dist/a.so: No space left on device; make room there, or choose another place
    """
    return NotWritableError(
        f"cannot write {path}: {in_words(path, error, or_else)}{keeps and '; ' + keeps}"
    )


def in_words(path: Path, error: OSError, or_else: str = _OR_ELSE) -> str:
    """What is wrong with a path, and what to do about it."""
    words = error.strerror or str(error)
    if in_the_way := _in_the_way(path, error):
        return f"{in_the_way}; move it away, or {or_else}"
    if error.errno == errno.ENAMETOOLONG:
        return f"{words}; choose a shorter name"
    if error.errno in _OF_ROOM:
        return f"{words}; make room there, or {or_else}"
    if error.errno in _OF_PERMISSION:
        return f"{words}; free or unlock it, or {or_else}"
    return f"{words}; {or_else}"


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises
    ------
    NotWritableError
        If that cannot be done.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """A folder that is there within; one that was made for it and is empty goes on failure."""
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        _remove_empty(missing)
        raise


def _remove_empty(folders: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):  # another process may have begun to use one
        for each in folders:
            each.rmdir()


def write_file(path: Path, content: bytes) -> None:
    """Let a file hold ``content``: all of it, or what was there before; makes its folder.

    Where ``path`` is a link to a file, that one is written.

    Raises
    ------
    NotWritableError
        If it cannot be written.
    """
    with writing(path), _folder(path.parent):
        real = Path(os.path.realpath(path))
        if real.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if real.exists() and not real.is_file():
            raise OSError(errno.EINVAL, "it is a device or a pipe, not a file")
        with replacing(real) as aside:
            aside.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path``, to be written; takes its place at the end, and is gone on failure.

    Raises
    ------
    OSError
        If that cannot be done.
    """
    # The ending is kept, for compilers go by it. Two processes may write the same file.
    aside = path.with_name(f".{os.getpid()}.{path.stem[:64]}{path.suffix}")
    _UNFINISHED.add(aside)
    try:
        yield aside
        with aside.open("rb") as file:
            sync(file.fileno())  # some file systems tell of a full disk no sooner
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    finally:
        _UNFINISHED.discard(aside)


def remove_unfinished() -> None:
    """Remove what this process has written of files that are to be whole; it is about to end."""
    for each in list(_UNFINISHED):
        with contextlib.suppress(OSError):
            each.unlink()


def require_writable(folder: Path, room: int = ROOM, or_else: str = _OR_ELSE) -> None:
    """Try whether a folder takes files, before hours are spent on what it might not take.

    Leaves nothing behind, not even the folder where there was none.

    Parameters
    ----------
    folder : Path
        Need not be there.
    room : int
        Bytes that there must be room for.
    or_else : str
        As :func:`writing` takes it.

    Raises
    ------
    NotWritableError
        If it takes none.
    """
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    probe = folder / f".{os.getpid()}.probe"
    _UNFINISHED.add(probe)
    with writing(folder, or_else=or_else):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            require_room(folder, room, or_else)
            with probe.open("wb") as file:
                for _ in range(0, room, len(_BLOCK)):
                    file.write(_BLOCK)
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
            _UNFINISHED.discard(probe)
            _remove_empty(missing)


def require_replaceable(path: Path) -> None:
    """Try whether a file can be written in the place of ``path``; leaves that as it is.

    Raises
    ------
    NotWritableError
        If it cannot.
    """
    require_writable(path.parent)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.exists()  # a name that is too long


def require_room(folder: Path, room: int = ROOM, or_else: str = _OR_ELSE) -> None:
    """Refuse a disk that is nearly full; writes nothing.

    Raises
    ------
    NotWritableError
        If there is less room than that for what ``folder`` takes.
    """
    with writing(folder, or_else=or_else):
        disk = shutil.disk_usage(folder)
        if disk.total and disk.free < room:  # what is no disk has no size either
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def rescued(error: NotWritableError, name: str, content: bytes, mend: str) -> NotWritableError:
    """The error of a file that cannot be written, once what took long to make is safe elsewhere.

    Parameters
    ----------
    error : NotWritableError
        As it was raised.
    name : str
        How the name of the file ends that takes ``content``: in the working directory, or among
        the temporary files where that takes none either.
    mend : str
        What to do once the cause is mended, with ``{path}`` for that file.
    """
    for folder in (os.curdir, tempfile.gettempdir()):
        with contextlib.suppress(OSError):
            descriptor, made = tempfile.mkstemp(prefix="rescued-", suffix=f"-{name}", dir=folder)
            os.close(descriptor)
            path = Path(made)
            try:
                write_file(path, content)
            except OSError:
                path.unlink()
                continue
            return NotWritableError(f"{error}; {mend.replace('{path}', shlex.quote(made))}")
    return error


def _in_the_way(path: Path, error: OSError) -> str:
    """Which part of a path is no folder although it must be one, or is one although it must not."""
    for part in (*reversed(path.parents), path):
        try:
            if part.is_symlink() and not part.exists():
                return f"{part} is a link to {os.readlink(part)}, which does not exist"
            # Only whoever makes a folder is told that there is something.
            if (
                (part != path or error.errno == errno.EEXIST)
                and part.exists()
                and not part.is_dir()
            ):
                return f"{part} is a file, not a folder"
        except OSError:
            return ""
    return f"{path} is a folder, not a file" if error.errno == errno.EISDIR else ""
