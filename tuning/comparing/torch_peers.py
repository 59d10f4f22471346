"""What a user of PyTorch would pick for a padded batch instead: the peers of a comparison.

Masks, block masks and offsets are made ahead of the clock, as a model makes them once for all of
its layers.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ...workloads import PrefillShape, PrefillSpec
from ...workloads.choices import CAUSAL, OPEN
from ...workloads.phrases import extras
from .comparison import DENSE, MASKED, PACKED
from .torch_problem import Problem, relative_bias, seen_keys, valid_positions


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
    title : str
        For people.
    kind : str
        As in :class:`~.comparison.Peer`.
    takes : tuple of str
        Names of the choices that it has a way to compute, besides padding and causality.
    prepare : Callable[[Problem], Prepared]
        May raise anything: not every PyTorch has every peer, nor every peer every workload.
    """

    name: str
    title: str
    kind: str
    takes: tuple[str, ...]
    prepare: Callable[[Problem], Prepared]

    def lacks(self, spec: PrefillSpec) -> str:
        """What of a spec it has no way to compute, in words; empty if it takes all of it.

        >>> peer = TorchPeer("dense", "dense attention", DENSE, (), _sdpa_mask)
        >>> peer.lacks(PrefillSpec(4, 2, 64, window=(64, 64), softcap=50, bias="relative"))
        'takes no window, softcap or bias'
        """
        *names, last = [each for each in extras(spec) if each not in self.takes] or [""]
        return f"takes no {' or '.join(filter(None, (', '.join(names), last)))}" if last else ""


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
    seen = seen_keys(problem)[:, None].expand(-1, 1, problem.shape.qo_len, -1)
    if problem.bias is None:
        return _sdpa(problem, seen, is_causal=False)
    added = relative_bias(problem).to(problem.query.dtype)  # what SDPA adds has its tensors' dtype
    return _sdpa(problem, added.where(seen, -math.inf), is_causal=False)


def _sdpa_dense(backend: str) -> Callable[[Problem], Prepared]:
    def prepare(problem: Problem) -> Prepared:
        from torch.nn.attention import (  # pyright: ignore[reportMissingImports]
            SDPBackend,
            sdpa_kernel,
        )

        plain = _sdpa(problem, None, is_causal=problem.spec.window == CAUSAL)

        def call() -> Any:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return plain.call()

        return Prepared(call, plain.padded)

    return prepare


def _flex(problem: Problem) -> Prepared:
    """As it is on a CPU, where a test does not wait for a compiler."""
    return _flex_with(problem, compiled=problem.device.type != "cpu")


def _flex_compiled(problem: Problem) -> Prepared:
    return _flex_with(problem, compiled=True)


def _flex_with(problem: Problem, *, compiled: bool) -> Prepared:
    from torch.nn.attention.flex_attention import (  # pyright: ignore[reportMissingImports]
        create_block_mask,
    )

    spec, shape = problem.spec, problem.shape
    sizes = (shape.batch, None, shape.qo_len, shape.num_kv)
    block_mask = create_block_mask(_flex_mask(problem), *sizes, device=problem.device)
    tensors = [_heads_first(each) for each in (problem.query, problem.key, problem.value)]
    attend, score = _flex_attention(spec, shape, compiled), _flex_score(problem)

    def calling(options: dict[str, Any] | None) -> Callable[[], Any]:
        return lambda: attend(
            *tensors, score_mod=score, block_mask=block_mask, scale=spec.scale,
            enable_gqa=spec.group_size > 1, kernel_options=options,
        )  # fmt: skip

    return Prepared(_that_fits(map(calling, _FLEX_OPTIONS)), _heads_first)


#: How FlexAttention's kernel is made: as it would be by itself, whose tiles with a bias beside them
#: are more than a multiprocessor's memory holds, and then with less in flight.
_FLEX_OPTIONS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"num_stages": 2},
    {"BLOCK_N": 64, "num_stages": 2},
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_stages": 1},
)


def _that_fits(calls: Iterable[Callable[[], Any]]) -> Callable[[], Any]:
    """The first of calls whose kernel can be made.

    Raises
    ------
    RuntimeError
        PyTorch's, if none can, or for another reason.
    """
    *others, last = calls
    for call in others:
        try:
            call()
        except RuntimeError as error:
            if "No valid triton configs" not in str(error):
                raise
        else:
            return call
    return last


def _flex_mask(problem: Problem) -> Callable[..., Any]:
    """Whether a row sees a column; block masks skip the blocks in which no row sees any."""
    qo_len, kv_len = problem.shape.qo_len, problem.shape.num_kv
    queries, keys = (problem.valid_lens.clamp(0, length) for length in (qo_len, kv_len))
    left, right = problem.spec.window

    def padded(batch: Any, head: Any, row: Any, column: Any) -> Any:
        own = row if qo_len == kv_len else row + keys[batch] - queries[batch]
        return windowed((row < queries[batch]) & (column < keys[batch]), own, column)

    def padded_left(batch: Any, head: Any, row: Any, column: Any) -> Any:
        valid = (row >= qo_len - queries[batch]) & (column >= kv_len - keys[batch])
        return windowed(valid, row + (kv_len - qo_len), column)

    def windowed(valid: Any, own: Any, column: Any) -> Any:
        if right is not None:
            valid = valid & (column <= own + right)
        if left is not None:
            valid = valid & (column >= own - left)
        return valid

    return padded_left if problem.spec.padding == "left" else padded


def _flex_score(problem: Problem) -> Callable[..., Any] | None:
    """What becomes of a scaled score; None if it stays as it is."""
    softcap, bias, last_row = problem.spec.softcap, problem.bias, problem.shape.qo_len - 1
    if softcap is None and bias is None:
        return None

    def changed(score: Any, batch: Any, head: Any, row: Any, column: Any) -> Any:
        if softcap is not None:
            score = softcap * (score / softcap).tanh()
        return score if bias is None else score + bias[head, column - row + last_row]

    return changed


@lru_cache(maxsize=1)
def _flex_attention(spec: PrefillSpec, shape: PrefillShape, compiled: bool) -> Callable[..., Any]:
    """Compiled once for a workload, whatever its lengths."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn.attention.flex_attention import (  # pyright: ignore[reportMissingImports]
        flex_attention,
    )

    if not compiled:
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
    if spec.window != OPEN:
        options["window_size"] = tuple(-1 if end is None else end for end in spec.window)
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


_SDPA = TorchPeer(
    "torch_sdpa_mask", "PyTorch SDPA with mask", MASKED, ("window", "bias"), _sdpa_mask
)
_FLEX = TorchPeer("torch_flex", "FlexAttention", MASKED, ("window", "softcap", "bias"), _flex)

PEERS = (
    _SDPA,
    _FLEX,
    TorchPeer("torch_varlen_with_packing", "varlen with packing", MASKED, ("window",),
              _varlen_with_packing),
    TorchPeer("torch_varlen_packed", "varlen, already packed", PACKED, ("window",),
              _varlen_packed),
    TorchPeer("torch_cudnn_dense", "cuDNN SDPA without mask", DENSE, (),
              _sdpa_dense("CUDNN_ATTENTION")),
    TorchPeer("torch_flash_dense", "flash SDPA without mask", DENSE, (),
              _sdpa_dense("FLASH_ATTENTION")),
)  # fmt: skip


def peers_on_a_cpu(spec: PrefillSpec) -> tuple[TorchPeer, ...]:
    """Those on a CPU, where FlexAttention takes half a minute to compile.

    It takes part where it may be the faster one: where there is a window to skip what is outside
    of, or a score that SDPA needs a mask of floats for, or cannot compute.
    """
    return (_SDPA, replace(_FLEX, prepare=_flex_compiled)) if extras(spec) else (_SDPA,)


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
