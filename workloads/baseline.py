"""The hand-scheduled kernels that ship in TVM, which tuned kernels are compared with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .spec import PrefillSpec

#: Masks of TVM's kernels.
TVM_MASK_MODES = ("padded", "causal_padded_left")


def has_baseline(spec: PrefillSpec) -> bool:
    """Whether TVM's kernels compute ``spec``, its LSE aside: they know no window and no bias.

    They write padding, so that none leaves it untouched.
    """
    return spec.padding_output == "zero" and spec in nearest_with_baseline(spec).same_kernels


def has_ragged_baseline(spec: PrefillSpec) -> bool:
    """Whether the kernel of TVM's that takes packed rows computes those of ``spec``."""
    if not spec.is_packed:
        return has_baseline(spec)
    sides = (replace(spec, layout="padded", padding=side) for side in ("right", "left"))
    return any(map(has_baseline, sides))


def nearest_with_baseline(spec: PrefillSpec) -> PrefillSpec:
    """Of what TVM's kernels compute, what has tensors as ``spec`` has: ``spec`` itself if it is."""
    mask_mode = TVM_MASK_MODES[spec.padding == "left"]
    return PrefillSpec(
        spec.num_qo_heads, spec.num_kv_heads, spec.head_dim, spec.dtype, mask_mode, spec.scale
    )


def masked_baseline(spec: PrefillSpec, target: Any) -> Any:
    """TVM's tiled masked prefill kernel for GPU targets, of a spec that ``has_baseline``.

    Returns
    -------
    tvm.IRModule
        One scheduled PrimFunc ``main(query, key, value, valid_lens, output, lse)`` with symbolic
        batch and lengths (``_attention_sequence_prefill_with_mask``). Rows of padding are left
        with whatever the arithmetic gives.
    """
    import tvm
    from tvm.relax.frontend.nn.llm._prefill_kernels import _attention_sequence_prefill_with_mask

    kernel = _attention_sequence_prefill_with_mask(
        spec.num_kv_heads,
        spec.num_qo_heads,
        spec.head_dim,
        spec.dtype,
        target,
        spec.scale,
        mask_mode=spec.mask_mode,  # pyright: ignore[reportArgumentType]
    )
    return tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})


def ragged_cpu_baseline(spec: PrefillSpec) -> Any:
    """TVM's hand-written CPU prefill, which takes the valid rows packed one after the other.

    TVM ships no masked prefill for CPUs; this one computes the same rows of a spec that
    ``has_ragged_baseline``.

    Returns
    -------
    tvm.IRModule
        One PrimFunc ``main(query, q_indptr, key, value, kv_indptr, q_rope_position,
        k_rope_pos_offset, output, lse, causal, rotary_mode, rope_scale, rope_theta, sm_scale)``.
    """
    import tvm
    from tvm.relax.frontend.nn.llm._prefill_kernels import _attention_prefill_ragged_cpu

    kernel = _attention_prefill_ragged_cpu(
        spec.num_kv_heads, spec.num_qo_heads, spec.head_dim, spec.head_dim, spec.dtype, {}
    )
    return tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})
