"""Which records serve a spec on a target, and which of them serves which sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...database import Finder, Match, NoRecordError, TargetKey, Tier
from ...workloads import PrefillShape, PrefillSpec, PrefilltuneError
from ..backends import backend_of
from ..errors import InvalidOptionError, NotSweptError
from ..heads import workload_options
from ..spaces import SPACES
from ..target import ResolvedTarget
from .boundaries import Leaf, Range, Tree, choose, grow, leaves, ranges
from .lengths import Lengths, in_words, lengths_of, own_trees
from .sweep_file import Sweep, read_sweeps

#: What to do where a target has no record of a spec: refuse, take those of another device of the
#: same architecture, or take TVM's hand-written kernel.
ON_MISSING = ("error", "nearest", "baseline")


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
        What the boundaries come from; a single record needs none.
    notes : tuple[str, ...]
        What whoever builds should know, each ending in what to do.
    """

    spec: PrefillSpec
    key: TargetKey
    matches: Mapping[str, Match] = field(default_factory=dict)
    tree: Tree | None = None
    lengths: Mapping[Lengths, Tree] = field(default_factory=dict)
    sweep: Sweep | None = None
    notes: tuple[str, ...] = ()

    def choose(self, shape: PrefillShape) -> Match | None:
        """The record that serves a shape; None for TVM's hand-written kernel."""
        tree = self.lengths.get(lengths_of(shape), self.tree)
        return None if tree is None else self.matches[choose(tree, shape)]

    def as_data(self) -> dict[str, Any]:
        """All of it as JSON's types."""
        return {
            "spec": str(self.spec),
            "target": str(self.key),
            "kernels": [
                {"serves": serves, **_described(self.matches[record])}
                for serves, record in self._served()
            ]
            or [{"serves": "every shape", "record": None, "tier": "baseline"}],
            "boundaries": None
            if self.sweep is None
            else {
                "measured_on": self.sweep.device,
                "date": self.sweep.date,
                "points": len(self.sweep.points),
            },
            "notes": list(self.notes),
        }

    def _served(self) -> Iterator[tuple[str, str]]:
        """What each record serves, in words."""
        for lengths, tree in self.lengths.items():
            yield from _in_words(tree, in_words(lengths))
        if self.tree is not None:
            yield from _in_words(self.tree, "other lengths" if self.lengths else "")


def choose_serving(
    spec: PrefillSpec, target: ResolvedTarget, databases: Finder, *, on_missing: str = "error"
) -> Serving:
    """Choose the records that serve a spec, and the boundaries between them.

    Parameters
    ----------
    databases : Finder
        Where records are looked for.
    on_missing : str
        One of :data:`ON_MISSING`. For a GPU that is elsewhere and was named by its architecture
        alone, records of any device of that architecture are what is asked for.

    Raises
    ------
    NoRecordError
        If there is no record and ``on_missing`` says so, or nothing else will do.
    NotSweptError
        If several records could serve the spec and nothing was measured that says which.
    InvalidOptionError
        For another ``on_missing``.
    """
    if on_missing not in ON_MISSING:
        raise InvalidOptionError(f"on_missing is {on_missing!r}; choose {', '.join(ON_MISSING)}")
    keys = [target.key]
    if on_missing == "nearest" or not target.is_here:
        keys += databases.family(target.key)
    for key in keys:
        found = candidates(databases, key, spec)
        if found:
            serving = _serving(spec, target.key, key, found, databases)
            unknown = _unknown_spaces(databases, key, spec)
            return replace(serving, notes=(*serving.notes, *unknown))
    if on_missing == "baseline" and backend_of(target.kind).masked_baseline:
        note = (
            f"no record serves {spec} on {target.key}: TVM's hand-written kernel does; run: "
            "prefilltune tune"
        )
        return Serving(spec, target.key, notes=(note,))
    raise NoRecordError(_miss(spec, target, databases, on_missing))


def candidates(databases: Finder, key: TargetKey, spec: PrefillSpec) -> dict[str, Match]:
    """The best record of every shape and length distribution whose trace fits any shape, by id."""
    found = {}
    for shape, lens, space in databases.groups(key, spec):
        if space in SPACES and SPACES[space].any_shape:
            match = databases.find(key, spec, shape, lens=lens, space=space)
            known = found.get((shape, lens))
            if known is None or match.entry.speed < known.entry.speed:
                found[shape, lens] = match
    return {match.entry.record_id: match for match in found.values()}


def _unknown_spaces(databases: Finder, key: TargetKey, spec: PrefillSpec) -> list[str]:
    """A note on records that this version cannot replay."""
    unknown = sorted({space for _, _, space in databases.groups(key, spec) if space not in SPACES})
    return [
        f"records of {space} serve nothing: this version has no design space of that name; use the "
        "version that made them, or tune again"
        for space in unknown
    ]


def _has_candidates(databases: Finder, key: TargetKey, spec: PrefillSpec) -> bool:
    """Whether another device's records would do; not those that cannot be read."""
    try:
        return bool(candidates(databases, key, spec))
    except PrefilltuneError:
        return False


def _serving(
    spec: PrefillSpec,
    asked: TargetKey,
    key: TargetKey,
    found: Mapping[str, Match],
    databases: Finder,
) -> Serving:
    if len(found) == 1:
        (record,) = found
        lengths = dict.fromkeys(own_trees(found), Leaf(record))
        return Serving(spec, asked, _seen_from(asked, found), Leaf(record), lengths)
    command = (
        f"prefilltune sweep --target {key.kind} {workload_options(spec)}, on a machine of {key}"
    )
    sweeps = [
        each for root in databases.roots if (each := read_sweeps(root / str(key)).get(str(spec)))
    ]
    sweep = next((each for each in sweeps if databases.by_id(key, each.records)), None)
    if sweep is None:
        raise NotSweptError(
            f"{len(found)} records of {spec} on {key} could serve any shape, and nothing was "
            f"measured that says which is best where; run: {command}"
        )
    # What was measured goes on serving when a faster record comes, of which nothing is known yet.
    known = {**databases.by_id(key, sweep.records), **found}
    measured = [record for record in sweep.records if record in known]
    tree = grow([point.among(measured) for point in sweep.points])
    own = own_trees(found, sweep.points)
    lengths = {each: its_tree for each, its_tree in own.items() if its_tree is not None}
    used = {record: known[record] for each in (*lengths.values(), tree) for record in leaves(each)}
    notes = tuple(f"{note}; run: {command}" for note in _notes(sweep, known, used, own))
    return Serving(spec, asked, _seen_from(asked, used), tree, lengths, sweep, notes)


def _notes(
    sweep: Sweep,
    known: Mapping[str, Match],
    used: Mapping[str, Match],
    own: Mapping[Lengths, Tree | None],
) -> Iterator[str]:
    """What another sweep would mend."""
    late = known.keys() - set(sweep.records)
    for does, records in (
        ("serve no lengths but those they were tuned on", late & used.keys()),
        ("serve nothing", late - used.keys()),
    ):
        if records:
            names = ", ".join(sorted(records))
            yield f"{names} came after the sweep of {sweep.date} and {does}"
    if gone := [record for record in sweep.records if record not in known]:
        names = ", ".join(gone)
        yield f"{names} of the sweep of {sweep.date} are gone; the others serve everything"
    if unmeasured := [in_words(lengths) for lengths, tree in own.items() if tree is None]:
        yield (
            f"{'; '.join(unmeasured)}: tuned on several batches, and the sweep of {sweep.date} "
            "says nothing of which record is best there; what serves other lengths serves these too"
        )


def _seen_from(asked: TargetKey, found: Mapping[str, Match]) -> dict[str, Match]:
    """Matches with the tier that they have for the target that was asked for."""
    return {
        record: match
        if match.key == asked
        else Match(match.entry, Tier.FAMILY, match.distance, match.key, match.root)
        for record, match in found.items()
    }


def _in_words(tree: Tree, lengths: str) -> Iterator[tuple[str, str]]:
    """What the leaves of a tree serve, and their records."""
    for where, record in ranges(tree):
        boundaries = "" if lengths and where == Range() else str(where)
        yield ", ".join(filter(None, (lengths, boundaries))), record


def _described(match: Match) -> dict[str, Any]:
    provenance = match.entry.provenance
    return {
        "record": match.entry.record_id,
        "tier": str(match.tier),
        "tuned_for": str(match.key),
        "tuned_at": provenance.shape,
        "lens": provenance.lens,
        "space": provenance.space,
    }


def _miss(
    spec: PrefillSpec,
    target: ResolvedTarget,
    databases: Finder,
    on_missing: str,
) -> str:
    family = [key for key in databases.family(target.key) if _has_candidates(databases, key, spec)]
    hints = _unknown_spaces(databases, target.key, spec)
    if family:
        hints.append(f"take those of {', '.join(map(str, family))} with on_missing='nearest'")
    backend = backend_of(target.kind)
    if hint := backend.arch_hint(target.key):
        hints.append(hint)
    if backend.masked_baseline and on_missing != "baseline":
        hints.append("take TVM's hand-written kernel with on_missing='baseline'")
    if on_missing == "baseline" and not backend.masked_baseline:
        hints.append(f"TVM has no masked prefill kernel for {target.kind} to fall back to")
    return (
        f"no record that fits any shape serves {spec} on {target.key}; searched "
        f"{', '.join(map(str, databases.roots))}; run `prefilltune tune` for it"
        + "".join(f"; {hint}" for hint in hints)
    )
