"""Would a cost model find the best of an enumerated space in fewer trials? Replayed from logs.

A log is `trials/<case>.jsonl` of a work database in which a search has tried every point of a GPU
space. Each is gone through again in three orders: as the search had it, by a model, and at random.
The model is XGBoost on what names a point (its variant and its sampled decisions), of all variants
together; it learns from the first trials of the search, and again after each batch that it chose.
Writes after how many trials each order was near the best, and a picture (needs the
extra [benchmarks])::

    python benchmarks/search_ranking.py LOG... --output docs/measurements/search_ranking
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefilltune.workloads import PrefillSpec

NEAR = (1.05, 1.02, 1.01)
SEEDS = range(5)
# Trials of the search that the model begins with, and those of a batch of its own: the most
# promising, and one of any for what it does not know.
FIRST, PROMISING, ANY = 16, 7, 1
# All logs are near their best by then, and the model would be trained some hundred times more.
MOST = 320


def read(log: Path) -> tuple[np.ndarray, np.ndarray]:
    """What names each point, and the logarithm of its seconds; a failure is slower than all."""
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    trials = [trial for trial in lines if trial["trace"] is not None]
    points = [point(trial) for trial in trials]
    names = sorted({name for each in points for name in each})
    seconds = [min(trial["run_secs"], default=math.inf) for trial in trials]
    slowest = max(each for each in seconds if math.isfinite(each))
    features = np.array([[each.get(name, -1.0) for name in names] for each in points])
    return features, np.log([min(each, 3 * slowest) for each in seconds])


def title(log: Path) -> str:
    """The space of a log and its case, on two lines."""
    with log.open(encoding="utf-8") as lines:
        space = json.loads(next(lines))["space"]
    text, shape, lens = log.stem.split("__")
    spec = PrefillSpec.parse(text)
    heads = f"{spec.num_qo_heads}/{spec.num_kv_heads}x{spec.head_dim}"
    return f"{space}, {shape}, {lens}\n{heads}, {spec.dtype}, {spec.mask_mode}"


def point(trial: dict[str, Any]) -> dict[str, float]:
    """The numbers of a variant, and the value that each decision of the trace took."""
    found = {name: float(value) for name, value in trial["variant"].items()}
    instructions, decisions = trial["trace"]
    seen: Counter[str] = Counter()
    for index, choice in decisions:
        choices = instructions[index][2][0]
        seen[str(choices)] += 1
        found[f"{choices}, the {seen[str(choices)]}."] = float(choices[choice])
    return found


def ranked(features: np.ndarray, times: np.ndarray, seed: int) -> list[int]:
    """Points in the order in which a model chooses them."""
    import xgboost

    parameters = {"max_depth": 5, "eta": 0.2, "subsample": 0.8, "seed": seed, "nthread": 1}
    chance, done = random.Random(seed), list(range(FIRST))
    left = set(range(FIRST, len(times)))
    while left and len(done) < MOST:
        model = xgboost.train(parameters, xgboost.DMatrix(features[done], times[done]), 60)
        waiting = sorted(left)
        expected = model.predict(xgboost.DMatrix(features[waiting]))
        batch = [waiting[index] for index in np.argsort(expected)[:PROMISING]]
        others = sorted(left.difference(batch))
        batch += chance.sample(others, min(ANY, len(others)))
        done += batch
        left.difference_update(batch)
    return done


def best_so_far(order: Iterable[int], times: np.ndarray) -> list[float]:
    """Over the best of all, after each trial."""
    return np.exp(np.minimum.accumulate(times[list(order)]) - times.min()).tolist()


def trials_until(curves: Sequence[Sequence[float]], near: float) -> float:
    """The median over curves; infinite for most of them that never come near."""
    return statistics.median(
        next((done for done, over in enumerate(curve, 1) if over <= near), math.inf)
        for curve in curves
    )


def draw(found: dict[str, dict[str, list[list[float]]]], path: Path) -> None:
    """Write the picture: the median over seeds of each order."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(2, 3, figsize=(9, 4.4), sharey=True, layout="constrained")
    for axes, (case, orders) in zip(all_axes.flat, found.items(), strict=False):
        for order, curves in orders.items():
            length = min(map(len, curves))
            axes.step(
                range(1, length + 1),
                np.median([curve[:length] for curve in curves], axis=0),
                where="post",
                label=order,
            )
        axes.set(title=case, xlim=(1, MOST), ylim=(0.99, 1.3), xscale="log")
        axes.title.set_fontsize(7)
    figure.supxlabel("trials")
    figure.supylabel("best so far, over the best of the space")
    all_axes.flat[0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True, help="without an ending")
    options = parser.parse_args()
    found: dict[str, dict[str, list[list[float]]]] = {}
    table = {}
    for log in options.logs:
        features, times = read(log)
        everything = range(len(times))
        name = title(log)
        found[name] = {
            "as searched": [best_so_far(everything, times)],
            "by a model": [best_so_far(ranked(features, times, seed), times) for seed in SEEDS],
            "at random": [
                best_so_far(random.Random(seed).sample(everything, len(times)), times)
                for seed in SEEDS
            ],
        }
        table[name] = {
            "points": len(times),
            **{
                order: {f"within {near - 1:.0%}": trials_until(curves, near) for near in NEAR}
                for order, curves in found[name].items()
            },
        }
        print(name, json.dumps(table[name]), flush=True)
    options.output.with_suffix(".json").write_text(json.dumps(table, indent=1) + "\n")
    draw(found, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
