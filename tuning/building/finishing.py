"""The last step of every schedule: its annotated loops become software pipelines, once."""

from __future__ import annotations

from typing import Any

from ..pipeline import pipeline

#: TVM's mark of a function that no pass need schedule any more.
_FINISHED = "tirx.is_scheduled"


def finished(module: Any) -> Any:
    """A scheduled module as it is compiled, or put into other modules: pipelined, and marked.

    Functions that carry the mark are left as they are, so that nothing is pipelined twice.
    Compiling does this first, so that nothing is compiled without it.

    Raises
    ------
    ValueError
        If the annotations of a loop do not fit it.
    """
    import tvm
    from tvm.tirx import PrimFunc

    left = {
        name: function
        for name, function in module.functions.items()
        if isinstance(function, PrimFunc) and not (function.attrs or {}).get(_FINISHED)
    }
    done = {
        name: function.with_attr(_FINISHED, True)
        for name, function in pipeline(tvm.IRModule(left)).functions.items()
    }
    return tvm.IRModule({**dict(module.functions), **done}, attrs=module.attrs)
