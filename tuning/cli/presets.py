"""``prefilltune presets``."""

from __future__ import annotations

from rich.table import Column, Table

from ...workloads import load_presets
from ...workloads.phrases import phrase
from .console import console, print_table


def presets() -> None:
    """List the models whose attentions and usual shapes are known."""
    rest = ("heads", "head_dim", "mask and scores", "usual shapes", "model")
    columns = (Column(title, overflow="fold") for title in rest)
    table = Table(Column("preset", no_wrap=True), *columns)  # a name is there to be copied
    for each in (each for whole in load_presets().values() for each in whole.apart()):
        spec = each.spec()
        heads = f"{spec.num_qo_heads}/{spec.num_kv_heads}"
        shapes = " ".join(f"{size.batch}x{size.qo_len}" for size in each.shapes)
        table.add_row(each.name, heads, str(spec.head_dim), phrase(spec), shapes, each.model)
    print_table(table)
    console.print(
        "a name without what is behind its colon means all attentions of the model", soft_wrap=True
    )
