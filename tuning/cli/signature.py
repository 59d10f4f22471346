"""What typer reads of a command: its parameters, an option or an argument each.

So a command can be written with fewer parameters than it has options.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def signed(
    command: Callable[..., object],
    parameters: Sequence[inspect.Parameter],
    run: Callable[..., _Result],
) -> Callable[..., _Result]:
    """``run`` with a command's name and help, and the given parameters, all by keyword."""

    @functools.wraps(command)
    def signed_run(**options: Any) -> _Result:
        return run(**options)

    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    signed_run.__signature__ = inspect.Signature(keywords)  # pyright: ignore
    signed_run.__annotations__ = {each.name: each.annotation for each in keywords}
    return signed_run


def parameters_of(command: Callable[..., object]) -> list[inspect.Parameter]:
    """With their types instead of the texts of them."""
    return list(inspect.signature(command, eval_str=True).parameters.values())


def ungrouped(command: Callable[..., _Result]) -> Callable[..., _Result]:
    """A command whose parameters that are dataclasses are given field by field.

    A field may be such a group itself. What a group's ``__init__`` takes are its fields.

    >>> @dataclasses.dataclass
    ... class Size:
    ...     width: int = 2
    ...     height: int = 3
    >>> def area(size: Size, unit: str = "mm") -> str:
    ...     return f"{size.width * size.height} {unit}2"
    >>> [each.name for each in parameters_of(ungrouped(area))]
    ['width', 'height', 'unit']
    >>> ungrouped(area)(width=5, height=3, unit="m")
    '15 m2'
    """

    def run(**options: Any) -> _Result:
        return command(**_grouped(command, options))

    return signed(command, _single(command), run)


def _single(taker: Callable[..., object]) -> list[inspect.Parameter]:
    """The parameters of a command or a group, in the place of each group those of its own."""
    return [
        single
        for each in parameters_of(taker)
        for single in (_single(each.annotation) if _is_group(each) else [each])
    ]


def _grouped(taker: Callable[..., object], options: Mapping[str, Any]) -> dict[str, Any]:
    """What a command or a group takes, of all options."""
    return {
        each.name: each.annotation(**_grouped(each.annotation, options))
        if _is_group(each)
        else options[each.name]
        for each in parameters_of(taker)
    }


def _is_group(parameter: inspect.Parameter) -> bool:
    kind = parameter.annotation
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)
