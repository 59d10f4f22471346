"""What a user of PyTorch would pick for a padded batch instead: the peers of a comparison.

Masks, block masks and offsets are made ahead of the clock, as a model makes them once for all of
its layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...workloads import PrefillShape, PrefillSpec
from .comparison import DENSE, MASKED, PACKED
from .torch_problem import Problem, seen_keys, valid_positions


@dataclass(frozen=True)
class Prepared:
    """A call that is ready to be timed.

    Parameters
    ----------
    call : Callable
        Takes nothing; its result is on the device.
    padded : Callable
        Takes that result to ``[batch, qo_len, num_qo_heads, head_dim]``.
    """

    call: Callable[[], Any]
    padded: Callable[[Any], Any]


@dataclass(frozen=True)
class TorchPeer:
    """A way to compute attention with PyTorch.

    Parameters
    ----------
    name : str
        In comparison files.
    kind : str
        As in :class:`~.comparison.Peer`.
    prepare : Callable[[Problem], Prepared]
        May raise anything: not every PyTorch has every peer, nor every peer every workload.
    """

    name: str
    kind: str
    prepare: Callable[[Problem], Prepared]


def _heads_first(tensor: Any) -> Any:
    return tensor.transpose(1, 2)


def _sdpa(problem: Problem, mask: Any, is_causal: bool) -> Prepared:
    import torch  # pyright: ignore[reportMissingImports]

    tensors = [_heads_first(each) for each in (problem.query, problem.key, problem.value)]

    def call() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(
            *tensors, attn_mask=mask, is_causal=is_causal,
            scale=problem.spec.scale, enable_gqa=problem.spec.group_size > 1,
        )  # fmt: skip

    return Prepared(call, _heads_first)


def _sdpa_mask(problem: Problem) -> Prepared:
    mask = seen_keys(problem)[:, None].expand(-1, 1, problem.shape.qo_len, -1)
    return _sdpa(problem, mask, is_causal=False)


def _sdpa_dense(backend: str) -> Callable[[Problem], Prepared]:
    def prepare(problem: Problem) -> Prepared:
        from torch.nn.attention import (  # pyright: ignore[reportMissingImports]
            SDPBackend,
            sdpa_kernel,
        )

        plain = _sdpa(problem, None, is_causal=problem.spec.mask_mode != "padded")

        def call() -> Any:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return plain.call()

        return Prepared(call, plain.padded)

    return prepare


def _flex(problem: Problem) -> Prepared:
    from torch.nn.attention.flex_attention import (  # pyright: ignore[reportMissingImports]
        create_block_mask,
    )

    spec, shape = problem.spec, problem.shape
    sizes = (shape.batch, None, shape.qo_len, shape.num_kv)
    block_mask = create_block_mask(_flex_mask(problem), *sizes, device=problem.device)
    tensors = [_heads_first(each) for each in (problem.query, problem.key, problem.value)]
    attend = _flex_attention(spec, shape, problem.device.type)

    def call() -> Any:
        return attend(
            *tensors, block_mask=block_mask, scale=spec.scale, enable_gqa=spec.group_size > 1
        )

    return Prepared(call, _heads_first)


def _flex_mask(problem: Problem) -> Callable[..., Any]:
    lens, qo_len, kv_len = problem.valid_lens, problem.shape.qo_len, problem.shape.num_kv

    def padded(batch: Any, head: Any, row: Any, column: Any) -> Any:
        return (row < lens[batch]) & (column < lens[batch])

    def causal_padded_left(batch: Any, head: Any, row: Any, column: Any) -> Any:
        return (
            (row >= qo_len - lens[batch])
            & (column >= kv_len - lens[batch])
            & (column <= row + (kv_len - qo_len))
        )

    return padded if problem.spec.mask_mode == "padded" else causal_padded_left


@lru_cache(maxsize=1)
def _flex_attention(spec: PrefillSpec, shape: PrefillShape, device: str) -> Callable[..., Any]:
    """Compiled once for a workload, whatever its lengths; as it is on a CPU, where nobody waits."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn.attention.flex_attention import (  # pyright: ignore[reportMissingImports]
        flex_attention,
    )

    if device == "cpu":
        return flex_attention
    torch._dynamo.reset()  # past a few shapes it would compile no more, and run it unfused
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _varlen_packed(problem: Problem) -> Prepared:
    pack_queries, pack_keys, unpack, attend = _varlen(problem)
    query = pack_queries(problem.query)
    key, value = pack_keys(problem.key), pack_keys(problem.value)
    return Prepared(lambda: attend(query, key, value), unpack)


def _varlen_with_packing(problem: Problem) -> Prepared:
    pack_queries, pack_keys, unpack, attend = _varlen(problem)

    def call() -> Any:
        query = pack_queries(problem.query)
        return unpack(attend(query, pack_keys(problem.key), pack_keys(problem.value)))

    return Prepared(call, lambda output: output)


def _varlen(problem: Problem) -> tuple[Callable[..., Any], ...]:
    """How to pack queries, pack keys and values, unpack the output, and attend."""
    from torch.nn.attention.varlen import varlen_attn  # pyright: ignore[reportMissingImports]

    spec, shape = problem.spec, problem.shape
    queries, offsets_q, longest_q = _packing(problem, shape.qo_len)
    keys, offsets_k, longest_k = _packing(problem, shape.num_kv)
    options: dict[str, Any] = {"scale": spec.scale}
    if spec.mask_mode != "padded":
        options["window_size"] = (-1, 0)
    repeats = spec.group_size
    if repeats > 1 and "enable_gqa" in inspect.signature(varlen_attn).parameters:
        options["enable_gqa"], repeats = True, 1

    def pack_queries(tensor: Any) -> Any:
        return tensor.flatten(0, 1)[queries]

    def pack_keys(tensor: Any) -> Any:
        packed = tensor.flatten(0, 1)[keys]
        return packed.repeat_interleave(repeats, 1) if repeats > 1 else packed

    def unpack(packed: Any) -> Any:
        output = problem.query.new_empty(problem.query.shape)
        output.view(-1, *packed.shape[1:])[queries] = packed
        return output

    def attend(query: Any, key: Any, value: Any) -> Any:
        return varlen_attn(query, key, value, offsets_q, offsets_k, longest_q, longest_k, **options)

    return pack_queries, pack_keys, unpack, attend


def _packing(problem: Problem, length: int) -> tuple[Any, Any, int]:
    """Indices of the valid positions of ``[batch * length]``, offsets of each, and the longest."""
    import torch  # pyright: ignore[reportMissingImports]

    valid = valid_positions(problem, length)
    counts = valid.sum(1)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
    return valid.flatten().nonzero()[:, 0], offsets, int(counts.max())


PEERS = (
    TorchPeer("torch_sdpa_mask", MASKED, _sdpa_mask),
    TorchPeer("torch_flex", MASKED, _flex),
    TorchPeer("torch_varlen_with_packing", MASKED, _varlen_with_packing),
    TorchPeer("torch_varlen_packed", PACKED, _varlen_packed),
    TorchPeer("torch_cudnn_dense", DENSE, _sdpa_dense("CUDNN_ATTENTION")),
    TorchPeer("torch_flash_dense", DENSE, _sdpa_dense("FLASH_ATTENTION")),
)


@lru_cache(maxsize=1)
def matrix_product(dtype: str, size: int, device: str) -> Callable[[], Any]:
    """A call of a ``size``-cubed product: the peak that the device reaches."""
    import torch  # pyright: ignore[reportMissingImports]

    left, right = (
        torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2)
    )
    out = torch.empty_like(left)

    def call() -> Any:
        return torch.matmul(left, right, out=out)

    call()
    return call
