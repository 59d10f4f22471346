"""Records of a GPU elsewhere become a library here, on a machine that may have none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from database_fixtures import PROVENANCE, trace_of
from gpu_kernels import SHAPE, SPEC, row_kernel
from tvm.s_tir import Schedule
from typer.testing import CliRunner

from prefilltune.database import RecordStore, TargetKey, entry_from
from prefilltune.database.folders import target_keys
from prefilltune.tuning.backends.cuda import cuda_device
from prefilltune.tuning.backends.cuda_code import _string
from prefilltune.tuning.backends.resolving import machine_for, resolve_target
from prefilltune.tuning.cli import app
from prefilltune.tuning.spaces import SPACES, DesignSpace, Variant
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import PrefillShape, PrefillSpec

pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")

KEY = TargetKey.parse("cuda-sm_80-a100")
WORKLOAD = ("--heads", "2x16", "--dtype", "float32", "--shape", str(SHAPE))


class _Rows(DesignSpace):
    """The hand-written kernel, as it is."""

    name: ClassVar[str] = "rows"
    kinds: ClassVar[frozenset[str]] = frozenset({"cuda"})
    any_shape: ClassVar[bool] = False

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        return ({},)

    def describe(self, spec: PrefillSpec, shape: PrefillShape, variant: Variant) -> Any:
        return row_kernel()

    def generator(self, spec: PrefillSpec, variant: Variant) -> Any:
        raise NotImplementedError


@pytest.fixture
def database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """One record of an A100, or of the target that a test names."""
    key = getattr(request, "param", KEY)
    monkeypatch.setitem(SPACES, _Rows.name, _Rows())
    fields = {"spec": str(SPEC), "shape": str(SHAPE), "space": _Rows.name, "variant": {}}
    provenance = type(PROVENANCE)(**{**vars(PROVENANCE), **fields})
    target = resolve_target("cuda", arch="sm_80").target
    schedule = Schedule(row_kernel())
    entry = entry_from(row_kernel(), trace_of(schedule), [2e-3], target, provenance)
    RecordStore.open(tmp_path, key, create=True).add([entry])
    return tmp_path


@pytest.mark.parametrize(
    ("database", "arch", "tier"),
    [
        (KEY, "sm_80", "family"),
        (TargetKey("cuda", "sm_80"), "sm_89", "portable"),
        (TargetKey("cuda", "sm_80"), "sm_80", "portable"),
    ],
    indirect=["database"],
    ids=["of its device", "of its level", "of the level that it is"],
)
def test_an_architecture_takes_the_nearest_records(database: Path, arch: str, tier: str) -> None:
    arguments = ["build", "--target", "cuda", "--arch", arch, *WORKLOAD]
    output = database / "dist"
    done = CliRunner().invoke(
        app, [*arguments, "--database", str(database), "--output", str(output)]
    )
    assert done.exit_code == 0, done.output
    manifest = json.loads((output / "manifest.json").read_text())
    (kernel,) = manifest["kernels"]
    (key,) = target_keys(database)
    assert (kernel["tier"], kernel["tuned_for"]) == (tier, str(key))
    assert manifest["target"]["arch"] == arch
    assert "nvrtc" in manifest["versions"]
    cuda = manifest["versions"]["nvrtc"]
    assert manifest["requires"] == {"arch": arch, "cuda": cuda}
    assert _string(b"cubin") in (output / "libprefill.so").read_bytes()


def test_a_record_of_a_gpu_belongs_to_its_device_alone(database: Path) -> None:
    if cuda_device() is None:
        assert machine_for(KEY) is None
    else:
        assert machine_for(resolve_target("cuda").key) is not None
    assert machine_for(TargetKey("cuda", "sm_80")) is None


@pytest.mark.parametrize(
    "options",
    [
        ["--heads", "32/8x128"],
        ["--heads", "12x64", "--layout", "packed"],
        pytest.param(
            ["--heads", "12x64", "--bias", "relative", "--sm-scale", "1"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["padded", "packed", "bias"],
)
def test_committed_records_of_a_gpu_become_a_library_anywhere(
    options: list[str], tmp_path: Path
) -> None:
    target = ("--target", "cuda", "--arch", "sm_90a", *options)
    done = CliRunner().invoke(app, ["build", *target, "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    kernels = json.loads((tmp_path / "manifest.json").read_text())["kernels"]
    # Packed sequences have no shapes: their one kernel chooses among those that it names.
    packed = "packed" in options
    tuned = kernels[0]["kernels"] if packed else [each for each in kernels if each["shape"]]
    assert {kernel["space"] for kernel in tuned} == {"cuda_wgmma"}
    assert _string(b"cubin") in (tmp_path / "libprefill.so").read_bytes()
