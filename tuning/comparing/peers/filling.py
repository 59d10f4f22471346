"""Zeros in the padding behind a peer that leaves it as it was, as a careful caller writes them.

Kernels that write zeros themselves are compared with these. On a GPU it is one small kernel over
the rows of padding, in the same graph: ``index_fill_`` of PyTorch's takes four times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .peer import PeerKernel, Prepared

#: How names of peers end with zeros behind.
FILLED = "_filled"


def filled(peer: PeerKernel) -> PeerKernel:
    """A peer, and zeros written into the padding that it leaves."""

    def prepare(problem: Any) -> Prepared:
        prepared, fill = peer.prepare(problem), padding_filler(problem)

        def bind(given: Any) -> Callable[[], Any]:
            attend = prepared.bind(given)

            def call() -> Any:
                output = attend()
                fill(prepared.padded(output))
                return output

            return call

        return Prepared(bind, prepared.padded)

    return replace(
        peer,
        name=f"{peer.name}{FILLED}",
        title=f"{peer.title}, padding filled",
        zeros=True,
        prepare=prepare,
    )


def padding_filler(problem: Any) -> Callable[[Any], None]:
    """What writes zeros into the padding of an output ``[batch, qo_len, heads, head_dim]``."""
    if not problem.on_gpu:
        return _slice_filler(problem)

    def fill(output: Any) -> None:
        from .fill_kernel import fill_padding

        fill_padding(output, problem.valid_lens, problem.spec.padding == "left")

    return fill


def _slice_filler(problem: Any) -> Callable[[Any], None]:
    qo_len = problem.shape.qo_len
    lens = [min(max(0, each), qo_len) for each in problem.valid_lens.tolist()]
    is_left = problem.spec.padding == "left"
    padding = [slice(0, qo_len - each) if is_left else slice(each, qo_len) for each in lens]

    def fill(output: Any) -> None:
        for sequence, rows in zip(output, padding, strict=True):
            sequence[rows] = 0

    return fill
