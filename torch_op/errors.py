"""What a caller can do wrong, each message ending in what to do about it."""

from __future__ import annotations


class PrefillError(Exception):
    """Base of all of them."""


class InvalidLibraryError(PrefillError, RuntimeError):
    """A folder holds no library that can be loaded."""


class ChecksumError(InvalidLibraryError):
    """A library is not the one that its manifest describes, or not the one loaded before."""


class WrongMachineError(InvalidLibraryError):
    """A library holds machine code that this machine cannot run."""


class RuntimeNotFoundError(PrefillError, RuntimeError):
    """TVM's runtime library is not here, or lacks something that it needs."""


class NoKernelError(PrefillError, LookupError):
    """No loaded library serves a call."""


class ForkedError(PrefillError, RuntimeError):
    """A kernel is called in a process that was forked when its threads were running."""


class InvalidArgumentError(PrefillError, ValueError):
    """A tensor has not the shape, dtype, device or strides that a call needs."""


class NotDifferentiableError(PrefillError, RuntimeError):
    """A gradient would be needed of a kernel that has none."""
