"""What traces of our design spaces name, for processes that replay records of any origin."""

from __future__ import annotations

from typing import Any

from ...workloads import PrefillSpec
from ..spaces import SPACES


def register(provenance: dict[str, Any]) -> None:
    """Register the tensor intrinsics that the trace of a record names.

    Parameters
    ----------
    provenance : dict
        ``space``, ``spec`` and ``variant`` of the record; of an unknown space, nothing is
        registered.

    Raises
    ------
    InvalidSpecError
        If ``spec`` is none.
    KeyError, ValueError
        If the space has no such variant.
    """
    space = SPACES.get(provenance["space"])
    if space is not None:
        space.register(PrefillSpec.parse(provenance["spec"]), provenance["variant"])
