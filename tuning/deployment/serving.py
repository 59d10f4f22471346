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
from .candidates import candidates, candidates_of_shape, fits_any_shape, seen_from, shape_of
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

    Where a sweep was measured it says which record serves what; else that of the nearest tuned
    shape does (:mod:`~.nearness`).

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
    for key in databases.targets(target.key, accept):
        found = candidates(databases, key, spec)
        if found:
            serving = _serving(spec, target, key, found, databases, lens)
            unknown = _unknown_spaces(databases, key, spec)
            known = _not_measured_here(serving, target, databases)
            return replace(serving, notes=(*serving.notes, *unknown, *known))
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
    found = candidates_of_shape(databases, match.key, tuned, shape_of(match), fitting)
    if match.distance:
        found = {name: each for name, each in found.items() if fits_any_shape(each)}
    sweep = _sweep_of(databases, match.key, tuned)
    choice = _choose_distribution(found, sweep, match.key, databases, _canonical(lens))
    return seen_from(target.key, found, shape)[choice.record], choice


def _serving(
    spec: PrefillSpec,
    target: ResolvedTarget,
    key: TargetKey,
    found: Mapping[str, Match],
    databases: Finder,
    lens: str,
) -> Serving:
    sweep = _sweep_of(databases, key, spec) if len(found) > 1 else None
    of_shape: dict[PrefillShape, dict[str, Match]] = {}
    for record, match in found.items():
        of_shape.setdefault(shape_of(match), {})[record] = match
    choices = tuple(
        _choose_distribution(each, sweep, key, databases, lens) for each in of_shape.values()
    )
    tuned = {choice.record: choice.shape for choice in choices}
    if sweep is None:
        known = dict(found)
        points = nearness(tuned)
        tree = grow(points)
    else:
        # What was measured goes on serving when a faster record comes, of which nothing is known.
        known = {**databases.by_id(key, sweep.records), **found}
        measured = [record for record in sweep.records if record in known]
        points = _points_for(lens, sweep)
        tree = grow([point.among(measured) for point in points])
    # Packed sequences have no lengths that a kernel could know, and where they were timed, times
    # say which record serves which of them.
    own = {} if spec.is_packed else own_trees(tuned, points)
    if spec.is_packed and sweep is not None:
        choices = ()
    lengths = {each: its_tree for each, its_tree in own.items() if its_tree is not None}
    used = {record: known[record] for each in (*lengths.values(), tree) for record in leaves(each)}
    sweeping = _sweeping(spec, target, key, found, databases)
    lacking = "; ".join(_notes(sweep, known, used, own))
    notes = (f"{lacking}; {sweeping}",) if lacking else ()
    seen = seen_from(target.key, used)
    return Serving(spec, target.key, seen, tree, lengths, sweep, choices, notes)


def _not_measured_here(serving: Serving, target: ResolvedTarget, databases: Finder) -> list[str]:
    """A note where the records are of another target or dtype than was asked for."""
    found = {shape_of(match): match for match in serving.matches.values()}
    return stand_ins(found, target, serving.spec, databases.roots[0])


def _canonical(lens: str) -> str:
    return parse_lengths(lens).text if lens else ""


def _sweep_of(databases: Finder, key: TargetKey, spec: PrefillSpec) -> Sweep | None:
    """The sweep of the first database that has one of records that there are."""
    read = [read_sweeps(root / str(key)) for root in databases.roots]
    # Padded tensors of a length hold sequences of other lengths than packed ones of that mean.
    texts = [str(each) for each in spec.same_kernels if each.layout == spec.layout]
    sweeps = [each[text] for each in read for text in texts if text in each]
    return next((each for each in sweeps if databases.by_id(key, each.records)), None)


def _points_for(lens: str, sweep: Sweep) -> list[Point]:
    """The points of the distribution that is asked for, if there are any; else all."""
    asked = nearest_distribution(lens, {point.lens for point in sweep.points}) if lens else None
    return [point for point in sweep.points if asked in (None, point.lens)]


def _choose_distribution(
    found: Mapping[str, Match],
    sweep: Sweep | None,
    key: TargetKey,
    databases: Finder,
    lens: str,
) -> Choice:
    """The record of one shape, by times that were taken side by side or else by the records'."""

    def measured() -> Iterator[Sequence[Point]]:
        if sweep is not None:
            yield sweep.points
        match = next(iter(found.values()))
        spec = PrefillSpec.parse(match.entry.provenance.spec)
        yield points_of_records(databases.all_of(key, spec, shape_of(match)), found)

    return choose_distribution(found, measured(), lens)


def _sweeping(
    spec: PrefillSpec,
    target: ResolvedTarget,
    key: TargetKey,
    found: Mapping[str, Match],
    databases: Finder,
) -> str:
    """How to measure which record is best where, so that it is known here."""
    first, *_ = databases.roots
    elsewhere = [each.root for each in found.values() if each.root not in (first, committed_root())]
    machine = target if key == target.key else ResolvedTarget(None, key, target.threads)
    database = next(iter(elsewhere), first)
    return advice("sweep", machine, spec, database=database, elsewhere=machine is not target)


def _notes(
    sweep: Sweep | None,
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
    late = known.keys() - set(sweep.records)
    for what, records in (
        ("no lengths but those that were tuned", late & used.keys()),
        ("nothing", late - used.keys()),
    ):
        if records:
            names = ", ".join(sorted(records))
            serve = "serves" if len(records) == 1 else "serve"
            yield f"{names} came after the sweep of {sweep.date} and {serve} {what}"
    if gone := [record for record in sweep.records if record not in known]:
        names = ", ".join(gone)
        are = "is" if len(gone) == 1 else "are"
        yield f"{names} of the sweep of {sweep.date} {are} gone; the others serve everything"
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


def _unknown_spaces(databases: Finder, key: TargetKey, spec: PrefillSpec) -> list[str]:
    """A note on records that this version cannot replay."""
    unknown = sorted({space for _, _, space in databases.groups(key, spec) if space not in SPACES})
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
    hints = _unknown_spaces(databases, target.key, spec)
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


def _has_baseline(spec: PrefillSpec, target: ResolvedTarget) -> bool:
    """Whether TVM's hand-written kernel computes it; its LSE is of the query's dtype."""
    known = nearest_with_baseline(spec) == spec
    return known and backend_of(target.kind).masked_baseline


def _has_candidates(databases: Finder, key: TargetKey, spec: PrefillSpec) -> bool:
    """Whether another device's records would do; not those that cannot be read."""
    try:
        return bool(candidates(databases, key, spec))
    except PrefilltuneError:
        return False
