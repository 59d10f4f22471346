"""A tuning plan: many workloads on some targets, as one job that can be gone on with."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...workloads import (
    CHOICES,
    PrefillShape,
    PrefillSpec,
    PrefilltuneError,
    UnknownPresetError,
    parse_lengths,
    preset,
)
from ...workloads.choices import CALL_CHOICES
from ..backends import USUAL_KIND
from ..devices.address import Address, check_key
from ..duration import parse_duration
from ..errors import InvalidPlanError
from ..heads import parse_heads

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SLICE = 64

#: What a plan may say, and of which type; of a choice it is for the choice to say.
_FIELDS: Mapping[str, type | None] = {
    "models": list,
    "heads": list,
    "mask_mode": str,
    **{each.name: None for each in CHOICES},
    "shapes": list,
    "dtypes": list,
    "lse_dtype": str,
    "targets": list,
    "lens": str,
    "budget": str,
    "trials": int,
    "slice": int,
    "searches": int,
    "seed": int,
    "keep": int,
}
_TARGET_FIELDS: Mapping[str, type] = {
    "target": str,
    "arch": str,
    "threads": int,
    "tracker": str,
    "key": str,
    "devices": str,
}


@dataclass(frozen=True)
class PlannedTarget:
    """A target of a plan, and where it is measured: here, unless a tracker or GPUs are named.

    Parameters
    ----------
    target, arch, threads, tracker, key, devices
        As the options of ``prefilltune tune``.
    """

    target: str
    arch: str | None = None
    threads: int | None = None
    tracker: str = ""
    key: str = ""
    devices: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be tuned.

    Parameters
    ----------
    name : str
        Of the file, without its ending.
    workloads : tuple[tuple[PrefillSpec, PrefillShape], ...]
        On each target; the dtype counts only with ``dtypes``, and the LSE has ``lse_dtype``.
    has_dtypes : bool
        Whether the plan names dtypes; else each target's usual one is taken.
    lse_dtype : str, optional
        Of the LSE of all of them; that of the rest when absent.
    targets : tuple[PlannedTarget, ...]
        Where.
    lens : str
        The length distribution.
    seconds : float
        While any search runs, over every run of the plan.
    trials : int, optional
        Most for each workload.
    slice : int
        Trials of a workload until the plan decides again which is next.
    searches : int, optional
        At a time, at most; as devices and cores suggest when absent.
    seed, keep : int
        As the options of ``prefilltune tune``.
    """

    name: str
    workloads: tuple[tuple[PrefillSpec, PrefillShape], ...]
    has_dtypes: bool
    lse_dtype: str | None
    targets: tuple[PlannedTarget, ...]
    lens: str
    seconds: float
    trials: int | None
    slice: int
    searches: int | None
    seed: int
    keep: int


def read_plan(path: Path) -> Plan:
    """Read and check a plan.

    Raises
    ------
    InvalidPlanError
        If there is no such file, it is no TOML, or a field is missing, unknown or out of range.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidPlanError(f"{path} is no plan: {error}") from None
    try:
        return _plan(path.stem, fields)
    except PrefilltuneError as error:
        raise InvalidPlanError(f"{path}: {error}") from None


def _plan(name: str, fields: dict[str, Any]) -> Plan:
    _check_fields(fields, _FIELDS, "")
    if "budget" not in fields:
        raise InvalidPlanError('budget is missing; say how long all searches may take: "2h"')
    parse_lengths(fields.get("lens", "full"))
    return Plan(
        name=name,
        workloads=tuple(_workloads(fields)),
        has_dtypes="dtypes" in fields,
        lse_dtype=fields.get("lse_dtype"),
        targets=tuple(_target(each) for each in _texts_or_tables(fields, "targets", [USUAL_KIND])),
        lens=fields.get("lens", "full"),
        seconds=parse_duration(fields["budget"]),
        trials=_positive(fields, "trials", None),
        slice=_positive(fields, "slice", _SLICE),
        searches=_positive(fields, "searches", None),
        seed=_within(fields, "seed", 0, 0, 2**30 - 1),
        keep=_positive(fields, "keep", 2),
    )


def _workloads(fields: dict[str, Any]) -> list[tuple[PrefillSpec, PrefillShape]]:
    shapes = [PrefillShape.parse(text) for text in _texts(fields, "shapes")]
    dtypes = _texts(fields, "dtypes") or ["float32"]
    mask_mode = fields.get("mask_mode")
    chosen = {each.name: each.of_file(fields[each.name]) for each in CHOICES if each.name in fields}
    if "heads" not in fields:
        of_calls = {each.name for each in CALL_CHOICES}
        for name in ("mask_mode", *chosen):
            if name in fields and name not in of_calls:
                raise InvalidPlanError(f"{name} goes with heads; models have theirs: leave it out")
    found: list[tuple[PrefillSpec, Sequence[PrefillShape]]] = []
    for name in _texts(fields, "models"):
        try:
            model = preset(name)
        except UnknownPresetError as error:
            raise InvalidPlanError(f"models: {error}") from None
        more = {each.name: chosen[each.name] for each in CALL_CHOICES if each.name in chosen}
        specs = (spec.as_called(**more) for dtype in dtypes for spec in model.specs(dtype))
        found += [(spec, shapes or model.shapes) for spec in specs]
    for text in _texts(fields, "heads"):
        if not shapes:
            raise InvalidPlanError('heads need shapes too, such as shapes = ["4x128"]')
        found += [(parse_heads(text, mask_mode, dtype, **chosen), shapes) for dtype in dtypes]
    if not found:
        raise InvalidPlanError('it tunes nothing; name models = ["bge-base"] or heads = ["12x64"]')
    return list(dict.fromkeys((spec, shape) for spec, each in found for shape in each))


def _target(fields: str | dict[str, Any]) -> PlannedTarget:
    if isinstance(fields, str):
        return PlannedTarget(fields)
    _check_fields(fields, _TARGET_FIELDS, "targets: ")
    if "target" not in fields:
        raise InvalidPlanError('targets: a table has no target; add target = "cuda"')
    if ("tracker" in fields) != ("key" in fields) or {"tracker", "devices"} <= fields.keys():
        raise InvalidPlanError(
            "targets: tracker and key go together, and without devices, which are GPUs of this "
            "machine"
        )
    if "tracker" in fields:
        Address.parse(fields["tracker"])
        check_key(fields["key"])
    return PlannedTarget(**fields)


def _check_fields(fields: dict[str, Any], allowed: Mapping[str, type | None], where: str) -> None:
    for name, value in fields.items():
        if name not in allowed:
            raise InvalidPlanError(f"{where}{name} is unknown; choose among {', '.join(allowed)}")
        kind = allowed[name]
        if kind is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            wanted = {list: "a list", str: "a text", int: "a whole number"}[kind]
            raise InvalidPlanError(f"{where}{name} is {value!r}; it must be {wanted}")


def _texts(fields: dict[str, Any], name: str) -> list[str]:
    for each in fields.get(name, []):
        if not isinstance(each, str):
            raise InvalidPlanError(f"{name} holds {each!r}; it must be a list of texts")
    if name in fields and not fields[name]:
        raise InvalidPlanError(f"{name} is empty; leave it out, or name something")
    return fields.get(name, [])


def _texts_or_tables(fields: dict[str, Any], name: str, absent: list[str]) -> list[Any]:
    found = fields.get(name, absent)
    for each in found:
        if not isinstance(each, str | dict):
            raise InvalidPlanError(f"{name} holds {each!r}; write a text or a table")
    if not found:
        raise InvalidPlanError(f"{name} is empty; leave it out, or name something")
    return found


def _positive(fields: dict[str, Any], name: str, absent: Any) -> Any:
    return _within(fields, name, absent, 1, 1 << 30)


def _within(fields: dict[str, Any], name: str, absent: Any, least: int, most: int) -> Any:
    value = fields.get(name, absent)
    if value is not None and not least <= value <= most:
        raise InvalidPlanError(f"{name} is {value}; it must lie in {least} to {most}")
    return value
