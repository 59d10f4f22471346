"""Checking and timing kernels and their peers in one process, on one device.

Everything here runs inside a :class:`~.worker.Worker`, and takes libraries by their paths. The
device may be a CPU, where plain calls are timed, so that all but CUDA itself can be tried anywhere.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from ...workloads import PrefillShape, PrefillSpec
from ..measuring.cpu import time_calls
from ..measuring.timing import Result, Timer, interleave
from .comparison import DENSE, MASKED, PADDED
from .matrix_product import matrix_product
from .peers.packing import Packing, packing_of
from .peers.peer import PeerKernel, Prepared
from .peers.registry import peers_on_a_gpu
from .rotation import cache_bytes, rotated
from .torch_problem import (
    Problem,
    draw_problems,
    largest_error,
    poison_padding,
    reference,
    valid_positions,
    written_rows,
)
from .torch_timing import GraphTimer

#: Name of TVM's hand-written kernel among what is compared.
BASELINE = "baseline"

#: Largest error of another's kernel on valid rows, without a bias; looser than what is asked of
#: ours.
PEER_TOLERANCE = {"float32": 1e-3, "float16": 5e-3, "bfloat16": 2e-2}

_ROUNDS = 15
_SECONDS = 4e-3


class _Batches:
    """The batches of a case on a device, and what is right for them.

    Parameters
    ----------
    problems : Sequence[Problem]
        One for each batch.
    cache : int
        Bytes of the cache that tensors rotate past; 0 if they do not.
    """

    def __init__(self, problems: Sequence[Problem], cache: int) -> None:
        self._problems = problems
        self._outputs: dict[PrefillSpec, list[Any]] = {}
        self.rotated = rotated(problems, cache) if cache else []

    def known_to(self, peer: PeerKernel) -> list[Problem]:
        """As a peer knows them."""
        return [peer.known(problem) for problem in self._problems]

    def outputs(self, problems: Sequence[Problem]) -> list[Any]:
        """What is right for these; made once for all peers that know them."""
        spec = problems[0].spec
        if spec not in self._outputs:
            self._outputs[spec] = [reference(problem)[0] for problem in problems]
        return self._outputs[spec]


@dataclass(frozen=True)
class _Checked:
    """The calls of a peer that computes what it should.

    Parameters
    ----------
    warm, cold : list[Callable[[], Any]]
        On the tensors of the batches, and on those that rotate.
    error : float or None
        The largest; None if it heeds no lengths.
    """

    warm: list[Callable[[], Any]]
    cold: list[Callable[[], Any]]
    error: float | None


def largest_kernel_error(
    path: str,
    spec: PrefillSpec,
    shape: PrefillShape,
    batches: Sequence[Sequence[int]],
    seed: int,
    device: str = "cuda",
) -> float:
    """Largest error of a kernel of ours, output and LSE, where padding holds NaN and Inf."""
    errors = []
    for problem in draw_problems(spec.padded, shape, batches, seed, device):
        kernel = _Kernel(path, spec, poison_padding(problem), room=True)
        kernel()
        written = written_rows(problem)
        for result, expected in zip(kernel.padded_results(), reference(problem), strict=True):
            untouched = bool(result[~written].isnan().all())
            errors.append(largest_error(result[written], expected[written]))
            errors += [] if untouched else [math.inf]
    return max(errors)


def warm_up_peers(
    spec: PrefillSpec,
    shape: PrefillShape,
    batches: Sequence[Sequence[int]],
    seed: int,
    device: str,
) -> None:
    """Have peers compile what they compile for a workload; failures are left to be met again."""
    given = _Batches(draw_problems(spec.padded, shape, batches[:1], seed, device), 0)
    for peer in peers_on_a_gpu(spec, shape, batches):
        if not peer.lacks(spec):
            with contextlib.suppress(Exception):
                (problem,) = given.known_to(peer)
                peer.prepare(problem).bind(problem)()


def measure_side_by_side(
    libraries: Mapping[str, str],
    spec: PrefillSpec,
    shape: PrefillShape,
    batches: Sequence[Sequence[int]],
    seed: int,
    gemm_size: int,
    device: str,
    padded: PrefillSpec | None = None,
    cache: int | None = None,
    rounds: int = _ROUNDS,
) -> dict[str, Result]:
    """Check and time kernels, every peer and a matrix product in turns, on the same batches.

    Parameters
    ----------
    libraries : Mapping[str, str]
        Paths of kernels ``main(query, key, value, valid_lens, output, lse)``, a bias before the
        output of a spec that has one, by any names; TVM's hand-written one by the name
        :data:`BASELINE`. Of a packed spec they are packed, but for one by the name
        :data:`~.comparison.PADDED`.
    batches : Sequence[Sequence[int]]
        Valid lengths; a call's time is the mean over them.
    gemm_size : int
        Side of the matrix product ``gemm``, in the dtype of the spec.
    device : str
        ``cuda`` or ``cpu``.
    padded : PrefillSpec, optional
        Of a packed spec, that of the padded tensors which are packed, and which
        :data:`~.comparison.PADDED` takes as they are; ``spec.padded`` when absent.
    cache : int, optional
        Bytes that tensors rotate past for the cold times; those of the GPU's L2 cache if None,
        where there is one.
    rounds : int
        Timings of each.

    Returns
    -------
    dict[str, Result]
        By name: the libraries, :func:`~.peers.registry.peers_on_a_gpu` and ``gemm``.

    Raises
    ------
    RuntimeError
        If a contestant broke the CUDA context, so that nothing can be measured any more.
    """
    given = _Batches(
        draw_problems(padded or spec.padded, shape, batches, seed, device),
        cache_bytes(device) if cache is None else cache,
    )
    peers = peers_on_a_gpu(spec, shape, batches)
    results = {peer.name: Result(failure=lacks) for peer in peers if (lacks := peer.lacks(spec))}
    entrants = [_as_peer(name, path, spec) for name, path in libraries.items()]
    entrants += [peer for peer in peers if peer.name not in results]
    timer = _timers(device)
    warm: dict[str, Timer] = {}
    cold: dict[str, Timer] = {}
    for entrant in entrants:
        name = entrant.name
        try:
            checked = _checked(entrant, given)
            warm[name] = timer(checked.warm)
            if checked.cold:
                cold[name] = timer(checked.cold)
            results[name] = Result(error=checked.error)
        except Exception as failure:  # of any library, by any class
            warm.pop(name, None)
            results[name] = Result(failure=first_line(failure))
            _refuse_broken_context(name, failure, device)
            timer = _timers(device)  # what a capture that failed leaves of its pool is no use
    warm["gemm"] = timer([matrix_product(spec.dtype, gemm_size, device)])
    results["gemm"] = Result()
    # Nothing spins on a GPU, where a call waits for all that was before it.
    pause = {} if device == "cpu" else {"pause": 0.0}
    times = iter(interleave([*warm.values(), *cold.values()], rounds, _SECONDS, **pause))
    for name, seconds in zip(warm, times, strict=False):
        results[name] = replace(results[name], seconds=seconds)
    for name, seconds in zip(cold, times, strict=True):
        results[name] = replace(results[name], cold_seconds=seconds)
    return results


class _Kernel:
    """A kernel of a library bound to a problem, on PyTorch's current stream.

    Parameters
    ----------
    path : str
        Of the library.
    spec : PrefillSpec
        Of the kernel; for a packed one the problem's tensors are packed.
    room : bool
        Whether padding then lies behind the last sequence.
    """

    def __init__(
        self, path: str, spec: PrefillSpec, problem: Problem, *, room: bool = False
    ) -> None:
        import torch  # pyright: ignore[reportMissingImports]
        import tvm_ffi

        self._function = _function(path)
        self._problem = problem
        self._queries, arguments = None, problem.arguments
        if spec.is_packed:
            self._queries, arguments = _packed_arguments(problem, room)
        query = arguments[0]
        self._output = query.new_full(query.shape, float("nan"))
        self._lse = query.new_full(
            query.shape[:-1], float("nan"), dtype=getattr(torch, spec.lse_type)
        )
        tensors = (*arguments, self._output, self._lse)
        self._arguments = [tvm_ffi.from_dlpack(each) for each in tensors]

    def padded_results(self) -> list[Any]:
        """Output and LSE of the last call, with sequences filled to one length."""
        results, query = [self._output, self._lse], self._problem.query
        if self._queries is None:
            return results
        likes = (each.new_empty((*query.shape[:2], *each.shape[1:])) for each in results)
        return [self._queries.unpack(*each) for each in zip(results, likes, strict=True)]

    def __call__(self) -> Any:
        import torch  # pyright: ignore[reportMissingImports]
        import tvm_ffi

        if not self._problem.on_gpu:
            self._function(*self._arguments)
        else:
            # TVM launches on a stream of its own choice unless told otherwise.
            stream = torch.cuda.current_stream().cuda_stream
            device = tvm_ffi.device("cuda", self._problem.device.index)
            with tvm_ffi.use_raw_stream(device, stream):
                self._function(*self._arguments)
        return self._output


def _packed_arguments(problem: Problem, room: bool) -> tuple[Packing, list[Any]]:
    """How queries are packed, and what a kernel of packed tensors takes before its results."""
    queries, keys = (
        packing_of(problem, length, room=room)
        for length in (problem.shape.qo_len, problem.shape.num_kv)
    )
    packed = [queries.pack(problem.query), keys.pack(problem.key), keys.pack(problem.value)]
    bias = [] if problem.bias is None else [problem.bias]
    return queries, [*packed, queries.offsets, keys.offsets, *bias]


@lru_cache(maxsize=8)
def _function(path: str) -> Any:
    from tvm.runtime import load_module

    return load_module(path)["main"]


def _as_peer(name: str, path: str, spec: PrefillSpec) -> PeerKernel:
    """A library, called as peers are."""
    if name == BASELINE:  # which knows no other dtype than the query's
        spec = replace(spec, lse_dtype=None)
    if name == PADDED:
        spec = spec.padded

    def prepare(problem: Problem) -> Prepared:
        bind = partial(_Kernel, path, spec)
        if not spec.is_packed:
            return Prepared(bind, lambda output: output)
        queries = packing_of(problem, problem.shape.qo_len)
        return Prepared(bind, lambda output: queries.unpack(output, problem.query))

    return PeerKernel(name, name, MASKED, lambda _: "", prepare)


def _checked(entrant: PeerKernel, given: _Batches) -> _Checked:
    """Run a peer once on each batch, and refuse it if it is wrong where it should be right."""
    problems = given.known_to(entrant)
    outputs = given.outputs(problems)
    prepared = [entrant.prepare(problem) for problem in problems]
    warm = [each.bind(problem) for each, problem in zip(prepared, problems, strict=True)]
    errors = []
    for problem, ready, call, output in zip(problems, prepared, warm, outputs, strict=True):
        actual = ready.padded(call())
        if entrant.kind != DENSE:
            valid = valid_positions(problem, problem.shape.qo_len)
            rows = slice(None) if entrant.zeros else valid
            errors.append(largest_error(actual[rows], output[rows]))
    spec = problems[0].spec
    tolerance = PEER_TOLERANCE[spec.dtype] * bias_slack(spec)
    if errors and not max(errors) <= tolerance:
        where = "valid rows or padding" if entrant.zeros else "valid rows"
        raise ValueError(f"wrong on {where}: error {max(errors):.2g} above {tolerance:g}")
    cold = [
        prepared[index % len(prepared)].bind(problem) for index, problem in enumerate(given.rotated)
    ]
    return _Checked(warm, cold, max(errors, default=None))


def bias_slack(spec: PrefillSpec) -> float:
    """What a peer's tolerance grows by: SDPA adds a bias in the dtype of its tensors, rounded."""
    return 2.0 if spec.bias else 1.0


def _timers(device: str) -> Callable[[Sequence[Callable[[], Any]]], Timer]:
    """What makes a timer of calls."""
    if device == "cpu":
        return lambda calls: partial(time_calls, calls)
    import torch  # pyright: ignore[reportMissingImports]

    return partial(GraphTimer, pool=torch.cuda.graph_pool_handle())


def _refuse_broken_context(name: str, failure: Exception, device: str) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    if device == "cpu":
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        raise RuntimeError(f"{name} broke the CUDA context: {first_line(failure)}") from failure


def first_line(failure: Exception) -> str:
    """What a table has room for."""
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return f"{type(failure).__name__}: {lines[0][:200]}" if lines else type(failure).__name__
