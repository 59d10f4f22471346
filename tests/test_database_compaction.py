from __future__ import annotations

import base64
import json
import struct

import pytest
import tvm
import tvm_ffi
from database_fixtures import description
from tvm import relax
from tvm.s_tir import meta_schedule as ms
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from prefilltune.database.compaction import compact_graph, compact_workload
from prefilltune.database.errors import MalformedWorkloadError


def serialised(module) -> list[str]:
    return [str(part) for part in ms.database.Workload(module).as_json()]


def nodes(text: str) -> list[dict]:
    return json.loads(base64.b64decode(text)[8:])["nodes"]


def encoded(body: bytes) -> str:
    return base64.b64encode(struct.pack("<Q", len(body)) + body).decode()


@pytest.fixture(scope="module")
def workload() -> list[str]:
    return serialised(description())


def test_a_real_workload_keeps_its_meaning_and_loses_its_weight(workload):
    text = compact_workload(workload[1])
    loaded = ms.database.Workload.from_json([workload[0], text]).mod
    tvm.ir.assert_structural_equal(loaded, description())
    assert str(tvm_ffi.structural_hash(loaded)) == workload[0]
    assert loaded.script() == description().script()
    assert len(text) < len(workload[1]) / 3
    assert len(text) < 100_000


def test_no_source_and_no_path_is_left(workload):
    assert b".py" in base64.b64decode(workload[1])  # or this test would prove nothing
    text = compact_workload(workload[1])
    kinds = {node["type"] for node in nodes(text)}
    assert kinds.isdisjoint({"ir.Span", "ir.SourceName"})
    assert b".py" not in base64.b64decode(text)
    assert b"/" not in base64.b64decode(text)


def test_constants_are_there_once_and_variables_as_often_as_before(workload):
    def texts(kind, text):
        return [json.dumps(node) for node in nodes(text) if node["type"] == kind]

    text = compact_workload(workload[1])
    for kind in ("ir.IntImm", "ffi.String", "int", "ir.FloatImm", "ir.PrimType"):
        assert len(set(texts(kind, text))) == len(texts(kind, text)) > 0
    for kind in ("ir.Var", "tirx.For", "s_tir.SBlock", "tirx.IterVar"):
        assert len(texts(kind, text)) == len(texts(kind, workload[1])) > 0


def test_variables_of_equal_name_stay_apart():
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((8,), "float32")):
        for i in range(8):
            a[i] = T.float32(1)
        for i in range(8):
            a[i] = a[i] + T.float32("inf") * T.float32(1)

    module = tvm.IRModule({"main": main})
    hash_, text = serialised(module)
    loaded = ms.database.Workload.from_json([hash_, compact_workload(text)]).mod
    tvm.ir.assert_structural_equal(loaded, module)
    first, second = (
        loaded["main"].body.seq
        if hasattr(loaded["main"].body, "seq")
        else (loaded["main"].body.block.body.seq)
    )
    assert not first.loop_var.same_as(second.loop_var)


def test_relax_and_tensor_constants_survive():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((2, "n"), "float32")) -> R.Tensor((2, "n"), "float32"):
            return R.add(x, R.const([[1.0], [2.0]], "float32"))

    assert isinstance(Module["main"], relax.Function)
    hash_, text = serialised(Module)
    loaded = ms.database.Workload.from_json([hash_, compact_workload(text)]).mod
    tvm.ir.assert_structural_equal(loaded, Module)


def test_compacting_twice_changes_nothing(workload):
    text = compact_workload(workload[1])
    assert compact_workload(text) == text


def test_1_and_true_and_1_0_are_not_merged():
    values = [{"type": "int", "data": 1}, {"type": "bool", "data": True},
              {"type": "float", "data": 1.0}, {"type": "int", "data": 1}]  # fmt: skip
    graph = {"root_index": 4, "nodes": [*values, {"type": "ffi.Array", "data": [0, 1, 2, 3]}]}
    result = compact_graph(graph)
    array = result["nodes"][result["root_index"]]["data"]
    assert [result["nodes"][index]["data"] for index in array] == [1, True, 1.0, 1]
    assert len(set(array)) == 3
    assert [type(result["nodes"][index]["data"]) for index in array] == [int, bool, float, int]


@pytest.mark.parametrize(
    "text",
    ["not base64!", "", "AAAA", encoded(b"[]")[:-4], encoded(b"\xff"),
     base64.b64encode(struct.pack("<Q", 99) + b"{}").decode()],
)  # fmt: skip
def test_what_is_not_a_workload_is_refused(text):
    with pytest.raises(MalformedWorkloadError):
        compact_workload(text)


@pytest.mark.parametrize(
    "node",
    [
        {"type": "no.SuchType", "data": {}},
        {"type": "ir.PrimType", "data": {"dtype": "int32", "unheard_of": 0}},
        {"type": "ir.PrimType", "data": 3},
        {"type": "ir.Op", "data": {"name": 0}},
        {"type": "ffi.Array", "data": [7]},
    ],
)
def test_a_doubt_is_an_error(node):
    with pytest.raises(MalformedWorkloadError):
        compact_graph({"root_index": 1, "nodes": [{"type": "None"}, node]})
