"""Descriptions that no workload asks for, to derive from: passes know no names and no meaning."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.script import tirx as T

#: Groups, rows, columns and elements of :func:`smoothed`.
SIZES = (2, 7, 11, 5)


def smoothed(
    summand: Any = None,
    kept: Any = None,
    some: Any = None,
    divided: bool = True,
    scale: Any = None,
) -> Any:
    """Per group and row, a mean of ``table`` weighted by e to ``energy``, over ``counts`` columns.

    Parameters
    ----------
    summand : callable, optional
        From an energy and the row's largest to a weight.
    kept : callable, optional
        ``(row, column, count)`` to whether the row sees the column.
    some : callable, optional
        ``(row, count)`` to the begin and the end of the columns that the row sees.
    divided : bool
        Whether the result is divided by the sum of weights.
    scale : callable, optional
        What an energy is made before anything else.
    """
    G, R, C, E = SIZES
    weight = summand or (lambda energy, largest: tirx.exp(energy - largest))
    sees = kept or (lambda row, column, count: column < tirx.max(tirx.min(count, C), 0))
    ends = some or (lambda row, count: (0, tirx.max(tirx.min(count, C), 0)))

    scaled = scale or (lambda energy: energy)

    def shown_to_some(column: Any, count: Any) -> Any:
        begin, end = ends(0, count)[0], ends(R - 1, count)[1]
        return column < end if some is None else tirx.all(column >= begin, column < end)

    def mean(total: Any, mass: Any) -> Any:
        return total / mass if divided else total

    @T.prim_func(s_tir=True)
    def main(
        energy: T.Buffer((G, R, C), "float32"),  # pyright: ignore
        table: T.Buffer((G, C, E), "float32"),  # pyright: ignore
        counts: T.Buffer((G,), "int32"),  # pyright: ignore
        result: T.Buffer((G, R, E), "float32"),  # pyright: ignore
    ):
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        shown = T.sblock_alloc_buffer((G, R, C), "float32")
        high_water = T.sblock_alloc_buffer((G, R), "float32")
        pull = T.sblock_alloc_buffer((G, R, C), "float32")
        whole_mass = T.sblock_alloc_buffer((G, R), "float32")
        shown_table = T.sblock_alloc_buffer((G, C, E), "float32")
        heap = T.sblock_alloc_buffer((G, R, E), "float32")
        for g, r, c in T.grid(G, R, C):
            with T.sblock("shown"):
                vg, vr, vc = T.axis.remap("SSS", [g, r, c])
                shown[vg, vr, vc] = T.Select(
                    sees(vr, vc, counts[vg]), scaled(energy[vg, vr, vc]), T.float32(float("-inf"))
                )
        for g, r, c in T.grid(G, R, C):
            with T.sblock("high_water"):
                vg, vr, vc = T.axis.remap("SSR", [g, r, c])
                with T.init():
                    high_water[vg, vr] = T.float32(-1e30)
                high_water[vg, vr] = T.max(high_water[vg, vr], shown[vg, vr, vc])
        for g, r, c in T.grid(G, R, C):
            with T.sblock("pull"):
                vg, vr, vc = T.axis.remap("SSS", [g, r, c])
                pull[vg, vr, vc] = weight(shown[vg, vr, vc], high_water[vg, vr])
        for g, r, c in T.grid(G, R, C):
            with T.sblock("whole_mass"):
                vg, vr, vc = T.axis.remap("SSR", [g, r, c])
                with T.init():
                    whole_mass[vg, vr] = T.float32(0)
                whole_mass[vg, vr] = whole_mass[vg, vr] + pull[vg, vr, vc]
        for g, c, e in T.grid(G, C, E):
            with T.sblock("shown_table"):
                vg, vc, ve = T.axis.remap("SSS", [g, c, e])
                shown_table[vg, vc, ve] = T.Select(
                    shown_to_some(vc, counts[vg]), table[vg, vc, ve], T.float32(0)
                )
        for g, r, e, c in T.grid(G, R, E, C):
            with T.sblock("heap"):
                vg, vr, ve, vc = T.axis.remap("SSSR", [g, r, e, c])
                with T.init():
                    heap[vg, vr, ve] = T.float32(0)
                heap[vg, vr, ve] = heap[vg, vr, ve] + pull[vg, vr, vc] * shown_table[vg, vc, ve]
        for g, r, e in T.grid(G, R, E):
            with T.sblock("result"):
                vg, vr, ve = T.axis.remap("SSS", [g, r, e])
                result[vg, vr, ve] = T.Select(
                    ends(vr, counts[vg])[0] < ends(vr, counts[vg])[1],
                    mean(heap[vg, vr, ve], whole_mass[vg, vr]),
                    T.float32(0),
                )

    return main


def compiled(function: Any) -> Any:
    """``function`` for this CPU."""
    module = tvm.IRModule({"main": function})
    return tvm.compile(module, target=tvm.target.Target("llvm"))["main"]
