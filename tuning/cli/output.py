"""What a command prints gets where it is to go, or one line says that it does not."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from ...database import NotWritableError

_SPELLED = "prefilltune-spelled"


@contextmanager
def whole_output() -> Iterator[None]:
    """Let what is printed within reach the end of stdout, in whatever characters that knows.

    Raises
    ------
    NotWritableError
        If stdout takes no more, such as a file on a full disk.
    """
    _spell_foreign_characters()
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if not _is_of_stdout(error):
            raise
        # What is left in its buffer would be tried again when Python ends.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if error.errno == errno.EPIPE:  # whoever read it has seen enough
            sys.exit(1)
        raise NotWritableError(
            f"cannot write to the standard output: {error.strerror}; what was printed is cut "
            "there: let it go to a place with room"
        ) from error


def _is_of_stdout(error: OSError) -> bool:
    """Whether writing to stdout is what fails: then it goes on failing."""
    if error.filename is not None or sys.stdout is None:
        return False
    try:
        sys.stdout.flush()  # what it did not take is still in its buffer
    except OSError as again:
        return again.errno == error.errno
    return False


def _spell_foreign_characters() -> None:
    """Have characters that a stream cannot encode spelled with those that it can."""
    codecs.register_error(_SPELLED, _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):
                stream.reconfigure(errors=_SPELLED)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    r"""The nearest ASCII text, else a question mark for each character.

    >>> _spelled(UnicodeEncodeError("ascii", "caf\u00e9\u2026", 3, 5, ""))
    ('e...', 5)
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    foreign = unicodedata.normalize("NFKD", error.object[error.start : error.end])
    plain = (
        "" if unicodedata.combining(each) else each if each.isascii() else "?" for each in foreign
    )
    return "".join(plain), error.end
