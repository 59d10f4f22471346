"""Attention over parts of the keys, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

from .errors import InvalidArgumentError


def merge_parts(outputs: Sequence[Any], lses: Sequence[Any]) -> tuple[Any, Any]:
    """The attention over all keys from attentions over parts of them.

    Rows weigh ``2^lse`` (Rabe and Staats, "Self-attention does not need O(n^2) memory",
    arXiv:2112.05682). A part without keys for a row has the lowest finite number of its dtype for
    an LSE, which no other part has: it adds nothing, whatever the LSEs of the others. A row that is
    NaN in a part is NaN. Computed in float32; the LSEs should be ``float32`` (``lse_dtype``), since
    16 bits of them are off by as much as the weights then are.

    Parameters
    ----------
    outputs : Sequence[torch.Tensor]
        Of one dtype, each ``[batch, qo_len, num_qo_heads, head_dim]``, of
        :func:`.sequence_prefill` with the same queries; one part or more.
    lses : Sequence[torch.Tensor]
        Of one dtype, each ``[batch, qo_len, num_qo_heads]``, base 2.

    Returns
    -------
    output : torch.Tensor
        ``[batch, qo_len, num_qo_heads, head_dim]``, of the dtype of the outputs; 0 in rows that
        have no key in any part.
    lse : torch.Tensor
        ``[batch, qo_len, num_qo_heads]``, base 2, of the dtype of the LSEs, in the same way.

    Raises
    ------
    InvalidArgumentError
        If there is no part, or parts do not fit each other.
    """
    _require_parts(outputs, lses)
    ends = torch.finfo(lses[0].dtype)
    parts = torch.stack(list(lses)).float()
    empty = parts == ends.min
    largest = parts.amax(0)  # NaN where one is
    # Where a part is the only one that is not empty, its weight is 1 exactly.
    weights = torch.where(empty, 0.0, torch.exp2(parts - largest))
    total = weights.sum(0)
    has_keys = ~empty.all(0)
    shares = weights / torch.where(has_keys, total, 1.0)
    output = torch.zeros_like(outputs[0], dtype=torch.float32)
    for share, part in zip(shares, outputs, strict=True):
        output += share.unsqueeze(-1) * part.float()
    above_empty = ends.min * (1 - ends.eps / (2 - ends.eps))  # the number next to it
    lse = (largest + torch.log2(total)).clamp(above_empty, ends.max)
    lse = torch.where(has_keys, lse, ends.min)
    return output.to(outputs[0].dtype), lse.to(lses[0].dtype)


def _require_parts(outputs: Sequence[Any], lses: Sequence[Any]) -> None:
    if not len(outputs) or len(outputs) != len(lses):
        raise InvalidArgumentError(
            f"{len(outputs)} outputs and {len(lses)} LSEs were given; give one of each for every "
            "part, and one part or more"
        )
    for name, parts, shape in (
        ("outputs", outputs, outputs[0].shape),
        ("lses", lses, outputs[0].shape[:-1]),
    ):
        for index, part in enumerate(parts):
            like = parts[0]
            if (part.shape, part.dtype, part.device) != (shape, like.dtype, outputs[0].device):
                raise InvalidArgumentError(
                    f"{name}[{index}] is {list(part.shape)} {part.dtype} on {part.device}; "
                    f"expected {list(shape)} {like.dtype} on {outputs[0].device}: give parts of "
                    "one call's queries, all of one dtype on one device"
                )
