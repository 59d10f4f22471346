"""The table that names tiles by how many keys they see, run on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from warpgroups_on_cpu import kernel_on_cpu

from prefilltune.tuning.intrinsics import ranking

_KERNEL = """
extern "C" __global__ void main_kernel(int* q_ptr, int* k_ptr, int* v_ptr, int* output_ptr) {
  int first = (threadIdx.z * 8 + threadIdx.y) * 4 + threadIdx.x, threads = blockDim.z * 32;
  int things = k_ptr[0];
  for (int i = first; i < things; i += threads)
    prefill_rank_count(buf_dyn_shmem_ptr, i, q_ptr[i], v_ptr[i]);
  int some = prefill_rank(buf_dyn_shmem_ptr, things, threads);
  for (int i = first; i < things; i += threads) {
    int thing = prefill_ranked(buf_dyn_shmem_ptr, i);
    output_ptr[i] = thing;
    output_ptr[things + i] = prefill_rank_group(buf_dyn_shmem_ptr, thing);
  }
  output_ptr[2 * things] = some;
}
"""
_FUNCTIONS = "_COUNT", "_RANK", "_AT", "_GROUP"


@pytest.mark.parametrize("warps", [4, 8, 12])
def test_things_are_ranked_by_how_much_they_are(warps: int, tmp_path: Path) -> None:
    source = "".join(getattr(ranking, name) for name in _FUNCTIONS) + _KERNEL
    kernel = kernel_on_cpu(source, 1, warps, 4 * ranking.TABLE_WORDS, tmp_path)
    rng = np.random.default_rng(warps)
    for things in (1, 2, 15, 16, 17, 31, 32, 33, 64, 255, 257, ranking.TABLE):
        for most in (0, 1, 3, 20, 96):
            counts = rng.integers(0, most + 1, things, dtype=np.int32)
            groups = rng.integers(0, things, things, dtype=np.int32)
            found = np.full(2 * things + 1, -1, np.int32)
            kernel(counts, np.array([things], np.int32), groups, found, order=most % 8)
            order = np.argsort(-counts, kind="stable")  # of those that are as much the first
            np.testing.assert_array_equal(found[:things], order)
            np.testing.assert_array_equal(found[things:-1], groups[order])
            assert found[-1] == np.count_nonzero(counts)


def test_long_things_are_told_apart_by_eights(tmp_path: Path) -> None:
    source = "".join(getattr(ranking, name) for name in _FUNCTIONS) + _KERNEL
    kernel = kernel_on_cpu(source, 1, 8, 4 * ranking.TABLE_WORDS, tmp_path)
    counts = np.random.default_rng(0).permutation(np.arange(60, 60 + 300, dtype=np.int32))
    counts[:3] = 1 << 20, 1 << 30, 5000  # more than are told apart at all
    found = np.full(2 * counts.size + 1, -1, np.int32)
    no_groups = np.zeros(counts.size, np.int32)
    kernel(counts, np.array([counts.size], np.int32), no_groups, found, order=0)
    assert sorted(found[: counts.size]) == list(range(counts.size))
    ranked = counts[found[: counts.size]]
    exact = ranked[ranked <= 96]
    assert (np.diff(exact) <= 0).all()
    few = ranked[(ranked > 96) & (ranked < 320)]
    assert (np.diff(few) < 8).all()
    assert (ranked[: ranked.size - exact.size] > 96).all()
