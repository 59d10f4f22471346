"""The PyTorch operator on a real GPU: on the caller's stream, in CUDA graphs, compiled."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
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

SPECS = (
    PrefillSpec(4, 2, 64, "float16"),
    PrefillSpec(4, 2, 64, "float16", padding="left", window=(90, 0), softcap=5.0, bias="relative"),
)
SHAPES = (PrefillShape(2, 24), PrefillShape(3, 77, 301))  # with a kernel of its own, and without
CYCLES = 50_000_000  # that another kernel sleeps for: tens of milliseconds


@dataclass(frozen=True)
class Attention:
    """The operator as one spec calls it, on the tensors that its kernel takes, in their order."""

    spec: PrefillSpec

    def __call__(
        self, query: Any, key: Any, value: Any, lens: Any, bias: Any = None, **more: Any
    ) -> tuple[Any, Any]:
        from prefilltune.torch import sequence_prefill

        return sequence_prefill(query, key, value, lens, **self.options, bias=bias, **more)

    @property
    def options(self) -> dict[str, Any]:
        """What the operator is told besides tensors."""
        return {"mask_mode": self.spec.mask_mode, "softcap": self.spec.softcap}

    def tensors(self, shape: PrefillShape, seed: int = 0) -> list[Any]:
        lens = np.linspace(shape.num_kv, 1, shape.batch).astype("int32")
        inputs = make_inputs(self.spec, shape, lens, seed, poison_padding=True)
        return [torch.from_numpy(array).cuda() for array in inputs.arguments]

    def error(self, inputs: list[Any], results: tuple[Any, Any]) -> float:
        expected = reference_attention(self.spec, *(tensor.cpu().numpy() for tensor in inputs))
        found = (result.cpu().numpy() for result in results)
        return max(max_error(one, other) for one, other in zip(found, expected, strict=True))


@pytest.fixture(scope="module", params=SPECS, ids=str)
def attention(request: pytest.FixtureRequest, folder: Path) -> Attention:
    return Attention(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of the first spec; those of all are loaded."""
    from small_libraries import build_small

    import prefilltune.torch as prefill

    paths = [tmp_path_factory.mktemp("library") for _ in SPECS]
    for path, spec in zip(paths, SPECS, strict=True):
        build_small(path, spec, resolve_target("cuda"), "cuda_mma")
        prefill.load(path)
    return paths[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_computes_attention(attention: Attention, shape: PrefillShape) -> None:
    inputs = attention.tensors(shape)
    assert attention.error(inputs, attention(*inputs)) <= TOLERANCE["float16"]


def test_it_waits_for_the_callers_stream(attention: Attention) -> None:
    right, stale = attention.tensors(SHAPES[1], seed=1), attention.tensors(SHAPES[1], seed=2)
    attention(*stale)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES)
        for tensor, source in zip(stale, right, strict=True):
            tensor.copy_(source)
        results = attention(*stale)
    assert not stream.query()  # the call itself waits for nothing
    stream.synchronize()
    assert attention.error(right, results) <= TOLERANCE["float16"]


def test_a_cuda_graph_computes_on_new_inputs(attention: Attention) -> None:
    inputs, others = attention.tensors(SHAPES[1], seed=1), attention.tensors(SHAPES[1], seed=2)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        attention(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = attention(*inputs)
    for tensor, source in zip(inputs, others, strict=True):
        tensor.copy_(source)
    graph.replay()
    assert attention.error(others, results) <= TOLERANCE["float16"]


def test_compiled_into_cuda_graphs(attention: Attention) -> None:
    def layer(query: Any, *others: Any) -> Any:
        output, lse = attention(2 * query, *others)
        return output + 1, lse

    compiled = torch.compile(layer, mode="reduce-overhead", fullgraph=True)
    for seed in range(4):
        inputs = [tensor.nan_to_num(0, 0, 0) for tensor in attention.tensors(SHAPES[1], seed)]
        torch.compiler.cudagraph_mark_step_begin()
        torch.testing.assert_close(compiled(*inputs), layer(*inputs), rtol=2e-3, atol=2e-3)


def test_opcheck(attention: Attention) -> None:
    inputs = [tensor.nan_to_num(0, 0, 0) for tensor in attention.tensors(SHAPES[1])]
    options = attention.options | {"bias": next(iter(inputs[4:]), None)}
    inputs, out = inputs[:4], attention(*inputs)
    torch.library.opcheck(torch.ops.prefilltune.sequence_prefill.default, inputs, options)
    torch.library.opcheck(torch.ops.prefilltune.sequence_prefill.out, [*inputs, *out], options)


def test_tensors_elsewhere_are_refused(attention: Attention) -> None:
    inputs = attention.tensors(SHAPES[1])
    inputs[3] = inputs[3].cpu()
    with pytest.raises(ValueError, match=r"valid_lens.to\('cuda:0'\)"):
        attention(*inputs)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_current_device_stays_what_it_is(attention: Attention) -> None:
    inputs = [tensor.to("cuda:1") for tensor in attention.tensors(SHAPES[1])]
    with torch.cuda.device(0):
        results = attention(*inputs)
        assert torch.cuda.current_device() == 0
    assert attention.error(inputs, results) <= TOLERANCE["float16"]


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
    attention: Attention,
) -> None:
    inputs = attention.tensors(SHAPES[1])
    expected = attention(*inputs)
    query, key, value = map(_two_bytes_in, inputs[:3])
    with pytest.raises(ValueError, match=r"query .*query.clone\(\)"):
        attention(query, *inputs[1:])
    with pytest.raises(ValueError, match=r"value .*value.clone\(\)"):
        attention(*inputs[:2], value, *inputs[3:])
    arguments = (query, key, value, *inputs[3:])
    found = attention(*arguments, copy_misaligned=True)
    into = tuple(_two_bytes_in(torch.full_like(each, torch.nan)) for each in expected)
    with pytest.raises(ValueError, match="output"):
        attention(*inputs, out=into)
    attention(*arguments, out=into, copy_misaligned=True)
    for results in (found, into):
        assert all(map(torch.equal, results, expected))


def test_views_are_read_where_they_are(attention: Attention) -> None:
    """Heads among those of others, as of one projection, and heads before rows."""
    query, key, value, *rest = attention.tensors(SHAPES[1])
    expected = attention(query, key, value, *rest)
    among = [torch.cat([each, each * torch.nan], 2)[:, :, : each.shape[2]] for each in (query, key)]
    value = value.transpose(1, 2).contiguous().transpose(1, 2)
    assert not any(each.is_contiguous() for each in (*among, value))
    assert all(map(torch.equal, attention(*among, value, *rest), expected))
    wide = torch.nn.functional.pad(key, (0, 3))[..., : key.shape[-1]]  # at 6 bytes past 16
    with pytest.raises(ValueError, match=r"key has the strides .*key\.contiguous\(\)"):
        attention(query, wide, value, *rest)
    found = attention(query, wide, value, *rest, copy_misaligned=True)
    assert all(map(torch.equal, found, expected))


def test_copies_are_part_of_a_cuda_graph(attention: Attention) -> None:
    first, second = attention.tensors(SHAPES[1], seed=1), attention.tensors(SHAPES[1], seed=2)
    inputs = [*map(_two_bytes_in, first[:3]), *first[3:]]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        attention(*inputs, copy_misaligned=True)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = attention(*inputs, copy_misaligned=True)
    for tensor, source in zip(inputs, second, strict=True):
        tensor.copy_(source)
    graph.replay()
    assert attention.error(second, results) <= TOLERANCE["float16"]


def test_an_lse_of_float32_merges_parts(tmp_path: Path) -> None:
    from small_libraries import build_small

    import prefilltune.torch as prefill

    spec = PrefillSpec(4, 2, 64, "float16", lse_dtype="float32")
    build_small(tmp_path, spec, resolve_target("cuda"), "cuda_mma")
    prefill.load(tmp_path)
    inputs = make_inputs(spec, PrefillShape(2, 150), np.array([150, 150]), 0)
    query, key, value, lens = (torch.from_numpy(each).cuda() for each in inputs.arguments)
    parts = [
        prefill.sequence_prefill(
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
