"""Folders for what is needed only while a process lives, in the system's temporary folder.

A process that is killed leaves its folders there, and the next one that makes one removes them. The
sign of life is a lock on the folder itself, which the system takes back however its owner ended:
a number in a name says nothing where containers share a temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where folders of killed processes stay
    fcntl = None

# A process tells its own folders from those of others with the same number by something random.
_PROCESS = secrets.token_hex(4)
_NAME = re.compile(r"prefilltune-\d+-[0-9a-f]{8}-\w+")


class ScratchFolder:
    """A new folder, empty; a context manager that gives its path and removes it with all in it.

    Attributes
    ----------
    path : Path
        Of the folder.
    """

    def __init__(self) -> None:
        remove_abandoned()
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_prefix()))
            self._lock = _locked(self.path)
            if self.path.is_dir():  # else another process took it for abandoned: not locked yet
                break
            self._unlock()

    def remove(self) -> None:
        """Remove it, if it is there."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def remove_abandoned() -> None:
    """Remove this user's scratch folders whose processes are gone."""
    if fcntl is None:
        return
    for path in _folders():
        with contextlib.suppress(OSError):  # another process's right now, or no locks here
            if (lock := _open(path)) is None:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def remove_own() -> None:
    """Remove every scratch folder of this process, which is about to end."""
    for path in _folders():
        if path.name.startswith(_prefix()):
            shutil.rmtree(path, ignore_errors=True)


def _prefix() -> str:
    return f"prefilltune-{os.getpid()}-{_PROCESS}-"


def _folders() -> list[Path]:
    root = Path(tempfile.gettempdir())
    with contextlib.suppress(OSError):
        return [root / name for name in os.listdir(root) if _NAME.fullmatch(name)]
    return []


def _locked(path: Path) -> int | None:
    """A descriptor that keeps a folder locked; ``None`` if it is gone or cannot be locked."""
    if fcntl is None:
        return None
    lock = None
    try:
        lock = os.open(path, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a file system without locks: nobody can take this folder for abandoned
        if lock is not None:
            os.close(lock)
        return None
    return lock


def _open(path: Path) -> int | None:
    """A descriptor of a folder, if it is one and this user's."""
    lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    found = os.fstat(lock)
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
        return lock
    os.close(lock)
    return None
