"""Models of transformers on a real GPU: graphs are captured, and nothing waits while they are.

The kernel is PyTorch's arithmetic, which stands in the place of a built one.
"""

from __future__ import annotations

from typing import Any

import pytest

from prefilltune.tuning.backends.cuda import cuda_device

torch: Any = pytest.importorskip("torch", reason="needs the extra [transformers]")
transformers: Any = pytest.importorskip("transformers", reason="needs the extra [transformers]")

import prefilltune.transformers as prefill  # noqa: E402
from prefilltune.torch import Kernel, registry  # noqa: E402
from prefilltune.transformers.models import specs_of  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device() is None, reason="no CUDA device that TVM can see"),
]

LENGTH = 24


def kernel(*tensors: Any) -> None:
    """Attention that is padded on the right."""
    query, key, value, lens, output, _ = tensors
    valid = torch.arange(query.shape[1], device=query.device) < lens[:, None]
    heads_first = (each.transpose(1, 2) for each in (query, key, value))
    seen = valid[:, None, None, :]
    attended = torch.nn.functional.scaled_dot_product_attention(*heads_first, attn_mask=seen)
    output.copy_(attended.transpose(1, 2) * valid[:, :, None, None])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(registry, "_served", {})
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=50)).cuda().eval()
    ((right, _),) = specs_of(model)
    registry.register(Kernel("cuda", right, None, "kernel"), kernel)
    return model


def batch(*lens: int) -> dict[str, Any]:
    torch.manual_seed(1)
    valid = torch.arange(LENGTH) < torch.tensor(lens)[:, None]
    ids = torch.randint(2, 50, valid.shape)
    return {"input_ids": ids.cuda(), "attention_mask": valid.long().cuda()}


def test_a_captured_graph_takes_other_masks(model: Any) -> None:
    batches = [batch(24, 7, 1), batch(3, 24, 24)]
    static = {name: each.clone() for name, each in batches[0].items()}
    with torch.inference_mode():
        expected = [model(**each).last_hidden_state for each in batches]
        report = prefill.enable(model, [], strict=True)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(**static)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = model(**static).last_hidden_state
        for inputs, each in zip(batches, expected, strict=True):
            for name, tensor in static.items():
                tensor.copy_(inputs[name])
            graph.replay()
            valid = inputs["attention_mask"].bool()
            torch.testing.assert_close(output[valid], each[valid], rtol=1e-3, atol=1e-3)
        static["attention_mask"].copy_(batches[0]["attention_mask"].flip(1))
        graph.replay()
        assert torch.isnan(output[1:]).all()
        assert torch.isfinite(output[0]).all()
    assert report.served.total() == 4 * 2


def test_without_a_check_nothing_waits(model: Any) -> None:
    inputs = batch(24, 7, 1)
    prefill.enable(model, [], strict=True, check="never")
    with torch.inference_mode():
        model(**inputs)
        torch.cuda.set_sync_debug_mode("error")
        try:
            output = model(**inputs).last_hidden_state
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(output).all()
