"""Which columns a row sees, read from the functions that transformers makes masks of.

Transformers says what a mask is by a function of indices, which it puts together of a few of its
own. Those are known here by their code, with the numbers that they enclose; any other function is
one that no kernel is known for, and so is one that a later version of transformers has otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import torch
import transformers.models
from transformers import masking_utils as masks

#: Columns that a row sees to its left and to its right, besides its own; None where it is open.
Window = tuple[int | None, int | None]

OPEN: Window = (None, None)
CAUSAL: Window = (None, 0)


def window_of(function: Any, *, packed: bool = False) -> Window | None:
    """The window of a mask function; None where it is not known to be one.

    Parameters
    ----------
    function : Callable
        What transformers makes a mask of.
    packed : bool
        Whether it is of packed sequences that offsets tell apart, so that parts of the function
        that tell them apart say nothing besides.

    Examples
    --------
    >>> from transformers import masking_utils as masks
    >>> window_of(masks.causal_mask_function)
    (None, 0)
    >>> window_of(masks.sliding_window_causal_mask_function(8))
    (7, 0)
    >>> apart = masks.packed_sequence_mask_function(None)
    >>> window_of(apart) is None, window_of(apart, packed=True)
    (True, (None, None))
    """
    code = function.__code__
    for known, read in (*_KNOWN, *_OF_PACKED) if packed else _KNOWN:
        if code is known or (code.co_filename, code.co_name) == known:
            return read(packed, *(cell.cell_contents for cell in function.__closure__ or ()))
    return None


def equal_windows(window: Window, length: Any) -> list[Window]:
    """The windows that keep the same of sequences no longer than ``length``, as given first.

    An end that reaches as far as sequences do is open; not in a compiled graph, where a length may
    be any.
    """
    if torch.compiler.is_compiling():
        return [window]
    left, right = (end if end is not None and end < length - 1 else None for end in window)
    return list(dict.fromkeys((window, (left, right))))


def _both(packed: bool, functions: Any) -> Window | None:
    """Seen by each of the functions."""
    windows = [window_of(function, packed=packed) for function in functions]
    if None in windows:
        return None
    lefts, rights = zip(*windows, strict=True)
    return _narrowest(lefts), _narrowest(rights)


def _either(packed: bool, functions: Any) -> Window | None:
    """Seen by one of the functions; all see a row's own column, so that there is no gap."""
    windows = [window_of(function, packed=packed) for function in functions]
    if None in windows:
        return None
    lefts, rights = zip(*windows, strict=True)
    return _widest(lefts), _widest(rights)


def _narrowest(ends: Any) -> int | None:
    return min((end for end in ends if end is not None), default=None)


def _widest(ends: Any) -> int | None:
    return None if None in ends else max(ends)


def _code(function: Any) -> CodeType:
    return function.__code__


_MODELS = Path(transformers.models.__file__).parent
_GEMMA = str(_MODELS / "gemma3" / "modeling_gemma3.py")
#: Code of a function, or else where it stands and its name there; and what is read of the values
#: that it encloses, behind whether sequences are packed.
_Known = tuple[tuple[CodeType | tuple[str, str], Callable[..., Window | None]], ...]
_KNOWN: _Known = (
    (_code(masks.bidirectional_mask_function), lambda _: OPEN),
    (_code(masks.causal_mask_function), lambda _: CAUSAL),
    (_code(masks.and_masks()), _both),
    (_code(masks.or_masks()), _either),
    (_code(masks.sliding_window_overlay(1)), lambda _, size: (size - 1, None)),
    (_code(masks.sliding_window_bidirectional_overlay(1)), lambda _, size: (size, size)),
    # What Gemma 3 adds to a causal mask where its attention is bidirectional.
    ((_GEMMA, "<lambda>"), lambda *_: OPEN),
    ((_GEMMA, "inner_mask"), lambda _, size: (size - 1, size - 1)),
)
_nothing: Any = None
#: Parts of a mask that tell sequences of one row apart, by their position_ids: that only pairs of
#: one sequence are seen, and that windows are of positions in it.
_OF_PACKED: _Known = (
    (_code(masks.packed_sequence_mask_function(_nothing)), lambda *_: OPEN),
    *(
        (
            _code(remap(_nothing, _nothing)),
            lambda packed, function, _: window_of(function, packed=packed),
        )
        # Not in every version that there is.
        for remap in [getattr(masks, "remap_positions_for_packed_sequence", None)]
        if remap is not None
    ),
)
