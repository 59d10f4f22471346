"""Errors that a user of prefilltune can cause, each ending in what to do about it."""

from __future__ import annotations


class PrefilltuneError(Exception):
    """Base of every error that is the user's to mend; the CLI prints it as one line and exits 2."""


class InvalidSpecError(PrefilltuneError, ValueError):
    """A field of a :class:`~prefilltune.workloads.PrefillSpec` is out of its range."""


class InvalidShapeError(PrefilltuneError, ValueError):
    """A field of a :class:`~prefilltune.workloads.PrefillShape` is out of its range."""


class UnknownPresetError(PrefilltuneError, KeyError):
    """No preset has the given name."""

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return str(self.args[0])


class InvalidLengthsError(PrefilltuneError, ValueError):
    """A length distribution is unknown, or its file cannot be read as one."""
