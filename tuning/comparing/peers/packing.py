"""Padded tensors become packed ones and back, as a caller of kernels for packed tensors does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..torch_problem import Problem, valid_positions


@dataclass(frozen=True, eq=False)
class Packing:
    """The valid positions of tensors ``[batch, length, ...]``.

    Parameters
    ----------
    indices : torch.Tensor
        Of the valid ones among the ``batch * length`` positions; with room, of the others behind.
    offsets : torch.Tensor
        ``[batch + 1]`` int32: where each sequence begins among the valid ones.
    longest : int
        Valid positions of the longest sequence.
    """

    indices: Any
    offsets: Any
    longest: int

    def pack(self, tensor: Any) -> Any:
        """``[valid, ...]``, a copy."""
        return tensor.flatten(0, 1)[self.indices]

    def unpack(self, packed: Any, like: Any, *, zeros: bool = False) -> Any:
        """A tensor like another, holding what is packed; its padding as memory was, or zeros."""
        padded = (like.new_zeros if zeros else like.new_empty)(like.shape)
        padded.view(-1, *packed.shape[1:])[self.indices] = packed
        return padded


def packing_of(problem: Problem, length: int, *, room: bool = False) -> Packing:
    """Of tensors of so many positions a sequence: of the queries' or the keys'.

    Parameters
    ----------
    room : bool
        Whether padding lies behind the last sequence, rather than nowhere.
    """
    import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

    valid = valid_positions(problem, length)
    counts = valid.sum(1)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
    indices = valid.flatten().nonzero()[:, 0]
    if room:
        indices = torch.cat([indices, (~valid).flatten().nonzero()[:, 0]])
    return Packing(indices, offsets, int(counts.max()))
