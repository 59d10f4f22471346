"""Tuned kernels in the place of TVM's hand-written ones, in a module that has these already."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...workloads import DTYPES, TVM_MASK_MODES, PrefillSpec, PrefilltuneError, masked_baseline
from ..backends import backend_of
from ..backends.resolving import resolve_target
from ..errors import NotSwappedError
from .factory import open_databases, serving_kernel
from .serving import Serving, choose_serving

#: What TVM calls its kernel, and what names of it begin with after Relax made them unique.
_NAME = "batch_sequence_prefill_kv_masked"

#: As TVM's own models are written for, where the module is for another kind of target.
_GPU = {"kind": "cuda", "arch": "sm_80", "max_num_threads": 1024}


@dataclass(frozen=True)
class Swap:
    """What became of one function of a module.

    Parameters
    ----------
    name : str
        Of the function.
    plan : Serving, optional
        What serves now in its place; None if it was left.
    reason : str
        Why it was left; empty if it was not.
    """

    name: str
    plan: Serving | None = None
    reason: str = ""

    @property
    def swapped(self) -> bool:
        """Whether a tuned kernel stands there now."""
        return self.plan is not None and self.plan.tree is not None

    def as_data(self) -> dict[str, Any]:
        """All of it as JSON's types."""
        plan = None if self.plan is None else self.plan.as_data()
        return {"function": self.name, "swapped": self.swapped, "plan": plan, "reason": self.reason}


def swap_prefill_kernels(
    module: Any,
    target: Any,
    *,
    database: Path | str | Sequence[Path | str] | None = None,
    on_missing: str = "nearest",
    lens: str = "",
    allow_left: bool = False,
) -> tuple[Any, list[Swap]]:
    """Put tuned kernels in the place of TVM's hand-written masked prefill in a module.

    A function is taken for TVM's if it is, to the last instruction, what TVM makes for the heads,
    dtype, scale and mask that it has; its callers are left as they are.

    Parameters
    ----------
    module : tvm.IRModule
        Such as a Relax model's, before or after it was lowered. Not changed.
    target : tvm.target.Target, str or dict
        What the module is to be built for.
    database, on_missing, lens
        As :func:`~prefilltune.tuning.sequence_prefill_with_mask`.
    allow_left : bool
        Whether functions may stay that look like TVM's kernel and cannot be swapped.

    Returns
    -------
    tvm.IRModule
        With the kernels swapped.
    list[Swap]
        What became of every function that looks like TVM's kernel.

    Raises
    ------
    NotSwappedError
        If a function that looks like TVM's kernel cannot be swapped, unless ``allow_left``; or if
        there is none.
    InvalidOptionError, UnknownTargetError
        For an argument out of its range.
    """
    import tvm

    resolved = resolve_target(target)
    databases = open_databases(database)
    functions, swaps = dict(module.functions_items()), []
    for variable, function in module.functions_items():
        if not _looks_alike(variable.name_hint, function):
            continue
        try:
            spec = _recognise(function, resolved.target)
            serving = choose_serving(spec, resolved, databases, on_missing=on_missing, lens=lens)
            kernel = serving_kernel(serving, resolved)
        except PrefilltuneError as error:
            swaps.append(Swap(variable.name_hint, reason=str(error)))
            continue
        swaps.append(Swap(variable.name_hint, serving))
        if serving.tree is not None:
            symbol = function.attrs.get("global_symbol")
            functions[variable] = (
                kernel.with_attr("global_symbol", symbol)
                if symbol
                else kernel.without_attr("global_symbol")
            )
    left = [swap for swap in swaps if swap.plan is None]
    if not swaps or (left and not allow_left):
        raise NotSwappedError(_not_swapped(left))
    return tvm.IRModule(functions, attrs=module.attrs, global_infos=module.global_infos), swaps


def swap_prefill_pass(target: Any, **options: Any) -> Any:
    """:func:`swap_prefill_kernels` as a pass of TVM's, for a pipeline.

    What was swapped is the module's attribute ``prefilltune.swaps`` afterwards, in JSON.
    """
    from tvm.ir.transform import module_pass

    @module_pass(opt_level=0, name="SwapPrefillKernels")
    def swap(module: Any, _: Any) -> Any:
        swapped, swaps = swap_prefill_kernels(module, target, **options)
        return swapped.with_attr(
            "prefilltune.swaps", json.dumps([each.as_data() for each in swaps])
        )

    return swap


def _looks_alike(name: str, function: Any) -> bool:
    from tvm.tirx import PrimFunc

    return isinstance(function, PrimFunc) and _NAME in name


def _recognise(function: Any, target: Any) -> PrefillSpec:
    """The spec of a function that is TVM's kernel.

    Raises
    ------
    NotSwappedError
        If it is not.
    """
    from tvm_ffi import structural_equal

    bare = _bare(function)
    for spec in _specs(function):
        for made_for in _made_for(target):
            if structural_equal(bare, _bare(masked_baseline(spec, made_for)["main"])):
                return spec
    raise NotSwappedError(
        "it is not what TVM 0.27 makes for its heads and dtype, whatever the scale and the mask: "
        "another version made it, or a pass has changed it; swap before other passes"
    )


def _specs(function: Any) -> Iterator[PrefillSpec]:
    """Every spec that a function of this signature and with these constants may have."""
    shapes = [[_constant(size) for size in buffer.shape] for buffer in function.params]
    dtype = str(function.params[0].dtype)
    if [len(shape) for shape in shapes] != [4, 4, 4, 1, 4, 3] or dtype not in DTYPES:
        return
    (*_, num_qo_heads, head_dim), (*_, num_kv_heads, _) = shapes[:2]
    if not (num_qo_heads and num_kv_heads and head_dim) or num_qo_heads % num_kv_heads:
        return
    for scale in _scales(function, head_dim):
        for mask_mode in TVM_MASK_MODES:
            yield PrefillSpec(num_qo_heads, num_kv_heads, head_dim, dtype, mask_mode, scale)


def _scales(function: Any, head_dim: int) -> list[float]:
    """Positive constants of a function, the usual scale before all others."""
    from tvm.ir import save_json

    nodes = json.loads(save_json(function))["nodes"]
    found = {
        float(node["data"]["value"])
        for node in nodes
        if isinstance(node, dict) and node.get("type") == "ir.FloatImm"
    }
    usual = 1 / math.sqrt(head_dim)
    positive = {value for value in found if value > 0 and math.isfinite(value)}
    return sorted(positive, key=lambda value: (not math.isclose(value, usual), value))


def _made_for(target: Any) -> list[Any]:
    from tvm.target import Target

    return [*([target] if backend_of(target.kind.name).masked_baseline else []), Target(_GPU)]


def _bare(function: Any) -> Any:
    """Without attributes: passes add some that change nothing."""
    for name in list(function.attrs.keys()):
        function = function.without_attr(name)
    return function


def _constant(size: Any) -> int:
    """A size that is known, or 0."""
    from tvm.tirx import IntImm

    return int(size.value) if isinstance(size, IntImm) else 0


def _not_swapped(left: Sequence[Swap]) -> str:
    if not left:
        return (
            f"the module has no function named {_NAME}: nothing was swapped; swap a model that "
            "calls TVM's masked prefill kernel, or take sequence_prefill_with_mask when it is made"
        )
    reasons = "; ".join(f"{swap.name}: {swap.reason}" for swap in left)
    return f"nothing was swapped, since {reasons}; or allow it with allow_left=True"
