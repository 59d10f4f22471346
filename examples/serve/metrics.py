"""What Prometheus may ask."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Histogram

_POWERS_OF_TWO = tuple(2.0**power for power in range(17))
_SECONDS = tuple(1e-3 * 2**power for power in range(15))


class Metrics:
    """Of one server: sizes of batches, and the time that is waited and computed."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made = {"registry": self.registry, "namespace": "prefilltune"}
        self.batch_sequences = Histogram(
            "batch_sequences", "Sequences in a batch", buckets=_POWERS_OF_TWO, **made
        )
        self.batch_tokens = Histogram(
            "batch_tokens", "Tokens in a batch", buckets=_POWERS_OF_TWO, **made
        )
        self.queue_seconds = Histogram(
            "queue_seconds", "From a sequence's arrival to its batch", buckets=_SECONDS, **made
        )
        self.forward_seconds = Histogram(
            "forward_seconds", "To compute a batch", buckets=_SECONDS, **made
        )

    def taken(self, batch: Sequence[tuple[int, float]]) -> None:
        """Count a batch: of each sequence its tokens, and when it came."""
        now = time.monotonic()
        self.batch_sequences.observe(len(batch))
        self.batch_tokens.observe(sum(tokens for tokens, _ in batch))
        for _, since in batch:
            self.queue_seconds.observe(now - since)
