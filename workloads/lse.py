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

from .arrays import numpy_dtype


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
    info = ml_dtypes.finfo(numpy_dtype(dtype))
    least = np.nextafter(info.min, info.max)
    return LseRange(float(info.min), float(least), float(info.max))


def empty_lse(dtype: str) -> float:
    """The LSE of a row without keys: the lowest finite number of its dtype."""
    return lse_range(dtype).empty
