"""Kernels on threads of their own: how many, and what becomes of them in forks and threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra [torch]")

import prefilltune.torch as prefill
from prefilltune.torch.threads import choose_threads, cpu_quota
from prefilltune.workloads import PrefillSpec

SPEC = PrefillSpec(2, 1, 16, "float32")

#: Longer than any of it takes; what takes longer hangs.
LIMIT = 60

BEGIN = """
import os, sys, threading, time
import torch
import prefilltune.torch as prefill
library = prefill.load(sys.argv[1])
query, key = torch.randn(3, 40, 2, 16), torch.randn(3, 40, 1, 16)
lens = torch.full((3,), 40, dtype=torch.int32)
def call():
    return prefill.sequence_prefill(query, key, key, lens)[0]
def number_of_threads():
    return len(os.listdir("/proc/self/task"))
def settles_at(count):
    # A thread of the system ends a moment after Python has joined it.
    end = time.monotonic() + 20
    while number_of_threads() != count and time.monotonic() < end:
        time.sleep(0.01)
    return number_of_threads() == count
"""

#: And two threads, whose results are known.
OF_TWO = """
prefill.set_num_threads(2)
expected = call()
def check():
    assert torch.equal(call(), expected)
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("serving")
    builder = Path(__file__).with_name("small_libraries.py")
    subprocess.run([sys.executable, str(builder), str(root), str(SPEC)], check=True)
    return root / str(SPEC)


def run(script: str, dist: Path, begin: str = BEGIN + OF_TWO, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", begin + script, str(dist)],
        capture_output=True, text=True, check=False, timeout=LIMIT,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_children_and_their_children_compute(dist: Path) -> None:
    """Forked after the first call, from any thread, and ended in any way."""
    script = """
def in_a_child(work, leave):
    process = os.fork()
    if process == 0:
        work()
        leave(0)
    assert os.waitpid(process, 0)[1] == 0
in_a_child(check, sys.exit)
in_a_child(check, os._exit)
in_a_child(lambda: in_a_child(check, sys.exit), sys.exit)
def in_a_thread():
    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
in_a_child(in_a_thread, sys.exit)
thread = threading.Thread(target=in_a_child, args=(check, os._exit))
thread.start()
thread.join()
# While another thread is in a kernel, whose lock the child finds taken.
ending = threading.Event()
def go_on():
    while not ending.is_set():
        check()
busy = threading.Thread(target=go_on)
busy.start()
for _ in range(10):
    in_a_child(check, os._exit)
ending.set()
busy.join()
check()
print("done")
"""
    assert run(script, dist) == "done\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads as Linux shows them")
def test_threads_that_call_and_end_leave_nothing_behind(dist: Path) -> None:
    script = """
before = number_of_threads()
affinity = os.sched_getaffinity(0)
for _ in range(50):
    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
assert settles_at(before)
assert os.sched_getaffinity(0) == affinity
prefill.set_num_threads(1)
check()
prefill.set_num_threads(3)
check()
assert settles_at(before + 1)
print(library.threads)
"""
    assert run(script, dist) == "3 threads: as set_num_threads said\n"


@pytest.mark.slow
def test_a_library_that_is_closed_takes_its_threads_along(dist: Path) -> None:
    script = """
import ctypes, gc, shutil, _ctypes
import tvm_ffi
before = number_of_threads()
path = shutil.copytree(sys.argv[1], sys.argv[1] + "_bare") + "/libprefill.so"
module, functions = tvm_ffi.load_module(path, keep_module_alive=False), ctypes.CDLL(path)
functions.prefilltune_set_threads(2)
output, lse = torch.empty_like(query), torch.empty(3, 40, 2)
module[library.kernels[-1].symbol](query, key, key, lens, output, lse)
assert torch.equal(output, expected)
assert settles_at(before + 1)
del module
gc.collect()
_ctypes.dlclose(functions._handle)
assert path not in open("/proc/self/maps").read()
assert settles_at(before)
print("done")
"""
    assert run(script, dist) == "done\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="says which CPUs it may use as Linux does")
def test_threads_are_those_of_the_manifest(dist: Path) -> None:
    script = """
for name in ("TVM_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.pop(name, None)
allowed = sorted(os.sched_getaffinity(0))
for cpus in (allowed[:2], allowed[:1]):
    os.sched_setaffinity(0, cpus)
    print(prefill.load(sys.argv[1]).threads)
os.environ["TVM_NUM_THREADS"] = "1"
print(prefill.load(sys.argv[1]).threads)
prefill.set_num_threads(3)  # which loading it again does not undo
print(prefill.load(sys.argv[1]).threads)
"""
    assert json.loads((dist / "manifest.json").read_text())["target"]["num-cores"] == 2
    lines = run(script, dist, BEGIN).splitlines()
    if len(os.sched_getaffinity(0)) > 1:
        assert lines[0] == "2 threads: as many as it was tuned with"
    one = "1 thread: tuned with 2, and this process may run on 1 of the CPUs"
    said = ["1 thread: as TVM_NUM_THREADS says", "3 threads: as set_num_threads said"]
    assert lines[1:] == [one, *said]


@pytest.mark.parametrize(
    ("tuned", "usable", "quota", "environ", "expected"),
    [
        (2, 8, None, {}, "2 threads: as many as it was tuned with"),
        (8, 2, None, {}, "2 threads: tuned with 8, and this process may run on 2 of the CPUs"),
        (8, 16, 4.0, {}, "4 threads: tuned with 8, and the container may use 4 CPUs"),
        (8, 16, 0.5, {}, "1 thread: tuned with 8, and the container may use 0.5 CPUs"),
        (2, 8, None, {"OMP_NUM_THREADS": "4,2"}, "4 threads: as OMP_NUM_THREADS says"),
        (2, 8, None, {"TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "4"}, "1 thread: as TVM_NUM_"),
        (2, 8, None, {"TVM_NUM_THREADS": "many"}, "2 threads: as many as it was tuned with"),
    ],
)
def test_how_many_threads(
    tuned: int, usable: int, quota: float | None, environ: dict[str, str], expected: str
) -> None:
    assert str(choose_threads(tuned, usable, quota, environ)).startswith(expected)


def test_no_threads_are_no_choice() -> None:
    with pytest.raises(prefill.InvalidArgumentError, match="count is 0; expected 1 or more"):
        prefill.set_num_threads(0)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/pod/app", {"pod/cpu.max": "100000 100000", "pod/app/cpu.max": "max 100000"}, 1.0),
        ("0::/unseen", {"cpu.max": "50000 100000"}, 0.5),
        (
            "3:cpu,cpuacct:/docker/1\n2:memory:/docker/1",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "400000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            4.0,
        ),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("", {}, None),
    ],
)
def test_what_a_container_may_use(
    tmp_path: Path, own: str, files: dict[str, str], expected: float | None
) -> None:
    groups, mine = tmp_path / "cgroup", tmp_path / "own"
    mine.write_text(own)
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    assert cpu_quota(groups, mine) == expected
    assert cpu_quota(groups, tmp_path / "no such file") is None


@pytest.mark.slow
def test_a_library_without_threads_of_its_own_is_refused_in_a_child(dist: Path) -> None:
    """Of an earlier version: on TVM's threads, for which a child waits for ever."""
    script = """
from prefilltune.torch.threads import refusing_in_children
kernel = refusing_in_children(lambda *arguments: None)
kernel()
kernel()
process = os.fork()
if process == 0:
    try:
        kernel()
    except prefill.ForkedError as error:
        os._exit(7 if "build the library again" in str(error) else 1)
    os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""
    assert run(script, dist, TVM_NUM_THREADS="2") == "7\n"
