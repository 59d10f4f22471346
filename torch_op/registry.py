"""Which kernel serves a call: the one for exactly its shape, or else the one for every shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

from .arguments import require_views
from .errors import InvalidArgumentError, NoKernelError
from .kernels import Kernel, Spec
from .masks import is_mask_name

#: What kernels are built for.
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: Scales are the same where they differ by rounding alone.
_ROUNDING = 1e-6


@dataclass
class _Served:
    """Kernels of one spec on one device type, by the shape that they serve."""

    sm_scale: float
    kernels: dict[tuple[int, ...] | None, tuple[Kernel, Any]] = field(default_factory=dict)


class _Key(NamedTuple):
    """What a call and a kernel must have alike, but for the scale and the shape."""

    device: str
    dtype: Any
    lse_dtype: Any
    mask_mode: str
    softcap: float | None
    bias: str | None
    padding_output: str
    num_qo_heads: int
    num_kv_heads: int
    head_dim: int


_served: dict[_Key, list[_Served]] = {}


def register(kernel: Kernel, function: Any) -> None:
    """Let a kernel serve calls, in the place of any that serves the same."""
    spec, key = kernel.spec, _key(kernel.device, kernel.spec)
    served = _of_scale(_served.setdefault(key, []), spec.sm_scale)
    if served is None:
        served = _Served(spec.sm_scale)
        _served[key].append(served)
    served.kernels[kernel.shape] = kernel, function


def has_kernel(device: str, spec: Spec) -> bool:
    """Whether a loaded kernel serves every shape of a spec on a device type."""
    return _for_every_shape(device, spec) is not None


def takes_views(device: str, spec: Spec) -> bool:
    """Whether that kernel reads views of query, key and value."""
    kernel = _for_every_shape(device, spec)
    return kernel is not None and kernel.views


def _for_every_shape(device: str, spec: Spec) -> Kernel | None:
    served = _of_scale(_served.get(_key(device, spec), ()), spec.sm_scale)
    kernel, _ = (None, None) if served is None else served.kernels.get(None, (None, None))
    return kernel


def _key(device: str, spec: Spec) -> _Key:
    dtype, lse_dtype = getattr(torch, spec.dtype), getattr(torch, spec.lse_dtype)
    heads = (spec.num_qo_heads, spec.num_kv_heads, spec.head_dim)
    return _Key(
        device, dtype, lse_dtype, spec.mask_mode, spec.softcap, spec.bias, spec.padding_output,
        *heads,
    )  # fmt: skip


def find(
    query: Any,
    key: Any,
    value: Any,
    lse_dtype: Any,
    sm_scale: float | None,
    mask_mode: str,
    softcap: float | None,
    bias: Any,
    padding_output: str = "zero",
) -> Any:
    """The function that serves a call; of the bias, whether there is one.

    Raises
    ------
    NoKernelError
        If there is none; it lists what is loaded.
    InvalidArgumentError
        If there cannot be one: no command builds a kernel of such a dtype, mask or scale. If query,
        key or value is a view that what serves the call does not read.
    """
    *positions, num_qo_heads, head_dim = query.shape
    kv_len, num_kv_heads, _ = key.shape[-3:]
    shape = (*positions, kv_len)  # of packed sequences totals, which no kernel serves alone
    call = _Key(
        query.device.type, query.dtype, lse_dtype, mask_mode, softcap,
        None if bias is None else "relative", padding_output, num_qo_heads, num_kv_heads, head_dim,
    )  # fmt: skip
    scale = 1 / math.sqrt(head_dim) if sm_scale is None else sm_scale
    served = _of_scale(_served.get(call, ()), scale)
    if served is not None:
        kernels = served.kernels
        found = kernels.get(shape) or kernels.get(None)
        if found is not None:
            if not (query.is_contiguous() and key.is_contiguous() and value.is_contiguous()):
                found = _of_views(found, kernels.get(None), query=query, key=key, value=value)
            return found[1]
    _require_possible(call, scale)
    raise NoKernelError(_miss(call, scale, shape))


def _of_views(found: Any, every: Any, **tensors: Any) -> Any:
    """A kernel that reads views: the one that was found, or else the one for every shape.

    Raises
    ------
    InvalidArgumentError
        If neither does, or no kernel reads such views.
    """
    require_views(**tensors)
    taking = next((each for each in (found, every) if each and each[0].views), None)
    if taking is not None:
        return taking
    kernel, _ = found
    name, view = next((name, each) for name, each in tensors.items() if not each.is_contiguous())
    target = "cuda" if kernel.device == "cuda" else "llvm"
    raise InvalidArgumentError(
        f"{name} is a view, with the strides {list(view.stride())}, and what serves the call takes "
        f"dense tensors alone ({kernel}): copy it: {name}.contiguous(), or build what serves every "
        f"shape with this version: {kernel.spec.command('build', target)}"
    )


def _of_scale(candidates: Any, sm_scale: float) -> _Served | None:
    for served in candidates:
        if math.isclose(served.sm_scale, sm_scale, rel_tol=_ROUNDING):
            return served
    return None


def _require_possible(call: _Key, sm_scale: float) -> None:
    """Asked of a call that nothing serves alone, for what serves one is possible."""
    if call.dtype not in _DTYPES:
        raise InvalidArgumentError(
            f"query is {call.dtype}; expected {', '.join(map(str, _DTYPES))}: convert all tensors, "
            "as by query.to(torch.float32)"
        )
    if not math.isfinite(sm_scale):
        raise InvalidArgumentError(
            f"sm_scale is {sm_scale!r}; expected a finite number: pass one, or leave it out"
        )
    loaded = {each.mask_mode for each in _served}
    if call.mask_mode not in loaded and not is_mask_name(call.mask_mode):
        raise InvalidArgumentError(
            f"mask_mode is {call.mask_mode!r}; expected padded, padded_left, causal_padded or "
            "causal_padded_left: pass one of these, or padding and window"
        )


def _miss(call: _Key, sm_scale: float, shape: tuple[int, ...]) -> str:
    dtype, lse_dtype = (str(each).removeprefix("torch.") for each in (call.dtype, call.lse_dtype))
    spec = Spec(
        call.mask_mode, call.num_qo_heads, call.num_kv_heads, call.head_dim, dtype, sm_scale,
        lse_dtype, call.softcap, call.bias, call.padding_output,
    )  # fmt: skip
    sizes = tuned = "x".join(map(str, shape))
    measured = "batch x qo_len x kv_len"
    if len(shape) == 2:
        measured, tuned = "total_q x total_kv", "BATCHxLENGTH"
    lines = [
        f"no loaded kernel serves {call.device}: {spec}, {measured} {sizes}",
        "loaded:" if _served else "nothing is loaded; load a library with prefilltune.torch.load",
        *(f"  {kernel}" for kernel in _loaded()),
    ]
    scales = [served.sm_scale for served in _served.get(call, ())]
    if scales and not any(math.isclose(sm_scale, each, rel_tol=_ROUNDING) for each in scales):
        factor = sm_scale / scales[0]
        lines.append(f"multiply the query by {factor!r} and pass sm_scale={scales[0]!r}")
    elif others := [each for each in _served if _is_but_for("lse_dtype", each, call)]:
        lines.append(f"pass lse_dtype={others[0].lse_dtype}")
    elif others := [each for each in _served if _is_but_for("padding_output", each, call)]:
        lines.append(f"pass padding_output={others[0].padding_output!r}")
    else:
        target = "cuda" if call.device == "cuda" else "llvm"
        lines += [
            f"one is built by: {spec.command('build', target)}",
            f"before it, unless it is tuned: {spec.command('tune', target)} --shape {tuned}",
        ]
    return "\n".join(lines)


def _is_but_for(field: str, one: _Key, other: _Key) -> bool:
    return one != other and one == other._replace(**{field: getattr(one, field)})


def _loaded() -> list[Kernel]:
    every = (served for group in _served.values() for served in group)
    return [kernel for served in every for kernel, _ in served.kernels.values()]
