"""The PyTorch operator over libraries that ``prefilltune build`` wrote."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_example import check_cpp_example, needs_cpp

from prefilltune.workloads import (
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    make_inputs,
    max_error,
    reference_attention,
)
from prefilltune.workloads.pairs import valid_positions

torch: Any = pytest.importorskip("torch", reason="needs the extra [torch]")

import prefilltune.torch as prefill  # noqa: E402
from prefilltune.torch import arguments, library, machine, op, registry  # noqa: E402

PADDED = PrefillSpec(2, 1, 16, "float32")
#: With everything that there is.
CHOSEN = PrefillSpec(
    2, 1, 16, "float32", padding="left", window=(11, 0), softcap=1.5, bias="relative"
)
#: Whose LSE is float32.
PART = PrefillSpec(2, 1, 16, "float16", lse_dtype="float32", window=(5, 3))
#: That leaves padding as it is; PADDED has the same mask but for that.
UNTOUCHED = PrefillSpec(2, 1, 16, "float32", padding_output="untouched")
TUNED = PrefillShape(2, 24)
OTHER = PrefillShape(3, 9, 31)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A library for each spec, with a kernel for TUNED and one for every shape."""
    root = tmp_path_factory.mktemp("libraries")
    run(
        str(Path(__file__).with_name("small_libraries.py")),
        str(root),
        *map(str, (PADDED, CHOSEN, PART, UNTOUCHED)),
    )
    names = {"padded": PADDED, "chosen": CHOSEN, "part": PART, "untouched": UNTOUCHED}
    return {name: root / str(spec) for name, spec in names.items()}


@pytest.fixture(autouse=True)
def loaded(libraries: dict[str, Path]) -> None:
    for folder in libraries.values():
        prefill.load(folder)


def tensors(spec: PrefillSpec, shape: PrefillShape, *lens: int) -> list[Any]:
    valid_lens = np.array(lens or [shape.num_kv] * shape.batch, "int32")
    inputs = make_inputs(spec, shape, valid_lens, 0, poison_padding=True)
    arrays = inputs.arguments
    return [torch.from_numpy(array).clone() for array in arrays]


def attention(
    spec: PrefillSpec, query: Any, key: Any, value: Any, lens: Any, bias: Any = None, **more: Any
) -> tuple[Any, Any]:
    """The operator's, with the options of a spec."""
    names = ("padding", "window", "softcap", "padding_output")
    chosen = {"bias": bias, **{name: getattr(spec, name) for name in names}}
    return prefill.sequence_prefill(query, key, value, lens, **chosen, **more)


def error(spec: PrefillSpec, inputs: list[Any], results: tuple[Any, Any]) -> float:
    expected = reference_attention(spec, *(tensor.numpy() for tensor in inputs))
    return max(
        max_error(result.numpy(), each) for result, each in zip(results, expected, strict=True)
    )


@pytest.mark.parametrize("shape", [TUNED, OTHER], ids=str)
@pytest.mark.parametrize("spec", [PADDED, CHOSEN], ids=str)
def test_it_computes_attention(spec: PrefillSpec, shape: PrefillShape) -> None:
    inputs = tensors(spec, shape, *(5, 24, 0)[: shape.batch])
    results = attention(spec, *inputs)
    assert error(spec, inputs, results) <= TOLERANCE["float32"]
    out = tuple(torch.full_like(each, float("nan")) for each in results)
    assert attention(spec, *inputs, out=out) is out
    torch.testing.assert_close(out, results, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [TUNED, OTHER], ids=str)
def test_padding_stays_as_it_is_where_a_call_says_so(shape: PrefillShape) -> None:
    inputs = tensors(UNTOUCHED, shape, *(5, 24, 0)[: shape.batch])
    expected, _ = prefill.sequence_prefill(*inputs)
    lens = inputs[3].numpy()
    rows = torch.from_numpy(valid_positions(UNTOUCHED, lens, shape.qo_len))
    assert not rows.all()
    assert not expected[~rows].any()

    def attend(*given: Any, **more: Any) -> Any:
        return prefill.sequence_prefill(*given, padding_output="untouched", **more)

    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    for output, _ in (attend(*inputs), compiled(*inputs)):
        torch.testing.assert_close(output[rows], expected[rows], rtol=0, atol=0)
    for function in (attend, compiled):
        out = torch.full_like(expected, 7.0), torch.full(expected.shape[:3], 7.0)
        function(*inputs, out=out)
        torch.testing.assert_close(out[0][rows], expected[rows], rtol=0, atol=0)
        assert all((each[~rows] == 7).all() for each in out)


def test_rows_without_any_key_are_written_unless_they_are_padding() -> None:
    query, keys = torch.ones(2, 9, 2, 16), torch.ones(2, 0, 1, 16)
    lens = torch.tensor([5, 0], dtype=torch.int32)
    out = torch.full_like(query, 7.0), torch.full((2, 9, 2), 7.0)
    attention(UNTOUCHED, query, keys, keys, lens, out=out)
    assert not out[0][0, :5].any()
    assert (out[1][0, :5] == torch.finfo(torch.float32).min).all()
    assert all((each[0, 5:] == 7).all() and (each[1] == 7).all() for each in out)


def test_a_mask_goes_by_its_name_too() -> None:
    *inputs, bias = tensors(CHOSEN, OTHER, 5, 24, 0)
    expected = attention(CHOSEN, *inputs, bias)
    results = prefill.sequence_prefill(
        *inputs, mask_mode=CHOSEN.mask_mode, softcap=CHOSEN.softcap, bias=bias
    )
    torch.testing.assert_close(results, expected, rtol=0, atol=0)
    inputs = tensors(PADDED, OTHER)
    for named in ({}, {"mask_mode": "padded"}, {"padding": "right"}, {"window": (None, None)}):
        assert error(PADDED, inputs, prefill.sequence_prefill(*inputs, **named)) <= 2e-5


def test_a_library_says_what_it_serves(libraries: dict[str, Path]) -> None:
    loaded = prefill.load(str(libraries["padded"]))
    assert loaded.path == libraries["padded"] / "libprefill.so"
    assert loaded.target["kind"] == "llvm"
    assert {kernel.shape for kernel in loaded.kernels} == {(2, 24, 24), None}
    (spec,) = {kernel.spec for kernel in loaded.kernels}
    assert spec == prefill.Spec("padded", 2, 1, 16, "float32", 0.25, "float32")
    assert "cpu: padded, heads 2/1x16, float32, sm_scale 0.25: every shape" in str(loaded)
    (spec,) = {kernel.spec for kernel in prefill.load(libraries["chosen"]).kernels}
    scores = ("float32", 0.25, "float32", 1.5, "relative")
    assert spec == prefill.Spec("padded_left_w11-0", 2, 1, 16, *scores)


@pytest.mark.slow
@needs_cpp
def test_the_cpp_example_computes_all_that_a_spec_chooses(
    libraries: dict[str, Path], tmp_path: Path
) -> None:
    check_cpp_example(libraries["chosen"], tmp_path)


def test_a_scale_that_differs_by_rounding_is_the_same() -> None:
    inputs = tensors(PADDED, OTHER)
    results = prefill.sequence_prefill(*inputs, sm_scale=0.25 + 1e-9)
    assert error(PADDED, inputs, results) <= TOLERANCE["float32"]


@pytest.mark.parametrize("shape", [(0, 24, 24), (2, 0, 24)])
def test_without_rows_there_is_nothing_to_compute(shape: tuple[int, int, int]) -> None:
    batch, qo_len, kv_len = shape
    keys = torch.zeros(batch, kv_len, 1, 16)
    lens = torch.zeros(batch, dtype=torch.int32)
    output, lse = prefill.sequence_prefill(torch.zeros(batch, qo_len, 2, 16), keys, keys, lens)
    assert (output.shape, lse.shape) == ((batch, qo_len, 2, 16), (batch, qo_len, 2))
    with pytest.raises(prefill.InvalidArgumentError, match=r"valid_lens is \[1\]"):
        prefill.sequence_prefill(torch.zeros(batch, qo_len, 2, 16), keys, keys, lens.new_zeros(1))


@pytest.mark.parametrize(("spec", "batch"), [(PADDED, 1), (PADDED, 3), (CHOSEN, 3)], ids=str)
def test_rows_without_keys_get_what_padding_gets(spec: PrefillSpec, batch: int) -> None:
    query, keys = torch.ones(batch, 9, 2, 16), torch.ones(batch, 0, 1, 16)
    lens = torch.full((batch,), 5, dtype=torch.int32)
    bias = torch.ones(2, 8) if spec.bias else None
    output, lse = attention(spec, query, keys, keys, lens, bias)
    assert (output.shape, lse.shape) == ((batch, 9, 2, 16), (batch, 9, 2))
    assert not output.any()
    assert (lse == torch.finfo(lse.dtype).min).all()


def test_opcheck() -> None:
    inputs = tensors(PADDED, OTHER, 31, 31, 31)
    output, lse = prefill.sequence_prefill(*inputs)
    torch.library.opcheck(torch.ops.prefilltune.sequence_prefill.default, inputs)
    torch.library.opcheck(torch.ops.prefilltune.sequence_prefill.out, [*inputs, output, lse])
    *inputs, bias = tensors(CHOSEN, OTHER, 31, 31, 31)
    options = {"mask_mode": CHOSEN.mask_mode, "softcap": CHOSEN.softcap, "bias": bias}
    torch.library.opcheck(torch.ops.prefilltune.sequence_prefill.default, inputs, options)


def test_compiled_for_every_length_at_once() -> None:
    def layer(query: Any, key: Any, value: Any, lens: Any, bias: Any) -> Any:
        output, lse = prefill.sequence_prefill(
            2 * query, key.sin(), value, lens,
            padding="left", window=(11, 0), softcap=1.5, bias=bias + 1,
        )  # fmt: skip
        return output + 1, lse

    from torch._dynamo.testing import CompileCounterWithBackend

    graphs = CompileCounterWithBackend("inductor")
    compiled = torch.compile(layer, backend=graphs, fullgraph=True, dynamic=True)
    for shape in (OTHER, TUNED, PrefillShape(5, 33)):
        inputs = tensors(CHOSEN, shape, *[shape.num_kv] * shape.batch)
        torch.testing.assert_close(compiled(*inputs), layer(*inputs))
    assert graphs.frame_count == 1


def test_compiled_with_a_window_that_is_an_argument() -> None:
    def layer(query: Any, key: Any, value: Any, lens: Any, bias: Any, left: int) -> Any:
        return prefill.sequence_prefill(
            query, key, value, lens, padding="left", window=(left, 0), softcap=1.5, bias=bias
        )

    inputs = tensors(CHOSEN, OTHER)
    compiled = torch.compile(layer, backend="eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(*inputs, 11), attention(CHOSEN, *inputs))
    with pytest.raises(prefill.NoKernelError, match="padded_left_w12-0"):
        compiled(*inputs, 12)


def test_compiled_into_tensors_of_the_caller() -> None:
    def layer(query: Any, key: Any, value: Any, lens: Any) -> Any:
        output, lse = torch.empty_like(query), query.new_empty(query.shape[:3])
        prefill.sequence_prefill(query, key, value, lens, out=(output, lse))
        return output + 1, lse

    inputs = tensors(PADDED, OTHER)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), layer(*inputs))


def parts(*given: Any) -> Iterator[Any]:
    """Equal tensors, as parts of what one projection made for all of them."""
    heads = [each.shape[-2] for each in given]
    rows = max(each.shape[1] for each in given)
    fused = torch.full((len(given[0]), rows, sum(heads), given[0].shape[-1]), math.nan)
    for each, part in zip(given, fused.split(heads, -2), strict=True):
        yield part[:, : each.shape[1]].copy_(each)


def heads_first(*given: Any) -> Iterator[Any]:
    return (each.transpose(1, 2).contiguous().transpose(1, 2) for each in given)


@pytest.mark.parametrize("views", [parts, heads_first])
@pytest.mark.parametrize("shape", [TUNED, OTHER], ids=str)
def test_views_are_read_where_they_are(
    shape: PrefillShape, views: Callable[..., Iterator[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kernel for one shape, and by that for every."""
    *given, lens, bias = tensors(CHOSEN, shape)
    expected = attention(CHOSEN, *given, lens, bias)
    seen = list(views(*given))
    assert not seen[0].is_contiguous()
    monkeypatch.setattr(torch.Tensor, "contiguous", None)
    found = attention(CHOSEN, *seen, lens, bias)
    assert all(map(torch.equal, found, expected))
    assert found[0].is_contiguous()


def test_the_stride_of_a_single_sequence_says_nothing() -> None:
    query, key, value, lens = tensors(PADDED, OTHER)
    expected = attention(PADDED, query, key, value, lens)
    one = [each[:1].as_strided(each[:1].shape, (1, *each.stride()[1:])) for each in (query, key)]
    found = attention(PADDED, *one, value[:1], lens[:1])
    assert all(torch.equal(each, its[:1]) for each, its in zip(found, expected, strict=True))


def test_compiled_with_views() -> None:
    def layer(fused: Any, lens: Any) -> Any:
        output, lse = prefill.sequence_prefill(*fused.split([2, 1, 1], -2), lens)
        return output.flatten(-2), lse

    *given, lens = tensors(PADDED, TUNED)
    (query, *_), fused = parts(*given), torch.cat(given, -2)
    assert query.stride() == fused.stride()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    expected = attention(PADDED, *given, lens)[0].flatten(-2)
    torch.testing.assert_close(compiled(fused, lens)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [TUNED, OTHER], ids=str)
def test_what_takes_no_views_says_so(shape: PrefillShape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for one shape, and those of a library that an earlier version built."""

    def without_views(served: Any) -> Any:
        kernels = served.kernels.items()
        kept = {at: (replace(k, views=False), run) for at, (k, run) in kernels}
        return replace(served, kernels=kept)

    known = {key: [without_views(each) for each in its] for key, its in registry._served.items()}
    monkeypatch.setattr(registry, "_served", known)
    query, key, value, lens = tensors(PADDED, shape)
    expected = attention(PADDED, query, key, value, lens)
    (seen,) = heads_first(query)
    message = r"query is a view.*query\.contiguous\(\), or build what serves every shape"
    with pytest.raises(prefill.InvalidArgumentError, match=message):
        attention(PADDED, seen, key, value, lens)
    copied = seen.contiguous()
    assert all(map(torch.equal, attention(PADDED, copied, key, value, lens), expected))


@pytest.mark.parametrize("shape", [TUNED, OTHER], ids=str)
def test_results_in_the_memory_of_inputs_are_refused(shape: PrefillShape) -> None:
    query, key, value, lens = tensors(PADDED, shape)
    before, lse = query.clone(), query.new_empty(query.shape[:3])
    with pytest.raises(prefill.InvalidArgumentError, match="output shares memory with query"):
        attention(PADDED, query, key, value, lens, out=(query, lse))
    assert torch.equal(query, before)


def test_masks_of_packed_sequences_are_refused_with_the_call_for_them() -> None:
    query, key, value, lens = tensors(PADDED, TUNED)
    for mask in ("packed", "causal_packed"):
        with pytest.raises(prefill.InvalidArgumentError, match=f"{mask!r}.*call packed_prefill"):
            prefill.sequence_prefill(query, key, value, lens, mask_mode=mask)


def test_views_that_32_bits_do_not_number_are_refused() -> None:
    """Whatever the lower 32 bits of their strides are."""
    for apart in (2**31, 2**32 + 512):
        view = torch.empty_strided((2, 8, 2, 16), (apart, 32, 16, 1), device="meta")
        with pytest.raises(prefill.InvalidArgumentError, match=r"key has .*spans 2147483648"):
            arguments.require_views(query=torch.ones(2, 8, 2, 16), key=view)


INVALID: dict[str, tuple[int, Callable[[Any], Any], str]] = {
    "int64 lengths": (3, lambda lens: lens.long(), "valid_lens.to(torch.int32)"),
    "lengths of another batch": (3, lambda lens: lens[:1], "valid_lens is [1]"),
    "lengths of two dimensions": (3, lambda lens: lens[:, None], "valid_lens is [3, 1]"),
    "query with gaps": (0, lambda query: query.repeat_interleave(2, -1)[..., ::2], "is not dense"),
    "one key for all": (
        1,
        lambda key: key[:1].expand_as(key),
        "it repeats elements; copy it: key.",
    ),
    "query without batch": (0, lambda query: query[0], "reshape it to [batch, length"),
    "key of another dtype": (1, lambda key: key.double(), "key.to(torch.float32)"),
    "key without positions": (1, lambda key: key[:, :0], "value is [3, 31, 1, 16]"),
    "key elsewhere": (1, lambda key: key.to("meta"), "key.to('cpu')"),
    "shorter value": (2, lambda value: value[:, :5].clone(), "value is [3, 5, 1, 16]"),
    "value of more heads": (2, lambda value: value.repeat(1, 1, 2, 1), "value is [3, 31, 2, 16]"),
    "bias of other lengths": (4, lambda bias: bias[:, 1:].clone(), "[num_qo_heads, qo_len + kv_"),
    "bias of one head": (4, lambda bias: bias[:1], "bias is [1, 39]"),
    "bias of one dimension": (4, lambda bias: bias[0], "bias is [39]"),
    "bias of another dtype": (4, lambda bias: bias.half(), "bias.to(torch.float32)"),
    "transposed bias": (4, lambda bias: bias.T.contiguous().T, "bias.contiguous()"),
    "bias elsewhere": (4, lambda bias: bias.to("meta"), "bias.to('cpu')"),
}


@pytest.mark.parametrize("case", INVALID)
def test_tensors_that_do_not_fit_are_refused(case: str) -> None:
    index, change, message = INVALID[case]
    inputs = tensors(CHOSEN, OTHER)
    inputs[index] = change(inputs[index])
    with pytest.raises(prefill.InvalidArgumentError) as raised:
        attention(CHOSEN, *inputs)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_mode": "padded", "padding": "left"}, "pass either"),
        ({"padding": "top"}, "expected 'right' or 'left'"),
        *(({"window": window}, "window is") for window in (64, (64,), (-1, 0), (True, 0), "4,4")),
        *(({"softcap": cap}, "a finite number above 0") for cap in (0, -1.0, math.inf, "50")),
        ({"bias": "relative"}, "bias is 'relative'; expected a float32 tensor [num_qo_heads"),
        ({"padding_output": "ones"}, "padding_output is 'ones'; expected 'zero' or 'untouched'"),
    ],
    ids=str,
)
def test_options_out_of_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(prefill.InvalidArgumentError) as raised:
        prefill.sequence_prefill(*tensors(PADDED, OTHER), **options)
    assert message in str(raised.value)


def test_results_that_do_not_fit_are_refused() -> None:
    inputs = tensors(PADDED, OTHER)
    output, lse = prefill.sequence_prefill(*inputs)
    for out, message in (
        ((output[:1], lse), "output is [1, 9, 2, 16]"),
        ((output, lse.double()), "lse.to(torch.float32)"),
    ):
        with pytest.raises(prefill.InvalidArgumentError) as raised:
            prefill.sequence_prefill(*inputs, out=out)
        assert message in str(raised.value)


@pytest.mark.parametrize("shape", [TUNED, OTHER], ids=str)
@pytest.mark.parametrize("offset", [1, 3, 16])
@pytest.mark.parametrize("spec", [PADDED, CHOSEN], ids=str)
def test_a_cpu_reads_tensors_that_begin_anywhere(
    spec: PrefillSpec, shape: PrefillShape, offset: int
) -> None:
    """Memory of NumPy's, mapped files, views into larger buffers: any element may be the first."""

    def moved(tensor: Any) -> Any:
        memory = torch.empty(tensor.numel() + 32, dtype=tensor.dtype)
        begin = -memory.data_ptr() // memory.element_size() % 16 + offset
        view = memory[begin : begin + tensor.numel()].view_as(tensor)
        assert view.data_ptr() % 64 == offset * memory.element_size() % 64
        return view.copy_(tensor)

    inputs = tensors(spec, shape, *(5, 24, 0)[: shape.batch])
    expected = attention(spec, *inputs)
    out = tuple(map(moved, expected))
    views = [moved(each) for each in inputs]
    results = attention(spec, *views, out=out)
    torch.testing.assert_close(results, expected, rtol=0, atol=0)


@pytest.mark.parametrize("compiled", [False, True])
def test_what_a_device_cannot_read_is_copied_where_the_caller_allows_it(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    """As on a GPU, of which a CPU has none of the limits."""
    monkeypatch.setitem(arguments._ALIGNMENT, "cpu", 64)
    read: list[bool] = []

    def kernel(*tensors: Any) -> None:
        read.append(all(each.data_ptr() % 64 == 0 for each in tensors[:3]))
        if not read[-1]:
            raise ValueError("q must begin at a multiple of 64 bytes")
        assert tensors[4].data_ptr() == bias.data_ptr()  # which is read one by one
        served(*tensors)

    *inputs, bias = tensors(CHOSEN, OTHER)
    bias = torch.empty(bias.numel() + 1)[1:].view_as(bias).copy_(bias)
    served = registry.find(*inputs[:3], torch.float32, None, CHOSEN.mask_mode, 1.5, bias)
    monkeypatch.setattr(op, "find", lambda *_: kernel)
    expected = attention(CHOSEN, *inputs, bias)
    memory = torch.empty(inputs[0].numel() + 1)
    query = memory[1:].view_as(inputs[0]).copy_(inputs[0])
    output = torch.empty(query.numel() + 1)[1:].view_as(query)

    def call(query: Any, *rest: Any, copy: bool) -> Any:
        out = (output, torch.empty(query.shape[:3]))
        return attention(CHOSEN, query, *rest, bias, copy_misaligned=copy, out=out)

    if compiled:
        call = torch.compile(call, backend="aot_eager", fullgraph=True)
    with pytest.raises(prefill.InvalidArgumentError) as raised:
        call(query, *inputs[1:], copy=False)
    for words in ("query begins at", "copy_misaligned=True", "query.clone()"):
        assert words in str(raised.value)
    results = call(query, *inputs[1:], copy=True)
    torch.testing.assert_close(results, expected, rtol=0, atol=0)
    assert results[0].data_ptr() == output.data_ptr()


@pytest.mark.parametrize("differentiated", [0, 4], ids=["query", "bias"])
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_are_refused_unless_they_are_off(compiled: bool, differentiated: int) -> None:
    inputs = tensors(CHOSEN, OTHER)
    inputs[differentiated].requires_grad_()

    def call(*inputs: Any) -> Any:
        return attention(CHOSEN, *inputs)

    if compiled:
        call = torch.compile(call, backend="aot_eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="inference_mode"):
        call(*inputs)
    with torch.no_grad():
        assert not call(*inputs)[0].requires_grad


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({"mask_mode": "causal_padded"}, ["--mask-mode causal_padded", "heads 2/1x16"]),
        ({"sm_scale": 0.5}, ["multiply the query by 2.0 and pass sm_scale=0.25"]),
        ({"window": (4, None), "softcap": 30}, ["--mask-mode padded_w4-open --softcap 30.0"]),
        ({"bias": torch.zeros(2, 39)}, ["--mask-mode padded --bias relative"]),
        (
            {"window": (None, 0), "padding_output": "untouched"},
            ["padding untouched", "--mask-mode causal_padded --padding-output untouched"],
        ),
        (
            {"padding": "left", "window": (11, 0), "softcap": 1.5, "bias": torch.zeros(2, 39)}
            | {"padding_output": "untouched"},
            ["pass padding_output='zero'"],
        ),
    ],
    ids=str,
)
def test_a_call_that_nothing_serves_says_what_is_loaded(
    options: dict[str, Any], messages: list[str]
) -> None:
    with pytest.raises(prefill.NoKernelError) as raised:
        prefill.sequence_prefill(*tensors(PADDED, OTHER), **options)
    chosen = "padded_left_w11-0, heads 2/1x16, float32, sm_scale 0.25, softcap 1.5, bias relative"
    for message in [chosen, *messages]:
        assert message in str(raised.value)


@pytest.mark.parametrize(
    ("dtype", "options", "message"),
    [
        (torch.float64, {}, "query is torch.float64; expected torch.float32, torch.float16, torch"),
        (torch.float32, {"mask_mode": "padded_rigth"}, "mask_mode is 'padded_rigth'; expected pad"),
        (torch.float32, {"sm_scale": float("nan")}, "sm_scale is nan; expected a finite number"),
    ],
)
def test_what_no_kernel_can_be_built_for_is_an_argument_that_is_wrong(
    dtype: Any, options: dict[str, Any], message: str
) -> None:
    *floats, lens = tensors(PADDED, OTHER)
    with pytest.raises(prefill.InvalidArgumentError, match=message):
        prefill.sequence_prefill(*(each.to(dtype) for each in floats), lens, **options)


def edited(folder: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a library with another manifest."""
    shutil.copytree(folder, to)
    manifest = json.loads((to / "manifest.json").read_text())
    change(manifest)
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda data: data.update(sha256="0" * 64), prefill.ChecksumError, "its manifest says"),
        (lambda data: data.update(schema=1), prefill.InvalidLibraryError, "schema 1; this version"),
        (lambda data: data.pop("schema"), prefill.InvalidLibraryError, "is no manifest"),
        (lambda data: data.pop("kernels"), prefill.InvalidLibraryError, "lacks 'kernels'"),
        (
            lambda data: data.update(library="gone.so"),
            prefill.InvalidLibraryError,
            "cannot be read",
        ),
        (
            lambda data: data["kernels"][0].update(spec="wide"),
            prefill.InvalidLibraryError,
            "'wide' in a manifest",
        ),
    ],
)
def test_a_library_that_is_not_what_it_says_is_refused(
    libraries: dict[str, Path],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error) as raised:
        prefill.load(edited(libraries["padded"], tmp_path / "dist", change))
    assert message in str(raised.value)


def without_requirements(data: dict[str, Any]) -> None:
    """As versions wrote it that did not ask for any."""
    del data["requires"]
    data["target"]["mcpu"] = "diamondrapids"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: data["requires"]["features"].update({"vector9": "vector_9"}),
            "the one of this machine lacks vector9; build it for this machine",
        ),
        (
            lambda data: data["requires"].update(processor="riscv64"),
            "needs a processor of kind riscv64",
        ),
        (without_requirements, "is built for diamondrapids, and this machine cannot run it"),
    ],
)
def test_a_library_of_another_machine_is_refused(
    libraries: dict[str, Path],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    with pytest.raises(prefill.WrongMachineError) as raised:
        prefill.load(edited(libraries["padded"], tmp_path / "dist", change))
    assert message in str(raised.value)
    command = "prefilltune build --target llvm --heads 2/1x16 --dtype float32 --mask-mode padded"
    assert str(raised.value).endswith(command)


def test_a_feature_that_the_system_does_not_name_is_found_all_the_same(
    libraries: dict[str, Path], tmp_path: Path
) -> None:
    def change(data: dict[str, Any]) -> None:
        features = data["requires"]["features"]
        data["requires"]["features"] = dict.fromkeys(features, "newer than this Linux")

    prefill.load(edited(libraries["padded"], tmp_path / "dist", change))


def test_a_library_for_a_gpu_is_refused_where_none_runs_it() -> None:
    data = {"target": {"kind": "cuda", "arch": "sm_90a"}, "versions": {"nvrtc": "12.9"}}
    requires = library._derived(data)
    for gpus, cuda, message in (
        (((8, 0), (8, 9)), (13, 0), "9.0 exactly (sm_90a), and this machine has 8.0, 8.9"),
        (((9, 0),), (11, 8), "a driver for CUDA 12.0 or newer, and the one of this machine is"),
        ((), (13, 0), "this machine has no GPU"),
    ):
        assert message in machine.lacking(requires, machine.Machine("x86_64", None, gpus, cuda))
    for gpus, cuda in ((((8, 0), (9, 0)), (12, 2)), (None, None)):
        assert not machine.lacking(requires, machine.Machine("x86_64", None, gpus, cuda))


def test_a_folder_without_a_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(prefill.InvalidLibraryError, match="name the folder that prefilltune build"):
        prefill.load(tmp_path)


def test_a_file_that_was_replaced_is_not_taken_for_the_new_one(
    libraries: dict[str, Path], tmp_path: Path
) -> None:
    dist = shutil.copytree(libraries["padded"], tmp_path / "dist")
    prefill.load(dist)
    prefill.load(dist)
    for path in shutil.copytree(libraries["chosen"], tmp_path / "new").iterdir():
        os.replace(path, dist / path.name)
    with pytest.raises(prefill.ChecksumError, match="restart the process"):
        prefill.load(dist)


SCRIPT = """
import sys
import torch
import prefilltune.torch as prefill
try:
    prefill.sequence_prefill(*[torch.zeros(2, 24, 2, 16)] * 3, torch.zeros(2, dtype=torch.int32))
except prefill.NoKernelError as error:
    assert "nothing is loaded" in str(error)
prefill.load(sys.argv[1])
for length in (24, 25):
    query, key = torch.ones(2, length, 2, 16), torch.ones(2, length, 1, 16)
    try:
        output, _ = prefill.sequence_prefill(
            query, key, key, torch.tensor([length, 0], dtype=torch.int32)
        )
    except prefill.NoKernelError as error:
        print(length, "no kernel")
    else:
        assert output[0].eq(1).all() and not output[1].any()
        print(length, "served")
ours = {name.split(".")[1] for name in sys.modules if name.startswith("prefilltune.")}
assert (ours, "tvm" in sys.modules) == ({"torch"}, False), ours
"""


@pytest.mark.parametrize(
    ("without", "printed"),
    [
        ((), "24 served\n25 served\n"),
        ((None,), "24 served\n25 no kernel\n"),
        (("b2_q24_kv24",), "24 served\n25 served\n"),
    ],
)
def test_a_process_of_its_own_has_no_tuner_and_no_compiler(
    libraries: dict[str, Path], tmp_path: Path, without: tuple[Any, ...], printed: str
) -> None:
    def change(data: dict[str, Any]) -> None:
        data["kernels"] = [each for each in data["kernels"] if each["shape"] not in without]

    dist = edited(libraries["padded"], tmp_path / "dist", change)
    assert run("-c", SCRIPT, str(dist)).stdout == printed


def test_an_lse_may_be_float32_where_the_rest_is_not() -> None:
    query, key, value, lens = tensors(PART, OTHER, 31, 7, 0)
    call = partial(prefill.sequence_prefill, query, key, value, lens, window=PART.window)
    output, lse = call(lse_dtype=torch.float32)
    assert (output.dtype, lse.dtype) == (torch.float16, torch.float32)
    expected = reference_attention(PART, *(each.numpy() for each in (query, key, value, lens)))
    assert max_error(output.numpy(), expected[0]) <= TOLERANCE["float16"]
    assert max_error(lse.numpy(), expected[1]) <= 1e-5  # which 16 bits are not
    into = torch.empty_like(output), torch.empty_like(lse)
    call(out=into)
    assert torch.equal(into[1], lse)
    with pytest.raises(prefill.NoKernelError, match="pass lse_dtype="):
        call()
    with pytest.raises(prefill.InvalidArgumentError, match=r"lse.to\(torch.float16\)"):
        call(lse_dtype=torch.float16, out=into)
    with pytest.raises(prefill.InvalidArgumentError, match=r"lse_dtype is torch.float64; expected"):
        call(lse_dtype=torch.float64)
    torch.library.opcheck(
        torch.ops.prefilltune.sequence_prefill.default,
        (query, key, value, lens, None, PART.mask_mode, torch.float32),
    )


def _whole(spec: PrefillSpec, parts: list[list[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """The reference on the valid keys of all parts, one after the other."""
    batch, kv_len = len(parts[0][3]), sum(part[1].shape[1] for part in parts)
    query = parts[0][0].numpy()
    key = np.full((batch, kv_len, *parts[0][1].shape[2:]), np.nan, query.dtype)
    value, lens = key.copy(), np.zeros(batch, "int32")
    for b in range(batch):
        for _, part_key, part_value, part_lens in parts:
            end = lens[b] + part_lens[b]
            key[b, lens[b] : end] = part_key[b, : part_lens[b]].numpy()
            value[b, lens[b] : end] = part_value[b, : part_lens[b]].numpy()
            lens[b] = end
    # Every query row is valid as soon as one key is: nothing of them is padded.
    single = [
        reference_attention(
            spec, query[b : b + 1], key[b : b + 1, :n], value[b : b + 1, :n], np.array([kv_len])
        )
        for b, n in enumerate(lens)
    ]
    return tuple(np.concatenate(each) for each in zip(*single, strict=True))


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_parts_merge_into_the_whole(shift: float) -> None:
    """Also where all LSEs lie far below what an empty part might be thought to have."""
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(3, 9, 2, 16, generator=generator).abs() + 0.5
    parts = []
    for lens in ((9, 24, 0), (0, 1, 0), (24, 9, 0)):
        key = torch.randn(3, 24, 1, 16, generator=generator) + shift
        value = torch.randn(3, 24, 1, 16, generator=generator)
        parts.append([query, key, value, torch.tensor(lens, dtype=torch.int32)])
    found = []
    for _, key, value, lens in parts:
        # Rows of the query are valid where `lens` says so: a part takes all of them or none.
        rows = torch.where(lens > 0, 24, 0).to(torch.int32)
        outputs = [
            prefill.sequence_prefill(
                query[b : b + 1],
                key[b : b + 1, : lens[b]].contiguous(),
                value[b : b + 1, : lens[b]].contiguous(),
                rows[b : b + 1],
            )
            for b in range(3)
        ]
        found.append([torch.cat(each) for each in zip(*outputs, strict=True)])
    output, lse = prefill.merge_parts(*zip(*found, strict=True))
    expected_output, expected_lse = _whole(PADDED, parts)
    assert max_error(output.numpy(), expected_output) <= (1e-5 if shift == 0 else 0.02)
    assert max_error(lse.numpy(), expected_lse) <= 1e-5
    assert not output[2].any()
    assert (lse[2] == torch.finfo(torch.float32).min).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_lse_outweighs_an_empty_part(dtype: Any) -> None:
    ends = torch.finfo(dtype)
    least = torch.tensor(ends.min * (1 - ends.eps / (2 - ends.eps)), dtype=dtype)
    assert ends.min < least
    for number in (least, torch.tensor(-5e4, dtype=dtype), torch.tensor(0.0, dtype=dtype)):
        lses = [number.expand(1, 1, 1), torch.full((1, 1, 1), ends.min, dtype=dtype)] * 2
        outputs = [torch.full((1, 1, 1, 4), 3.0), torch.zeros(1, 1, 1, 4)] * 2
        output, lse = prefill.merge_parts(outputs, lses)
        assert torch.equal(output, outputs[0])
        assert lse == (number.float() + 1).to(dtype)


def test_a_row_that_is_nan_in_a_part_is_nan() -> None:
    outputs, lses = torch.zeros(2, 1, 3, 1, 4), torch.zeros(2, 1, 3, 1)
    outputs[1, 0, 1], lses[1, 0, 1] = torch.nan, torch.nan
    output, lse = prefill.merge_parts(outputs.unbind(), lses.unbind())
    assert lse.isnan().flatten().tolist() == [False, True, False]
    assert output.isnan().any(-1).flatten().tolist() == [False, True, False]


def test_parts_that_do_not_fit_are_refused() -> None:
    output, lse = torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1)
    for outputs, lses, what in (
        ([], [], "0 outputs"),
        ([output], [lse, lse], "1 outputs and 2 LSEs"),
        ([output, output.half()], [lse, lse], r"outputs\[1\] is .* torch.float16"),
        ([output, output], [lse, lse[:, :1]], r"lses\[1\] is \[1, 1, 1\]"),
        ([output], [lse[..., None]], r"lses\[0\]"),
    ):
        with pytest.raises(prefill.InvalidArgumentError, match=what):
            prefill.merge_parts(outputs, lses)
