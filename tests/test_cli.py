"""The command line as a user runs it, in processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prefilltune.database import committed_root

SMALL = ["--heads", "2/1x16", "--shape", "2x24"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prefilltune.tuning", *arguments],
        capture_output=True, text=True, env={**os.environ, **environment}, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that `prefilltune tune` filled."""
    root = tmp_path_factory.mktemp("database")
    done = run(
        "tune", *SMALL, "--trials", "8", "--no-compare", "--database", str(root), "--threads", "2"
    )
    assert done.returncode == 0, done.stderr
    assert "8 trials" in done.stdout
    assert "x the baseline" in done.stdout
    return root


def test_compare_prints_a_table_and_writes_the_numbers(database: Path) -> None:
    done = run("compare", *SMALL, "--database", str(database), "--threads", "2")
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
        report = run("report", "--database", str(database), "--threads", "2")
        assert report.returncode == 0, report.stderr
        assert "| tuned |" in (folder / "report.md").read_text()


def test_compare_without_a_model_takes_every_tuned_workload_that_the_options_leave(
    database: Path, tmp_path: Path
) -> None:
    options = ("--lens", "full", "--database", str(database), "--threads", "2")
    done = run("compare", *options, "--output", str(tmp_path / "all"))
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "all" / "comparison.json").read_text())["cases"]
    assert (case["spec"], case["shape"]) == ("padded_hq2_hkv1_d16_float32_s0.25", "b2_q24_kv24")
    for left_out in (("--dtype", "float16"), ("--shape", "2x25")):
        done = run("compare", *options, *left_out, "--output", str(tmp_path / "none"))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "prefilltune tune" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_case_that_fails_is_named_and_the_others_are_kept(database: Path, tmp_path: Path) -> None:
    copy = _copied(database, tmp_path)
    common = ("--database", str(tmp_path), "--threads", "2")
    other = ("--heads", "1x16", "--shape", "1x16", "--trials", "4", "--no-compare")
    assert run("tune", *other, *common).returncode == 0
    provenance = json.loads((copy / "provenance.json").read_text())
    for record in provenance["records"].values():
        if record["shape"] == "b1_q16_kv16":
            record["space"] = "llvm_gone"
    (copy / "provenance.json").write_text(json.dumps(provenance))
    done = run("compare", "--lens", "full", "--output", str(tmp_path / "output"), *common)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "'llvm_gone'" in done.stderr
    (case,) = json.loads((tmp_path / "output" / "comparison.json").read_text())["cases"]
    assert case["shape"] == "b2_q24_kv24"


def test_report_takes_the_name_of_a_folder_of_any_machine(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra [report]")
    folder = committed_root() / "llvm-znver4-2c"
    done = run(
        "report", "--target", folder.name, "--database", str(folder.parent),
        "--output", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| geometric mean |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_build_writes_a_library_that_runs_without_prefilltune(
    database: Path, tmp_path: Path
) -> None:
    options = ("--database", str(database), "--threads", "2", "--output", str(tmp_path / "dist"))
    done = run("build", *SMALL, *options)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "dist" / "manifest.json").read_text())
    (kernel,) = manifest["kernels"]
    assert kernel["tier"] == "exact"
    script = """
import sys
import numpy as np
from tvm.runtime import load_module, tensor
kernel = load_module(sys.argv[1])[sys.argv[2]]
generator = np.random.default_rng(0)
q, k, v = (tensor(generator.standard_normal((2, 24, h, 16), "float32")) for h in (2, 1, 1))
output = tensor(np.full((2, 24, 2, 16), np.nan, "float32"))
lse = tensor(np.zeros((2, 24, 2), "float32"))
kernel(q, k, v, tensor(np.array([24, 5], "int32")), output, lse)
assert np.isfinite(output.numpy()).all() and not output.numpy()[1, 5:].any()
assert not any(name.startswith("prefilltune") for name in sys.modules)
"""
    library = str(tmp_path / "dist" / "libprefill.so")
    check = subprocess.run(
        [sys.executable, "-c", script, library, kernel["symbol"]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert check.returncode == 0, check.stderr


@pytest.mark.skipif(
    not (shutil.which("cmake") and shutil.which("c++")), reason="needs CMake and a C++ compiler"
)
def test_the_cpp_example_runs_a_built_library(database: Path, tmp_path: Path) -> None:
    import tvm

    dist = tmp_path / "dist"
    built = run(
        "build", *SMALL, "--database", str(database), "--threads", "2", "--output", str(dist)
    )
    assert built.returncode == 0, built.stderr
    example = Path(__file__).parent.parent / "examples" / "cpp"
    runtime = Path(tvm.__file__).parent / "lib"
    config = [sys.executable, "-m", "tvm_ffi.config", "--cmakedir"]
    ffi = subprocess.run(config, capture_output=True, text=True, check=True).stdout.strip()
    commands = (
        ["cmake", "-S", str(example), "-B", str(tmp_path / "made"), f"-DPREFILL_DIST={dist}",
         f"-DTVM_LIB_DIR={runtime}", f"-Dtvm_ffi_ROOT={ffi}",
         f"-DPython_EXECUTABLE={sys.executable}"],
        ["cmake", "--build", str(tmp_path / "made")],
        [str(tmp_path / "made" / "run_prefill")],
    )  # fmt: skip
    for command in commands:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False,
            env={**os.environ, "TVM_NUM_THREADS": "2"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    (kernel,) = json.loads((dist / "manifest.json").read_text())["kernels"]
    assert done.stdout.startswith(f"{kernel['symbol']}: error ")
    assert done.stdout.endswith(", right\n")


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
    done = run(command, "--heads", "13x48", "--database", str(tmp_path / "database"))
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
    done = run(command, *arguments, "--database", str(root))
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
    done = run("tune", *SMALL, *arguments, "--database", str(tmp_path / "database"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
    assert not (tmp_path / "database").exists()


def test_tune_needs_a_workload(tmp_path: Path) -> None:
    done = run("tune", "--database", str(tmp_path / "database"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "give either --model" in done.stderr


def test_without_a_record_compare_says_which_command_makes_one(tmp_path: Path) -> None:
    done = run("compare", *SMALL, "--database", str(tmp_path), "--threads", "2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "prefilltune tune" in done.stderr
    assert not list(tmp_path.iterdir())


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
        done = run(command, *SMALL, "--database", str(tmp_path), "--threads", "2")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "0.26.0" in done.stderr
        assert "0.27" in done.stderr
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_a_bad_line_is_named_and_skipped(database: Path, tmp_path: Path) -> None:
    copy = _copied(database, tmp_path)
    with (copy / "records.json").open("a") as file:
        file.write("{}\n")
    lines = (copy / "records.json").read_text().count("\n")
    output = ("--database", str(tmp_path), "--threads", "2", "--output", str(tmp_path / "dist"))
    done = run("build", *SMALL, *output)
    assert done.returncode == 0, done.stderr
    assert f"records.json:{lines}: skipped: not a record" in done.stderr


def test_a_database_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / "database"
    done = run("tune", *SMALL, "--trials", "4", "--database", str(root), "--threads", "2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert str(root) in done.stderr
