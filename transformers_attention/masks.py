"""A mask as transformers says it: of lengths for kernels, or of pairs for everything else.

The two-dimensional mask of a batch is kept, with the function that says which pairs are seen
besides; what layers take of it is computed when the first of them asks, and kept for the others.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    eager_mask,
    sdpa_mask,
    sliding_window_bidirectional_overlay,
)

from .windows import Window, window_of

#: Sides that sequences may be filled at. Where all are full, kernels for either side do.
RIGHT, LEFT, FULL = "right", "left", "full"

_OF_ALL = "_prefilltune_keeps_all"


class Padding:
    """Where the sequences of a batch are.

    Parameters
    ----------
    side : str
        The side that is filled up: ``right``, ``left``, or ``full`` where nothing is.
    lens : torch.Tensor
        ``[batch]`` int32: how many positions of each sequence are none of padding.
    wrong : torch.Tensor, optional
        ``[batch]`` bool: whether a sequence is not filled up on that side alone, so that its
        lengths say something else than its mask. Absent where that has been ruled out.
    """

    def __init__(self, side: str, lens: Any, wrong: Any = None) -> None:
        self.side = side
        self.lens = lens
        self.wrong = wrong


class Mask:
    """What layers get from :func:`make_mask` in the place of a tensor.

    Parameters
    ----------
    **said
        What transformers says of a mask, as its own functions take it.
    """

    def __init__(self, **said: Any) -> None:
        self.said = said
        self._padding: Any = None
        self._pairs: Any = None
        self._bias: Any = None
        #: What layers have found, by what they have alike.
        self.calls: dict[Any, Any] = {}
        #: Whether what is wrong has been made NaN.
        self.guarded = False
        self._elsewhere: dict[Any, Mask] = {}
        # Of a mask that was moved, where it came from: its function may read tensors there.
        self._said_first = said

    def to(self, device: Any, **_: Any) -> Mask:
        """The mask on another device, the same for all of its layers.

        Where a model lies on several, accelerate moves what layers get by this method.
        """
        device = torch.device(device)
        if device == torch.device(self.said["device"]):
            return self
        if device not in self._elsewhere:
            mask = self.said["attention_mask"]
            there = None if mask is None else mask.to(device)
            moved = Mask(**{**self.said, "device": device, "attention_mask": there})
            moved._said_first = self._said_first
            self._elsewhere[device] = moved
        return self._elsewhere[device]

    @property
    def window(self) -> Window | None:
        """What rows see besides padding; None where it is nothing that kernels know."""
        return window_of(self.said["mask_function"])

    @property
    def packed_window(self) -> Window | None:
        """What rows see besides their being in one sequence, where offsets say which are."""
        return window_of(self.said["mask_function"], packed=True)

    @property
    def is_square(self) -> bool:
        """Whether rows and columns are the same positions: not so with a cache that holds any."""
        said, mask = self.said, self.said["attention_mask"]
        return (
            said["q_length"] == said["kv_length"]
            and said["q_offset"] == 0
            and said["kv_offset"] == 0
            and (mask is None or tuple(mask.shape) == (said["batch_size"], said["kv_length"]))
        )

    def padding(self, look: bool, side: str) -> Padding | None:
        """Where sequences are; None where they are elsewhere than at one end.

        Parameters
        ----------
        look : bool
            Whether to wait for the mask and look at it; else it is taken to be filled up on
            ``side``, and the device finds where it is not.
        """
        if self._padding is None:
            self._padding = self._looked() if look else self._taken(side)
        return self._padding if isinstance(self._padding, Padding) else None

    def pairs(self) -> Any:
        """The mask that SDPA takes; None where it needs none."""
        if self._pairs is None:
            self._pairs = (self._here(sdpa_mask(**self._said_first)),)
        return self._pairs[0]

    def addends(self, dtype: Any) -> Any:
        """The mask that is added to scores."""
        return self._here(eager_mask(**{**self._said_first, "dtype": dtype}))

    def _here(self, made: Any) -> Any:
        """A tensor of pairs, if it is one, on this mask's device."""
        return None if made is None else made.to(self.said["device"])

    def bias(self, position_bias: Any) -> Any:
        """What kernels take of ``[1, heads, length, length]`` that depend on distance alone."""
        if self._bias is None or self._bias[0] is not position_bias:
            before = position_bias[0, :, 1:, 0].flip(-1)
            bias = torch.cat([before, position_bias[0, :, 0, :]], dim=-1)
            self._bias = position_bias, bias.float().contiguous()
        return self._bias[1]

    def _looked(self) -> Any:
        mask = self.said["attention_mask"]
        if mask is None:
            return Padding(FULL, self._full())
        lens, at_left, at_right = _lengths(mask)
        flags = torch.stack([at_left.all(), at_right.all()])
        begins, ends = flags.tolist()  # on a GPU the one wait of a forward pass
        if begins and ends:
            return Padding(FULL, lens)
        if begins:
            return Padding(RIGHT, lens)
        return Padding(LEFT, lens) if ends else "elsewhere"

    def _taken(self, side: str) -> Padding:
        mask = self.said["attention_mask"]
        if mask is None:
            return Padding(FULL, self._full())
        lens, at_left, at_right = _lengths(mask)
        fits = at_left if side == RIGHT else at_right
        return Padding(side, lens, ~fits)

    def _full(self) -> Any:
        said = self.said
        return torch.full(
            (said["batch_size"],), said["kv_length"], dtype=torch.int32, device=said["device"]
        )


def mask_of_all(batch: int, length: int, device: Any) -> Any:
    """A mask ``[batch, length]`` that keeps every position, and by which :func:`make_mask` knows
    that none is given."""
    mask = torch.ones((1, 1), dtype=torch.bool, device=device).expand(batch, length)
    setattr(mask, _OF_ALL, True)
    return mask


def make_mask(**said: Any) -> Any:
    """What transformers calls for the mask of ``attn_implementation="prefilltune"``."""
    if hasattr(said["attention_mask"], _OF_ALL):
        said["attention_mask"] = None
    if isinstance(said["q_offset"], torch.Tensor):
        # Of a static cache: `generate` makes the mask ahead, and models take no other than a tensor
        # for one that is made.
        return sdpa_mask(**{**said, "allow_is_causal_skip": False})
    return Mask(**said)


def mask_of_none(query: Any, key: Any, is_causal: bool, sliding_window: int | None = None) -> Mask:
    """The mask of a layer that has none.

    Parameters
    ----------
    query, key : torch.Tensor
        ``[batch, heads, length, head_dim]``.
    is_causal : bool
        Whether rows see nothing to their right.
    sliding_window : int, optional
        How many columns they see on a side, their own among them: as FlashAttention understands
        it; SDPA goes by ``is_causal`` alone.
    """
    function = causal_mask_function if is_causal else bidirectional_mask_function
    if sliding_window is not None:
        overlay = sliding_window_bidirectional_overlay(sliding_window - 1)
        function = and_masks(overlay, function)
    return Mask(
        batch_size=query.shape[0],
        q_length=query.shape[2],
        kv_length=key.shape[2],
        q_offset=0,
        kv_offset=0,
        mask_function=function,
        attention_mask=None,
        device=query.device,
    )


def _lengths(mask: Any) -> tuple[Any, Any, Any]:
    """Lengths, and of each sequence whether it is at the left end alone, or at the right."""
    lens = mask.sum(1, dtype=torch.int32)
    positions = torch.arange(mask.shape[1], device=mask.device)
    at_left = (mask == (positions < lens[:, None])).all(1)
    at_right = (mask == (positions >= mask.shape[1] - lens[:, None])).all(1)
    return lens, at_left, at_right
