"""ONNX Runtime's attention operators on a CPU, in float32: two of its own operator set.

``MultiHeadAttention`` takes a mask of keys, on either side, and a tensor that is added to scores;
``GroupQueryAttention`` takes lengths, grouped heads, windows to the left and softcaps, is causal,
and pads on the right alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from ....workloads import Inputs, PrefillShape, PrefillSpec
from ....workloads.choices import OPEN
from ....workloads.pairs import valid_positions
from ..comparison import MASKED
from .peer import NOT_INSTALLED, PeerKernel, Prepared, taking

#: Where these run in a comparison.
LIBRARY = "onnxruntime"

_PACKAGES = (LIBRARY, "onnx")
_DOMAIN = "com.microsoft"
_OPSETS = {"": 17, _DOMAIN: 1}
#: Of the format, which older versions read too.
_IR_VERSION = 9
_FLOATS = taking("bias", dtypes=("float32",))
_CAUSAL_FLOATS = taking("window", "softcap", dtypes=("float32",))


@dataclass(frozen=True, eq=False)
class ArrayProblem:
    """One batch in NumPy's arrays.

    Parameters
    ----------
    spec, shape
        The workload.
    inputs : Inputs
        Its tensors.
    threads : int
        That compute.
    """

    spec: PrefillSpec
    shape: PrefillShape
    inputs: Inputs
    threads: int

    @property
    def valid_lens(self) -> np.ndarray:
        """``[batch]`` int32."""
        return self.inputs.valid_lens

    @property
    def on_gpu(self) -> bool:
        """Never."""
        return False


def _lacks_multi_head(spec: PrefillSpec) -> str:
    if not all(map(find_spec, _PACKAGES)):
        return NOT_INSTALLED
    if spec.group_size > 1:
        return "takes no grouped heads"
    return _FLOATS(spec)  # which has no window but a causal one


def _lacks_grouped(spec: PrefillSpec) -> str:
    if not all(map(find_spec, _PACKAGES)):
        return NOT_INSTALLED
    _, right = spec.window
    return _CAUSAL_FLOATS(spec) if right == 0 else "takes only what is causal"


def _multi_head(problem: ArrayProblem) -> Prepared:
    spec, shape, inputs = problem.spec, problem.shape, problem.inputs
    mask = valid_positions(spec, inputs.valid_lens, shape.num_kv).astype(np.int32)
    constant = {"mask": mask}
    names = ["query", "key", "value", "", "mask"]
    if inputs.bias is not None:
        row, column = np.arange(shape.qo_len)[:, None], np.arange(shape.num_kv)
        constant["bias"] = inputs.bias[None, :, column - row + shape.qo_len - 1]
        names.append("bias")
    attributes = {
        "num_heads": spec.num_qo_heads, "scale": spec.scale,
        "unidirectional": int(spec.window != OPEN),
    }  # fmt: skip
    return _prepared(problem, "MultiHeadAttention", names, constant, attributes)


def _grouped(problem: ArrayProblem) -> Prepared:
    spec, shape, inputs = problem.spec, problem.shape, problem.inputs
    left, _ = spec.window
    attributes: dict[str, Any] = {
        "num_heads": spec.num_qo_heads, "kv_num_heads": spec.num_kv_heads, "scale": spec.scale,
        "softcap": spec.softcap or 0.0,
        "local_window_size": -1 if left is None else left + 1,  # with the row's own column
    }  # fmt: skip
    nothing = np.zeros((shape.batch, spec.num_kv_heads, 0, spec.head_dim), np.float32)
    constant = {
        "past_key": nothing, "past_value": nothing,
        "last": np.clip(inputs.valid_lens, 1, shape.num_kv).astype(np.int32) - 1,
        "length": np.array([shape.num_kv], np.int32),
    }  # fmt: skip
    names = ["query", "key", "value", *constant]
    return _prepared(problem, "GroupQueryAttention", names, constant, attributes)


def _prepared(
    problem: ArrayProblem,
    operator: str,
    names: list[str],
    constant: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
) -> Prepared:
    import onnxruntime  # pyright: ignore[reportMissingImports]  (extra [rivals])

    shape = problem.shape
    if problem.spec.window != OPEN and shape.qo_len != shape.num_kv:
        raise ValueError("causal attention of as many queries as keys alone")

    def bind(given: ArrayProblem) -> Callable[[], np.ndarray]:
        tensors = {
            "query": given.inputs.query,
            "key": given.inputs.key,
            "value": given.inputs.value,
        }
        feeds = {name: each.reshape(*each.shape[:2], -1) for name, each in tensors.items()}
        feeds |= constant
        sizes = tuple((name, each.dtype.name, each.shape) for name, each in feeds.items())
        output = np.zeros_like(feeds["query"])
        keys = (shape.batch, problem.spec.num_kv_heads, shape.num_kv, problem.spec.head_dim)
        outputs = {"output": output}
        if operator == "GroupQueryAttention":  # which keeps keys and values for the next token
            outputs |= {name: np.zeros(keys, np.float32) for name in ("keys", "values")}
        made = tuple((name, each.shape) for name, each in outputs.items())
        session = _session(
            operator, tuple(names), sizes, made, tuple(attributes.items()), problem.threads
        )
        binding = session.io_binding()
        for name, each in feeds.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(each))
        for name, each in outputs.items():
            binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(each))
        padded = output.reshape(given.inputs.query.shape)

        # Not all versions of the binding keep the memory that they read and write.
        def call(_kept: Any = (feeds, outputs)) -> np.ndarray:
            session.run_with_iobinding(binding)
            return padded

        return call

    return Prepared(bind, lambda output: output)


@lru_cache(maxsize=4)
def _session(
    operator: str,
    names: tuple[str, ...],
    sizes: tuple[tuple[str, str, tuple[int, ...]], ...],
    made: tuple[tuple[str, tuple[int, ...]], ...],
    attributes: tuple[tuple[str, Any], ...],
    threads: int,
) -> Any:
    """A session with one operator: one pool of threads for batches of all lengths."""
    import onnxruntime  # pyright: ignore[reportMissingImports]
    from onnx import TensorProto, helper  # pyright: ignore[reportMissingImports]

    kinds = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    node = helper.make_node(
        operator, names, [name for name, _ in made], domain=_DOMAIN, **dict(attributes)
    )
    graph = helper.make_graph(
        [node],
        operator,
        [helper.make_tensor_value_info(name, kinds[dtype], size) for name, dtype, size in sizes],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in made],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


ONNX_RUNTIME_PEERS = (
    PeerKernel("onnx_multi_head", "ONNX Runtime with key mask", MASKED, _lacks_multi_head,
               _multi_head, library=LIBRARY),
    PeerKernel("onnx_grouped_query", "ONNX Runtime, grouped queries", MASKED, _lacks_grouped,
               _grouped, right_padded=True, library=LIBRARY),
)  # fmt: skip
