"""Everything that a page shows, as JSON's types."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...database import Entry, Finder, TargetKey, Tier
from ...workloads import PrefillShape, PrefillSpec, PrefilltuneError
from ...workloads.lengths import names_a_file
from ..backends.commands import command
from ..comparing.changes import Change, counted
from ..comparing.comparison import Comparison
from ..comparing.report import (
    Row,
    case_title,
    contestants,
    peer_title,
    place,
    shape_title,
    short_title,
    unit_of,
)
from ..comparing.summary import FULL
from ..target import ResolvedTarget
from .roofline import roofline
from .schedules import in_words
from .searches import habits_of_records, habits_of_trials, searches_in
from .serving import served
from .stages import ABOUT, stages_of
from .views import labels, views


@dataclass(frozen=True)
class Compared:
    """One target: its comparisons, and the databases that its records are in.

    Parameters
    ----------
    key : TargetKey
        Of the target.
    comparisons : Sequence[Comparison]
        One or more.
    databases : Finder
        Where its records are.
    """

    key: TargetKey
    comparisons: Sequence[Comparison]
    databases: Finder

    @property
    def entries(self) -> list[Entry]:
        """Every record of the target."""
        matches = [
            match
            for text, shape in sorted(self.databases.workloads(self.key))
            if (spec := PrefillSpec.known(text)) is not None
            for match in self.databases.all_of(self.key, spec, PrefillShape.parse(shape))
        ]
        return [each.entry for each in matches]

    @property
    def compared(self) -> list[Entry]:
        """The records of its comparisons, of this target or of one that served it."""
        asked = list(dict.fromkeys(each.record for each in self.comparisons))
        found: dict[str, Entry] = {}
        for key in self.databases.targets(self.key, Tier.OTHER_TARGET):
            with suppress(PrefilltuneError):
                matches = self.databases.by_id(key, [each for each in asked if each not in found])
                found |= {record: match.entry for record, match in matches.items()}
        return sorted(
            found.values(), key=lambda each: (each.provenance.spec, each.provenance.shape)
        )

    @property
    def folders(self) -> list[Path]:
        """Where its records and the logs of its searches are."""
        return [root / str(self.key) for root in self.databases.roots]


def page_data(
    targets: Sequence[Compared], found: Sequence[Change] = (), revision: str = ""
) -> dict[str, Any]:
    """What the page's script reads.

    Parameters
    ----------
    targets
        One or more.
    found : Sequence[Change]
        What changed since ``revision``, if that is asked.
    """
    cases: list[dict[str, Any]] = []
    devices: list[dict[str, Any]] = []
    about: list[dict[str, Any]] = []
    records: dict[str, Any] = {}
    used: list[Entry] = []
    for target in targets:
        used += target.compared
        about.append(_target(target, target.entries))
        for device in dict.fromkeys(each.device for each in target.comparisons):
            own = sorted((each for each in target.comparisons if each.device == device), key=place)
            cases += [_case(each, len(devices), target.key) for each in own]
            devices.append(_device(own, target.key))
    texts, stages = stages_of(used)
    for entry in used:
        records[entry.record_id] = {**_record(entry), "stages": stages[entry.record_id]}
    return {
        "devices": devices,
        "targets": about,
        "cases": cases,
        "records": records,
        "stages": ABOUT,
        "texts": packed(texts),
        "changes": _changes(found, revision) if revision else None,
    }


def case_id(comparison: Comparison) -> str:
    """A name for links: the same for every run of a case.

    Eight hexadecimal digits tell thousands of cases apart.
    """
    return hashlib.sha256("|".join(comparison.case).encode()).hexdigest()[:8]


def packed(texts: Sequence[str]) -> str:
    """Texts as browsers unpack them: JSON, gzip, base64. The same texts give the same bytes."""
    return base64.b64encode(gzip.compress(json.dumps(texts).encode(), 9, mtime=0)).decode()


def _device(cases: Sequence[Comparison], key: TargetKey) -> dict[str, Any]:
    unit = unit_of(cases[0])
    return {
        "device": cases[0].device,
        "target": str(key),
        "unit": unit.name,
        "versions": {name: text for each in cases for name, text in each.versions.items()},
        "threads": None if cases[0].on_gpu else cases[0].threads,
        "views": views(cases),
        "bandwidth": roofline(cases[0]).bandwidth,
    }


def _target(target: Compared, entries: Sequence[Entry]) -> dict[str, Any]:
    searches = [each for folder in target.folders for each in searches_in(folder)]
    habits = habits_of_trials(searches) if searches else habits_of_records(entries)
    failures: dict[str, int] = {}
    for search in searches:
        for kind, count in search.failures().items():
            failures[kind] = failures.get(kind, 0) + count
    return {
        "target": str(target.key),
        "searches": [
            {"case": each.case, "falls": each.falls(), "trials": len(each.trials)}
            for each in searches
        ],
        "trials": sum(len(each.trials) for each in searches),
        "failures": failures,
        "habits": [asdict(each) for each in habits],
        "habits_of": "trials" if searches else "records",
        "record_count": len(entries),
        "serving": served(target.key, target.databases),
    }


def _case(comparison: Comparison, device: int, key: TargetKey) -> dict[str, Any]:
    spec, shape = PrefillSpec.parse(comparison.spec), PrefillShape.parse(comparison.shape)
    dtype, lengths, model = labels(comparison)
    unit, under = unit_of(comparison), roofline(comparison)
    return {
        "id": case_id(comparison),
        "device": device,
        "name": short_title(comparison),
        "title": case_title(comparison),
        "shape": shape_title(comparison),
        "batch": shape.batch,
        "length": shape.num_kv,
        "lens": comparison.lens,
        "dtype": dtype,
        "lengths": lengths,
        "model": model,
        "ms": _digits(comparison.tuned_ms),
        "rate": _digits(comparison.tuned_gflops / unit.gflops),
        "limit": _digits(comparison.limit_gflops / unit.gflops),
        "share": _digits(comparison.share_of_limit),
        "strongest": peer_title(comparison.best[0]) if comparison.best else None,
        "over": {
            "strongest": _digits(comparison.over_best),
            "cold": _digits(comparison.over_best_cold),
            "stock": _digits(comparison.speedup(comparison.stock_ms)),
            "hand": _digits(comparison.over_baseline),
        },
        "rows": [_row(comparison, row) for row in contestants(comparison)],
        "error": _digits(comparison.max_abs_error),
        "record": comparison.record,
        "tier": comparison.tier,
        "timed": comparison.elsewhere(),
        "clocks": dict(comparison.clocks_mhz),
        "batches": len(comparison.valid_lens),
        "intensity": _digits(under.intensity),
        "roof": _digits(under.roof / unit.gflops),
        "bound": under.sentence(),
        "commands": _commands(comparison, spec, shape, key),
    }


def _row(comparison: Comparison, row: Row) -> dict[str, Any]:
    work = comparison.tuned_gflops * comparison.tuned_ms / unit_of(comparison).gflops
    peer, cold = comparison.peers.get(row.key), comparison.cold_ms.get("tuned")
    over_cold = None if row.cold_ms is None or cold is None else row.cold_ms / cold
    found = {
        "name": row.name,
        "kind": row.kind or ("tuned" if row.key == "tuned" else "tvm"),
        "ms": _digits(row.ms),
        "spread": _digits(comparison.spread_ms.get(row.key)),
        "rate": None if row.ms is None else _digits(work / row.ms),
        "over": None if row.ms is None else _digits(row.ms / comparison.tuned_ms),
        "cold_ms": _digits(row.cold_ms),
        "over_cold": _digits(over_cold),
        "error": None if peer is None else _digits(peer.max_abs_error),
        "remark": row.remark,
        "none": "" if row.ms is not None else row.without_time,
    }
    # Most of a page is rows, and most rows have no remark: the page knows what is left out.
    return {name: value for name, value in found.items() if value not in (None, "")}


def _commands(
    comparison: Comparison, spec: PrefillSpec, shape: PrefillShape, key: TargetKey
) -> dict[str, str]:
    """What to run for the same figures, and for the kernel itself."""
    target = ResolvedTarget(None, key, comparison.threads)
    # Of a file no more is known than what it was called.
    lens = "histogram:FILE" if names_a_file(comparison.lens) else comparison.lens
    tuned = "" if lens == FULL else f"--lens {lens}"
    return {
        "measure it again": command("compare", target, spec, shape, more=f"--lens {lens}"),
        "search again": command("tune", target, spec, shape, more=tuned),
        "read the kernel": f"prefilltune show --record {comparison.record} --stage scheduled",
        "where it comes from": f"prefilltune db show {comparison.record}",
    }


def _record(entry: Entry) -> dict[str, Any]:
    origin = entry.provenance
    return {
        "schedule": in_words(entry),
        "origin": {
            "tuned at": origin.shape,
            "on lengths": origin.lens,
            "found": origin.date[:10],
            "candidates measured": str(origin.trials),
            "seed": str(origin.seed),
            "device": str(origin.device.get("name", "")),
            "versions": _pairs(origin.versions),
            "time when it was kept": f"{origin.median_secs * 1e3:.4g} ms",
            "largest error then": f"{origin.max_abs_error:.1e}",
        },
    }


def _changes(found: Sequence[Change], revision: str) -> dict[str, Any]:
    return {
        "revision": revision,
        "counted": counted(found),
        "rows": [
            {
                "kind": each.kind,
                "id": None if each.after is None else case_id(each.after),
                "name": short_title(each.case),
                "lens": each.case.lens,
                "device": each.case.device,
                "before": None if each.before is None else _digits(each.before.tuned_ms),
                "after": None if each.after is None else _digits(each.after.tuned_ms),
                "ratio": _digits(each.ratio),
                "noise": _digits(each.noise),
            }
            for each in found
        ],
    }


def _pairs(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in sorted(versions.items()))


def _digits(value: float | None) -> float | None:
    """What is worth its bytes."""
    return None if value is None else float(f"{value:.4g}")
