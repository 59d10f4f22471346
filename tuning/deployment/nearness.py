"""Which record serves which sizes where nothing was measured: that of the nearest tuned shape.

Near is what :func:`~prefilltune.database.shape_distance` says: the sum of ``|log2|`` of the ratios
of batch, ``qo_len`` and ``kv_len``. Schedules differ in tile sizes and in how much work stands side
by side. Lengths decide how well tiles fit and how often a loop turns; batch and ``qo_len`` how many
tiles there are for how many cores. All three are ratios to whoever divides work, so that twice as
long is as far off as half as long.

Other measures were tried on the committed sweeps, where the best record of each of 248 points is
known. What the record of the nearest shape loses to it, in the geometric mean (records that were
tuned on full lengths on an H100, on uniform ones, and on a CPU):

===============================================  =====  =====  =====
this one                                         6.4 %  1.9 %   9 %
rows (batch * qo_len) and ``kv_len``             6.5 %  2.1 %  13 %
lengths alone                                    6.4 %  2.3 %  15 %
pairs of rows and keys                           7.4 %  3.9 %  13 %
as :func:`nearness` and ``grow`` do it           6.6 %  2.1 %  10 %
boundaries from the sweep itself, same records   4.6 %  0.6 %   2 %
===============================================  =====  =====  =====
"""

from __future__ import annotations

from collections.abc import Mapping

from ...database import shape_distance
from ...workloads import PrefillShape
from .boundaries import Point

#: In the place of a length distribution, where a point is no measurement.
_NOT_MEASURED = "nearness"


def nearness(tuned: Mapping[str, PrefillShape]) -> list[Point]:
    """What stands in for measurements on the shapes that records were tuned on.

    A record is as slow as it is far off, so that boundaries grown from these points lie halfway
    between tuned shapes, by their ratio.

    Parameters
    ----------
    tuned : Mapping[str, PrefillShape]
        The shape of each record, by its id.

    Examples
    --------
    >>> from .boundaries import grow
    >>> grow(nearness({"a": PrefillShape(1, 128), "b": PrefillShape(1, 512)}))
    Split(size='kv_len', below=256, less=Leaf(kernel='a'), rest=Leaf(kernel='b'))
    """
    return [
        Point(
            shape,
            _NOT_MEASURED,
            {record: 2 ** shape_distance(shape, its) for record, its in tuned.items()},
        )
        for shape in dict.fromkeys(tuned.values())
    ]
