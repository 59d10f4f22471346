"""FlashAttention-3 and cuDNN are asked for the same work as ours, where they are installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.comparing import side_by_side
from prefilltune.tuning.comparing.peers.peer import PeerKernel
from prefilltune.tuning.comparing.peers.registry import peers_on_a_gpu
from prefilltune.tuning.errors import UnsupportedTargetError
from prefilltune.workloads import PrefillShape, PrefillSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not find_spec("torch"), reason="needs the extra [torch]"),
]

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


@pytest.fixture(autouse=True)
def rivals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own peers, of which one compiles for long, are tested elsewhere."""
    try:
        resolve_target("cuda")
    except UnsupportedTargetError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(side_by_side, "peers_on_a_gpu", rivals)


def rivals(*case: Any) -> list[PeerKernel]:
    return [each for each in peers_on_a_gpu(*case) if not each.name.startswith("torch_")]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("chosen", CHOSEN)
def test_rivals_are_right_or_say_what_they_do_not_take(
    chosen: str, dtype: str, shape: PrefillShape
) -> None:
    spec = PrefillSpec(8, 2, 128, dtype, **CHOSEN[chosen])
    results = side_by_side.measure_side_by_side({}, spec, shape, BATCHES, 0, 512, "cuda", rounds=2)
    for peer in rivals(spec, shape, BATCHES):
        found, lacking = results[peer.name], peer.lacks(spec)
        if lacking or not (peer.name.startswith("cudnn") and shape.qo_len != shape.num_kv):
            assert found.failure == lacking, peer.name
        else:  # cuDNN aligns few windows at the ends of other lengths, and says which not
            assert "wrong" not in found.failure
        if not found.failure:
            assert min(*found.seconds, *found.cold_seconds) > 0
        if found.error is not None:
            tolerance = side_by_side.PEER_TOLERANCE[dtype] * side_by_side.bias_slack(spec)
            assert found.error <= tolerance, peer.name
