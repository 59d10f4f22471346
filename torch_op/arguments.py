"""What the tensors of a call must be."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

from .errors import InvalidArgumentError, NotDifferentiableError

_SIZES = {
    "bias": "[num_qo_heads, qo_len + kv_len - 1]",
    "cu_seqlens_q": "[batch + 1]",
    "cu_seqlens_kv": "[batch + 1]",
}
#: Of query, key, value and output, by how many sizes they have: packed, and padded.
_FORMS = {3: "[total, heads, head_dim]", 4: "[batch, length, heads, head_dim]"}

#: May be views, whose last dimension alone is dense: parts of one projection, or transposed.
_VIEWS = frozenset({"query", "key", "value"})

_RESULTS = frozenset({"output", "lse"})

#: As many elements 32 bits do not number.
_INDEXABLE = 2**31

#: Whose elements are read one by one, so that any of them may be the first.
_READ_BY_ELEMENT = frozenset({"bias"})


def require_arguments(
    query: Any, key: Any, value: Any, valid_lens: Any, bias: Any, output: Any, lse: Any
) -> None:
    """Refuse tensors that do not fit each other, or whose elements lie as no kernel reads them.

    Raises
    ------
    InvalidArgumentError
        Names the tensor, what it is, what was expected and what to do.
    """
    require_heads(4, query=query, key=key)
    batch, qo_len, num_qo_heads, head_dim = query.shape
    _, kv_len, num_kv_heads, _ = key.shape
    dtype, device = query.dtype, query.device
    keys = (batch, kv_len, num_kv_heads, head_dim)
    require("query", query, query.shape, dtype, device)
    require("key", key, keys, dtype, device)
    require("value", value, keys, dtype, device)
    require("valid_lens", valid_lens, (batch,), torch.int32, device)
    if bias is not None:
        distances = max(qo_len + kv_len - 1, 0)
        require("bias", bias, (num_qo_heads, distances), torch.float32, device)
    require("output", output, query.shape, dtype, device)
    is_float = lse.dtype == torch.float32  # which every LSE may be
    require("lse", lse, query.shape[:3], lse.dtype if is_float else dtype, device)


def require_heads(sizes: int, **tensors: Any) -> None:
    """Refuse tensors without as many sizes: 4 padded, 3 packed.

    Raises
    ------
    InvalidArgumentError
        Names the first.
    """
    for name, tensor in tensors.items():
        if tensor.dim() != sizes:
            raise InvalidArgumentError(
                f"{name} has the shape {list(tensor.shape)}; expected {sizes} sizes: reshape it to "
                f"{_FORMS[sizes]}"
            )


def require_offsets(name: str, offsets: Any, total: int) -> None:
    """Refuse offsets, in memory of the host, that do not say where packed sequences lie.

    Raises
    ------
    InvalidArgumentError
        Unless they begin with 0, never decrease, and end with the total.
    """
    begins = offsets.tolist()
    first, last = begins[0], begins[-1]
    if first != 0 or last != total:
        raise InvalidArgumentError(
            f"{name} begins with {first} and ends with {last}; expected 0 and {total}, as many as "
            "there are: sequences lie one behind another, without gaps"
        )
    if begins != sorted(begins):
        raise InvalidArgumentError(
            f"{name} decreases: each entry is where a sequence begins, behind those before it"
        )


def is_number(longest: Any) -> bool:
    """Whether it is a whole number in memory of the host, NumPy's among them: no tensor."""
    numbers = (int, torch.SymInt, Integral)
    return isinstance(longest, numbers) and not isinstance(longest, bool)


def require_longest(name: str, longest: Any) -> None:
    """Refuse what does not say how long the longest of packed sequences is.

    Raises
    ------
    InvalidArgumentError
        Unless it is a whole number of 0 or more, in memory of the host.
    """
    if not is_number(longest) or longest < 0:
        raise InvalidArgumentError(
            f"{name} is {longest!r}; expected a whole number of 0 or more, how many queries the "
            "longest sequence has: pass it where it is known without looking at the device, or 0"
        )


def require(name: str, tensor: Any, shape: tuple[int, ...], dtype: Any, device: Any) -> None:
    """Refuse one tensor.

    Raises
    ------
    InvalidArgumentError
        Unless it is what is expected, and dense; of query, key and value a view that kernels read.
    """
    is_view = name in _VIEWS
    is_dense = is_view or tensor.is_contiguous()
    if tensor.shape == shape and tensor.dtype == dtype and tensor.device == device and is_dense:
        if is_view:
            require_views(**{name: tensor})
        return
    if tensor.shape != shape:
        usual = _FORMS[4] if name == "lse" else _FORMS.get(len(shape), _FORMS[4])
        sizes = _SIZES.get(name, usual)
        advice = f"pass tensors that fit each other: {sizes}"
    elif tensor.dtype != dtype:
        advice = f"convert it: {name}.to({dtype})"
    elif tensor.device != device:
        advice = f"move it: {name}.to({str(device)!r})"
    elif name in _RESULTS:  # what is written to a copy would be lost
        advice = "pass a dense one, as torch.empty makes it"
    else:
        advice = f"copy it: {name}.contiguous()"
    given = _described(tensor.shape, tensor.dtype, tensor.device, tensor.stride())
    expected = _described(shape, dtype, device, tensor.stride() if is_view else _dense(shape))
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


def require_score_options(softcap: Any, bias: Any) -> None:
    """Refuse what becomes of no score.

    Raises
    ------
    InvalidArgumentError
        Unless the cap is a finite number above 0, and the bias a tensor, where they are given.
    """
    is_number = isinstance(softcap, (int, float)) and not isinstance(softcap, bool)
    if softcap is not None and not (is_number and 0 < softcap < math.inf):
        raise InvalidArgumentError(
            f"softcap is {softcap!r}; expected a finite number above 0: pass one, or leave it out"
        )
    if bias is not None and not isinstance(bias, torch.Tensor):
        raise InvalidArgumentError(
            f"bias is {bias!r}; expected a float32 tensor {_SIZES['bias']}: pass one, or leave it "
            "out"
        )


def require_padding_output(padding_output: Any) -> None:
    """Refuse what becomes of no padding.

    Raises
    ------
    InvalidArgumentError
        Unless it is ``zero`` or ``untouched``.
    """
    if padding_output not in ("zero", "untouched"):
        raise InvalidArgumentError(
            f"padding_output is {padding_output!r}; expected 'zero' or 'untouched': pass one, or "
            "leave it out for zeros"
        )


#: Bytes that tensors begin at a multiple of, by device type: what the copy engine of a GPU needs. A
#: CPU reads from wherever an element may begin.
_ALIGNMENT = {"cuda": 16}


def require_aligned(advice: str = "pass copy_misaligned=True, or ", /, **tensors: Any) -> None:
    """Refuse tensors that begin where kernels cannot read them.

    Raises
    ------
    InvalidArgumentError
        Names the first.
    """
    for name, tensor in tensors.items():
        if not _begins_aligned(name, tensor):
            alignment = _alignment(name, tensor)
            raise InvalidArgumentError(
                f"{name} begins at {tensor.data_ptr() % alignment} bytes past a multiple of "
                f"{alignment}, where no kernel for {tensor.device.type} can read it: {advice}"
                f"copy it: {name}.clone() ({name}.contiguous() would leave it where it is)"
            )
        if not _is_aligned(name, tensor):
            raise InvalidArgumentError(
                f"{name} has the strides {list(tensor.stride())}, of which some are no multiple of "
                f"{_alignment(name, tensor)} bytes, so that no kernel for {tensor.device.type} can "
                f"read it: {advice}copy it: {name}.contiguous()"
            )


def aligned(**tensors: Any) -> list[Any]:
    """The tensors, each that a kernel cannot read as a copy; None where there is none."""
    return [
        each if _is_aligned(name, each) else each.clone(memory_format=torch.contiguous_format)
        for name, each in tensors.items()
    ]


def require_views(**tensors: Any) -> None:
    """Refuse views that no kernel reads, wherever they begin.

    Raises
    ------
    InvalidArgumentError
        Names the first.
    """
    for name, tensor in tensors.items():
        if problem := _problem(tensor):
            raise InvalidArgumentError(
                f"{name} has the strides {list(tensor.stride())} for the shape "
                f"{list(tensor.shape)}: {problem}; copy it: {name}.contiguous()"
            )


def require_apart(output: Any, lse: Any, **inputs: Any) -> None:
    """Refuse results in the memory of inputs, which others still read while they are written, or of
    each other.

    Raises
    ------
    InvalidArgumentError
        Names the first of both.
    """
    read = {name: _addresses(each) for name, each in inputs.items() if each is not None}
    for name, result in (("output", output), ("lse", lse)):
        begin, end = written = _addresses(result)
        for other, (its_begin, its_end) in read.items():
            if begin < its_end and its_begin < end:
                raise InvalidArgumentError(
                    f"{name} shares memory with {other}: pass an out in memory of its own"
                )
        read[name] = written


def _addresses(tensor: Any) -> tuple[int, int]:
    """Where memory begins and ends that a tensor spans."""
    begin = tensor.data_ptr()
    if tensor.is_contiguous():
        return begin, begin + tensor.nbytes
    if not tensor.numel():
        return begin, begin
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((extent - 1) * stride for extent, stride in pairs)
    return begin, begin + (last + 1) * tensor.element_size()


def readable(name: str, tensor: Any) -> bool:
    """Whether kernels read a view of a query, key or value, if its memory begins where they can."""
    return not _problem(tensor) and _is_even(name, tensor)


def _problem(tensor: Any) -> str:
    """Why no kernel reads a view; empty where kernels do."""
    if tensor.is_contiguous():
        return ""
    pairs = list(zip(tensor.shape, tensor.stride(), strict=True))
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        return "its last dimension is not dense"
    if any(extent > 1 and stride < 1 for extent, stride in pairs):
        return "it repeats elements"
    if sum((extent - 1) * stride for extent, stride in pairs) + 1 >= _INDEXABLE:
        return f"it spans {_INDEXABLE} (2^31) elements or more, which kernels cannot number"
    return ""


def _is_aligned(name: str, tensor: Any) -> bool:
    """Whether a tensor, and each part of it, begins where kernels can read it."""
    return _begins_aligned(name, tensor) and (tensor is None or _is_even(name, tensor))


def _is_even(name: str, tensor: Any) -> bool:
    """Whether rows begin where kernels can read them, if the tensor does."""
    if name not in _VIEWS or tensor.is_contiguous():
        return True
    # Rows of a dense tensor may begin at less.
    size = tensor.element_size()
    least = math.gcd(_alignment(name, tensor), tensor.shape[-1] * size)
    pairs = zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True)
    return all(extent == 1 or stride * size % least == 0 for extent, stride in pairs)


def _begins_aligned(name: str, tensor: Any) -> bool:
    return tensor is None or tensor.data_ptr() % _alignment(name, tensor) == 0


def _alignment(name: str, tensor: Any) -> int:
    vector = 1 if name in _READ_BY_ELEMENT else _ALIGNMENT.get(tensor.device.type, 1)
    return max(vector, tensor.element_size())


def require_one_device(query: Any, **others: Any) -> None:
    """Refuse tensors on another device than the query; all that can be said of sizes not yet known.

    Raises
    ------
    InvalidArgumentError
        Names the tensor.
    """
    for name, tensor in others.items():
        if tensor is not None and tensor.device != query.device:
            require(name, tensor, tensor.shape, tensor.dtype, query.device)


def refuse_gradients(*tensors: Any) -> None:
    """Raise where autograd would need a gradient, which no kernel has.

    Raises
    ------
    NotDifferentiableError
        If one requires a gradient and gradients are on.
    """
    if torch.is_grad_enabled() and any(each.requires_grad for each in tensors if each is not None):
        raise NotDifferentiableError(
            "tuned kernels have no gradient, and an input requires one: call them under "
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
