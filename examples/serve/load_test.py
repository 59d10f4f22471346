"""Throughput and latency of the server, packed and padded, in turns::

    make loadtest
    python -m examples.serve.load_test --output measured.json

Starts the server twice on this machine, with `--attention prefilltune` and with `--attention sdpa`.
In each round, after one that is not counted, the one and then the other gets the same texts, from
so many clients that each wait for an answer before they ask again. Lengths are drawn from a
histogram: that of `lengths.csv`, unless another is given. On a GPU, give a request many texts: one
of each is more work for HTTP than for the model.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import httpx2
import torch
import typer
from rich.console import Console
from rich.table import Table

from prefilltune.workloads import parse_lengths

ATTENTIONS = ("prefilltune", "sdpa")
#: One token each, of any English vocabulary.
WORDS = """
    the of and to in is was for that with as on by at from his it an were are which this also be or
    has had first one their its new after but who not they have her she two been other when there
    all during into school time may years more most only over city some world would where later
    up such used many can state about national out known university united then made
"""
START_SECONDS = 600  # a library may be built before
MOST_COMPARED = 64  # vectors of both servers

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Answer:
    """Of one request."""

    seconds: float
    texts: int
    tokens: int


async def ask(url: str, requests: Sequence[Sequence[str]], clients: int) -> list[Answer]:
    """Answers to requests of texts, from so many clients that each wait for theirs."""
    upcoming = iter(requests)
    answers = []

    async def one(client: httpx2.AsyncClient) -> None:
        for texts in upcoming:
            start = time.perf_counter()
            body = {"input": texts, "encoding_format": "base64"}
            response = await client.post(f"{url}/v1/embeddings", json=body)
            response.raise_for_status()
            seconds = time.perf_counter() - start
            tokens = response.json()["usage"]["total_tokens"]
            answers.append(Answer(seconds, len(texts), tokens))

    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(timeout=START_SECONDS, limits=limits) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))
    return answers


def measured(url: str, requests: Sequence[Sequence[str]], clients: int) -> dict[str, float]:
    """A turn of one server."""
    start = time.perf_counter()
    answers = asyncio.run(ask(url, requests, clients))
    seconds = time.perf_counter() - start
    hundredths = statistics.quantiles((each.seconds for each in answers), n=100)
    return {
        "sequences_per_second": round(sum(each.texts for each in answers) / seconds, 2),
        "tokens_per_second": round(sum(each.tokens for each in answers) / seconds, 1),
        "p50_ms": round(hundredths[49] * 1e3, 1),
        "p99_ms": round(hundredths[98] * 1e3, 1),
        "load_average": round(os.getloadavg()[0], 2),
    }


def make_texts(lens: str, longest: int, count: int) -> list[str]:
    """Texts whose lengths, with two tokens at their ends, are drawn from a distribution."""
    drawn = parse_lengths(lens).sample(count, longest, 0)
    chosen, words = random.Random(0), WORDS.split()
    return [" ".join(chosen.choices(words, k=max(1, int(length) - 2))) for length in drawn]


@contextmanager
def running(attention: str, options: Sequence[str], log: Path) -> Iterator[str]:
    """A server in a process of its own; its address, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "examples.serve", *options]
    command += ["--attention", attention, "--port", port]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, server, log)
            yield url
        finally:
            server.terminate()
            server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        try:
            httpx2.get(f"{url}/health").raise_for_status()
        except httpx2.TransportError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"the server has not started:\n{log.read_text()}")


def largest_difference(urls: Sequence[str], texts: Sequence[str]) -> float:
    """Between the servers' vectors of the same texts, in any number of a vector."""
    found = []
    for url in urls:
        body = {"input": texts, "encoding_format": "float"}
        response = httpx2.post(f"{url}/v1/embeddings", json=body, timeout=START_SECONDS)
        found.append([each["embedding"] for each in response.raise_for_status().json()["data"]])
    pairs = zip(*found, strict=True)
    return max(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True))


def batch_means(url: str) -> dict[str, float]:
    """Of all batches so far, from the server's metrics."""
    lines = httpx2.get(f"{url}/metrics").raise_for_status().text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    found = {}
    for name in ("sequences", "tokens"):
        total, count = (
            float(values[f"prefilltune_batch_{name}_{end}"]) for end in ("sum", "count")
        )
        found[f"mean_batch_{name}"] = round(total / count, 1)
    return found


def compared(
    options: Sequence[str], requests: Sequence[Sequence[str]], clients: int, rounds: int
) -> dict[str, Any]:
    """Both servers in turns."""
    turns: dict[str, list[dict[str, float]]] = {each: [] for each in ATTENTIONS}
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {
            each: stack.enter_context(running(each, options, logs / each)) for each in ATTENTIONS
        }
        some = list(itertools.chain(*requests[:clients]))[:MOST_COMPARED]
        difference = largest_difference(list(urls.values()), some)
        for each in ATTENTIONS:  # not counted: libraries choose their kernels for sizes seen first
            measured(urls[each], requests, clients)
        for turn in range(rounds):
            # The other one first each time, so that neither always comes behind the same.
            for attention in ATTENTIONS if turn % 2 == 0 else ATTENTIONS[::-1]:
                found = measured(urls[attention], requests, clients)
                turns[attention].append(found)
                typer.echo(f"round {turn + 1} {attention:12} {found}", err=True)
        batches = {each: batch_means(url) for each, url in urls.items()}
        said = (logs / ATTENTIONS[0]).read_text().splitlines()
    pairs = zip(*(turns[each] for each in ATTENTIONS), strict=True)
    ratios = [one["sequences_per_second"] / two["sequences_per_second"] for one, two in pairs]
    medians = {
        each: {
            name: round(statistics.median(turn[name] for turn in its_turns), 2)
            for name in ("sequences_per_second", "tokens_per_second", "p50_ms", "p99_ms")
        }
        | batches[each]
        for each, its_turns in turns.items()
    }
    return {
        "attention": next(line for line in said if line.startswith("attention: ")),
        "largest_difference": difference,
        "times_as_many_sequences": round(statistics.median(ratios), 3),
        "medians": medians,
        "rounds": turns,
    }


def machine() -> dict[str, Any]:
    """What was measured on."""
    gpu = {"device": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        **gpu,
        "processor": next(names, platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("torch", "transformers", "fastapi")},
    }


#: Rows of the table: what is measured, and its name in a run's medians.
ROWS = {
    "sequences/s": "sequences_per_second",
    "tokens/s": "tokens_per_second",
    "latency, p50, ms": "p50_ms",
    "latency, p99, ms": "p99_ms",
    "sequences in a batch": "mean_batch_sequences",
}


def side_by_side(model: str, run: dict[str, Any]) -> Table:
    """What :func:`compared` found, for people."""
    table = Table(
        title=f"{model}, batches of {run['batch_tokens']} tokens, medians of turns",
        caption=f"packed, {run['times_as_many_sequences']} times as many sequences a second",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("", "packed, prefilltune", "padded, SDPA"):
        table.add_column(column, justify="right" if table.columns else "left")
    for said, name in ROWS.items():
        table.add_row(said, *(f"{run['medians'][each][name]:g}" for each in ATTENTIONS))
    return table


@cli.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def main(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="As the server takes it.")] = "bge-base",
    pretrained: Annotated[bool, typer.Option(help="Instead of random weights.")] = False,
    lens: Annotated[
        str, typer.Option(help="Of sequences, in tokens: histogram:FILE, uniform:0.1-1, ...")
    ] = f"histogram:{Path(__file__).with_name('lengths.csv')}",
    longest: Annotated[int, typer.Option(help="Longer ones are cut to it.")] = 512,
    clients: Annotated[int, typer.Option(min=1, help="That ask at a time.")] = 32,
    requests: Annotated[int, typer.Option(min=2, help="Of a turn.")] = 96,
    texts: Annotated[int, typer.Option(min=1, help="Of a request.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each server.")] = 3,
    batch_tokens: Annotated[
        list[int], typer.Option(help="Of a batch, as the server takes it; repeat for more.")
    ] = [1024],  # noqa: B006
    output: Annotated[Path | None, typer.Option(help="A file for all figures, as JSON.")] = None,
) -> None:
    """Throughput and latency of the server, packed and padded, in turns.

    Further options go to the server, such as --records FOLDER.
    """
    drawn = make_texts(lens, longest, requests * texts)
    asked = [drawn[start : start + texts] for start in range(0, len(drawn), texts)]
    options = [model, *([] if pretrained else ["--random"]), *context.args]
    runs = [
        {"batch_tokens": tokens}
        | compared([*options, "--batch-tokens", str(tokens)], asked, clients, rounds)
        for tokens in batch_tokens
    ]
    report = {
        **machine(),
        "model": model,
        "weights": "pretrained" if pretrained else "random",
        "lens": parse_lengths(lens).text,
        "longest": longest,
        "clients": clients,
        "requests": requests,
        "texts_of_a_request": texts,
        "runs": runs,
    }
    if output is not None:
        output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for run in runs:
        Console().print(side_by_side(model, run))


if __name__ == "__main__":
    cli()
