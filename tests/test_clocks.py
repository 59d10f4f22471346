"""Clocks that are set back or forward: durations, dates and what is later than what."""

from __future__ import annotations

import datetime
import itertools
import os
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dispatch_fixtures as fixtures
import pytest
from command_line import HEADS, THREADS, prepared, said
from database_fixtures import KEY, filled, small_entry

from prefilltune.database import RecordStore, dates, union
from prefilltune.database.dates import date_now
from prefilltune.database.index import INDEX, MIN_RECORDS_BYTES
from prefilltune.tuning.search import tune

UTC = datetime.timezone.utc


class _Clock(datetime.datetime):
    """A clock that goes a year forward, then back, and so on."""

    years: Iterator[int] = itertools.cycle((2027, 2026))

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return datetime.datetime(next(cls.years), 1, 1, tzinfo=tz)


@pytest.fixture
def leaping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock of the wall leap by a year whenever it is looked at."""
    leaps = itertools.cycle((0, 365 * 86400, -365 * 86400))
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + next(leaps))
    monkeypatch.setattr(time, "time_ns", lambda: int((wall() + next(leaps)) * 1e9))
    monkeypatch.setattr(dates.datetime, "datetime", _Clock)


def test_a_new_measurement_is_later_than_what_it_replaces() -> None:
    old = small_entry(1, date="2031-05-01T00:00:00+00:00")  # by a clock that went ahead
    new = small_entry(1, secs=1e-3)
    assert tune._later(new, None) is new
    later = tune._later(new, old)
    assert later.provenance == replace(new.provenance, date="2031-05-01T00:00:01+00:00")
    for sides in (([old], [later]), ([later], [old])):
        assert [*union(*sides).values()] == [later]


def test_dates_are_those_of_the_clock_where_it_goes_right() -> None:
    before = datetime.datetime.now(UTC).replace(microsecond=0)
    for after in ("", "no date", "2020-01-01", "1970-01-01T00:00:00Z"):
        assert before <= datetime.datetime.fromisoformat(date_now(after)) <= _soon()
    assert date_now("9999-12-31T23:59:59+00:00") == "9999-12-31T23:59:59+00:00"


def _soon() -> datetime.datetime:
    return datetime.datetime.now(UTC) + datetime.timedelta(seconds=1)


def test_durations_and_limits_never_look_at_the_clock_of_the_wall() -> None:
    root = Path(dates.__file__).parent.parent
    looking = {
        path.relative_to(root).as_posix()
        for package in ("database", "tuning", "torch_op", "workloads")
        for path in (root / package).rglob("*.py")
        if re.search(r"\btime\.time(_ns)?\(|datetime\.now\(|\.utcnow\(", path.read_text())
    }
    # The date of a measurement, and how old files are whose own times are of that clock.
    assert looking == {"database/dates.py", "database/index.py"}


@pytest.mark.usefixtures("leaping")
def test_commands_work_while_clocks_leap(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    for path in folder.iterdir():
        os.utime(path, (4e9, 4e9))  # of another machine, or before a step back
    heads = shlex.join([*HEADS, *THREADS])
    for command in (
        "db list --database {root}",
        "db verify --database {root}",
        "explain {heads} --database {root}",
        "db export {root}/all.json --database {root}",
        "db import {root}/all.json --database {root}",
        "db prune --keep 9 --database {root}",
        "plan status none --database {root}",
    ):
        done = said(*shlex.split(command.format(root=tmp_path, heads=heads)))
        assert done.code == (2 if command.startswith("plan") else 0), done.err
    assert len(RecordStore.open(tmp_path, fixtures.target().key).entries) == 2


def test_an_index_from_the_future_is_made_anew_when_its_records_change(tmp_path: Path) -> None:
    entries = [small_entry(number, letter="u" * 400) for number in range(3000)]
    store = filled(tmp_path, entries)
    assert (store.folder / "records.json").stat().st_size > MIN_RECORDS_BYTES
    for path in store.folder.iterdir():
        os.utime(path, (1e9, 1e9))
    RecordStore.open(tmp_path, KEY)
    index = store.folder / INDEX
    assert index.exists()
    os.utime(index, (4e9, 4e9))
    store.add([small_entry(5000)])
    assert len(RecordStore.open(tmp_path, KEY).entries) == 3001
