"""Which records serve a spec on a target, and which of them serves which sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ...database import Finder, Match, NoRecordError, TargetKey, Tier, committed_root
from ...database.finder import accept_option, specs_in_words
from ...workloads import PrefillShape, PrefillSpec, PrefilltuneError, parse_lengths
from ...workloads.baseline import nearest_with_baseline
from ..backends import backend_of
from ..backends.commands import advice, stand_ins, timed_on
from ..building.finding import find_record, fits
from ..errors import InvalidOptionError
from ..spaces import SPACES
from ..target import ResolvedTarget
from .boundaries import Point, Range, Sizes, Tree, choose, grow, leaves, ranges
from .candidates import (
    candidates,
    candidates_of_shape,
    fits_any_shape,
    records_by_id,
    seen_from,
    shape_of,
)
from .distributions import Choice, choose_distribution, nearest_distribution, points_of_records
from .lengths import Lengths, in_words, own_trees
from .nearness import nearness
from .sweep_file import Sweep, read_sweeps

#: What to do where a target has no record of a spec: refuse, take the nearest that it runs, or take
#: TVM's hand-written kernel.
ON_MISSING = ("error", "nearest", "baseline")

#: Stands in a command where nobody said which shapes are served.
_SOME_SHAPE = PrefillShape(1, 128)


@dataclass(frozen=True)
class Serving:
    """The records that a kernel for every shape is made of, and which of them serves which shapes.

    Parameters
    ----------
    spec : PrefillSpec
        What is computed.
    key : TargetKey
        The target that was asked for.
    matches : Mapping[str, Match]
        The records in use, by id; none where TVM's hand-written kernel serves everything.
    tree : Tree, optional
        Says which of them serves which sizes.
    lengths : Mapping[Lengths, Tree]
        By ``(qo_len, kv_len)``, what serves exactly these lengths in the place of ``tree``: kernels
        that know them.
    sweep : Sweep, optional
        What the boundaries come from; without one they lie halfway between the tuned shapes.
    choices : tuple[Choice, ...]
        Which record stands for each tuned shape, and why.
    notes : tuple[str, ...]
        What whoever builds should know, each ending in what to do.
    """

    spec: PrefillSpec
    key: TargetKey
    matches: Mapping[str, Match] = field(default_factory=dict)
    tree: Tree | None = None
    lengths: Mapping[Lengths, Tree] = field(default_factory=dict)
    sweep: Sweep | None = None
    choices: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()

    def choose(self, sizes: Sizes) -> Match | None:
        """The record that serves a call; None for TVM's hand-written kernel."""
        tree = self.lengths.get((sizes.qo_len, sizes.kv_len), self.tree)
        return None if tree is None else self.matches[choose(tree, sizes)]

    def as_data(self) -> dict[str, Any]:
        """All of it as JSON's types."""
        return {
            "spec": str(self.spec),
            "target": str(self.key),
            "kernels": [
                {"serves": serves, **described(self.matches[record])}
                for serves, record in self._served()
            ]
            or [{"serves": "every shape", "record": None, "tier": "baseline"}],
            "boundaries": self._boundaries(),
            "distributions": [each.as_data() for each in self.choices if len(each.among) > 1],
            "notes": list(self.notes),
        }

    def _boundaries(self) -> dict[str, Any] | None:
        """Where they come from; without a measured point, from the tuned shapes alone."""
        if self.sweep is None:
            nothing = {"measured_on": None, "date": None, "points": 0}
            return nothing if len(self.matches) > 1 else None
        sweep = self.sweep
        return {"measured_on": sweep.device, "date": sweep.date, "points": len(sweep.points)}

    def _served(self) -> Iterator[tuple[str, str]]:
        """What each record serves, in words."""
        for lengths, tree in self.lengths.items():
            yield from _in_words(tree, in_words(lengths))
        if self.tree is not None:
            length = "mean" if self.spec.is_packed else ""
            yield from _in_words(self.tree, "other lengths" if self.lengths else "", length)


def choose_serving(
    spec: PrefillSpec,
    target: ResolvedTarget,
    databases: Finder,
    *,
    on_missing: str = "error",
    accept: Tier = Tier.EXACT,
    lens: str = "",
) -> Serving:
    """Choose the records that serve a spec, and the boundaries between them.

    Those of the target and of its family's other devices serve side by side: of a shape and a
    length distribution the target's own, where it has one. Where a sweep was measured, on the
    target or else on another of these, it says which record serves what; else that of the nearest
    tuned shape does (:mod:`~.nearness`).

    Parameters
    ----------
    databases : Finder
        Where records are looked for.
    on_missing : str
        One of :data:`ON_MISSING`. For a GPU that is elsewhere and was named by its architecture
        alone, records of any device of that architecture are what is asked for.
    accept : Tier
        The furthest target whose records will do; with ``on_missing="nearest"``, whatever the
        target runs.
    lens : str
        The length distribution to choose kernels for where a shape was tuned on several, as
        ``parse_lengths`` takes it; see :mod:`~.distributions` for what is chosen when empty.

    Raises
    ------
    NoRecordError
        If there is no record and ``on_missing`` says so, or nothing else will do.
    InvalidOptionError, InvalidLengthsError
        For another ``on_missing``; for a ``lens`` that is none.
    """
    if on_missing not in ON_MISSING:
        raise InvalidOptionError(f"on_missing is {on_missing!r}; choose {', '.join(ON_MISSING)}")
    if on_missing == "nearest":
        accept = max(accept, backend_of(target.kind).furthest)
    elif not target.is_here:
        accept = max(accept, Tier.FAMILY)
    lens = _canonical(lens)
    for family in databases.families(target.key, accept):
        keys, unread = databases.readable(target.key, family)
        found = candidates(databases, keys, spec)
        if found:
            serving = _serving(spec, target, keys, found, databases, lens)
            unknown = _unknown_spaces(databases, keys, spec)
            known = _not_measured_here(serving, target, databases)
            skipped = [f"skipped: {error}" for error in unread]
            return replace(serving, notes=(*serving.notes, *unknown, *known, *skipped))
        if unread:
            raise unread[0]
    tune = advice("tune", target, spec, _SOME_SHAPE, database=databases.roots[0])
    if on_missing == "baseline" and _has_baseline(spec, target):
        note = f"no record serves {spec} on {target.key}: TVM's hand-written kernel does; {tune}"
        return Serving(spec, target.key, notes=(note,))
    raise NoRecordError(_miss(spec, target, databases, accept, on_missing, tune))


def choose_kernel(
    spec: PrefillSpec,
    shape: PrefillShape,
    target: ResolvedTarget,
    databases: Finder,
    *,
    accept: Tier = Tier.EXACT,
    lens: str = "",
) -> tuple[Match, Choice]:
    """Choose the record that a kernel for one shape alone is made of, and say why.

    Where no record of the shape is accepted, it is one of another shape that fits this one.

    Parameters
    ----------
    databases, accept, lens
        As :func:`choose_serving`.

    Raises
    ------
    NoRecordError
        If none will do.
    """
    match = find_record(databases, target, spec, shape, accept=accept)
    of_record = PrefillSpec.parse(match.entry.provenance.spec)
    tuned = replace(spec, window=of_record.window)
    fitting = partial(fits, tuned=of_record, spec=spec)
    families = databases.families(target.key, accept)
    family = next(each for each in families if match.key in each)
    keys, _ = databases.readable(target.key, family)
    found = candidates_of_shape(databases, keys, tuned, shape_of(match), fitting)
    # Of another device a record may be in another dtype than of this one.
    any_shape = match.distance > 0
    found = {
        record: each
        for record, each in found.items()
        if fits_any_shape(each) or not (any_shape or _is_in_other_dtype(each, spec))
    }
    _, sweep = _sweep_of(databases, keys, tuned)
    _, timed = _timed(databases, keys, found, sweep)
    choice = _choose_distribution(found, timed, keys, databases, _canonical(lens))
    return seen_from(target.key, found, shape)[choice.record], choice


def _serving(
    spec: PrefillSpec,
    target: ResolvedTarget,
    keys: Sequence[TargetKey],
    found: Mapping[str, Match],
    databases: Finder,
    lens: str,
) -> Serving:
    swept_on, sweep = _sweep_of(databases, keys, spec) if len(found) > 1 else (None, None)
    known, timed = _timed(databases, keys, found, sweep)
    of_shape: dict[PrefillShape, dict[str, Match]] = {}
    for record, match in found.items():
        of_shape.setdefault(shape_of(match), {})[record] = match
    choices = tuple(
        _choose_distribution(each, timed, keys, databases, lens) for each in of_shape.values()
    )
    tuned = {choice.record: choice.shape for choice in choices}
    if sweep is None:
        points = nearness(tuned)
        tree = grow(points)
    else:
        # What was measured goes on serving when a faster record comes, of which nothing is known.
        measured = [record for record in sweep.records if record in known]
        points = _points_for(lens, timed)
        tree = grow([point.among(measured) for point in points])
    # Packed sequences have no lengths that a kernel could know, and where they were timed, times
    # say which record serves which of them.
    own = {} if spec.is_packed else own_trees(tuned, points)
    if spec.is_packed and sweep is not None:
        choices = ()
    lengths = {each: its_tree for each, its_tree in own.items() if its_tree is not None}
    used = {record: known[record] for each in (*lengths.values(), tree) for record in leaves(each)}
    sweeping = _sweeping(spec, target, keys, found, databases)
    lacking = "; ".join(_notes(sweep, swept_on, known, used, own))
    notes = (f"{lacking}; {sweeping}",) if lacking else ()
    seen = seen_from(target.key, used)
    return Serving(spec, target.key, seen, tree, lengths, sweep, choices, notes)


def _not_measured_here(serving: Serving, target: ResolvedTarget, databases: Finder) -> list[str]:
    """A note where the records are of another target or dtype than was asked for."""
    # Of a shape that has an own record too, nothing lacks but a sweep, which other notes name.
    nearest_last = sorted(serving.matches.values(), key=lambda match: match.tier, reverse=True)
    found = {shape_of(match): match for match in nearest_last}
    return stand_ins(found, target, serving.spec, databases.roots[0])


def _canonical(lens: str) -> str:
    return parse_lengths(lens).text if lens else ""


def _sweep_of(
    databases: Finder, keys: Sequence[TargetKey], spec: PrefillSpec
) -> tuple[TargetKey, Sweep] | tuple[None, None]:
    """The sweep of the nearest target that has one, and that target.

    Of the first database that has one of records that there are.
    """
    # Padded tensors of a length hold sequences of other lengths than packed ones of that mean.
    texts = [str(each) for each in spec.same_kernels if each.layout == spec.layout]
    for key in keys:
        read = [read_sweeps(root / str(key)) for root in databases.roots]
        for sweep in [each[text] for each in read for text in texts if text in each]:
            if records_by_id(databases, keys, sweep.records):
                return key, sweep
    return None, None


def _timed(
    databases: Finder,
    keys: Sequence[TargetKey],
    found: Mapping[str, Match],
    sweep: Sweep | None,
) -> tuple[dict[str, Match], list[Point]]:
    """The records that there are, those of a sweep too, and its points, late records among them."""
    if sweep is None:
        return dict(found), []
    known = {**records_by_id(databases, keys, sweep.records), **found}
    return known, _with_late(sweep.points, _places(known, sweep))


def _places(known: Mapping[str, Match], sweep: Sweep) -> dict[str, str]:
    """The record that a sweep timed in the place of one that it did not.

    It is of the same shape and length distribution.
    """
    workloads = {
        record: (match.entry.provenance.shape, match.entry.provenance.lens)
        for record, match in known.items()
    }
    timed = {workloads[record]: record for record in sweep.records if record in known}
    return {
        record: timed[workload]
        for record, workload in workloads.items()
        if record not in sweep.records and workload in timed
    }


def _with_late(points: Sequence[Point], places: Mapping[str, str]) -> list[Point]:
    """Points where records that were not timed are as fast as those whose places they take.

    For the lengths that were tuned: without a time a record would leave these to those of other
    batches or distributions.
    """

    def seconds(point: Point) -> dict[str, float]:
        return {**point.seconds, **{late: point.seconds[of] for late, of in places.items()}}

    return [replace(point, seconds=seconds(point)) for point in points]


def _points_for(lens: str, points: Sequence[Point]) -> list[Point]:
    """The points of the distribution that is asked for, if there are any; else all."""
    asked = nearest_distribution(lens, {point.lens for point in points}) if lens else None
    return [point for point in points if asked in (None, point.lens)]


def _choose_distribution(
    found: Mapping[str, Match],
    timed: Sequence[Point],
    keys: Sequence[TargetKey],
    databases: Finder,
    lens: str,
) -> Choice:
    """The record of one shape, by times that were taken side by side or else by the records'."""

    def measured() -> Iterator[Sequence[Point]]:
        yield timed
        match = next(iter(found.values()))
        spec = PrefillSpec.parse(match.entry.provenance.spec)
        for key in keys:  # times of different devices do not compare
            if matches := databases.all_of(key, spec, shape_of(match)):
                yield points_of_records(matches, found)

    return choose_distribution(found, measured(), lens)


def _sweeping(
    spec: PrefillSpec,
    target: ResolvedTarget,
    keys: Sequence[TargetKey],
    found: Mapping[str, Match],
    databases: Finder,
) -> str:
    """How to measure which record is best where, so that it is known here."""
    first, *_ = databases.roots
    origins = {match.key for match in found.values()}
    is_family = target.is_here and target.key in keys
    key = target.key if is_family else next(each for each in keys if each in origins)
    elsewhere = [each.root for each in found.values() if each.root not in (first, committed_root())]
    machine = target if key == target.key else ResolvedTarget(None, key, target.threads)
    database = next(iter(elsewhere), first)
    return advice("sweep", machine, spec, database=database, elsewhere=machine is not target)


def _notes(
    sweep: Sweep | None,
    swept_on: TargetKey | None,
    known: Mapping[str, Match],
    used: Mapping[str, Match],
    own: Mapping[Lengths, Tree | None],
) -> Iterator[str]:
    """What a sweep, or another one, would mend."""
    if sweep is None:
        if len(known) > 1:
            yield (
                f"nothing was measured that says which of {len(known)} records is best where: each "
                "shape is served by the one that was tuned nearest, and a sweep would choose better"
            )
        return
    untimed = known.keys() - set(sweep.records)
    for what, records in (
        ("no lengths but those that were tuned", untimed & used.keys()),
        ("nothing", untimed - used.keys()),
    ):
        for key in sorted({known[record].key for record in records}, key=str):
            names = sorted(record for record in records if known[record].key == key)
            serve, were = ("serves", "was") if len(names) == 1 else ("serve", "were")
            late = (
                f"came after the sweep of {sweep.date}"
                if key == swept_on
                else f"of {key} {were} not timed by the sweep of {sweep.date} on {swept_on}"
            )
            yield f"{', '.join(names)} {late} and {serve} {what}"
    if gone := [record for record in sweep.records if record not in known]:
        names = ", ".join(gone)
        are = "is" if len(gone) == 1 else "are"
        yield (
            f"{names} of the sweep of {sweep.date} {are} gone, or of a device whose records are "
            "not accepted; the others serve everything"
        )
    if unmeasured := [in_words(lengths) for lengths, tree in own.items() if tree is None]:
        yield (
            f"{'; '.join(unmeasured)}: tuned on several batches, and the sweep of {sweep.date} "
            "says nothing of which record is best there; what serves other lengths serves these too"
        )


def _in_words(tree: Tree, lengths: str, length: str = "") -> Iterator[tuple[str, str]]:
    """What the leaves of a tree serve, and their records."""
    for where, record in ranges(tree):
        boundaries = "" if lengths and where == Range() else where.in_words(length)
        yield ", ".join(filter(None, (lengths, boundaries))), record


def described(match: Match) -> dict[str, Any]:
    """A record in use, as JSON's types."""
    provenance = match.entry.provenance
    return {
        "record": match.entry.record_id,
        "tier": str(match.tier),
        "tuned_for": str(match.key),
        "timed_on": timed_on(match),
        "tuned_as": provenance.spec,
        "tuned_at": provenance.shape,
        "lens": provenance.lens,
        "space": provenance.space,
    }


def _unknown_spaces(databases: Finder, keys: Sequence[TargetKey], spec: PrefillSpec) -> list[str]:
    """A note on records that this version cannot replay."""
    spaces = {space for key in keys for _, _, space in databases.groups(key, spec)}
    unknown = sorted(spaces - SPACES.keys())
    return [
        f"records of {space} serve nothing: this version has no design space of that name; use the "
        "version that made them, or tune again"
        for space in unknown
    ]


def _miss(
    spec: PrefillSpec,
    target: ResolvedTarget,
    databases: Finder,
    accept: Tier,
    on_missing: str,
    tune: str,
) -> str:
    hints = _unknown_spaces(databases, [target.key], spec)
    if farther := _farther(spec, target, databases, accept):
        hints.append(farther)
    elif near := specs_in_words(databases.specs_near(target.key, spec)):
        hints.append(near)
    if hint := backend_of(target.kind).arch_hint(target.key):
        hints.append(hint)
    has_baseline = _has_baseline(spec, target)
    if has_baseline and on_missing != "baseline":
        hints.append("take TVM's hand-written kernel with on_missing='baseline'")
    if on_missing == "baseline" and not has_baseline:
        hints.append(f"TVM has no prefill kernel for {spec} on {target.kind} to fall back to")
    return (
        f"no record that fits any shape serves {spec} on {target.key}; searched "
        f"{', '.join(map(str, databases.roots))}; "
        + "".join(f"{hint}; " for hint in hints)
        + f"tune it on the shapes that you serve, such as 1x128; {tune}"
    )


def _farther(
    spec: PrefillSpec, target: ResolvedTarget, databases: Finder, accept: Tier
) -> str | None:
    """How to take the records of the nearest tier beyond what is accepted, if any would do."""
    for tier in Tier:
        if accept < tier <= backend_of(target.kind).furthest:
            keys = databases.targets(target.key, tier)
            found = [str(key) for key in keys if _has_candidates(databases, key, spec)]
            if found:
                names, option = ", ".join(found), accept_option(tier)
                return f"take those of {names} with on_missing='nearest' ({option})"
    return None


def _is_in_other_dtype(match: Match, spec: PrefillSpec) -> bool:
    return PrefillSpec.parse(match.entry.provenance.spec).dtype != spec.dtype


def _has_baseline(spec: PrefillSpec, target: ResolvedTarget) -> bool:
    """Whether TVM's hand-written kernel computes it; its LSE is of the query's dtype."""
    known = nearest_with_baseline(spec) == spec
    return known and backend_of(target.kind).masked_baseline


def _has_candidates(databases: Finder, key: TargetKey, spec: PrefillSpec) -> bool:
    """Whether another device's records would do; not those that cannot be read."""
    try:
        return bool(candidates(databases, [key], spec))
    except PrefilltuneError:
        return False
