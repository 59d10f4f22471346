"""The pass that lets reductions run over the columns once, tile after tile.

A sum whose summand reads the running value of an earlier reduction has summed up what the earlier
value gave. Where the summand is ``g(r)`` of the running value ``r``, everything summed up so far is
put right by one factor, ``g(new) / g(old)``, if that depends on ``r`` alone: ``exp2(s - r)`` has
``exp2(old - new)``, whatever ``s``.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir import Call, TensorLoad

from ..errors import DerivationError
from .expressions import Buffer, Expr, Load, called, reads, with_loads
from .stages import Description, Stage

_EXPONENTIALS = ("exp", "exp2", "exp10")


def repair(
    description: Description, anchor: Stage, stage: Stage, before: Expr, now: Expr
) -> Expr | None:
    """By what ``stage`` multiplies what it has summed up, when ``anchor`` moves.

    Parameters
    ----------
    anchor : Stage
        The reduction that runs ahead.
    stage : Stage
        A reduction over the same axis.
    before, now : Expr
        The anchor's value then and now.

    Returns
    -------
    Expr or None
        None where it does not read the anchor.

    Raises
    ------
    DerivationError
        If no factor puts it right.
    """
    running = anchor.buffer
    summand = _expanded(description, stage.value, running)
    if not reads(summand, running):
        return None
    if stage.combine is not tirx.Add:
        raise DerivationError(
            f"{stage.name!r} reads the running value of {anchor.name!r} and is no sum: only "
            "sums can be put right by a factor"
        )
    try:
        return _ratio(summand, running, before, now)
    except _NoRatio as error:
        raise DerivationError(
            f"{stage.name!r} reads the running value of {anchor.name!r} in {error}: a "
            "summand is put right only if it is a product of terms free of that value and "
            "exponentials of it plus or minus others"
        ) from None


class _NoRatio(Exception):
    """The expression that has no ratio."""


def _expanded(description: Description, expr: Expr, running: Buffer) -> Expr:
    """``expr`` with elementwise stages that read ``running`` written out."""

    def changed(load: Load) -> Expr:
        stage = description.stage_of(load.source)
        if stage is None or stage.reduced:
            return load
        value = _expanded(description, stage.value, running)
        return value if reads(value, running) else load

    return with_loads(expr, changed)


def _ratio(expr: Expr, running: Buffer, before: Expr, now: Expr) -> Expr | None:
    """``expr`` now over ``expr`` before; None for 1."""
    if not reads(expr, running):
        return None
    if isinstance(expr, tirx.Cast):  # rounded before and after alike
        return _ratio(expr.value, running, before, now)
    if isinstance(expr, tirx.Mul):
        factors = [_ratio(each, running, before, now) for each in (expr.a, expr.b)]
        known = [factor for factor in factors if factor is not None]
        return known[0] if len(known) == 1 else known[0] * known[1]
    if isinstance(expr, Call) and called(expr) in _EXPONENTIALS:
        added, taken = _difference(expr.args[0], running, before, now)
        return Call(expr.op, [added - taken], ret_ty=expr.ty)
    raise _NoRatio(expr)


def _difference(expr: Any, running: Buffer, before: Expr, now: Expr) -> tuple[Expr, Expr]:
    """``expr`` now minus ``expr`` before, as what is added and what is taken away."""
    if isinstance(expr, TensorLoad) and expr.source.same_as(running):
        return now, before
    if isinstance(expr, tirx.Sub) and not reads(expr.a, running):
        added, taken = _difference(expr.b, running, before, now)
        return taken, added
    if isinstance(expr, tirx.Sub | tirx.Add) and not reads(expr.b, running):
        return _difference(expr.a, running, before, now)
    if isinstance(expr, tirx.Add) and not reads(expr.a, running):
        return _difference(expr.b, running, before, now)
    raise _NoRatio(expr)
