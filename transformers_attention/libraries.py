"""Libraries for a model: those of a folder, or built of records and kept for the next time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..database import Finder, TargetKey, Tier, committed_root, work_root
from ..database.folders import target_keys
from ..database.provenance import own_version, running_tvm_version
from ..torch import Library, Spec, load
from ..torch.machine import this_machine
from ..torch.threads import usable_cores
from ..workloads import PrefillSpec, PrefilltuneError
from .errors import NotBuiltError

_logger = logging.getLogger("prefilltune.transformers")

_MANIFEST = "manifest.json"
_KINDS = {"cpu": "llvm", "cuda": "cuda"}


def load_folders(folders: Any) -> list[Library]:
    """Load the libraries of one folder or several; a folder may hold one, or folders with one each.

    Raises
    ------
    InvalidLibraryError
        If one cannot be loaded.
    """
    several = [folders] if isinstance(folders, (str, os.PathLike)) else folders
    return [load(path) for folder in several for path in _libraries_in(Path(folder))]


def _libraries_in(folder: Path) -> list[Path]:
    inside = sorted(path.parent for path in folder.glob(f"*/{_MANIFEST}"))
    return inside if inside and not (folder / _MANIFEST).exists() else [folder]


def default_cache() -> Path:
    """Where libraries are kept: ``$XDG_CACHE_HOME/prefilltune``, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefilltune"


def built(spec: Spec, device: str, records: Path | None, accept: str, cache: Path) -> Path:
    """A library of the kernels of a spec, of what records there are; built unless it is kept.

    Parameters
    ----------
    device : str
        PyTorch's device type.
    records : Path, optional
        A database, besides the committed records; when absent, the one that commands take.
    accept : str
        Whose records will do: ``--accept`` of ``prefilltune build``.
    cache : Path
        Keeps libraries by what they are made of: records, versions, machine.

    Raises
    ------
    NotBuiltError
        If it cannot be built, for want of records mostly; it says what can be done.
    """
    if device not in _KINDS:
        raise NotBuiltError(
            f"the model is on {device!r}, and kernels are for {' and '.join(_KINDS)}: move it "
            "there before"
        )
    kind = _KINDS[device]
    own = records or work_root()
    roots = [own, committed_root()] if records or own.is_dir() else [committed_root()]
    if not _is_recorded(spec, kind, roots):
        raise NotBuiltError(
            f"there are no records of {spec}: {spec.command('tune', kind)} --shape 8x512 "
            "--database FOLDER makes some, on the shapes that you serve; then pass records=FOLDER"
        )
    folder = cache / _digest(spec, kind, roots, accept)
    try:
        return _kept(folder, spec, kind, own, accept)
    except OSError as error:
        raise NotBuiltError(
            f"{cache} cannot be written ({error.strerror}): pass another folder as cache, or build "
            f"before, {spec.command('build', kind)}, and pass library"
        ) from None


def stand_ins_in(folder: Path) -> list[str]:
    """What a library says of its records that are not of its own target, a line for each tier.

    Such as which they are, what they were timed on, and the command that makes some of its own.
    """
    kernels = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["kernels"]
    return [
        note
        for kernel in kernels
        for note in kernel.get("notes", ())
        if note.startswith(tuple(f"{kernel['spec']}: {tier}: " for tier in Tier))
    ]


def _kept(folder: Path, spec: Spec, kind: str, records: Path, accept: str) -> Path:
    """The folder, with a library in it."""
    cache = folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / _MANIFEST).exists():
            return folder
        _logger.info("building a library of %s, for the first time; %s keeps it", spec, cache)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".building-") as scratch:
            made = Path(scratch) / "library"
            _build(spec, kind, [
                "--accept", accept, "--output", str(made), "--database", str(records),
            ])  # fmt: skip
            made.rename(folder)
    return folder


def _is_recorded(spec: Spec, kind: str, roots: Sequence[Path]) -> bool:
    """Whether any target of a kind has records of a spec; asked before a process is started."""
    wanted = PrefillSpec(
        spec.num_qo_heads, spec.num_kv_heads, spec.head_dim, spec.dtype, spec.mask_mode,
        sm_scale=spec.sm_scale, lse_dtype=spec.lse_dtype,
        softcap=spec.softcap, bias=spec.bias,
    )  # fmt: skip
    databases = Finder(roots)
    keys = {key for root in roots for key in target_keys(root) if key.kind == kind}

    def has_any(key: TargetKey) -> bool:
        try:
            return bool(databases.groups(key, wanted))
        except PrefilltuneError:  # a build leaves it alone, or says what is wrong with it
            return True

    return any(map(has_any, keys))


def _build(spec: Spec, kind: str, options: Sequence[str]) -> None:
    """Build it in a process of its own: TVM parses several times slower beside PyTorch."""
    program, *rest = spec.command("build", kind).split()
    command = [sys.executable, "-m", "prefilltune.tuning.cli", *rest, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{program} ended with {done.returncode}"]
        raise NotBuiltError(f"no library was built for {spec}: {lines[-1]}")


def _digest(spec: Spec, kind: str, roots: Iterable[Path], accept: str) -> str:
    """Of all that a library is made of."""
    machine = this_machine()
    gpus, features = machine.gpus if kind == "cuda" else None, sorted(machine.features or ())
    made_of = [
        str(spec), accept, own_version(), running_tvm_version(),
        machine.processor, *(map(str, gpus) if gpus is not None else (*features, usable_cores())),
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(made_of).encode())
    for root in roots:
        for path in sorted(root.glob(f"{kind}-*/*.json")):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:24]
