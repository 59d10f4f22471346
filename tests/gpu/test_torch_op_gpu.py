"""The PyTorch operator on a real GPU: on the caller's stream, in CUDA graphs, compiled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefilltune.tuning.backends.cuda import cuda_device
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.workloads import (
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    make_inputs,
    max_error,
    reference_attention,
)

torch: Any = pytest.importorskip("torch", reason="needs the extra [torch]")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        cuda_device() is None or not torch.cuda.is_available(),
        reason="no CUDA device that TVM and PyTorch can see",
    ),
]

SPEC = PrefillSpec(4, 2, 64, "float16")
SHAPES = (PrefillShape(2, 24), PrefillShape(3, 77, 301))  # with a kernel of its own, and without
CYCLES = 50_000_000  # that another kernel sleeps for: tens of milliseconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from small_libraries import build_small

    import prefilltune.torch as prefill

    path = tmp_path_factory.mktemp("library")
    build_small(path, SPEC, resolve_target("cuda"), "cuda_mma")
    prefill.load(path)
    return path


@pytest.fixture
def sequence_prefill(folder: Path) -> Any:
    from prefilltune.torch import sequence_prefill

    return sequence_prefill


def tensors(shape: PrefillShape, seed: int = 0) -> list[Any]:
    lens = np.linspace(shape.num_kv, 1, shape.batch).astype("int32")
    inputs = make_inputs(SPEC, shape, lens, seed, poison_padding=True)
    arrays = inputs.arguments
    return [torch.from_numpy(array).cuda() for array in arrays]


def error(inputs: list[Any], results: tuple[Any, Any]) -> float:
    expected = reference_attention(SPEC, *(tensor.cpu().numpy() for tensor in inputs))
    found = (result.cpu().numpy() for result in results)
    return max(max_error(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_computes_attention(sequence_prefill: Any, shape: PrefillShape) -> None:
    inputs = tensors(shape)
    assert error(inputs, sequence_prefill(*inputs)) <= TOLERANCE["float16"]


def test_it_waits_for_the_callers_stream(sequence_prefill: Any) -> None:
    right, stale = tensors(SHAPES[1], seed=1), tensors(SHAPES[1], seed=2)
    sequence_prefill(*stale)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES)
        for tensor, source in zip(stale, right, strict=True):
            tensor.copy_(source)
        results = sequence_prefill(*stale)
    assert not stream.query()  # the call itself waits for nothing
    stream.synchronize()
    assert error(right, results) <= TOLERANCE["float16"]


def test_a_cuda_graph_computes_on_new_inputs(sequence_prefill: Any) -> None:
    inputs, others = tensors(SHAPES[1], seed=1), tensors(SHAPES[1], seed=2)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        sequence_prefill(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = sequence_prefill(*inputs)
    for tensor, source in zip(inputs, others, strict=True):
        tensor.copy_(source)
    graph.replay()
    assert error(others, results) <= TOLERANCE["float16"]


def test_compiled_into_cuda_graphs(sequence_prefill: Any) -> None:
    def layer(query: Any, key: Any, value: Any, lens: Any) -> Any:
        output, lse = sequence_prefill(2 * query, key, value, lens)
        return output + 1, lse

    compiled = torch.compile(layer, mode="reduce-overhead", fullgraph=True)
    for seed in range(4):
        inputs = [tensor.nan_to_num(0, 0, 0) for tensor in tensors(SHAPES[1], seed)]
        torch.compiler.cudagraph_mark_step_begin()
        torch.testing.assert_close(compiled(*inputs), layer(*inputs), rtol=2e-3, atol=2e-3)


def test_opcheck(sequence_prefill: Any) -> None:
    inputs = [tensor.nan_to_num(0, 0, 0) for tensor in tensors(SHAPES[1])]
    out = sequence_prefill(*inputs)
    torch.library.opcheck(torch.ops.prefilltune.sequence_prefill.default, inputs)
    torch.library.opcheck(torch.ops.prefilltune.sequence_prefill.out, [*inputs, *out])


def test_tensors_elsewhere_are_refused(sequence_prefill: Any) -> None:
    inputs = tensors(SHAPES[1])
    inputs[3] = inputs[3].cpu()
    with pytest.raises(ValueError, match=r"valid_lens.to\('cuda:0'\)"):
        sequence_prefill(*inputs)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_current_device_stays_what_it_is(sequence_prefill: Any) -> None:
    inputs = [tensor.to("cuda:1") for tensor in tensors(SHAPES[1])]
    with torch.cuda.device(0):
        results = sequence_prefill(*inputs)
        assert torch.cuda.current_device() == 0
    assert error(inputs, results) <= TOLERANCE["float16"]


SCRIPT = """
import sys
import torch
import prefilltune.torch as prefill
prefill.load(sys.argv[1])
query, key = (torch.ones(1, 9, heads, 64, dtype=torch.float16, device="cuda") for heads in (4, 2))
lens = torch.tensor([5], dtype=torch.int32, device="cuda")
output, _ = prefill.sequence_prefill(query, key, key, lens)
assert output[:, :5].eq(1).all() and not output[:, 5:].any()
assert "tvm" not in sys.modules
"""


def test_a_process_of_its_own_has_no_compiler(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _two_bytes_in(tensor: Any) -> Any:
    """The same numbers, from two bytes behind a multiple of 16 on."""
    room = tensor.new_empty(tensor.numel() + 1)
    moved = room[1:].view(tensor.shape)
    return moved.copy_(tensor)


def test_tensors_that_begin_anywhere_are_copied_where_the_caller_allows_it(
    sequence_prefill: Any,
) -> None:
    inputs = tensors(SHAPES[1])
    expected = sequence_prefill(*inputs)
    query, key, value = map(_two_bytes_in, inputs[:3])
    with pytest.raises(ValueError, match=r"query .*query.clone\(\)"):
        sequence_prefill(query, *inputs[1:])
    with pytest.raises(ValueError, match=r"value .*value.clone\(\)"):
        sequence_prefill(*inputs[:2], value, inputs[3])
    arguments = (query, key, value, inputs[3])
    found = sequence_prefill(*arguments, copy_misaligned=True)
    into = tuple(_two_bytes_in(torch.full_like(each, torch.nan)) for each in expected)
    with pytest.raises(ValueError, match="output"):
        sequence_prefill(*inputs, out=into)
    sequence_prefill(*arguments, out=into, copy_misaligned=True)
    for results in (found, into):
        assert all(map(torch.equal, results, expected))


def test_copies_are_part_of_a_cuda_graph(sequence_prefill: Any) -> None:
    first, second = tensors(SHAPES[1], seed=1), tensors(SHAPES[1], seed=2)
    inputs = [*map(_two_bytes_in, first[:3]), first[3]]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        sequence_prefill(*inputs, copy_misaligned=True)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = sequence_prefill(*inputs, copy_misaligned=True)
    for tensor, source in zip(inputs, second, strict=True):
        tensor.copy_(source)
    graph.replay()
    assert error(second, results) <= TOLERANCE["float16"]


def test_an_lse_of_float32_merges_parts(sequence_prefill: Any, tmp_path: Path) -> None:
    from small_libraries import build_small

    import prefilltune.torch as prefill

    spec = PrefillSpec(4, 2, 64, "float16", lse_dtype="float32")
    build_small(tmp_path, spec, resolve_target("cuda"), "cuda_mma")
    prefill.load(tmp_path)
    inputs = make_inputs(spec, PrefillShape(2, 150), np.array([150, 150]), 0)
    query, key, value, lens = (torch.from_numpy(each).cuda() for each in inputs.arguments)
    parts = [
        sequence_prefill(
            query, key[:, part].contiguous(), value[:, part].contiguous(), lens,
            lse_dtype=torch.float32,
        )
        for part in (slice(0, 40), slice(40, 150))
    ]  # fmt: skip
    arrays = inputs.arguments
    expected = reference_attention(spec, *arrays)
    output, lse = prefill.merge_parts(*zip(*parts, strict=True))
    assert lse.dtype == torch.float32
    assert max_error(lse.cpu().numpy(), expected[1]) <= 1e-5
    assert max_error(output.cpu().numpy(), expected[0]) <= TOLERANCE["float16"]
