"""Which kernels a schedule becomes hangs on the sources of this package, too."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]

#: What stands between a workload and its machine code, in the package.
SOURCES = (
    "workloads",
    "database/replay.py",
    "tuning/backends",
    "tuning/building",
    "tuning/derivation",
    "tuning/intrinsics",
    "tuning/pipeline",
    "tuning/spaces",
)


@functools.cache
def sources_digest(package: Path = _PACKAGE) -> str:
    """Of all sources that make kernels; equal for two installations if these are."""
    digest = hashlib.sha256()
    for source in (package / name for name in SOURCES):
        for path in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
