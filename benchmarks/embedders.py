"""Embedders end to end: sequences a second and latency, with SDPA and with a library's kernels.

Models of the real sizes with random weights, on batches whose lengths come from a distribution,
``histogram:lengths.csv`` of your own among them, padded and packed::

    python benchmarks/embedders.py --library libraries/ --lens histogram:lengths.csv
    python benchmarks/embedders.py --layers 2 --shape 4x128          # on a CPU, in minutes

Libraries are built before, of each model in the dtype at hand, into folders of their own in
``libraries/``; without ``--library``, of the records that there are, those of ``--records`` among
them. Results are checked against SDPA's where there is no padding. Contestants are SDPA and our
kernels on padded batches; on the same sequences packed, our kernels and FlashAttention-3, where its
package is installed. They take turns, batch by batch. Of those that cannot take part, the output
says why.

``--output`` is written whenever a model was measured on a shape with lengths of one distribution;
``--minutes`` ends with what there is by then.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import transformers

import prefilltune.transformers as prefill
from prefilltune.database.provenance import running_tvm_version
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.comparing.peers.flash_attention_3 import forward_for
from prefilltune.workloads import PrefillShape, PrefillSpec, parse_lengths
from prefilltune.workloads.choices import CAUSAL

WARM_UP = 3
BATCHES = 8  # of different lengths, one after the other


@dataclass(frozen=True)
class Embedder:
    """A model of the size that is served, and the side of its sequences that is padding."""

    model: type
    config: type
    sizes: dict[str, Any]
    padding: str

    def make(self, layers: int | None, device: str) -> Any:
        sizes = self.sizes if layers is None else {**self.sizes, "num_hidden_layers": layers}
        torch.manual_seed(0)
        with torch.device(device):
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
    generator = torch.Generator().manual_seed(0)
    made = []
    for its_lens in torch.from_numpy(drawn).split(shape.batch):
        valid = torch.arange(shape.qo_len) < its_lens[:, None]
        if embedder.padding == "left":
            valid = valid.flip(1)
        ids = torch.randint(5, vocab, valid.shape, generator=generator)
        batch = {"input_ids": ids, "attention_mask": valid.long()}
        made.append({name: each.to(device) for name, each in batch.items()})
    return made


def padded(model: Any, batch: dict[str, Any]) -> Any:
    """The hidden states of a batch as it is."""
    return model(**batch).last_hidden_state


def packed(model: Any, batch: dict[str, Any]) -> Any:
    """The hidden states of sequences that :func:`packing` laid one behind the other."""
    return model(**batch).last_hidden_state[0]


def packing(batch: dict[str, Any]) -> dict[str, Any]:
    """The sequences of a batch one behind the other, as data collators of transformers do it."""
    valid = batch["attention_mask"].bool()
    lens = valid.sum(1)
    positions = valid.cumsum(1) - 1
    offsets = torch.nn.functional.pad(lens.cumsum(0), (1, 0)).int()
    longest = int(lens.max())
    return {
        "input_ids": batch["input_ids"][valid][None],
        "position_ids": positions[valid][None],
        "cu_seq_lens_q": offsets,
        "cu_seq_lens_k": offsets,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def flash_attention_3(
    module: Any, query: Any, key: Any, value: Any, _: Any, scaling: float | None = None,
    sliding_window: int | None = None, **more: Any,
) -> tuple[Any, None]:  # fmt: skip
    """Attention of packed sequences, as transformers calls it."""
    rows = [each.transpose(1, 2)[0] for each in (query, key, value)]
    reach = None if sliding_window is None else sliding_window - 1
    dtype = str(query.dtype).removeprefix("torch.")
    sizes = query.shape[1], key.shape[1], query.shape[3], dtype
    forward = fa3_forward(*sizes, window=(reach, 0 if module.is_causal else reach))
    offsets = {"cu_seqlens_q": more["cu_seq_lens_q"], "cu_seqlens_k": more["cu_seq_lens_k"]}
    longest = {"max_seqlen_q": more["max_length_q"], "max_seqlen_k": more["max_length_k"]}
    output, *_ = forward(*rows, **offsets, **longest, softmax_scale=scaling)
    return output[None], None


@cache
def fa3_forward(
    heads: int, kv_heads: int, head_dim: int, dtype: str, window: tuple[int | None, int | None]
) -> Callable[..., Any]:
    """Of the build of FlashAttention-3 that has a kernel for it, with the window said."""
    spec = PrefillSpec(heads, kv_heads, head_dim, dtype, layout="packed", window=window)
    forward = forward_for(spec)
    if window == CAUSAL:
        return partial(forward, causal=True)
    left, right = (-1 if end is None else end for end in window)
    return partial(forward, window_size_left=left, window_size_right=right)


def replayed(forwards: Sequence[Callable[[], Any]]) -> list[Callable[[], Any]]:
    """Each forward pass as a CUDA graph.

    Raises
    ------
    RuntimeError
        If something cannot be captured.
    """
    graphs, pool = [], torch.cuda.graph_pool_handle()
    for forward in forwards:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(WARM_UP):
                forward()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            forward()
        graphs.append(graph.replay)
    return graphs


#: Forward passes on all batches, by contestant.
Passes = Mapping[str, Sequence[Callable[[], Any]]]


def measured(passes: Passes, seconds: float, sequences: int) -> dict[str, dict[str, Any]]:
    """Latency of forward passes in turns, each waited for; ``seconds`` for each contestant.

    Each turn has another order: at the limit of its power a GPU has higher clocks for who comes
    behind one that needs little.
    """
    times: dict[str, list[float]] = {name: [] for name in passes}
    order = random.Random(0)

    def latency(forward: Callable[[], Any]) -> float:
        wait()
        start = time.perf_counter()
        forward()
        wait()
        return time.perf_counter() - start

    for forwards in passes.values():
        for forward in forwards[:WARM_UP]:
            latency(forward)
    end = time.perf_counter() + seconds * len(passes)
    while not all(times.values()) or time.perf_counter() < end:
        for turn in zip(*passes.values(), strict=True):
            contestants = [*zip(passes, turn, strict=True)]
            order.shuffle(contestants)
            for name, forward in contestants:
                times[name].append(latency(forward))
    return {name: summary(each, sequences) for name, each in times.items()}


def summary(times: Sequence[float], sequences: int) -> dict[str, Any]:
    """Of the latencies of forward passes on so many sequences each."""
    hundredths = statistics.quantiles(times, n=100, method="inclusive")
    return {
        "p50_ms": round(hundredths[49] * 1e3, 3),
        "p99_ms": round(hundredths[98] * 1e3, 3),
        "sequences_per_second": round(sequences * len(times) / sum(times), 2),
        "passes": len(times),
    }


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Contestant:
    """An attention, and the layout that it takes sequences in."""

    name: str
    attention: str
    layout: str


CONTESTANTS = (
    Contestant("sdpa", "sdpa", "padded"),
    Contestant("fa3_packed", "fa3_packed", "packed"),
    Contestant("prefilltune", prefill.NAME, "padded"),
    Contestant("prefilltune_packed", prefill.NAME, "packed"),
)


def prepared(
    contestant: Contestant, model: Any, embedder: Embedder, options: argparse.Namespace
) -> prefill.Report | str:
    """Let it compute a model's attentions; or why it cannot."""
    if contestant.attention == prefill.NAME:
        settings = {"padding": embedder.padding, "accept": options.accept, "strict": True}
        settings |= {"records": options.records, "layout": contestant.layout}
        try:
            return prefill.enable(model, options.library, **settings)
        except prefill.NotBuiltError as error:
            return str(error)
    if contestant.name == "fa3_packed" and not torch.cuda.is_available():
        return "it is for a GPU"
    model.set_attn_implementation(contestant.attention)
    return prefill.Report()


def sharing_weights(model: Any) -> Any:
    """A model of its own, with the parameters of another."""
    return copy.deepcopy(model, {id(each): each for each in model.parameters()})


def compared(
    name: str, shape: PrefillShape, lens: str, options: argparse.Namespace, device: str, end: float
) -> dict[str, Any]:
    """One model on one shape; contestants that are not ready by ``end`` take no part."""
    embedder = EMBEDDERS[name]
    whole = embedder.make(options.layers, device).to(getattr(torch, options.dtype)).eval()
    inputs = batches(embedder, shape, lens, whole.config.vocab_size, device)
    valid = [batch["attention_mask"].bool() for batch in inputs]
    found: dict[str, Any] = {}
    passes: dict[str, list[Callable[[], Any]]] = {}
    expected: list[Any] = []
    for contestant in CONTESTANTS:
        if time.monotonic() > end:
            found[contestant.name] = {"absent": "the time was over"}
            continue
        model = sharing_weights(whole)
        report = prepared(contestant, model, embedder, options)
        if isinstance(report, str):
            found[contestant.name] = {"absent": report}
            continue
        try:
            if contestant.layout == "packed":
                forwards = [partial(packed, model, packing(batch)) for batch in inputs]
                results = [forward() for forward in forwards]
            else:
                forwards = [partial(padded, model, batch) for batch in inputs]
                results = [forward()[mask] for forward, mask in zip(forwards, valid, strict=True)]
        except (LookupError, RuntimeError) as error:  # such as a window, where none was built
            found[contestant.name] = {"absent": f"it fails: {error}"}
            continue
        expected = expected or results
        pairs = zip(results, expected, strict=True)
        found[contestant.name] = {
            "max_difference": max(float((one - two).float().abs().max()) for one, two in pairs),
            "copied": dict(report.copied),
        }
        passes[contestant.name] = forwards
    seconds = min(options.seconds, max(end - time.monotonic(), 0) / max(len(passes), 1))
    ways: dict[str, Passes] = {"eager": passes}
    if device == "cuda":
        graphs = ways["graph"] = {}
        for contestant_name, forwards in passes.items():
            try:
                graphs[contestant_name] = replayed(forwards)
            except RuntimeError as error:
                found[contestant_name]["graph"] = {"absent": f"it cannot be captured: {error}"}
    for way, its in ways.items():
        for contestant_name, timed in measured(its, seconds, shape.batch).items():
            found[contestant_name][way] = timed
    share = float(torch.stack(valid).float().mean())
    case = {"model": name, "shape": str(shape), "lens": parse_lengths(lens).text}
    return {**case, "valid": round(share, 3), **found}


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", choices=EMBEDDERS, help="all when absent")
    parser.add_argument("--shape", action="append", help="BATCHxLENGTH, the longest")
    parser.add_argument("--lens", action="append", help="as `prefilltune tune --lens`")
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--library", action="append", help="folders of `prefilltune build`")
    parser.add_argument("--records", type=Path, help="a database besides the committed records")
    parser.add_argument("--accept", default="nearest", help="whose records, without --library")
    parser.add_argument("--layers", type=int, help="fewer than the model has")
    parser.add_argument("--seconds", type=float, default=5, help="for each measurement")
    parser.add_argument("--minutes", type=float, help="when to end, with what there is")
    parser.add_argument("--output", type=Path, help="a file for the JSON, which is printed too")
    options = parser.parse_args()
    device = "cuda" if on_gpu else "cpu"
    usual = ["32x128", "32x512", "128x512"] if on_gpu else ["4x128", "8x512"]
    shapes = [PrefillShape.parse(each) for each in options.shape or usual]
    distributions = options.lens or ["uniform:0.125-1"]
    # Without a mask function of its own: models make no mask then.
    transformers.AttentionInterface.register("fa3_packed", flash_attention_3)
    end = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    found: list[dict[str, Any]] = []
    described = {
        "device": torch.cuda.get_device_name() if on_gpu else backend_of("llvm").device_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tvm": running_tvm_version(),
        "dtype": options.dtype,
        "layers": options.layers,
        "load_average": os.getloadavg()[0],
        "models": found,
    }
    cases = itertools.product(options.model or EMBEDDERS, shapes, distributions)
    with torch.inference_mode():
        for name, shape, lens in cases:
            if time.monotonic() > end:
                break
            found.append(compared(name, shape, lens, options, device, end))
            if options.output is not None:
                options.output.write_text(json.dumps(described, indent=2) + "\n")
    print(json.dumps(described, indent=2))


if __name__ == "__main__":
    main()
