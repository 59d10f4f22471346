"""The command line of the database: ``prefilltune db list | show | verify | merge | ...``.

Exit code 0: all is well. 1: the command did its work and names something bad that it found. 2: it
could not do its work.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ...database import (
    BadLine,
    Entry,
    InvalidTargetKeyError,
    Merge,
    NoRecordError,
    RecordStore,
    TargetKey,
    committed_root,
    diff,
    diff_best,
    export,
    install_driver,
    merge,
    merge_versions,
    read_other_version,
    target_keys,
    union,
    unpack,
)
from ...workloads import PrefillShape, PrefilltuneError
from ..errors import InvalidOptionError, NothingFoundError
from ..measuring.tvm_import import import_tvm_without_torch
from . import db_report as report
from .records import work_root

_TRACE_TIMEOUT = 120.0

app = typer.Typer(
    no_args_is_help=True,
    help="Look into databases of tuning records, verify, repair, merge and move them.",
)

DatabaseOption = Annotated[
    Path | None,
    typer.Option(
        "--database", help="Folder of records; the work database and the committed one if absent."
    ),
]
OwnDatabaseOption = Annotated[
    Path | None,
    typer.Option("--database", help="Folder of records; the work database when absent."),
]
TargetOption = Annotated[
    str, typer.Option("--target", help="A target's folder, or llvm for this CPU; all when absent.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document for machines.")]
SourceArgument = Annotated[Path, typer.Argument(metavar="SOURCE", help="Of another TVM version.")]
FirstArgument = Annotated[Path, typer.Argument(metavar="A", help="A database.")]
SecondArgument = Annotated[Path, typer.Argument(metavar="B", help="Another one.")]


@dataclass(frozen=True)
class _Opened:
    """A target of a database, or why it cannot be opened."""

    root: Path
    key: TargetKey
    entries: tuple[Entry, ...] = ()
    problems: tuple[BadLine, ...] = ()
    error: str = ""

    @property
    def folder(self) -> Path:
        return self.root / str(self.key)


@app.command("list")
def list_records(
    database: DatabaseOption = None, target: TargetOption = "", as_json: JsonOption = False
) -> None:
    """Every record of every target."""
    opened = list(_open_all(_roots(database), target))
    if as_json:
        report.say_json({"targets": [
            {
                "folder": str(each.folder),
                "target": str(each.key),
                "records": [report.record_json(each.key, entry) for entry in each.entries],
                "bad_lines": [report.bad_line_json(each.folder, line) for line in each.problems],
                "error": each.error,
            }
            for each in opened
        ]})  # fmt: skip
        return
    for each in opened:
        if each.error:
            report.say(f"{each.folder}: {each.error}")
            continue
        bad = report.count(len(each.problems), "bad line")
        report.say_records(
            f"{each.folder}: {report.count(len(each.entries), 'record')}",
            each.entries,
            f"{bad}: `prefilltune db verify` names them" if each.problems else "",
        )


@app.command()
def show(
    record: Annotated[str, typer.Argument(metavar="ID", help="A record's id, or its start.")],
    database: DatabaseOption = None,
    target: TargetOption = "",
    as_json: JsonOption = False,
) -> None:
    """Everything about one record: its place, provenance, decisions, and its trace as Python."""
    key, entry = _find(record, _open_all(_roots(database), target))
    details = report.record_details(key, entry, *_python(entry))
    if as_json:
        report.say_json(details)
    else:
        report.say_record(key, entry, details)


@app.command()
def verify(
    replay: Annotated[
        bool, typer.Option("--replay", help="Rebuild every record, for its own target.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Check and time the records of this machine again.")
    ] = False,
    database: DatabaseOption = None,
    target: TargetOption = "",
    as_json: JsonOption = False,
) -> None:
    """Read every line and name the bad ones; rebuild and time the records on request.

    A record that drifted is told of, and is no failure.
    """
    opened = list(_open_all(_roots(database), target))
    records = [(each.key, entry) for each in opened for entry in each.entries]
    result = _check_lines(opened, as_json)
    if replay:
        result["replay"] = _check_replay(records, as_json)
    if measure:
        result["measure"] = _check_times(records, as_json)
    if as_json:
        report.say_json(result)
    parts = (result.get(name, {}) for name in ("replay", "measure"))
    _exit_if(bool(result["bad_lines"]) or any(part.get("failed") for part in parts))


@app.command()
def repair(
    database: OwnDatabaseOption = None, target: TargetOption = "", as_json: JsonOption = False
) -> None:
    """Set bad lines aside into records.rejected.json, and link records to their workloads anew."""
    opened = list(_open_all([_own_root(database)], target))
    for each in opened:
        if each.problems:
            RecordStore.open(each.root, each.key).change(lambda entries: entries)
    if as_json:
        report.say_json({"targets": [
            {
                "target": str(each.key),
                "kept": len(each.entries),
                "repaired": [report.bad_line_json(each.folder, line) for line in each.problems],
                "error": each.error,
            }
            for each in opened
        ]})  # fmt: skip
    else:
        for each in opened:
            _say_repaired(each)
    _exit_if(any(each.error for each in opened))


@app.command("merge")
def merge_databases(
    one: FirstArgument,
    other: SecondArgument,
    output: Annotated[
        Path | None, typer.Option("--output", help="Takes the records of both; A when absent.")
    ] = None,
    target: TargetOption = "",
    as_json: JsonOption = False,
) -> None:
    """Unite two databases: whichever comes first, and of two measurements the later one stays."""
    destination = output or one
    _finish_merge(merge([one, other], destination, _keys(target)), destination, as_json)


@app.command()
def prune(
    keep: Annotated[int, typer.Option("--keep", help="Of each spec, shape, space and lengths.")],
    database: OwnDatabaseOption = None,
    target: TargetOption = "",
    as_json: JsonOption = False,
) -> None:
    """Remove all but the fastest records of each case."""
    if keep < 1:
        raise InvalidOptionError(f"--keep is {keep}; it must be 1 or more")
    opened = [_usable(each) for each in _open_all([_own_root(database)], target)]
    removed = [
        (each.key, entry)
        for each in opened
        for entry in RecordStore.open(each.root, each.key).prune(keep)
    ]
    if as_json:
        report.say_json({"removed": [report.record_json(*each) for each in removed]})
    else:
        report.say_records(
            f"removed {report.count(len(removed), 'record')}", [entry for _, entry in removed]
        )


@app.command()
def remove(
    records: Annotated[list[str], typer.Argument(metavar="ID...", help="Whole ids.")],
    database: OwnDatabaseOption = None,
    target: TargetOption = "",
    as_json: JsonOption = False,
) -> None:
    """Remove records by their ids, such as those that no longer replay."""
    opened = [_usable(each) for each in _open_all([_own_root(database)], target)]
    wanted = set(records)
    removed = [
        (each.key, entry) for each in opened for entry in each.entries if entry.record_id in wanted
    ]
    if missing := wanted - {entry.record_id for _, entry in removed}:
        raise NoRecordError(
            f"{_own_root(database)} has no record {', '.join(sorted(missing))}; nothing was "
            "removed: `prefilltune db list` names those that it has"
        )
    for each in opened:
        if any(key == each.key for key, _ in removed):
            RecordStore.open(each.root, each.key).change(
                lambda kept: [entry for entry in kept if entry.record_id not in wanted]
            )
    if as_json:
        report.say_json({"removed": [report.record_json(*each) for each in removed]})
    else:
        report.say_records(
            f"removed {report.count(len(removed), 'record')}", [entry for _, entry in removed]
        )


@app.command("export")
def export_records(
    file: Annotated[Path, typer.Argument(help="To write; ends in .json or .tar.gz.")],
    spec: Annotated[str, typer.Option("--spec", help="Only of this spec.")] = "",
    shape: Annotated[str, typer.Option("--shape", help="Only of this shape.")] = "",
    space: Annotated[str, typer.Option("--space", help="Only of this design space.")] = "",
    database: DatabaseOption = None,
    target: TargetOption = "",
    as_json: JsonOption = False,
) -> None:
    """Write records to one file, which `import` takes elsewhere."""
    wanted = {
        "spec": spec,
        "shape": str(PrefillShape.parse(shape)) if shape else "",
        "space": space,
    }
    chosen: dict[TargetKey, list[Entry]] = {}
    for each in _open_all(_roots(database), target):
        found = [entry for entry in _usable(each).entries if _is_wanted(entry, wanted)]
        if found:
            chosen[each.key] = [*union(chosen.get(each.key, []), found).values()]
    if not chosen:
        raise NothingFoundError("no record is selected; `prefilltune db list` shows all")
    export(chosen, file)
    number = sum(map(len, chosen.values()))
    if as_json:
        report.say_json({"file": str(file), "records": number, "targets": [*map(str, chosen)]})
    else:
        report.say(f"wrote {report.count(number, 'record')} of {_texts(chosen)} to {file}")


@app.command("import")
def import_records(
    file: Annotated[Path, typer.Argument(help="That `export` wrote.")],
    database: OwnDatabaseOption = None,
    target: TargetOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take over the records of a file; each is judged in a child process first."""
    root = _own_root(database)
    with tempfile.TemporaryDirectory(prefix="prefilltune-") as folder:
        unpack(file, Path(folder))
        merges = merge([Path(folder)], root, _keys(target))
    _finish_merge(merges, root, as_json)


@app.command("diff")
def diff_databases(
    one: FirstArgument,
    other: SecondArgument,
    target: TargetOption = "",
    as_json: JsonOption = False,
) -> None:
    """What B has more or less than A or measured anew, and where its best is another."""
    before, after = (
        {each.key: _usable(each).entries for each in _open_all([root], target)}
        for root in (one, other)
    )
    keys = sorted({*before, *after}, key=str)
    sides = [(key, before.get(key, ()), after.get(key, ())) for key in keys]
    records = [(key, each) for key, old, new in sides for each in diff(old, new)]
    best = [(key, each) for key, old, new in sides for each in diff_best(old, new)]
    if as_json:
        report.say_json({
            "records": [report.change_json(*each) for each in records],
            "best": [report.change_json(*each) for each in best],
        })  # fmt: skip
    else:
        report.say_changes("records", records)
        report.say_changes("fastest of each case", best)


@app.command()
def migrate(
    source: SourceArgument,
    database: OwnDatabaseOption = None,
    target: TargetOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take over the records that still replay and are right, timed again, and list the rest."""
    root = _own_root(database)
    if root.resolve() == source.resolve():
        raise InvalidOptionError(
            f"{source} is the source, which stays as it is; name another --database"
        )
    import_tvm_without_torch()
    from ..building.rebuilding import rebuild_on_today
    from ..search.remeasuring import measure_records

    keys = _keys(target)
    read = [
        read_other_version(source, key)
        for key in target_keys(source)
        if keys is None or key in keys
    ]
    # Opened before hours are spent on what it might not take.
    stores = {each.key: RecordStore.open(root, each.key, create=True) for each in read}
    records = [(each.key, entry) for each in read for entry in each.entries]
    measured, others = measure_records(rebuild_on_today, records)
    moved = [each for each in measured if each.after]
    for key in dict.fromkeys(each.key for each in moved):
        new = [each.after for each in moved if each.after and each.key == key]
        stores[key].change(lambda present, new=new: union(present, new).values())
    left = [report.failure_json(each) for each in measured if each.failure]
    left += [
        {
            "record": entry.record_id,
            "target": str(key),
            "failure": "of another machine; migrate there",
        }
        for key, entry in others
    ]
    bad = [
        report.bad_line_json(source / str(each.key), line)
        for each in read
        for line in each.bad_lines
    ]
    if as_json:
        report.say_json({
            "tvm": {str(each.key): each.tvm for each in read},
            "moved": [report.measured_json(each) for each in moved],
            "left": left,
            "bad_lines": bad,
        })  # fmt: skip
    else:
        for each in read:
            number = report.count(len(each.entries), "record")
            report.say(f"{source / str(each.key)}: {number} of TVM {each.tvm}")
        report.say_measured(f"moved {report.count(len(moved), 'record')} to {root}", moved)
        report.say(f"left {report.count(len(left), 'record')}")
        report.say_failures(left)
        report.say_bad_lines(bad)
    _exit_if(bool(left or bad))


@app.command("merge-driver")
def merge_driver(
    base: Annotated[Path, typer.Argument(help="%O")],
    ours: Annotated[Path, typer.Argument(help="%A; takes the result.")],
    theirs: Annotated[Path, typer.Argument(help="%B")],
    path: Annotated[str, typer.Argument(help="%P")],
) -> None:
    """Called by git; `install-merge-driver` tells it to."""
    merged = merge_versions(path, base.read_bytes(), ours.read_bytes(), theirs.read_bytes())
    ours.write_bytes(merged)


@app.command("install-merge-driver")
def install_merge_driver(as_json: JsonOption = False) -> None:
    """Let git merge the records of two branches in the current repository."""
    installed = install_driver(f"-m {__package__} db merge-driver %O %A %B %P")
    if as_json:
        report.say_json({
            "settings": dict(installed.settings), "gitattributes": [*installed.attributes]
        })  # fmt: skip
        return
    for name, value in installed.settings.items():
        report.say(f"git config {name} '{value}'")
    report.say("done; .gitattributes needs these lines, with the path of your database:")
    for line in installed.attributes:
        report.say(line)


def _roots(database: Path | None) -> list[Path]:
    """Where a command that only reads looks."""
    if database is not None:
        return [database]
    return [root for root in (work_root(), committed_root()) if root.is_dir()]


def _own_root(database: Path | None) -> Path:
    """What a command that changes records works on."""
    return database or work_root()


def _keys(target: str) -> list[TargetKey] | None:
    return [_key(target)] if target else None


def _key(text: str) -> TargetKey:
    """Of a folder's name, or of a target as the other commands take it."""
    try:
        return TargetKey.parse(text)
    except InvalidTargetKeyError:
        import_tvm_without_torch()
        from ..backends.resolving import resolve_target

        return resolve_target(text).key


def _open_all(roots: Sequence[Path], target: str) -> Iterator[_Opened]:
    keys = _keys(target)
    found = [
        (root, key) for root in roots for key in target_keys(root) if keys is None or key in keys
    ]
    if keys and not found:
        raise NothingFoundError(
            f"{_texts(roots)}: no records of {keys[0]}; `prefilltune db list` shows what there is"
        )
    for root, key in found:
        try:
            store = RecordStore.open(root, key)
            yield _Opened(root, key, tuple(store.entries), tuple(store.noticed))
        except PrefilltuneError as error:
            yield _Opened(root, key, error=str(error))


def _usable(opened: _Opened) -> _Opened:
    """An error in one folder ends a command that would else do half of its work."""
    if opened.error:
        raise NothingFoundError(opened.error)
    return opened


def _find(start: str, opened: Iterable[_Opened]) -> tuple[TargetKey, Entry]:
    found = [
        (each.key, entry)
        for each in opened
        for entry in each.entries
        if entry.record_id.startswith(start)
    ]
    ids = sorted({entry.record_id for _, entry in found})
    if not ids:
        raise NoRecordError(f"no record begins with {start!r}; `prefilltune db list` shows all")
    if len(ids) > 1:
        raise InvalidOptionError(
            f"{len(ids)} records begin with {start!r}: {', '.join(ids[:5])}; write more of one"
        )
    return found[0]


def _is_wanted(entry: Entry, wanted: dict[str, str]) -> bool:
    return all(not text or getattr(entry.provenance, name) == text for name, text in wanted.items())


def _python(entry: Entry) -> tuple[list[str], str]:
    """The trace as Python, or why TVM refuses it; in a child, for it may kill the process."""
    import_tvm_without_torch()
    from ..building.rebuilding import trace_as_python
    from ..measuring.worker import Worker

    with Worker() as worker:
        outcome = worker.call(trace_as_python, entry, timeout=_TRACE_TIMEOUT)
    if outcome.status == "ok":
        return outcome.value, ""
    return [], f"{outcome.status}: {outcome.detail}"


def _check_lines(opened: Sequence[_Opened], as_json: bool) -> dict[str, Any]:
    """What reading found; told unless it is for machines, as by the two after it."""
    bad = [report.bad_line_json(each.folder, line) for each in opened for line in each.problems]
    bad += [report.bad_folder_json(each.folder, each.error) for each in opened if each.error]
    records = sum(len(each.entries) for each in opened)
    if not as_json:
        report.say_bad_lines(bad)
        report.say(
            f"read {report.count(records, 'record')} in {report.count(len(opened), 'folder')}: "
            f"{report.count(len(bad), 'bad line')}"
        )
    return {"records": records, "bad_lines": bad}


def _check_replay(records: Sequence[tuple[TargetKey, Entry]], as_json: bool) -> dict[str, Any]:
    import_tvm_without_torch()
    from ..building.rebuilding import rebuild_records

    rebuilt = rebuild_records(records)
    failed = [report.failure_json(each) for each in rebuilt if each.failure]
    if not as_json:
        report.say(
            f"rebuilt {len(rebuilt) - len(failed)} of {report.count(len(records), 'record')}"
        )
        report.say_failures(failed)
    return {"rebuilt": len(rebuilt) - len(failed), "failed": failed}


def _check_times(records: Sequence[tuple[TargetKey, Entry]], as_json: bool) -> dict[str, Any]:
    import_tvm_without_torch()
    from ..building.rebuilding import rebuild
    from ..search.remeasuring import measure_records

    measured, others = measure_records(rebuild, records)
    failed = [report.failure_json(each) for each in measured if each.failure]
    if not as_json:
        drifted = sum(each.drifted for each in measured)
        count = report.count(len(measured) - len(failed), "record")
        report.say_measured(f"measured {count}: {drifted} drifted beyond their spread", measured)
        report.say_failures(failed)
        if others:
            report.say(f"not measured: {report.count(len(others), 'record')} of other machines")
    return {
        "times": [report.measured_json(each) for each in measured],
        "failed": failed,
        "other_machines": len(others),
    }


def _say_repaired(opened: _Opened) -> None:
    if opened.error:
        report.say(f"{opened.folder}: {opened.error}")
        return
    kept = report.count(len(opened.entries), "record")
    if not opened.problems:
        report.say(f"{opened.folder}: {kept}, nothing to repair")
        return
    lines = report.count(len(opened.problems), "line")
    report.say(f"{opened.folder}: repaired {lines}, kept {kept}")
    report.say_bad_lines(report.bad_line_json(opened.folder, line) for line in opened.problems)


def _finish_merge(merges: Sequence[Merge], output: Path, as_json: bool) -> None:
    if as_json:
        report.say_json({"output": str(output), "targets": [*map(report.merge_json, merges)]})
    else:
        report.say_merges(merges, output)
    _exit_if(any(each.refused or each.bad_lines for each in merges))


def _texts(things: Iterable[object]) -> str:
    return ", ".join(map(str, things))


def _exit_if(bad: bool) -> None:
    if bad:
        raise typer.Exit(1)
