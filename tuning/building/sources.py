"""Which kernels a schedule becomes hangs on the sources of this package, too."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

# Rooms of what stands between a workload and its machine code.
_ROOMS = ("backends", "building", "derivation", "intrinsics", "pipeline", "spaces")


@functools.cache
def sources_digest() -> str:
    """Of all sources that make kernels; equal for two installations if these are."""
    tuning = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for room in (tuning.parent / "workloads", *(tuning / name for name in _ROOMS)):
        for path in sorted(room.rglob("*.py")):
            digest.update(f"{room.name}/{path.relative_to(room).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
