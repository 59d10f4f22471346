"""The cases of TVM's own test of its masked prefill kernel: heads 4, head_dim 64, float16."""

from __future__ import annotations

import pytest

from prefilltune.workloads import MASK_MODES

#: ``h_kv, batch, qo_len, kv_len, valid_lens, mask_modes``.
CASES = pytest.mark.parametrize(
    ("h_kv", "batch", "qo_len", "kv_len", "valid_lens", "mask_modes"),
    [
        pytest.param(4, 2, 16, 16, [0, 0], MASK_MODES, id="zero"),
        pytest.param(4, 2, 32, 32, [32, 32], MASK_MODES, id="full"),
        pytest.param(4, 4, 64, 64, [10, 64, 5, 33], MASK_MODES, id="mixed"),
        pytest.param(2, 3, 32, 32, [8, 32, 17], MASK_MODES, id="mixed_gqa"),
        pytest.param(2, 3, 32, 48, [8, 32, 17], MASK_MODES[1:], id="qo_len_differs_from_kv_len"),
    ],
)
