"""What the PyTorch operator adds to a call on the host: a library's kernels on a row of padding.

Of the kernel alone, of allocating the results, and of both within the operator::

    python benchmarks/torch_op.py dist/
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import tvm_ffi

import prefilltune.torch as prefill
from prefilltune.tuning.backends import backend_of

CALLS = 500  # fewer than a GPU's queue holds
REPEATS = 60


def microseconds(call: Callable[[], Any]) -> float:
    """Median host time of a call, with the device idle before each repeat."""
    times = []
    for _ in range(REPEATS):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        times.append((time.perf_counter() - start) / CALLS)
    return round(statistics.median(times) * 1e6, 2)


def main() -> None:
    library = prefill.load(sys.argv[1])
    served = next(kernel for kernel in library.kernels if kernel.shape is None)
    kernel, spec = tvm_ffi.load_module(library.path)[served.symbol], served.spec
    options = {"dtype": getattr(torch, spec.dtype), "device": served.device}
    query = torch.zeros(1, 1, spec.num_qo_heads, spec.head_dim, **options)
    key, value = (torch.zeros(1, 1, spec.num_kv_heads, spec.head_dim, **options) for _ in range(2))
    inputs = (query, key, value, torch.zeros(1, dtype=torch.int32, device=served.device))
    chosen = {"sm_scale": spec.sm_scale, "mask_mode": spec.mask_mode}
    with torch.inference_mode():
        out = prefill.sequence_prefill(*inputs, **chosen)
        calls: dict[str, Callable[[], Any]] = {
            "kernel_us": lambda: kernel(*inputs, *out),
            "results_us": lambda: [torch.empty_like(each) for each in out],
            "operator_us": lambda: prefill.sequence_prefill(*inputs, **chosen),
            "operator_out_us": lambda: prefill.sequence_prefill(*inputs, **chosen, out=out),
        }
        found = {name: microseconds(call) for name, call in calls.items()}
    print(
        json.dumps(
            {
                "device": backend_of(library.target["kind"]).device_name(),
                "torch": torch.__version__,
                "load_average": os.getloadavg()[0],
                **found,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
