"""What a tuner and the process of a device say to each other, as JSON.

TVM's RPC carries the text. Replies are data and no pickles: a device that went astray, or that is
someone else's, cannot run code in the tuner.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...workloads import PrefillShape, PrefillSpec, PrefilltuneError
from ..errors import GarbledMessageError
from ..measuring.cpu import Measurement
from ..measuring.worker import Outcome

#: In the place of a function: end the process that kernels run in.
RESTART = "restart"


@dataclass(frozen=True)
class UploadedLibrary:
    """A built library, by the name that it was uploaded under."""

    name: str


@dataclass(frozen=True)
class Request:
    """A call for the process of a device.

    Parameters
    ----------
    function : str
        One of :data:`~prefilltune.tuning.devices.functions.FUNCTIONS`, such as
        ``cuda.time_kernel``.
    arguments : tuple
        Of the function, a library in the place of a path.
    threads : int
        CPU threads that kernels run with.
    timeout : float
        Seconds until the call is given up.
    """

    function: str
    arguments: tuple[Any, ...]
    threads: int
    timeout: float

    def encode(self) -> str:
        """As JSON."""
        fields = {**vars(self), "arguments": [_encode(each) for each in self.arguments]}
        return json.dumps(fields)

    @classmethod
    def decode(cls, text: str, path_of: Callable[[str], str]) -> Request:
        """Invert :meth:`encode`, a path for every library.

        Raises
        ------
        GarbledMessageError
            If ``text`` has another form.
        """
        try:
            fields = json.loads(text)
            arguments = tuple(_decode(each, path_of) for each in fields.pop("arguments"))
            request = cls(arguments=arguments, **fields)
            if not (
                isinstance(request.function, str)
                and isinstance(request.threads, int)
                and isinstance(request.timeout, int | float)
            ):
                raise TypeError("a field of another type")
        except (ValueError, TypeError, KeyError, AttributeError, PrefilltuneError) as error:
            raise GarbledMessageError(f"a request that is none: {error}") from error
        return request


def encode_outcome(outcome: Outcome) -> str:
    """As JSON."""
    value = outcome.value
    if isinstance(value, Measurement):
        value = {"measurement": dataclasses.asdict(value)}
    return json.dumps({"status": outcome.status, "value": value, "detail": outcome.detail})


def decode_outcome(text: str) -> Outcome:
    """Invert :func:`encode_outcome`.

    Raises
    ------
    GarbledMessageError
        If ``text`` has another form.
    """
    try:
        fields = json.loads(text)
        outcome = Outcome(str(fields["status"]), fields["value"], str(fields["detail"]))
        if isinstance(outcome.value, dict) and "measurement" in outcome.value:
            measured = outcome.value["measurement"]
            measured["run_secs"] = tuple(float(each) for each in measured["run_secs"])
            measured["error"] = float(measured["error"])
            outcome = dataclasses.replace(outcome, value=Measurement(**measured))
    except (ValueError, TypeError, KeyError) as error:
        raise GarbledMessageError(f"a reply that is none ({text[:200]!r}): {error}") from error
    return outcome


def _encode(value: Any) -> Any:
    if isinstance(value, PrefillSpec):
        return {"spec": str(value)}
    if isinstance(value, PrefillShape):
        return {"shape": str(value)}
    if isinstance(value, UploadedLibrary):
        return {"library": value.name}
    if isinstance(value, list | tuple):
        return [_encode(each) for each in value]
    return value


def _decode(value: Any, path_of: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return tuple(_decode(each, path_of) for each in value)
    if not isinstance(value, dict):
        return value
    ((kind, text),) = value.items()
    return {"spec": PrefillSpec.parse, "shape": PrefillShape.parse, "library": path_of}[kind](text)
