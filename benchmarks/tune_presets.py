"""Records of a device for the presets, as many as fit into some minutes; goes on where it ended.

    python benchmarks/tune_presets.py --target cuda --database database/records --minutes 9

tunes every preset's attention in each dtype, on lengths as it is served and every distribution of
them, where there is no record yet. Then `prefilltune sweep` and `compare` without a model measure
what there is. One process after the other builds and measures for all of them, so that a case costs
its search and its verification alone.

With `--layout packed` they are for packed sequences: then lengths of up to a shape's.

With `--arch sm_80` (or sm_75) they are portable: for every GPU from there on, and measured on
the one at hand. One length of each attention is enough then::

    python benchmarks/tune_presets.py --arch sm_80 --database database/records --minutes 9 \\
        --lens full --length 512 --length 729 --length 1500

On a host of several GPUs, as many processes share the attentions and a database: on the first of
two so, and on the other with `CUDA_VISIBLE_DEVICES=1`, other cores and `--part 2/2`::

    CUDA_VISIBLE_DEVICES=0 taskset -c 0-15 python benchmarks/tune_presets.py --part 1/2 ...
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from prefilltune.database import Finder, RecordStore, Tier, committed_root
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.devices.opening import local_pool
from prefilltune.tuning.search.builders import local_builders
from prefilltune.tuning.search.state import Limit
from prefilltune.tuning.search.tune import tune_case
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths, preset

# Presets of all the attentions that there are, and batches by length.
_ENCODER = {128: 32, 512: 32, 1024: 8, 2048: 4, 4096: 2}
_DECODER = {**_ENCODER, 512: 16}
_SHORT = {128: 32, 512: 32}
_LONG = {128: 32, 512: 16, 2048: 4}
BATCHES = {
    "bge-base": _ENCODER,
    "bge-large": _ENCODER,
    "qwen3-embedding-8b": _DECODER,
    "qwen3-embedding-0.6b": _DECODER,
    "modernbert-base:local": _ENCODER,
    "modernbert-large:local": _ENCODER,
    "minilm-l6": _SHORT,
    "jina-v2-base": _LONG,
    "t5-base": _SHORT,
    "embeddinggemma-300m:global": _LONG,
    "embeddinggemma-300m:local": _LONG,
    "gte-qwen2-1.5b": _LONG,
    "gte-qwen2-7b": _LONG,
    "e5-mistral-7b": {**_LONG, 4096: 2},
    "siglip-so400m": {729: 8},
    "whisper-large-v3": {1500: 8},
}
LENS = ("full", "uniform:0.125-1")
DTYPES = ("float16", "bfloat16")
# Enough to refine what near workloads or devices found, and for the first of an attention to look
# around.
_TRIALS, _FIRST_TRIALS = 8, 48


def cases(options: argparse.Namespace, target: ResolvedTarget) -> Iterator[Case]:
    """Everything that is wanted, in the order in which one learns from another."""
    numbers: dict[str, int] = {}
    part, parts = options.part
    for dtype in options.dtype or DTYPES:
        for lens in options.lens or LENS:
            for model in options.model or BATCHES:
                batches = BATCHES.get(model, _ENCODER)
                for length, batch in batches.items():
                    if options.length and length not in options.length:
                        continue
                    for each in preset(model).specs(dtype):
                        spec, shape = each.as_called(layout=options.layout), (batch, length)
                        case = Case(spec, PrefillShape(*shape), parse_lengths(lens)).as_tuned
                        number = numbers.setdefault(attention(case.spec), len(numbers))
                        if number % parts == part - 1:
                            yield case


def attention(spec: PrefillSpec) -> str:
    """A spec but for its dtype: what is found in one is tried first in the other."""
    return str(replace(spec, dtype="float16", lse_dtype=None))


def part_of(text: str) -> tuple[int, int]:
    """Which part of the attentions of how many, from 1 on.

    >>> part_of("2/3")
    (2, 3)
    """
    part, parts = map(int, text.split("/"))
    if not 1 <= part <= parts:
        raise ValueError(text)
    return part, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="cuda")
    parser.add_argument("--arch", help="of CUDA, where it is not the GPU's own")
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--layout", choices=("padded", "packed"), help="padded when absent")
    for name, kind in (("model", str), ("length", int), ("dtype", str), ("lens", str)):
        parser.add_argument(f"--{name}", type=kind, action="append", help="repeat for more")
    parser.add_argument("--part", type=part_of, default=(1, 1), help="such as 1/2")
    options = parser.parse_args()
    began, target = time.monotonic(), resolve_target(options.target, arch=options.arch)
    target = backend_of(target.kind).at_hand(target)
    if lacking := backend_of(target.kind).lacking_here(target):
        parser.error(lacking)
    store = RecordStore.open(options.database, target.key, create=True)
    known = {entry.group for entry in store.entries}
    near = Finder([options.database, committed_root()]).stores(target.key, Tier.FAMILY)
    seen = {attention(PrefillSpec.parse(each.provenance.spec)) for s in near for each in s.entries}
    with ExitStack() as stack:
        pool = stack.enter_context(local_pool(target))
        builders = stack.enter_context(local_builders())
        for case in cases(options, target):
            spaces = backend_of(target.kind).default_spaces(case.spec, [case.shape], target)
            group = (str(case.spec), str(case.shape), spaces[0], case.lens.text)
            if group in known:
                continue
            if time.monotonic() - began > 60 * options.minutes:
                print(
                    f"the time is over before {case.on(target.key)}; run the same command again",
                    flush=True,
                )
                return
            is_first = attention(case.spec) not in seen
            seen.add(attention(case.spec))
            limit = Limit(trials=_FIRST_TRIALS if is_first else _TRIALS)
            kept = tune_case(
                case, target, spaces, limit, options.database, 1, lambda _: None, pool, builders
            ).kept
            for entry in kept:
                known.add(entry.group)
                of = entry.provenance
                timed = f"{of.median_secs * 1e6:.1f} us, {of.space} {of.variant}"
                print(f"{case.on(target.key)}: {timed}", flush=True)
    print("every case has a record; next: prefilltune sweep, and prefilltune compare", flush=True)


if __name__ == "__main__":
    main()
