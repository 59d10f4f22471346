"""Embeddings of a model over HTTP, in OpenAI's form."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
import typer
import uvicorn

import prefilltune.transformers
from prefilltune.torch.errors import PrefillError

from . import pooling
from .app import create_app
from .batching import Limits
from .embedder import Embedder
from .loading import LoadingError, load, make_random
from .pooling import Pooling, PoolingError


class Usual(NamedTuple):
    """What a kind of device does well."""

    dtype: str
    batch_tokens: int


USUAL = {"cpu": Usual("float32", 1024), "cuda": Usual("bfloat16", 16384)}

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command(help=__doc__)
def serve(
    model: Annotated[
        str, typer.Argument(help="A preset such as bge-base, a name on the hub, or a folder.")
    ] = "bge-base",
    random: Annotated[
        bool, typer.Option("--random", help="Random weights of a preset's sizes; no network.")
    ] = False,
    attention: Annotated[
        Literal["prefilltune", "sdpa"], typer.Option(help="prefilltune: packed; sdpa: padded.")
    ] = "prefilltune",
    library: Annotated[
        Path | None, typer.Option(help="What `prefilltune build --layout packed` wrote.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(help="A database besides the committed records.")
    ] = None,
    kind: Annotated[
        Literal["cls", "mean", "last"] | None,
        typer.Option("--pooling", help="When absent, as the model's files say."),
    ] = None,
    normalize: Annotated[
        bool | None, typer.Option(help="Vectors of length 1; when absent, as the files say.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=3, help="Tokens of a sequence; at most the model's own.")
    ] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut longer texts, instead of an error.")
    ] = False,
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Of a batch; when absent, 1024 on a CPU and 16384 on a GPU."),
    ] = None,
    wait_ms: Annotated[
        float, typer.Option(min=0, help="How long a text waits for others, when nothing runs.")
    ] = Limits.wait * 1e3,
    queued_tokens: Annotated[
        int, typer.Option(min=1, help="Requests are refused (429) while more wait.")
    ] = Limits.queued_tokens,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(help="When absent, float32 on a CPU, bfloat16 on a GPU."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; when absent, a GPU if there is one.")
    ] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    usual = USUAL["cuda" if where.startswith("cuda") else "cpu"]
    is_packed = attention == "prefilltune"
    try:
        loaded = (make_random if random else load)(model, max_length, truncate)
        pools = _pooling(model, loaded.pooling, kind, normalize)
        network = loaded.model.to(where, getattr(torch, dtype or usual.dtype)).eval()
        network.config.use_cache = False
        _set_attention(network, is_packed, library, records)
    except (LoadingError, PoolingError, PrefillError) as error:
        raise typer.BadParameter(str(error)) from error
    embedder = Embedder(model, network, loaded.tokenize, pools, loaded.max_length, is_packed)
    embedder.embed([[0] * min(16, loaded.max_length)] * 2)
    if is_packed:
        report = prefilltune.transformers.report(network)
        served, left = (sum(each.values()) for each in (report.served, report.handed_over))
        # What is left to SDPA, and why, is a warning already.
        typer.echo(f"attention: kernels serve {served} of {served + left} layers")
    limits = Limits(batch_tokens or usual.batch_tokens, wait_ms / 1e3, queued_tokens)
    uvicorn.run(create_app(embedder, limits), host=host, port=port, access_log=False)


def _pooling(name: str, found: Pooling | None, kind: str | None, normalize: bool | None) -> Pooling:
    """As options say, and of what they do not say, as the model's files say."""
    kind = kind or (found and found.kind)
    if kind is None:
        raise PoolingError(
            f"the files of {name} do not say how to pool: pass --pooling, one of "
            f"{', '.join(pooling.KINDS)}"
        )
    return Pooling(kind, (found is None or found.normalize) if normalize is None else normalize)


def _set_attention(model: Any, is_packed: bool, library: Path | None, records: Path | None) -> None:
    if is_packed:
        prefilltune.transformers.enable(model, library, records=records, layout="packed")
    else:
        model.set_attn_implementation("sdpa")


if __name__ == "__main__":
    cli()
