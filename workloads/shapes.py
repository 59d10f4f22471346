"""On which sizes: those that a kernel is tuned for, and those that it learns at a call."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from .errors import InvalidShapeError


def require_positive(value: object, field: str, error: type[ValueError]) -> None:
    """Refuse what is no size."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise error(f"{field} is {value!r}; it must be a whole number of 1 or more: correct it")


@dataclass(frozen=True)
class PrefillShape:
    """The sizes one kernel is tuned for.

    Parameters
    ----------
    batch : int
        Sequences in the batch.
    qo_len : int
        Query (and output) positions of each sequence, padding included.
    kv_len : int, optional
        Key/value positions of each sequence; ``qo_len`` when absent.

    Raises
    ------
    InvalidShapeError
        For a size below 1.

    Examples
    --------
    >>> str(PrefillShape(4, 128))
    'b4_q128_kv128'
    >>> PrefillShape.parse('4x128') == PrefillShape.parse('b4_q128_kv128')
    True
    """

    batch: int
    qo_len: int
    kv_len: int | None = None

    num_offsets: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if self.kv_len is None:
            object.__setattr__(self, "kv_len", self.qo_len)
        for field in ("batch", "qo_len", "kv_len"):
            require_positive(getattr(self, field), field, InvalidShapeError)

    @property
    def num_kv(self) -> int:
        """``kv_len``, resolved."""
        assert self.kv_len is not None
        return self.kv_len

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch and lengths."""
        return self.batch, self.qo_len, self.num_kv

    @property
    def bias_width(self) -> int:
        """How many distances between a row and a column there are: entries of a head's bias."""
        return self.qo_len + self.num_kv - 1

    def __str__(self) -> str:
        return f"b{self.batch}_q{self.qo_len}_kv{self.kv_len}"

    @classmethod
    def parse(cls, text: str) -> PrefillShape:
        """Read ``BATCHxLEN``, ``BATCHxQO_LENxKV_LEN`` or the canonical text.

        Raises
        ------
        InvalidShapeError
            If ``text`` has none of these forms.
        """
        found = re.fullmatch(r"b(-?\d+)_q(-?\d+)_kv(-?\d+)", text) or re.fullmatch(
            r"(-?\d+)x(-?\d+)(?:x(-?\d+))?", text
        )
        if found is None:
            raise InvalidShapeError(
                f"{text!r} is not a shape; write BATCHxLEN or BATCHxQO_LENxKV_LEN, such as 4x128"
            )
        return cls(*(int(size) for size in found.groups() if size is not None))


@dataclass(frozen=True, eq=False)
class SymbolicShape:
    """Sizes of which a kernel learns some at each call.

    Parameters
    ----------
    batch, qo_len, num_kv : tvm.tirx.Var or int
        The sizes of a :class:`PrefillShape`: ``int32`` variables, or numbers where they are fixed.
    """

    batch: Any
    qo_len: Any
    num_kv: Any

    num_offsets: ClassVar[int] = 0

    @property
    def bias_width(self) -> Any:
        """Entries of a head's bias."""
        return self.qo_len + self.num_kv - 1

    @property
    def sizes(self) -> tuple[Any, ...]:
        """All of them."""
        return self.batch, self.qo_len, self.num_kv

    @classmethod
    def fresh(cls) -> SymbolicShape:
        """New variables, with the names that TVM's own kernel gives them."""
        from tvm.tirx import Var

        return cls(*(Var(name, "int32") for name in ("batch_size", "qo_len", "kv_len")))


@dataclass(frozen=True, eq=False)
class PackedShape:
    """Sizes of packed tensors: variables that a kernel learns at each call, or numbers.

    Parameters
    ----------
    num_offsets : tvm.tirx.Var or int
        One more than there are sequences.
    qo_len, num_kv : tvm.tirx.Var or int
        Rows and columns of all tensors, which no sequence has more of.
    bias_width : tvm.tirx.Var or int
        Entries of a head's bias.
    """

    num_offsets: Any
    qo_len: Any
    num_kv: Any
    bias_width: Any

    @classmethod
    def filled(cls, shape: PrefillShape) -> PackedShape:
        """Tensors with room for sequences that are all of the greatest length."""
        longest = max(shape.qo_len, shape.num_kv)
        totals = shape.batch * shape.qo_len, shape.batch * shape.num_kv
        return cls(shape.batch + 1, *totals, 2 * longest - 1)

    @property
    def batch(self) -> Any:
        """Sequences."""
        return self.num_offsets - 1

    @property
    def sizes(self) -> tuple[Any, ...]:
        """All of them."""
        return self.num_offsets, self.qo_len, self.num_kv, self.bias_width

    @classmethod
    def fresh(cls) -> PackedShape:
        """New variables."""
        from tvm.tirx import Var

        names = ("num_offsets", "total_q", "total_kv", "bias_width")
        return cls(*(Var(name, "int32") for name in names))


#: Sizes of a call.
AtCall = TypeVar("AtCall", bound="SymbolicShape | PackedShape")


def squared(sizes: AtCall) -> AtCall:
    """The same with as many keys as queries, which is known then without being asked.

    Of packed sequences, they are rows of the same ones, with the same offsets.
    """
    return replace(sizes, num_kv=sizes.qo_len)


def is_square(sizes: SymbolicShape | PackedShape) -> bool:
    """Whether they are :func:`squared`: one variable is both lengths."""
    from tvm.tirx import Var

    return isinstance(sizes.qo_len, Var) and sizes.qo_len.same_as(sizes.num_kv)
