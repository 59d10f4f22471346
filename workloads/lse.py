"""The log-sum-exp of a row: which numbers of its dtype say what.

An LSE is base 2 and made for merging: of parts with outputs ``o`` and LSEs ``e``, the whole has
``sum(2^(e - max(e)) * o) / sum(2^(e - max(e)))``. A part without keys (a padded row) has output 0
and the lowest finite number of the LSE's dtype. Every row that keeps a key lies above, so that by
this one formula an empty part has weight 0 beside any other, whatever its LSE, and several empty
ones make an empty one; no number is infinite, whose differences would be NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

#: What a running row maximum starts at: far below the score of any pair that is kept, and so far
#: above the lowest float32 that its differences with scores of either sign are finite.
MAX_INIT = -1.0e37


@dataclass(frozen=True)
class LseRange:
    """What an LSE may be.

    Parameters
    ----------
    empty : float
        Of a row without keys: the lowest finite number.
    least, most : float
        Of a row with keys; one beyond is stored as the nearer of the two.
    """

    empty: float
    least: float
    most: float


def lse_range(dtype: str) -> LseRange:
    """What an LSE of ``dtype`` may be.

    Parameters
    ----------
    dtype : str
        ``float16``, ``bfloat16`` or ``float32``.

    Examples
    --------
    >>> lse_range("float16")
    LseRange(empty=-65504.0, least=-65472.0, most=65504.0)
    """
    element = np.dtype(getattr(ml_dtypes, dtype, dtype))
    lowest, highest = (element.type(end) for end in _ends(element))
    return LseRange(float(lowest), float(np.nextafter(lowest, highest)), float(highest))


def empty_lse(dtype: str) -> float:
    """The LSE of a row without keys: the lowest finite number of its dtype."""
    return lse_range(dtype).empty


def _ends(element: np.dtype) -> tuple[float, float]:
    info = ml_dtypes.finfo(element)
    return float(info.min), float(info.max)
