"""A C header that says which kernels a library holds, for programs that choose one at run time."""

from __future__ import annotations

from collections.abc import Sequence

from ...workloads import PrefillShape, PrefillSpec
from ..backends import backend_of
from ..building.alignment import alignment_of

_HEADER = """\
/* The kernels of {library}. Made by `prefilltune build`; see manifest.json beside this file.
 *
 * Load the library with tvm-ffi (tvm::ffi::Module::LoadFromFile) and call a kernel by its symbol
 * with six tensors: query, key, value, valid_lens, output, lse; with seven where `bias` is not
 * NULL: query, key, value, valid_lens, bias, output, lse. They are dense, on the device below, and
 * each begins at a multiple of PREFILL_ALIGNMENT bytes, valid_lens and bias at any of their
 * elements; a call refuses others. Where `views` is not 0, only the last dimension of query, key
 * and value must be dense (parts of one projection, say, or heads before rows); their other strides
 * are positive, multiples of PREFILL_ALIGNMENT bytes or of what rows of head_dim begin at, and each
 * spans less than 2^31 elements. Strides are seen in 32 bits: what is beyond them is not refused.
 *   query, output   [batch, qo_len, num_qo_heads, head_dim]   dtype
 *   key, value      [batch, kv_len, num_kv_heads, head_dim]   dtype
 *   valid_lens      [batch]                                   int32
 *   bias            [num_qo_heads, qo_len + kv_len - 1]       float32
 *   lse             [batch, qo_len, num_qo_heads]             lse_dtype, base 2
 *
 * A row sees columns from window_left before its own to window_right behind it; the own column of
 * the last valid row is the last valid column. Its score of one is
 *   x = sm_scale * dot(query, key)
 *   x = softcap * tanh(x / softcap)          where softcap is not 0
 *   x + bias[head][column - row + qo_len - 1]  where bias is not NULL
 * Rows of padding become 0, and their LSE the lowest finite number, as of a row without keys; where
 * padding_output is "untouched", nothing is written there.
 *
 * Where layout is "packed", sequences lie one behind another, without padding, and in the place of
 * valid_lens are two tensors and a number: query, key, value, cu_seqlens_q, cu_seqlens_kv,
 * max_seqlen_q, output, lse, the bias before output:
 *   query, output                [total_q, num_qo_heads, head_dim]    dtype
 *   key, value                   [total_kv, num_kv_heads, head_dim]   dtype
 *   cu_seqlens_q, cu_seqlens_kv  [batch + 1]                          int32
 *   max_seqlen_q                 a number, int64
 *   bias                         [num_qo_heads, width]                float32
 *   lse                          [total_q, num_qo_heads]              lse_dtype, base 2
 * Offsets begin with 0, never decrease and end with the total; others are clamped to it.
 * max_seqlen_q is how many queries the longest sequence has, or 0 where nobody knows: by it the
 * kernel is chosen, and another number changes no result. The entry of a bias is distance + width
 * / 2, a column being at distance 0 from the row whose own it is.
 */
#ifndef PREFILL_H_
#define PREFILL_H_

#include <stddef.h>
#include <stdint.h>

/* DLPack's {device_name}. */
#define PREFILL_DEVICE_TYPE {device}
#define PREFILL_ALIGNMENT {alignment}
/* What the machine code uses: loaded elsewhere, it ends the process at its first call. */
#define PREFILL_REQUIRES "{requires}"

typedef struct {{
  const char* symbol;
  const char* mask_mode;
  const char* dtype;
  const char* lse_dtype;
  int32_t num_qo_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  double sm_scale;
  /* All three are 0 for a kernel that serves every shape. */
  int64_t batch;
  int64_t qo_len;
  int64_t kv_len;
  /* The end at which sequences are filled, "right" or "left", and the window, in which -1 is open:
   * what mask_mode is the name of. */
  const char* padding;
  int64_t window_left;
  int64_t window_right;
  /* 0 for none. */
  double softcap;
  /* "relative", or NULL for none. */
  const char* bias;
  /* "zero" or "untouched". */
  const char* padding_output;
  /* "padded" or "packed". */
  const char* layout;
  /* Whether query, key and value may be views. */
  int32_t views;
}} PrefillKernel;

#define PREFILL_NUM_KERNELS {count}

static const PrefillKernel kPrefillKernels[PREFILL_NUM_KERNELS] = {{
{rows}
}};

#endif /* PREFILL_H_ */
"""


def c_header(
    library: str, kind: str, requires: str, kernels: Sequence[tuple[str, str, str | None, bool]]
) -> str:
    """Text of the header.

    Parameters
    ----------
    library : str
        Name of the library's file.
    kind : str
        Target kind.
    requires : str
        What a machine must have, in words.
    kernels : Sequence[tuple[str, str, str | None, bool]]
        Symbol, spec and shape of each, in their canonical texts, no shape where any is served; and
        whether it takes views.
    """
    backend = backend_of(kind)
    device_name, device = backend.device_type
    dtypes = {PrefillSpec.parse(spec).dtype for _, spec, _, _ in kernels}
    rows = "\n".join(_row(*kernel) for kernel in kernels)
    return _HEADER.format(
        library=library,
        device_name=device_name,
        device=device,
        alignment=max([backend.alignment, *(alignment_of(dtype, kind) for dtype in dtypes)]),
        requires=requires,
        count=len(kernels),
        rows=rows,
    )


def _row(symbol: str, spec_text: str, shape_text: str | None, views: bool) -> str:
    spec = PrefillSpec.parse(spec_text)
    sizes = (0, 0, 0)
    if shape_text is not None:
        shape = PrefillShape.parse(shape_text)
        sizes = (shape.batch, shape.qo_len, shape.num_kv)
    left, right = (-1 if end is None else end for end in spec.window)
    bias = f'"{spec.bias}"' if spec.bias else "NULL"
    return (
        f'    {{"{symbol}",\n'
        f'     "{spec.mask_mode}", "{spec.dtype}", "{spec.lse_type}", {spec.num_qo_heads}, '
        f"{spec.num_kv_heads}, {spec.head_dim}, {spec.scale!r}, {', '.join(map(str, sizes))},\n"
        f'     "{spec.padding}", {left}, {right}, {spec.softcap or 0.0!r}, {bias}, '
        f'"{spec.padding_output}", "{spec.layout}", {int(views)}}},'
    )
