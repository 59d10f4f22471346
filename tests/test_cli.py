"""The command line as a user runs it, in processes of its own where it does more than refuse."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import dispatch_fixtures as fixtures
import numpy as np
import pytest
from cpp_example import check_cpp_example, needs_cpp
from database_fixtures import KEY, filled, small_entry
from dispatch_fixtures import LONG, SHORT, SPEC
from typer.testing import CliRunner

from prefilltune.database import Finder, TargetKey, committed_root, store
from prefilltune.database.reading import read_folder
from prefilltune.tuning.cli import app, main
from prefilltune.tuning.cli.options import parse_shapes
from prefilltune.tuning.cli.records import tuned_shapes, tuned_workloads
from prefilltune.tuning.deployment import library, read_sweeps
from prefilltune.tuning.deployment.metadata import read_metadata
from prefilltune.tuning.errors import UnsupportedTargetError
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import PrefillShape, PrefillSpec

SMALL = ["--heads", "2/1x16", "--shape", "2x24"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prefilltune.tuning", *arguments],
        capture_output=True, text=True, env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def said(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As :func:`run`, in this process: for what ends before anything is measured."""
    command = ["prefilltune", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", command)
        patch.setattr(signal, "signal", lambda *_: None)
        code = _exit_code_of_main()
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def _exit_code_of_main() -> int:
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that `prefilltune tune` filled."""
    root = tmp_path_factory.mktemp("database")
    done = run(
        "tune", *SMALL, "--trials", "4", "--no-compare", "--database", str(root), "--threads", "1"
    )
    assert done.returncode == 0, done.stderr
    assert "4 trials" in done.stdout
    assert "x the baseline" in done.stdout
    return root


def test_compare_prints_a_table_and_writes_the_numbers(database: Path) -> None:
    done = run("compare", *SMALL, "--database", str(database), "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "TVM hand-written" in done.stdout
    assert "full lengths" in done.stdout
    assert "uniform lengths" in done.stdout
    (folder,) = (path for path in database.iterdir() if path.is_dir())
    cases = json.loads((folder / "comparison.json").read_text())["cases"]
    assert [case["lens"] for case in cases] == ["full", "uniform"]
    for case in cases:
        assert case["spec"] == "padded_hq2_hkv1_d16_float32_s0.25"
        assert case["max_abs_error"] <= 2e-5
        assert case["tuned_ms"] > 0
    if (folder / "comparison.png").exists():  # with the extra [report]
        assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
        report = run("report", "--database", str(database), "--threads", "1")
        assert report.returncode == 0, report.stderr
        assert "| all | 2 |" in (folder / "report.md").read_text()


def test_compare_without_a_model_takes_the_tuned_workloads_that_the_options_leave(
    database: Path, tmp_path: Path
) -> None:
    options = ("--lens", "full", "--database", str(database), "--threads", "1")
    done = said("compare", *options, "--shape", "2x25", "--output", str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "prefilltune tune" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_dtype_is_that_of_whatever_serves_it(tmp_path: Path) -> None:
    """On a CPU records in float32 serve 16 bits, but for a spec that has its own."""
    wide, brain = (PrefillSpec(2, 2, 16, dtype) for dtype in ("float32", "bfloat16"))
    other = replace(wide, num_qo_heads=4)
    kept = [(wide, "b1_q32_kv32"), (other, "b2_q32_kv32"), (brain, "b4_q32_kv32")]
    filled(
        tmp_path,
        [
            small_entry(number, spec=str(spec), shape=shape)
            for number, (spec, shape) in enumerate(kept)
        ],
    )
    target, finder = ResolvedTarget(None, KEY, 2), Finder([tmp_path])

    def found(dtype: str) -> list[tuple[str, str]]:
        workloads = tuned_workloads(finder, target, dtype, [])
        return [(str(spec), str(shape)) for spec, shape in workloads]

    assert found("") == sorted((str(spec), shape) for spec, shape in kept)
    assert found("float32") == [(str(spec), shape) for spec, shape in kept[:2]]
    served = [(brain, "b4_q32_kv32"), (other.in_dtype("bfloat16"), "b2_q32_kv32")]
    assert found("bfloat16") == [(str(spec), shape) for spec, shape in served]
    (shape,) = tuned_shapes(finder, target, other.in_dtype("float16"), [])
    assert str(shape) == "b2_q32_kv32"


def test_a_case_that_fails_is_named_and_the_others_are_kept(database: Path, tmp_path: Path) -> None:
    """Without a model: of every workload that has a record."""
    copy = _copied(database, tmp_path)
    common = ("--database", str(tmp_path), "--threads", "1")
    fixtures.database(tmp_path, fixtures.record(PrefillSpec(1, 1, 16, "float32"), SHORT))
    provenance = json.loads((copy / "provenance.json").read_text())
    for record in provenance["records"].values():
        if record["shape"] == "b1_q16_kv16":
            record["space"] = "llvm_gone"
    (copy / "provenance.json").write_text(json.dumps(provenance))
    done = run("compare", "--lens", "full", "--output", str(tmp_path / "output"), *common)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "'llvm_gone'" in done.stderr
    (case,) = json.loads((tmp_path / "output" / "comparison.json").read_text())["cases"]
    assert (case["spec"], case["shape"]) == ("padded_hq2_hkv1_d16_float32_s0.25", "b2_q24_kv24")


def test_report_takes_the_name_of_a_folder_of_any_machine(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="needs the extra [report]")
    folder = committed_root() / "llvm-znver4-2c"
    done = said(
        "report", "--target", folder.name, "--database", str(folder.parent),
        "--output", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| all | 8 |" in (tmp_path / "report.md").read_text()
    assert "AMD EPYC" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def dist(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prefilltune build` makes of it: a kernel for the tuned shape, and one for every.

    The database has a bad line besides.
    """
    root = tmp_path_factory.mktemp("built")
    copy, folder = _copied(database, root), root / "dist"
    with (copy / "records.json").open("a") as file:
        file.write("{}\n")
    options = ("--database", str(root), "--threads", "1", "--output", str(folder))
    done = run("build", *SMALL, *options, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "any of 1" in done.stdout
    assert "wrote " in done.stdout
    (root / "stderr").write_text(done.stderr)
    return folder


def test_a_library_says_what_is_in_it(dist: Path) -> None:
    manifest = json.loads((dist / "manifest.json").read_text())
    library = (dist / "libprefill.so").read_bytes()
    header = (dist / "prefill.h").read_text()
    assert manifest["schema"] == 2
    assert manifest["sha256"] == hashlib.sha256(library).hexdigest()
    fixed, every = manifest["kernels"]
    assert (fixed["shape"], fixed["tier"]) == ("b2_q24_kv24", "exact")
    assert (fixed["views"], every["views"]) == (False, True)
    assert fixed["symbol"] == "prefill_padded_hq2_hkv1_d16_float32_s0_25_b2_q24_kv24"
    assert (every["shape"], every["boundaries"], every["notes"]) == (None, None, [])
    assert every["symbol"] == "prefill_padded_hq2_hkv1_d16_float32_s0_25_any"
    assert [each["serves"] for each in every["kernels"]] == [
        "qo_len = kv_len = 24",
        "other lengths",
    ]
    for served in every["kernels"]:
        assert (served["tier"], served["tuned_at"]) == ("exact", "b2_q24_kv24")
        assert served["space"] == "llvm_fused"
    assert "#define PREFILL_NUM_KERNELS 2" in header
    assert f'{{"{fixed["symbol"]}",' in header
    assert f'{{"{every["symbol"]}",' in header
    for sizes, views in (("2, 24, 24", 0), ("0, 0, 0", 1)):
        row = f'"padded", "float32", "float32", 2, 1, 16, 0.25, {sizes},\n'
        assert row + f'     "right", -1, -1, 0.0, NULL, "zero", "padded", {views}}}' in header
    requires = manifest["requires"]
    assert requires["processor"] == platform.machine()
    words = ", ".join(requires["features"])
    assert f'#define PREFILL_REQUIRES "{platform.machine()} with {words}"' in header
    shown = CliRunner().invoke(app, ["explain", "--library", str(dist / "libprefill.so")])
    assert f"runs on {platform.machine()} with {words}" in shown.output
    assert read_metadata(dist / "libprefill.so") == {
        name: value for name, value in manifest.items() if name not in ("library", "sha256")
    }


def test_a_library_runs_without_prefilltune(dist: Path) -> None:
    script = """
import sys
import numpy as np
from tvm.runtime import load_module, tensor
library = load_module(sys.argv[1])
generator = np.random.default_rng(0)
for symbol in sys.argv[2:]:
    others = ((3, 7, 33), (3, 24, 24)) if symbol.endswith("_any") else ()
    for batch, qo_len, kv_len in ((2, 24, 24), *others):
        rows, keys = (batch, qo_len, 2, 16), (batch, kv_len, 1, 16)
        q, k, v = (tensor(generator.standard_normal(s, "float32")) for s in (rows, keys, keys))
        output = tensor(np.full(rows, np.nan, "float32"))
        lse = tensor(np.full(rows[:3], np.nan, "float32"))
        valid_lens = np.array([24, 5, 0][:batch], "int32")
        library[symbol](q, k, v, tensor(valid_lens), output, lse)
        assert np.isfinite(lse.numpy()).all()
        for one, valid in zip(output.numpy(), valid_lens):
            assert one[:valid].all() and not one[valid:].any()
assert not any(name.startswith("prefilltune") for name in sys.modules)
"""
    kernels = json.loads((dist / "manifest.json").read_text())["kernels"]
    symbols = [kernel["symbol"] for kernel in kernels]
    check = subprocess.run(
        [sys.executable, "-c", script, str(dist / "libprefill.so"), *symbols],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert check.returncode == 0, check.stderr


def test_a_kernel_for_one_shape_refuses_what_would_end_the_process(dist: Path) -> None:
    from tvm.runtime import load_module, tensor
    from tvm_ffi import from_dlpack

    symbol = "prefill_padded_hq2_hkv1_d16_float32_s0_25_b2_q24_kv24"
    kernel = load_module(str(dist / "libprefill.so"))[symbol]
    rows, keys = (2, 24, 2, 16), (2, 24, 1, 16)
    shapes = (rows, keys, keys, (2,), rows, rows[:3])
    arrays = [np.zeros(each, "int32" if len(each) == 1 else "float32") for each in shapes]
    kernel(*map(tensor, arrays))
    memory = np.zeros(arrays[0].size + 32, "float32")
    begin = -memory.ctypes.data // 4 % 16 + 1
    kernel(
        from_dlpack(memory[begin : begin + arrays[0].size].reshape(rows)), *map(tensor, arrays[1:])
    )
    within = memory.view("uint8")[1 : 1 + arrays[0].nbytes].view("float32").reshape(rows)
    with pytest.raises(ValueError, match=r"^q must begin at a multiple of 4 bytes"):
        kernel(from_dlpack(within), *map(tensor, arrays[1:]))
    with pytest.raises(ValueError, match=r"Invalid valid_lens\.shape\[0\] on argument #3"):
        kernel(*map(tensor, (*arrays[:3], np.zeros(3, "int32"), *arrays[4:])))


def test_nothing_is_measured_that_this_cpu_cannot_run(tmp_path: Path) -> None:
    target = '{"kind": "llvm", "mcpu": "diamondrapids"}'
    for command in ("tune", "sweep", "compare"):
        arguments = [command, *SMALL, "--target", target, "--database", str(tmp_path)]
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, UnsupportedTargetError)
        assert "code for diamondrapids may use" in str(done.exception)
        assert "leave the target's mcpu out" in str(done.exception)


def explained(*options: str) -> list[dict[str, Any]]:
    """What `prefilltune explain --json` prints, in this process."""
    done = CliRunner().invoke(app, ["explain", *options, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_explain_names_the_record_of_every_shape(database: Path, dist: Path) -> None:
    kernels = json.loads((dist / "manifest.json").read_text())["kernels"][1]["kernels"]
    options = ("--heads", "2/1x16", "--database", str(database), "--threads", "1")
    done = run("explain", *options, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "padded_hq2_hkv1_d16_float32_s0.25 on llvm-" in done.stdout
    for kernel in kernels:
        (row,) = [line for line in done.stdout.splitlines() if kernel["serves"] in line]
        for word in (kernel["record"], "b2_q24_kv24", "llvm_fused", "exact"):
            assert word in row
    (data,) = explained(*options)
    assert data["kernels"] == kernels


def test_explain_reads_a_library_of_any_machine(dist: Path, tmp_path: Path) -> None:
    library = str(dist / "libprefill.so")
    kernels = json.loads((dist / "manifest.json").read_text())["kernels"]
    done = run("explain", "--library", library, "--json", PATH=str(tmp_path))  # no compiler
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == kernels
    done = run("explain", "--library", library, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("padded_hq2_hkv1_d16_float32_s0.25") == 2
    assert (
        done.stdout.count(kernels[0]["record"])
        + done.stdout.count(kernels[1]["kernels"][0]["record"])
        >= 2
    )
    assert "other lengths" in done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "does not say what it was built from"),
        (b'\x7fELF prefilltune-metadata:{"kernels": [', "does not say what it was built from"),
    ],
)
def test_explain_of_a_file_that_is_no_such_library(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "library.so"
    if content is not None:
        path.write_bytes(content)
    done = said("explain", "--library", str(path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{path} {message}" in done.stderr
    assert "name a libprefill.so that `prefilltune build` wrote" in done.stderr


def test_explain_of_what_has_no_record(tmp_path: Path) -> None:
    root = tmp_path / "database"
    heads = ("explain", "--heads", "13x48", "--database", str(root))
    done = said(*heads, "--threads", "1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "no record that fits any shape serves padded_hq13_hkv13_d48" in done.stderr
    gpu = ("--target", "cuda", "--arch", "sm_80", "--on-missing", "baseline")
    done = said(*heads, *gpu)
    assert done.returncode == 0, done.stderr
    assert "TVM's hand-written" in done.stdout
    assert "prefilltune tune" in done.stdout
    (data,) = explained(*heads[1:], *gpu)
    assert data["kernels"] == [{"serves": "every shape", "record": None, "tier": "baseline"}]
    assert not root.exists()


@pytest.mark.thorough
def test_a_sweep_tells_several_records_apart(tmp_path: Path) -> None:
    root = tmp_path / "database"
    entries = [fixtures.record(SPEC, SHORT), fixtures.record(SPEC, LONG, packed=True)]
    fixtures.database(root, *entries)
    options = ("--heads", "2/1x16", "--database", str(root), "--threads", "1")
    done = said("explain", *options)
    assert done.returncode == 0, done.stderr
    assert "boundaries halfway between the tuned shapes" in " ".join(done.stdout.split())
    advice = "a sweep would choose better; run: prefilltune sweep --target llvm --heads 2/1x16"
    assert done.stdout.count(advice) == 1
    dist = tmp_path / "dist"
    done = run("build", *options, "--output", str(dist))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(advice) == 1
    kernels = json.loads((dist / "manifest.json").read_text())["kernels"]
    assert [kernel["shape"] for kernel in kernels] == [str(SHORT), str(LONG), None]
    assert kernels[2]["boundaries"]["points"] == 0
    assert advice in kernels[2]["notes"][0]

    done = run("sweep", *options, "--shape", "1x9", "--shape", "2x40x65", "--lens", "uniform")
    assert done.returncode == 0, done.stderr
    assert f"wrote {root / str(fixtures.target().key) / 'dispatch.json'}" in done.stdout
    (sweep,) = read_sweeps(root / str(fixtures.target().key)).values()
    assert {*sweep.records} == {entry.record_id for entry in entries}
    assert [(str(p.shape), p.lens) for p in sweep.points] == [
        ("b1_q9_kv9", "uniform"), ("b2_q40_kv65", "uniform"),
    ]  # fmt: skip
    assert sweep.device["threads"] == 1
    written = (root / str(fixtures.target().key) / "dispatch.json").read_bytes()
    everything = ("sweep", *options[2:], "--shape", "1x9")
    done = said(*everything)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert (root / str(fixtures.target().key) / "dispatch.json").read_bytes() == written
    done = run(*everything, "--dtype", "float16")  # which records of float32 serve on a CPU
    assert done.returncode == 0, done.stderr
    both = read_sweeps(root / str(fixtures.target().key))
    assert [each.records for each in both.values()] == [sweep.records, sweep.records]
    done = run("build", *options, "--output", str(dist))
    assert done.returncode == 0, done.stderr
    *_, every = json.loads((dist / "manifest.json").read_text())["kernels"]
    assert every["shape"] is None
    assert every["boundaries"]["points"] == 2
    assert {each["record"] for each in every["kernels"]} <= {*sweep.records}
    done = run("explain", *options, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "boundaries from 2 measurements on" in " ".join(done.stdout.split())


def test_a_build_reads_each_folder_of_records_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And neither of several tuned shapes nor the kernel for every shape makes it read again."""
    root, key = tmp_path / "database", fixtures.target().key
    entries = [fixtures.record(SPEC, SHORT), fixtures.record(SPEC, LONG, packed=True)]
    fixtures.database(root, *entries)
    ids = [entry.record_id for entry in entries]
    fixtures.swept(root, SPEC, {"1x16": dict.fromkeys(ids, 1.0), "2x64": dict.fromkeys(ids, 1.0)})
    folders: list[Path] = []

    def noted(folder: Path, *arguments: Any, **options: Any) -> Any:
        folders.append(folder)
        return read_folder(folder, *arguments, **options)

    def nothing_built(module: Any, target: Any, path: str, addons: Any) -> None:
        Path(path).parent.mkdir()
        Path(path).write_bytes(b"")

    monkeypatch.setattr(store, "read_folder", noted)
    monkeypatch.setattr(library, "build_library", nothing_built)
    options = ["--heads", "2/1x16", "--database", str(root), "--threads", "1"]
    done = CliRunner().invoke(app, ["build", *options, "--output", str(tmp_path / "dist")])
    assert done.exit_code == 0, done.output
    kernels = json.loads((tmp_path / "dist" / "manifest.json").read_text())["kernels"]
    assert [kernel["shape"] for kernel in kernels] == [str(SHORT), str(LONG), None]
    assert [each for each in folders if each.parent == root] == [root / str(key)]
    assert len(folders) == len({*folders})  # committed ones of this processor are in its family


@pytest.mark.slow
def test_a_sweep_without_a_model_is_of_what_is_not_swept(tmp_path: Path) -> None:
    root = tmp_path / "database"
    fixtures.database(root, fixtures.record(SPEC, SHORT), fixtures.record(SPEC, LONG, packed=True))
    options = ("--database", str(root), "--threads", "1")
    done = run("sweep", *options, "--shape", "1x9", "--lens", "full")
    assert done.returncode == 0, done.stderr
    assert [*read_sweeps(root / str(fixtures.target().key))] == [str(SPEC)]


@pytest.mark.slow
def test_a_sweep_times_the_records_of_the_family_too(tmp_path: Path) -> None:
    """And writes it for the device at hand, which has one record and so nothing to sweep alone."""
    root, key = tmp_path / "database", fixtures.target().key
    own, theirs = fixtures.record(SPEC, SHORT), fixtures.record(SPEC, LONG, packed=True)
    fixtures.database(root, own)
    other = TargetKey(key.kind, key.arch, "31c")
    filled(root, [theirs], other)
    options = ("--database", str(root), "--threads", "1")
    done = run("sweep", *options, "--shape", "1x9", "--lens", "full")
    assert done.returncode == 0, done.stderr
    (sweep,) = read_sweeps(root / str(key)).values()
    assert {*sweep.records} == {own.record_id, theirs.record_id}
    assert read_sweeps(root / str(other)) == {}
    done = said("sweep", *options)
    assert "nothing to do" in done.stdout
    (data,) = explained("--heads", "2/1x16", *options)
    tiers = {each["record"]: (each["tier"], each["tuned_for"]) for each in data["kernels"]}
    assert tiers[own.record_id] == ("exact", str(key))
    assert tiers[theirs.record_id] == ("family", str(other))
    assert data["boundaries"]["points"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "1"], "tune one first; run: prefilltune tune --target llvm"),
        (["--heads", "13x48"], "no record for padded_hq13_hkv13_d48_float32"),
        (
            ["--heads", "13x48"],
            "or among the committed ones; tune it first, on the shapes that you "
            "serve, such as 1x128; run: prefilltune tune --target llvm --heads",
        ),
        (["--heads", "13x48", "--lens", "short"], "'short'"),
        (["--heads", "13x48", "--target", "nvidia/nvidia-h100"], "no GPU that runs code for"),
    ],
)
def test_a_sweep_of_what_cannot_be(arguments: list[str], message: str, tmp_path: Path) -> None:
    if "--target" in arguments and Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has a GPU")
    done = said("sweep", *arguments, "--database", str(tmp_path / "database"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "database").exists()


@needs_cpp
def test_the_cpp_example_runs_a_built_library(dist: Path, tmp_path: Path) -> None:
    check_cpp_example(dist, tmp_path)


def test_presets_are_listed() -> None:
    done = run("presets", COLUMNS="200")
    assert done.returncode == 0
    assert "bge-base" in done.stdout
    assert "llama-3-8b" in done.stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("tune", "--heads needs a shape"),
        ("compare", "no record for padded_hq13_hkv13_d48"),
        ("build", "no record for padded_hq13_hkv13_d48"),
    ],
)
def test_heads_alone_mean_the_shapes_that_have_a_record(
    command: str, message: str, tmp_path: Path
) -> None:
    done = said(command, "--heads", "13x48", "--database", str(tmp_path / "database"))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "bge-bse"], "bge-base"),
        (["--model", "bge-base", "--heads", "2x16"], "give either --model"),
        (["--heads", "12", "--shape", "1x8"], "write QOxDIM or QO/KVxDIM"),
        (["--heads", "6/4x16", "--shape", "1x8"], "num_kv_heads 4 does not divide"),
        (["--heads", "0x16", "--shape", "1x8"], "num_qo_heads is 0"),
        ([*SMALL, "--mask-mode", "diagonal"], "mask mode 'diagonal' is unknown"),
        ([*SMALL, "--window", "5"], "window is '5'; write LEFT,RIGHT"),
        ([*SMALL, "--softcap", "none"], "softcap is 'none'; write CAP"),
        ([*SMALL, "--dtype", "float8"], "dtype 'float8' is unknown"),
        (["--heads", "2x16", "--shape", "0x24"], "batch is 0"),
        (["--heads", "2x16", "--shape", "1x-4"], "qo_len is -4"),
        (["--heads", "2x16", "--shape", "wide"], "'wide' is not a shape"),
        ([*SMALL, "--target", "gpu"], "target 'gpu' is unknown"),
        ([*SMALL, "--target", "cuda"], "no CUDA device"),
        ([*SMALL, "--target", "cuda", "--arch", "sm_80"], "no GPU that runs code for cuda-sm_80"),
        ([*SMALL, "--target", "nvidia/nvidia-h100"], "no GPU that runs code for cuda-sm_90a"),
        ([*SMALL, "--arch", "sm_90a"], "--arch sm_90a goes with --target cuda"),
        ([*SMALL, "--threads", "0"], "--threads is 0"),
    ],
)
@pytest.mark.parametrize("command", ["tune", "compare"])
def test_bad_input_is_one_line_and_exit_code_2(
    command: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    if message.startswith("no ") and "cuda" in arguments and Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has a GPU")
    root = tmp_path / "database"
    done = said(command, *arguments, "--database", str(root))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("prefilltune: ")
    assert done.stderr.count("\n") == 1
    assert not root.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lens", "short"], "'short'"),
        (["--lens", "histogram:/no/such/file.csv"], "/no/such/file.csv"),
        (["--trials", "0"], "--trials is 0"),
        (["--budget", "soon"], "'soon' is no duration"),
        (["--space", "llvm_magic"], "'llvm_magic' is no design space"),
        (["--keep", "0"], "--keep is 0"),
        (["--seed", "-1"], "--seed is -1"),
    ],
)
def test_bad_options_of_a_search(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = said("tune", *SMALL, *arguments, "--database", str(tmp_path / "database"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
    assert not (tmp_path / "database").exists()


def test_tune_needs_a_workload(tmp_path: Path) -> None:
    done = said("tune", "--database", str(tmp_path / "database"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "give either --model" in done.stderr


def test_without_a_record_compare_says_which_command_makes_one(tmp_path: Path) -> None:
    done = said("compare", *SMALL, "--database", str(tmp_path), "--threads", "1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "prefilltune tune" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_case_that_cannot_be_compared_keeps_no_other_from_it(tmp_path: Path) -> None:
    heads = ("--heads", "2/1x16", "--database", str(tmp_path), "--threads", "1")
    done = said("compare", *heads, "--shape", "2x24", "--shape", "2x48")
    assert done.returncode == 2
    # Once each, though of two length distributions.
    first, second = done.stderr.splitlines()
    assert ("b2_q24_kv24" in first, "b2_q48_kv48" in second) == (True, True)


def test_a_shape_that_is_given_twice_is_one() -> None:
    assert parse_shapes(["4x128", "4x128x128", "2x64"]) == [
        PrefillShape(4, 128), PrefillShape(2, 64),
    ]  # fmt: skip


def test_without_a_compiler(tmp_path: Path) -> None:
    done = run("tune", *SMALL, "--database", str(tmp_path / "database"), PATH=str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no C++ compiler found" in done.stderr


def _copied(database: Path, root: Path) -> Path:
    """A copy under ``root`` of the one folder of records in ``database``."""
    (folder,) = (path for path in database.iterdir() if path.is_dir())
    copy = root / folder.name
    copy.mkdir()
    for path in folder.glob("*.json"):
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_records_of_another_tvm_are_refused_by_name(database: Path, tmp_path: Path) -> None:
    copy = _copied(database, tmp_path)
    provenance = json.loads((copy / "provenance.json").read_text())
    provenance["tvm"] = "0.26.0"
    (copy / "provenance.json").write_text(json.dumps(provenance))
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    for command in ("tune", "compare", "build"):
        done = said(command, *SMALL, "--database", str(tmp_path), "--threads", "1")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "0.26.0" in done.stderr
        assert "0.27" in done.stderr
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_a_bad_line_is_named_and_skipped(dist: Path) -> None:
    (records,) = dist.parent.glob("*/records.json")
    lines = records.read_text().count("\n")
    stderr = (dist.parent / "stderr").read_text()
    assert f"records.json:{lines}: skipped: not a record" in stderr


def test_a_database_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / "database"
    done = run("tune", *SMALL, "--trials", "4", "--database", str(root), "--threads", "1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert str(root) in done.stderr
