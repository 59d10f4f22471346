"""Errors of tuning, building and comparing; each ends in what to do."""

from __future__ import annotations

from ..workloads.errors import PrefilltuneError


class UnknownTargetError(PrefilltuneError, ValueError):
    """A target text names no target that TVM knows."""


class UnsupportedTargetError(PrefilltuneError):
    """The target is known, but this machine or this version cannot tune or run it."""


class EnvironmentMismatchError(PrefilltuneError):
    """A package or a tool that tuning needs is missing or of a version known to fail."""


class KernelCompileError(PrefilltuneError):
    """NVRTC refuses the source that was generated for a kernel."""


class PipelineError(PrefilltuneError, ValueError):
    """A schedule annotates a loop, or has a statement, that cannot be pipelined."""


class KernelFaultError(PrefilltuneError):
    """A kernel cannot be launched on the GPU, or faults while it runs."""

    @property
    def kind(self) -> str:
        """``launch failure`` or ``device fault``, for counting."""
        refused = ("CUDALaunch Error", "allowed dynamic shared memory", "cuModule")
        return "launch failure" if any(each in str(self) for each in refused) else "device fault"


class NothingFoundError(PrefilltuneError):
    """A search ended without one candidate that is correct."""


class InvalidOptionError(PrefilltuneError, ValueError):
    """A value on the command line is out of its range."""


class KernelCheckError(PrefilltuneError):
    """A kernel that was to be measured computes something wrong."""


class WorkerFailedError(PrefilltuneError):
    """A child process died, hung or raised where no candidate of a search is to blame."""


class SearchDiedError(PrefilltuneError):
    """The process of a search of a plan died."""


class LinkError(PrefilltuneError):
    """The C++ compiler or the linker refuses what a library is made of."""


class ServingError(PrefilltuneError):
    """A tracker or a worker of a device cannot start."""


class GarbledMessageError(PrefilltuneError, ValueError):
    """A message between a tuner and a device does not follow its form."""


class NoDeviceError(PrefilltuneError):
    """No device is left, or none can be reached, that kernels could be measured on."""


class SearchEndingError(NoDeviceError):
    """A device was asked for by a search that is ending."""


class InvalidPlanError(PrefilltuneError, ValueError):
    """A tuning plan, or what was noted of its progress, does not follow its form."""


class PlanRunningError(PrefilltuneError):
    """Another process runs the same plan on the same database."""


class InvalidComparisonError(PrefilltuneError, ValueError):
    """A comparison file does not follow its schema."""


class InvalidSweepError(PrefilltuneError, ValueError):
    """A file of dispatch measurements does not follow its schema."""


class NoMetadataError(PrefilltuneError):
    """A file is no library that says what it was built from."""


class NotSwappedError(PrefilltuneError):
    """A module keeps hand-written kernels that were to be swapped for tuned ones."""


class DerivationError(PrefilltuneError, ValueError):
    """A description has not the form from which another one can be derived."""
