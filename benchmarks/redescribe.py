"""What a change of the descriptions costs: records as they are, beside today's, in one process.

    python benchmarks/redescribe.py --database database/records --target cuda-sm_90a-h100 \
        --output build/today

builds the kernel of every record twice, on the description that the record holds and on today's,
checks the latter on fresh inputs and times both in turns. What is right goes to the folder --output
as a record of today: with its new times, or with those that it had where it was timed on another
machine than this one. `redescribed.jsonl` there has the ratios and which record became which, and
the folder's sweeps and comparison name the new ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefilltune.database import Entry, RecordStore, TargetKey, renamed
from prefilltune.database.scratch import ScratchFolder
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.resolving import machine_for, resolve_target
from prefilltune.tuning.building.rebuilding import (
    Rebuilt,
    rebuild_as_recorded,
    rebuild_here,
    rebuild_on_today,
)
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.kernels import time_in_turns
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.search.remeasuring import case_of, checked_error, measured_today
from prefilltune.workloads import PrefilltuneError

RESULTS = "redescribed.jsonl"
_NAMING_RECORDS = ("dispatch.json", "comparison.json")


def redescribed(
    key: TargetKey, records: Sequence[Entry], folder: Path, minutes: float
) -> Iterator[tuple[dict[str, Any], Entry | None]]:
    """What came of each record, and the record of today if it is right."""
    began, own = time.monotonic(), machine_for(key)
    machine = own or resolve_target(key.kind)
    backend, pairs = backend_of(key.kind), [(key, entry) for entry in records]
    folders = [folder / "recorded", folder / "today"]
    for each in folders:
        each.mkdir()
    recorded, today = (
        rebuild_here(how, pairs, each)
        for how, each in zip((rebuild_as_recorded, rebuild_on_today), folders, strict=True)
    )
    with Worker(tvm_environment(machine.threads)) as runner:
        for old, new in zip(recorded, today, strict=True):
            if time.monotonic() - began > 60 * minutes:
                return
            facts: dict[str, Any] = {
                "record": old.before.record_id,
                "case": case_of(old.before.provenance).on(key),
                "space": old.before.provenance.space,
            }
            try:
                timed, error = _measured(old, new, backend, runner)
            except (ValueError, OSError, PrefilltuneError) as failure:
                runner.restart()
                yield {**facts, "failure": str(failure)}, None
                continue
            facts |= {
                "today": new.entry.record_id,
                "max_abs_error": error,
                "recorded_secs": statistics.median(timed[0]),
                "today_secs": statistics.median(timed[1]),
            }
            yield facts, _entry(new.entry, timed[1], error, backend, own)


def _measured(
    old: Rebuilt, new: Rebuilt, backend: Any, runner: Worker
) -> tuple[list[tuple[float, ...]], float]:
    """Seconds a call of both, and the error of the new one."""
    if old.failure or new.failure:
        raise ValueError(f"as recorded: {old.failure or 'ok'}; today: {new.failure or 'ok'}")
    case = case_of(old.before.provenance)
    error = checked_error(new.path, case, backend.engine, runner)
    return time_in_turns(backend.engine, case, [old.path, new.path], runner), error


def _entry(entry: Entry, seconds: tuple[float, ...], error: float, backend: Any, own: Any) -> Entry:
    if own is not None:
        return measured_today(entry, seconds, error, backend, own)
    provenance = dataclasses.replace(entry.provenance, max_abs_error=error)
    return dataclasses.replace(entry, provenance=provenance)  # its times are another machine's


def rename_records(source: Path, folder: Path, names: dict[str, str]) -> None:
    """Copy what names records, with the names that they have now."""
    for name in _NAMING_RECORDS:
        if (source / name).is_file():
            (folder / name).write_bytes(renamed((source / name).read_bytes(), names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--target", type=TargetKey.parse, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="of the records, such as 1/2 for a 2nd GPU")
    parser.add_argument("--minutes", type=float, default=math.inf)
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))

    entries = RecordStore.open(options.database, options.target).entries[part::parts]
    store = RecordStore.open(options.output, options.target, create=True)
    folder, ratios = options.output / str(options.target), []
    folder.mkdir(parents=True, exist_ok=True)
    with ScratchFolder() as builds:
        found = redescribed(options.target, entries, builds, options.minutes)
        for facts, entry in found:
            with (options.output / RESULTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(facts) + "\n")
            if entry is None:
                print(f"{facts['case']}: {facts['failure']}", flush=True)
                continue
            store.add([entry])
            ratios.append(facts["today_secs"] / facts["recorded_secs"])
            print(f"{ratios[-1]:.3f} {facts['case']}", flush=True)
    lines = (options.output / RESULTS).read_text(encoding="utf-8").splitlines()
    names = {each["record"]: each["today"] for each in map(json.loads, lines) if "today" in each}
    rename_records(options.database / str(options.target), folder, names)
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(
            f"{len(ratios)} records: today's take {mean:.4f} of the time, worst {max(ratios):.3f}"
        )


if __name__ == "__main__":
    main()
