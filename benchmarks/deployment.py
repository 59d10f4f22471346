"""What a deployment waits for: look-up and replay, loading a library, calling a kernel.

Replays go over the committed records of CPUs and GPUs in turn. The call is of a kernel with next
to nothing to compute, so that its time is an upper bound of what the host adds to a call: one for
its shape alone, and one of eight in a function for every shape::

    python benchmarks/deployment.py > docs/measurements/deployment.json

On a machine with a GPU, what the host does of a call of the committed records' kernels there: with
tensor maps, which are made at each call, without, within a function for every shape, and of a
kernel that does nothing::

    python benchmarks/deployment.py --only call
"""

# TVMScript writes the shapes of buffers where Python has types.
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from prefilltune.database import Finder, RecordStore, TargetKey, Tier, committed_root
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.cuda import cuda_device
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import PrefillShape, PrefillSpec, SymbolicShape

SPEC, SHAPE = PrefillSpec(1, 1, 8, "float32"), PrefillShape(1, 1)
#: In the function for every shape.
KERNELS = 8
CALLS = 20_000
REPEATS = 7

#: On a GPU: a workload with one record whose kernel has tensor maps, and one whose kernel has none.
GPU_SPEC, GPU_SHAPE = PrefillSpec(12, 12, 64, "float16"), PrefillShape(32, 128)
GPU_LENS = {"tensor_maps": "full", "no_tensor_maps": "uniform:0.125-1"}
GPU_CALLS = 200  # far fewer than a GPU's queue holds
GPU_REPEATS = 50


def replays(kind: str, count: int) -> dict[str, float]:
    """Look up and replay ``count`` times, over every workload with a record for a target kind."""
    import_tvm_without_torch()
    from prefilltune.tuning.building.replaying import replay_record

    folders = [path.name for path in committed_root().iterdir() if path.name.startswith(kind)]
    keys = [TargetKey.parse(name) for name in sorted(folders)]
    cases = [
        (key, PrefillSpec.parse(spec), PrefillShape.parse(shape))
        for key in keys
        for spec, shape in sorted(
            {
                (entry.provenance.spec, entry.provenance.shape)
                for entry in RecordStore.open(committed_root(), key).entries
            }
        )
    ]
    start, cpu_start = time.perf_counter(), time.process_time()
    finder = Finder([committed_root()])
    for key, spec, shape in itertools.islice(itertools.cycle(cases), count):
        replay_record(finder.find(key, spec, shape).entry)
    return {
        "workloads": len(cases),
        "replays": count,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu_start, 2),
    }


def built(folder: Path) -> None:
    """Build a library of the CPU's records and a kernel with next to nothing to compute."""
    import_tvm_without_torch()
    import tvm

    from prefilltune.tuning.building.build import build_library
    from prefilltune.tuning.deployment import Leaf, Split, dispatching_kernel
    from prefilltune.tuning.deployment.library import build_kernels
    from prefilltune.workloads import plain_attention

    target = resolve_target("llvm")
    finder = Finder([committed_root()])
    spec = PrefillSpec(12, 12, 64, "float32")
    fixed = [
        (spec, shape, finder.find(target.key, spec, shape, accept=Tier.OTHER_TARGET))
        for shape in (PrefillShape(1, 128), PrefillShape(4, 128), PrefillShape(1, 512))
    ]
    build_kernels(fixed, [], target, folder)
    build_library(plain_attention(SPEC, SHAPE), target.target, str(folder / "tiny.so"))
    sizes, tree = SymbolicShape.fresh(), Leaf("0")
    for index in range(1, KERNELS):
        tree = Split("kv_len", 1 << index, tree, Leaf(str(index)))
    kernels = {str(index): plain_attention(SPEC, sizes)["main"] for index in range(KERNELS)}
    kernel = dispatching_kernel(SPEC, tree, kernels, sizes, target.target)
    module = tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})
    build_library(module, target.target, str(folder / "any.so"))


def loaded(folder: Path) -> dict[str, float]:
    """Load in this process, and call."""
    import_tvm_without_torch()
    import numpy as np
    from tvm.runtime import load_module, tensor

    start = time.perf_counter()
    library = load_module(str(folder / "libprefill.so"))
    for kernel in json.loads((folder / "manifest.json").read_text())["kernels"]:
        library[kernel["symbol"]]
    load = time.perf_counter() - start
    query, key, value, output = (tensor(np.zeros((1, 1, 1, 8), "float32")) for _ in range(4))
    lse, valid_lens = tensor(np.zeros((1, 1, 1), "float32")), tensor(np.ones(1, "int32"))
    found = {"load_ms": load * 1e3}
    for name, file in (("call_us", "tiny.so"), ("any_shape_call_us", "any.so")):
        call = load_module(str(folder / file))["main"]
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            for _ in range(CALLS):
                call(query, key, value, valid_lens, output, lse)
            times.append((time.perf_counter() - start) / CALLS)
        found[name] = statistics.median(times) * 1e6
    return found


def built_for_gpu(path: Path, target: ResolvedTarget) -> None:
    """Build the kernels that :func:`launched` calls, by its names, into one library."""
    import tvm

    from prefilltune.tuning.building.alignment import refuse_misaligned
    from prefilltune.tuning.building.build import build_library
    from prefilltune.tuning.building.replaying import replay_record
    from prefilltune.tuning.deployment import Leaf, Split, dispatching_kernel

    finder, sizes = Finder([committed_root()]), SymbolicShape.fresh()
    functions, for_every_shape = {"nothing": _nothing()}, {}
    for name, lens in GPU_LENS.items():
        match = finder.find(target.key, GPU_SPEC, GPU_SHAPE, lens=lens, accept=Tier.FAMILY)
        functions[name] = refuse_misaligned(replay_record(match.entry)["main"], "cuda")
        for_every_shape[name] = replay_record(match.entry, sizes)["main"]
    tree = Split("kv_len", GPU_SHAPE.num_kv, Leaf("no_tensor_maps"), Leaf("tensor_maps"))
    functions["any_shape"] = dispatching_kernel(
        GPU_SPEC, tree, for_every_shape, sizes, target.target
    )
    module = {name: each.with_attr("global_symbol", name) for name, each in functions.items()}
    build_library(tvm.IRModule(module), target.target, str(path))


def _nothing() -> Any:
    """A kernel of one thread, with the parameters of the others."""
    from tvm.script import tirx as T

    batch, length, heads, dim = GPU_SHAPE.batch, GPU_SHAPE.qo_len, GPU_SPEC.num_qo_heads, 64

    @T.prim_func(s_tir=True)
    def main(
        query: T.Buffer((batch, length, heads, dim), "float16"),
        key: T.Buffer((batch, length, heads, dim), "float16"),
        value: T.Buffer((batch, length, heads, dim), "float16"),
        valid_lens: T.Buffer((batch,), "int32"),
        output: T.Buffer((batch, length, heads, dim), "float16"),
        lse: T.Buffer((batch, length, heads), "float16"),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for thread in T.thread_binding(1, thread="threadIdx.x"):
            with T.sblock("nothing"):
                T.reads()
                T.writes(lse[0, 0, 0])
                lse[0, 0, thread] = T.float16(0)

    return main


def launched(path: Path) -> dict[str, float]:
    """Host microseconds of a launch, by kernel; the GPU is idle before each batch of calls."""
    import numpy as np
    from tvm.runtime import load_module, tensor

    device = cuda_device()
    rows = (GPU_SHAPE.batch, GPU_SHAPE.qo_len, GPU_SPEC.num_qo_heads)
    query, key, value, output = (
        tensor(np.zeros((*rows, GPU_SPEC.head_dim), "float16"), device=device) for _ in range(4)
    )
    lse = tensor(np.zeros(rows, "float16"), device=device)
    valid_lens = tensor(np.ones(GPU_SHAPE.batch, "int32"), device=device)
    library = load_module(str(path))
    times: dict[str, list[float]] = {name: [] for name in ("nothing", *GPU_LENS, "any_shape")}
    calls = {name: library[name] for name in times}
    for call in calls.values():  # which loads the machine code
        call(query, key, value, valid_lens, output, lse)
    for _ in range(GPU_REPEATS):
        for name, call in calls.items():
            device.sync()
            start = time.perf_counter()
            for _ in range(GPU_CALLS):
                call(query, key, value, valid_lens, output, lse)
            times[name].append((time.perf_counter() - start) / GPU_CALLS)
    device.sync()
    return {name: round(statistics.median(each) * 1e6, 2) for name, each in times.items()}


def calls_on_gpu() -> dict[str, Any]:
    """Build for the first GPU, and call."""
    import_tvm_without_torch()
    if cuda_device() is None:
        raise SystemExit("TVM sees no GPU to call kernels on: run this where nvidia-smi lists one")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.so"
        built_for_gpu(path, resolve_target("cuda"))
        return {
            "device": backend_of("cuda").device_name(),
            "load_average": os.getloadavg()[0],
            "versions": backend_of("cuda").versions(),
            "launch_us": launched(path),
        }


def _in_a_process(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replays", type=int, default=50)
    parser.add_argument("--only", choices=["llvm", "cuda", "build", "load", "call"])
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.only == "build":
        built(arguments.folder)
    elif arguments.only == "load":
        print(json.dumps(loaded(arguments.folder)))
    elif arguments.only == "call":
        print(json.dumps(calls_on_gpu(), indent=2))
    elif arguments.only:
        print(json.dumps(replays(arguments.only, arguments.replays)))
    if arguments.only:
        return
    import_tvm_without_torch()  # which names the compiler
    found = {
        kind: json.loads(_in_a_process("--only", kind, "--replays", str(arguments.replays)))
        for kind in ("llvm", "cuda")
    }
    with tempfile.TemporaryDirectory() as folder:
        _in_a_process("--only", "build", "--folder", folder)
        runs = [
            json.loads(_in_a_process("--only", "load", "--folder", folder)) for _ in range(REPEATS)
        ]
    print(
        json.dumps(
            {
                "device": backend_of("llvm").device_name(),
                "load_average": os.getloadavg()[0],
                "versions": backend_of("llvm").versions(),
                "look_up_and_replay": found,
                **{
                    name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
