"""Tuned kernels in PyTorch: an operator over libraries that ``prefilltune build`` wrote.

Needs PyTorch, tvm-ffi and TVM's runtime library; nothing that tunes or compiles is imported.

>>> import prefilltune.torch
>>> prefilltune.torch.load("dist/")  # doctest: +SKIP
>>> output, lse = prefilltune.torch.sequence_prefill(query, key, value, lens)  # doctest: +SKIP
"""

from .errors import (
    ChecksumError,
    ForkedError,
    InvalidArgumentError,
    InvalidLibraryError,
    NoKernelError,
    NotDifferentiableError,
    PrefillError,
    RuntimeNotFoundError,
    WrongMachineError,
)
from .kernels import Kernel, Spec
from .library import Library, load
from .merging import merge_parts
from .op import sequence_prefill
from .packed import packed_prefill, varlen_attn
from .threads import Threads, set_num_threads

__all__ = [
    "ChecksumError",
    "ForkedError",
    "InvalidArgumentError",
    "InvalidLibraryError",
    "Kernel",
    "Library",
    "NoKernelError",
    "NotDifferentiableError",
    "PrefillError",
    "RuntimeNotFoundError",
    "Spec",
    "Threads",
    "WrongMachineError",
    "load",
    "merge_parts",
    "packed_prefill",
    "sequence_prefill",
    "set_num_threads",
    "varlen_attn",
]
