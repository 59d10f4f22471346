"""Batches of masked prefill attention as PyTorch tensors, and what a kernel must make of them.

On a GPU the reference of :mod:`prefilltune.workloads.reference` would take longer than everything
that is compared; this one is its twin on the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...workloads import Inputs, PrefillShape, PrefillSpec, empty_lse, pairs


@dataclass(frozen=True, eq=False)
class Problem:
    """One batch on a device.

    Parameters
    ----------
    spec, shape
        The workload.
    query : torch.Tensor
        ``[batch, qo_len, num_qo_heads, head_dim]``, the spec's dtype.
    key, value : torch.Tensor
        ``[batch, kv_len, num_kv_heads, head_dim]``, the spec's dtype.
    valid_lens : torch.Tensor
        ``[batch]`` int32; it may be out of range.
    bias : torch.Tensor, optional
        ``[num_qo_heads, qo_len + kv_len - 1]`` float32, of a spec with a bias.
    """

    spec: PrefillSpec
    shape: PrefillShape
    query: Any
    key: Any
    value: Any
    valid_lens: Any
    bias: Any = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What a kernel takes before its results, in its order."""
        given = (self.query, self.key, self.value, self.valid_lens, self.bias)
        return tuple(each for each in given if each is not None)

    @property
    def on_gpu(self) -> bool:
        """Whether the tensors are on a GPU."""
        return self.device.type != "cpu"

    @property
    def device(self) -> Any:
        """Where the tensors are."""
        return self.query.device


def draw_problems(
    spec: PrefillSpec,
    shape: PrefillShape,
    batches: Sequence[Sequence[int]],
    seed: int,
    device: str,
) -> list[Problem]:
    """Unit-normal query, key, value and bias, the same ones under the lengths of each batch."""
    import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

    generator = torch.Generator(device).manual_seed(seed)

    def draw(*size: int) -> Any:
        return torch.randn(size, generator=generator, device=device)

    def draw_heads(length: int, heads: int) -> Any:
        drawn = draw(shape.batch, length, heads, spec.head_dim)
        return drawn.to(getattr(torch, spec.dtype))

    query = draw_heads(shape.qo_len, spec.num_qo_heads)
    key, value = (draw_heads(shape.num_kv, spec.num_kv_heads) for _ in range(2))
    bias = draw(spec.num_qo_heads, shape.bias_width) if spec.bias else None
    return [
        Problem(spec, shape, query, key, value,
                torch.tensor(lens, dtype=torch.int32, device=device), bias)
        for lens in batches
    ]  # fmt: skip


def problem_of(spec: PrefillSpec, shape: PrefillShape, inputs: Inputs) -> Problem:
    """Inputs of NumPy as a problem on the CPU."""
    import torch  # pyright: ignore[reportMissingImports]

    dtype = getattr(torch, spec.dtype)
    query, key, value = (  # PyTorch takes no bfloat16 from NumPy
        torch.from_numpy(each.astype("float32")).to(dtype)
        for each in (inputs.query, inputs.key, inputs.value)
    )
    bias = None if inputs.bias is None else torch.from_numpy(inputs.bias)
    return Problem(spec, shape, query, key, value, torch.from_numpy(inputs.valid_lens), bias)


def poison_padding(problem: Problem) -> Problem:
    """The same with NaN and Inf in turn in the padding of query, key and value."""

    def poisoned(tensor: Any) -> Any:
        batch, length = tensor.shape[:2]
        poison = tensor.new_tensor([math.nan, math.inf]).repeat(batch, length // 2 + 1)[:, :length]
        valid = valid_positions(problem, length)
        return tensor.where(valid[:, :, None, None], poison[:, :, None, None])

    tensors = {name: poisoned(getattr(problem, name)) for name in ("query", "key", "value")}
    return replace(problem, **tensors)


def valid_positions(problem: Problem, length: int) -> Any:
    """Which of ``length`` positions are no padding, bool ``[batch, length]``."""
    import torch  # pyright: ignore[reportMissingImports]

    lens = problem.valid_lens.cpu().numpy()
    valid = pairs.valid_positions(problem.spec, lens, length)
    return torch.from_numpy(valid).to(problem.device)


def written_rows(problem: Problem) -> Any:
    """Which rows of output and LSE a kernel writes, bool ``[batch, qo_len]``."""
    import torch  # pyright: ignore[reportMissingImports]

    lens = problem.valid_lens.cpu().numpy()
    written = pairs.written_rows(problem.spec, lens, problem.shape.qo_len)
    return torch.from_numpy(written).to(problem.device)


def seen_keys(problem: Problem) -> Any:
    """Which keys a row of no padding sees, bool ``[batch, 1 or qo_len, kv_len]``."""
    import torch  # pyright: ignore[reportMissingImports]

    lens, kv_len = problem.valid_lens.cpu().numpy(), problem.shape.num_kv
    found = pairs.columns(problem.spec, lens, problem.shape.qo_len, kv_len)
    begin, end = (torch.from_numpy(each)[..., None].to(problem.device) for each in found)
    column = torch.arange(kv_len, device=problem.device)
    return (column >= begin) & (column < end)


def relative_bias(problem: Problem, heads: slice = slice(None)) -> Any:
    """What is added to the score of each pair, ``[heads, qo_len, kv_len]`` float32."""
    import torch  # pyright: ignore[reportMissingImports]

    qo_len, kv_len = problem.shape.qo_len, problem.shape.num_kv
    row = torch.arange(qo_len, device=problem.device)[:, None]
    column = torch.arange(kv_len, device=problem.device)
    return problem.bias[heads, column - row + (qo_len - 1)]


def reference(problem: Problem) -> tuple[Any, Any]:
    """Output and LSE in float64; 0 and ``empty_lse`` in rows that keep no key."""
    import torch  # pyright: ignore[reportMissingImports]

    spec, shape = problem.spec, problem.shape
    output = torch.zeros(problem.query.shape, dtype=torch.float64, device=problem.device)
    empty = empty_lse(spec.lse_type)
    lse = torch.full(output.shape[:3], empty, dtype=torch.float64, device=problem.device)
    rows = valid_positions(problem, shape.qo_len)[:, :, None]
    kept = (seen_keys(problem) & rows).expand(-1, shape.qo_len, -1)
    for b in range(shape.batch):
        row, column = kept[b].any(1).nonzero()[:, 0], kept[b].any(0).nonzero()[:, 0]
        if not len(row):
            continue
        dropped = ~kept[b][row][:, column]
        for head in range(spec.num_kv_heads):
            group = slice(head * spec.group_size, (head + 1) * spec.group_size)
            query = problem.query[b, row, group].double().transpose(0, 1)
            key, value = (each[b, column, head].double() for each in (problem.key, problem.value))
            scores = (query @ key.T).mul_(spec.scale)
            if spec.softcap is not None:
                scores.div_(spec.softcap).tanh_().mul_(spec.softcap)
            if spec.bias is not None:
                scores += relative_bias(problem, group)[:, row][:, :, column]
            exponents = scores.mul_(math.log2(math.e)).masked_fill_(dropped, -math.inf)
            largest = exponents.amax(-1, keepdim=True)
            weights = (exponents - largest).exp2_()
            total = weights.sum(-1, keepdim=True)
            output[b, row, group] = ((weights @ value) / total).transpose(0, 1)
            lse[b, row, group] = (largest + total.log2())[..., 0].T
    return output, lse


def largest_error(actual: Any, expected: Any) -> float:
    """As :func:`prefilltune.workloads.max_error`, on the device."""
    if not actual.numel():
        return 0.0
    if not actual.isfinite().all():
        return math.inf
    return float(((actual.double() - expected).abs() / expected.abs().clamp(min=1.0)).max())
