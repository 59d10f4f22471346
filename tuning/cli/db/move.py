"""``prefilltune db merge | export | import``: records go from one database to another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ....database import Entry, Merge, TargetKey, export, merge, union, unpack
from ....database.scratch import ScratchFolder
from ....workloads import PrefillShape
from ...counting import count
from ...errors import NothingFoundError
from .answer import Answer
from .data import merge_data
from .opened import OwnOptions, ReadOptions, TargetOption, all_usable, keys_of, list_command
from .text import merge_text


def merge_databases(
    one: Annotated[Path, typer.Argument(metavar="A", help="A database.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    output: Annotated[
        Path | None, typer.Option("--output", help="Takes the records of both; A when absent.")
    ] = None,
    target: TargetOption = "",
) -> Iterator[Answer]:
    """Unite two databases: whichever comes first, and of two measurements the later one stays."""
    destination = output or one
    yield _merged(merge([one, other], destination, keys_of(target)), destination)


def export_records(
    file: Annotated[Path, typer.Argument(help="To write; ends in .json or .tar.gz.")],
    where: ReadOptions,
    spec: Annotated[str, typer.Option("--spec", help="Only of this spec.")] = "",
    shape: Annotated[str, typer.Option("--shape", help="Only of this shape.")] = "",
    space: Annotated[str, typer.Option("--space", help="Only of this design space.")] = "",
) -> Iterator[Answer]:
    """Write records to one file, which `import` takes elsewhere."""
    wanted = {
        "spec": spec,
        "shape": str(PrefillShape.parse(shape)) if shape else "",
        "space": space,
    }
    chosen: dict[TargetKey, list[Entry]] = {}
    for each in all_usable(where.open_all()):
        found = [entry for entry in each.entries if _is_wanted(entry, wanted)]
        if found:
            chosen[each.key] = [*union(chosen.get(each.key, []), found).values()]
    if not chosen:
        raise NothingFoundError(f"no record is selected; {list_command(where.database)} shows all")
    export(chosen, file)
    number = sum(map(len, chosen.values()))
    targets = [*map(str, chosen)]
    yield Answer(
        {"file": str(file), "records": number, "targets": targets},
        [f"wrote {count(number, 'record')} of {', '.join(targets)} to {file}"],
    )


def import_records(
    file: Annotated[Path, typer.Argument(help="That `export` wrote.")], where: OwnOptions
) -> Iterator[Answer]:
    """Take over the records of a file; each is judged in a child process first."""
    with ScratchFolder() as folder:
        unpack(file, folder)
        merges = merge([folder], where.root, where.keys)
    yield _merged(merges, where.root)


def _merged(merges: Sequence[Merge], output: Path) -> Answer:
    return Answer(
        {"output": str(output), "targets": [merge_data(each) for each in merges]},
        [line for each in merges for line in merge_text(each, output)],
        is_bad=any(each.refused or each.bad_lines for each in merges),
    )


def _is_wanted(entry: Entry, wanted: dict[str, str]) -> bool:
    return all(not text or getattr(entry.provenance, name) == text for name, text in wanted.items())
