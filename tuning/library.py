"""One shared library with a tuned kernel for each shape, its manifest and its C header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..database import Match
from .apply import apply_record
from .build import build_library
from .c_header import c_header
from .environment import versions
from .target import ResolvedTarget

LIBRARY = "libprefill.so"
MANIFEST = "manifest.json"
HEADER = "prefill.h"
_MANIFEST_SCHEMA = 1


@dataclass(frozen=True)
class Library:
    """What was built.

    Parameters
    ----------
    library, manifest, header : Path
        The files.
    symbols : tuple[str, ...]
        Of the kernels, each ``symbol(query, key, value, valid_lens, output, lse)``.
    """

    library: Path
    manifest: Path
    header: Path
    symbols: tuple[str, ...]


def build_kernels(matches: Sequence[Match], target: ResolvedTarget, folder: Path) -> Library:
    """Build the kernels of records into one library.

    Parameters
    ----------
    matches : Sequence[Match]
        One for each kernel.
    folder : Path
        Takes ``libprefill.so``, ``manifest.json`` and ``prefill.h``; made if missing.

    Raises
    ------
    StaleRecordError
        If a record no longer replays; nothing is written then.
    """
    import tvm

    functions: dict[str, Any] = {}
    kernels = []
    for match in matches:
        provenance = match.entry.provenance
        symbol = symbol_of(provenance.spec, provenance.shape)
        kernel = apply_record(match, target.kind)["main"]
        functions[symbol] = kernel.with_attr("global_symbol", symbol)
        kernels.append(
            {
                "symbol": symbol,
                "spec": provenance.spec,
                "shape": provenance.shape,
                "record": match.entry.record_id,
                "tier": str(match.tier),
                "tuned_for": str(match.key),
                "space": provenance.space,
            }
        )
    library, manifest, header = folder / LIBRARY, folder / MANIFEST, folder / HEADER
    build_library(tvm.IRModule(functions), target.target, str(library))
    data = {
        "schema": _MANIFEST_SCHEMA,
        "library": LIBRARY,
        "sha256": hashlib.sha256(library.read_bytes()).hexdigest(),
        "target": json.loads(str(target.target)),
        "versions": versions(target.kind),
        "kernels": kernels,
    }
    manifest.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    named = [(kernel["symbol"], kernel["spec"], kernel["shape"]) for kernel in kernels]
    header.write_text(c_header(LIBRARY, target.kind, named), encoding="utf-8")
    return Library(library, manifest, header, tuple(functions))


def symbol_of(spec: str, shape: str) -> str:
    """The C symbol of a kernel.

    >>> symbol_of('padded_hq12_hkv12_d64_float32_s0.125', 'b1_q128_kv128')
    'prefill_padded_hq12_hkv12_d64_float32_s0_125_b1_q128_kv128'
    """
    text = f"prefill_{spec}_{shape}"
    return "".join(character if character.isalnum() else "_" for character in text)
