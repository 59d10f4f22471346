"""How the attentions of one model are served."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import torch

from ..torch import load
from ..torch.errors import PrefillError
from ..torch.library import is_loaded
from .reporting import Report

_logger = logging.getLogger("prefilltune.transformers")

_NAME = "_prefilltune"
_numbers = itertools.count()
#: A compiled graph holds the number of a session, since it can hold no object.
_sessions: WeakValueDictionary[int, Session] = WeakValueDictionary()


@dataclass(eq=False)
class Session:
    """What :func:`.enable` was told, and what has happened since.

    Parameters
    ----------
    strict : bool
        Whether a call that no kernel serves is an error.
    padding : str
        The side that is taken to be filled up where the mask is not looked at.
    look : bool
        Whether masks are waited for and looked at.
    """

    strict: bool = False
    padding: str = "right"
    look: bool = True
    report: Report = field(default_factory=Report)
    number: int = field(default_factory=lambda: next(_numbers))

    def __post_init__(self) -> None:
        _sessions[self.number] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a model's copy, which counts for itself; in another process, load what served it."""
        vars(self).update(state, number=next(_numbers))
        _sessions[self.number] = self
        for path in self.report.libraries:
            if is_loaded(path):
                continue
            try:
                load(path.parent)
            except PrefillError as error:
                _logger.warning("a model came with a library that is left out: %s", error)


def attach(model: Any, session: Session) -> None:
    """Let a session be that of every attention of a model."""
    for module in model.modules():
        if "Attention" in type(module).__name__:
            setattr(module, _NAME, session)


#: Of models that were never enabled, which share it.
_usual = Session()


def session_of(module: Any) -> Session:
    """Of an attention."""
    return getattr(module, _NAME, _usual)


def report(model: Any) -> Report:
    """What became of the attention calls of a model: of the session that it was enabled with.

    Models that never were share a report.
    """
    found = (getattr(module, _NAME, None) for module in model.modules())
    return next((each for each in found if each is not None), _usual).report


@torch.compiler.assume_constant_result
def count_compiled(number: int, list_name: str, what: str) -> None:
    """Count a call while a graph is compiled: its calls go uncounted later."""
    session = _sessions.get(number)
    if session is None:  # of a model that came from another process
        return
    report = session.report
    if list_name == "handed_over":
        report.hand_over(what)
    else:
        getattr(report, list_name)[what] += 1
