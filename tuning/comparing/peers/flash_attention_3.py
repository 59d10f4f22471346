"""FlashAttention-3, which is made for Hopper, from whichever package of it is installed.

A build holds the kernels that its makers chose and says which; a spec goes to the first that has
one for it. It pads on the right alone.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ....workloads import PrefillSpec
from ....workloads.choices import CAUSAL
from ..comparison import DENSE, MASKED, PACKED
from ..torch_problem import Problem
from .packing import packing_of
from .peer import NOT_INSTALLED, PeerKernel, Prepared, taking


@dataclass(frozen=True)
class _Build:
    """A package of FlashAttention-3.

    Parameters
    ----------
    interface, config : str
        Its modules: with its functions, and with what was left out as it was built.
    """

    interface: str
    config: str

    @property
    def is_installed(self) -> bool:
        return find_spec(self.interface) is not None

    def lacks(self, spec: PrefillSpec) -> str:
        """As :class:`~.peer.PeerKernel` has it, of a build that is installed."""
        left_out = self._left_out()
        windows = () if "LOCAL" in left_out else ("window",)
        caps = () if "SOFTCAP" in left_out else ("softcap",)
        dtypes = ("bfloat16",) if "FP16" in left_out else ("float16", "bfloat16")
        kernels = [dim for dim in (64, 96, 128, 192, 256) if f"HDIM{dim}" not in left_out]
        takes = taking(*windows, *caps, dtypes=dtypes, largest_head_dim=max(kernels, default=0))
        return takes(spec)

    def _left_out(self) -> set[str]:
        """Such as ``LOCAL``, ``SOFTCAP``, ``FP16`` or ``HDIM96``; nothing where it does not say."""
        if find_spec(self.config) is None:
            return set()
        flags = importlib.import_module(self.config).CONFIG["build_flags"]
        names = (
            re.fullmatch(r"FLASH_?ATTENTION_DISABLE_(\w+)", name)
            for name, on in flags.items()
            if on
        )
        return {name[1] for name in names if name}


#: The first is what upstream's own build is called too.
_BUILDS = (
    _Build("flash_attn_interface", "flash_attn_config"),
    _Build("fa3_fwd_interface", "fa3_fwd_config"),
)


def _lacks(spec: PrefillSpec) -> str:
    lacking = [each.lacks(spec) for each in _BUILDS if each.is_installed]
    return "" if "" in lacking else next(iter(lacking), NOT_INSTALLED)


def forward_for(spec: PrefillSpec) -> Callable[..., Any]:
    """The forward function of the first build that has a kernel for a spec.

    Raises
    ------
    LookupError
        If no build that is installed has one.
    """
    if lacking := _lacks(spec):
        raise LookupError(f"FlashAttention-3 for {spec}: {lacking}")
    build = next(each for each in _BUILDS if each.is_installed and not each.lacks(spec))
    return importlib.import_module(build.interface)._flash_attn_forward


def _attend(problem: Problem) -> Callable[..., Any]:
    """A call that takes query, key, value and the options that say their lengths."""
    spec = problem.spec
    forward = forward_for(spec)
    left, right = (-1 if end is None else end for end in spec.window)
    options: dict[str, Any] = {"softmax_scale": spec.scale, "softcap": spec.softcap or 0.0}
    if spec.window == CAUSAL:
        options["causal"] = True
    else:
        options |= {"window_size_left": left, "window_size_right": right}

    def attend(query: Any, key: Any, value: Any, **lengths: Any) -> Any:
        output, *_ = forward(query, key, value, **options, **lengths)
        return output

    return attend


def _padded(problem: Problem, **lengths: Any) -> Prepared:
    attend = _attend(problem)

    def bind(given: Problem) -> Callable[[], Any]:
        return lambda: attend(given.query, given.key, given.value, **lengths)

    return Prepared(bind, lambda output: output)


def _seqused(problem: Problem) -> Prepared:
    queries, keys = (
        problem.valid_lens.clamp(0, length)
        for length in (problem.shape.qo_len, problem.shape.num_kv)
    )
    return _padded(problem, seqused_q=queries, seqused_k=keys)


def _packed(problem: Problem) -> Prepared:
    attend = _attend(problem)
    queries, keys = (
        packing_of(problem, length) for length in (problem.shape.qo_len, problem.shape.num_kv)
    )
    lengths = {
        "cu_seqlens_q": queries.offsets, "cu_seqlens_k": keys.offsets,
        "max_seqlen_q": queries.longest, "max_seqlen_k": keys.longest,
    }  # fmt: skip

    def bind(given: Problem) -> Callable[[], Any]:
        query = queries.pack(given.query)
        key, value = keys.pack(given.key), keys.pack(given.value)
        return lambda: attend(query, key, value, **lengths)

    return Prepared(bind, lambda output: queries.unpack(output, problem.query))


FLASH_ATTENTION_3_PEERS = (
    PeerKernel("fa3_seqused", "FlashAttention-3 with lengths", MASKED, _lacks, _seqused,
               right_padded=True),
    PeerKernel("fa3_varlen_packed", "FlashAttention-3, already packed", PACKED, _lacks, _packed),
    PeerKernel("fa3_dense", "FlashAttention-3 without lengths", DENSE, _lacks, _padded),
)  # fmt: skip
