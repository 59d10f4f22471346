"""Libraries for the tests of the PyTorch operator: two kernels each, scheduled without a search.

Run as ``python small_libraries.py FOLDER SPEC...`` it builds one for this CPU, in ``FOLDER/SPEC``,
for each spec: TVM parses several times slower in a process that has imported PyTorch. With
``--records FOLDER SPEC...`` it writes a record of each into a database instead.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from database_fixtures import PROVENANCE, filled

from prefilltune.database import Entry, Match, Tier
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.replaying import replay
from prefilltune.tuning.deployment import Leaf, Serving
from prefilltune.tuning.deployment.library import Built, build_kernels
from prefilltune.tuning.search.arms import Arm
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths

#: That one of the kernels serves; the other serves every shape.
SHAPE = PrefillShape(2, 24)


def build_small(folder: Path, spec: PrefillSpec, target: ResolvedTarget, space: str) -> Built:
    """Build a library with the first candidate of a design space."""
    entry = small_record(spec, target, space)
    match = Match(entry, Tier.EXACT, 0.0, target.key, folder)
    serving = Serving(spec, target.key, {entry.record_id: match}, Leaf(entry.record_id))
    fixed = [] if spec.is_packed else [(spec, SHAPE, match)]
    return build_kernels(fixed, [serving], target, folder)


def small_record(spec: PrefillSpec, target: ResolvedTarget, space: str) -> Entry:
    """The first candidate of a design space, as if it had been measured."""
    variant = dict(SPACES[space].variants(spec, SHAPE, target)[0])
    case = Case(spec, SHAPE, parse_lengths("full"))
    proposal, *_ = Arm(case, target, SPACES[space], variant, None, 1, 1).propose(1)
    replayed = replay(SPACES[space], spec, SHAPE, variant, proposal.trace)
    fields = {"spec": str(spec), "shape": str(SHAPE), "space": space, "variant": variant}
    return replayed.entry([1e-3], target.target, replace(PROVENANCE, **fields))


if __name__ == "__main__":
    folder, *texts = (each for each in sys.argv[1:] if each != "--records")
    for spec in map(PrefillSpec.parse, texts):
        if "--records" in sys.argv:
            here = resolve_target("llvm")
            filled(Path(folder), [small_record(spec, here, "llvm_fused")], here.key)
        else:
            build_small(Path(folder) / str(spec), spec, resolve_target("llvm", 2), "llvm_fused")
