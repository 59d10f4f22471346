"""Which targets a database has records of."""

from __future__ import annotations

import shlex
from pathlib import Path

from .contents import FILES
from .errors import DatabaseNotFoundError, InvalidTargetKeyError
from .target_key import TargetKey


def target_keys(root: Path) -> list[TargetKey]:
    """The targets whose folders in ``root`` hold a file of records, by name.

    Raises
    ------
    DatabaseNotFoundError
        If ``root`` is no folder.
    """
    if not root.is_dir():
        raise DatabaseNotFoundError(
            f"{root} is no database; correct the path, or make one; run: prefilltune tune --model "
            f"bge-base --shape 1x128 --database {shlex.quote(str(root))}"
        )
    keys = []
    for folder in sorted(root.iterdir()):
        if any((folder / name).is_file() for name in FILES):
            try:
                keys.append(TargetKey.parse(folder.name))
            except InvalidTargetKeyError:
                continue  # not a folder of records
    return keys
