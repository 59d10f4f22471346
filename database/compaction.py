"""Smaller serialised workloads: no source spans (and so no paths of machines), constants once.

TVM serialises a module as a graph: a list of nodes, children before parents. Whether a number
in a node is a reference or a value depends on the static type of the reflected field, the same
rule as in ``ObjectGraphSerializer`` of tvm-ffi (``src/ffi/extra/serialization.cc``).
"""

from __future__ import annotations

import base64
import functools
import json
import struct
from collections.abc import Callable
from typing import Any

from .errors import MalformedWorkloadError

# Immutable values whose identity TVM never looks at: two equal ones can be one. Variables,
# buffers and statements are not among them, and never must be.
MERGEABLE = frozenset({
    "None", "bool", "int", "float", "DataType", "ffi.String", "ffi.Array", "ffi.Map",
    "ir.IntImm", "ir.FloatImm", "ir.PrimType", "ir.Range",
})  # fmt: skip
VALUE_TYPES = frozenset({
    "bool", "int", "float", "DataType", "Device", "ffi.String", "ffi.Bytes", "ffi.Shape",
})  # fmt: skip
SEQUENCE_TYPES = frozenset({"ffi.Array", "ffi.List", "ffi.Map", "ffi.Dict"})
# kTVMFFI None, Int, Bool, Float and DataType: fields that hold a value and not a reference
VALUE_FIELD_TYPE_INDICES = frozenset((0, 1, 2, 3, 5))

# Emitted first, so that dropped fields can refer to them.
NONE_NODE, NONE_INDEX = {"type": "None"}, 0
EMPTY_MAP_NODE, EMPTY_MAP_INDEX = {"type": "ffi.Map", "data": []}, 1


def compact_workload(text: str) -> str:
    """Compact the second field of a line of ``workloads.json``.

    Parameters
    ----------
    text : str
        Base64 of an 8-byte little-endian length and a JSON graph of an IRModule.

    Returns
    -------
    str
        In the form of ``text``. TVM loads it to a structurally equal module; compacting it again
        changes nothing.

    Raises
    ------
    MalformedWorkloadError
        If ``text`` is not of this form, holds a type whose references are not known for certain,
        or would not load to an equal module.
    """
    import tvm_ffi
    from tvm_ffi import serialization  # lazily: see replay

    before = _decode(text)
    try:
        old = serialization.from_json_graph_str(before)
        after = json.dumps(compact_graph(json.loads(before)), separators=(",", ":"))
        new = serialization.from_json_graph_str(after)
    except MalformedWorkloadError:
        raise
    except Exception as error:  # TVM raises any Python class
        raise MalformedWorkloadError(f"TVM cannot load a workload: {error}; report it") from error
    same_hash = tvm_ffi.structural_hash(old) == tvm_ffi.structural_hash(new)
    if not (same_hash and tvm_ffi.structural_equal(old, new)):
        raise MalformedWorkloadError("a compacted workload would differ from its origin; report it")
    return base64.b64encode(struct.pack("<Q", len(after)) + after.encode()).decode()


def compact_graph(graph: dict[str, Any]) -> dict[str, Any]:
    """Compact a JSON graph of tvm-ffi (``{"root_index": ..., "nodes": [...]}``).

    Raises
    ------
    MalformedWorkloadError
        If it holds a type whose references are not known for certain.
    """
    old_nodes, root = graph["nodes"], graph["root_index"]
    needed = {root}
    for index in range(root, -1, -1):  # children come before parents
        if index in needed:
            _map_references(old_nodes[index], needed.add)

    nodes: list[dict[str, Any]] = []
    merged: dict[str, int] = {}

    def emit(node: dict[str, Any]) -> int:
        index = len(nodes)
        if node["type"] in MERGEABLE:
            # The JSON text tells 1, 1.0 and true apart; a dictionary key of values would not.
            index = merged.setdefault(json.dumps(node, sort_keys=True), index)
        if index == len(nodes):
            nodes.append(node)
        return index

    emit(NONE_NODE)
    emit(EMPTY_MAP_NODE)
    new_index: dict[int, int] = {}
    for index in sorted(needed):
        try:
            new_index[index] = emit(_map_references(old_nodes[index], new_index.__getitem__))
        except KeyError as error:
            raise MalformedWorkloadError(
                f"node {index} of a graph refers to node {error}, which does not come before it; "
                "report it"
            ) from error
    return {**graph, "root_index": new_index[root], "nodes": nodes}


def _decode(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
        (length,) = struct.unpack_from("<Q", raw)
        body = raw[8:].decode()
    except (ValueError, struct.error) as error:
        raise MalformedWorkloadError(f"a workload is not base64 of UTF-8: {error}") from error
    if length != len(raw) - 8:
        raise MalformedWorkloadError(
            f"a workload holds {len(raw) - 8} bytes; its header says {length}: it was cut"
        )
    return body


def _map_references(node: dict[str, Any], change: Callable[[int], Any]) -> dict[str, Any]:
    """The node with each reference changed and its span dropped."""
    kind = node["type"]
    if kind == "None" or kind in VALUE_TYPES:
        return node
    data = node["data"]
    if kind in SEQUENCE_TYPES:
        return {"type": kind, "data": [change(child) for child in data]}
    if kind == "ir.SourceMap":  # source texts and paths of a parsed module
        return {"type": kind, "data": {"source_map": EMPTY_MAP_INDEX}}
    is_reference, has_own_form = _fields(kind)
    if has_own_form and isinstance(data, str):
        return node
    if has_own_form or not isinstance(data, dict) or not data.keys() <= is_reference.keys():
        raise MalformedWorkloadError(
            f"node type {kind!r} is serialised in an unknown way: {str(data)[:80]}; teach it to "
            f"{__name__}"
        )
    fields = {name: value for name, value in data.items() if name != "span"}
    changed = {name: change(v) if is_reference[name] else v for name, v in fields.items()}
    if "span" in data:
        changed["span"] = NONE_INDEX
    return {"type": kind, "data": changed}


@functools.cache
def _fields(type_key: str) -> tuple[dict[str, bool], bool]:
    """Whether each field of a type is a reference, and whether the type has its own text form."""
    import tvm  # noqa: F401  # registers the types
    from tvm_ffi import core

    # tvm-ffi has no public way to the reflected fields; the package pins its minor version.
    try:
        info = core._lookup_or_register_type_info_from_type_key(type_key)
    except ValueError as error:
        raise MalformedWorkloadError(f"this TVM knows no node type {type_key!r}") from error
    opaque = core._lookup_type_attr(info.type_index, "__data_to_json__") is not None
    fields: dict[str, bool] = {}
    level: Any = info
    while level is not None:
        for field in level.fields or ():
            fields[field.name] = field.field_static_type_index not in VALUE_FIELD_TYPE_INDICES
        level = level.parent_type_info
    return fields, opaque
