"""Models of the Hugging Face hub or of a folder, or of the same sizes with random weights."""

from __future__ import annotations

import copy
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    ModernBertConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from prefilltune.workloads.presets import load_presets

from .embedder import first_position
from .pooling import Pooling, read_max_length, read_pooling

_BERT: dict[str, Any] = {"vocab_size": 30522, "pad_token_id": 0}
_SMALL: dict[str, Any] = _BERT | {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_attention_heads": 12,
}
_QWEN3: dict[str, Any] = {
    "vocab_size": 151669,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


class LoadingError(ValueError):
    """A model cannot be served; it says what can be done."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model with its tokenizer, how it pools if that is known, and its longest sequence."""

    model: Any
    tokenize: Callable[[Sequence[str]], list[list[int]]]
    pooling: Pooling | None
    max_length: int


@dataclass(frozen=True, eq=False)
class Sizes:
    """Of a model on the hub, for random weights."""

    config: PreTrainedConfig
    pooling: Pooling
    max_length: int = 512


SIZES = {
    "bge-small": Sizes(BertConfig(**_SMALL), Pooling("cls")),
    "bge-base": Sizes(BertConfig(**_BERT), Pooling("cls")),
    "minilm-l6": Sizes(BertConfig(**_SMALL, num_hidden_layers=6), Pooling("mean"), 256),
    "modernbert-base": Sizes(ModernBertConfig(), Pooling("mean"), 8192),
    "qwen3-embedding-0.6b": Sizes(Qwen3Config(**_QWEN3), Pooling("last"), 32768),
}


@dataclass(frozen=True)
class HashTokenizer:
    """A token for each word, by a hash: of as little meaning as random weights.

    Parameters
    ----------
    vocabulary : int
        The first hundred tokens are no word's.
    limit : int, optional
        Longer sequences are cut.
    """

    vocabulary: int
    limit: int | None = None

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, between those that begin and end a sequence.

        >>> HashTokenizer(1000)(["Hello, world", "hello"])
        [[98, 470, 378, 631, 99], [98, 470, 99]]
        """
        inside = None if self.limit is None else self.limit - 2
        words = (re.findall(r"\w+|[^\w\s]", text.lower())[:inside] for text in texts)
        return [[98, *map(self._token, each), 99] for each in words]

    def _token(self, word: str) -> int:
        return 100 + zlib.crc32(word.encode()) % (self.vocabulary - 100)


def make_random(name: str, limit: int | None, truncate: bool) -> Loaded:
    """A model of the sizes of ``name``: the same weights every time.

    Raises
    ------
    LoadingError
        If its sizes are not known here.
    """
    if name not in SIZES:
        raise LoadingError(
            f"the sizes of {name} are not known: --random takes {', '.join(SIZES)}, or leave "
            "--random away to load it"
        )
    sizes = SIZES[name]
    torch.manual_seed(0)
    model = AutoModel.from_config(copy.deepcopy(sizes.config))  # which a model then has as its own
    longest = min(sizes.max_length, limit or sizes.max_length)
    tokenize = HashTokenizer(sizes.config.vocab_size, longest if truncate else None)
    return Loaded(model, tokenize, sizes.pooling, longest)


def load(name: str, limit: int | None, truncate: bool) -> Loaded:
    """A model by a preset's name, the hub's name or the path of a folder.

    Parameters
    ----------
    limit : int, optional
        The most tokens of a sequence, if it is less than what the model takes.
    truncate : bool
        Whether the tokenizer cuts longer ones.

    Raises
    ------
    LoadingError
        If it cannot be loaded, or is no model that is served.
    PoolingError
        If it pools in a way that is not served.
    """
    presets = load_presets()
    source = presets[name].model if name in presets else name
    folder = _folder(source)
    try:
        model, tokenizer = AutoModel.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise LoadingError(f"{source} cannot be loaded: {error}") from error
    if model.config.is_encoder_decoder:
        raise LoadingError(
            f"{source} is a {type(model).__name__}, an encoder with a decoder: pass an encoder or "
            "a decoder alone"
        )
    ends = (read_max_length(folder), tokenizer.model_max_length, _positions(model), limit)
    longest = min(end for end in ends if end is not None)
    cut = {"truncation": True, "max_length": longest} if truncate else {}

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(texts), verbose=False, **cut)["input_ids"]

    return Loaded(model, tokenize, read_pooling(folder), longest)


def _folder(source: str) -> Path:
    """With a model's configuration files, of which those of sentence-transformers are read."""
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, allow_patterns=["*.json"]))
    except (OSError, ValueError) as error:
        raise LoadingError(
            f"{source} is no folder, and the hub does not give it ({error}): pass the path of a "
            f"folder that has it, or --random with one of {', '.join(SIZES)}, for random weights"
        ) from error


def _positions(model: Any) -> int | None:
    """The most tokens that a model has positions for."""
    most = getattr(model.config, "max_position_embeddings", None)
    return None if most is None else most - first_position(model)
