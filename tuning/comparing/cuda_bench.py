"""Comparing on a GPU: one process runs everything there, another builds for it."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import ClassVar

from ...database import Match
from ...workloads import Case, InvalidShapeError, PrefillSpec, masked_baseline
from ...workloads.baseline import has_baseline
from ..backends import backend_of
from ..environment import pip_install
from ..errors import EnvironmentMismatchError, WorkerFailedError
from ..measuring.kernels import TIMEOUT, call, value_of
from ..measuring.timing import Result
from ..measuring.worker import Worker
from ..target import ResolvedTarget
from .bench import Bench, Libraries, Measured, Own, errors_of
from .comparison import PADDED
from .device_facts import device_facts
from .peers.registry import peers_on_a_gpu
from .side_by_side import (
    BASELINE,
    first_line,
    largest_kernel_error,
    measure_side_by_side,
    warm_up_peers,
)

_GEMM_SIZE = 8192
_DEVICE = "cuda"


class CudaBench(Bench):
    """TVM, PyTorch and the other peers in one process, on one stream.

    Parameters
    ----------
    target : ResolvedTarget
        The GPU of this machine.

    Raises
    ------
    EnvironmentMismatchError
        Without PyTorch, which times everything here.
    """

    needs_torch: ClassVar[bool] = True

    def __init__(self, target: ResolvedTarget) -> None:
        _require_torch()
        self._target = target
        self._builder = Worker()
        self._device = Worker()
        self._libraries = Libraries(self._builder, target)

    def close(self, *, kill: bool = False) -> None:
        self._libraries.close()
        for worker in (self._builder, self._device):
            worker.close(kill=kill)

    def measure(
        self, case: Case, tuned: Match, stock: Match | None, padded: Own | None = None
    ) -> Measured:
        _refuse_biases_of_unequal_lengths(case)
        meant = case.as_tuned  # whoever calls a rival leaves a window out that hides nothing
        timed = (meant.spec, meant.shape, meant.batches(), meant.seed)
        # Compiling FlexAttention takes as long as building the kernels: both at once.
        self._device.submit(warm_up_peers, *timed, _DEVICE, timeout=TIMEOUT)
        try:
            kernels = {"tuned": self._libraries.of_record(tuned, case)}
            if stock is not None:
                kernels["stock"] = self._libraries.of_record(stock, case)
            beside = {}
            if padded is not None:
                of_padded = replace(case, spec=padded.spec)
                beside = {PADDED: self._libraries.of_record(padded.match, of_padded)}
            baseline, failure = self._baseline(meant) if has_baseline(meant.spec) else ({}, {})
        finally:
            warm = self._device.result()
        try:
            value_of(warm, warm_up_peers)
            laid_out = padded.spec if padded is not None else meant.spec.padded
            return self._measure(case, kernels, {**beside, **baseline}, failure, laid_out)
        except WorkerFailedError:
            self._device.close(kill=True)  # its CUDA context may be past saving
            raise

    def _baseline(self, case: Case) -> tuple[dict[str, str], dict[str, Result]]:
        """The library of TVM's hand-scheduled kernel, or how it failed, by its name."""
        spec, target = case.spec, self._target.target
        try:
            path = self._libraries.of(f"baseline-{spec}", lambda: masked_baseline(spec, target))
        except Exception as failure:  # TVM raises any class where it cannot serve a workload
            return {}, {BASELINE: Result(failure=first_line(failure))}
        return {BASELINE: path}, {}

    def _measure(
        self,
        case: Case,
        kernels: dict[str, str],
        others: dict[str, str],
        failures: dict[str, Result],
        padded: PrefillSpec,
    ) -> Measured:
        errors = errors_of(largest_kernel_error, case, kernels, self._device)
        meant = case.as_tuned.spec
        results = call(
            self._device, measure_side_by_side, {**kernels, **others}, meant, case.shape,
            case.batches(), case.seed, _GEMM_SIZE, _DEVICE, padded,
        )  # fmt: skip
        for name in (*kernels, *({PADDED} & others.keys())):
            if results[name].failure:
                raise WorkerFailedError(
                    f"the {name} kernel of {case.spec} {case.shape} could not be timed "
                    f"({results[name].failure}); tune the case again and report this"
                )
        facts = call(self._device, device_facts, case.spec.dtype, _GEMM_SIZE)
        return Measured(
            {**failures, **results},
            peers_on_a_gpu(meant, case.shape, case.batches()),
            _GEMM_SIZE,
            errors["tuned"],
            {**backend_of(self._target.kind).versions(), **facts.versions},
            facts.clocks_mhz,
        )


def _refuse_biases_of_unequal_lengths(case: Case) -> None:
    spec, shape = case.spec, case.shape
    if spec.is_packed and spec.bias and shape.qo_len != shape.num_kv:
        raise InvalidShapeError(
            f"{spec} at {shape}: a bias of packed sequences is aligned at the ends of queries and "
            "keys, and one of padded tensors at their beginnings, so that of unequal lengths no "
            "two kernels could be compared on a GPU: compare shapes of as many queries as keys"
        )


def _require_torch() -> None:
    if not find_spec("torch"):
        raise EnvironmentMismatchError(
            "a comparison on a GPU is timed by PyTorch, which is not installed; "
            + pip_install("prefilltune[torch]")
        )
