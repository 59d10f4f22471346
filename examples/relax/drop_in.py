"""Tuned prefill attention in a Relax model, in both ways: while it is written, and afterwards.

Run it after `prefilltune tune --heads 12x64 --shape 4x128` (and `sweep`, after several shapes).
"""

import argparse

import numpy as np
import tvm
from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op

from prefilltune.tuning import sequence_prefill_with_mask, swap_prefill_kernels

HEADS, DIM = 12, 64


class Attention(nn.Module):
    """Calls one PrimFunc, as mlc-llm's and TVM's own models do."""

    def __init__(self, kernel):
        self.kernel = kernel

    def forward(self, query, key, value, valid_lens):
        outputs = [
            nn.Tensor.placeholder(query.shape, query.dtype),
            nn.Tensor.placeholder(query.shape[:3], query.dtype),
        ]
        return op.tensor_ir_op(self.kernel, "prefill", [query, key, value, valid_lens], outputs)[0]


def exported(kernel):
    heads = nn.spec.Tensor(["batch", "seq_len", HEADS, DIM], "float32")
    lens = nn.spec.Tensor(["batch"], "int32")
    inputs = {"query": heads, "key": heads, "value": heads, "valid_lens": lens}
    return Attention(kernel).export_tvm({"forward": inputs})[0]


def ran(module, target):
    machine = relax.VirtualMachine(relax.build(module, target), tvm.cpu())
    rows = np.random.default_rng(0).standard_normal((3, 2, 100, HEADS, DIM)).astype("float32")
    lens = np.array([100, 37], "int32")
    return machine["forward"](*(tvm.runtime.tensor(array) for array in (*rows, lens))).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", default="database/work")
    database = parser.parse_args().database
    options = {"database": database}
    # One: where the model calls TVM's `_attention_sequence_prefill_with_mask`, call this instead.
    scale = DIM**-0.5
    kernel = sequence_prefill_with_mask(HEADS, HEADS, DIM, "float32", "llvm", scale, **options)
    written = exported(kernel)
    # Two: leave the model as it is, and swap TVM's kernel in its module.
    from tvm.relax.frontend.nn.llm.kv_cache import _attention_sequence_prefill_with_mask

    gpu = tvm.target.Target({"kind": "cuda", "arch": "sm_80", "max_num_threads": 1024})
    theirs = _attention_sequence_prefill_with_mask(HEADS, HEADS, DIM, "float32", gpu, scale)
    swapped, report = swap_prefill_kernels(exported(theirs), "llvm", **options)
    for each in report:
        print(each.name, "swapped" if each.swapped else each.reason)
    target = tvm.target.Target("llvm")
    difference = np.abs(ran(written, target) - ran(swapped, target)).max()
    print(f"largest difference between the two: {difference:g}")


if __name__ == "__main__":
    main()
