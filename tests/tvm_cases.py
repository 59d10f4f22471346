"""The cases of TVM's own test of its masked prefill kernel: heads 4, head_dim 64, float16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dispatch_fixtures import swept

from prefilltune.database import Entry, RecordStore, TargetKey
from prefilltune.workloads import TVM_MASK_MODES, PrefillSpec

#: ``h_kv, batch, qo_len, kv_len, valid_lens, mask_modes``.
CASES = pytest.mark.parametrize(
    ("h_kv", "batch", "qo_len", "kv_len", "valid_lens", "mask_modes"),
    [
        pytest.param(4, 2, 16, 16, [0, 0], TVM_MASK_MODES, id="zero"),
        pytest.param(4, 2, 32, 32, [32, 32], TVM_MASK_MODES, id="full"),
        pytest.param(4, 4, 64, 64, [10, 64, 5, 33], TVM_MASK_MODES, id="mixed"),
        pytest.param(
            2, 3, 32, 32, [8, 32, 17], TVM_MASK_MODES, id="mixed_gqa", marks=pytest.mark.slow
        ),
        pytest.param(
            2,
            3,
            32,
            48,
            [8, 32, 17],
            TVM_MASK_MODES[1:],
            id="qo_len_differs_from_kv_len",
            marks=pytest.mark.slow,
        ),
    ],
)


def database_of_cases(
    root: Path,
    key: TargetKey,
    short_record: Callable[[PrefillSpec], Entry],
    long_record: Callable[[PrefillSpec], Entry],
) -> Path:
    """A database with two records for each spec of the cases, and boundaries between them."""
    for mask_mode in TVM_MASK_MODES:
        for h_kv in (2, 4):
            spec = PrefillSpec(4, h_kv, 64, "float16", mask_mode)
            short, long = short_record(spec), long_record(spec)
            RecordStore.open(root, key, create=True).add([short, long])
            one, other = short.record_id, long.record_id
            times = {"2x16": {one: 1.0, other: 2.0}, "4x64": {one: 2.0, other: 1.0}}
            swept(root, spec, times, key)
    return root
