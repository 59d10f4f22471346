"""How many of something, in words."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """A number and its noun.

    >>> count(1, 'record'), count(2, 'record')
    ('1 record', '2 records')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
