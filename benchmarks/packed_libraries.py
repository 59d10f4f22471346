"""Packed kernels beside padded ones on a GPU, both for every size, as a server calls built ones.

    prefilltune build --target cuda --arch sm_90a --heads 12x64 --dtype bfloat16 \\
        --layout packed --output dist/packed-12x64
    (and padded: --padding-output untouched --shape 1x128, of which no case is)
    python benchmarks/packed_libraries.py --libraries dist --output packed.json

Of the same sequences, through the PyTorch operators, graphs of calls in turns in short bursts;
padding of the output is left as it is. Both compute the same, which is compared too. The packed
one is told how long the longest sequence is, and once more it is not.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from built_rivals import PROBLEMS, Problem, captured, replayed

import prefilltune.torch as tuned
from prefilltune.workloads import parse_lengths

LENS = ("full", "uniform:0.125-1")
PAUSE_SECONDS = 0.002  # before each burst, so that power is no limit


def calls_of(problem: Problem, lens: str) -> tuple[Mapping[str, Callable[[], Any]], Any]:
    """The operators' calls on the same sequences, and which rows of the padded batch they have."""
    sizes = problem.batch, problem.length
    drawn = parse_lengths(lens).sample(*sizes, 0)
    valid = torch.as_tensor(drawn, dtype=torch.int32, device="cuda")
    places = torch.arange(problem.length, device="cuda")
    first = problem.length - valid if problem.causal else torch.zeros_like(valid)
    kept = (places >= first[:, None]) & (places < (first + valid)[:, None])
    padded = problem.draw()[0]
    packed = [each[kept].contiguous() for each in padded]
    offsets = torch.nn.functional.pad(valid.cumsum(0), (1, 0)).int()
    of_padded: dict[str, Any] = {
        "mask_mode": "causal_padded_left" if problem.causal else "padded",
        "padding_output": "untouched",
        "out": results_like(padded[0]),
    }
    of_packed: dict[str, Any] = {
        "window": (None, 0) if problem.causal else None,
        "out": results_like(packed[0]),
    }
    told = {**of_packed, "max_seqlen_q": int(drawn.max())}
    return {
        "padded": lambda: tuned.sequence_prefill(*padded, valid, **of_padded)[0],
        "packed": lambda: tuned.packed_prefill(*packed, offsets, offsets, **told)[0],
        "untold": lambda: tuned.packed_prefill(*packed, offsets, offsets, **of_packed)[0],
    }, kept


def results_like(query: Any) -> tuple[Any, Any]:
    """An output and an LSE."""
    return torch.empty_like(query), query.new_empty(query.shape[:-1])


def measured(problem: Problem, lens: str, seconds: float) -> dict[str, Any]:
    """Medians, microseconds, and how far the results of the two are apart."""
    calls, kept = calls_of(problem, lens)
    graphs = {name: captured([call]) for name, call in calls.items()}
    apart = calls["padded"]()[kept].float() - calls["packed"]().float()
    times: dict[str, list[float]] = {name: [] for name in graphs}
    names, order = list(graphs), random.Random(0)
    end = time.monotonic() + seconds
    while not all(times.values()) or time.monotonic() < end:
        order.shuffle(names)
        for name in names:
            torch.cuda.synchronize()
            time.sleep(PAUSE_SECONDS)
            times[name].append(replayed(*graphs[name]))
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {
        **{f"{name}_us": round(medians[name], 2) for name in ("packed", "padded", "untold")},
        "over_padded": round(medians["padded"] / medians["packed"], 3),
        "max_difference": float(apart.abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", type=Path, required=True, help="a folder of their folders")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each case")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    for manifest in sorted(options.libraries.glob("*/manifest.json")):
        tuned.load(manifest.parent)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__},
        "rows": [],
    }
    for problem in PROBLEMS:
        for lens in LENS:
            case = {
                "heads": "/".join(map(str, problem.heads)) + f"x{problem.head_dim}",
                "causal": problem.causal,
                "batch": problem.batch,
                "length": problem.length,
                "lens": lens,
            }
            found["rows"].append({**case, **measured(problem, lens, options.seconds)})
            print(*found["rows"][-1].values(), flush=True)
            options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
