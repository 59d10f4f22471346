"""Makes the portable records of processors that nobody here has: the schedules of another level.

Each is compiled for the target, and checked under an emulator; it is not timed, and says so. It
takes the place of what the target had for the same attention. The compiler and the emulator are
Debian's gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user::

    python benchmarks/emulated_records.py database/records/llvm-x86_64_v3 database/records
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prefilltune.database import Entry, RecordStore, TargetKey
from prefilltune.database.dates import date_now
from prefilltune.database.scratch import ScratchFolder
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import generate
from prefilltune.tuning.building.replaying import replay_record
from prefilltune.tuning.measuring.checking import expect, poisoned_results
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import TOLERANCE, PrefillShape, PrefillSpec, make_inputs

CALLER = Path(__file__).parent / "emulated_call.c"
#: Of every regime: full, ragged, empty, one key.
SHAPE, LENS = PrefillShape(4, 70), (70, 33, 0, 1)
#: DLPack's.
CODES = {"i": 0, "f": 2}


def emulated(program: Path, emulator: str, tensors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What tensors hold after a call."""
    folder = program.parent
    lines = [
        f"{number} {CODES[each.dtype.kind]} {8 * each.itemsize} {each.ndim} "
        + " ".join(map(str, each.shape))
        for number, each in enumerate(tensors)
    ]
    (folder / "arguments.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for number, each in enumerate(tensors):
        each.tofile(folder / str(number))
    subprocess.run([emulator, str(program), str(folder)], check=True)
    return [
        np.fromfile(folder / str(number), each.dtype).reshape(each.shape)
        for number, each in enumerate(tensors)
    ]


def error_of(entry: Entry, target: ResolvedTarget, compiler: str, emulator: str) -> float:
    """Largest error of a record's kernel, compiled for a target and called under an emulator."""
    import tvm_ffi

    spec = PrefillSpec.parse(entry.provenance.spec)
    host = generate(replay_record(entry, SHAPE), target.target)
    inputs = make_inputs(spec, SHAPE, np.array(LENS, np.int32), seed=0)
    with ScratchFolder() as folder:
        code, program = folder / "kernel.o", folder / "kernel"
        host.write_to_file(str(code))
        include = f"-I{tvm_ffi.libinfo.find_include_path()}"
        dlpack = f"-I{tvm_ffi.libinfo.find_dlpack_include_path()}"
        sources = [str(CALLER), str(code), "-static", "-o", str(program), "-lm"]
        subprocess.run([compiler, "-O1", include, dlpack, *sources], check=True)
        results = poisoned_results(spec, SHAPE)
        *_, output, lse = emulated(program, emulator, [*inputs.arguments, *results])
    return expect(spec, SHAPE, inputs).error(output, lse)


def of_target(entry: Entry, key: TargetKey, target: ResolvedTarget, error: float) -> Entry:
    """A record of another level as one of this target, whose seconds are of nothing it ran on."""
    of = entry.provenance
    device: dict[str, Any] = {
        "name": "emulation by QEMU",
        "timed": False,
        "seconds_of": f"{key} on {of.device['name']}",
    }
    versions = backend_of(target.kind).versions()
    changed = replace(of, device=device, max_abs_error=error, versions=versions, date=date_now())
    return replace(entry, target_json=json.loads(str(target.target)), provenance=changed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder of the level whose schedules are taken")
    parser.add_argument("output", type=Path, help="database that takes the records")
    parser.add_argument(
        "--target", default='{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "generic"}'
    )
    parser.add_argument("--compiler", default="aarch64-linux-gnu-gcc")
    parser.add_argument("--emulator", default="qemu-aarch64")
    options = parser.parse_args()
    import_tvm_without_torch()
    target, key = resolve_target(options.target), TargetKey.parse(options.source.name)
    found = RecordStore.open(options.source.parent, key).entries
    store = RecordStore.open(options.output, target.key, create=True)
    for entry in found:
        of = entry.provenance
        error = error_of(entry, target, options.compiler, options.emulator)
        print(f"{target.key} {of.spec}: error {error:.1e}", flush=True)
        assert error <= TOLERANCE[PrefillSpec.parse(of.spec).dtype]
        others = [each for each in store.entries if each.provenance.spec != of.spec]
        store.replace([*others, of_target(entry, key, target, error)])


if __name__ == "__main__":
    main()
