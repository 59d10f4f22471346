"""Names of masks, which kernels go by."""

from __future__ import annotations

import re
from typing import Any

from .errors import InvalidArgumentError

_BEYOND_ALL = 2**30
_PADDED = {None: "padded", "right": "padded", "left": "padded_left"}


def mask_name(mask_mode: str | None, padding: str | None, window: Any) -> str:
    """The name of the mask of a call.

    Parameters
    ----------
    mask_mode, padding, window
        As :func:`.sequence_prefill` takes them.

    Raises
    ------
    InvalidArgumentError
        If they say no mask, or one of them twice.

    Examples
    --------
    >>> mask_name(None, None, None), mask_name("causal_padded_left", None, None)
    ('padded', 'causal_padded_left')
    >>> mask_name(None, "left", (None, 0)), mask_name(None, "right", [64, None])
    ('causal_padded_left', 'padded_w64-open')
    """
    if mask_mode is not None and is_packed(mask_mode):
        raise InvalidArgumentError(
            f"mask_mode {mask_mode!r} is of packed sequences, which lie one behind another: call "
            "packed_prefill with their offsets"
        )
    if padding is None and window is None:
        return "padded" if mask_mode is None else mask_mode
    if mask_mode is not None:
        raise InvalidArgumentError(
            f"mask_mode {mask_mode!r} is a name for a padding and a window, and padding "
            f"{padding!r}, window {window!r} are given besides: pass either"
        )
    if padding not in _PADDED:
        raise InvalidArgumentError(f"padding is {padding!r}; expected 'right' or 'left': pass one")
    return _with_window(_PADDED[padding], window)


def packed_mask_name(window: Any) -> str:
    """The name of the mask of a call on packed sequences.

    Parameters
    ----------
    window
        As :func:`.packed_prefill` takes it.

    Raises
    ------
    InvalidArgumentError
        If it is none.

    Examples
    --------
    >>> packed_mask_name(None), packed_mask_name((None, 0)), packed_mask_name((64, 64))
    ('packed', 'causal_packed', 'packed_w64-64')
    """
    return _with_window("packed", window)


def is_packed(name: str) -> bool:
    """Whether a mask's name is of packed sequences.

    >>> is_packed("causal_packed"), is_packed("causal_padded")
    (True, False)
    """
    return name.removeprefix("causal_").startswith("packed")


def is_mask_name(name: str) -> bool:
    """Whether a kernel could go by a name.

    Examples
    --------
    >>> [is_mask_name(each) for each in ("causal_padded", "padded_left_w64-open", "packed")]
    [True, True, True]
    >>> is_mask_name("padded_rigth")
    False
    """
    form = r"(causal_)?(padded(_left)?|packed)|(padded(_left)?|packed)_w(\d+|open)-(\d+|open)"
    return re.fullmatch(form, name) is not None


def _with_window(name: str, window: Any) -> str:
    left, right = _ends(window)
    if left is None and right == 0:
        return f"causal_{name}"
    if left is None and right is None:
        return name
    return f"{name}_w{_written(left)}-{_written(right)}"


def _ends(window: Any) -> tuple[int | None, int | None]:
    ends = (None, None) if window is None else window
    if (
        isinstance(ends, (tuple, list))
        and len(ends) == 2
        and all(
            end is None or (isinstance(end, int) and not isinstance(end, bool) and end >= 0)
            for end in ends
        )
    ):
        # As specs have it, an end that hides nothing of any tensor is open.
        left, right = (None if end is None or end >= _BEYOND_ALL else end for end in ends)
        return left, right
    raise InvalidArgumentError(
        f"window is {window!r}; expected how many columns a row sees to its left and to its right, "
        "whole numbers of 0 or more or None where it is open: pass one such as (64, 64)"
    )


def _written(end: int | None) -> str:
    # torch.compile may take a number for one that differs from call to call, which it cannot write.
    # The length of a range it knows, and compiles anew for another.
    return "open" if end is None else str(len(range(end)))
