"""Where the elements of sequences lie: filled to one length, or packed one behind another.

A description runs over (sequence, row or column); what it reads and writes there, and which lengths
the mask of a sequence is about, is asked of its layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from .expressions import Expr, Mask, SequenceMask, clamp, mask_of
from .shapes import PackedShape, PrefillShape, SymbolicShape, is_square
from .spec import PrefillSpec

Indices = tuple[Expr, ...]


@dataclass(frozen=True, eq=False)
class Padded:
    """Sequences filled to the lengths of ``shape``.

    Parameters
    ----------
    mode : Mask
        Of the spec.
    shape : PrefillShape or SymbolicShape
        The sizes.
    valid_lens : Buffer
        ``[batch]`` int32.
    """

    mode: Mask
    shape: Any
    valid_lens: Any

    def mask(self, sequence: Expr) -> SequenceMask:
        """Of a sequence."""
        valid_len = self.valid_lens[sequence]
        return SequenceMask(self.mode, valid_len, self.shape.qo_len, self.shape.num_kv)

    def query(self, sequence: Expr, row: Expr, *others: Expr) -> Indices:
        """Of the query's element."""
        return (sequence, row, *others)

    def key(self, sequence: Expr, column: Expr, *others: Expr) -> Indices:
        """Of the key's and the value's element."""
        return (sequence, column, *others)

    def output(self, sequence: Expr, row: Expr, *others: Expr) -> Indices:
        """Of the output's element."""
        return (sequence, row, *others)

    def bias(self, sequence: Expr, row: Expr, column: Expr) -> Expr:
        """The entry of a head's bias."""
        return column - row + (self.shape.qo_len - 1)


@dataclass(frozen=True, eq=False)
class Offsets:
    """Where sequences lie that are packed one behind another.

    Whatever the offsets are, positions lie within what there is.

    Parameters
    ----------
    offsets : Buffer
        ``[batch + 1]`` int32: the first position of each sequence, and the end of the last.
    total : Expr
        Positions that there are.
    """

    offsets: Any
    total: Expr

    def first(self, sequence: Expr) -> Expr:
        """The first position of a sequence."""
        return clamp(self.offsets[sequence], 0, self.total)

    def length(self, sequence: Expr) -> Expr:
        """Of a sequence."""
        # Both ends: an offset far below 0 less another would be out of what 32 bits hold.
        end = clamp(self.offsets[sequence + 1], 0, self.total)
        return tirx.max(end - self.first(sequence), 0)

    def read(self, sequence: Expr, index: Expr) -> Expr:
        """The position of a sequence's element ``index``; the last of all, if there is none."""
        return tirx.min(self.first(sequence) + index, self.total - 1)


@dataclass(frozen=True, eq=False)
class Packed:
    """Sequences packed one behind another.

    Parameters
    ----------
    mode : Mask
        Of the spec.
    queries, keys : Offsets
        Of the sequences.
    bias_width : Expr
        Entries of a head's bias.
    """

    mode: Mask
    queries: Offsets
    keys: Offsets
    bias_width: Expr

    def mask(self, sequence: Expr) -> SequenceMask:
        """Of a sequence, which has no padding."""
        lengths = self.queries.length(sequence), self.keys.length(sequence)
        return SequenceMask(self.mode, None, *lengths)

    def query(self, sequence: Expr, row: Expr, *others: Expr) -> Indices:
        """Of the query's element."""
        return (self.queries.read(sequence, row), *others)

    def key(self, sequence: Expr, column: Expr, *others: Expr) -> Indices:
        """Of the key's and the value's element."""
        return (self.keys.read(sequence, column), *others)

    def output(self, sequence: Expr, row: Expr, *others: Expr) -> Indices:
        """Of the output's element, if there is one."""
        return (self.queries.first(sequence) + row, *others)

    def bias(self, sequence: Expr, row: Expr, column: Expr) -> Expr:
        """The entry of a head's bias: by how far a column is from that of the row itself."""
        own = self.queries.length(sequence) - self.keys.length(sequence)
        return clamp(column - row + (own + self.bias_width // 2), 0, self.bias_width - 1)


def layout_of(
    spec: PrefillSpec, shape: PrefillShape | SymbolicShape | PackedShape, *lengths: Any
) -> Padded | Packed:
    """The layout of a spec.

    Parameters
    ----------
    shape : PrefillShape, SymbolicShape or PackedShape
        The last of a packed spec.
    lengths : Buffer
        ``valid_lens``, ``cu_seqlens_q`` and ``cu_seqlens_kv``; what the layout does not have may be
        anything.
    """
    valid_lens, queries, keys = lengths
    mode = mask_of(spec)
    if isinstance(shape, PackedShape):
        keys = queries if is_square(shape) else keys
        offsets = Offsets(queries, shape.qo_len), Offsets(keys, shape.num_kv)
        return Packed(mode, *offsets, shape.bias_width)
    return Padded(mode, shape, valid_lens)
