"""Which kernel serves which shapes, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.table import Column, Table

from ...workloads import PrefillSpec


def explanation_tables(kernels: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Kernels as a manifest or :meth:`~.serving.Serving.as_data` describes them.

    Those that serve one shape each stand in one table for each spec.
    """
    tables = []
    for (spec, fixed), group in groupby(kernels, key=lambda each: (each["spec"], _shape(each))):
        if fixed:
            # Libraries of earlier versions hold no records of other shapes, nor what was timed on.
            rows = [{"tuned_at": each["shape"], **each, "serves": each["shape"]} for each in group]
            tables.append(_table(spec, rows))
        else:
            for each in group:
                rows = [{"spec": spec, **row} for row in each["kernels"]]
                tables.append(_table(_title(each), rows))
    return tables


def explanation_lines(kernels: Iterable[Mapping[str, Any]]) -> list[str]:
    """What there is to say of kernels besides their tables, a line each."""
    return [line for kernel in kernels for line in _lines(kernel)]


def _lines(kernel: Mapping[str, Any]) -> list[str]:
    shapes: dict[str, list[str]] = {}
    for each in kernel.get("distributions", ()):
        choice = f"the record of {each['lens']} serves, {each['why']}"
        shapes.setdefault(f"tuned on {' and '.join(each['among'])}: {choice}", []).append(
            each["shape"]
        )
    chosen = [f"{', '.join(each)}, {choice}" for choice, each in shapes.items()]
    return [*chosen, *kernel.get("notes", ())]


def _shape(kernel: Mapping[str, Any]) -> bool:
    return kernel.get("shape") is not None


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        Column("shapes"),
        Column("record", no_wrap=True),  # a name is there to be copied
        Column("tuned at", no_wrap=True),
        Column("space", no_wrap=True),
        Column("tier", overflow="fold"),
        Column("timed on", overflow="fold"),
        title=title,
        title_justify="left",
    )
    for row in rows:
        tier = row["tier"] if row["tier"] in ("exact", "baseline") else _tier(row)
        device = row.get("timed_on") or ("nowhere" if "timed_on" in row else "")
        fields = (_tuned(row), row.get("space") or "", tier, device)
        table.add_row(row["serves"], row["record"] or "TVM's hand-written", *fields)
    return table


def _tuned(row: Mapping[str, Any]) -> str:
    """The shape that a record was tuned on, and with which mask, layout or dtype if with others."""
    shape = row.get("tuned_at") or ""
    spec, tuned = (PrefillSpec.parse(row.get(name) or row["spec"]) for name in ("spec", "tuned_as"))
    if (tuned.window, tuned.layout) != (spec.window, spec.layout):
        shape += f" as {tuned.mask_mode}"
    return shape if tuned.dtype == spec.dtype else f"{shape} in {tuned.dtype}"


def _tier(row: Mapping[str, Any]) -> str:
    return f"{row['tier']}: {row['tuned_for']}"


def _title(kernel: Mapping[str, Any]) -> str:
    parts = [kernel["spec"], *([f"on {kernel['target']}"] if "target" in kernel else [])]
    boundaries = kernel.get("boundaries")
    if boundaries and not boundaries["points"]:
        parts.append("(boundaries halfway between the tuned shapes; nothing was measured)")
    elif boundaries:
        where, points = boundaries["measured_on"]["name"], boundaries["points"]
        parts.append(f"(boundaries from {points} measurements on {where}, {boundaries['date']})")
    return " ".join(parts)
