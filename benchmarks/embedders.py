"""Embedders end to end: sequences a second and latency, with SDPA and with a library's kernels.

Models of the real sizes with random weights, padded batches whose lengths come from a
distribution, ``histogram:lengths.csv`` of your own among them::

    python benchmarks/embedders.py --library libraries/ --lens histogram:lengths.csv
    python benchmarks/embedders.py --layers 2 --shape 4x128          # on a CPU, in minutes

A library is built before, of each model in the dtype at hand, into a folder of its own in
``libraries/``; without ``--library``, of the records that there are. Results are checked against
SDPA's where there is no padding.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

import prefilltune.transformers as prefill
from prefilltune.workloads import PrefillShape, parse_lengths

WARM_UP = 3
BATCHES = 8  # of different lengths, one after the other


@dataclass(frozen=True)
class Embedder:
    """A model of the size that is served, and the side of its sequences that is padding."""

    model: type
    config: type
    sizes: dict[str, Any]
    padding: str

    def make(self, layers: int | None) -> Any:
        sizes = self.sizes if layers is None else {**self.sizes, "num_hidden_layers": layers}
        torch.manual_seed(0)
        return self.model(self.config(**sizes))


EMBEDDERS = {
    "bge-base": Embedder(transformers.BertModel, transformers.BertConfig, {}, "right"),
    "modernbert-base": Embedder(
        transformers.ModernBertModel, transformers.ModernBertConfig, {}, "right"
    ),
    "qwen3-embedding-0.6b": Embedder(
        transformers.Qwen3Model,
        transformers.Qwen3Config,
        {
            "vocab_size": 151669,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "use_cache": False,
        },
        "left",
    ),
}


def batches(
    embedder: Embedder, shape: PrefillShape, lens: str, vocab: int, device: str
) -> list[dict[str, Any]]:
    """Padded batches, on the device."""
    drawn = parse_lengths(lens).sample(BATCHES * shape.batch, shape.qo_len, 0)
    random = torch.Generator().manual_seed(0)
    made = []
    for its_lens in torch.from_numpy(drawn).split(shape.batch):
        valid = torch.arange(shape.qo_len) < its_lens[:, None]
        if embedder.padding == "left":
            valid = valid.flip(1)
        ids = torch.randint(5, vocab, valid.shape, generator=random)
        batch = {"input_ids": ids, "attention_mask": valid.long()}
        made.append({name: each.to(device) for name, each in batch.items()})
    return made


def eager(model: Any, inputs: Sequence[dict[str, Any]]) -> Iterator[Callable[[], Any]]:
    """A forward pass of each batch."""
    for batch in inputs:
        yield lambda batch=batch: model(**batch).last_hidden_state


def replayed(model: Any, inputs: Sequence[dict[str, Any]]) -> Iterator[Callable[[], Any]]:
    """The same as one CUDA graph, into which each batch is copied."""
    static = {name: each.clone() for name, each in inputs[0].items()}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            model(**static)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = model(**static).last_hidden_state

    def replay(batch: dict[str, Any]) -> Any:
        for name, each in static.items():
            each.copy_(batch[name])
        graph.replay()
        return output

    for batch in inputs:
        yield lambda batch=batch: replay(batch)


def measured(passes: Sequence[Callable[[], Any]], seconds: float, sequences: int) -> dict[str, Any]:
    """Latency of forward passes one after the other, each waited for."""

    def latency(forward: Callable[[], Any]) -> float:
        wait()
        start = time.perf_counter()
        forward()
        wait()
        return time.perf_counter() - start

    for forward in passes[:WARM_UP]:
        latency(forward)
    end, times = time.perf_counter() + seconds, []
    while not times or time.perf_counter() < end:
        times += [latency(forward) for forward in passes]
    hundredths = statistics.quantiles(times, n=100, method="inclusive")
    return {
        "p50_ms": round(hundredths[49] * 1e3, 3),
        "p99_ms": round(hundredths[98] * 1e3, 3),
        "sequences_per_second": round(sequences * len(times) / sum(times), 1),
        "passes": len(times),
    }


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compared(
    name: str, shape: PrefillShape, options: argparse.Namespace, device: str
) -> dict[str, Any]:
    """One model on one shape, with SDPA first."""
    embedder = EMBEDDERS[name]
    model = embedder.make(options.layers).to(device, getattr(torch, options.dtype)).eval()
    inputs = batches(embedder, shape, options.lens, model.config.vocab_size, device)
    valid = [batch["attention_mask"].bool() for batch in inputs]
    found: dict[str, Any] = {}
    expected: list[Any] = []
    for attention in ("sdpa", "prefilltune"):
        if attention == "sdpa":
            model.set_attn_implementation("sdpa")
        else:
            settings = {"padding": embedder.padding, "accept": options.accept, "strict": True}
            report = prefill.enable(model, options.library, **settings)
        passes = zip(eager(model, inputs), valid, strict=True)
        results = [forward()[mask] for forward, mask in passes]
        expected = expected or results
        difference = max(
            float((result - each).float().abs().max())
            for result, each in zip(results, expected, strict=True)
        )
        found[attention] = {"max_difference": difference}
        ways = {"eager": eager} | ({"graph": replayed} if device == "cuda" else {})
        for way, made in ways.items():
            timed = measured(list(made(model, inputs)), options.seconds, shape.batch)
            found[attention][way] = timed
        if attention == "prefilltune":
            found[attention]["copied"] = dict(report.copied)
    share = float(torch.stack(valid).float().mean())
    return {"model": name, "shape": str(shape), "valid": round(share, 3), **found}


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", choices=EMBEDDERS, help="all when absent")
    parser.add_argument("--shape", action="append", help="BATCHxLENGTH, the longest")
    parser.add_argument("--lens", default="uniform:0.125-1", help="as `prefilltune tune --lens`")
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--library", action="append", help="folders of `prefilltune build`")
    parser.add_argument("--accept", default="nearest", help="whose records, without --library")
    parser.add_argument("--layers", type=int, help="fewer than the model has")
    parser.add_argument("--seconds", type=float, default=5, help="for each measurement")
    options = parser.parse_args()
    device = "cuda" if on_gpu else "cpu"
    shapes = options.shape or (["32x128", "32x512", "128x512"] if on_gpu else ["4x128", "8x512"])
    found = []
    with torch.inference_mode():
        for name in options.model or EMBEDDERS:
            for text in shapes:
                batch, length = map(int, text.split("x"))
                found.append(compared(name, PrefillShape(batch, length), options, device))
    described = {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dtype": options.dtype,
        "lens": options.lens,
        "layers": options.layers,
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps({**described, "models": found}, indent=2))


if __name__ == "__main__":
    main()
