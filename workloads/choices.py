"""What a spec may choose: which pairs are seen, what becomes of their scores, and what is written.

A choice is a field of :class:`~prefilltune.workloads.PrefillSpec` that most attentions leave alone.
How it is written (in options, plans, files) is said here, once; what it means is said in TIR
(:mod:`.expressions`) and, independently, in NumPy (:mod:`.pairs`, :mod:`.reference`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InvalidSpecError

#: Columns that a row sees to its left and to its right, besides its own; None where it is open.
Window = tuple[int | None, int | None]

OPEN: Window = (None, None)
CAUSAL: Window = (None, 0)


#: What padding of the output may become.
PADDING_OUTPUTS = ("zero", "untouched")

# From here on an end of a window is open: kernels add it to numbers of rows, in 32 bits.
_BEYOND_ALL = 2**30


@dataclass(frozen=True)
class Choice:
    """How a field of a spec is written.

    Parameters
    ----------
    name : str
        Of the field, and of what says it in options and files.
    tag : str
        What its text follows in the canonical text of a spec.
    default : object
        What most attentions have: nothing is written then.
    checked : Callable[[object], object]
        A value as it is kept; raises :class:`InvalidSpecError` if it is none.
    read : Callable[[str], object]
        The value of a text, unchecked; raises :class:`ValueError` if it is of another form.
    write : Callable[[object], str]
        The text of a value that is kept.
    metavar, help : str
        What an option says.
    """

    name: str
    tag: str
    default: Any
    checked: Callable[[Any], Any]
    read: Callable[[str], Any]
    write: Callable[[Any], str]
    metavar: str
    help: str

    @property
    def option(self) -> str:
        """Of the command line."""
        return f"--{self.name.replace('_', '-')}"

    def parse(self, text: str) -> Any:
        """The value that ``text`` says.

        Raises
        ------
        InvalidSpecError
            If it says none.
        """
        try:
            value = self.read(text)
        except ValueError:
            raise InvalidSpecError(
                f"{self.name} is {text!r}; write {self.metavar}: {self.help}"
            ) from None
        return self.checked(value)

    def of_file(self, value: Any) -> Any:
        """The value that a field of a TOML file says: as a text, or as itself.

        Raises
        ------
        InvalidSpecError
            If it says none.

        Examples
        --------
        >>> WINDOW.of_file("open,0") == WINDOW.of_file(["open", 0])
        True
        """
        if isinstance(value, list):
            value = ",".join(map(str, value))
        return self.parse(value) if isinstance(value, str) else self.checked(value)

    def suffix(self, value: Any) -> str:
        """What the canonical text of a spec with ``value`` says of it."""
        if value == self.default:
            return ""
        return f"_{self.tag}{self.write(value).replace(',', '-')}"

    @property
    def pattern(self) -> str:
        """A regular expression of :meth:`suffix`, with a group of the field's name."""
        return rf"(?:_{self.tag}(?P<{self.name}>[^_]+))?"


def _one_of(name: str, *allowed: Any) -> Callable[[Any], Any]:
    def checked(value: Any) -> Any:
        if value not in allowed:
            named = " or ".join(str(each) for each in allowed)
            raise InvalidSpecError(f"{name} is {value!r}; choose {named}")
        return value

    return checked


def _checked_window(value: Any) -> Window:
    ends = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(ends) != 2 or not all(
        end is None or (isinstance(end, int) and not isinstance(end, bool) and end >= 0)
        for end in ends
    ):
        raise InvalidSpecError(
            f"window is {value!r}; it has two ends, how many columns a row sees to its left and to "
            "its right: whole numbers of 0 or more, or None where it is open, such as (64, 64)"
        )
    left, right = (None if end is None or end >= _BEYOND_ALL else end for end in ends)
    return left, right


def _read_window(text: str) -> Window:
    left, right = re.split("[,-]", text)
    return _read_end(left), _read_end(right)


def _read_end(text: str) -> int | None:
    return None if text == "open" else int(text)


def _write_window(window: Window) -> str:
    return ",".join("open" if end is None else str(end) for end in window)


def _checked_softcap(value: Any) -> float | None:
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (math.isfinite(value) and value > 0)
    ):
        raise InvalidSpecError(f"softcap is {value!r}; it must be a finite number above 0, or None")
    return float(value)


LAYOUT = Choice(
    "layout",
    "",
    "padded",
    _one_of("layout", "padded", "packed"),
    str,
    str,
    "padded|packed",
    "whether sequences are filled to one length, or lie one behind another",
)
PADDING = Choice(
    "padding",
    "",
    "right",
    _one_of("padding", "right", "left"),
    str,
    str,
    "right|left",
    "the side of a sequence that is padding",
)
WINDOW = Choice(
    "window",
    "w",
    OPEN,
    _checked_window,
    _read_window,
    _write_window,
    "LEFT,RIGHT",
    "columns that a row sees to its left and to its right, each a number or open, such as 64,64; "
    "open,0 is causal",
)
SOFTCAP = Choice(
    "softcap",
    "cap",
    None,
    _checked_softcap,
    float,
    repr,
    "CAP",
    "a score x becomes CAP * tanh(x / CAP)",
)
BIAS = Choice(
    "bias",
    "bias",
    None,
    _one_of("bias", None, "relative"),
    str,
    str,
    "relative",
    "a tensor that is added to scores, by head and by column minus row",
)

PADDING_OUTPUT = Choice(
    "padding_output",
    "out",
    "zero",
    _one_of("padding_output", *PADDING_OUTPUTS),
    str,
    str,
    "zero|untouched",
    "what padding of the output becomes: zero, or nothing is written there",
)

#: Those that say which pairs are seen, in the order of texts.
MASK_CHOICES = (WINDOW,)

#: Those that say what a score is.
SCORE_CHOICES = (SOFTCAP, BIAS)

#: Those that say which results are written.
RESULT_CHOICES = (PADDING_OUTPUT,)

#: Those that a model leaves to who calls it.
CALL_CHOICES = (LAYOUT, *RESULT_CHOICES)

CHOICES = (LAYOUT, PADDING, *MASK_CHOICES, *SCORE_CHOICES, *RESULT_CHOICES)


def parsed_choices(texts: Mapping[str, str | None]) -> dict[str, Any]:
    """The values of texts by the names of choices; those without a text are left out.

    Raises
    ------
    InvalidSpecError
        If a text says no value.

    Examples
    --------
    >>> parsed_choices({"window": "open,0", "softcap": "50", "bias": None})
    {'window': (None, 0), 'softcap': 50.0}
    """
    return {
        each.name: each.parse(text)
        for each in CHOICES
        if (text := texts.get(each.name)) is not None
    }
