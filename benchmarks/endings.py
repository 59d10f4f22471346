"""How commands end that get a signal at a random moment, and what they leave behind.

Every command that runs long gets SIGINT (as a terminal sends it, to its whole process group),
SIGTERM or SIGHUP somewhere between its first Python code and its end; then it is counted what is
wrong: an exit code other than 128 and the signal's number, more than five seconds, no line that
says how to go on, processes, temporary folders or unfinished files left behind, a trial that was
logged and is gone, a record that does not read. At last some searches are killed, and a run after
that is to remove what they left::

    python benchmarks/endings.py --signals 100 > docs/measurements/endings.json
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from prefilltune.database import RecordStore, TargetKey

_HEADS = ["--heads", "2x64", "--threads", "2"]
_SHAPES = ["--shape", "2x64", "--shape", "2x96"]
_MOST_SECONDS = 5.0
# What a command may take before its main function hears signals: Python itself starts.
_START = 0.15
_PLAN = """
heads = ["2x64"]
shapes = ["2x64", "2x96"]
budget = "1h"
slice = 4
[[targets]]
target = "llvm"
threads = 2
"""


@dataclass(frozen=True)
class Command:
    """A command, and how long after its start a signal comes at the latest, in seconds."""

    name: str
    arguments: Sequence[str]
    latest: float


def commands(folder: Path) -> list[Command]:
    """Those that run long."""
    database = ["--database", str(folder / "database")]
    tune = ["tune", *_HEADS, *_SHAPES, *database, "--budget", "8s", "--seed"]
    lend = ["worker", "--tracker", f"127.0.0.1:{_free_port()}", "--key", "cpu"]
    (folder / "night.toml").write_text(_PLAN)
    return [
        Command("tune", [*tune, "0", "--no-compare"], 16),
        Command("tune of stock rules", [*tune, "0", "--no-compare", "--space", "llvm_stock"], 16),
        Command("tune that compares", [*tune, "0", "--trials", "1"], 24),
        Command("plan run", ["plan", "run", str(folder / "night.toml"), *database], 16),
        Command("compare", ["compare", *_HEADS, *_SHAPES, *database, "--lens", "full"], 16),
        Command("sweep", ["sweep", *_HEADS, *database, "--lens", "full"], 16),
        Command("db verify", ["db", "verify", *database, "--replay", "--measure"], 12),
        Command("build", ["build", *_HEADS, *database, "--output", str(folder / "dist")], 5),
        Command("tracker", ["tracker", "--port", str(_free_port())], 4),
        Command("worker", [*lend, "--port", str(_free_port())], 6),
    ]


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what is wrong with that; nothing of it if ``faults`` is empty."""

    name: str
    number: int
    after: float
    seconds: float
    code: int
    faults: tuple[str, ...]


class Scene:
    """Where commands run: a folder with a database, and a temporary folder of its own.

    Parameters
    ----------
    folder : Path
        Empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._temporary = folder / "temporary"
        self._temporary.mkdir()
        self._mark = f"PREFILLTUNE_ENDINGS={folder}"
        self._logged: collections.Counter[str] = collections.Counter()

    def start(self, arguments: Sequence[str]) -> subprocess.Popen[str]:
        """Run a command in a process group of its own, as a shell does."""
        name, _, value = self._mark.partition("=")
        return subprocess.Popen(
            [sys.executable, "-m", "prefilltune.tuning", *arguments],
            env={**os.environ, "TMPDIR": str(self._temporary), name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_as_a_shell_does,
        )

    def run(self, arguments: Sequence[str]) -> str:
        """Run a command to its end; what it says."""
        process = self.start(arguments)
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{arguments} ended with {process.returncode}: {said}")
        return said

    def end(self, command: Command, number: int, after: float) -> Ended:
        """Run a command, send it a signal some seconds later, and look what comes of it."""
        process = self.start(command.arguments)
        time.sleep(after)
        send = os.killpg if number == signal.SIGINT else os.kill
        sent = time.monotonic()
        send(process.pid, number)
        try:
            code = _wait(process)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        seconds = time.monotonic() - sent
        left = [*self._processes(), *self._leftovers()]
        for each in psutil.process_iter():
            if each.pid != process.pid and self._is_ours(each):
                each.kill()
        said = process.stdout.read() if process.stdout is not None else ""
        faults = [*left, *self._losses()]
        if code not in (0, 128 + number):
            faults.append(f"exit code {code}: {said[-2000:]}")
        if code and said.count("prefilltune: interrupted; ") != 1:
            faults.append(f"no line that says how to go on: {said[-2000:]}")
        if seconds > _MOST_SECONDS:
            faults.append(f"it took {seconds:.1f} s")
        return Ended(command.name, number, after, seconds, code, tuple(faults))

    def kill(self, command: Command, after: float) -> int:
        """Kill a command; how many processes live on for five seconds."""
        process = self.start(command.arguments)
        time.sleep(after)
        process.kill()
        process.wait()
        deadline = time.monotonic() + _MOST_SECONDS
        while (left := len(list(self._processes()))) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def folders(self) -> int:
        """Temporary folders that are there."""
        return len(list(self._temporary.iterdir()))

    def _processes(self) -> Iterator[str]:
        for each in psutil.process_iter():
            if self._is_ours(each):
                with_arguments = psutil.Process(each.pid).cmdline()
                yield f"process left: {' '.join(with_arguments)[:200]}"

    def _is_ours(self, process: psutil.Process) -> bool:
        name, _, value = self._mark.partition("=")
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and process.environ().get(name) == value
        except psutil.Error:
            return False

    def _leftovers(self) -> Iterator[str]:
        for path in self._temporary.iterdir():
            yield f"folder left: {path.name}"
        for path in (self.folder / "dist").glob(".*"):
            yield f"file left: {path.name}"

    def _losses(self) -> Iterator[str]:
        """Trials that were logged and are gone, and records that do not read."""
        root = self.folder / "database"
        for path in root.glob("*/trials/*.jsonl"):
            trials = [json.loads(line) for line in path.read_text().splitlines()]
            if len(trials) < self._logged[path.name]:
                yield f"{path.name} lost trials"
            self._logged[path.name] = len(trials)
            if crashed := [each for each in trials if each["failure"]]:
                yield f"{path.name} has failures: {crashed[0]['failure']}"
        for path in root.glob("*/records.json"):
            if RecordStore.open(root, TargetKey.parse(path.parent.name)).problems:
                yield f"{path} has problems"


def _wait(process: subprocess.Popen[str]) -> int:
    """The exit code, as soon as there is one: pipes may be held open by what is left behind."""
    deadline = time.monotonic() + 60
    while (code := process.poll()) is None:
        if time.monotonic() > deadline:
            raise subprocess.TimeoutExpired(process.args, 60)
        time.sleep(0.01)
    return code


def _as_a_shell_does() -> None:
    """Begin a process group that hears signals, whoever ignores them here."""
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _summary(endings: Sequence[Ended]) -> dict[str, Any]:
    return {
        "signals": len(endings),
        "ended before the signal": sum(each.code == 0 for each in endings),
        "slowest ending, s": round(max(each.seconds for each in endings), 2),
        "median ending, s": round(sorted(each.seconds for each in endings)[len(endings) // 2], 2),
        "exit codes": dict(collections.Counter(str(each.code) for each in endings)),
        "faults": [
            {"after, s": round(each.after, 2), "signal": each.number, "faults": each.faults}
            for each in endings
            if each.faults
        ],
    }


def _measure(signals: int, kills: int, seed: int) -> tuple[list[Ended], dict[str, int]]:
    """Send signals, one after the other; how commands ended, and what killed searches left."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        known = commands(scene.folder)
        search = [*known[0].arguments, "--keep", "1"]
        scene.run(search)
        endings: list[Ended] = []
        for index in range(signals):
            command = known[index % len(known)]
            number = rng.choice([signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
            endings.append(scene.end(command, number, rng.uniform(_START, command.latest)))
            print(endings[-1], file=sys.stderr, flush=True)
        lived_on = [scene.kill(known[index % 4], rng.uniform(2, 16)) for index in range(kills)]
        left = scene.folders()
        scene.run(search)
        killed = {
            "searches": kills,
            "processes left after 5 s": sum(lived_on),
            "folders left": left,
            "folders after the next run": scene.folders(),
        }
    return endings, killed


def main() -> None:
    """Measure, and print what came of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--signals", type=int, default=100)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=1, help="Commands that run at a time.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    many = options.at_once
    with ThreadPoolExecutor(many) as pool:
        counts = ([options.signals // many] * many, [options.kills // many] * many)
        found = list(pool.map(_measure, *counts, range(options.seed, options.seed + many)))
    endings = [each for ended, _ in found for each in ended]
    names = dict.fromkeys(each.name for each in endings)
    data = {
        "at once": many,
        "all": _summary(endings),
        "commands": {
            name: _summary([each for each in endings if each.name == name]) for name in names
        },
        "killed": {name: sum(killed[name] for _, killed in found) for name in found[0][1]},
    }
    print(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()
