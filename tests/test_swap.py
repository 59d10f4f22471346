"""TVM's own kernel in a Relax module, swapped for tuned ones; what is left is said, or an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from dispatch_fixtures import record
from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op
from tvm.target import Target

from prefilltune.database import RecordStore, TargetKey, committed_root
from prefilltune.tuning import swap_prefill_kernels, swap_prefill_pass
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.deployment import Point, Sweep, candidates, choose_serving, write_sweep
from prefilltune.tuning.errors import NotSwappedError
from prefilltune.workloads import (
    PrefillShape,
    PrefillSpec,
    make_inputs,
    masked_baseline,
    max_error,
    reference_attention,
)

SPEC = PrefillSpec(4, 2, 16, "float32", "causal_padded_left", 0.3)
GPU = Target({"kind": "cuda", "arch": "sm_80", "max_num_threads": 1024})
NAME = "batch_sequence_prefill_kv_masked"
EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "relax"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _recorded(tmp_path_factory.mktemp("records"), SPEC, PrefillShape(2, 24))


def _recorded(root: Path, spec: PrefillSpec, shape: PrefillShape) -> Path:
    """A database of this machine with a record that nobody timed; returns ``root``."""
    store = RecordStore.open(root, resolve_target("llvm").key, create=True)
    store.add([record(spec, shape)])
    return root


class _Model(nn.Module):
    def __init__(self, kernel: Any, twice: bool = False) -> None:
        self.kernel, self.twice = kernel, twice

    def _attend(self, *inputs: nn.Tensor) -> nn.Tensor:
        query = inputs[0]
        outputs = [nn.Tensor.placeholder(query.shape, query.dtype),
                   nn.Tensor.placeholder(query.shape[:3], query.dtype)]  # fmt: skip
        return op.tensor_ir_op(self.kernel, NAME, list(inputs), outputs)[0]

    def forward(
        self, query: nn.Tensor, key: nn.Tensor, value: nn.Tensor, valid_lens: nn.Tensor
    ) -> nn.Tensor:
        once = self._attend(query, key, value, valid_lens)
        return self._attend(once, key, value, valid_lens) if self.twice else once


def _module(spec: PrefillSpec, kernel: Any = None, **options: Any) -> tvm.IRModule:
    if kernel is None:
        kernel = masked_baseline(spec, GPU)["main"].with_attr("global_symbol", NAME)
    batch, rows, columns = "batch", "qo_len", "kv_len"
    query = nn.spec.Tensor([batch, rows, spec.num_qo_heads, spec.head_dim], spec.dtype)
    key = nn.spec.Tensor([batch, columns, spec.num_kv_heads, spec.head_dim], spec.dtype)
    lens = nn.spec.Tensor([batch], "int32")
    inputs = {"query": query, "key": key, "value": key, "valid_lens": lens}
    return _Model(kernel, **options).export_tvm({"forward": inputs})[0]


def test_a_swapped_model_computes_the_same(database: Path) -> None:
    module = _module(SPEC, twice=True)
    before = tvm.ir.save_json(module)
    swapped, report = swap_prefill_kernels(module, "llvm", database=database)
    assert tvm.ir.save_json(module) == before
    assert [(each.name, each.swapped, each.reason) for each in report] == [(NAME, True, "")]
    assert report[0].plan is not None
    assert report[0].plan.spec == SPEC  # the scale and the mask were found in the function
    target = resolve_target("llvm").target
    machine = relax.VirtualMachine(relax.build(swapped, target), tvm.cpu())
    lens = np.array([19, 0, 1, 33], "int32")
    for shape in (PrefillShape(4, 21, 33), PrefillShape(4, 24)):
        inputs = make_inputs(SPEC, shape, lens, 7)
        arrays = inputs.arguments
        found = machine["forward"](*map(tvm.runtime.tensor, arrays)).numpy()
        once, _ = reference_attention(SPEC, *arrays)
        twice, _ = reference_attention(SPEC, once.astype("float32"), *arrays[1:])
        assert max_error(found, twice) <= 2e-5, shape


def test_the_pass_reports_in_the_module(database: Path) -> None:
    swapped = swap_prefill_pass("llvm", database=database)(_module(SPEC))
    (report,) = json.loads(swapped.attrs["prefilltune.swaps"])
    assert report["swapped"]
    assert report["plan"]["kernels"][0]["tier"] == "exact"
    assert not swapped[NAME].script().count("blockIdx")


def test_a_spec_without_a_record_is_an_error_or_is_left(database: Path) -> None:
    other = PrefillSpec(2, 2, 16, "float32")
    module = _module(other)
    with pytest.raises(NotSwappedError, match="prefilltune tune"):
        swap_prefill_kernels(module, "llvm", database=database)
    same, report = swap_prefill_kernels(module, "llvm", database=database, allow_left=True)
    assert not report[0].swapped
    assert str(other) in report[0].reason
    assert tvm_ffi.structural_equal(same[NAME], module[NAME])


def test_a_kernel_that_was_changed_is_not_taken_for_tvms(database: Path) -> None:
    other = masked_baseline(SPEC, GPU)["main"]
    extra = tvm.tirx.SeqStmt([tvm.tirx.Evaluate(tvm.tirx.const(0, "int32")), other.body])
    module = _module(SPEC, other.with_body(extra).with_attr("global_symbol", NAME))
    with pytest.raises(NotSwappedError, match="it is not what TVM"):
        swap_prefill_kernels(module, "llvm", database=database)


def test_a_module_without_the_kernel_is_an_error(database: Path) -> None:
    with pytest.raises(NotSwappedError, match="no function named"):
        swap_prefill_kernels(tvm.IRModule({}), "llvm", database=database)


def test_a_relax_model_for_a_gpu_compiles_with_tuned_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TVM's own pipeline, which knows nothing of our intrinsics.

    Of two records; that ten in one function compile is test_cross_build's.
    """
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")
    from prefilltune.database import Finder
    from prefilltune.tuning.backends.nvrtc import compile_cubin

    monkeypatch.setenv("TVM_COMPILE_FORCE_FALLBACK", "1")  # source, for a GPU that is elsewhere
    spec = PrefillSpec(32, 8, 128, "float16")
    target = resolve_target("cuda", arch="sm_90a")
    key = TargetKey.parse("cuda-sm_90a-h100")
    found = candidates(Finder([committed_root()]), [key], spec)
    if len(found) > 1 and not (committed_root() / str(key) / "dispatch.json").exists():
        points = [
            Point(PrefillShape(1, 64 << index), "full",
                  {record: 1 + (record != best) for record in found})
            for index, best in enumerate(found)
        ]  # fmt: skip
        sweep = Sweep(str(spec), 0, {"name": ""}, "", {}, tuple(found), tuple(points))
        write_sweep(tmp_path / str(key), sweep)
    swapped, report = swap_prefill_kernels(
        _module(spec), target.target, database=[tmp_path, committed_root()]
    )
    assert report[0].plan == choose_serving(spec, target, Finder([tmp_path, committed_root()]))
    with target.target:
        built = relax.build(swapped, target.target)
    (host,) = built.mod.imports
    (device,) = host.imports
    source = device.inspect_source("cuda")
    assert source.count("wgmma.mma_async") >= 2
    assert compile_cubin(source, "sm_90a").image


@pytest.fixture(scope="module")
def bert_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PrefillSpec(12, 12, 64, "float32")
    return _recorded(tmp_path_factory.mktemp("bert"), spec, PrefillShape(2, 64))


@pytest.mark.parametrize("name", ["drop_in", "encoder"])
def test_examples_run(name: str, bert_records: Path) -> None:
    if name == "encoder":
        pytest.importorskip("torch", reason="needs the extra [torch]")
    options = {"drop_in": [], "encoder": ["--shape", "2x48", "--layers", "1", "--rounds", "2"]}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--database", str(bert_records)]
    done = subprocess.run(
        [*command, *options[name]], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    assert "swapped" in done.stdout
    if name == "drop_in":
        assert float(done.stdout.rsplit(": ", 1)[1]) <= 2e-5
