"""What measures a case: one bench for each kind of device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...database import Match
from ...database.scratch import ScratchFolder
from ...workloads import TOLERANCE, Case, PrefillSpec
from ...workloads.sizes import measured_sizes
from ..building.build import build_library
from ..building.replaying import replay_record
from ..errors import KernelCheckError
from ..measuring.kernels import COMPARED_SEED, call, check, fresh_inputs, value_of
from ..measuring.timing import Result
from ..measuring.worker import Worker
from ..target import ResolvedTarget
from .peers.peer import PeerKernel


@dataclass(frozen=True)
class Measured:
    """A case, measured.

    Parameters
    ----------
    results : Mapping[str, Result]
        ``tuned``, ``gemm``, where they exist ``baseline``, ``stock``, ``unscheduled`` and
        :data:`~.comparison.PADDED`, and the peers.
    peers : Sequence[PeerKernel]
        Which results are of peers.
    gemm_size : int
        Side of the matrix product ``gemm``.
    max_abs_error : float
        Of the tuned kernel, over every regime of lengths.
    versions, clocks_mhz
        As in :class:`~.comparison.Comparison`.
    """

    results: Mapping[str, Result]
    peers: Sequence[PeerKernel]
    gemm_size: int
    max_abs_error: float
    versions: Mapping[str, str]
    clocks_mhz: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Own:
    """A record, and the spec that it serves where it is not that of a case."""

    spec: PrefillSpec
    match: Match


class Bench(ABC):
    """Builds, checks and times the contestants of a case in child processes.

    Parameters
    ----------
    target : ResolvedTarget
        The machine at hand.
    """

    #: Whether PyTorch, which is an extra, does the timing.
    needs_torch: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, target: ResolvedTarget) -> None: ...

    @abstractmethod
    def measure(
        self, case: Case, tuned: Match, stock: Match | None, padded: Own | None
    ) -> Measured:
        """Measure a case: ours as what is asked for, others as what that amounts to in its shape.

        Parameters
        ----------
        tuned, stock : Match
            Records of the case.
        padded : Own, optional
            Beside a kernel of packed tensors, one of padded ones.
        """

    @abstractmethod
    def close(self, *, kill: bool = False) -> None:
        """End the child processes."""


class Libraries:
    """Libraries in a temporary folder, each built once.

    Parameters
    ----------
    builder : Worker
        Where to build.
    target : ResolvedTarget
        What for.
    """

    def __init__(self, builder: Worker, target: ResolvedTarget) -> None:
        self._builder = builder
        self._target = target
        self._folder = ScratchFolder()
        self._paths: dict[str, str] = {}

    def of_record(self, match: Match, case: Case) -> str:
        """Path of the library of a record, for the spec and the shape of a case that it serves."""
        spec, shape = case.spec, case.shape
        name = f"{match.entry.record_id}-{spec}-{shape}"
        sizes = measured_sizes(spec, shape)
        return self.of(name, lambda: replay_record(match.entry, sizes, spec))

    def of(self, name: str, module: Callable[[], Any]) -> str:
        """Path of the library ``name``, which is built from ``module()``."""
        if name not in self._paths:
            path = f"{self._folder.path}/{name}.so"
            self._paths[name] = call(
                self._builder, build_library, module(), self._target.target, path
            )
        return self._paths[name]

    def close(self) -> None:
        """Remove them."""
        self._folder.remove()


def errors_of(
    check_kernel: Callable[..., float], case: Case, kernels: Mapping[str, str], worker: Worker
) -> dict[str, float]:
    """Largest errors of kernels of ours on inputs that no search has seen, by name.

    Parameters
    ----------
    check_kernel : Callable[..., float]
        As :func:`~prefilltune.tuning.measuring.kernels.check` takes it.
    kernels : Mapping[str, str]
        Paths of their libraries, by name.

    Raises
    ------
    WorkerFailedError
        If one crashes, hangs or raises.
    KernelCheckError
        If one computes something wrong.
    """
    fresh = fresh_inputs(case, COMPARED_SEED)
    checked = check(check_kernel, case, kernels.values(), worker, *fresh)
    errors = {name: value_of(checked[path], check_kernel) for name, path in kernels.items()}
    for name, error in errors.items():
        refuse_wrong(name, case, error)
    return errors


def refuse_wrong(name: str, case: Case, error: float) -> None:
    """Refuse a kernel of ours whose error is too large.

    Raises
    ------
    KernelCheckError
        If it is.
    """
    tolerance = TOLERANCE[case.spec.dtype]
    if not error <= tolerance:
        raise KernelCheckError(
            f"the {name} kernel of {case.spec} {case.shape} is off by {error:g}, more than "
            f"{tolerance:g}; nothing was compared; tune the case again and report this"
        )
