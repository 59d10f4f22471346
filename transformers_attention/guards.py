"""NaN in the place of what would be wrong, where nobody may wait and look."""

from __future__ import annotations

import math
from typing import Any

import torch

_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def spoil(output: Any, wrong: Any) -> None:
    """Make NaN of outputs, in place, by what only the device knows.

    A float whose bits are all set is NaN in every format: they are set as the widest integers that
    rows are made of, of which there are a quarter as many as 16-bit floats.

    Parameters
    ----------
    output : torch.Tensor
        ``[batch, ..., head_dim]`` of floats, dense.
    wrong : torch.Tensor
        bool, ``[]``, or ``[batch, 1, ...]`` with a 1 for each dimension that follows.
    """
    size = output.dtype.itemsize
    widest = math.gcd(max(_INTEGERS), output.shape[-1] * size)
    bits = output.view(_INTEGERS[widest])
    bits |= torch.where(wrong, -1, 0).to(bits.dtype)
