"""What differs from kind to kind of target, one object a kind.

Another kind is one new file here, which derives from :class:`~.backend.Backend`, and one entry in
:data:`BACKENDS`. What it has of its own besides lies in the rooms where its like lies, and is found
through a register there:

- design spaces in ``spaces/``, entries of ``SPACES`` that name the kind; without one, nothing is
  tuned;
- a bench in ``comparing/``, an entry of ``BENCHES``; without one, nothing is compared;
- how kernels run in ``measuring/``, which the backend's ``engine`` names.

Importing this imports no TVM.
"""

from __future__ import annotations

from ..errors import UnsupportedTargetError
from ..target import USUAL_KIND
from .backend import Backend
from .cuda import CUDA
from .llvm import LLVM

#: By kind, as TVM names it.
BACKENDS: dict[str, Backend] = {backend.kind: backend for backend in (LLVM, CUDA)}

__all__ = ["BACKENDS", "USUAL_KIND", "Backend", "backend_of", "seeing"]


def backend_of(kind: str) -> Backend:
    """The backend of a kind of target.

    Raises
    ------
    UnsupportedTargetError
        If there is none.
    """
    if kind not in BACKENDS:
        raise UnsupportedTargetError(
            f"the target is of kind {kind!r}; prefilltune has backends for "
            f"{' and '.join(BACKENDS)}: choose one of these"
        )
    return BACKENDS[kind]


def seeing(device: str) -> dict[str, str]:
    """Environment of a process that sees one of a machine's devices alone, whatever its kind.

    >>> seeing("3")
    {'CUDA_VISIBLE_DEVICES': '3'}
    """
    variables = (backend.visible_devices for backend in BACKENDS.values())
    return {variable: device for variable in variables if variable}
