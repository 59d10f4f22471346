"""How the rows of a sequence become its vector, and where sentence-transformers wrote it down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

KINDS = ("cls", "mean", "last")
#: Of `1_Pooling/config.json`, as versions of sentence-transformers have written it.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_NAMES = {"cls": "cls", "mean": "mean", "lasttoken": "last"}


class PoolingError(ValueError):
    """It is not known how a model pools, or it is not served."""


@dataclass(frozen=True)
class Pooling:
    """The first row (``cls``), the ``last``, or the ``mean``; of length 1 if normalized."""

    kind: str
    normalize: bool = True

    def __call__(self, rows: Any, offsets: Any) -> Any:
        """Vectors ``[sequences, size]`` float32.

        Parameters
        ----------
        rows : torch.Tensor
            ``[total, size]``: the sequences one behind another.
        offsets : torch.Tensor
            ``[sequences + 1]``: where each begins, and the total at the end.
        """
        if self.kind == "cls":
            vectors = rows[offsets[:-1]]
        elif self.kind == "last":
            vectors = rows[offsets[1:] - 1]
        else:
            vectors = torch.segment_reduce(rows.float(), "mean", offsets=offsets.long(), axis=0)
        vectors = vectors.float()
        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


def read_pooling(folder: Path) -> Pooling | None:
    """What the files of sentence-transformers in a model's folder say; None without such files.

    Raises
    ------
    PoolingError
        If the model does something else with hidden states than is served here.
    """
    modules = _json(folder / "modules.json")
    if modules is None:
        return None
    kinds = {each["type"].rpartition(".")[2]: each["path"] for each in modules}
    others = kinds.keys() - {"Transformer", "Pooling", "Normalize"}
    if others:
        raise PoolingError(
            f"{folder / 'modules.json'} has {', '.join(sorted(others))}: only models of a "
            "Transformer, a Pooling and a Normalize are served"
        )
    pooling = _json(folder / kinds.get("Pooling", "1_Pooling") / "config.json") or {}
    named = pooling.get("pooling_mode")
    found = [kind for flag, kind in _FLAGS.items() if pooling.get(flag)]
    others = [flag for flag, on in pooling.items() if _is_mode(flag) and on and flag not in _FLAGS]
    if named in _NAMES:
        found = [_NAMES[named]]
    if len(found) != 1 or others:
        raise PoolingError(
            f"{folder} pools by {named or [*found, *others]}: {', '.join(KINDS)} are served, one "
            "of them; --pooling says which, whatever the file says"
        )
    return Pooling(found[0], "Normalize" in kinds)


def read_max_length(folder: Path) -> int | None:
    """The most tokens of a sequence, as sentence-transformers' file says."""
    return (_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length")


def _is_mode(flag: str) -> bool:
    return flag.startswith("pooling_mode_")


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
