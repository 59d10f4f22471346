"""Replay doubtful records in a child process, which may die of them.

Whoever takes records from elsewhere judges them first: import, merge, migrate and verify do.
What a store wrote itself was verified before; :func:`~prefilltune.database.schedule` replays it
in the process at hand.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .entry import Entry
from .orphans import end_with_parent
from .plausibility import MAX_SIZE, contradiction
from .replay import apply_trace

REPLAY_TIMEOUT_SECS = 60.0
START_TIMEOUT_SECS = 180.0
MAX_MEMORY_BYTES = 16 << 30
MAX_DEPTH = 32  # of a trace: TVM parses JSON by recursion
# Nodes of descriptions; not modules and functions, which carry machine code.
NODE_FAMILIES = ("ir.", "prim.", "tirx.", "s_tir.", "arith.", "relax.")
NODE_TYPES = frozenset({
    "None", "bool", "int", "float", "DataType", "Device", "ffi.String", "ffi.Array", "ffi.List",
    "ffi.Map", "ffi.Dict", "ffi.Shape",
})  # fmt: skip
_READY = "ready"
# Loaded by the child alone: records name tensor intrinsics of the design spaces.
_REGISTRATION = "..tuning.building.registration"


def judge(
    entries: Iterable[Entry],
    *,
    timeout: float = REPLAY_TIMEOUT_SECS,
    preload: Sequence[str] = (),
) -> dict[str, str]:
    """Judge records of another origin: form, times, and whether they replay.

    Each trace is replayed on its own workload, and its line read in the way of TVM's database,
    in a child process: a crash costs the record that it is of, and a new child goes on.

    Parameters
    ----------
    entries : iterable of Entry
        The records.
    timeout : float
        Seconds that one replay may take.
    preload : sequence of str
        More modules that the child loads. That of the design spaces registers the tensor intrinsics
        that a trace names.

    Returns
    -------
    dict of str to str
        Record id: what is wrong with it. Records that are fine are not in it.
    """
    reasons: dict[str, str] = {}
    child = _Child(preload)
    try:
        for entry in entries:
            reason = malformation(entry) or contradiction(entry) or child.replay(entry, timeout)
            if reason:
                reasons[entry.record_id] = reason
    finally:
        child.end()
    return reasons


def malformation(entry: Entry) -> str:
    """What is wrong with the JSON of a record, as far as it shows without TVM; empty if nothing."""
    try:
        _require_trace(entry.trace)
        _require_workload(entry.workload_line[1])
    except ValueError as error:
        return str(error)
    return ""


def _require_trace(trace: Any) -> None:
    if reason := _not_plain(trace):
        raise ValueError(f"its trace holds {reason}")
    match trace:
        case [list(instructions), list(decisions)]:
            pass
        case _:
            raise ValueError("its trace is not [instructions, decisions]")
    for number, instruction in enumerate(instructions):
        match instruction:
            case [str(), list(), list(), list(outputs)] if all(type(o) is str for o in outputs):
                continue
        raise ValueError(f"instruction {number} is not [name, inputs, attributes, outputs]")
    seen: set[int] = set()
    for decision in decisions:
        match decision:
            case [int(number), value] if (
                type(number) is int and 0 <= number < len(instructions) and number not in seen
            ):
                seen.add(number)
                _require_decision(instructions[number][0], value)
            case _:
                raise ValueError(f"decision {str(decision)[:80]} is not [instruction, value]")


def _require_decision(instruction: str, value: Any) -> None:
    """Tile sizes of 1 or more and plain numbers: TVM divides by the first and trusts the others."""
    tiles = instruction in ("SamplePerfectTile", "SamplePartitionedTile")
    numbers = value if isinstance(value, list) else [value]
    if tiles != isinstance(value, list):
        raise ValueError(f"decision {str(value)[:80]} is none of {instruction}")
    if not all(type(number) is int for number in numbers):
        raise ValueError(f"decision {str(value)[:80]} of {instruction} is no whole number")
    if tiles and not (numbers and all(1 <= number <= MAX_SIZE for number in numbers)):
        raise ValueError(f"{instruction} has tile sizes {str(value)[:80]}; each must be 1 or more")


def _not_plain(value: Any, depth: int = 0) -> str:
    """What in a JSON value no trace holds; empty if nothing."""
    if depth > MAX_DEPTH:
        return f"lists nested more than {MAX_DEPTH} deep"
    if isinstance(value, list):
        return next(filter(None, (_not_plain(item, depth + 1) for item in value)), "")
    if isinstance(value, dict):
        return _not_plain([*value.keys(), *value.values()], depth)
    if isinstance(value, int) and abs(value) >= 2**63:
        return f"the number {str(value)[:20]}..., which needs more than 64 bits"
    return ""


def _require_workload(text: str) -> None:
    try:
        graph = json.loads(base64.b64decode(text, validate=True)[8:])
        kinds = {node["type"] for node in graph["nodes"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"its workload is no serialised module: {error}") from error
    strange = [
        str(kind)[:80]
        for kind in kinds
        if kind not in NODE_TYPES and not str(kind).startswith(NODE_FAMILIES)
    ]
    if strange:
        raise ValueError(f"its workload holds {', '.join(sorted(strange))}; none has that")


class _Child:
    """A process that replays one record after the other; a new one is started when it dies."""

    def __init__(self, preload: Sequence[str]) -> None:
        self._preload = preload
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._reader: threading.Thread | None = None

    def replay(self, entry: Entry, timeout: float) -> str:
        """Why a record does not replay; empty if it does."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            origin = entry.provenance
            request = {
                "workload": entry.workload_line,
                "payload": entry.payload,
                "provenance": {
                    "space": origin.space,
                    "spec": origin.spec,
                    "variant": origin.variant,
                },
            }
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.end()
            return f"its replay takes more than {timeout:g} s"
        except BrokenPipeError:
            answer = None
        if answer is None:
            code = process.wait()
            self.end()
            return f"its replay crashes: {_ending(code)}"
        return json.loads(answer)

    def end(self) -> None:
        """Stop the process, if there is one."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        assert self._reader is not None
        self._reader.join()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process = None

    def _start(self) -> subprocess.Popen[str]:
        paths = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *self._preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is no fault of the record that is being replayed
        )
        self._answers = queue.Queue()
        self._reader = threading.Thread(
            target=_forward, args=(self._process.stdout, self._answers), daemon=True
        )
        self._reader.start()
        try:
            answer = self._answers.get(timeout=START_TIMEOUT_SECS)
        except queue.Empty:
            answer = None
        if answer != _READY:
            self.end()
            command = f"{sys.executable} -m {__name__} {' '.join(self._preload)}"
            raise RuntimeError(f"no process to replay records in; run `{command}` to see why")
        return self._process


def _forward(lines: Iterable[str], answers: queue.Queue[str | None]) -> None:
    for line in lines:
        answers.put(line.rstrip("\n"))
    answers.put(None)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _serve(preload: Sequence[str]) -> None:
    """The child: answers each line of stdin with a line of stdout."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what TVM prints is no answer
    end_with_parent()
    _limit_resources()
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]  (TVM would import it: 3 s)
    for name in ("tvm", *preload):
        importlib.import_module(name)
    register = importlib.import_module(_REGISTRATION, __package__).register
    print(_READY, file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_replay(json.loads(line), register)), file=answers, flush=True)


def _limit_resources() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [MAX_MEMORY_BYTES, *([hard] if hard != resource.RLIM_INFINITY else [])]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash here is no surprise


def _replay(request: dict[str, Any], register: Callable[[dict[str, Any]], None]) -> str:
    """Why TVM refuses a record; empty if it does not."""
    from tvm.s_tir import meta_schedule as ms

    try:
        register(request["provenance"])
    except Exception as error:  # whatever a forged variant leads to
        return f"its design space has no such variant: {type(error).__name__}: {error}"
    try:
        workload = ms.database.Workload.from_json(request["workload"])
        apply_trace(request["payload"][0], workload.mod)
        ms.database.TuningRecord.from_json(request["payload"], workload)
    except Exception as error:  # TVM raises any Python class, by the name its C++ gives
        return f"TVM refuses it: {str(error).strip()[-400:] or type(error).__name__}"
    return ""


if __name__ == "__main__":
    _serve(sys.argv[1:])
