"""Which peers a case is compared with."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Sequence

from ....workloads import PrefillShape, PrefillSpec
from ..comparison import DENSE, PACKED, has_padding, writes_zeros
from .cudnn_graph import CUDNN_PEERS
from .filling import filled
from .flash_attention_3 import FLASH_ATTENTION_3_PEERS
from .onnx_runtime import ONNX_RUNTIME_PEERS
from .peer import PeerKernel
from .torch_attention import PACKED_ON_A_CPU, TORCH_PEERS, torch_peers_on_a_cpu

#: All on a GPU, as they are.
PEERS = (*TORCH_PEERS, *FLASH_ATTENTION_3_PEERS, *CUDNN_PEERS)

#: Packages of these besides PyTorch, and of those on a CPU.
PACKAGES = ("tokenspeed-fa3", "fa3-fwd", "nvidia-cudnn-frontend")
CPU_PACKAGES = ("onnxruntime",)


def peers_on_a_gpu(
    spec: PrefillSpec, shape: PrefillShape, batches: Sequence[Sequence[int]]
) -> tuple[PeerKernel, ...]:
    """Those of a case on a GPU; for packed tensors, those that take such."""
    peers = PEERS if not spec.is_packed else [each for each in PEERS if each.kind == PACKED]
    return _for_case(peers, spec, shape, batches)


def peers_on_a_cpu(
    spec: PrefillSpec, shape: PrefillShape, batches: Sequence[Sequence[int]]
) -> tuple[PeerKernel, ...]:
    """Those of a case on a CPU."""
    return _for_case(_on_a_cpu(spec), spec, shape, batches)


def named_on_a_cpu(name: str, spec: PrefillSpec) -> PeerKernel:
    """One of :func:`peers_on_a_cpu`."""
    peers = (each for peer in _on_a_cpu(spec) for each in _with_filled(peer))
    return next(each for each in peers if each.name == name)


def named_peers() -> dict[str, PeerKernel]:
    """All that comparison files may hold, by name."""
    peers = (*PEERS, *PACKED_ON_A_CPU, *ONNX_RUNTIME_PEERS)
    return {each.name: each for peer in peers for each in _with_filled(peer)}


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those of the packages that are here."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _on_a_cpu(spec: PrefillSpec) -> tuple[PeerKernel, ...]:
    """As they are; ONNX Runtime takes no packed tensors there."""
    return (*torch_peers_on_a_cpu(spec), *(() if spec.is_packed else ONNX_RUNTIME_PEERS))


def _for_case(
    peers: Iterable[PeerKernel],
    spec: PrefillSpec,
    shape: PrefillShape,
    batches: Sequence[Sequence[int]],
) -> tuple[PeerKernel, ...]:
    """With zeros behind too, where the kernels of the spec write them and there is padding."""
    if not (writes_zeros(spec) and has_padding(shape, batches)):
        return tuple(peers)
    return tuple(
        each for peer in peers for each in ([peer] if peer.lacks(spec) else _with_filled(peer))
    )


def _with_filled(peer: PeerKernel) -> Iterator[PeerKernel]:
    yield peer
    if not peer.zeros and peer.kind not in (DENSE, PACKED):  # packed tensors hold no padding
        yield filled(peer)
