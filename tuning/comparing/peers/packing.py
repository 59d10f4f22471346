"""Padded tensors become packed ones and back, as a caller of kernels for packed tensors does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..torch_problem import Problem, valid_positions


@dataclass(frozen=True, eq=False)
class Packing:
    """The valid positions of tensors ``[batch, length, heads, head_dim]``.

    Parameters
    ----------
    indices : torch.Tensor
        Of the valid ones among the ``batch * length`` positions.
    offsets : torch.Tensor
        ``[batch + 1]`` int32: where each sequence begins among the valid ones.
    longest : int
        Valid positions of the longest sequence.
    """

    indices: Any
    offsets: Any
    longest: int

    def pack(self, tensor: Any) -> Any:
        """``[valid, heads, head_dim]``, a copy."""
        return tensor.flatten(0, 1)[self.indices]

    def unpack(self, packed: Any, like: Any) -> Any:
        """A tensor like another, holding what is packed; its padding as memory was."""
        padded = like.new_empty(like.shape)
        padded.view(-1, *packed.shape[1:])[self.indices] = packed
        return padded


def packing_of(problem: Problem, length: int) -> Packing:
    """Of tensors of so many positions a sequence: of the queries' or the keys'."""
    import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

    valid = valid_positions(problem, length)
    counts = valid.sum(1)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
    return Packing(valid.flatten().nonzero()[:, 0], offsets, int(counts.max()))
