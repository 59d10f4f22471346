"""FlashAttention-3 and cuDNN are asked for the same work as ours, where they are installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.comparing.peers.registry import PEERS, peers_on_a_gpu
from prefilltune.tuning.comparing.side_by_side import (
    PEER_TOLERANCE,
    bias_slack,
    measure_side_by_side,
    warm_up_peers,
)
from prefilltune.tuning.errors import UnsupportedTargetError
from prefilltune.tuning.measuring.kernels import call
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.workloads import PrefillShape, PrefillSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not find_spec("torch"), reason="needs the extra [torch]"),
]

RIVALS = [peer.name for peer in PEERS if not peer.name.startswith("torch_")]
CHOSEN: dict[str, dict[str, Any]] = {
    "padded": {},
    "causal_padded_left": {"mask_mode": "causal_padded_left"},
    "window": {"window": (40, 30)},
    "causal_window_left": {"padding": "left", "window": (40, 0)},
    "softcap": {"softcap": 5},
    "bias": {"bias": "relative"},
}
SHAPES = [PrefillShape(3, 200), PrefillShape(3, 64, 200)]
BATCHES = [(200, 0, 33), (64, 128, 1)]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    try:
        resolve_target("cuda")
    except UnsupportedTargetError as error:
        pytest.skip(str(error))
    with Worker() as started:
        yield started


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("chosen", CHOSEN)
def test_rivals_are_right_or_say_what_they_do_not_take(
    chosen: str, dtype: str, shape: PrefillShape, worker: Worker
) -> None:
    """No sequence is empty where packed ones cannot be, nor longer than what it lies in."""
    spec = PrefillSpec(8, 2, 128, dtype, **CHOSEN[chosen])
    timed = (spec, shape, BATCHES, 0)
    call(worker, warm_up_peers, *timed, "cuda")
    results = call(worker, measure_side_by_side, {}, *timed, 512, "cuda", None, 2)
    peers = {each.name: each for each in peers_on_a_gpu(spec, shape, BATCHES)}
    for name in (each for each in peers if each.removesuffix("_filled") in RIVALS):
        found, lacking = results[name], peers[name].lacks(spec)
        if lacking or not (name.startswith("cudnn") and shape.qo_len != shape.num_kv):
            assert found.failure == lacking, name
        else:  # cuDNN aligns few windows at the ends of other lengths, and says which not
            assert "wrong" not in found.failure
        if not found.failure:
            assert min(*found.seconds, *found.cold_seconds) > 0
        if found.error is not None:
            assert found.error <= PEER_TOLERANCE[dtype] * bias_slack(spec), name
