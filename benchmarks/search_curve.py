"""How soon a search is near the best that it finds, from the logs of its trials.

A log is `trials/<case>.jsonl` of a work database; it keeps when each trial ended. Writes what each
search reached and when, and a picture of it (needs the extra [benchmarks])::

    python benchmarks/search_curve.py LOG... --output docs/measurements/search_curve
"""

from __future__ import annotations

import argparse
import bisect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NEAR = 1.05
MINUTES = (1, 3)


def curve(log: Path) -> dict[str, Any]:
    """What a search had found when: seconds since its start, and the best time so far."""
    trials = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    timed = [
        (trial["elapsed"], min(trial["run_secs"])) for trial in trials if trial.get("run_secs")
    ]
    found: list[tuple[float, float]] = []
    for elapsed, seconds in sorted(timed):
        if not found or seconds < found[-1][1]:
            found.append((elapsed, seconds))
    best = found[-1][1]
    ended = max(elapsed for elapsed, _ in timed)
    return {
        "case": log.stem,
        "trials": len(trials),
        "failed": len(trials) - len(timed),
        "seconds": round(ended, 1),
        "best_us": round(best * 1e6, 2),
        "near_after_seconds": round(next(at for at, secs in found if secs <= NEAR * best), 1),
        "over_best_after_minutes": {
            minutes: round(_at(found, 60 * minutes) / best, 4) for minutes in MINUTES
        },
        "improvements": [[round(at, 1), round(secs / best, 4)] for at, secs in found],
    }


def _at(found: Sequence[tuple[float, float]], second: float) -> float:
    """The best time that was known at a second."""
    return found[max(0, bisect.bisect(found, second, key=lambda each: each[0]) - 1)][1]


def draw(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    for each in curves:
        seconds, ratios = zip(*each["improvements"], [each["seconds"], 1.0], strict=True)
        label = f"{each['case']} ({each['trials']} trials)"
        axes.step(seconds, ratios, where="post", label=label)
    axes.axhline(NEAR, color="0.6", linestyle=":", label="within 5 %")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("seconds of search")
    axes.set_ylabel("best so far over best of all")
    axes.set_ylim(0.98, 1.3)
    axes.legend(fontsize=7)
    axes.grid(color="0.9")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="of both files, no suffix")
    options = parser.parse_args()
    curves = [curve(log) for log in options.logs]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(curves, indent=1)
    options.output.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    draw(curves, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
