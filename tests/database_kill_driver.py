"""Kill writers of a database again and again; each acknowledged record must be there afterwards.

Run as ``python database_kill_driver.py ROOT KILLS SEED``: writers are forked from this process,
which has no TVM and no threads, and so start in a millisecond.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

from database_fixtures import KEY, small_entry

from prefilltune.database import RecordStore

MAX_DELAY_SECS = 0.06
RECORDS_PER_FOLDER = 150


def write(root: Path, first: int, acknowledge: int) -> None:
    """Append and rewrite until killed; tell of each record that is on disk."""
    store = RecordStore.open(root, KEY, create=True)
    for number in range(first, first + 1000):
        entry = small_entry(number, workload=number % 5)
        store.add([entry])
        os.write(acknowledge, f"{entry.record_id}\n".encode())
        if number % 2:
            store.add([small_entry(number, workload=number % 5, secs=1e-3)])
        if number % 3 == 0:
            store.prune(10_000)


def killed_writer(root: Path, first: int, delay: float) -> list[str]:
    """Ids that a writer acknowledged in the time that it was given."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            write(root, first, writer)
        finally:
            os._exit(1)
    os.close(writer)
    select.select([reader], [], [], 5)  # so that many writers get as far as a record
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "a writer ended by itself"
    with os.fdopen(reader, "rb") as file:
        return file.read().decode().split()


def main() -> None:
    root, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(seed)
    acknowledged: set[str] = set()
    total = torn = reported = folder = 0
    for number in range(kills):
        home = root / str(folder)
        got = killed_writer(home, number * 1000, draw.uniform(0, MAX_DELAY_SECS))
        acknowledged.update(got)
        total += len(got)
        store = RecordStore.open(home, KEY)
        found = {entry.record_id for entry in store.entries}
        assert acknowledged <= found, f"kill {number} lost {acknowledged - found}"
        reported += len(store.problems)
        torn += any("torn" in line for line in _rejected(store))
        if len(found) > RECORDS_PER_FOLDER:
            folder += 1
            acknowledged.clear()
    print(json.dumps({"kills": kills, "acknowledged": total, "reported": reported, "torn": torn}))


def _rejected(store: RecordStore) -> list[str]:
    path = store.folder / "records.rejected.json"
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
