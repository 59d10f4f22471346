"""A BERT-class encoder three ways: TVM's own attention kernel, the tuned one, and PyTorch.

A padded batch of tokens goes in, a normalised embedding of each sequence comes out (that of its
first token, as BGE pools). Weights are random; they and the linear layers, which are PyTorch's
everywhere, are the same in all three, so that what differs is the attention. On a CPU, for which
TVM ships no masked prefill kernel, the first way is prefilltune's description compiled as it is.

    prefilltune tune --heads 12x64 --shape 4x128
    python examples/relax/encoder.py --shape 4x128
"""

from __future__ import annotations

import os

# Before TVM and PyTorch are imported: idle threads of the one pool would spin on the other's cores.
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import tvm
from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op

from prefilltune.tuning import swap_prefill_kernels
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.workloads import (
    PrefillShape,
    PrefillSpec,
    SymbolicShape,
    masked_baseline,
    parse_lengths,
    plain_attention,
)

EPSILON = 1e-5
TOLERANCE = {"float32": 1e-4, "float16": 2e-2}
SYMBOL = "batch_sequence_prefill_kv_masked"


@dataclass(frozen=True)
class Config:
    """Sizes of the encoder; BERT-base's but for the number of layers and words."""

    layers: int = 2
    heads: int = 12
    head_dim: int = 64
    words: int = 1000
    longest: int = 4096
    dtype: str = "float32"

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


class Linear(nn.Module):
    """A linear layer of PyTorch's: weight [outputs, inputs], bias [outputs]."""

    def __init__(self, inputs: int, outputs: int, dtype: str) -> None:
        self.weight = nn.Parameter((outputs, inputs), dtype)
        self.bias = nn.Parameter((outputs,), dtype)

    def forward(self, rows: nn.Tensor) -> nn.Tensor:
        result = nn.Tensor.placeholder([*rows.shape[:-1], self.weight.shape[0]], rows.dtype)
        return op.extern("encoder.linear", [rows, self.weight, self.bias], result)


class Layer(nn.Module):
    def __init__(self, config: Config, kernel) -> None:
        width, dtype = config.width, config.dtype
        self.config, self.kernel = config, kernel
        self.query, self.key, self.value, self.out = (Linear(width, width, dtype) for _ in range(4))
        self.up, self.down = Linear(width, 4 * width, dtype), Linear(4 * width, width, dtype)
        self.attention_norm = nn.LayerNorm(width, eps=EPSILON, dtype=dtype)
        self.norm = nn.LayerNorm(width, eps=EPSILON, dtype=dtype)

    def forward(self, hidden: nn.Tensor, valid_lens: nn.Tensor) -> nn.Tensor:
        batch, length, width = hidden.shape
        heads = [batch, length, self.config.heads, self.config.head_dim]
        rows = [op.reshape(layer(hidden), heads) for layer in (self.query, self.key, self.value)]
        results = [
            nn.Tensor.placeholder(heads, hidden.dtype),
            nn.Tensor.placeholder(heads[:3], hidden.dtype),
        ]
        attended, _ = op.tensor_ir_op(self.kernel, SYMBOL, [*rows, valid_lens], results)
        attended = op.reshape(attended, [batch, length, width])
        hidden = self.attention_norm(hidden + self.out(attended))
        return self.norm(hidden + self.down(op.gelu(self.up(hidden))))


class Encoder(nn.Module):
    def __init__(self, config: Config, kernel) -> None:
        self.word = nn.Parameter((config.words, config.width), config.dtype)
        self.position = nn.Parameter((config.longest, config.width), config.dtype)
        self.layers = nn.ModuleList([Layer(config, kernel) for _ in range(config.layers)])

    def forward(
        self, tokens: nn.Tensor, positions: nn.Tensor, first: nn.Tensor, valid_lens: nn.Tensor
    ) -> nn.Tensor:
        batch, length = tokens.shape
        words = op.take(self.word, op.reshape(tokens, [batch * length]), axis=0)
        words = op.reshape(words, [batch, length, self.word.shape[1]])
        hidden = words + op.take(self.position, positions, axis=0)
        for layer in self.layers:
            hidden = layer(hidden, valid_lens)
        rows = op.reshape(hidden, [batch * length, self.word.shape[1]])
        pooled = op.take(rows, first, axis=0)
        return pooled / op.sqrt(op.sum(pooled * pooled, axis=-1, keepdims=True))


class TorchEncoder(torch.nn.Module):
    """The same with PyTorch alone, from the same weights."""

    def __init__(self, config: Config, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.config, self.weights = config, weights

    def forward(self, tokens: torch.Tensor, valid_lens: torch.Tensor) -> torch.Tensor:
        batch, length = tokens.shape
        config, weights = self.config, self.weights
        mask = torch.arange(length, device=tokens.device) < valid_lens[:, None]
        hidden = weights["word"][tokens.long()] + weights["position"][:length]
        for index in range(config.layers):
            name = f"layers.{index}."

            def linear(rows, layer, name=name):
                weight, bias = (weights[f"{name}{layer}.{each}"] for each in ("weight", "bias"))
                return F.linear(rows, weight, bias)

            def norm(rows, layer, name=name):
                weight, bias = (weights[f"{name}{layer}.{each}"] for each in ("weight", "bias"))
                return F.layer_norm(rows, (config.width,), weight, bias, EPSILON)

            query, key, value = (
                linear(hidden, layer)
                .view(batch, length, config.heads, config.head_dim)
                .transpose(1, 2)
                for layer in ("query", "key", "value")
            )
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask[:, None, None, :]
            )
            attended = attended.transpose(1, 2).reshape(batch, length, config.width)
            hidden = norm(hidden + linear(attended, "out"), "attention_norm")
            hidden = norm(hidden + linear(F.gelu(linear(hidden, "up")), "down"), "norm")
        return F.normalize(hidden[:, 0].float(), dim=-1).to(hidden.dtype)


@tvm.register_global_func("encoder.linear")
def _linear(rows, weight, bias, result) -> None:
    rows, weight, bias, result = (torch.from_dlpack(each) for each in (rows, weight, bias, result))
    flat = rows.reshape(-1, rows.shape[-1])
    torch.addmm(bias, flat, weight.T, out=result.view(-1, result.shape[-1]))


def drawn(config: Config, names: Sequence[tuple[str, nn.Parameter]]) -> dict[str, torch.Tensor]:
    """Random weights by name: matrices of a scale that keeps activations near 1."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, parameter in names:
        shape = [int(size) for size in parameter.shape]
        values = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            values = 1 + values / 100 if "norm.weight" in name else values / 100
        elif name not in ("word", "position"):
            values = values / shape[1] ** 0.5
        weights[name] = values.to(getattr(torch, config.dtype))
    return weights


def module_of(config: Config, kernel) -> tuple[tvm.IRModule, list[tuple[str, nn.Parameter]]]:
    """The encoder in Relax, which calls ``kernel``, and its parameters by name."""
    tokens = nn.spec.Tensor(["batch", "seq_len"], "int32")
    inputs = {
        "tokens": tokens,
        "positions": nn.spec.Tensor(["seq_len"], "int32"),
        "first": nn.spec.Tensor(["batch"], "int32"),
        "valid_lens": nn.spec.Tensor(["batch"], "int32"),
    }
    return Encoder(config, kernel).export_tvm({"forward": inputs})


def their_kernel(spec: PrefillSpec, target):
    """TVM's own kernel on a GPU; the description compiled as it is on a CPU."""
    if target.kind == "cuda":
        return masked_baseline(spec, target.target)["main"].with_attr("global_symbol", SYMBOL)
    described = plain_attention(spec, SymbolicShape.fresh())["main"]
    return described.with_attr("global_symbol", SYMBOL)


def swapped(config: Config, spec: PrefillSpec, target, database: Sequence[str]) -> tvm.IRModule:
    """The encoder as it is written with TVM's kernel, and tuned kernels swapped for it."""
    gpu = target.target if target.kind == "cuda" else tvm.target.Target(
        {"kind": "cuda", "arch": "sm_80", "max_num_threads": 1024}
    )  # fmt: skip
    theirs = masked_baseline(spec, gpu)["main"].with_attr("global_symbol", SYMBOL)
    module, report = swap_prefill_kernels(
        module_of(config, theirs)[0], target.target, database=list(database)
    )
    for each in report:
        print(f"{each.name}: swapped for {len(each.plan.matches)} tuned kernel(s)")
    return module


def runner(module, target, device, weights, names, inputs) -> Callable[[], torch.Tensor]:
    """A call of a compiled encoder."""
    with target.target:
        machine = relax.VirtualMachine(relax.build(module, target.target), device)
    parameters = [tvm.runtime.from_dlpack(weights[name]) for name, _ in names]
    arguments = [tvm.runtime.from_dlpack(each) for each in inputs]
    return lambda: torch.from_dlpack(machine["forward"](*arguments, *parameters))


def timed(calls: dict[str, Callable[[], object]], rounds: int, sync) -> dict[str, float]:
    """Median milliseconds of each call, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            sync()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="llvm")
    parser.add_argument("--shape", default="4x128")
    parser.add_argument("--lens", default="uniform")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--database", action="append", help="repeat for more folders of records")
    options = parser.parse_args()

    target = resolve_target(options.target)
    on_gpu = target.kind == "cuda"
    device, where = (tvm.cuda(0), "cuda") if on_gpu else (tvm.cpu(), "cpu")
    torch.set_num_threads(target.threads)
    dtype = "float16" if on_gpu else "float32"
    config = Config(options.layers, options.heads, options.head_dim, dtype=dtype)
    spec = PrefillSpec(config.heads, config.heads, config.head_dim, config.dtype)
    shape = PrefillShape.parse(options.shape)
    lens = parse_lengths(options.lens).batches(shape.batch, shape.qo_len, 0)[0]

    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(
        config.words, (shape.batch, shape.qo_len), generator=generator, dtype=torch.int32
    )
    positions = torch.arange(shape.qo_len, dtype=torch.int32)
    first = torch.arange(shape.batch, dtype=torch.int32) * shape.qo_len
    inputs = [
        each.to(where) for each in (tokens, positions, first, torch.tensor(lens).to(torch.int32))
    ]
    module, names = module_of(config, their_kernel(spec, target))
    weights = {name: each.to(where) for name, each in drawn(config, names).items()}
    tuned = swapped(config, spec, target, options.database or ["database/work", "database/records"])
    model = TorchEncoder(config, weights)
    calls = {
        "TVM's own kernel" if on_gpu else "unscheduled": runner(
            module, target, device, weights, names, inputs
        ),
        "tuned": runner(tuned, target, device, weights, names, inputs),
        "PyTorch": lambda: model(inputs[0], inputs[3]),
    }
    with torch.inference_mode():
        embeddings = {name: call().float().cpu().numpy() for name, call in calls.items()}
        ms = timed(calls, options.rounds, torch.cuda.synchronize if on_gpu else lambda: None)
    errors = {
        name: float(np.abs(each - embeddings["PyTorch"]).max()) for name, each in embeddings.items()
    }
    result = {"shape": str(shape), "lens": options.lens, "layers": config.layers, "ms": ms,
              "largest_difference_to_pytorch": errors}  # fmt: skip
    print(json.dumps(result, indent=2))
    if not all(error <= TOLERANCE[config.dtype] for error in errors.values()):
        raise SystemExit("the embeddings differ by more than their tolerance")


if __name__ == "__main__":
    main()
