"""The cases of TVM's own test of its masked prefill kernel, with the drop-in in its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from dispatch_fixtures import record, target
from extreme_inputs import run_on_cpu
from kernel_checks import kernel_error
from tvm.relax.frontend.nn.llm.kv_cache import _attention_sequence_prefill_with_mask
from tvm_cases import CASES, database_of_cases

from prefilltune.database import NoRecordError
from prefilltune.tuning.deployment import sequence_prefill_with_mask
from prefilltune.workloads import (
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    make_inputs,
    max_error,
    reference_attention,
)

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory):
    """A database of records that nobody timed."""
    return database_of_cases(
        tmp_path_factory.mktemp("database"),
        target().key,
        lambda spec: record(spec, PrefillShape(2, 16), packed=True),
        lambda spec: record(spec, PrefillShape(4, 64), q_tile=32, packed=True),
    )


@pytest.fixture(scope="module")
def drop_in(tuned) -> Make:
    """Makes kernels, each once."""
    made: dict[tuple[int, str], Any] = {}

    def make(h_kv: int, mask_mode: str) -> Any:
        if (h_kv, mask_mode) not in made:
            llvm = target().target
            # As TVM's test calls TVM's factory, but for the database.
            function = sequence_prefill_with_mask(
                h_kv=h_kv, h_q=4, d=64, dtype="float16", target=llvm, sm_scale=0.125,
                mask_mode=mask_mode, database=tuned,
            )  # fmt: skip
            module = tvm.IRModule({"main": function})
            made[h_kv, mask_mode] = tvm.tirx.build(module["main"], target=llvm)
        return made[h_kv, mask_mode].main

    return make


@pytest.mark.parametrize(
    "mask_mode", ["causal_padded_left", pytest.param("padded", marks=pytest.mark.slow)]
)
@CASES
def test_cases_of_tvm(
    drop_in: Make,
    mask_mode: str,
    h_kv: int,
    batch: int,
    qo_len: int,
    kv_len: int,
    valid_lens: list[int],
    mask_modes: tuple[str, ...],
) -> None:
    if mask_mode not in mask_modes:
        pytest.skip("TVM has the case for another mask alone")
    spec = PrefillSpec(4, h_kv, 64, "float16", mask_mode)
    shape = PrefillShape(batch, qo_len, kv_len)
    error = kernel_error(drop_in(h_kv, mask_mode), spec, shape, np.array(valid_lens), seed=0)
    assert error <= TOLERANCE["float16"]


def test_names_shapes_and_dtypes_are_those_of_tvm(tuned) -> None:
    fields = {"kind": "cuda", "arch": "sm_80", "max_shared_memory_per_block": 49152}
    theirs = _attention_sequence_prefill_with_mask(
        2, 4, 64, "float16", tvm.target.Target(fields), 0.125, mask_mode="padded"
    )
    ours = sequence_prefill_with_mask(2, 4, 64, "float16", target().target, 0.125, database=tuned)
    for name in ("global_symbol", "tirx.is_scheduled"):
        assert ours.attrs[name] == theirs.attrs[name]

    def signature(function: Any) -> str:
        (line,) = [each for each in function.script().splitlines() if each.startswith("def ")]
        return re.sub(r", align=\d+", "", line)  # ours takes tensors that begin anywhere

    assert signature(ours) == signature(theirs)


def test_the_baseline_stands_in_where_it_is_asked_to(tmp_path) -> None:
    fields = {"kind": "cuda", "arch": "sm_80", "max_shared_memory_per_block": 49152}
    arguments = (2, 4, 64, "float16", tvm.target.Target(fields), 0.125)
    with pytest.warns(
        UserWarning, match="TVM's hand-written kernel does; run, on .*: prefilltune tune"
    ):
        ours = sequence_prefill_with_mask(*arguments, database=tmp_path, on_missing="baseline")
    theirs = _attention_sequence_prefill_with_mask(*arguments)
    tvm.ir.assert_structural_equal(
        ours.without_attr("global_symbol"), theirs.without_attr("global_symbol")
    )
    assert ours.attrs["global_symbol"] == theirs.attrs["global_symbol"]


def test_records_serve_whatever_the_dtype_of_the_lse(tuned) -> None:
    """They are of 16 bits; a kernel whose LSE is float32 is made of the same schedules."""
    llvm, spec = target().target, PrefillSpec(4, 2, 64, "float16", lse_dtype="float32")
    function = sequence_prefill_with_mask(
        2, 4, 64, "float16", llvm, 0.125, lse_dtype="float32", database=tuned
    )
    assert [str(each.dtype) for each in function.params[-2:]] == ["float16", "float32"]
    kernel = tvm.tirx.build(function, target=llvm).main
    for shape, lens in ((PrefillShape(3, 19), [0, 7, 19]), (PrefillShape(4, 80), [80, 1, 3, 79])):
        inputs = make_inputs(spec, shape, np.array(lens), 0, poison_padding=True)
        output, lse = run_on_cpu(kernel, spec, inputs)
        arrays = inputs.arguments
        expected = reference_attention(spec, *arrays)
        assert max_error(output, expected[0]) <= TOLERANCE["float16"]
        assert max_error(lse, expected[1]) <= 1e-5


def test_tvm_has_no_other_lse_to_stand_in(tmp_path) -> None:
    fields = {"kind": "cuda", "arch": "sm_80", "max_shared_memory_per_block": 49152}
    with pytest.raises(NoRecordError, match=r"no prefill kernel for .*_lsefloat32 on cuda to fall"):
        sequence_prefill_with_mask(
            2, 4, 64, "float16", tvm.target.Target(fields), 0.125, lse_dtype="float32",
            database=tmp_path, on_missing="baseline",
        )  # fmt: skip
