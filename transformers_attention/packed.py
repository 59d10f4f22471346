"""Attention of sequences that lie one behind another in a row, as FlashAttention takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..torch import packed_prefill
from ..torch.arguments import is_number, require_offsets
from ..torch.masks import packed_mask_name
from .calls import CACHED, Call, Scores, addends, cannot_look, chosen, count, readable
from .errors import NotServedError
from .guards import spoil
from .masks import Mask
from .session import Session
from .windows import Window, equal_windows

_OFFSETS = ("cu_seq_lens_q", "cu_seq_lens_k")


class Packing(NamedTuple):
    """Where sequences begin and end.

    Parameters
    ----------
    queries, keys : torch.Tensor
        ``[batch + 1]``: where those of each sequence begin, and where the last ends.
    longest_query, longest_key : int, optional
        No sequence has more, if it is said.
    """

    queries: Any
    keys: Any
    longest_query: Any
    longest_key: Any

    @property
    def longest_known(self) -> Any:
        """Queries of the longest, where that is a number: nothing waits for a device to say it."""
        return self.longest_query if is_number(self.longest_query) else None


class PackedCall(NamedTuple):
    """A call of a kernel, but for the query, the key, the value and the bias."""

    call: Call
    window: Window
    queries: Any
    keys: Any


def packing_of(said: Mapping[str, Any]) -> Packing | None:
    """Where sequences lie, of the keywords of transformers' FlashAttention; None if it is not said.

    Raises
    ------
    NotServedError
        For one of the offsets without the other, and for offsets that are no tensors.
    """
    queries, keys = (said.get(name) for name in _OFFSETS)
    if queries is None and keys is None:
        return None
    for name, given in zip(_OFFSETS, (queries, keys), strict=True):
        if not isinstance(given, torch.Tensor):
            raise NotServedError(
                f"{name} is {'absent' if given is None else type(given).__name__}: packed rows "
                "take both cu_seq_lens_q and cu_seq_lens_k, tensors [sequences + 1], as "
                "DataCollatorWithFlattening(return_flash_attn_kwargs=True) makes them"
            )
    return Packing(queries, keys, said.get("max_length_q"), said.get("max_length_k"))


def packed_window(mask: Any, query: Any, key: Any, beside: str | None) -> Window:
    """What rows see of their sequence.

    Parameters
    ----------
    beside : str, optional
        What says more of scores than lengths and a window do.

    Raises
    ------
    NotServedError
        Where offsets do not say which pairs are seen: nothing that goes by them would be right.
    """
    window = None
    if beside is not None:
        reason = beside
    elif mask.said["attention_mask"] is not None:
        reason = "attention_mask is given besides cu_seq_lens_q: leave it out"
    elif query.shape[2] != key.shape[2] or not mask.is_square:
        reason = CACHED
    else:
        window = mask.packed_window
        reason = "its mask is none of causal, of both directions, or a window of these"
    if window is None:
        raise NotServedError(
            f"sequences are packed into one row, and a layer is not served: {reason}; or pass a "
            "padded batch with its attention_mask, without cu_seq_lens_q"
        )
    return window


@dataclass(eq=False)
class Packed:
    """A layer's attention of sequences that lie one behind another.

    Parameters
    ----------
    packing : Packing
        Where they lie.
    window : Window
        What rows see of their sequence.
    """

    session: Session
    packing: Packing
    mask: Mask
    window: Window

    def call(self, query: Any, kv_heads: int, scores: Scores) -> PackedCall | str:
        """The kernel's call, or that there is none and what can be done.

        Parameters
        ----------
        query : torch.Tensor
            ``[batch, heads, length, head_dim]``, as long as the key.
        """
        windows = equal_windows(self.window, query.shape[0] * query.shape[2])
        named = {packed_mask_name(each): each for each in windows}
        call = chosen(named, query, kv_heads, scores)
        if isinstance(call, str):
            return call
        queries, keys = self.packing[:2]
        begins = queries.to(torch.int32)
        return PackedCall(
            call, named[call.mask_mode], begins, begins if keys is queries else keys.to(torch.int32)
        )

    def output(self, found: PackedCall, query: Any, key: Any, value: Any, bias: Any) -> Any:
        """``[batch, length, heads, head_dim]``, by the kernel."""
        call, mask = found.call, self.mask
        tensors = readable(self.session, query, key, value, call)
        rows = [each.flatten(0, 1) for each in tensors]
        count(self.session, "served", call.spec)
        output, _ = packed_prefill(
            *rows,
            found.queries,
            found.keys,
            sm_scale=call.sm_scale,
            window=found.window,
            softcap=call.softcap,
            bias=bias,
            max_seqlen_q=self.packing.longest_known,
            lse_dtype=call.lse_dtype,
        )
        if query.is_cuda and not mask.guarded:  # on a CPU the operator refuses what does not fit
            mask.guarded = True
            wrong = are_misplaced(found.queries, rows[0])
            if found.keys is not found.queries:
                wrong = wrong | are_misplaced(found.keys, rows[1])
            spoil(output, wrong)
        return output.view(tensors[0].shape)

    def elsewhere(
        self, compute: Any, adds: bool, query: Any, key: Any, value: Any, position_bias: Any
    ) -> Any:
        """The same by a function for padded batches; ``adds``: its mask is what is added."""
        packing = self.packing
        queries = _Filling(packing.queries, packing.longest_query, query, _OFFSETS[0])
        keys = _Filling(packing.keys, packing.longest_key, key, _OFFSETS[1])
        mask = _pairs(self.window, queries, keys)
        if adds:
            mask = addends(mask, query.dtype)
        if position_bias is not None:  # by distance, so that all sequences begin alike
            position_bias = position_bias[:, :, : queries.longest, : keys.longest]
        filled = queries.filled(query), keys.filled(key), keys.filled(value)
        output = compute(*filled, mask, position_bias=position_bias)
        rows = output.flatten(0, 1)[queries.places]
        return rows.unflatten(0, (query.shape[0], query.shape[2]))


def are_misplaced(offsets: Any, rows: Any) -> Any:
    """Whether offsets are not those of so many rows, ``[]`` bool; nothing is waited for."""
    return (offsets[0] != 0) | (offsets[-1] != len(rows)) | (offsets.diff() < 0).any()


class _Filling:
    """Where packed rows are in a batch that is filled up to its longest sequence.

    Parameters
    ----------
    offsets : torch.Tensor
        ``[batch + 1]``.
    longest : int, optional
        What is said of it, taken where there is no looking.
    tensor : torch.Tensor
        ``[batch, heads, length, head_dim]`` that is packed.
    """

    def __init__(self, offsets: Any, longest: Any, tensor: Any, name: str) -> None:
        total = tensor.shape[0] * tensor.shape[2]
        self.lens = offsets.diff()
        self.longest = longest
        if not cannot_look(tensor):
            require_offsets(name, offsets, total)
            self.longest = int(self.lens.max())
        elif longest is None:
            raise NotServedError(
                "no kernel serves a compiled or captured model's packed rows, and what does else "
                "needs max_length_q and max_length_k: pass these numbers"
            )
        rows = torch.arange(total, dtype=offsets.dtype, device=tensor.device)
        sequences = torch.searchsorted(offsets[1:].contiguous(), rows, right=True)
        self.places = sequences * self.longest + rows - offsets[sequences]

    def filled(self, tensor: Any) -> Any:
        """``[batch, heads, longest, head_dim]``."""
        rows = tensor.transpose(1, 2).flatten(0, 1)
        batch = len(self.lens), self.longest
        zeros = rows.new_zeros(batch[0] * batch[1], *rows.shape[1:])
        return zeros.index_copy(0, self.places, rows).unflatten(0, batch).transpose(1, 2)


def _pairs(window: Window, queries: _Filling, keys: _Filling) -> Any:
    """``[batch, 1, longest, longest]`` bool: the keys that a query sees."""
    left, right = window
    ends = [each.lens[:, None, None] for each in (queries, keys)]
    rows, columns = (torch.arange(each.longest, device=ends[0].device) for each in (queries, keys))
    # Aligned at the ends of a sequence's queries and keys.
    behind = (columns - ends[1]) - (rows[:, None] - ends[0])
    seen = columns < ends[1]
    if left is not None:
        seen = seen & (behind >= -left)
    if right is not None:
        seen = seen & (behind <= right)
    # Rows that are filled up see anything, so that nothing of theirs is NaN, gradients included.
    return (seen | (rows[:, None] >= ends[0]))[:, None]
