"""PyTorch's own ways to compute attention.

Masks, block masks and offsets are made ahead of the clock, as a model makes them once for all of
its layers.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from ....workloads import PrefillShape, PrefillSpec
from ....workloads.choices import CAUSAL, OPEN
from ..comparison import DENSE, MASKED, PACKED
from ..torch_problem import Problem, relative_bias, seen_keys
from .packing import packing_of
from .peer import PeerKernel, Prepared, choices_to_take, taking


def _heads_first(tensor: Any) -> Any:
    return tensor.transpose(1, 2)


def _sdpa(problem: Problem, mask: Any, is_causal: bool) -> Prepared:
    import torch  # pyright: ignore[reportMissingImports]

    spec = problem.spec

    def bind(given: Problem) -> Callable[[], Any]:
        tensors = [_heads_first(each) for each in (given.query, given.key, given.value)]
        return lambda: torch.nn.functional.scaled_dot_product_attention(
            *tensors, attn_mask=mask, is_causal=is_causal,
            scale=spec.scale, enable_gqa=spec.group_size > 1,
        )  # fmt: skip

    return Prepared(bind, _heads_first)


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

        def bind(given: Problem) -> Callable[[], Any]:
            attend = plain.bind(given)

            def call() -> Any:
                with sdpa_kernel(getattr(SDPBackend, backend)):
                    return attend()

            return call

        return Prepared(bind, plain.padded)

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
    attend, score = _flex_attention(spec, shape, compiled), _flex_score(problem)

    def calling(options: dict[str, Any] | None, given: Problem) -> Callable[[], Any]:
        tensors = [_heads_first(each) for each in (given.query, given.key, given.value)]
        return lambda: attend(
            *tensors, score_mod=score, block_mask=block_mask, scale=spec.scale,
            enable_gqa=spec.group_size > 1, kernel_options=options,
        )  # fmt: skip

    fitting = _that_fit(lambda options: calling(options, problem))
    return Prepared(partial(calling, fitting), _heads_first)


#: How FlexAttention's kernel is made: as it would be by itself, whose tiles with a bias beside them
#: are more than a multiprocessor's memory holds, and then with less in flight.
_FLEX_OPTIONS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"num_stages": 2},
    {"BLOCK_N": 64, "num_stages": 2},
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_stages": 1},
)


def _that_fit(calling: Callable[[Any], Callable[[], Any]]) -> dict[str, Any] | None:
    """The first options with which a kernel can be made.

    Raises
    ------
    RuntimeError
        PyTorch's, if it can be with none of them or not for another reason.
    """
    *others, last = _FLEX_OPTIONS
    for options in others:
        try:
            calling(options)()
        except RuntimeError as error:
            if "No valid triton configs" not in str(error):
                raise
        else:
            return options
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
    pack, unpack, attend = _varlen(problem)

    def bind(given: Problem) -> Callable[[], Any]:
        packed = pack(given)
        return lambda: attend(*packed)

    return Prepared(bind, unpack)


def _varlen_with_packing(problem: Problem) -> Prepared:
    pack, unpack, attend = _varlen(problem)
    return Prepared(lambda given: lambda: unpack(attend(*pack(given))), lambda output: output)


def _varlen(problem: Problem) -> tuple[Callable[..., Any], ...]:
    """How to pack query, key and value, unpack the output, and attend."""
    from torch.nn.attention.varlen import varlen_attn  # pyright: ignore[reportMissingImports]

    spec, shape = problem.spec, problem.shape
    queries, keys = (packing_of(problem, length) for length in (shape.qo_len, shape.num_kv))
    options: dict[str, Any] = {"scale": spec.scale}
    if spec.window != OPEN:
        options["window_size"] = tuple(-1 if end is None else end for end in spec.window)
    repeats = spec.group_size
    if repeats > 1 and "enable_gqa" in inspect.signature(varlen_attn).parameters:
        options["enable_gqa"], repeats = True, 1

    def pack_keys(tensor: Any) -> Any:
        packed = keys.pack(tensor)
        return packed.repeat_interleave(repeats, 1) if repeats > 1 else packed

    def pack(given: Problem) -> tuple[Any, Any, Any]:
        return queries.pack(given.query), pack_keys(given.key), pack_keys(given.value)

    def unpack(packed: Any) -> Any:
        return queries.unpack(packed, problem.query)

    def attend(query: Any, key: Any, value: Any) -> Any:
        return varlen_attn(
            query, key, value, queries.offsets, keys.offsets, queries.longest, keys.longest,
            **options,
        )  # fmt: skip

    return pack, unpack, attend


def _sdpa_sequences(problem: Problem) -> Prepared:
    """One call a sequence: PyTorch's own kernels of packed tensors are for GPUs alone."""
    import torch  # pyright: ignore[reportMissingImports]

    spec, shape = problem.spec, problem.shape
    queries, keys = (packing_of(problem, length) for length in (shape.qo_len, shape.num_kv))
    masks = _masks_of_sequences(problem)
    ends = zip(
        *(itertools.pairwise(each.offsets.tolist()) for each in (queries, keys)), strict=True
    )
    slices = [tuple(slice(*each) for each in both) for both in ends]
    attend = partial(
        torch.nn.functional.scaled_dot_product_attention,
        scale=spec.scale, enable_gqa=spec.group_size > 1,
    )  # fmt: skip

    def bind(given: Problem) -> Callable[[], Any]:
        query, key, value = queries.pack(given.query), keys.pack(given.key), keys.pack(given.value)

        def call() -> Any:
            output = torch.empty_like(query)
            for (rows, columns), mask in zip(slices, masks, strict=True):
                tensors = query[rows], key[columns], value[columns]
                one = attend(*(each.transpose(0, 1)[None] for each in tensors), attn_mask=mask)
                output[rows] = one[0].transpose(0, 1)
            return output

        return call

    return Prepared(bind, lambda output: queries.unpack(output, problem.query))


def _masks_of_sequences(problem: Problem) -> list[Any]:
    """What SDPA adds to the scores of each sequence, or which pairs it keeps; None for all."""
    spec, shape = problem.spec, problem.shape
    if spec.window == OPEN and problem.bias is None:
        return [None] * shape.batch
    rows, columns = (
        problem.valid_lens.clamp(0, length).tolist() for length in (shape.qo_len, shape.num_kv)
    )
    seen = seen_keys(problem).expand(-1, shape.qo_len, -1)
    each = [
        seen[b, :row, :column] for b, (row, column) in enumerate(zip(rows, columns, strict=True))
    ]
    if problem.bias is None:
        return each
    added = relative_bias(problem).to(problem.query.dtype)
    return [
        added[:, : kept.shape[0], : kept.shape[1]].where(kept, -math.inf)[None] for kept in each
    ]


def _sdpa_padded_within(problem: Problem) -> Prepared:
    """Padded for SDPA with a mask, and packed again: all of it is timed."""
    shape, plain = problem.shape, _sdpa_mask(problem)
    queries, keys = (packing_of(problem, length) for length in (shape.qo_len, shape.num_kv))

    def bind(given: Problem) -> Callable[[], Any]:
        query, key, value = queries.pack(given.query), keys.pack(given.key), keys.pack(given.value)

        def call() -> Any:
            padded = replace(
                given,
                query=queries.unpack(query, given.query, zeros=True),
                key=keys.unpack(key, given.key, zeros=True),
                value=keys.unpack(value, given.value, zeros=True),
            )
            return queries.pack(plain.padded(plain.bind(padded)()))

        return call

    return Prepared(bind, lambda output: queries.unpack(output, problem.query))


_SDPA = PeerKernel(
    "torch_sdpa_mask", "PyTorch SDPA with mask", MASKED, taking("window", "bias"), _sdpa_mask
)
#: A row of which every block is skipped, or every column dropped, is 0.
_FLEX = PeerKernel(
    "torch_flex", "FlexAttention", MASKED, taking("window", "softcap", "bias"), _flex, zeros=True
)

TORCH_PEERS = (
    _SDPA,
    _FLEX,
    PeerKernel("torch_varlen_with_packing", "varlen with packing", MASKED, taking("window"),
               _varlen_with_packing),
    PeerKernel("torch_varlen_packed", "varlen, already packed", PACKED, taking("window"),
               _varlen_packed),
    PeerKernel("torch_cudnn_dense", "cuDNN SDPA without mask", DENSE, taking(),
               _sdpa_dense("CUDNN_ATTENTION")),
    PeerKernel("torch_flash_dense", "flash SDPA without mask", DENSE, taking(),
               _sdpa_dense("FLASH_ATTENTION")),
)  # fmt: skip


#: Those of packed tensors on a CPU, where PyTorch has no varlen attention.
PACKED_ON_A_CPU = (
    PeerKernel("torch_sdpa_sequences", "PyTorch SDPA, a call a sequence", PACKED,
               taking("window", "bias"), _sdpa_sequences),
    PeerKernel("torch_sdpa_padded_within", "PyTorch SDPA with mask, padding and packing", PACKED,
               taking("window", "bias"), _sdpa_padded_within),
)  # fmt: skip


def torch_peers_on_a_cpu(spec: PrefillSpec) -> tuple[PeerKernel, ...]:
    """Those on a CPU, where FlexAttention takes half a minute to compile.

    It takes part where it may be the faster one: where there is a window to skip what is outside
    of, or a score that SDPA needs a mask of floats for, or cannot compute.
    """
    if spec.is_packed:
        return PACKED_ON_A_CPU
    return (_SDPA, replace(_FLEX, prepare=_flex_compiled)) if choices_to_take(spec) else (_SDPA,)
