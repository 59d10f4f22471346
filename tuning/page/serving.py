"""Which kernel serves which shapes of a spec, and what that loses against the best of a sweep."""

from __future__ import annotations

from typing import Any

from ...database import Finder, NoRecordError, TargetKey, Tier
from ...workloads import PrefillSpec
from ..backends.commands import on_device
from ..comparing.report import attention_title
from ..deployment.serving import Serving, choose_serving
from ..target import ResolvedTarget


def served(key: TargetKey, databases: Finder) -> list[dict[str, Any]]:
    """Of every spec that has records for a target, as JSON's types."""
    target = ResolvedTarget(None, key, 1)
    found = []
    for text in sorted({spec for spec, _ in databases.workloads(key)}):
        spec = PrefillSpec.known(text)
        if spec is None:
            continue
        try:
            found.append(
                _described(spec, choose_serving(spec, target, databases, accept=Tier.FAMILY))
            )
        except NoRecordError:  # of another TVM, or of a space that is gone
            continue
    return found


def _described(spec: PrefillSpec, serving: Serving) -> dict[str, Any]:
    kernels = serving.as_data()["kernels"]
    names = {record: _letters(at) for at, record in enumerate(dict.fromkeys(
        each["record"] for each in kernels
    ))}  # fmt: skip
    return {
        "spec": str(spec),
        "title": f"{attention_title(spec)}, {spec.dtype}",
        "kernels": [
            {
                "name": names[each["record"]],
                "record": each["record"],
                "serves": each["serves"],
                "tuned_at": each.get("tuned_at", ""),
                "space": each.get("space", ""),
                "timed": on_device(each["timed_on"]) if "timed_on" in each else "",
            }
            for each in kernels
        ],
        "points": _points(serving, names),
        "device": None if serving.sweep is None else serving.sweep.device.get("name"),
        "date": None if serving.sweep is None else serving.sweep.date[:10],
    }


def _points(serving: Serving, names: dict[str, str]) -> list[dict[str, Any]]:
    """The measured shapes: who serves each, and how much slower than the fastest there it is."""
    found = []
    for point in () if serving.sweep is None else serving.sweep.points:
        match = serving.choose(point.sizes)
        if match is None or match.entry.record_id not in point.seconds:
            continue
        record = match.entry.record_id
        found.append({
            "batch": point.shape.batch,
            "length": point.shape.num_kv,
            "lens": point.lens,
            "kernel": names[record],
            "ms": float(f"{point.seconds[record] * 1e3:.4g}"),
            "loss": round(point.loss(record), 4),
            "noise": point.noise,
        })  # fmt: skip
    return found


def _letters(at: int) -> str:
    """A, B, ... Z, AA, AB, ...

    >>> _letters(0), _letters(27)
    ('A', 'AB')
    """
    return (_letters(at // 26 - 1) if at >= 26 else "") + chr(ord("A") + at % 26)
