"""What every kind of target says of itself."""

from __future__ import annotations

import importlib.metadata
import platform
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from ...database import TargetKey, Tier
from ...workloads import PrefillShape, PrefillSpec
from ..measuring.engine import Engine
from ..target import ResolvedTarget

_PACKAGES = {"tvm": "apache-tvm", "tvm_ffi": "apache-tvm-ffi", "numpy": "numpy"}


@dataclass(frozen=True)
class Backend(ABC):
    """A kind of target: how its kernels are built, measured and called.

    Parameters
    ----------
    kind : str
        TVM's name for it.
    engine : Engine
        How its kernels are measured.
    usual_dtype : str
        What kernels are tuned for when no dtype is given.
    alignment : int
        Bytes that the begin of a tensor must be a multiple of, besides those of its element.
    device_type : tuple[str, int]
        DLPack's name and number of the device that tensors lie on.
    pass_config : Mapping[str, Any]
        Of TVM's PassContext, in which kernels are built.
    visible_devices : str
        The environment variable that says which devices a process sees, where a machine may have
        several; empty where it has one.
    furthest : Tier
        The furthest tier of records that any target of the kind runs.
    masked_baseline : bool
        Whether TVM's hand-written masked prefill kernel, which serves any shape, can be built.
    source_language, source_comment : str
        What :meth:`source` is written in, by Pygments' name for it, and how a comment begins there.
    """

    kind: str
    engine: Engine
    usual_dtype: str
    alignment: int
    device_type: tuple[str, int]
    pass_config: Mapping[str, Any] = field(default_factory=dict)
    visible_devices: str = ""
    furthest: Tier = Tier.PORTABLE
    masked_baseline: bool = False
    source_language: str = "text"
    source_comment: str = "#"

    @property
    def is_cpu(self) -> bool:
        """Whether kernels run on the processor that calls them."""
        return self.device_type == ("kDLCPU", 1)

    # Which target is meant, and which machine is at hand.

    @abstractmethod
    def resolve(
        self, fields: Mapping[str, Any], threads: int | None, arch: str | None
    ) -> ResolvedTarget:
        """Complete a target.

        Parameters
        ----------
        fields : Mapping[str, Any]
            Of TVM's target, as far as the user wrote them.
        threads : int, optional
            That kernels are to run with.
        arch : str, optional
            The architecture, where the user gave it apart from the target.

        Raises
        ------
        UnknownTargetError, UnsupportedTargetError, InvalidOptionError
            If there is no such target, none can be found out, or an option does not go with it.
        """

    @abstractmethod
    def here(self, key: TargetKey) -> ResolvedTarget | None:
        """The machine at hand, if it is the one that ``key`` names."""

    def at_hand(self, target: ResolvedTarget) -> ResolvedTarget:
        """The target as the machine at hand measures it."""
        return target

    def options(self, target: ResolvedTarget) -> list[str]:
        """The options by which commands take a target: the text of ``--target`` first, then others.

        Without what they would take anyhow on the machine at hand.
        """
        return [self.kind]

    @abstractmethod
    def device_name(self) -> str:
        """What the vendor calls the processor at hand."""

    @abstractmethod
    def device_facts(self, target: ResolvedTarget) -> Mapping[str, str | float | bool | None]:
        """What a record says of the processor at hand besides its name."""

    def device(self, target: ResolvedTarget) -> dict[str, str | float | bool | None]:
        """What a record says of the machine that it was measured on."""
        return {"name": self.device_name(), **self.device_facts(target)}

    def processor(self, target: Any) -> str:
        """The kind of processor that a library is linked for, as Linux calls it.

        Parameters
        ----------
        target : tvm.target.Target
            Complete.
        """
        return platform.machine()

    @abstractmethod
    def requirements(self, target: Any) -> dict[str, Any]:
        """What a machine must have to run kernels for a target, as a manifest says it.

        Parameters
        ----------
        target : tvm.target.Target
            Complete.
        """

    def in_words(self, requires: Mapping[str, Any]) -> str:
        """What :meth:`requirements` found, for people."""
        features = ", ".join(requires["features"])
        return requires["processor"] + (f" with {features}" if features else "")

    def lacking_here(self, target: ResolvedTarget) -> str:
        """Why this machine cannot run kernels for a target, and what to do; empty if it can."""
        if target.is_here:
            return ""
        return (
            f"this machine has no GPU that runs code for {target.key}; leave --arch out on a "
            "machine with a GPU, or build a library here, of what has records; run: prefilltune "
            f"build --target {target.kind} --arch {target.key.arch} --model bge-base"
        )

    def arch_hint(self, key: TargetKey) -> str:
        """What to try where an architecture has no records; empty if nothing comes to mind."""
        return ""

    # Versions that a record's time and replay depend on.

    def runtime_versions(self) -> dict[str, str]:
        """Of what runs and times kernels, where they are measured."""
        return {name: importlib.metadata.version(package) for name, package in _PACKAGES.items()}

    @abstractmethod
    def compiler_versions(self) -> dict[str, str]:
        """Of what compiles kernels, where they are built."""

    def versions(self) -> dict[str, str]:
        """Of both."""
        return {**self.runtime_versions(), **self.compiler_versions()}

    # Building.

    def check_tools(self) -> None:
        """Refuse a machine that cannot compile kernels, a C++ compiler given.

        Raises
        ------
        EnvironmentMismatchError
            If something is missing.
        """
        return

    def generating(self) -> AbstractContextManager[object]:
        """In which TVM generates code for a kernel: what its lowering asks for besides.

        Builds of others, who compile a function that they were handed, have no such thing.
        """
        return nullcontext()

    def legalized(self, function: Any, target: Any) -> Any:
        """A scheduled PrimFunc in operations that a target has, where its compiler's are slow.

        Parameters
        ----------
        target : tvm.target.Target
            Complete.
        """
        return function

    def packing(self, host: Any, target: Any) -> dict[str, Any]:
        """Arguments of ``export_library`` by which device code gets into a library.

        Parameters
        ----------
        host : tvm.runtime.Module
            What TVM generated.
        target : tvm.target.Target
            For which.

        Raises
        ------
        EnvironmentMismatchError, KernelCompileError
            If the device code cannot be compiled.
        """
        return {}

    def source(self, host: Any) -> str:
        """The code of the kernels of what TVM generated, for readers.

        Parameters
        ----------
        host : tvm.runtime.Module
            As :meth:`packing` takes it.
        """
        return host.inspect_source()

    # One function with several kernels inside, of which the host picks one at each call.

    def picked(self, kernels: Any) -> Any:
        """The statement that picks and runs a kernel, with what must stand around it."""
        return kernels

    def lowered(self, function: Any, target: Any) -> Any:
        """The whole PrimFunc, lowered to where builds of others need no :meth:`generating`."""
        return function

    def lowered_alike(self, module: Any, target: Any) -> tuple[Any, list[str]]:
        """A module as TVM is to build it, and its names of passes that are to be left out.

        Where :meth:`lowered` did for one function what takes a pass too long, it is done for the
        others too: passes go over all of a module.

        Parameters
        ----------
        module : tvm.IRModule
            Of PrimFuncs, some of which are :meth:`lowered`.
        """
        return module, []

    # Tuning.

    @abstractmethod
    def default_spaces(
        self, spec: PrefillSpec, shapes: Sequence[PrefillShape], target: ResolvedTarget
    ) -> list[str]:
        """Names of the design spaces that share a search when none is chosen."""
