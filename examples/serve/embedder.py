"""Sequences of token ids become vectors, padded or packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .pooling import Pooling

Sequences = Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Embedder:
    """A model, with what comes before and behind it.

    Parameters
    ----------
    name : str
        What clients call it.
    model : PreTrainedModel
        An encoder or a decoder, whose output has a ``last_hidden_state``.
    tokenize : Callable
        Texts to token ids, those that begin and end a sequence included.
    max_length : int
        The most tokens of a sequence.
    packed : bool
        Whether sequences lie one behind another, which the model's attention has to know, or are
        filled up to the longest.
    """

    name: str
    model: Any
    tokenize: Callable[[Sequence[str]], list[list[int]]]
    pooling: Pooling
    max_length: int
    packed: bool

    @property
    def size(self) -> int:
        """Of a vector."""
        return self.model.config.hidden_size

    @torch.inference_mode()
    def embed(self, sequences: Sequences) -> np.ndarray:
        """Vectors ``[sequences, size]`` float32."""
        device = self.model.device
        lens = torch.tensor([len(ids) for ids in sequences])
        offsets = torch.nn.functional.pad(lens.cumsum(0), (1, 0)).int().to(device)
        if self.packed:
            rows = self._packed_rows(sequences, lens, offsets)
        else:
            rows = self._padded_rows(sequences, lens)
        return self.pooling(rows, offsets).cpu().numpy()

    def _packed_rows(self, sequences: Sequences, lens: Any, offsets: Any) -> Any:
        """Hidden states ``[total, size]``, with the keywords of transformers' FlashAttention."""
        ids = torch.tensor([token for each in sequences for token in each])
        begins = (lens.cumsum(0) - lens).repeat_interleave(lens)
        positions = torch.arange(len(ids)) - begins + first_position(self.model)
        longest = int(lens.max())
        output = self.model(
            input_ids=ids[None].to(self.model.device),
            position_ids=positions[None].to(self.model.device),
            cu_seq_lens_q=offsets,
            cu_seq_lens_k=offsets,
            max_length_q=longest,
            max_length_k=longest,
        )
        return output.last_hidden_state[0]

    def _padded_rows(self, sequences: Sequences, lens: Any) -> Any:
        """The same, of a batch that is filled up."""
        pad = self.model.config.pad_token_id or 0
        tensors = [torch.tensor(each) for each in sequences]
        ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad)
        valid = (torch.arange(ids.shape[1]) < lens[:, None]).to(self.model.device)
        output = self.model(input_ids=ids.to(self.model.device), attention_mask=valid.long())
        return output.last_hidden_state[valid]


def first_position(model: Any) -> int:
    """What positions are counted from: in models of RoBERTa's kind, from behind the padding's."""
    embeddings: Any = getattr(model, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        return embeddings.padding_idx + 1
    return 0
