"""Kernels of a CPU beside ONNX Runtime and PyTorch: heads of three sizes, two masks, two lengths.

Each case takes the fastest of the portable records' schedules for its head_dim, with which a search
would begin, and of the variants that are named, and as many threads as its rivals (extras [torch]
and [rivals]). Mixed is a quarter to full. With `without_avx512.c` a machine with AVX-512 stands in
for one with AVX2::

    LD_PRELOAD=/tmp/without_avx512.so python benchmarks/cpu_rivals.py --variant 32x32 \
        --output docs/measurements/cpu_rivals-avx2.json

A case that the file has is not measured again: a busy machine is had in pieces (--seconds). Without
one of the rivals nothing is measured: kernels would stand beside fewer than the table says.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from portable_records import SPACE, Found, first_of

from prefilltune.database import Finder, committed_root, schedule_name
from prefilltune.database.scratch import ScratchFolder
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.comparing.cpu_peers import ENVIRONMENT, check_peer, time_peer
from prefilltune.tuning.comparing.peers.registry import CPU_PACKAGES, installed_versions
from prefilltune.tuning.comparing.peers.registry import peers_on_a_cpu as peers_of
from prefilltune.tuning.measuring import cpu
from prefilltune.tuning.measuring.kernels import COMPARED_SEED, call, fresh_inputs
from prefilltune.tuning.measuring.timing import Timer, interleave
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import (
    TOLERANCE,
    Case,
    PrefillShape,
    PrefillSpec,
    parse_lengths,
    useful_flops,
)

SIZES = (32, 64, 128)
#: Heads of queries and of keys, by mask.
HEADS = {"padded": (12, 12), "causal_padded": (16, 8)}
LENGTHS = {"full": "full", "mixed": "uniform"}
#: What the rivals come with.
PACKAGES = ("torch", *CPU_PACKAGES, "onnx")
GEMM_SIZE = 2048
ROUNDS, SECONDS = 7, 0.04


def cases(dtype: str) -> Iterator[tuple[str, Case]]:
    """All cases and their names."""
    shapes = [PrefillShape(batch, length) for batch in (1, 4) for length in (128, 512)]
    for (mask, heads), size, shape in itertools.product(HEADS.items(), SIZES, shapes):
        for lengths, text in LENGTHS.items():
            spec = PrefillSpec(*heads, size, dtype, mask)
            name = f"{mask} {heads[0]}/{heads[1]}x{size} {shape.batch}x{shape.qo_len} {lengths}"
            yield name, Case(spec, shape, parse_lengths(text))


def schedules(target: ResolvedTarget, head_dim: int) -> list[Found]:
    """The schedules that the target's portable records have for a head_dim, each once."""
    furthest = backend_of(target.kind).furthest
    found: dict[str, Found] = {}
    for store in Finder([committed_root()]).stores(target.key, furthest):
        if store.key.device or found:
            continue
        for entry in store.entries:
            of = entry.provenance
            if of.space == SPACE.name and PrefillSpec.parse(of.spec).head_dim == head_dim:
                each = Found.of(entry)
                found.setdefault(schedule_name(of.space, each.variant, each.trace), each)
    return [*found.values()]


def require_rivals() -> None:
    """End the program if a rival is not installed."""
    if missing := [each for each in PACKAGES if find_spec(each) is None]:
        raise SystemExit(
            f"{' and '.join(missing)}: not installed, and there is no comparison without: "
            "pip install 'prefilltune[torch,rivals]'"
        )


class Rivals:
    """The processes of a comparison, each stopped while another is timed."""

    def __init__(self, target: ResolvedTarget, variants: Sequence[str], folder: Path) -> None:
        threads = {
            name: str(target.threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
        }
        self._target, self._variants, self._folder = target, variants, folder
        self._tvm = Worker(cpu.tvm_environment(target.threads), frozen_when_idle=True)
        self._others = {
            name: Worker({**threads, **more}, uses_tvm=False, frozen_when_idle=True)
            for name, more in (("torch", ENVIRONMENT), ("onnxruntime", {}), ("numpy", {}))
        }

    def close(self) -> None:
        """End them."""
        for worker in (self._tvm, *self._others.values()):
            worker.close()

    def measure(self, case: Case) -> dict[str, Any]:
        """Milliseconds of a case's kernel and of each rival, and the matrix product's GFLOP/s."""
        timers: dict[str, Timer] = {"gemm": self._gemm()}
        timed = (case.spec, case.shape, case.batches(), case.seed)
        found = schedules(self._target, case.spec.head_dim)
        found += [first_of(self._target, case.spec, each) for each in self._variants]
        for number, path in enumerate(self._kernels(case, found)):
            timers[f"tuned {number}"] = partial(call, self._tvm, cpu.time_kernel, path, *timed)
        for peer in peers_of(case.spec, case.shape, case.batches()):
            if peer.lacks(case.spec) or peer.name.endswith("filled"):
                continue
            process, threads = self._others[peer.library], self._target.threads
            lens = case.batches()[0]
            checked = call(process, check_peer, peer.name, *timed[:2], lens, case.seed, threads)
            if checked.failure:
                raise SystemExit(
                    f"{peer.name} fails on {case.spec} {case.shape}: {checked.failure}"
                )
            if checked.error is not None and checked.error < 1e-4:  # dense ones read padding
                timers[peer.name] = partial(call, process, time_peer, peer.name, *timed, threads)
        seconds = interleave([*timers.values()], ROUNDS, SECONDS)
        times = dict(zip(timers, map(statistics.median, seconds), strict=True))
        own = min((name for name in times if name.startswith("tuned")), key=times.__getitem__)
        peers = {
            name: each for name, each in times.items() if not name.startswith(("tuned", "gemm"))
        }
        peak = 2 * GEMM_SIZE**3 / times["gemm"]
        flops = statistics.mean(
            useful_flops(case.spec, case.shape, np.asarray(lens, "int32"))
            for lens in case.batches()
        )
        return {
            "ms": round(times[own] * 1e3, 4),
            "variant": dict(found[int(own.split()[1])].variant),
            "peers_ms": {name: round(each * 1e3, 4) for name, each in peers.items()},
            "times_as_fast": round(min(peers.values()) / times[own], 3),
            "gemm_gflops": round(peak / 1e9, 1),
            "of_peak": round(flops / times[own] / peak, 4),
        }

    def _gemm(self) -> Timer:
        return partial(call, self._others["numpy"], cpu.time_gemm, GEMM_SIZE)

    def _kernels(self, case: Case, found: Sequence[Found]) -> Iterator[str]:
        """Libraries of schedules, checked."""
        for number, each in enumerate(found):
            path = self._folder / f"{case.spec}-{case.shape}-{number}.so"
            if not path.exists():
                module = each.on(case.spec, case.shape).module
                build_library(module, self._target.target, str(path))
                batches, seed = fresh_inputs(case, COMPARED_SEED)
                checked = (str(path), case.spec, case.shape, batches, seed)
                error = call(self._tvm, cpu.check_kernel, *checked)
                assert error <= TOLERANCE[case.spec.dtype], (case, error)
            yield str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--target", default="llvm")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--variant", action="append", default=[], help="such as 32x32")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="when to stop")
    options = parser.parse_args()
    require_rivals()
    import_tvm_without_torch()
    target = resolve_target(options.target, options.threads)
    known = json.loads(options.output.read_text()) if options.output.exists() else {}
    rows = known.setdefault("cases", {})
    known["target"] = str(target.key)
    known["device"] = backend_of(target.kind).device(target)
    known["versions"] = installed_versions(("numpy", *PACKAGES))
    end = time.monotonic() + options.seconds
    with ScratchFolder() as folder:
        rivals = Rivals(target, options.variant, folder)
        for name, case in cases(options.dtype):
            if name in rows or time.monotonic() > end:
                continue
            rows[name] = rivals.measure(case)
            print(name, rows[name], flush=True)
            options.output.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        rivals.close()


if __name__ == "__main__":
    main()
