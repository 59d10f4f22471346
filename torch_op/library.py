"""From a folder that ``prefilltune build`` wrote to kernels that the operator finds."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tvm_ffi

from .errors import ChecksumError, InvalidLibraryError, WrongMachineError
from .kernels import Kernel, Spec, parse_shape
from .machine import lacking, this_machine
from .masks import is_packed
from .registry import register
from .runtime import llvm_features, load_runtime
from .threads import Threads, refusing_in_children, set_up_threads, threads_of

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
        What it serves. ``str(library)`` lists them, and the threads.
    """

    path: Path
    target: dict[str, Any]
    kernels: tuple[Kernel, ...]

    @property
    def threads(self) -> Threads | None:
        """What the kernels run on; absent for a GPU's."""
        return threads_of(self.path)

    def __str__(self) -> str:
        threads = [] if self.threads is None else [f"  {self.threads}"]
        return "\n".join([str(self.path), *threads, *(f"  {kernel}" for kernel in self.kernels)])


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
    WrongMachineError
        If this machine cannot run what is in it: another processor, a CPU without a feature that
        its code uses, a GPU of another architecture, or a driver that is too old.
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
        requires = data["requires"] if "requires" in data else _derived(data)
    except (KeyError, TypeError) as error:
        raise InvalidLibraryError(
            f"{manifest} lacks {error} or has it in another form; write it anew with prefilltune "
            "build"
        ) from None
    _require_digest(path, digest)
    load_runtime(kind)
    _require_machine(path, data["target"], requires, kernels)
    module = _loaded(path)
    _digests[path] = digest
    guarded = kind == "llvm" and not set_up_threads(path, int(data["target"].get("num-cores", 1)))
    for kernel in kernels:
        function = module[kernel.symbol]
        if is_packed(kernel.spec.mask_mode) and not kernel.takes_longest:
            function = _without_longest(function)
        register(kernel, refusing_in_children(function) if guarded else function)
    return Library(path, data["target"], kernels)


def _without_longest(function: Any) -> Any:
    """A kernel of an earlier version as those of this one are called."""

    def call(query: Any, key: Any, value: Any, begins: Any, key_begins: Any, _: int, *rest: Any):
        function(query, key, value, begins, key_begins, *rest)

    return call


def is_loaded(path: Path) -> bool:
    """Whether this process has loaded the library of that file."""
    return path in _digests


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
    # Earlier versions had neither.
    takes = (bool(data.get(name, False)) for name in ("views", "max_seqlen_q"))
    return Kernel(device, Spec.parse(data["spec"]), shape, data["symbol"], *takes)


def _derived(data: dict[str, Any]) -> dict[str, Any]:
    """What a library needs whose manifest does not say so yet: what its target has.

    Of a CPU that only TVM's compiler knows.
    """
    target = data["target"]
    if target["kind"] == "cuda":
        return {"arch": target["arch"], "cuda": data["versions"]["nvrtc"]}
    from tvm.target import Target  # pyright: ignore[reportMissingImports]

    backends = importlib.import_module("prefilltune.tuning.backends")
    return backends.backend_of(target["kind"]).requirements(Target(target))


def _require_machine(
    path: Path, target: dict[str, Any], requires: dict[str, Any], kernels: tuple[Kernel, ...]
) -> None:
    machine = this_machine()
    found = lacking(requires, machine)
    if found and machine.features is not None and target["kind"] == "llvm":
        # A kernel of Linux that is older than the CPU does not write all of its features.
        features = machine.features | llvm_features()
        found = lacking(requires, replace(machine, features=features))
    if not found:
        return
    name = target.get("mcpu") or target.get("arch")
    commands = sorted({kernel.spec.command("build", target["kind"]) for kernel in kernels})
    raise WrongMachineError(
        f"{path} is built for {name}, and this machine cannot run it: {found}; build it for this "
        f"machine, from records of its kind: {'; '.join(commands)}"
    )


def _loaded(path: Path) -> Any:
    """The library as a module.

    Raises
    ------
    InvalidLibraryError
        If the system cannot load it.
    """
    try:
        return tvm_ffi.load_module(path)
    except (RuntimeError, OSError) as error:
        raise InvalidLibraryError(
            f"{path} cannot be loaded ({str(error).strip().splitlines()[-1]}); build it on a "
            "machine with this one's system and kind of processor"
        ) from None


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
