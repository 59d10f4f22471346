"""One shared library with tuned kernels, its manifest and its C header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...database import Match
from ...database.scratch import ScratchFolder
from ...database.writing import replacing, require_replaceable, writing
from ...workloads import PrefillShape, PrefillSpec
from ..backends import backend_of
from ..building.alignment import refuse_misaligned
from ..building.build import build_library
from ..building.replaying import replay_record
from ..target import ResolvedTarget
from .c_header import c_header
from .factory import serving_kernel
from .kernel import LONGEST
from .metadata import metadata_source
from .serving import Serving, described
from .threads import threads_source

LIBRARY = "libprefill.so"
MANIFEST = "manifest.json"
HEADER = "prefill.h"
_MANIFEST_SCHEMA = 2


@dataclass(frozen=True)
class Built:
    """What was built.

    Parameters
    ----------
    library, manifest, header : Path
        The files.
    symbols : tuple[str, ...]
        Of the kernels, each ``symbol(query, key, value, valid_lens, output, lse)``, with the bias
        of a spec that has one behind ``valid_lens``, and of packed sequences as the header says:
        those for one shape in the order of their records, then those for any shape in theirs.
    """

    library: Path
    manifest: Path
    header: Path
    symbols: tuple[str, ...]


def build_kernels(
    fixed: Sequence[tuple[PrefillSpec, PrefillShape, Match]],
    servings: Sequence[Serving],
    target: ResolvedTarget,
    folder: Path,
) -> Built:
    """Build the kernels of records into one library.

    Parameters
    ----------
    fixed : Sequence[tuple[PrefillSpec, PrefillShape, Match]]
        What each kernel computes that serves one shape alone, that shape, and its record, which may
        be of another shape.
    servings : Sequence[Serving]
        One for each kernel that serves every shape.
    folder : Path
        Takes ``libprefill.so``, ``manifest.json`` and ``prefill.h``; made if missing.

    Raises
    ------
    StaleRecordError
        If a record no longer replays; nothing is written then.
    NotWritableError
        If the files cannot be written; those that were there before are left as they were.
    """
    import tvm

    backend = backend_of(target.kind)
    library, manifest, header = folder / LIBRARY, folder / MANIFEST, folder / HEADER
    for path in (library, manifest, header):
        require_replaceable(path)
    functions: dict[str, Any] = {}
    kernels: list[dict[str, Any]] = []
    for spec, shape, match in fixed:
        symbol = symbol_of(str(spec), str(shape))
        kernel = replay_record(match.entry, shape, spec)["main"]
        functions[symbol] = refuse_misaligned(kernel, target.kind)
        kernels.append(
            {
                "symbol": symbol,
                "spec": str(spec),
                "shape": str(shape),
                "views": False,
                **described(match),
            }
        )
    for serving in servings:
        symbol = symbol_of(str(serving.spec))
        packed = serving.spec.is_packed
        functions[symbol] = serving_kernel(serving, target, views=True, longest=packed)
        views = serving.tree is not None  # TVM's hand-written kernel takes none
        takes = {"views": views, **({LONGEST: True} if packed else {})}
        kernels.append({"symbol": symbol, "shape": None, **takes, **serving.as_data()})
    data = {
        "schema": _MANIFEST_SCHEMA,
        "target": json.loads(str(target.target)),
        "requires": backend.requirements(target.target),
        "versions": backend.versions(),
        "kernels": kernels,
    }
    named = {name: each.with_attr("global_symbol", name) for name, each in functions.items()}
    rows = [
        (kernel["symbol"], kernel["spec"], kernel["shape"], kernel["views"]) for kernel in kernels
    ]
    with ExitStack() as stack:
        stack.enter_context(writing(folder))
        scratch = stack.enter_context(ScratchFolder())
        sources = {scratch / "metadata.cc": metadata_source(data)}
        if backend.is_cpu:
            sources[scratch / "threads.cc"] = threads_source(target.threads)
        for path, text in sources.items():
            path.write_text(text, encoding="utf-8")
        # All three take their places at the end, or none does.
        aside = {path: stack.enter_context(replacing(path)) for path in (header, manifest, library)}
        build_library(tvm.IRModule(named), target.target, str(aside[library]), [*map(str, sources)])
        checksum = hashlib.sha256(aside[library].read_bytes()).hexdigest()
        manifest_data = {"library": LIBRARY, "sha256": checksum, **data}
        aside[manifest].write_text(json.dumps(manifest_data, indent=2) + "\n", encoding="utf-8")
        text = c_header(LIBRARY, target.kind, backend.in_words(data["requires"]), rows)
        aside[header].write_text(text, encoding="utf-8")
    return Built(library, manifest, header, tuple(functions))


def symbol_of(spec: str, shape: str = "any") -> str:
    """The C symbol of a kernel.

    >>> symbol_of('padded_hq12_hkv12_d64_float32_s0.125', 'b1_q128_kv128')
    'prefill_padded_hq12_hkv12_d64_float32_s0_125_b1_q128_kv128'
    """
    text = f"prefill_{spec}_{shape}"
    return "".join(character if character.isalnum() else "_" for character in text)
