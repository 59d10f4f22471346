"""TVM's tracker and servers as real processes: measuring through them, and what befalls them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import hear_interrupts

from prefilltune.database import RecordStore, TargetKey
from prefilltune.tuning.backends.llvm import LLVM
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.devices import rpc_link
from prefilltune.tuning.devices.address import Address, check_key, is_loopback
from prefilltune.tuning.devices.machine import Wanted, describe
from prefilltune.tuning.devices.messages import (
    Request,
    UploadedLibrary,
    decode_outcome,
    encode_outcome,
)
from prefilltune.tuning.devices.opening import pool_of_gpus, pool_of_tracker
from prefilltune.tuning.devices.remote import RemoteWorker, devices_of
from prefilltune.tuning.errors import GarbledMessageError, InvalidOptionError, NoDeviceError
from prefilltune.tuning.measuring.cpu import Measurement, check_and_time
from prefilltune.tuning.measuring.worker import Outcome, Worker
from prefilltune.workloads import PrefillShape, PrefillSpec, plain_attention

SPEC, SHAPE = PrefillSpec(2, 1, 16, "float32"), PrefillShape(2, 24)
KEY = "cpu"


class Service:
    """A tracker and two workers, started from the command line, with a mark on every process."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"PREFILLTUNE_TEST={folder}"
        name, _, value = self.mark.partition("=")
        self.environment = {**os.environ, name: value, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.address = Address("127.0.0.1", _free_port())
        port = str(_free_port())
        tracker = ["tracker", "--port", str(self.address.port)]
        worker = ["worker", "--tracker", str(self.address), "--key", KEY, "--port", port]
        self.commands = [self.start(*tracker), self.start(*worker), self.start(*worker)]

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        """Start a command; what it says is text."""
        command = [sys.executable, "-m", "prefilltune.tuning", *arguments]
        return subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=hear_interrupts,
            **options,  # pyright: ignore
        )

    def processes(self, module: str = "") -> list[int]:
        """Living processes of this service that run a module."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                marked = self.mark.encode() in (folder / "environ").read_bytes()
                if marked and module in (folder / "cmdline").read_text():
                    found.append(int(folder.name))
        return found

    def wait_for_devices(self, count: int) -> None:
        """Until the tracker knows so many."""

        def known() -> bool:
            try:
                return devices_of(self.address, KEY) >= count
            except NoDeviceError:
                return False

        _wait_until(known)

    def stop(self) -> None:
        """Interrupt every command."""
        for command in self.commands:
            command.send_signal(signal.SIGTERM)
        assert [command.wait(60) for command in self.commands] == [143, 143, 143]
        _wait_until(lambda: not self.processes())


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("service"))
    try:
        service.wait_for_devices(2)
        yield service
    finally:
        service.stop()


def test_a_device_measures_what_is_uploaded_to_it(service: Service, tmp_path: Path) -> None:
    remote = RemoteWorker(service.address, KEY, 1)
    try:
        machine = describe(remote, Wanted("llvm", 1))
        path = str(tmp_path / "kernel.so")
        build_library(plain_attention(SPEC, SHAPE), machine.target.target, path)
        inputs = (SPEC, SHAPE, ((24, 24), (24, 24)), (13, 0), 0)
        assert remote.call(LLVM.engine.prepare, *inputs, timeout=60) == Outcome("ok")
        measured = remote.call(check_and_time, path, *inputs, math.inf, timeout=60)
        assert measured.status == "ok"
        assert measured.value.error < 1e-5
        assert len(measured.value.run_secs) == 5
        endless = (path, SPEC, SHAPE, ((24, 24),), 0, 600.0)
        assert remote.call(LLVM.engine.time_kernel, *endless, timeout=1).status == "timeout"
        wrong = tmp_path / "wrong.so"
        wrong.write_bytes(b"no library")
        broken = remote.call(check_and_time, str(wrong), *inputs, math.inf, timeout=60)
        assert broken.status == "error"
        remote.restart()
        assert remote.call(LLVM.engine.prepare, *inputs, timeout=60) == Outcome("ok")
    finally:
        remote.close()


def test_a_device_runs_no_other_function(service: Service) -> None:
    with Worker() as link:
        link.call(rpc_link.connect, service.address, KEY, timeout=60)
        for text in (Request("os.system", ("true",), 1, 5.0).encode(), "[]", '{"function": 1}'):
            reply = link.call(rpc_link.ask, text, "", "", timeout=60)
            assert decode_outcome(reply.value).status == "error"


@pytest.mark.slow
def test_a_search_survives_the_death_of_a_server_and_of_the_tracker(
    service: Service, tmp_path: Path
) -> None:
    before = service.processes("rpc_server"), service.processes("rpc_tracker")
    search = service.start(
        *("tune", "--tracker", str(service.address), "--key", KEY, "--threads", "1"),
        *("--heads", "2/1x16", "--shape", "2x24", "--space", "llvm_fused", "--trials", "12"),
        *("--database", str(tmp_path), "--keep", "1"),
    )
    assert search.stdout is not None
    for line in search.stdout:
        if re.search(r"[1-9]\d* of 12 trials", line):
            os.kill(before[1][0], signal.SIGKILL)
            for child in _sessions(before[0]):
                os.kill(child, signal.SIGKILL)
            break
    rest = search.stdout.read()
    assert search.wait(timeout=120) == 0, rest
    assert "12 trials in" in rest
    assert "lost" in rest
    (key,) = (TargetKey.parse(folder.name) for folder in tmp_path.iterdir())
    assert len(RecordStore.open(tmp_path, key).entries) == 1
    service.wait_for_devices(2)  # both were started again
    after = service.processes("rpc_server"), service.processes("rpc_tracker")
    assert after[1] != before[1]


PLAN = """
heads = ["2/1x16"]
shapes = ["2x24", "3x24"]
budget = "1h"
trials = 8
searches = 2
[[targets]]
target = "llvm"
threads = 1
key = "cpu"
"""


@pytest.mark.thorough
def test_a_plan_that_is_killed_and_interrupted_goes_on(service: Service, tmp_path: Path) -> None:
    """Two searches at a time, on a worker each."""
    path, root = tmp_path / "night.toml", tmp_path / "database"
    path.write_text(f'{PLAN}tracker = "{service.address}"\n')
    command = ("plan", "run", str(path), "--database", str(root))
    before = set(service.processes())
    for ending, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        plan = service.start(*command)
        assert plan.stdout is not None
        begun: set[str] = set()
        for line in plan.stdout:
            begun |= set(re.findall(r"(b\d_q24_kv24) .*: .* [1-7] of 8 trials", line))
            if len(begun) == 2 or "all trials made" in line:
                break
        plan.send_signal(ending)
        plan.stdout.read()
        assert plan.wait(60) == code
        _wait_until(lambda: set(service.processes()) <= before)
    last = service.start(*command)
    said, _ = last.communicate(timeout=200)
    assert last.returncode == 0, said
    logs = [path.read_text().splitlines() for path in root.glob("*/trials/*.jsonl")]
    assert len(logs) == 2
    for lines in logs:
        fields = [json.loads(line) for line in lines]
        trials = {json.dumps([each["space"], each["variant"], each["trace"]]) for each in fields}
        assert len(trials) == len(lines) >= 8
    (key,) = (TargetKey.parse(each.parent.name) for each in root.glob("*/records.json"))
    shapes = {each.provenance.shape for each in RecordStore.open(root, key).entries}
    assert shapes == {"b2_q24_kv24", "b3_q24_kv24"}


def _sessions(servers: list[int]) -> list[int]:
    """The first server that has a session, and the session's process."""
    for server in servers:
        children = Path(f"/proc/{server}/task/{server}/children")
        threads = [path.read_text().split() for path in children.parents[1].glob("*/children")]
        if found := [int(child) for each in threads for child in each]:
            return found
    raise AssertionError("no server has a session")


def test_what_holds_no_device_is_told(service: Service) -> None:
    with pytest.raises(NoDeviceError, match=r"no device of key 'gpu' \(it knows: cpu\)"):
        devices_of(service.address, "gpu")
    with pytest.raises(NoDeviceError, match="no tracker answers at"):
        devices_of(Address("127.0.0.1", _free_port()), KEY)
    with pytest.raises(NoDeviceError, match="nonsense"):
        pool_of_tracker(service.address, KEY, Wanted("nonsense"))


def test_each_gpu_has_a_process_that_sees_no_other() -> None:
    with pool_of_gpus(["3", "5"], Wanted("llvm", 1)) as pool:
        seen = [
            slot.runner.call(os.getenv, "CUDA_VISIBLE_DEVICES", timeout=60) for slot in pool.slots
        ]
    assert [each.value for each in seen] == ["3", "5"]


@pytest.mark.slow
def test_interrupted_workers_leave_nothing_behind(tmp_path: Path) -> None:
    """In the middle of a session, whose process and whose worker's process go too."""
    service = Service(tmp_path)
    service.wait_for_devices(2)
    remote = RemoteWorker(service.address, KEY, 1)
    try:
        describe(remote, Wanted("llvm", 1))
        assert service.processes("tuning.measuring.worker")
        service.stop()
    finally:
        remote.close()


def test_a_port_in_use_is_one_clear_line(service: Service) -> None:
    second = service.start("tracker", "--port", str(service.address.port), stderr=subprocess.STDOUT)
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 2
    assert said.splitlines()[-1].startswith("prefilltune: tracker did not start; its own message")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tracker", "--port", "0"], "--port is 0; it must lie in 1 to 65535"),
        (["worker", "--tracker", "here", "--key", "a"], "'here' is no address; write HOST:PORT"),
        (["worker", "--tracker", "[::1]:1", "--key", "a b"], "--key is 'a b'; name like devices"),
        (["worker", "--tracker", "10.0.0.1:9190", "--key", "a"], "which a tuner cannot reach"),
        (
            ["worker", "--tracker", "127.0.0.1:9190", "--key", "a", "--devices", "0,0"],
            "write each device once",
        ),
        (["tune", "--model", "bge-base", "--tracker", "127.0.0.1:1"], "go together"),
        (["tune", "--model", "bge-base", "--tracker", "nowhere", "--key", "a"], "is no address"),
        (["tune", "--model", "bge-base", "--devices", "0"], "--devices are GPUs"),
        (["plan", "run", "night.toml"], "night.toml is no plan"),
        (["tune", "--plan", "night.toml"], "run: prefilltune plan run night.toml"),
        (["status"], "run: prefilltune plan status"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "prefilltune.tuning", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_messages_survive_the_way() -> None:
    arguments = ("a", SPEC, SHAPE, ((1, 2), (3,)), math.inf, UploadedLibrary("b.so"))
    request = Request("llvm.prepare", arguments, 2, 1.5)
    there = Request.decode(request.encode(), lambda name: f"/work/{name}")
    assert there.arguments == (*arguments[:-1], "/work/b.so")
    assert (there.function, there.threads, there.timeout) == ("llvm.prepare", 2, 1.5)
    measured = Measurement(math.inf, (1.0, 2.0), "device fault", "wild", True)
    for outcome in (Outcome("ok", measured), Outcome("ok", 1.5), Outcome("crash", detail="x")):
        assert decode_outcome(encode_outcome(outcome)) == outcome


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"status": "ok", "value": {"measurement": {}}, "detail": ""}']
)
def test_a_garbled_reply_is_refused(text: str) -> None:
    with pytest.raises(GarbledMessageError, match="a reply that is none"):
        decode_outcome(text)


def test_addresses_and_keys() -> None:
    assert str(Address.parse("[::1]:9190")) == "[::1]:9190"
    for text in ("", ":1", "host:", "host:0", "host:65536", "host:x"):
        with pytest.raises(InvalidOptionError, match="write HOST:PORT"):
            Address.parse(text)
    assert not is_loopback("example.org")
    with pytest.raises(InvalidOptionError, match="--key"):
        check_key("a:b")
