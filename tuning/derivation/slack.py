"""The pass that lets the anchor lag behind the maximum.

The anchor is a shift: outputs do not change with its value, so that it need not move with every
larger value, and where it stays nothing is put right. How far it may lag is what exponentials of
the difference may grow to; how large it may be, up or down, is up to where differences are exact
enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from ..errors import DerivationError
from .axes import Roles
from .expressions import Expr, dtype_of
from .one_pass import OnePass
from .stages import Stage, load


@dataclass(frozen=True)
class Slack:
    """How exactly the anchor is the maximum.

    Parameters
    ----------
    lag : float
        How far a value may lie above the anchor before this moves.
    largest : float
        The largest anchor, up or down, of a row that is defined.
    """

    lag: float
    largest: float


def let_lag(passes: OnePass, roles: Roles, slack: Slack) -> OnePass:
    """``passes`` whose anchor moves only where a tile's maximum exceeds it by ``slack.lag``.

    Raises
    ------
    DerivationError
        If the anchor is no maximum, or starts in the range of rows that are defined.
    """

    def changed(stage: Stage) -> Stage:
        if not stage.buffer.same_as(roles.anchor.buffer):
            return stage
        value: Any = stage.value
        if not isinstance(value, tirx.Max):
            raise DerivationError(
                f"{stage.name!r} is no maximum, which alone may lag behind: let it reduce with max"
            )
        start: Any = stage.init
        if abs(start.value) <= slack.largest:
            raise DerivationError(
                f"{stage.name!r} starts with {start.value}, as of a row that is defined: a row of "
                f"nothing but -inf stays there; start with a number above {slack.largest:g}, up or "
                "down"
            )
        lag: Any = tirx.const(slack.lag, dtype_of(value))
        return replace(stage, value=tirx.Select(value.b > value.a + lag, value.b, value.a))

    return replace(passes, moving=tuple(map(changed, passes.moving)))


def in_range(roles: Roles, slack: Slack) -> Expr:
    """Whether a row is defined."""
    anchor = load(roles.anchor)
    return tirx.abs(anchor) <= tirx.const(slack.largest, dtype_of(anchor))
