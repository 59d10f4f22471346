"""Built libraries, called as a server calls them, beside FlashAttention-3 and cuDNN in one process.

    prefilltune build --target cuda --arch sm_90a --model bge-base --dtype bfloat16 --lens full \\
        --output dist/full/bge-base-bfloat16        (any number, of any padding output; and mixed/)
    python benchmarks/built_rivals.py --libraries dist --output rivals.jsonl

needs PyTorch and the rivals, and nothing that tunes or compiles: it runs on a host without TVM's
compiler. Of each case every contestant has a graph of calls, and all are replayed in turns, in
another order each round. ``_rotating`` are calls whose inputs rotate past the L2 cache;
``_filled`` are rivals with the padding cleared behind them by PyTorch's ``index_fill_`` on rows
that are known beforehand. No fill writes as many bytes faster than one stretch of them, which is
``_untouched_fill``; ``_untouched_fills`` are two, so that their difference is what the bytes take.
Several folders of libraries, such as of records of before and after, are contestants each.
FlashAttention-3 and cuDNN compute left-padded sequences of the same lengths at the left.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

import prefilltune.torch as tuned

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# FlashAttention-3 by dtype: what one package was built without, the other one has.
_FLASH_ATTENTION = {"bfloat16": "fa3_fwd_interface", "float16": "flash_attn_interface"}
_ROUNDS, _CALLS = 15, 6
# Inputs that rotate have so many bytes together: the L2 cache of an H100 has 50 MB.
_ROTATING_BYTES, _MOST_SETS = 220e6, 6


@dataclass(frozen=True)
class Problem:
    """Attention over a padded batch: heads, sizes and valid lengths.

    Parameters
    ----------
    heads : tuple of int
        Of queries, and of keys and values.
    head_dim, batch, length : int
        Sizes of ``[batch, length, heads, head_dim]``.
    causal : bool
        With padding on the left; else all valid pairs, with padding on the right.
    dtype : str
        One of :data:`DTYPES`.
    lens : str
        ``full``, or ``mixed``: an eighth to full.
    """

    heads: tuple[int, int]
    head_dim: int
    batch: int
    length: int
    causal: bool
    dtype: str = "bfloat16"
    lens: str = "full"

    @property
    def valid(self) -> list[int]:
        """The valid length of each sequence."""
        if self.lens == "full":
            return [self.length] * self.batch
        drawn = np.random.default_rng(11).integers(self.length // 8, self.length + 1, self.batch)
        return [int(each) for each in drawn]

    def rows(self, sequence: int, *, left: bool) -> slice:
        """The valid rows of a sequence, which lie behind its padding if ``left``."""
        n = self.valid[sequence]
        return slice(self.length - n, self.length) if left else slice(0, n)

    def draw(self) -> list[tuple[torch.Tensor, ...]]:
        """Queries, keys and values, as many as are to rotate."""
        q, kv = self.heads
        rows = self.batch * self.length * self.head_dim
        sets = int(_ROTATING_BYTES / (2 * rows * 2 * (q + kv))) + 1
        shape = (self.batch, self.length)
        return [
            tuple(
                torch.randn(*shape, heads, self.head_dim, device="cuda", dtype=DTYPES[self.dtype])
                for heads in (q, kv, kv)
            )
            for _ in range(min(sets, _MOST_SETS))
        ]


PROBLEMS = [
    Problem((12, 12), 64, 32, 128, False),
    Problem((12, 12), 64, 32, 512, False),
    Problem((16, 16), 64, 8, 1024, False),
    Problem((16, 16), 64, 4, 2048, False),
    Problem((12, 12), 64, 2, 4096, False),
    *(
        Problem((heads, 8), 128, batch, length, True)
        for heads in (16, 32)
        for batch, length in ((32, 128), (16, 512), (4, 2048), (2, 4096))
    ),
]

#: From query, key and value to a call without arguments.
Make = Callable[..., Callable[[], Any]]


def contestants(
    problem: Problem, folders: Sequence[Path]
) -> Iterator[tuple[str, Make, bool | None]]:
    """Names, calls, and whether their valid rows are behind the padding, if that can be checked."""
    valid = torch.as_tensor(problem.valid, device="cuda", dtype=torch.int32)
    for folder in folders:
        found = sorted((folder / problem.lens).glob("*/manifest.json"))
        for output in ("zero",) if problem.lens == "full" else ("zero", "untouched"):
            make = partial(_ours, problem, valid, output, found)
            yield f"{folder.name}_{output}", make, problem.causal
            if output == "untouched":
                yield f"{folder.name}_untouched_fill", partial(_stretches, problem, make, 1), None
                yield f"{folder.name}_untouched_fills", partial(_stretches, problem, make, 2), None
    rivals = {
        "fa3_seqused": partial(_flash_attention, problem, valid),
        "cudnn_padding_mask": partial(_cudnn, problem, padding=True),
    }
    for name, make in rivals.items():
        yield name, make, False
        if problem.lens != "full":
            yield f"{name}_filled", partial(_filled, problem, make), None
    yield "fa3_varlen_packed", partial(_packed, problem), None
    if problem.lens == "full":
        yield "fa3_dense", partial(_flash_attention, problem, None), None
        yield "cudnn_dense", partial(_cudnn, problem, padding=False), None


def _ours(
    problem: Problem, valid: Any, output: str, manifests: Sequence[Path], *tensors: Any
) -> Callable[[], Any]:
    for manifest in manifests:  # these take the place of those of another folder
        tuned.load(manifest.parent)
    query, key, value = tensors
    out = (torch.empty_like(query), query.new_empty(query.shape[:3]))
    mode = "causal_padded_left" if problem.causal else "padded"
    options = {"mask_mode": mode, "padding_output": output, "out": out}
    return lambda: tuned.sequence_prefill(query, key, value, valid, **options)[0]


def _forward(problem: Problem) -> Any:
    return import_module(_FLASH_ATTENTION[problem.dtype])._flash_attn_forward


def _flash_attention(problem: Problem, valid: Any, *tensors: Any) -> Callable[[], Any]:
    lens = {} if valid is None else {"seqused_q": valid, "seqused_k": valid}
    options = {"softmax_scale": problem.head_dim**-0.5, "causal": problem.causal}
    forward = _forward(problem)
    return lambda: forward(*tensors, **lens, **options)[0]


def _packed(problem: Problem, *tensors: Any) -> Callable[[], Any]:
    rows = [
        torch.cat([each[b, problem.rows(b, left=problem.causal)] for b in range(problem.batch)])
        for each in tensors
    ]
    ends = torch.tensor([0, *accumulate(problem.valid)], device="cuda", dtype=torch.int32)
    longest, forward = max(problem.valid), _forward(problem)
    options: dict[str, Any] = {
        "cu_seqlens_q": ends,
        "cu_seqlens_k": ends,
        "max_seqlen_q": longest,
        "max_seqlen_k": longest,
        "softmax_scale": problem.head_dim**-0.5,
        "causal": problem.causal,
    }
    return lambda: forward(*rows, **options)[0]


def _filled(problem: Problem, make: Make, *tensors: Any) -> Callable[[], Any]:
    call, length = make(*tensors), problem.length
    padding = [torch.arange(b * length + n, (b + 1) * length) for b, n in enumerate(problem.valid)]
    rows = torch.cat(padding).cuda()

    def filled() -> Any:
        output = call()
        output.view(problem.batch * length, -1).index_fill_(0, rows, 0)
        return output

    return filled


def _stretches(problem: Problem, make: Make, times: int, *tensors: Any) -> Callable[[], Any]:
    """A call, and behind it as many bytes as padding has, from either end of the output."""
    call, rows = make(*tensors), problem.batch * problem.length
    padding = rows - sum(problem.valid)
    ends = [slice(0, padding), slice(rows - padding, rows)][:times]

    def filled() -> Any:
        output = call()
        for end in ends:
            output.view(rows, -1)[end].zero_()
        return output

    return filled


def _cudnn(problem: Problem, *tensors: Any, padding: bool) -> Callable[[], Any]:
    import cudnn

    handle = cudnn.create_handle()
    half = cudnn.data_type.HALF if problem.dtype == "float16" else cudnn.data_type.BFLOAT16
    wide = cudnn.data_type.FLOAT
    graph = cudnn.pygraph(
        io_data_type=half, intermediate_data_type=wide, compute_data_type=wide, handle=handle
    )
    output = torch.empty_like(tensors[0])

    def sizes(tensor: Any) -> dict[str, list[int]]:
        seen = tensor.transpose(1, 2)
        return {"dim": list(seen.shape), "stride": list(seen.stride())}

    given = [
        graph.tensor(name=n, data_type=half, **sizes(t))
        for n, t in zip("qkv", tensors, strict=True)
    ]
    pack = dict(zip(given, tensors, strict=True))
    options: dict[str, Any] = {}
    if padding:
        lens = torch.tensor(problem.valid, device="cuda", dtype=torch.int32).reshape(-1, 1, 1, 1)
        named = [
            graph.tensor(
                name=n, dim=list(lens.shape), stride=[1] * 4, data_type=cudnn.data_type.INT32
            )
            for n in ("lens_q", "lens_kv")
        ]
        options = {"use_padding_mask": True, "seq_len_q": named[0], "seq_len_kv": named[1]}
        pack |= dict.fromkeys(named, lens)
    if problem.causal:
        options["use_causal_mask"] = True
    result, _ = graph.sdpa(
        name="sdpa", q=given[0], k=given[1], v=given[2], generate_stats=False,
        attn_scale=problem.head_dim**-0.5, **options,
    )  # fmt: skip
    there = sizes(output)
    result.set_output(True).set_dim(there["dim"]).set_stride(there["stride"])
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()
    room = torch.empty(max(1, graph.get_workspace_size()), device="cuda", dtype=torch.uint8)
    pack[result] = output

    def call() -> Any:
        cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
        graph.execute(pack, room, handle=handle)
        return output

    return call


def error_of(problem: Problem, tensors: Sequence[Any], output: Any, *, left: bool) -> float:
    """Largest error of valid rows of two sequences, which lie behind their padding if ``left``."""
    worst = 0.0
    for sequence in {0, problem.batch // 2}:
        rows = problem.rows(sequence, left=left)
        group = problem.heads[0] // problem.heads[1]
        query, key, value = (each[sequence, rows].double().transpose(0, 1) for each in tensors)
        key, value = (each.repeat_interleave(group, 0) for each in (key, value))
        scores = query @ key.transpose(1, 2) * problem.head_dim**-0.5
        if problem.causal:
            scores.masked_fill_(torch.ones_like(scores[0], dtype=torch.bool).triu(1), -math.inf)
        expected = (torch.softmax(scores, -1) @ value).transpose(0, 1)
        worst = max(worst, float((output[sequence, rows].double() - expected).abs().max()))
    return worst


def captured(calls: Sequence[Callable[[], Any]]) -> tuple[Any, int]:
    """A graph of calls, and of how many."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph, times = torch.cuda.CUDAGraph(), max(1, _CALLS // len(calls))
    with torch.cuda.graph(graph):
        for _ in range(times):
            for call in calls:
                call()
    return graph, times * len(calls)


def replayed(graph: Any, calls: int) -> float:
    """Microseconds a call."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    begin.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) * 1e3 / calls


def measured(problem: Problem, folders: Sequence[Path]) -> dict[str, Any]:
    """What a case took, microseconds, and what was wrong."""
    sets = problem.draw()
    graphs: dict[str, tuple[Any, int]] = {}
    kept = []  # a graph reads and writes memory that it does not hold
    errors: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name, make, left in contestants(problem, folders):
        try:
            calls = [make(*tensors) for tensors in sets]
            kept.append(calls)
            if left is not None:
                output = calls[0]()
                torch.cuda.synchronize()
                errors[name] = error_of(problem, sets[0], output, left=left)
            graphs[name] = captured(calls[:1])
            if len(calls) > 1:
                graphs[f"{name}_rotating"] = captured(calls)
        except Exception as failure:
            failures[name] = str(failure).strip().splitlines()[0][:160]
    times: dict[str, list[float]] = {name: [] for name in graphs}
    names, order = list(graphs), random.Random(0)
    for _ in range(_ROUNDS):
        order.shuffle(names)
        for name in names:
            times[name].append(replayed(*graphs[name]))
    return {
        "microseconds": {name: round(statistics.median(each), 2) for name, each in times.items()},
        "max_abs_error": errors,
        "failures": failures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", type=Path, action="append", required=True, help="or more")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="of the cases, such as 1/2 for a 2nd GPU")
    parser.add_argument("--only", default="", help="cases whose text has this")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    cases = [
        replace(problem, dtype=dtype, lens=lens)
        for dtype in DTYPES
        for problem in PROBLEMS
        for lens in ("full", "mixed")
    ]
    facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for problem in [each for each in cases if options.only in str(each)][part::parts]:
        began = time.monotonic()
        row = {**vars(problem), **facts, **measured(problem, options.libraries)}
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{time.monotonic() - began:.1f} s {problem} {row['microseconds']}", flush=True)


if __name__ == "__main__":
    main()
