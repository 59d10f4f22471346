"""Comparing on a CPU: each engine in a process of its own, stopped while another is timed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

from ...database import Match
from ...workloads import TOLERANCE, Case, PrefillSpec, plain_attention, ragged_cpu_baseline
from ...workloads.baseline import has_ragged_baseline
from ...workloads.sizes import numbers_all_scores
from ..backends import backend_of
from ..errors import KernelCheckError
from ..measuring import cpu as measure
from ..measuring.kernels import call
from ..measuring.timing import Result, Timer, interleave
from ..measuring.worker import Worker
from ..target import ResolvedTarget, vector_lanes
from .bench import Bench, Libraries, Measured, Own, errors_of
from .comparison import PADDED
from .cpu_peers import ENVIRONMENT, check_peer, time_peer
from .peers.onnx_runtime import LIBRARY as ONNX_RUNTIME
from .peers.peer import PeerKernel
from .peers.registry import CPU_PACKAGES, installed_versions, peers_on_a_cpu
from .side_by_side import BASELINE, bias_slack

_GEMM_SIZE = 2048
_GEMMS = _NUMPY_GEMM, _AVX512_GEMM, _TORCH_GEMM = "numpy_gemm", "numpy_avx512_gemm", "torch_gemm"
#: OpenBLAS, NumPy's usual BLAS, takes a processor newer than itself for one without AVX-512.
_AVX512_BLAS = {"OPENBLAS_CORETYPE": "SkylakeX"}
_AVX512_LANES = 16
_PEER_TOLERANCE = 1e-4


class CpuBench(Bench):
    """TVM, NumPy's BLAS and, where they are installed, PyTorch and ONNX Runtime.

    Parameters
    ----------
    target : ResolvedTarget
        The CPU and the threads of every contestant.
    """

    def __init__(self, target: ResolvedTarget) -> None:
        self._target, threads = target, target.threads
        self._tvm = Worker(measure.tvm_environment(threads), frozen_when_idle=True)
        blas = {name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
        products = {_NUMPY_GEMM: blas}
        if vector_lanes(target.target) == _AVX512_LANES:
            products[_AVX512_GEMM] = {**blas, **_AVX512_BLAS}
        self._blas = {
            name: Worker(environment, uses_tvm=False, frozen_when_idle=True)
            for name, environment in products.items()
        }
        self._peers = {
            name: Worker({**blas, **environment}, uses_tvm=False, frozen_when_idle=True)
            for name, environment in (("torch", ENVIRONMENT), (ONNX_RUNTIME, {}))
            if find_spec(name)
        }
        self._libraries = Libraries(self._tvm, target)

    def close(self, *, kill: bool = False) -> None:
        self._libraries.close()
        for worker in (self._tvm, *self._blas.values(), *self._peers.values()):
            worker.close(kill=kill)

    def measure(
        self, case: Case, tuned: Match, stock: Match | None, padded: Own | None = None
    ) -> Measured:
        meant = case.as_tuned  # whoever calls a rival leaves a window out that hides nothing
        spec, shape, seed, target = meant.spec, case.shape, case.seed, self._target
        kernels = {"tuned": self._libraries.of_record(tuned, case)}
        # Stage by stage, all scores are held at once, and of packed sequences those of all rows
        # with all columns, for each sequence.
        if not spec.is_packed and numbers_all_scores(spec, shape):
            kernels["unscheduled"] = self._libraries.of(
                f"unscheduled-{spec}-{shape}", lambda: plain_attention(spec, shape)
            )
        if stock is not None:
            kernels["stock"] = self._libraries.of_record(stock, case)
        errors = errors_of(measure.check_kernel, case, kernels, self._tvm)
        timed = (spec, shape, case.batches(), seed)
        timers: dict[str, Timer] = {
            name: partial(call, self._tvm, measure.time_kernel, path, *timed)
            for name, path in kernels.items()
        }
        if padded is not None:
            of_padded = replace(case, spec=padded.spec)
            path = self._libraries.of_record(padded.match, of_padded)
            errors |= errors_of(measure.check_kernel, of_padded, {PADDED: path}, self._tvm)
            timers[PADDED] = partial(
                call, self._tvm, measure.time_kernel, path, padded.spec, *timed[1:]
            )
        if has_ragged_baseline(spec):
            rows = spec.padded  # which it has packed itself
            path = self._libraries.of(f"baseline-{spec}", lambda: ragged_cpu_baseline(spec))
            checked = (rows, shape, case.batches()[0], seed)
            errors[BASELINE] = call(self._tvm, measure.check_ragged_baseline, path, *checked)
            _refuse_wrong_peer("TVM's ragged CPU prefill", spec, errors[BASELINE])
            timers[BASELINE] = partial(
                call, self._tvm, measure.time_ragged_baseline, path, rows, *timed[1:]
            )
        for name, worker in self._blas.items():
            timers[name] = partial(call, worker, measure.time_gemm, _GEMM_SIZE)
        versions = {**backend_of(target.kind).versions(), **installed_versions(CPU_PACKAGES)}
        failures, threads = {}, target.threads
        peers = peers_on_a_cpu(spec, shape, case.batches())
        if "torch" in self._peers:
            on_torch = partial(call, self._peers["torch"])
            versions["torch"] = on_torch(measure.torch_version)
            timers[_TORCH_GEMM] = partial(on_torch, measure.time_torch_gemm, _GEMM_SIZE, threads)
        else:
            peers = [each for each in peers if each.library != "torch"]
        for peer in peers:
            found = self._checked(peer, meant)
            if found.error is None:
                failures[peer.name] = found
                continue
            errors[peer.name], process = found.error, self._peers[peer.library]
            timers[peer.name] = partial(call, process, time_peer, peer.name, *timed, threads)
        times = interleave([*timers.values()])
        results = {
            name: Result(seconds, errors.get(name))
            for name, seconds in zip(timers, times, strict=True)
        }
        results = with_one_product({**results, **failures})
        return Measured(results, peers, _GEMM_SIZE, errors["tuned"], versions)

    def _checked(self, peer: PeerKernel, case: Case) -> Result:
        """The error of a peer that is right, or why it takes no part."""
        if lacking := peer.lacks(case.spec):
            return Result(failure=lacking)
        lens = case.batches()[0]
        checked = (case.spec, case.shape, lens, case.seed, self._target.threads)
        found: Result = call(self._peers[peer.library], check_peer, peer.name, *checked)
        if found.error is not None:
            _refuse_wrong_peer(peer.title, case.spec, found.error)
        return found


def with_one_product(results: Mapping[str, Result]) -> dict[str, Result]:
    """Results with the fastest matrix product as ``gemm``, in the place of each library's own."""
    others = {name: each for name, each in results.items() if name not in _GEMMS}
    products = [results[name] for name in _GEMMS if name in results]
    return {**others, "gemm": min(products, key=lambda each: each.ms or math.inf)}


def _refuse_wrong_peer(name: str, spec: PrefillSpec, error: float) -> None:
    if not error <= max(TOLERANCE[spec.dtype], _PEER_TOLERANCE) * bias_slack(spec):
        raise KernelCheckError(
            f"{name} is off by {error:g} on {spec}: it computes something else than what it is "
            "compared with; report this"
        )
