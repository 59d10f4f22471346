"""From a folder that ``prefilltune build`` wrote to kernels that the operator finds."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm_ffi

from .errors import ChecksumError, InvalidLibraryError
from .kernels import Kernel, Spec, parse_shape
from .registry import register
from .runtime import load_runtime

_MANIFEST = "manifest.json"
_SCHEMA = 2
_DEVICES = {"llvm": "cpu", "cuda": "cuda"}

#: SHA-256 of every library that this process has loaded. The system's loader knows a library by its
#: path: where the file was replaced, it would hand out the old one again without a word.
_digests: dict[Path, str] = {}


@dataclass(frozen=True)
class Library:
    """A library that is loaded.

    Parameters
    ----------
    path : Path
        The shared library.
    target : dict
        What it was built for, as TVM writes it.
    kernels : tuple[Kernel, ...]
        What it serves. ``str(library)`` lists them.
    """

    path: Path
    target: dict[str, Any]
    kernels: tuple[Kernel, ...]

    def __str__(self) -> str:
        return "\n".join([str(self.path), *(f"  {kernel}" for kernel in self.kernels)])


def load(folder: str | os.PathLike[str]) -> Library:
    """Load a library and let :func:`~prefilltune.torch.sequence_prefill` use it.

    Where an earlier library has a kernel of the same spec for the same shape, or for every shape,
    this one's takes its place. Loading the same library again is no harm.

    Parameters
    ----------
    folder : str or path
        With the ``manifest.json`` and the library that ``prefilltune build --output`` wrote.

    Raises
    ------
    InvalidLibraryError
        If a file is missing, or the manifest is of another version.
    ChecksumError
        If the library is not the one in the manifest, or its file was replaced after this process
        had loaded it.
    RuntimeNotFoundError
        If TVM's runtime library is missing.
    """
    manifest = Path(folder).resolve() / _MANIFEST
    data = _read_manifest(manifest)
    try:
        path = manifest.parent / data["library"]
        kind = data["target"]["kind"]
        kernels = tuple(_kernel(each, _DEVICES[kind]) for each in data["kernels"])
        digest = data["sha256"]
    except (KeyError, TypeError) as error:
        raise InvalidLibraryError(
            f"{manifest} lacks {error} or has it in another form; write it anew with prefilltune "
            "build"
        ) from None
    _require_digest(path, digest)
    load_runtime(kind)
    module = tvm_ffi.load_module(path)
    _digests[path] = digest
    for kernel in kernels:
        register(kernel, module[kernel.symbol])
    return Library(path, data["target"], kernels)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(_read(path))
        schema = data["schema"]
    except (ValueError, KeyError, TypeError):
        raise InvalidLibraryError(
            f"{path} is no manifest; write it anew with prefilltune build"
        ) from None
    if schema != _SCHEMA:
        raise InvalidLibraryError(
            f"{path} follows schema {schema!r}; this version reads {_SCHEMA}: build the library "
            "and load it with the same version of prefilltune"
        )
    return data


def _kernel(data: dict[str, Any], device: str) -> Kernel:
    shape = None if data["shape"] is None else parse_shape(data["shape"])
    return Kernel(device, Spec.parse(data["spec"]), shape, data["symbol"])


def _require_digest(path: Path, digest: str) -> None:
    found = hashlib.sha256(_read(path)).hexdigest()
    if found != digest:
        raise ChecksumError(
            f"{path} has the SHA-256 {found}, its manifest says {digest}: one is of another "
            "build; copy both again, or run prefilltune build"
        )
    if _digests.get(path, digest) != digest:
        raise ChecksumError(
            f"{path} was replaced after this process had loaded it, and the old one stays in "
            "memory; restart the process, or load the new one from another folder"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidLibraryError(
            f"{path} cannot be read ({error.strerror}); name the folder that prefilltune build "
            "wrote"
        ) from None
