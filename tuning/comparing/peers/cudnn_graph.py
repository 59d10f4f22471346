"""cuDNN's attention through its own frontend, which takes lengths (PyTorch's way to it does not).

It pads on the right alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from ....workloads import PrefillSpec
from ....workloads.choices import CAUSAL, OPEN
from ..comparison import DENSE, MASKED
from ..torch_problem import Problem, relative_bias
from .peer import NOT_INSTALLED, PeerKernel, Prepared, taking

_TAKES = taking("window", "bias", dtypes=("float16", "bfloat16"), largest_head_dim=256)


def _lacks(spec: PrefillSpec) -> str:
    if find_spec("cudnn") is None:
        return NOT_INSTALLED
    if spec.bias is not None and spec.window not in (OPEN, CAUSAL):
        return "takes no window beside a bias"
    return _TAKES(spec)


def _prepare(problem: Problem, *, heeds_lengths: bool) -> Prepared:
    import cudnn  # pyright: ignore[reportMissingImports]  (extra [rivals])
    import torch  # pyright: ignore[reportMissingImports]

    spec, dtypes = problem.spec, cudnn.data_type
    handle = cudnn.create_handle()
    graph = cudnn.pygraph(
        io_data_type=dtypes.HALF if spec.dtype == "float16" else dtypes.BFLOAT16,
        intermediate_data_type=dtypes.FLOAT, compute_data_type=dtypes.FLOAT, handle=handle,
    )  # fmt: skip

    def described(tensor: Any) -> Any:
        """``[batch, heads, length, head_dim]``, wherever each lies in memory."""
        heads_first = tensor.transpose(1, 2)
        return graph.tensor(dim=[*heads_first.shape], stride=[*heads_first.stride()])

    query, key, value = (described(each) for each in (problem.query, problem.key, problem.value))
    constant: dict[Any, Any] = {}  # of the batch, by what stands for it in the graph
    options: dict[str, Any] = _diagonals(problem, cudnn.diagonal_alignment)
    if heeds_lengths:
        for name, length in (("q", problem.shape.qo_len), ("kv", problem.shape.num_kv)):
            lens = problem.valid_lens.clamp(0, length).view(-1, 1, 1, 1)
            place = graph.tensor(dim=[*lens.shape], stride=[1, 1, 1, 1], data_type=dtypes.INT32)
            constant[place] = lens
            options[f"seq_len_{name}"] = place
        options["use_padding_mask"] = True
    if problem.bias is not None:
        bias = relative_bias(problem).to(problem.query.dtype)[
            None
        ]  # in the dtype of what it is added to
        options["bias"] = graph.tensor(dim=[*bias.shape], stride=[*bias.stride()])
        constant[options["bias"]] = bias
    output, _ = graph.sdpa(
        q=query, k=key, v=value, generate_stats=False, attn_scale=spec.scale, **options
    )
    heads_first = problem.query.transpose(1, 2)
    output.set_output(True).set_dim([*heads_first.shape]).set_stride([*heads_first.stride()])
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()
    workspace = torch.empty(
        max(1, graph.get_workspace_size()), dtype=torch.uint8, device=problem.device
    )

    def bind(given: Problem) -> Callable[[], Any]:
        def call() -> Any:
            stream = torch.cuda.current_stream(given.device).cuda_stream
            cudnn.set_stream(handle=handle, stream=stream)
            made = torch.empty_like(given.query)
            tensors = {query: given.query, key: given.key, value: given.value, output: made}
            graph.execute({**tensors, **constant}, workspace, handle=handle)
            return made

        return call

    return Prepared(bind, lambda made: made)


def _diagonals(problem: Problem, alignment: Any) -> dict[str, Any]:
    """The window, as columns beside the diagonal; to the left, it counts the row's own too."""
    left, right = problem.spec.window
    shape = problem.shape
    if left is None and right is None:
        return {}
    ends = shape.qo_len != shape.num_kv  # else both alignments are one, and the usual one faster
    options: dict[str, Any] = {
        "diagonal_alignment": alignment.BOTTOM_RIGHT if ends else alignment.TOP_LEFT
    }
    if left is not None:
        options["diagonal_band_left_bound"] = left + 1
    if right is not None:
        options["diagonal_band_right_bound"] = right
    return options


CUDNN_PEERS = (
    PeerKernel("cudnn_padding_mask", "cuDNN with padding mask", MASKED, _lacks,
               partial(_prepare, heeds_lengths=True), right_padded=True),
    PeerKernel("cudnn_dense", "cuDNN without padding mask", DENSE, _lacks,
               partial(_prepare, heeds_lengths=False)),
)  # fmt: skip
