"""Workloads as people write them on the command line."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from ..workloads import CHOICES, MASK_MODES, PrefillShape, PrefillSpec
from ..workloads.choices import MASK_CHOICES, PADDING
from .errors import InvalidOptionError


def parse_heads(
    text: str,
    mask_mode: str | None,
    dtype: str,
    sm_scale: float | None = None,
    **choices: Any,
) -> PrefillSpec:
    """The spec of ``QOxDIM`` or ``QO/KVxDIM``.

    Parameters
    ----------
    text : str
        The heads.
    mask_mode, dtype, sm_scale, choices
        As :class:`~prefilltune.workloads.PrefillSpec` takes them.

    Raises
    ------
    InvalidOptionError
        If ``text`` has another form.
    InvalidSpecError
        If no spec has such fields.

    Examples
    --------
    >>> parse_heads('32/8x128', 'padded', 'float16').num_kv_heads
    8
    >>> parse_heads('12x64', None, 'float16', window=(64, 64)).mask_mode
    'padded_w64-64'
    """
    query_heads, _, rest = text.partition("/")
    if rest:
        kv_heads, _, head_dim = rest.partition("x")
    else:
        query_heads, _, head_dim = text.partition("x")
        kv_heads = query_heads
    try:
        num_qo_heads, num_kv_heads, dim = int(query_heads), int(kv_heads), int(head_dim)
    except ValueError:
        raise InvalidOptionError(
            f"--heads is {text!r}; write QOxDIM or QO/KVxDIM, such as 12x64 or 32/8x128"
        ) from None
    return PrefillSpec(num_qo_heads, num_kv_heads, dim, dtype, mask_mode, sm_scale, **choices)


def workload_options(spec: PrefillSpec, *shapes: PrefillShape) -> str:
    """The options by which commands take a workload: what is printed can be run as it is.

    Examples
    --------
    >>> spec = PrefillSpec(32, 8, 128, "float16")
    >>> workload_options(spec, PrefillShape(4, 2048), PrefillShape(2, 5, 7))
    '--heads 32/8x128 --mask-mode padded --dtype float16 --shape 4x2048 --shape 2x5x7'
    >>> workload_options(PrefillSpec(8, 8, 64, "float32", sm_scale=0.3))
    '--heads 8/8x64 --mask-mode padded --dtype float32 --sm-scale 0.3'
    >>> workload_options(PrefillSpec(8, 8, 64, "float16", lse_dtype="float32"))
    '--heads 8/8x64 --mask-mode padded --dtype float16 --lse-dtype float32'
    >>> workload_options(PrefillSpec(8, 8, 64, padding="left", window=(4095, 0), softcap=50))
    '--heads 8/8x64 --padding left --window 4095,0 --softcap 50.0 --dtype float16'
    """
    options = [f"--heads {spec.num_qo_heads}/{spec.num_kv_heads}x{spec.head_dim}"]
    unnamed = CHOICES
    if spec.mask_mode in MASK_MODES:
        options.append(f"--mask-mode {spec.mask_mode}")
        unnamed = [each for each in CHOICES if each not in (PADDING, *MASK_CHOICES)]
    for each in unnamed:
        value = getattr(spec, each.name)
        if value != each.default:
            options.append(f"{each.option} {shlex.quote(each.write(value))}")
    options.append(f"--dtype {spec.dtype}")
    if spec != replace(spec, sm_scale=None):  # which is the usual scale
        options.append(f"--sm-scale {spec.scale!r}")
    if spec.lse_dtype is not None:
        options.append(f"--lse-dtype {spec.lse_dtype}")
    for shape in shapes:
        lengths = dict.fromkeys((shape.qo_len, shape.num_kv))
        options.append("--shape " + "x".join(map(str, (shape.batch, *lengths))))
    return " ".join(options)
