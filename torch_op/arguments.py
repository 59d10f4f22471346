"""What the tensors of a call must be."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

from .errors import InvalidArgumentError, NotDifferentiableError

_requires_grad = attrgetter("requires_grad")


def require_arguments(
    query: Any, key: Any, value: Any, valid_lens: Any, output: Any, lse: Any
) -> None:
    """Refuse tensors that do not fit each other or are not dense.

    Raises
    ------
    InvalidArgumentError
        Names the tensor, what it is, what was expected and what to do.
    """
    for name, tensor in (("query", query), ("key", key)):
        if tensor.dim() != 4:
            raise InvalidArgumentError(
                f"{name} has the shape {list(tensor.shape)}; expected 4 sizes: reshape it to "
                "[batch, length, heads, head_dim]"
            )
    batch, *_, head_dim = query.shape
    _, kv_len, num_kv_heads, _ = key.shape
    dtype, device = query.dtype, query.device
    keys = (batch, kv_len, num_kv_heads, head_dim)
    require("query", query, query.shape, dtype, device)
    require("key", key, keys, dtype, device)
    require("value", value, keys, dtype, device)
    require("valid_lens", valid_lens, (batch,), torch.int32, device)
    require("output", output, query.shape, dtype, device)
    is_float = lse.dtype == torch.float32  # which every LSE may be
    require("lse", lse, query.shape[:3], lse.dtype if is_float else dtype, device)


def require(name: str, tensor: Any, shape: tuple[int, ...], dtype: Any, device: Any) -> None:
    """Refuse one tensor.

    Raises
    ------
    InvalidArgumentError
        Unless it is what is expected, and dense.
    """
    if (
        tensor.shape == shape
        and tensor.dtype == dtype
        and tensor.device == device
        and tensor.is_contiguous()
    ):
        return
    if tensor.shape != shape:
        advice = "pass tensors that fit each other: [batch, length, heads, head_dim]"
    elif tensor.dtype != dtype:
        advice = f"convert it: {name}.to({dtype})"
    elif tensor.device != device:
        advice = f"move it: {name}.to({str(device)!r})"
    else:
        advice = f"copy it: {name}.contiguous()"
    given = _described(tensor.shape, tensor.dtype, tensor.device, tensor.stride())
    expected = _described(shape, dtype, device, _dense(shape))
    raise InvalidArgumentError(f"{name} is {given}; expected {expected}: {advice}")


def require_lse_dtype(query: Any, lse_dtype: Any) -> None:
    """Refuse a dtype that no LSE has.

    Raises
    ------
    InvalidArgumentError
        Unless it is float32, or the query's.
    """
    allowed = tuple(dict.fromkeys((torch.float32, query.dtype)))
    if lse_dtype not in allowed:
        raise InvalidArgumentError(
            f"lse_dtype is {lse_dtype}; expected {' or '.join(map(str, allowed))}: pass one of "
            "these, or leave it out for the query's"
        )


#: Bytes that tensors begin at a multiple of, by device type: what the copy engine of a GPU needs. A
#: CPU reads from wherever an element may begin.
_ALIGNMENT = {"cuda": 16}


def require_aligned(**tensors: Any) -> None:
    """Refuse tensors that begin where kernels cannot read them.

    Raises
    ------
    InvalidArgumentError
        Names the first.
    """
    for name, tensor in tensors.items():
        alignment = _alignment(tensor)
        if tensor.data_ptr() % alignment:
            raise InvalidArgumentError(
                f"{name} begins at {tensor.data_ptr() % alignment} bytes past a multiple of "
                f"{alignment}, where no kernel for {tensor.device.type} can read it: pass "
                f"copy_misaligned=True, or copy it: {name}.clone() ({name}.contiguous() would "
                "leave it where it is)"
            )


def aligned(tensor: Any) -> Any:
    """The tensor, or a copy of it where a kernel cannot read it."""
    return tensor.clone() if tensor.data_ptr() % _alignment(tensor) else tensor


def _alignment(tensor: Any) -> int:
    return max(_ALIGNMENT.get(tensor.device.type, 1), tensor.element_size())


def require_one_device(query: Any, **others: Any) -> None:
    """Refuse tensors on another device than the query; all that can be said of sizes not yet known.

    Raises
    ------
    InvalidArgumentError
        Names the tensor.
    """
    for name, tensor in others.items():
        if tensor.device != query.device:
            require(name, tensor, tensor.shape, tensor.dtype, query.device)


def refuse_gradients(*tensors: Any) -> None:
    """Raise where autograd would need a gradient, which no kernel has.

    Raises
    ------
    NotDifferentiableError
        If one requires a gradient and gradients are on.
    """
    if torch.is_grad_enabled() and any(map(_requires_grad, tensors)):
        raise NotDifferentiableError(
            "sequence_prefill has no gradient, and an input requires one: call it under "
            "torch.inference_mode() or torch.no_grad(), or detach() the inputs"
        )


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _described(shape: Any, dtype: Any, device: Any, strides: Any) -> str:
    return f"{list(shape)} {dtype} on {device} with strides {list(strides)}"
