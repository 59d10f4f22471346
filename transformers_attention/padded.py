"""Attention of sequences that are filled to one length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..torch import sequence_prefill
from ..torch.masks import mask_name
from .calls import CACHED, Call, Scores, addends, cannot_look, chosen, count, readable
from .guards import spoil
from .masks import FULL, LEFT, RIGHT, Mask, Padding
from .session import Session
from .windows import Window, equal_windows


class PaddedCall(NamedTuple):
    """A call of a kernel, but for the query, the key, the value and the bias."""

    call: Call
    lens: Any
    wrong: Any


@dataclass(eq=False)
class Padded:
    """A layer's attention of sequences filled to one length.

    Parameters
    ----------
    mask : Mask or torch.Tensor
        What it sees.
    given : Mask, torch.Tensor or None
        What the model gave for it; with none, ``is_causal`` says what SDPA makes of that.
    """

    session: Session
    mask: Any
    given: Any
    is_causal: bool | None

    def call(self, query: Any, kv_heads: int, scores: Scores) -> PaddedCall | str:
        """The kernel's call, or why there is none and what can be done.

        Parameters
        ----------
        query : torch.Tensor
            ``[batch, heads, length, head_dim]``, as long as the key.
        """
        mask, session = self.mask, self.session
        if not mask.is_square:
            return CACHED
        window = mask.window
        if window is None:
            return "its mask is none of causal, of both directions, or a window of these"
        padding = mask.padding(session.look and not cannot_look(query), session.padding)
        if padding is None:
            return (
                "its mask has holes, or padding on both sides: pass attention_mask of sequences "
                "that are padded on one side"
            )
        call = chosen(_names(padding, window, query.shape[2]), query, kv_heads, scores)
        if isinstance(call, str):
            return call
        lens = padding.lens
        if padding.side == RIGHT and "padded_left" in call.mask_mode:
            lens = torch.full_like(lens, query.shape[2])
        return PaddedCall(call, lens, padding.wrong)

    def output(self, found: PaddedCall, query: Any, key: Any, value: Any, bias: Any) -> Any:
        """``[batch, length, heads, head_dim]``, by the kernel."""
        call, mask = found.call, self.mask
        tensors = readable(self.session, query, key, value, call)
        count(self.session, "served", call.spec)
        output, _ = sequence_prefill(
            *tensors,
            found.lens,
            sm_scale=call.sm_scale,
            mask_mode=call.mask_mode,
            softcap=call.softcap,
            bias=bias,
            lse_dtype=call.lse_dtype,
        )
        if found.wrong is not None and not mask.guarded:
            # In one layer: what is NaN there is NaN in all that come after.
            mask.guarded = True
            spoil(output, found.wrong[:, None, None, None])
        return output

    def elsewhere(
        self, compute: Any, adds: bool, query: Any, key: Any, value: Any, position_bias: Any
    ) -> Any:
        """The same by another function, which takes a mask, or with ``adds`` what is added."""
        mask = self.given
        if adds and isinstance(self.mask, Mask):
            mask = self.mask.addends(query.dtype)
        elif adds:
            mask = addends(mask, query.dtype)
        elif isinstance(mask, Mask):
            mask = mask.pairs()
        more = {} if adds else {"is_causal": self.is_causal}
        return compute(query, key, value, mask, position_bias=position_bias, **more)


def _names(padding: Padding, window: Window, length: Any) -> Iterator[str]:
    """Masks of kernels that compute a call, the ones that fit it best before others."""
    sides = (RIGHT, LEFT) if padding.side == FULL else (padding.side,)
    for seen in equal_windows(window, length):
        for side in sides:
            yield mask_name(None, side, seen)
        if padding.side == RIGHT and seen[1] == 0:
            # What padding on the right holds comes after all that a row sees: it can be computed
            # as if it were none.
            yield mask_name(None, LEFT, seen)
