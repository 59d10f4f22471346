"""Measuring tuned kernels side by side with everything they claim to beat."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np

from ...database import Finder, Match, NoRecordError, Tier
from ...workloads import Case, PrefillSpec, useful_flops
from ..backends import backend_of
from ..backends.commands import timed_elsewhere
from ..building.finding import find_record
from ..errors import UnsupportedTargetError
from ..measuring.timing import Result
from ..target import ResolvedTarget
from .bench import Bench, Measured, Own
from .comparison import NO_BASELINE, PADDED, Comparison, Peer
from .cpu_bench import CpuBench
from .cuda_bench import CudaBench
from .peers.peer import PeerKernel

#: By kind of target.
BENCHES: dict[str, type[Bench]] = {"llvm": CpuBench, "cuda": CudaBench}


def bench_of(kind: str) -> type[Bench]:
    """What measures cases on a kind of target.

    Raises
    ------
    UnsupportedTargetError
        If nothing does.
    """
    if kind not in BENCHES:
        raise UnsupportedTargetError(
            f"nothing compares kernels on targets of kind {kind!r}, only on "
            f"{' and '.join(BENCHES)}: choose one of these, or tune with --no-compare"
        )
    return BENCHES[kind]


class Comparer:
    """A context manager that compares case after case.

    Child processes live on from case to case.

    Parameters
    ----------
    target : ResolvedTarget
        The machine at hand.
    databases : Finder
        To look in.
    accept : Tier
        The furthest record that may stand for a case.

    Raises
    ------
    UnsupportedTargetError
        If there is no bench for its kind.
    EnvironmentMismatchError
        For a GPU, if PyTorch is missing: it times everything there.
    """

    def __init__(
        self, target: ResolvedTarget, databases: Finder, accept: Tier = Tier.EXACT
    ) -> None:
        self._target = target
        self._databases = databases
        self._accept = accept
        self._bench = bench_of(target.kind)(target)

    def __enter__(self) -> Comparer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bench.close(kill=exc[0] is not None)

    def compare(self, case: Case) -> Comparison:
        """Check and time the best record of a case against the kernels that others wrote.

        Raises
        ------
        NoRecordError
            If no database has a record near enough.
        KernelCheckError
            If a kernel of ours computes something wrong.
        WorkerFailedError
            If a child process died, hung or raised.
        """
        tuned, stock, padded = self.find(case), self._stock(case), self._padded(case)
        measured = self._bench.measure(case, tuned, stock, padded)
        own = {"tuned": tuned, "stock": stock, PADDED: padded and padded.match}
        return _comparison(case, self._target, own, measured)

    def find(self, case: Case) -> Match:
        """The record that stands for a case.

        Raises
        ------
        NoRecordError
            If no database has one near enough.
        """
        return find_record(
            self._databases, self._target, case.spec, case.shape, accept=self._accept,
            lens=case.lens.text,
        )  # fmt: skip

    def _padded(self, case: Case) -> Own | None:
        """The nearest record for padded tensors beside a case of packed ones, on either side."""
        if not case.spec.is_packed:
            return None
        found = []
        for side in ("right", "left"):
            spec = replace(case.spec.padded, padding=side)
            with suppress(NoRecordError):
                found.append(Own(spec, self.find(replace(case, spec=spec))))
        return min(found, key=lambda each: each.match.rank, default=None)

    def _stock(self, case: Case) -> Match | None:
        if case.spec.is_packed:  # for which these rules have no kernels
            return None
        space = f"{self._target.kind}_stock"
        try:
            match = self._databases.find(
                self._target.key, case.spec, case.shape, lens=case.lens.text, space=space
            )
        except NoRecordError:
            return None
        return match


def _comparison(
    case: Case, target: ResolvedTarget, own: Mapping[str, Match | None], measured: Measured
) -> Comparison:
    """What was measured of a case; ``own`` are the records of our contestants, by their names."""
    tuned, stock = own["tuned"], own["stock"]
    assert tuned is not None
    elsewhere = {name: match and timed_elsewhere(match, target) for name, match in own.items()}
    batches, results = case.batches(), measured.results
    useful = statistics.mean(
        useful_flops(case.spec, case.shape, np.asarray(lens)) for lens in batches
    )

    def ms(name: str) -> float | None:
        return results[name].ms if name in results else None

    tuned_ms, gemm_ms = ms("tuned"), ms("gemm")
    assert tuned_ms is not None
    assert gemm_ms is not None
    return Comparison(
        spec=str(case.spec),
        shape=str(case.shape),
        lens=case.lens.text,
        target=str(target.key),
        device=backend_of(target.kind).device_name(),
        valid_lens=batches,
        threads=target.threads,
        versions=measured.versions,
        record=tuned.entry.record_id,
        tier=str(tuned.tier),
        tuned_ms=tuned_ms,
        baseline_ms=ms("baseline"),
        padded_ms=ms(PADDED),
        stock_ms=ms("stock"),
        stock_trials=stock.entry.provenance.trials if stock else None,
        unscheduled_ms=ms("unscheduled"),
        peers={
            each.name: _peer(each, case.as_tuned.spec, results[each.name])
            for each in measured.peers
        },
        limit_gflops=2 * measured.gemm_size**3 / gemm_ms / 1e6,
        tuned_gflops=useful / tuned_ms / 1e6,
        max_abs_error=measured.max_abs_error,
        spread_ms={name: each.spread_ms for name, each in results.items() if each.seconds},
        baseline_failure=results["baseline"].failure if "baseline" in results else NO_BASELINE,
        clocks_mhz=measured.clocks_mhz,
        cold_ms={name: each.cold_ms for name, each in results.items() if each.cold_ms},
        timed_elsewhere={name: where for name, where in elsewhere.items() if where is not None},
    )


def _peer(kernel: PeerKernel, spec: PrefillSpec, result: Result) -> Peer:
    return Peer(
        kernel.kind,
        result.ms,
        result.failure,
        result.error,
        zeros=kernel.zeros,
        right_padded=kernel.right_padded and spec.padding != "right",
        computes_it=not kernel.lacks(spec),
    )
