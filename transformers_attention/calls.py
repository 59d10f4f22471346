"""Which loaded kernel computes an attention, of whichever layout its sequences have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from ..torch import Spec
from ..torch.arguments import readable as is_readable
from ..torch.registry import has_kernel, takes_views
from .session import Session, count_compiled

CACHED = "it decodes, or continues what is in a cache"


class Call(NamedTuple):
    """A kernel's options, but for what depends on where sequences lie."""

    spec: str
    mask_mode: str
    sm_scale: float
    factor: float
    softcap: float | None
    lse_dtype: Any
    views: bool


class Scores(NamedTuple):
    """What becomes of query times key, as transformers says it."""

    scaling: float | None
    softcap: float | None
    has_bias: bool


def chosen(names: Iterable[str], query: Any, kv_heads: int, scores: Scores) -> Call | str:
    """The first call that a kernel is loaded for, or that there is none and what can be done.

    Parameters
    ----------
    names : Iterable[str]
        Masks of kernels that compute it, the one that fits it best before others.
    query : torch.Tensor
        ``[..., heads, length, head_dim]``.
    """
    heads, head_dim = query.shape[-3], query.shape[-1]
    dtype = str(query.dtype).removeprefix("torch.")
    scale = head_dim**-0.5 if scores.scaling is None else _constant(scores.scaling)
    cap = None if scores.softcap is None else _constant(scores.softcap)
    bias = "relative" if scores.has_bias else None
    wanted = None
    for name in names:
        for its, factor in _scales(scale, head_dim):
            for lse_dtype in dict.fromkeys((dtype, "float32")):
                fields = (name, heads, kv_heads, head_dim, dtype, its, lse_dtype, cap, bias)
                wanted = wanted or fields
                if _has_kernel(query.device.type, *fields):
                    lse = None if lse_dtype == dtype else torch.float32
                    views = _takes_views(query.device.type, *fields)
                    return Call(str(Spec(*fields)), name, its, factor, cap, lse, views)
    kind = "cuda" if query.device.type == "cuda" else "llvm"
    spec = Spec(*wanted)  # pyright: ignore[reportOptionalIterable]
    return f"no kernel is loaded for {spec}: {spec.command('build', kind)}, and pass its folder"


def readable(session: Session, query: Any, key: Any, value: Any, call: Call) -> list[Any]:
    """``[batch, length, heads, head_dim]`` of each; a copy, if the kernel reads no such view."""
    if call.factor != 1:
        query = query * call.factor
    tensors = []
    for name, each in (("query", query), ("key", key), ("value", value)):
        tensor = each.transpose(1, 2)
        if not (is_readable(name, tensor) if call.views else tensor.is_contiguous()):
            count(session, "copied", name)
            tensor = tensor.contiguous()
        tensors.append(tensor)
    return tensors


def addends(pairs: Any, dtype: Any) -> Any:
    """What is added to scores, of the pairs that are seen; others' are given as they are."""
    if pairs is None or pairs.dtype != torch.bool:
        return pairs
    return torch.where(pairs, 0.0, torch.finfo(dtype).min).to(dtype)


def cannot_look(query: Any) -> bool:
    """Whether what is in tensors cannot be waited for."""
    if torch.compiler.is_compiling():
        return True
    return query.is_cuda and torch.cuda.is_current_stream_capturing()


def count(session: Session, list_name: str, what: str) -> None:
    """Count what became of a call in the session's report."""
    if torch.compiler.is_compiling():
        count_compiled(session.number, list_name, what)
    elif list_name == "handed_over":
        session.report.hand_over(what)
    else:
        getattr(session.report, list_name)[what] += 1


def _scales(scale: float, head_dim: int) -> list[tuple[float, float]]:
    """Scales of kernels that compute a call, each with a factor on the query.

    Whisper multiplies its query by the usual scale itself. Where that can be undone without
    rounding, a kernel of that scale does.
    """
    usual = head_dim**-0.5
    factor = scale / usual
    exact = math.frexp(factor)[0] == 0.5
    return [(scale, 1.0)] + ([(usual, factor)] if exact and factor != 1 else [])


def _constant(number: float) -> float:
    """The number as one that is the same in every call of a compiled graph.

    torch.compile may take it for one that differs, of which it can ask nothing; of its numerator
    it knows that it is this one, and compiles anew for another.
    """
    numerator, denominator = number.as_integer_ratio()
    return numerator / denominator


@torch.compiler.assume_constant_result
def _has_kernel(device: str, *fields: Any) -> bool:
    return has_kernel(device, Spec(*fields))


@torch.compiler.assume_constant_result
def _takes_views(device: str, *fields: Any) -> bool:
    return takes_views(device, Spec(*fields))
