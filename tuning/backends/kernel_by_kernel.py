"""A pass of TVM that goes over each kernel of a function by itself, where many take it too long.

TVM's ``CompactBufferAllocation`` keeps all variables that it saw bound, and goes through them again
at each access to a buffer: what it takes grows with the square of a function's length.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..target import usable_cores


def kernel_by_kernel(lowering: Any) -> Any:
    """A pass that does what another one does, which needs nothing of what is around a kernel.

    Parameters
    ----------
    lowering : tvm.transform.Pass
        Of a PrimFunc, whose kernels are the sblocks right within its root.
    """
    import tvm
    from tvm import s_tir, tirx

    from ..pipeline.steps import changed

    def whole(function: Any, module: Any, context: Any) -> Any:
        def lowered(kernel: Any) -> Any:
            return lowering(tvm.IRModule({"main": function.with_body(kernel)}))["main"].body

        kernels: list[Any] = []

        def kept(stmt: Any) -> Any:
            if not isinstance(stmt, s_tir.SBlockRealize):
                return None
            kernels.append(stmt)
            return stmt

        root = function.body
        changed(root.block, kept)
        with ThreadPoolExecutor(usable_cores()) as threads:  # TVM computes without Python's lock
            results = threads.map(lowered, kernels)

            def alone(stmt: Any) -> Any:
                return next(results) if isinstance(stmt, s_tir.SBlockRealize) else None

            block = changed(root.block, alone)
        return function.with_body(s_tir.SBlockRealize(root.iter_values, root.predicate, block))

    return tirx.transform.prim_func_pass(whole, opt_level=0, name="kernel_by_kernel")
