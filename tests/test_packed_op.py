"""The PyTorch operator of packed sequences, over libraries that ``prefilltune build`` wrote."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prefilltune.workloads import (
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    make_inputs,
    max_error,
    reference_packed_attention,
)

torch: Any = pytest.importorskip("torch", reason="needs the extra [torch]")

import prefilltune.torch as prefill  # noqa: E402

CAUSAL = PrefillSpec(2, 1, 16, "float32", layout="packed", window=(None, 0))
#: With everything that there is.
CHOSEN = PrefillSpec(
    2, 1, 16, "float32", layout="packed", window=(11, 3), softcap=1.5, bias="relative"
)
SHAPE, LENS = PrefillShape(4, 40, 30), (33, 0, 1, 40)
OPTIONS = {"window": CHOSEN.window, "softcap": CHOSEN.softcap}


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("libraries")
    script = str(Path(__file__).with_name("small_libraries.py"))
    subprocess.run([sys.executable, script, root, str(CAUSAL), str(CHOSEN)], check=True)
    for spec in (CAUSAL, CHOSEN):
        prefill.load(root / str(spec))


def tensors(spec: PrefillSpec, shape: PrefillShape = SHAPE, lens: Any = LENS) -> list[Any]:
    """Arguments of a call, without anything behind the last sequence."""
    query, key, value, queries, keys, *bias = make_inputs(spec, shape, np.array(lens), 0).arguments
    arrays = query[: queries[-1]], key[: keys[-1]], value[: keys[-1]], queries, keys, *bias
    return [torch.from_numpy(each).clone() for each in arrays]


def assert_right(spec: PrefillSpec, arguments: list[Any], results: Any) -> None:
    expected = reference_packed_attention(spec, *(each.numpy() for each in arguments))
    for actual, its in zip(results, expected, strict=True):
        assert max_error(actual.numpy(), its) <= TOLERANCE[spec.dtype]


def test_it_computes_every_batch_and_total() -> None:
    for shape, lens in ((SHAPE, LENS), (PrefillShape(1, 7), [7]), (PrefillShape(9, 3), [3] * 9)):
        arguments = tensors(CHOSEN, shape, lens)
        *inputs, bias = arguments
        results = prefill.packed_prefill(*inputs, bias=bias, **OPTIONS)
        assert_right(CHOSEN, arguments, results)
        out = tuple(torch.full_like(each, math.nan) for each in results)
        assert prefill.packed_prefill(*inputs, bias=bias, out=out, **OPTIONS) is out
        assert all(map(torch.equal, out, results))


def test_views_are_read_where_they_are() -> None:
    """Heads that lie among those of others, and rows."""
    query, key, value, *rest, bias = tensors(CHOSEN)
    expected = prefill.packed_prefill(query, key, value, *rest, bias=bias, **OPTIONS)
    among = [torch.cat([each, each * math.nan], 1)[:, : each.shape[1]] for each in (query, key)]
    value = value.repeat_interleave(2, 0)[::2]
    assert not any(each.is_contiguous() for each in (*among, value))
    found = prefill.packed_prefill(*among, value, *rest, bias=bias, **OPTIONS)
    assert all(map(torch.equal, found, expected))


def test_without_keys_or_queries() -> None:
    query, key, value, queries, keys = tensors(CAUSAL)
    output, lse = prefill.packed_prefill(
        query, key[:0], value[:0], queries, torch.zeros_like(keys), window=(None, 0)
    )
    assert not output.any()
    assert (lse == torch.finfo(lse.dtype).min).all()
    nothing = torch.zeros_like(queries)
    output, _ = prefill.packed_prefill(query[:0], key, value, nothing, keys, window=(None, 0))
    assert output.shape == (0, 2, 16)


def test_it_is_compiled() -> None:
    *inputs, bias = tensors(CHOSEN)
    torch.library.opcheck(
        torch.ops.prefilltune.packed_prefill.default,
        (*inputs, None, "packed_w11-3", None, CHOSEN.softcap, bias),
        test_utils=("test_schema", "test_faketensor"),
    )
    compiled = torch.compile(prefill.packed_prefill, backend="aot_eager", fullgraph=True)
    found = compiled(*inputs, bias=bias, **OPTIONS)
    assert all(map(torch.equal, found, prefill.packed_prefill(*inputs, bias=bias, **OPTIONS)))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 33, 20, 34, 74], "cu_seqlens_q decreases"),
        ([1, 33, 33, 34, 74], "cu_seqlens_q begins with 1 and ends with 74; expected 0 and 74"),
        ([0, 33, 33, 34, 75], "ends with 75; expected 0 and 74"),
        ([0, 33, 34, 74], r"cu_seqlens_kv is \[5\]"),
    ],
)
def test_offsets_that_cannot_be_are_refused(offsets: list[int], message: str) -> None:
    query, key, value, _, keys = tensors(CAUSAL)
    queries = torch.tensor(offsets, dtype=torch.int32)
    with pytest.raises(prefill.InvalidArgumentError, match=message):
        prefill.packed_prefill(query, key, value, queries, keys, window=(None, 0))


def test_what_does_not_fit_is_refused() -> None:
    query, key, value, queries, keys = tensors(CAUSAL)
    with pytest.raises(prefill.InvalidArgumentError, match="expected 3 sizes"):
        prefill.packed_prefill(query[None], key, value, queries, keys)
    with pytest.raises(prefill.InvalidArgumentError, match="copy it: query"):
        prefill.packed_prefill(query.mT.contiguous().mT, key, value, queries, keys)
    out = torch.empty(2, 74, 16).transpose(0, 1), torch.empty(74, 2)
    with pytest.raises(prefill.InvalidArgumentError, match=r"output is .*: pass a dense one"):
        prefill.packed_prefill(query, key, value, queries, keys, window=(None, 0), out=out)
    with pytest.raises(prefill.InvalidArgumentError, match=r"cu_seqlens_q\.to\(torch\.int32\)"):
        prefill.packed_prefill(query, key, value, queries.long(), keys)
    with pytest.raises(prefill.NoKernelError, match="total_q x total_kv 74x61"):
        prefill.packed_prefill(query, key, value, queries, keys, window=(3, 0))
    with pytest.raises(prefill.NotDifferentiableError):
        prefill.packed_prefill(query.requires_grad_(), key, value, queries, keys)


def test_it_stands_in_for_pytorchs() -> None:
    arguments = tensors(CAUSAL)
    given = (*arguments, 40, 30)
    aux = SimpleNamespace(lse=True)
    options = {"window_size": (-1, 0), "enable_gqa": True}
    output = prefill.varlen_attn(*given, **options)
    again, lse = prefill.varlen_attn(*given, return_aux=aux, **options)
    assert torch.equal(output, again)
    expected, expected_lse = reference_packed_attention(
        CAUSAL, *(each.numpy() for each in arguments)
    )
    assert max_error(output.numpy(), expected) <= TOLERANCE["float32"]
    sees = expected_lse[:, 0] > np.finfo("float32").min
    assert 0 < sees.sum() < len(sees)
    assert max_error(lse.numpy().T[sees], expected_lse[sees] * math.log(2)) <= TOLERANCE["float32"]
    assert (lse.numpy().T[~sees] == -np.inf).all()
    for refused in ({"block_table": lse}, {"seqused_k": lse}, {"enable_gqa": False}):
        with pytest.raises(prefill.InvalidArgumentError):
            prefill.varlen_attn(*given, **{**options, **refused})
