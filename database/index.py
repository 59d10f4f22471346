"""What a look-up asks of a large folder, kept from one opening to the next.

The file ``.index`` stands beside the records that it was made of, is ignored by git and can be
removed at any time. It is believed only as long as the three files are what they were, and only
for where a line is: each line is judged again when its record is asked for. Folders with bad
lines have none, so that these are reported at every opening.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .contents import (
    FILES,
    PROVENANCE,
    RECORDS,
    Contents,
    Place,
    RecordLine,
    Source,
    WorkloadLine,
    loads,
)
from .entry import Head
from .provenance import running_tvm_version
from .target_key import TargetKey

INDEX = ".index"
VERSION = 1
# A smaller records.json has no index: it is read in a blink.
MIN_RECORDS_BYTES = 1 << 20
# Files younger than this get no index: within one tick of the file system's clock they may change
# again, and their times and sizes would not show it.
MIN_AGE_NS = 2_000_000_000


class LazyProvenance(Mapping[str, Any]):
    """Provenance by record id, each parsed when asked for.

    Raises
    ------
    ValueError
        From ``[]``, if the file has changed.
    """

    def __init__(self, source: Source, spans: Mapping[str, tuple[int, int]]) -> None:
        self._source = source
        self._spans = spans

    def __getitem__(self, id_: str) -> Any:
        raw = self._source.read(*self._spans[id_])
        data = loads(b"{" + raw.rstrip().removesuffix(b",") + b"}")
        if id_ not in data:
            raise ValueError("its provenance has changed since it was judged")
        return data[id_]

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)


def load(folder: Path, key: TargetKey, sources: Mapping[str, Source]) -> Contents | None:
    """The contents of a folder by its index; ``None`` if there is none to believe."""
    if sources[RECORDS].stamp.size < MIN_RECORDS_BYTES:
        return None
    try:
        checksum, _, body = (folder / INDEX).read_bytes().partition(b"\n")
        if checksum != hashlib.sha256(body).hexdigest().encode():
            return None
        data = json.loads(body)
        if data["of"] != _identity(key, sources):
            return None
        return _unpacked(data, folder, key, sources)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # of another version, or torn: it is only a copy


def save(folder: Path, contents: Contents) -> None:
    """Write an index where one pays; nothing happens in a folder that cannot be written."""
    stamps = [source.stamp for source in contents.sources.values()]
    newest = max(stamp.mtime_ns for stamp in stamps)
    if (
        contents.problems
        or contents.sources[RECORDS].stamp.size < MIN_RECORDS_BYTES
        or time.time_ns() - newest < MIN_AGE_NS
        or not os.access(folder, os.W_OK)
    ):
        return
    spans = _provenance_spans(contents)
    if spans is None:
        return
    body = json.dumps(_packed(contents, spans), separators=(",", ":")).encode()
    temporary = folder / f"{INDEX}.{os.getpid()}.tmp"
    try:
        temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        os.replace(temporary, folder / INDEX)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _identity(key: TargetKey, sources: Mapping[str, Source]) -> list[Any]:
    stamps = [[*sources[name].stamp] for name in FILES]
    return [VERSION, str(key), running_tvm_version(), stamps]


def _packed(contents: Contents, spans: list[tuple[int, int]]) -> dict[str, Any]:
    """What the file holds: a column for each field of the records, with numbers for texts."""
    texts: dict[str, int] = {}

    def number(text: str) -> int:
        return texts.setdefault(text, len(texts))

    rows = [
        (
            head.record_id, number(head.spec), number(head.shape), number(head.space),
            number(head.lens), head.median_secs, head.spread_secs, number(hash_), *place, *span,
        )
        for (head, hash_, place), span in zip(contents.records.values(), spans, strict=True)
    ]  # fmt: skip
    workloads = [[hash_, line.index, *line.place] for hash_, line in contents.workloads.items()]
    return {
        "of": _identity(contents.key, contents.sources),
        "workload_lines": contents.workload_lines,
        "workloads": workloads,
        "records": [*zip(*rows, strict=True)],
        "texts": [*texts],
    }


def _unpacked(
    data: dict[str, Any], folder: Path, key: TargetKey, sources: Mapping[str, Source]
) -> Contents:
    texts = data["texts"]
    records: dict[str, RecordLine] = {}
    spans: dict[str, tuple[int, int]] = {}
    columns = zip(*data["records"], strict=True)
    for id_, spec, shape, space, lens, median, spread, hash_, at, size, own, *span in columns:
        head = Head(id_, texts[spec], texts[shape], texts[space], texts[lens], median, spread)
        records[id_] = RecordLine(head, texts[hash_], Place(at, size, own))
        spans[id_] = (span[0], span[1])
    workloads = {
        hash_: WorkloadLine(number, Place(*place)) for hash_, number, *place in data["workloads"]
    }
    return Contents(
        key, str(folder / RECORDS), sources, records,
        workloads=workloads,
        workload_lines=data["workload_lines"],
        provenance=LazyProvenance(sources[PROVENANCE], spans),
    )  # fmt: skip


def _provenance_spans(contents: Contents) -> list[tuple[int, int]] | None:
    """Offset and size of each record's line; ``None`` if a record has no line of its own."""
    raw = contents.sources[PROVENANCE].content()
    found: dict[str, tuple[int, int]] = {}
    start = 0
    for id_ in contents.provenance:  # in the order of the file
        start = raw.find(b'\n"' + id_.encode(errors="replace") + b'": ', start)
        if start < 0:
            return None
        start += 1
        end = raw.find(b"\n", start)
        found[id_] = (start, (end if end >= 0 else len(raw)) - start)
        start += found[id_][1]
    return [found[id_] for id_ in contents.records]
