"""One function with several kernels: right on every size, by the kernel that the size asks for.

It is compiled as anyone would compile it, with TVM's own pipeline and nothing of this package.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from cuda_schedules import for_every_shape
from dispatch_fixtures import LONG, SHORT, SPEC, database, record, scheduled, swept, target
from kernel_checks import kernel_error
from machine_code import compile_device
from numpy.lib.stride_tricks import as_strided
from tvm.runtime import tensor
from tvm_ffi import from_dlpack

from prefilltune.database import Finder, StaleRecordError, TargetKey, committed_root
from prefilltune.tuning.backends.cuda_code import device_source
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.replaying import replay_record
from prefilltune.tuning.deployment import (
    Leaf,
    Lengths,
    Serving,
    Sizes,
    Split,
    Tree,
    candidates,
    choose,
    choose_serving,
    dispatching_kernel,
    leaves,
    sequence_prefill_with_mask,
    serving_kernel,
)
from prefilltune.tuning.pipeline.steps import changed
from prefilltune.workloads import (
    TOLERANCE,
    PackedShape,
    PrefillShape,
    PrefillSpec,
    SymbolicShape,
    empty_lse,
    make_inputs,
    max_error,
    plain_attention,
    preset,
    reference_attention,
)
from prefilltune.workloads.shapes import squared

CHOSEN = PrefillSpec(
    4, 2, 16, "float32", padding="left", window=(9, 0), softcap=1.5, bias="relative"
)
HALF = replace(CHOSEN, dtype="float16")
SMALL = PrefillShape(2, 8)
CROSSED = PrefillShape(2, 24, 40)
SHAPES = [
    PrefillShape(1, 1),
    PrefillShape(3, 17, 40),
    PrefillShape(2, 65, 31),
    PrefillShape(1, 1, 97),
    PrefillShape(5, 33),
    # Lengths that were tuned on, on other batches too, and next to them.
    *(PrefillShape(batch, *lengths) for batch in (1, 3) for lengths in ((16,), (64,), (24, 40))),
    *(PrefillShape(2, *lengths) for lengths in ((16, 17), (15, 16), (65, 64), (40, 24), (24, 39))),
]


def built(function: Any) -> Callable[..., None]:
    """Compiled by TVM alone; called by the name that the function has."""
    return tvm.tirx.build(function, target=target().target)[str(function.attrs["global_symbol"])]


def valid_lens(shape: PrefillShape) -> list[np.ndarray]:
    longest = max(shape.qo_len, shape.num_kv)
    same = [np.full(shape.batch, each) for each in (0, 1, longest, longest + 7, -3)]
    return [*same, np.resize([longest // 2, longest, 0, 1, longest - 1], shape.batch)]


@pytest.fixture(
    scope="module",
    params=[SPEC, pytest.param(HALF, marks=pytest.mark.thorough)],
    ids=str,
)
def drop_in(request, tmp_path_factory) -> tuple[PrefillSpec, Any]:
    """A spec and its kernel, of three records: six kernels inside."""
    spec = request.param
    short = record(spec, SHORT, packed=spec.dtype == "float16")
    long = record(spec, LONG, q_tile=32, packed=True)
    crossed = record(spec, CROSSED, seed=8)  # decisions that LLVM has soon compiled
    root = database(tmp_path_factory.mktemp("database"), short, long, crossed)
    names = [each.record_id for each in (short, long, crossed)]
    times = {"1x16": (1.0, 2.0, 3.0), "2x64": (2.0, 1.0, 3.0), "2x24x40": (3.0, 2.0, 1.0)}
    swept(root, spec, {shape: dict(zip(names, each, strict=True)) for shape, each in times.items()})
    chosen = choose_serving(spec, target(), Finder([root]))
    assert {**chosen.lengths} == {
        (each.qo_len, each.num_kv): Leaf(name)
        for name, each in zip(names, (SHORT, LONG, CROSSED), strict=True)
    }
    assert chosen.tree is not None
    assert {*leaves(chosen.tree)} == {*names}
    return spec, built(made(spec, root))


def made(spec: PrefillSpec, root: Path) -> Any:
    """The function of a spec, as those ask for it who have a model."""
    return sequence_prefill_with_mask(
        spec.num_kv_heads, spec.num_qo_heads, spec.head_dim, spec.dtype, target().target,
        spec.scale, padding=spec.padding, window=spec.window, softcap=spec.softcap,
        bias=spec.bias, database=root,
    )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_size_and_length_is_right(drop_in, shape: PrefillShape) -> None:
    spec, kernel = drop_in
    for seed, lens in enumerate(valid_lens(shape)):
        assert kernel_error(kernel, spec, shape, lens, seed) <= TOLERANCE[spec.dtype], lens


MARKS = {f"s{n}": replace(SPEC, sm_scale=SPEC.scale * n) for n in range(1, 7)}
LENGTHS = {(16, 16): ["s4"], (8, 24): ["s5", "s6"]}


@pytest.fixture(scope="module")
def marked() -> Callable[..., Callable[..., None]]:
    """Makes functions whose kernels show which they are: ``sN`` scales the scores by ``N``.

    ``s1`` to ``s3`` are for every size, the others for the lengths that :data:`LENGTHS` says.
    """
    sizes = SymbolicShape.fresh()
    kernels = {name: scheduled(MARKS[name], SHORT, sizes) for name in ("s1", "s2", "s3")}
    fixed = {
        (qo_len, kv_len): {
            name: scheduled(MARKS[name], SHORT, SymbolicShape(sizes.batch, qo_len, kv_len))
            for name in names
        }
        for (qo_len, kv_len), names in LENGTHS.items()
    }

    def make(
        tree: Tree,
        lengths: Mapping[Lengths, Tree] | None = None,
        squares: Mapping[str, str] | None = None,
    ) -> Callable[..., None]:
        own = {each: (own_tree, fixed[each]) for each, own_tree in (lengths or {}).items()}
        others = {
            name: scheduled(MARKS[other], SHORT, squared(sizes))
            for name, other in (squares or {}).items()
        }
        return built(
            dispatching_kernel(SPEC, tree, kernels, sizes, target().target, own, squares=others)
        )

    return make


def called(kernel: Callable[..., None], shape: PrefillShape) -> str:
    """Which of the marked kernels computed what came out."""
    inputs = make_inputs(SPEC, shape, np.full(shape.batch, 999), seed=0)
    arrays = inputs.arguments
    output = tensor(np.full(inputs.query.shape, np.nan, "float32"))
    lse = tensor(np.full(inputs.query.shape[:3], np.nan, "float32"))
    kernel(*map(tensor, arrays), output, lse)
    errors = {}
    for name, spec in MARKS.items():
        errors[name] = max_error(lse.numpy(), reference_attention(spec, *arrays)[1])
    (name,) = [name for name, error in errors.items() if error <= TOLERANCE["float32"]]
    return name


def test_the_kernel_that_the_tree_names_is_called(marked) -> None:
    tree = Split(
        "batch",
        3,
        Split("kv_len", 24, Leaf("s1"), Leaf("s2")),
        Split("qo_len", 20, Leaf("s3"), Split("kv_len", 9, Leaf("s2"), Leaf("s1"))),
    )
    kernel = marked(tree)
    shapes = [
        PrefillShape(batch, qo_len, kv_len)
        for batch in (2, 3)
        for qo_len in (19, 20)
        for kv_len in (8, 9, 23, 24)
    ]
    assert [called(kernel, each) for each in shapes] == [
        choose(tree, Sizes.of(each)) for each in shapes
    ]


def test_of_packed_sequences_means_and_the_longest_choose() -> None:
    """Of these there are no lengths of all; who says how long the longest is, has the kernel for
    sequences alike or for mixed ones, and who does not, the latter."""
    packed, sizes = replace(SPEC, layout="packed"), PackedShape.fresh()

    def marking(mark: int) -> Any:
        """A kernel that computes nothing and leaves a number."""
        params = plain_attention(packed, sizes)["main"].params
        (lse,) = [each for each in params if each.name == "lse"]
        store = tvm.tirx.BufferStore(lse, tvm.tirx.const(mark, lse.dtype), [0, 0])
        return tvm.tirx.PrimFunc(params, store)

    tree = Split("kv_len", 9, Leaf("s1"), Split("mixed", 1, Leaf("s2"), Leaf("s3")))
    kernels = {f"s{mark}": marking(mark) for mark in (1, 2, 3)}
    kernel = built(dispatching_kernel(packed, tree, kernels, sizes, target().target, longest=True))

    def called(lengths: Sequence[int], longest: int) -> str:
        shape = PrefillShape(len(lengths), max(lengths))
        arrays = make_inputs(packed, shape, np.array(lengths), seed=0).arguments
        output = tensor(np.zeros(arrays[0].shape, "float32"))
        lse = tensor(np.zeros(arrays[0].shape[:2], "float32"))
        kernel(*map(tensor, arrays), longest, output, lse)
        return f"s{lse.numpy()[0, 0]:.0f}"

    for lengths in ([16, 16, 16], [16, 1, 10], [20, 8, 8], [18, 15, 15], [30, 0, 0]):
        mean = sum(lengths) // len(lengths)
        for said in (max(lengths), None):
            expected = choose(tree, Sizes(len(lengths), mean, mean, said))
            assert called(lengths, said or 0) == expected, (lengths, said)
    wrong = (-1, 1, 2**62)
    assert [called([16, 16], each) for each in wrong] == ["s3", "s2", "s3"]


@pytest.mark.slow
def test_lengths_with_kernels_of_their_own_take_these_on_every_batch(marked) -> None:
    tree = Split("kv_len", 17, Leaf("s1"), Split("batch", 3, Leaf("s2"), Leaf("s3")))
    kernel = marked(
        tree, {(16, 16): Leaf("s4"), (8, 24): Split("batch", 3, Leaf("s5"), Leaf("s6"))}
    )
    assert [called(kernel, PrefillShape(batch, 16)) for batch in (1, 2, 5)] == ["s4"] * 3
    assert [called(kernel, PrefillShape(batch, 8, 24)) for batch in (1, 2, 3)] == ["s5", "s5", "s6"]
    others = [
        PrefillShape(batch, qo_len, kv_len)
        for batch in (1, 3)
        for qo_len, kv_len in ((16, 15), (15, 16), (16, 17), (17, 16), (24, 8), (8, 23), (8, 16))
    ]
    assert [called(kernel, each) for each in others] == [
        choose(tree, Sizes.of(each)) for each in others
    ]


@pytest.mark.slow
def test_kernels_for_as_many_keys_as_queries_take_these(marked) -> None:
    tree = Split("kv_len", 17, Leaf("s1"), Leaf("s2"))
    kernel = marked(tree, {(16, 16): Leaf("s4")}, {"s1": "s5", "s2": "s6"})
    squares = [called(kernel, PrefillShape(batch, n)) for batch in (1, 3) for n in (9, 15, 17, 30)]
    assert squares == ["s5", "s5", "s6", "s6"] * 2
    assert called(kernel, PrefillShape(2, 16)) == "s4"
    others = [PrefillShape(2, *each) for each in ((9, 15), (15, 9), (17, 16), (16, 17), (30, 31))]
    assert [called(kernel, each) for each in others] == [
        choose(tree, Sizes.of(each)) for each in others
    ]


@pytest.mark.slow
def test_a_single_kernel_serves_everything(marked) -> None:
    kernel = marked(Leaf("s3"))
    assert {called(kernel, PrefillShape(1, n)) for n in (5, 50)} == {"s3"}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    root = database(tmp_path_factory.mktemp("database"), record(SPEC, SHORT))
    return built(
        sequence_prefill_with_mask(
            1, 2, 16, "float32", target().target, SPEC.scale, database=str(root), views=True
        )
    )


def placed(array: np.ndarray, elements: int = 0) -> np.ndarray:
    """A copy that begins so many elements after an address that vectors may have."""
    memory = np.empty(array.size + 64, array.dtype)
    begin = -memory.ctypes.data // array.itemsize % (64 // array.itemsize) + elements
    view = memory[begin : begin + array.size].reshape(array.shape)
    view[...] = array
    return view


def arguments(shape: PrefillShape = SMALL) -> dict[str, np.ndarray]:
    inputs = make_inputs(SPEC, shape, np.full(shape.batch, shape.qo_len), seed=1)
    given = {
        "q": inputs.query,
        "k": inputs.key,
        "v": inputs.value,
        "valid_lens": inputs.valid_lens,
        "output": np.full(inputs.query.shape, np.nan, "float32"),
        "lse": np.full(inputs.query.shape[:3], np.nan, "float32"),
    }
    return {name: placed(array) for name, array in given.items()}


def call(kernel: Callable[..., None], given: dict[str, np.ndarray]) -> None:
    """Without a copy, so that the kernel sees the arrays where they lie."""
    kernel(*map(from_dlpack, given.values()))


@pytest.mark.parametrize(("batch", "qo_len"), [(0, 8), (0, 16), (2, 0), (0, 0)])
def test_nothing_to_compute(kernel, batch: int, qo_len: int) -> None:
    rows, keys = (batch, qo_len, 2), (batch, 16, 1, 16)
    shapes = ((*rows, 16), keys, keys, (batch,), (*rows, 16), rows)
    arrays = [np.zeros(shape, "int32" if len(shape) == 1 else "float32") for shape in shapes]
    kernel(*map(tensor, arrays))


def test_queries_without_keys(kernel) -> None:
    given = arguments()
    given["k"] = given["v"] = np.zeros((2, 0, 1, 16), "float32")
    tensors = {name: tensor(array) for name, array in given.items()}
    kernel(*tensors.values())
    assert not tensors["output"].numpy().any()
    assert (tensors["lse"].numpy() == empty_lse("float32")).all()


def spread(array: np.ndarray) -> np.ndarray:
    """The same with a gap after each element."""
    return np.repeat(array, 2, axis=-1)[..., ::2]


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("q", lambda array: array[:, :, :1], "shape[2]"),
        ("q", lambda array: array[..., :8], "shape[3]"),
        # TVM looks at the strides first, which those of the shape that it expects would not be.
        ("lse", lambda array: array[:, :, :1], "strides"),
        ("q", lambda array: array[0], "ndim"),
        ("v", lambda array: array[:, :4], "shape[1]"),
        ("v", lambda array: array[:1], "shape[0]"),
        ("output", lambda array: array[:, :4], "shape[1]"),
        ("valid_lens", lambda array: array[:1], "shape[0]"),
        ("q", lambda array: array.astype("float16"), "dtype"),
        ("valid_lens", lambda array: array.astype("int64"), "dtype"),
    ],
)
def test_wrong_tensors_are_refused_by_name(
    kernel, name: str, change: Callable[[np.ndarray], np.ndarray], field: str
) -> None:
    given = arguments()
    given[name] = placed(change(given[name]))
    with pytest.raises((ValueError, TypeError)) as caught:
        call(kernel, given)
    message = str(caught.value)
    assert re.match(rf"(Mismatched|Invalid) {re.escape(f'{name}.{field}')} on argument", message)
    assert "q: Tensor([batch_size, qo_len, 2, 16], float32)" in message
    assert np.isnan(given["output"]).all()


@pytest.mark.parametrize("name", ["q", "k", "output", "lse"])
def test_gaps_between_elements_are_refused(kernel, name: str) -> None:
    given = arguments()
    given[name] = spread(given[name])
    with pytest.raises(ValueError, match=rf"(Mismatched|Invalid) {name}\.strides"):
        call(kernel, given)


@pytest.mark.parametrize("shape", [SMALL, SHORT, PrefillShape(3, 17, 40)], ids=str)
def test_views_of_inputs_are_read_where_they_are(kernel, shape: PrefillShape) -> None:
    """Heads before rows, parts of one projection, and one sequence in several; on any lengths."""
    given, dense = arguments(shape), arguments(shape)
    call(kernel, dense)
    given["q"] = given["q"].swapaxes(1, 2).copy().swapaxes(1, 2)
    given["k"] = np.concatenate([given["k"], np.full_like(given["k"], np.nan)], 2)[:, :, :1]
    given["v"] = np.repeat(given["v"], 2, axis=1)[:, ::2]
    assert not any(given[name].flags.c_contiguous for name in "kv")
    call(kernel, given)
    for result in ("output", "lse"):
        np.testing.assert_array_equal(given[result], dense[result])


@pytest.mark.parametrize("name", ["output", "lse"])
def test_results_are_dense(kernel, name: str) -> None:
    given = arguments()
    given[name] = given[name].swapaxes(1, 2).copy().swapaxes(1, 2)
    with pytest.raises(ValueError, match=rf"Mismatched {name}\.strides"):
        call(kernel, given)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("q", lambda array: array[:, ::-1]),
        ("k", lambda array: as_strided(array, strides=(0, *array.strides[1:]))),
        ("k", lambda array: as_strided(array, strides=(2**31 * 4 - 64, *array.strides[1:]))),
        ("v", lambda array: as_strided(array, strides=(2**31 * 4, *array.strides[1:]))),
    ],
)
def test_views_that_kernels_cannot_number_are_refused(
    kernel, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    given = arguments()
    given[name] = change(given[name])
    with pytest.raises(ValueError, match=f"^{name} must run forwards over less than 2147483648"):
        call(kernel, given)


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_results_in_the_memory_of_inputs_are_refused(kernel, name: str) -> None:
    given = arguments()
    size = given[name].size
    memory = np.zeros(size + given["output"].size, "float32")
    given["output"] = memory[-given["output"].size :].reshape(given["output"].shape)
    for begin, refused in ((0, False), (1, True)):
        given[name] = memory[begin : begin + size].reshape(given[name].shape)
        with (
            pytest.raises(ValueError, match=f"output shares memory with {name}")
            if refused
            else (nullcontext())
        ):
            call(kernel, given)


@pytest.mark.parametrize("name", ["q", "k", "v", "output", "lse"])
def test_tensors_may_begin_at_any_element(kernel, name: str) -> None:
    aligned = arguments()
    call(kernel, aligned)
    for elements in (1, 4, 8):
        given = arguments()
        given[name] = placed(given[name], elements)
        call(kernel, given)
        for result in ("output", "lse"):
            np.testing.assert_array_equal(given[result], aligned[result])


def test_tensors_that_begin_within_an_element_are_refused_by_their_name(kernel) -> None:
    given = arguments()
    query = given["q"]
    memory = np.zeros(query.nbytes + 1, "uint8")
    within = memory[1 - memory.ctypes.data % 2 :][: query.nbytes].view(query.dtype)
    given["q"] = within.reshape(query.shape)
    with pytest.raises(ValueError, match=r"^q must begin at a multiple of 4 bytes.*\.clone\(\)"):
        call(kernel, given)
    assert np.isnan(given["output"]).all()


def test_lengths_may_begin_anywhere(kernel) -> None:
    given = arguments()
    given["valid_lens"] = placed(given["valid_lens"], 1)
    call(kernel, given)
    expected, _ = reference_attention(SPEC, *list(given.values())[:4])
    assert max_error(given["output"], expected) <= TOLERANCE["float32"]


@pytest.mark.parametrize("name", ["q", "k", "q of tuned lengths"])
def test_tensors_too_large_for_32_bits_are_refused(kernel, name: str) -> None:
    def unreserved(*shape: int) -> np.ndarray:
        """Addresses without memory behind them: nothing is read or written."""
        no_reserve = 0x4000
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
        memory = mmap.mmap(-1, math.prod(shape) * 4, flags=flags)
        return np.frombuffer(memory, "float32").reshape(shape)

    given = arguments(PrefillShape(1, 8))
    if name == "q":
        rows = (1, 2**31 // 32, 2)
        given |= {"q": unreserved(*rows, 16), "output": unreserved(*rows, 16)}
        given["lse"] = unreserved(*rows)
    elif name == "k":
        keys = unreserved(1, 2**31 // 16, 1, 16)
        given |= {"k": keys, "v": keys}
    else:
        batch = 2**31 // (SHORT.qo_len * 32)
        given |= {each: unreserved(batch, SHORT.qo_len, 2, 16) for each in ("q", "output")}
        given |= {each: unreserved(batch, SHORT.num_kv, 1, 16) for each in ("k", "v")}
        given |= {"lse": unreserved(batch, SHORT.qo_len, 2)}
        given |= {"valid_lens": np.zeros(batch, "int32")}
    with pytest.raises(
        ValueError, match=rf"^{name[0]} has 2147483648 .* or more.*: split the batch"
    ):
        call(kernel, given)


@pytest.fixture(scope="module")
def unswept(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """The kernel of two records that nothing tells apart but the shapes that they were tuned on."""
    entries = (record(CHOSEN, SHORT), record(CHOSEN, LONG, q_tile=32, packed=True))
    root = database(tmp_path_factory.mktemp("unswept"), *entries)
    message = "served by the one that was tuned nearest.*; run: prefilltune sweep"
    with pytest.warns(UserWarning, match=message):
        function = made(CHOSEN, root)
    return built(function)


@pytest.mark.thorough
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_the_nearest_record_serves_is_right(unswept, shape: PrefillShape) -> None:
    longest = max(shape.qo_len, shape.num_kv)
    valid_lens = np.resize(np.array([longest // 2 + 1, longest, 0, 1], "int32"), shape.batch)
    assert kernel_error(unswept, CHOSEN, shape, valid_lens, seed=3) <= TOLERANCE["float32"]


@pytest.fixture(scope="module")
def hopper(pytestconfig: pytest.Config) -> tuple[Any, Any, dict[str, Any]]:
    """A function with records of bge-base on an H100, its target and its kernels.

    A record of each variant, of two without ``--slow``; one has a kernel for its lengths too.
    """
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")
    resolved = resolve_target("cuda", arch="sm_90a")
    spec = preset("bge-base").spec("float16")
    key = TargetKey.parse("cuda-sm_90a-h100")
    everything = candidates(Finder([committed_root()]), [key], spec)
    variants = {str(each.entry.provenance.variant): name for name, each in everything.items()}
    most = None if pytestconfig.getoption("--slow") else 2
    found = {name: everything[name] for name in [*variants.values()][:most]}
    assert len(found) > 1
    sizes = SymbolicShape.fresh()
    kernels = {name: replay_record(match.entry, sizes)["main"] for name, match in found.items()}
    tree: Tree = Leaf(next(iter(kernels)))
    for number, name in enumerate(list(kernels)[1:], 1):
        tree = Split("kv_len", 1024 >> number, Leaf(name), tree)
    name = next(iter(kernels))
    shape = PrefillShape.parse(found[name].entry.provenance.shape)
    fixed = SymbolicShape(sizes.batch, shape.qo_len, shape.num_kv)
    own = {name: replay_record(found[name].entry, fixed)["main"]}
    lengths = {(shape.qo_len, shape.num_kv): (Leaf(name), own)}
    function = dispatching_kernel(spec, tree, kernels, sizes, resolved.target, lengths, views=True)
    return function, resolved.target, {**kernels, f"{name} on its lengths": own[name]}


@pytest.mark.thorough
def test_a_gpu_function_compiles_to_what_ours_does(hopper, monkeypatch) -> None:
    function, gpu, kernels = hopper
    monkeypatch.setenv("TVM_COMPILE_FORCE_FALLBACK", "1")  # there may be no toolkit
    source = device_source(tvm.tirx.build(function, target=gpu))
    monkeypatch.delenv("TVM_COMPILE_FORCE_FALLBACK")
    assert source.count('extern "C" __global__') == 2 * len(kernels)  # declared and defined
    assert source.count("wgmma.mma_async") > 0
    ours, cubin = compile_device(tvm.IRModule({"main": function}), gpu)
    assert source == ours
    assert cubin.image[:4] == b"\x7fELF"


def _without_code(stmt: Any) -> Any:
    if not (isinstance(stmt, tvm.tirx.For) and stmt.kind == tvm.tirx.ForKind.THREAD_BINDING):
        return None
    nothing = tvm.tirx.Evaluate(tvm.tirx.const(0, "int32"))
    return tvm.tirx.For(
        stmt.loop_var, stmt.min, stmt.extent, stmt.kind, nothing, stmt.thread_binding
    )


def reached(function: Any, shape: tuple[int, int, int]) -> str:
    """The text of a function of known sizes, without what stands under conditions that fail.

    Launches are without their code: it may divide by sizes, which TVM would fold where they are 0.
    """
    query, key, *_ = function.params
    sizes = (query.shape[0], query.shape[1], key.shape[1])
    parameters = [*function.params, *sizes]
    body = changed(function.body, _without_code)
    whole = tvm.tirx.PrimFunc(parameters, body, function.ret_type, function.attrs)
    kept, skipped = [], math.inf
    for line in whole.specialize(dict(zip(sizes, shape, strict=True))).script().splitlines():
        indent = len(line) - len(line.lstrip())
        if indent <= skipped:
            skipped = (
                indent if line.endswith("if T.tvm_thread_invariant(T.bool(False)):") else math.inf
            )
            kept.append(line)
    return "\n".join(kept)


def test_a_gpu_is_given_no_map_of_no_keys_and_no_grid_of_no_rows(hopper) -> None:
    function, _, _ = hopper
    encode, launch = "cuTensorMapEncodeTiled", "blockIdx.x"
    whole, no_keys = reached(function, (2, 8, 8)), reached(function, (2, 8, 0))
    assert encode in whole
    assert launch in whole
    assert encode not in no_keys
    assert launch in no_keys
    for nothing in ((0, 8, 8), (2, 0, 8), (0, 8, 0)):
        assert launch not in reached(function, nothing)
        assert encode not in reached(function, nothing)


def device_kernels(source: str) -> list[str]:
    """The definitions in CUDA source, without names and what differs by what else is there."""
    _, *texts = source.split('extern "C" __global__ ')
    return [_without_names(text) for text in texts if text.rstrip().endswith("}")]


def _without_names(text: str) -> str:
    names: dict[str, str] = {}
    text = re.sub(r"cse_v\d+", lambda each: names.setdefault(each[0], f"c{len(names)}"), text)
    return re.sub(r"\w+_kernel\w*\(|matrixC_ptr\[\d+\]", "", text)


@pytest.mark.parametrize(
    "spec",
    [
        PrefillSpec(12, 12, 64, "float16"),
        PrefillSpec(12, 12, 64, "float16", window=(64, 64)),
    ],
    ids=str,
)
def test_on_its_lengths_a_kernel_is_that_of_its_shape_but_for_the_batch(spec: PrefillSpec) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")
    resolved = resolve_target("cuda", arch="sm_90a")
    key = TargetKey.parse("cuda-sm_90a-h100")
    found = candidates(Finder([committed_root()]), [key], spec)
    name, match = next(
        (name, match)
        for name, match in found.items()
        # Which tiles a block of a persistent grid takes hangs on the batch.
        if "persistent" not in match.entry.provenance.variant
    )
    shape = PrefillShape.parse(match.entry.provenance.shape)
    lengths = {(shape.qo_len, shape.num_kv): Leaf(name)}
    serving = Serving(spec, key, {name: match}, Leaf(name), lengths)
    module = tvm.IRModule({"main": serving_kernel(serving, resolved, views=True)})
    source, _ = compile_device(module, resolved.target)
    alone, _ = compile_device(replay_record(match.entry), resolved.target)
    (expected,) = device_kernels(alone)
    (fixed,) = [each for each in device_kernels(source) if not re.search(r"\b(qo|kv)_len\b", each)]
    assert re.search(r"\bkv_len\b", source)
    assert fixed.replace(", int batch_size", "") == expected


@pytest.mark.parametrize("space", [pytest.param("cuda_mma", marks=pytest.mark.slow), "cuda_simt"])
def test_kernels_with_barriers_of_tvms_stand_side_by_side(space: str) -> None:
    """TVM places barriers under no condition that threads might see differently."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")
    resolved = resolve_target("cuda", arch="sm_80")
    spec = PrefillSpec(2, 1, 32, "float32" if space == "cuda_simt" else "bfloat16")
    function = for_every_shape(space, spec, resolved, lengths=((256, 256), (77, 301)))
    source, cubin = compile_device(tvm.IRModule({"main": function}), resolved.target)
    kernels = device_kernels(source)
    assert [bool(re.search(r"\b(qo|kv)_len\b", each)) for each in kernels].count(False) == 2
    assert [bool(re.search(r"\bkv_len\b", each)) for each in kernels].count(False) == 4
    assert len(kernels) == 7  # one of them serves views
    assert "__syncthreads" in source
    assert cubin.image[:4] == b"\x7fELF"


def test_rings_of_tiles_take_views_and_a_bias_whose_length_is_learned_at_the_call() -> None:
    """Copies of what a loop does name the sizes that the function learns, also in sums of them."""
    resolved = resolve_target("cuda", arch="sm_90a")
    spec = PrefillSpec(2, 1, 64, "float16", softcap=50, bias="relative")
    function = for_every_shape("cuda_wgmma", spec, resolved)
    (bias,) = [each for each in function.params if each.name == "bias"]
    sizes = [function.params[0].shape[1], function.params[1].shape[1]]
    tvm.ir.assert_structural_equal(bias.shape[1], sizes[0] + sizes[1] - 1)
    named = {str(each) for each in tvm.tirx.analysis.undefined_vars(function.body)}
    assert [name for name in named if re.match(r"(batch_size|qo_len|kv_len)_", name)] == []
    maps = [line for line in function.script().splitlines() if "cuTensorMapEncode" in line]
    assert len(maps) == 12  # all four kernels read views as well
    # Of the one head of keys and values there is no stride to learn.
    for name, learned in {"q": (2, 1, 0), "k": (1, 0), "v": (1, 0)}.items():
        strides = ".*".join(rf"{name}\.strides\[{axis}\]" for axis in learned)
        assert len([line for line in maps if re.search(strides, line)]) == 4


def test_a_trace_for_one_shape_alone_is_not_put_on_others() -> None:
    stock = replace(record(SPEC, SHORT).provenance, space="llvm_stock", variant={})
    entry = replace(record(SPEC, SHORT), provenance=stock)
    with pytest.raises(ValueError, match="fit the shape alone that they were tuned on"):
        replay_record(entry, SymbolicShape.fresh())


def test_a_record_of_another_description_is_refused_by_file(tmp_path: Path) -> None:
    fitting = record(SPEC, SHORT)
    variant = {**fitting.provenance.variant, "q_tile": 32}
    stale = replace(fitting, provenance=replace(fitting.provenance, variant=variant))
    database(tmp_path, stale)
    with pytest.raises(StaleRecordError) as caught:
        sequence_prefill_with_mask(1, 2, 16, "float32", target().target, 0.25, database=[tmp_path])
    for word in (stale.record_id, "records.json", "db migrate"):
        assert word in str(caught.value)
