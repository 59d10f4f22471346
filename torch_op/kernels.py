"""What one kernel of a library serves."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from .errors import InvalidLibraryError


@dataclass(frozen=True)
class Spec:
    """What a kernel computes.

    Parameters
    ----------
    mask_mode : str
        Name of the mask, such as ``padded``, ``causal_padded_left`` or ``padded_w64-64``.
    num_qo_heads, num_kv_heads, head_dim : int
        Heads of the query, heads of key and value, elements a head.
    dtype : str
        Of query, key, value and output: ``float16``, ``bfloat16`` or ``float32``.
    sm_scale : float
        Factor on query times key.
    lse_dtype : str
        Of the LSE: ``dtype`` or ``float32``.
    softcap : float, optional
        A scaled score ``x`` becomes ``softcap * tanh(x / softcap)``.
    bias : str, optional
        ``relative``, where a tensor is added to scores.
    padding_output : str
        What padding of the output becomes: ``zero`` or ``untouched``.
    """

    mask_mode: str
    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    sm_scale: float
    lse_dtype: str
    softcap: float | None = None
    bias: str | None = None
    padding_output: str = "zero"

    def __str__(self) -> str:
        return (
            f"{self.mask_mode}, heads {self.num_qo_heads}/{self.num_kv_heads}x{self.head_dim}, "
            f"{self.dtype}, sm_scale {self.sm_scale!r}"
            + ("" if self.softcap is None else f", softcap {self.softcap!r}")
            + ("" if self.bias is None else f", bias {self.bias}")
            + ("" if self.padding_output == "zero" else f", padding {self.padding_output}")
            + ("" if self.lse_dtype == self.dtype else f", LSE {self.lse_dtype}")
        )

    def command(self, name: str, kind: str) -> str:
        """A command of ``prefilltune`` for it, for a target kind.

        >>> Spec("padded", 12, 12, 64, "float32", 0.125, "float32").command("build", "llvm")
        'prefilltune build --target llvm --heads 12/12x64 --dtype float32 --mask-mode padded'
        >>> Spec("padded", 12, 12, 64, "float16", 1.0, "float32").command("build", "llvm")[-35:]
        ' --sm-scale 1.0 --lse-dtype float32'
        """
        heads = f"{self.num_qo_heads}/{self.num_kv_heads}x{self.head_dim}"
        usual = 1 / math.sqrt(self.head_dim)
        is_usual = math.isclose(self.sm_scale, usual, rel_tol=1e-6)
        return (
            f"prefilltune {name} --target {kind} --heads {heads} --dtype {self.dtype} "
            f"--mask-mode {self.mask_mode}"
            + ("" if is_usual else f" --sm-scale {self.sm_scale!r}")
            + ("" if self.softcap is None else f" --softcap {self.softcap!r}")
            + ("" if self.bias is None else f" --bias {self.bias}")
            + ("" if self.padding_output == "zero" else " --padding-output untouched")
            + ("" if self.lse_dtype == self.dtype else f" --lse-dtype {self.lse_dtype}")
        )

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read a manifest's text.

        >>> str(Spec.parse("padded_hq12_hkv12_d64_float32_s0.125"))
        'padded, heads 12/12x64, float32, sm_scale 0.125'
        >>> text = "padded_w64-open_hq12_hkv12_d64_float32_s0.125_cap50.0_biasrelative"
        >>> str(Spec.parse(text))
        'padded_w64-open, heads 12/12x64, float32, sm_scale 0.125, softcap 50.0, bias relative'
        >>> str(Spec.parse("padded_hq12_hkv12_d64_float32_s0.125_outuntouched"))
        'padded, heads 12/12x64, float32, sm_scale 0.125, padding untouched'
        """
        mask_mode, heads, kv_heads, head_dim, dtype, scale, softcap, bias, output, lse_dtype = (
            _fields(
                r"([a-z_]+(?:_w[a-z\d]+-[a-z\d]+)?)_hq(\d+)_hkv(\d+)_d(\d+)_([a-z]+\d+)"
                r"_s([-+.\de]+)(?:_cap([-+.\de]+))?(?:_bias(relative))?(?:_out(untouched))?"
                r"(?:_lse([a-z]+\d+))?",
                text,
            )
        )
        sizes = int(heads), int(kv_heads), int(head_dim)
        cap = None if softcap is None else float(softcap)
        written = output or "zero"
        return cls(mask_mode, *sizes, dtype, float(scale), lse_dtype or dtype, cap, bias, written)


@dataclass(frozen=True)
class Kernel:
    """A kernel and the calls that it serves.

    Parameters
    ----------
    device : str
        PyTorch's device type: ``cpu`` or ``cuda``.
    spec : Spec
        What it computes.
    shape : tuple[int, int, int], optional
        The one (batch, qo_len, kv_len) that it serves; absent where it serves all.
    symbol : str
        Its name in the library.
    views : bool
        Whether query, key and value may be views, whose last dimension alone is dense.
    takes_longest : bool
        Whether a call of packed sequences says how long the longest is: ``max_seqlen_q``.
    """

    device: str
    spec: Spec
    shape: tuple[int, int, int] | None
    symbol: str
    views: bool = False
    takes_longest: bool = False

    def __str__(self) -> str:
        where = "every shape" if self.shape is None else "batch {} x {} x {}".format(*self.shape)
        return f"{self.device}: {self.spec}: {where}"


def parse_shape(text: str) -> tuple[int, int, int]:
    """Read a manifest's text.

    >>> parse_shape("b4_q128_kv256")
    (4, 128, 256)
    """
    batch, qo_len, kv_len = _fields(r"b(\d+)_q(\d+)_kv(\d+)", text)
    return int(batch), int(qo_len), int(kv_len)


def _fields(pattern: str, text: str) -> tuple[Any, ...]:
    """The groups of a pattern that is all of a text; None for those that are left out."""
    found = re.fullmatch(pattern, text)
    if found is None:
        raise InvalidLibraryError(
            f"{text!r} in a manifest has not the form {pattern}; build the library again with "
            "the version that loads it"
        )
    return found.groups()
