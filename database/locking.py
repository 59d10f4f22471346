"""One process at a time, also on file systems that know no locks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from .errors import NotWritableError
from .writing import writing

try:
    import fcntl
except ImportError:  # no Unix: its locks are no matter of the file system
    fcntl = None

LOCK_TIMEOUT_SECS = 60.0
# What network and user-space file systems answer that have no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def changing(path: Path, lock: Path | None = None) -> Iterator[None]:
    """Keep other processes from changing what is read, changed and written anew.

    Parameters
    ----------
    path : Path
        A file, or a folder of files that change together; folders that are missing are made.
    lock : Path, optional
        The file to lock; one beside ``path`` when absent.

    Raises
    ------
    NotWritableError
        If another process keeps it for a minute, or it cannot be written.
    """
    with writing(path):
        lock = lock or path.with_name(f".{path.name}.lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = file_lock(lock, LOCK_TIMEOUT_SECS)
        try:
            held.acquire()
        except Timeout as error:
            raise NotWritableError(
                f"{path} has been locked by another process for {LOCK_TIMEOUT_SECS:.0f} s; wait "
                f"for its end{_or_delete(held)}"
            ) from error
        try:
            yield
        finally:
            held.release()


def file_lock(path: Path, timeout: float) -> BaseFileLock:
    """A lock of a file, to be acquired; where its file system has none, a marker beside it.

    The marker is a file that is there while the lock is held, and names its holder: the next one
    takes the place of one that died on this machine.

    Parameters
    ----------
    path : Path
        The file; made if missing, its folder must be there.
    timeout : float
        Seconds to wait for another holder, who else raises :class:`filelock.Timeout`.

    Raises
    ------
    OSError
        If the file cannot be made.
    """
    if _has_locks(path):
        return FileLock(path, timeout=timeout)
    return SoftFileLock(path.with_name(f"{path.name}.held"), timeout=timeout)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file; not, where this one may not even try."""
    if not path.exists():
        return False
    try:
        file_lock(path, 0).acquire().lock.release()
    except Timeout:
        return True
    except OSError:  # a read-only copy
        return False
    return False


def _has_locks(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    finally:
        os.close(descriptor)
    return True


def _or_delete(lock: BaseFileLock) -> str:
    """What to do about a marker, which stays for ever when another machine died holding it."""
    marker = isinstance(lock, SoftFileLock)
    return f", or delete {lock.lock_file} if there is none" if marker else ""
