"""The command line of the database: ``prefilltune db list | show | verify | merge | ...``.

A command is a function that yields an :class:`~.answer.Answer`; ``answer`` alone prints it, as text
or as JSON.

Exit code 0: all is well. 1: the command did its work and names something bad that it found. 2: it
could not do its work.
"""

from __future__ import annotations

import typer

from ..signature import ungrouped
from . import check, git, look, mend, migrate, move
from .answer import answering

app = typer.Typer(
    no_args_is_help=True,
    help="Look into databases of tuning records, verify, repair, merge and move them.",
)
for _name, _command in (
    ("list", look.list_records),
    ("show", look.show),
    ("verify", check.verify),
    ("repair", mend.repair),
    ("merge", move.merge_databases),
    ("prune", mend.prune),
    ("remove", mend.remove),
    ("export", move.export_records),
    ("import", move.import_records),
    ("diff", look.diff_databases),
    ("migrate", migrate.migrate),
    ("install-merge-driver", git.install_merge_driver),
):
    app.command(_name)(ungrouped(answering(_command)))
app.command("merge-driver")(git.merge_driver)
