"""The PyTorch operator of packed sequences, over libraries that ``prefilltune build`` wrote."""

from __future__ import annotations

import json
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
from prefilltune.torch import library, packed, registry  # noqa: E402

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


def test_the_kernel_is_told_how_long_the_longest_sequence_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query, key, value, queries, keys = tensors(CAUSAL)
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(packed, "find", lambda *_: lambda *arguments: told.append(arguments))
    for said in ({}, {"max_seqlen_q": 0}, {"max_seqlen_q": 40}):
        prefill.packed_prefill(query, key, value, queries, keys, **said)
    prefill.varlen_attn(query, key, value, queries, keys, 39, 30, enable_gqa=True)
    prefill.packed_prefill(query, key, value, queries, keys, max_seqlen_q=np.int64(38))
    assert [arguments[5] for arguments in told] == [0, 0, 40, 39, 38]
    assert {len(arguments) for arguments in told} == {8}
    for wrong in (-1, 4.0, True, torch.tensor(40)):
        with pytest.raises(prefill.InvalidArgumentError, match="expected a whole number"):
            prefill.packed_prefill(query, key, value, queries, keys, max_seqlen_q=wrong)
        with pytest.raises(prefill.InvalidArgumentError, match=r"^max_q is .*; expected"):
            prefill.varlen_attn(query, key, value, queries, keys, wrong, 30, enable_gqa=True)


def test_one_number_or_another_is_no_reason_to_compile_anew() -> None:
    *inputs, bias = tensors(CHOSEN)
    expected = prefill.packed_prefill(*inputs, bias=bias, **OPTIONS)
    seen = []

    def backend(module: Any, _: Any) -> Any:
        seen.append(module)
        return module

    compiled = torch.compile(prefill.packed_prefill, backend=backend, fullgraph=True, dynamic=True)
    for longest in (40, 41, 77):
        found = compiled(*inputs, bias=bias, max_seqlen_q=longest, **OPTIONS)
        assert all(map(torch.equal, found, expected))
    assert len(seen) == 1


def test_a_library_of_an_earlier_version_is_called_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernels were not told how long the longest sequence is."""
    small = PrefillSpec(2, 1, 16, "float32", layout="packed")
    script = str(Path(__file__).with_name("small_libraries.py"))
    subprocess.run([sys.executable, script, tmp_path, str(small)], check=True)
    manifest = tmp_path / str(small) / "manifest.json"
    data = json.loads(manifest.read_text())
    (kernel,) = data["kernels"]
    assert kernel.pop("max_seqlen_q") is True
    manifest.write_text(json.dumps(data))
    told: list[tuple[Any, ...]] = []
    functions = {kernel["symbol"]: lambda *arguments: told.append(arguments)}
    monkeypatch.setattr(library, "_loaded", lambda _: functions)
    arguments = tensors(small)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_served", {})
        prefill.load(manifest.parent)
        prefill.packed_prefill(*arguments, max_seqlen_q=40)
    ((*inputs, _, _),) = told
    assert all(one is other for one, other in zip(inputs, arguments, strict=True))


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
