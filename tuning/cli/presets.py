"""``prefilltune presets``."""

from __future__ import annotations

from rich.table import Column, Table

from ...workloads import load_presets
from .console import print_table


def presets() -> None:
    """List the models whose heads and usual shapes are known."""
    rest = ("heads", "head_dim", "mask", "usual shapes", "model")
    columns = (Column(title, overflow="fold") for title in rest)
    table = Table(Column("preset", no_wrap=True), *columns)  # a name is there to be copied
    for name, each in load_presets().items():
        spec = each.spec()
        heads = f"{spec.num_qo_heads}/{spec.num_kv_heads}"
        shapes = " ".join(f"{size.batch}x{size.qo_len}" for size in each.shapes)
        table.add_row(name, heads, str(spec.head_dim), spec.mask_mode, shapes, each.model)
    print_table(table)
