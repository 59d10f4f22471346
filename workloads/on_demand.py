"""Names of a package that are imported when they are first asked for (PEP 562).

Importing NumPy takes a tenth of a second and TVM three, and `--help`, completion, presets and
errors need neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module


def on_demand(package: str, modules: Mapping[str, Collection[str]]) -> Callable[[str], object]:
    """The ``__getattr__`` of a package.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    modules : Mapping[str, Collection[str]]
        The names that each of its modules has. None may be a module's own: once that is imported,
        by whomever, it stands in the package under its name.

    Returns
    -------
    Callable[[str], object]
        To be hidden from type checkers, which would take every misspelt name for one from there:
        they read imports under ``if TYPE_CHECKING``.
    """
    origins = {name: module for module, names in modules.items() for name in names}

    def found(name: str) -> object:
        if name not in origins:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f".{origins[name]}", package), name)
        setattr(sys.modules[package], name, value)
        return value

    return found
