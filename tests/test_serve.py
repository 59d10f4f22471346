"""The example server: what it answers, how it makes batches, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import doctest
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch", reason="needs the extra [serve]")
transformers: Any = pytest.importorskip("transformers", reason="needs the extra [serve]")
pytest.importorskip("fastapi", reason="needs the extra [serve]")
uvicorn: Any = pytest.importorskip("uvicorn", reason="needs the extra [serve]")
httpx2: Any = pytest.importorskip("httpx2", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="needs the extra [serve]")

from fastapi.testclient import TestClient  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from examples.serve import __main__ as command  # noqa: E402
from examples.serve import load_test, loading  # noqa: E402
from examples.serve.app import create_app  # noqa: E402
from examples.serve.batching import Batcher, ClosedError, Limits, OverloadedError  # noqa: E402
from examples.serve.embedder import Embedder  # noqa: E402
from examples.serve.metrics import Metrics  # noqa: E402
from examples.serve.pooling import Pooling, PoolingError, read_pooling  # noqa: E402

COMMON = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 1,
}
CONFIGS = {
    "bert": transformers.BertConfig(**COMMON),
    "xlm_r": transformers.XLMRobertaConfig(**COMMON),
    "modernbert": transformers.ModernBertConfig(
        **{**COMMON, "local_attention": 4, "cls_token_id": 2, "sep_token_id": 3}
    ),
    "qwen3": transformers.Qwen3Config(**COMMON, num_key_value_heads=1, head_dim=16),
}
SEQUENCES = [[5, 6, 7, 8, 9], [10], [11, 12, 13]]


def embedder(name: str = "bert", kind: str = "cls", is_packed: bool = True) -> Embedder:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(CONFIGS[name]).eval()
    model.config.use_cache = False
    model.set_attn_implementation("prefilltune" if is_packed else "sdpa")
    tokenize = loading.HashTokenizer(COMMON["vocab_size"])
    return Embedder("small", model, tokenize, Pooling(kind), 30, is_packed)


def directly(made: Embedder, ids: Sequence[int]) -> np.ndarray:
    """A sequence's vector without packing, padding or offsets."""
    made.model.set_attn_implementation("eager")
    with torch.inference_mode():
        rows = made.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    kinds = {"cls": rows[0], "last": rows[-1], "mean": rows.mean(0)}
    vector = kinds[made.pooling.kind]
    return (vector / vector.norm()).numpy()


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bert", "cls"),
        ("bert", "mean"),
        ("xlm_r", "mean"),
        ("modernbert", "mean"),
        ("qwen3", "last"),
    ],
)
def test_vectors_are_those_of_each_sequence_alone(name: str, kind: str, is_packed: bool) -> None:
    made = embedder(name, kind, is_packed)
    vectors = made.embed(SEQUENCES)
    expected = [directly(made, ids) for ids in SEQUENCES]
    np.testing.assert_allclose(vectors, expected, atol=2e-6)
    assert vectors.shape == (3, made.size)


class Counting:
    """The length of each sequence as its vector; what batches there were."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def __call__(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        self.batches.append([len(ids) for ids in sequences])
        assert self.may_go.wait(10)
        if any(-1 in ids for ids in sequences):
            raise ArithmeticError("a sequence that cannot be computed")
        return np.array([[len(ids)] for ids in sequences], np.float32)


def batched(count: Any, limits: Limits, scenario: Any) -> Any:
    """Run a scenario with a batcher, and close that."""

    async def run() -> Any:
        batcher = Batcher(count, limits, Metrics())
        batches = asyncio.create_task(batcher.run())
        result = await scenario(batcher)
        batcher.close()
        await batches
        return result

    return asyncio.run(run())


def test_requests_at_one_time_share_batches_of_so_many_tokens() -> None:
    count = Counting()

    async def scenario(batcher: Batcher) -> Any:
        requests = ([[0] * 4, [0] * 3], [[0] * 2], [[0] * 9], [[0] * 12], [[0]])
        return await asyncio.gather(*map(batcher.submit, requests))

    # One that alone is too long is a batch, nothing overtakes, and none waits once there is enough.
    vectors = batched(count, Limits(tokens=10, wait=0.05), scenario)
    assert count.batches == [[4, 3, 2], [9], [12], [1]]
    assert [[float(each[0]) for each in vector] for vector in vectors] == [
        [4, 3], [2], [9], [12], [1]
    ]  # fmt: skip


def test_a_batch_holds_what_came_during_the_one_before() -> None:
    count = Counting()
    count.may_go.clear()

    async def scenario(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit([[0]]))
        while not count.batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.submit([[0] * length])) for length in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await batcher.submit([[0]])
        batcher.close()
        with pytest.raises(ClosedError):
            await batcher.submit([[0]])
        others[0].cancel()
        count.may_go.set()
        await asyncio.gather(first, others[1])  # what waits is computed, closed or not

    batched(count, Limits(wait=0, queued_tokens=4), scenario)
    assert count.batches == [[1], [2, 3]]


@pytest.fixture
def client() -> Iterator[Any]:
    with TestClient(create_app(embedder()), raise_server_exceptions=False) as made:
        yield made


def test_answers_have_the_form_of_openai(client: Any) -> None:
    made = embedder()
    body = {"input": ["one", "two more words"], "model": "small", "dimensions": 32, "user": "me"}
    answer = client.post("/v1/embeddings", json=body).raise_for_status().json()
    data = answer.pop("data")
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    assert answer == {"object": "list", "model": "small", "usage": usage}
    assert [(each["object"], each["index"]) for each in data] == [
        ("embedding", 0),
        ("embedding", 1),
    ]
    expected = [directly(made, ids) for ids in made.tokenize(body["input"])]
    np.testing.assert_allclose([each["embedding"] for each in data], expected, atol=2e-6)

    short = {"input": "two more words", "encoding_format": "base64"}
    (only,) = client.post("/v1/embeddings", json=short).json()["data"]
    decoded = np.frombuffer(base64.b64decode(only["embedding"]), "<f4")
    np.testing.assert_allclose(decoded, expected[1], atol=2e-6)

    assert client.get("/v1/models").json()["data"][0]["id"] == "small"
    assert client.get("/health").json() == {"status": "ok"}
    metrics = client.get("/metrics").text.splitlines()
    assert "prefilltune_batch_tokens_sum 13.0" in metrics
    assert "prefilltune_batch_sequences_sum 3.0" in metrics


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"input": ""}, 400, "input: text 0 is empty"),
        ({"input": ["a", " \n"]}, 400, "input: text 1 is empty"),
        ({"input": []}, 400, "input: 0 texts: give 1 to 2048"),
        ({"input": ["a"] * 2049}, 400, "input: 2049 texts"),
        ({"input": [1, 2]}, 400, "input: text 0 is of type int"),
        ({"input": None}, 400, "input: text 0 is of type NoneType"),
        ({}, 400, "input: Field required"),
        ([], 400, "the body: "),
        ({"input": ["a", "b " * 29]}, 400, "text 1 has 31 tokens, the model takes 30: shorten it"),
        ({"input": "a", "model": "large"}, 404, "there is no model 'large'"),
        ({"input": "a", "dimensions": 8}, 400, "vectors of small have 32 dimensions"),
        ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format: "),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    client: Any, body: Any, status: int, message: str
) -> None:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["message"].startswith(message)
    assert error["type"] == "invalid_request_error"


def test_a_batch_that_fails_is_an_error_of_its_requests_alone() -> None:
    made = embedder()
    object.__setattr__(made, "tokenize", lambda texts: [[int(text)] for text in texts])
    app = create_app(made, Limits(wait=0))
    with TestClient(app, raise_server_exceptions=False) as client:
        failed = client.post("/v1/embeddings", json={"input": "-1"})
        assert failed.status_code == 500
        assert failed.json()["error"]["type"] == "server_error"
        client.post("/v1/embeddings", json={"input": "5"}).raise_for_status()


@contextlib.contextmanager
def listening(app: Any) -> Iterator[tuple[Any, str]]:
    """A server on a port, and its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        yield server, f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def test_what_is_in_flight_is_answered_when_the_server_goes_down() -> None:
    made, count = embedder(), Counting()
    count.may_go.clear()
    object.__setattr__(made, "embed", count)
    with listening(create_app(made, Limits(wait=0))) as (server, url), ThreadPoolExecutor() as pool:
        asked = [
            pool.submit(httpx2.post, f"{url}/v1/embeddings", json={"input": text})
            for text in ("a", "b c")
        ]
        while len(server.server_state.tasks) < 2 or not count.batches:
            time.sleep(0.01)
        server.should_exit = True
        time.sleep(0.2)
        assert not any(each.done() for each in asked)
        count.may_go.set()
        assert [each.result().json()["usage"]["total_tokens"] for each in asked] == [3, 4]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/health")


def test_the_load_test_asks_what_it_says_and_reads_what_batches_there_were() -> None:
    texts = load_test.make_texts("fixed:4,7,30", 30, 6)
    with listening(create_app(embedder())) as (_, url):
        found = load_test.measured(url, [texts[:1], texts[1:4], texts[4:]], 2)
        batches = load_test.batch_means(url)
        assert load_test.largest_difference([url, url], texts) == pytest.approx(0, abs=1e-6)
    tokens = found["tokens_per_second"] / found["sequences_per_second"]
    assert tokens == pytest.approx(2 * (4 + 7 + 30) / 6, rel=0.01)
    assert 1 <= batches["mean_batch_sequences"] <= 3 + 2
    assert found["p50_ms"] <= found["p99_ms"]


@pytest.mark.parametrize(
    ("modules", "config", "expected"),
    [
        ("Transformer Pooling", {"pooling_mode_mean_tokens": True}, Pooling("mean", False)),
        (
            "Transformer Pooling Normalize",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            Pooling("cls", True),
        ),
        ("Transformer Pooling Normalize", {"pooling_mode": "lasttoken"}, Pooling("last", True)),
        ("Transformer Pooling", {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ("Transformer Pooling Dense", {"pooling_mode": "mean"}, "has Dense"),
        ("", {}, None),
    ],
)
def test_pooling_is_read_of_what_sentence_transformers_wrote(
    tmp_path: Path, modules: str, config: dict[str, Any], expected: Any
) -> None:
    if modules:
        named = [
            {"type": f"sentence_transformers.models.{each}", "path": f"1_{each}"}
            for each in modules.split()
        ]
        (tmp_path / "modules.json").write_text(json.dumps(named))
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    if isinstance(expected, str):
        with pytest.raises(PoolingError, match=expected):
            read_pooling(tmp_path)
    else:
        assert read_pooling(tmp_path) == expected


def unframed(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def saved(folder: Path) -> Path:
    """A model with a tokenizer, without anything of sentence-transformers."""
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "one", "two"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    embedder().model.save_pretrained(folder)
    return folder


def test_a_model_in_a_folder_is_served_and_longer_texts_are_cut_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []
    monkeypatch.setattr(command.uvicorn, "run", lambda app, **_: served.append(app))
    options = [str(saved(tmp_path)), "--attention", "sdpa", "--device", "cpu"]
    refused = CliRunner().invoke(command.cli, options)
    assert refused.exit_code == 2
    assert "do not say how to pool" in unframed(refused.stderr)
    options += ["--pooling", "mean", "--max-length", "6"]
    for more in ([], ["--truncate"]):
        assert CliRunner().invoke(command.cli, [*options, *more]).exit_code == 0
    long = {"input": "one two " * 4}
    with TestClient(served[0]) as strict, TestClient(served[1]) as cutting:
        assert strict.post("/v1/embeddings", json=long).status_code == 400
        answer = cutting.post("/v1/embeddings", json=long).raise_for_status().json()
        assert answer["usage"]["total_tokens"] == 6
        same = cutting.post("/v1/embeddings", json={"input": "one two one two"}).json()
        first, second = (each["data"][0]["embedding"] for each in (answer, same))
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_what_cannot_be_served_is_told_before_a_server_starts() -> None:
    for options, message in (
        (["no-such", "--random"], "the sizes of no-such are not known"),
        (["no/such/model"], "no/such/model is no folder"),
    ):
        refused = CliRunner().invoke(command.cli, options)
        assert refused.exit_code == 2
        assert message in unframed(refused.stderr)


def test_the_tokenizer_of_random_weights_does_as_its_docstring_says() -> None:
    assert doctest.testmod(loading).failed == 0
    assert loading.HashTokenizer(1000, 3)(["one two three"]) == [
        [98, *loading.HashTokenizer(1000)(["one"])[0][1:-1], 99]
    ]
