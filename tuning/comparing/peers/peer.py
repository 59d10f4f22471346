"""What a peer is: a kernel of another library, what it takes of a spec, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any

from ....workloads import PrefillSpec
from ....workloads.choices import CALL_CHOICES
from ....workloads.phrases import extras

#: What to say of a peer whose package is not there; no path, as comparison files are kept in git.
NOT_INSTALLED = "not installed: pip install 'prefilltune[rivals]'"


#: What layout a peer takes and what it leaves in padding is told apart from what it computes.
_OF_CALLS = {each.name for each in CALL_CHOICES}


@dataclass(frozen=True)
class Prepared:
    """A peer that is ready for the lengths of a batch: masks, offsets and plans are made.

    Parameters
    ----------
    bind : Callable[[Any], Callable[[], Any]]
        Takes a problem of the same lengths to a call that is ready to be timed. What a caller does
        ahead of the clock to other tensors, such as packing them, is done here. The result of the
        call is on the device.
    padded : Callable[[Any], Any]
        Takes that result to ``[batch, qo_len, num_qo_heads, head_dim]``.
    """

    bind: Callable[[Any], Callable[[], Any]]
    padded: Callable[[Any], Any]


@dataclass(frozen=True)
class PeerKernel:
    """A way to compute attention with another library.

    Parameters
    ----------
    name : str
        In comparison files.
    title : str
        For people.
    kind : str
        As in :class:`~..comparison.Peer`.
    lacks : Callable[[PrefillSpec], str]
        What of a spec it has no way to compute, or that it is not installed; empty if it is there
        and takes all of it.
    prepare : Callable[[Any], Prepared]
        Of problems as it knows them. May raise anything: not every version has every peer, nor
        every peer every workload.
    zeros : bool
        Whether rows of padding hold zeros afterwards; otherwise whatever they held, or numbers of
        no meaning.
    right_padded : bool
        Whether padding on the left is beyond it, so that it computes sequences of the same lengths
        that are padded on the right instead: the same work.
    library : str
        Which process of a comparison on a CPU it runs in; each has its own kind of problems.
    """

    name: str
    title: str
    kind: str
    lacks: Callable[[PrefillSpec], str]
    prepare: Callable[[Any], Prepared]
    zeros: bool = False
    right_padded: bool = False
    library: str = "torch"

    def known_spec(self, spec: PrefillSpec) -> PrefillSpec:
        """A spec as the peer knows it: of padded tensors; it packs them if it takes such."""
        if not self.right_padded or spec.padding == "right":
            return spec.padded
        return replace(spec, padding="right")

    def known(self, problem: Any) -> Any:
        """A problem as the peer knows it: padded on the right, if it knows no other padding."""
        spec = self.known_spec(problem.spec)
        return problem if spec is problem.spec else replace(problem, spec=spec)


def choices_to_take(spec: PrefillSpec) -> list[str]:
    """Names of the choices, besides padding and causality, without which nothing is right.

    >>> choices_to_take(PrefillSpec(4, 2, 64, softcap=50, padding_output="untouched"))
    ['softcap']
    """
    return [each for each in extras(spec) if each not in _OF_CALLS]


def taking(
    *choices: str, dtypes: Container[str] | None = None, largest_head_dim: int | None = None
) -> Callable[[PrefillSpec], str]:
    """What a peer lacks that takes these choices besides padding and causality, and these dtypes.

    Parameters
    ----------
    largest_head_dim : int, optional
        Head dimensions are multiples of 8 up to here; any if None.

    Examples
    --------
    >>> spec = PrefillSpec(4, 2, 64, "float16", window=(64, 64), softcap=50, bias="relative")
    >>> taking()(spec)
    'takes no window, softcap or bias'
    >>> taking("window", "softcap", "bias", dtypes=["bfloat16"])(spec)
    'takes no float16'
    >>> taking("window", "softcap", "bias")(spec)
    ''
    """

    def lacks(spec: PrefillSpec) -> str:
        missing = [each for each in choices_to_take(spec) if each not in choices]
        if dtypes is not None and spec.dtype not in dtypes:
            missing.append(spec.dtype)
        if largest_head_dim is not None and (
            spec.head_dim % 8 or not spec.head_dim <= largest_head_dim
        ):
            missing.append(f"head_dim {spec.head_dim}")
        *others, last = missing or [""]
        return f"takes no {' or '.join(filter(None, (', '.join(others), last)))}" if last else ""

    return lacks
