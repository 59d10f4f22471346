"""Models of transformers with prefilltune's attention, against the same models with eager's.

The kernels are the reference, which stands in the place of built ones: what is tested here is which
of them is called, and with what.
"""

from __future__ import annotations

import copy
import doctest
import importlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefilltune.workloads import (
    PrefillSpec,
    reference_attention,
    reference_packed_attention,
)

torch: Any = pytest.importorskip("torch", reason="needs the extra [transformers]")
transformers: Any = pytest.importorskip("transformers", reason="needs the extra [transformers]")

from transformers import masking_utils  # noqa: E402

import prefilltune.transformers as prefill  # noqa: E402
from prefilltune.torch import InvalidArgumentError, InvalidLibraryError, Kernel, registry  # noqa: E402
from prefilltune.torch import Spec as KernelSpec  # noqa: E402
from prefilltune.transformers import libraries as built_libraries  # noqa: E402
from prefilltune.transformers import packed as attention_of_packed  # noqa: E402
from prefilltune.transformers import session as sessions  # noqa: E402
from prefilltune.transformers.guards import spoil  # noqa: E402
from prefilltune.transformers.imports import when_imported  # noqa: E402
from prefilltune.transformers.models import packed_specs_of, specs_of  # noqa: E402
from prefilltune.transformers.packed import are_misplaced  # noqa: E402

COMMON = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}
DECODER = COMMON | {"num_key_value_heads": 1, "head_dim": 16}
ROWS, LENGTH = 3, 12
LENS = (12, 7, 1)


def bert(**more: Any) -> Any:
    return transformers.BertModel(transformers.BertConfig(**COMMON, **more))


def xlm_r(**more: Any) -> Any:
    return transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**COMMON, **more))


def modernbert(**more: Any) -> Any:
    sizes = {"local_attention": 8, "global_attn_every_n_layers": 2}
    return transformers.ModernBertModel(transformers.ModernBertConfig(**COMMON, **sizes, **more))


def qwen3(**more: Any) -> Any:
    return transformers.Qwen3Model(transformers.Qwen3Config(**DECODER, **more))


def mistral(**more: Any) -> Any:
    return transformers.MistralModel(
        transformers.MistralConfig(**DECODER, **{"sliding_window": 4, **more})
    )


def gemma3(**more: Any) -> Any:
    sizes = {
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 9,
    }
    return transformers.Gemma3TextModel(transformers.Gemma3TextConfig(**DECODER, **sizes, **more))


def embedding_gemma(**more: Any) -> Any:
    return gemma3(use_bidirectional_attention=True, **more)


def gemma2(**more: Any) -> Any:
    sizes = {"sliding_window": 5, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0}
    return transformers.Gemma2Model(transformers.Gemma2Config(**DECODER, **sizes, **more))


BIASED = {
    "vocab_size": 50,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9,
}


def t5(**more: Any) -> Any:
    return transformers.T5EncoderModel(transformers.T5Config(**BIASED, **more))


def umt5(**more: Any) -> Any:
    """With a bias of its own in each layer."""
    return transformers.UMT5EncoderModel(transformers.UMT5Config(**BIASED, **more))


MODELS: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (bert, xlm_r, modernbert, qwen3, mistral, gemma3, embedding_gemma, gemma2, t5, umt5)
}


def reference_kernel(spec: PrefillSpec) -> Callable[..., None]:
    def kernel(*arguments: Any) -> None:
        *inputs, output, lse = (each for each in arguments if isinstance(each, torch.Tensor))
        arrays = (
            each.float().numpy() if each.is_floating_point() else each.numpy() for each in inputs
        )
        reference = reference_packed_attention if spec.is_packed else reference_attention
        for result, computed in zip((output, lse), reference(spec, *arrays), strict=True):
            result.copy_(torch.from_numpy(computed))

    return kernel


def offer(*specs: KernelSpec, views: bool = True) -> None:
    """Let there be kernels that serve every shape of specs, and may read views."""
    for spec in specs:
        scores = {"softcap": spec.softcap, "bias": spec.bias}
        heads = spec.num_qo_heads, spec.num_kv_heads, spec.head_dim
        computed = PrefillSpec(*heads, "float32", spec.mask_mode, sm_scale=spec.sm_scale, **scores)
        kernel = Kernel("cpu", spec, None, "kernel", views)
        registry.register(kernel, reference_kernel(computed))


@pytest.fixture(autouse=True)
def _no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_served", {})


def enabled(name: str, dtype: Any = torch.float32, **options: Any) -> tuple[Any, prefill.Report]:
    """A model whose attentions all have kernels, and its report."""
    model = made(name, dtype)
    offer(*(spec for specs in specs_of(model) for spec in specs))
    return model, prefill.enable(model, [], **options)


def made(name: str, dtype: Any = torch.float32) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().to(dtype).eval()
    for parameter in model.parameters():  # as they are made, attention hardly tells keys apart
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def batch(padding: str) -> dict[str, Any]:
    torch.manual_seed(1)
    ids = torch.randint(2, 50, (ROWS, LENGTH))
    positions = torch.arange(LENGTH)
    lens = torch.tensor(LENS)[:, None]
    masks = {
        "right": positions < lens,
        "left": positions >= LENGTH - lens,
        "full": torch.ones(ROWS, LENGTH, dtype=torch.bool),
        "holes": (positions != 3) & (positions < lens),
        "mixed": torch.where(
            torch.tensor([[False], [True], [False]]), positions < 7, positions > 4
        ),
    }
    if padding == "none":
        return {"input_ids": ids}
    return {"input_ids": ids, "attention_mask": masks[padding].long()}


def hidden(model: Any, inputs: dict[str, Any]) -> Any:
    with torch.inference_mode():
        return model(**inputs).last_hidden_state


def eager(model: Any, inputs: dict[str, Any]) -> Any:
    parts = [each for each in model.modules() if isinstance(each, transformers.PreTrainedModel)]
    for part in parts:
        part.set_attn_implementation("eager")
    try:
        return hidden(model, inputs)
    finally:
        for part in parts:
            part.set_attn_implementation("prefilltune")


def assert_as_eager(model: Any, inputs: dict[str, Any], result: Any = None) -> None:
    """Where there is no padding."""
    result = hidden(model, inputs) if result is None else result
    expected = eager(model, inputs)
    tolerance = 1e-4 if result.dtype == torch.float32 else 6e-2
    valid = inputs.get("attention_mask", torch.ones(result.shape[:2])).bool()
    torch.testing.assert_close(
        result[valid], expected[valid], rtol=tolerance, atol=tolerance * expected.abs().max().item()
    )
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_eager_does(name: str, dtype: str) -> None:
    model, report = enabled(name, getattr(torch, dtype))
    for padding in ("right", "left", "none", "full"):
        report.clear()
        assert_as_eager(model, batch(padding))
        assert not report.handed_over
        assert report.served.total() == 2
        assert len(report.served) == len(specs_of(model))
        assert not report.copied  # parts of one projection neither


@pytest.mark.parametrize("padding", ["right", "packed"])
def test_what_an_earlier_version_built_gets_dense_copies(padding: str) -> None:
    """Of what one projection makes, rotary positions leave the value as it was."""
    model = made("modernbert")
    padded = (spec for specs in specs_of(model) for spec in specs)
    offer(*padded, *packed_specs_of(model), views=False)
    report = prefill.enable(model, [])
    inputs = packed("modernbert") if padding == "packed" else batch(padding)
    check = assert_packed_as_eager if padding == "packed" else assert_as_eager
    check(model, inputs)
    assert report.copied == {"value": 2}


def packed(name: str, **more: Any) -> dict[str, Any]:
    """The sequences of a batch one behind another."""
    inputs = batch("right")
    ids = inputs["input_ids"]
    first = 1 if name == "xlm_r" else 0  # behind that of padding
    collate = transformers.DataCollatorWithFlattening(
        return_flash_attn_kwargs=True, position_ids_start=first
    )
    rows = [{"input_ids": row[:length]} for row, length in zip(ids, LENS, strict=True)]
    made = collate(rows, return_tensors="pt")
    del made["labels"]
    if "t5" in name:
        del made["position_ids"]
    return {**made, **more}


def assert_packed_as_eager(model: Any, inputs: dict[str, Any], result: Any = None) -> None:
    """Against each sequence alone."""
    result = hidden(model, inputs) if result is None else result
    ids = batch("none")["input_ids"]
    tolerance = 1e-4 if result.dtype == torch.float32 else 6e-2
    parts = result[0].split(LENS)
    for row, length, part in zip(ids, LENS, parts, strict=True):
        (expected,) = eager(model, {"input_ids": row[None, :length]})
        scale = expected.abs().max().item()
        torch.testing.assert_close(part, expected, rtol=tolerance, atol=tolerance * scale)


def enabled_packed(name: str, dtype: Any = torch.float32) -> tuple[Any, prefill.Report]:
    model = made(name, dtype)
    offer(*packed_specs_of(model))
    return model, prefill.enable(model, [], layout="packed", strict=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_packed_sequences_are_computed_as_eager_does_each(name: str, dtype: str) -> None:
    model, report = enabled_packed(name, getattr(torch, dtype))
    assert_packed_as_eager(model, packed(name))
    assert not report.handed_over
    assert report.served.total() == 2
    assert len(report.served) == len(packed_specs_of(model))
    assert all("packed" in served for served in report.served)
    if "position_ids" in packed(name):  # what tells sequences apart besides says nothing more
        options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
        assert_packed_as_eager(model, packed(name, **options))


@pytest.mark.parametrize("name", ["gemma3", "embedding_gemma"])
def test_packed_sequences_without_a_mask_go_by_sliding_window(name: str) -> None:
    model, report = enabled_packed(name)
    masks = dict.fromkeys(("full_attention", "sliding_attention"))
    assert_packed_as_eager(model, packed(name, attention_mask=masks))
    assert len(report.served) == 2


@pytest.mark.parametrize("name", ["gemma3", "gemma2", "t5"])
def test_packed_sequences_without_a_kernel_are_left_to_sdpa(name: str) -> None:
    model = made(name)
    report = prefill.enable(model, [])
    assert_packed_as_eager(model, packed(name))
    assert not report.served
    assert all("no kernel is loaded for" in each for each in report.handed_over)
    gradient = model(**packed(name)).last_hidden_state.sum()
    gradient.backward()
    assert any("gradient" in each for each in report.handed_over)
    assert all(each.grad is None or torch.isfinite(each.grad).all() for each in model.parameters())


@pytest.mark.parametrize("name", ["qwen3", "t5"])
def test_packed_sequences_are_compiled(name: str) -> None:
    model, report = enabled_packed(name)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    inputs = packed(name)
    assert_packed_as_eager(model, inputs, hidden(compiled, inputs))
    assert report.served.total() == 2


def test_the_longest_sequence_is_told_where_it_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """By it the kernel is chosen; for a tensor's, nothing waits."""
    model, _ = enabled_packed("bert")
    told: list[Any] = []
    compute = attention_of_packed.packed_prefill

    def computes(*arguments: Any, max_seqlen_q: Any, **options: Any) -> Any:
        told.append(max_seqlen_q)
        return compute(*arguments, max_seqlen_q=max_seqlen_q, **options)

    monkeypatch.setattr(attention_of_packed, "packed_prefill", computes)
    for said in (max(LENS), torch.tensor(max(LENS)), None):
        assert_packed_as_eager(model, packed("bert", max_length_q=said))
    assert told == [max(LENS)] * 2 + [None] * 4


def test_what_offsets_do_not_say_of_packed_sequences_is_refused() -> None:
    model, _ = enabled_packed("bert")
    inputs = packed("bert")
    mask = torch.ones_like(inputs["input_ids"])
    for more, message in (
        ({"attention_mask": mask}, "attention_mask is given besides"),
        ({"cu_seq_lens_k": None}, "cu_seq_lens_k is absent"),
        ({"attention_mask": mask[:, None, None].bool()}, "its mask was made ahead"),
    ):
        with pytest.raises(prefill.NotServedError, match=message):
            hidden(model, {**inputs, **more})
    offsets = torch.tensor([0, 12, 19, 19], dtype=torch.int32)
    with pytest.raises(InvalidArgumentError, match="ends with 19; expected 0 and 20"):
        hidden(model, {**inputs, "cu_seq_lens_k": offsets})
    qwen, _ = enabled_packed("qwen3")
    with torch.inference_mode():
        cache = qwen(**packed("qwen3")).past_key_values
    with pytest.raises(prefill.NotServedError, match="continues what is in a cache"):
        hidden(qwen, packed("qwen3", past_key_values=cache))


@pytest.mark.parametrize("name", ["qwen3", "mistral", "gemma3"])
def test_nobody_waits_to_learn_whether_sequences_are_packed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, report = enabled_packed(name)
    looked: list[Any] = []
    look = masking_utils.find_packed_sequence_indices

    def looks(positions: Any) -> Any:
        looked.append(positions)
        return look(positions)

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", looks)
    inputs = packed(name, use_cache=False)
    assert_packed_as_eager(model, inputs)
    with torch.inference_mode():
        by_position = model(inputs.pop("input_ids"), **inputs).last_hidden_state
    assert_packed_as_eager(model, {}, by_position)
    assert not looked
    assert len(report.served) > 0
    model.set_attn_implementation("sdpa")
    assert_packed_as_eager(model, packed(name, use_cache=False))
    assert looked


@pytest.mark.parametrize("head_dim", [1, 2, 3, 16, 72])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_wrong_becomes_nan_and_the_rest_stays(dtype: Any, head_dim: int) -> None:
    output = torch.randn(3, 2, 2, head_dim, dtype=dtype)
    output[0] = torch.inf
    for wrong in (torch.tensor([True, False, True])[:, None, None, None], torch.tensor(False)):
        spoiled = output.clone()
        spoil(spoiled, wrong)
        torch.testing.assert_close(
            spoiled, output.masked_fill(wrong, torch.nan), rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("offsets", [[0, 3, 3, 5], [0, 4, 3, 5], [1, 3, 5], [0, 3, 6]])
def test_offsets_that_a_gpu_cannot_refuse_become_nan(offsets: list[int]) -> None:
    wrong = are_misplaced(torch.tensor(offsets), torch.empty(5))
    assert wrong.item() == (offsets != [0, 3, 3, 5])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_a_mask_with_holes_is_left_to_sdpa(name: str, dtype: str) -> None:
    model, report = enabled(name, getattr(torch, dtype))
    for padding in ("holes", "mixed"):
        assert_as_eager(model, batch(padding))
    assert not report.served
    (reason,) = report.handed_over
    assert "holes" in reason
    prefill.enable(model, [], strict=True)
    with pytest.raises(prefill.NotServedError, match="holes"):
        hidden(model, batch("holes"))


@pytest.mark.parametrize("name", ["bert", "gemma3"])
def test_where_nobody_looks_what_is_padded_otherwise_is_nan(name: str) -> None:
    """As while a graph is compiled or captured."""
    model, report = enabled(name, check="never")
    usual = "right" if name == "bert" else "left"
    assert_as_eager(model, batch(usual))
    prefill.enable(model, [], check="never", padding="right")
    assert_as_eager(model, batch("right"))
    assert_as_eager(model, batch("none"))
    inputs = batch("mixed")
    result = hidden(model, inputs)
    assert torch.isfinite(result[1]).all()
    assert torch.isnan(result[[0, 2]]).all()
    assert not report.handed_over
    prefill.enable(model, [], check="never", padding="left")
    assert_as_eager(model, batch("left"))
    assert torch.isnan(hidden(model, batch("right"))[1:]).all()


def test_a_compiled_graph_takes_other_masks() -> None:
    model, report = enabled("bert")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_as_eager(model, batch("right"), hidden(compiled, batch("right")))
    assert torch.isnan(hidden(compiled, batch("left"))[1:]).all()
    assert report.served.total() == 2
    assert not report.handed_over


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "embedding_gemma"])
def test_a_graph_is_compiled_for_all_lengths(name: str) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    model, report = enabled(name)
    graphs = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=graphs, fullgraph=True, dynamic=True)
    counted = []
    for length in (LENGTH, 9, 10):
        inputs = {key: each[:, :length].contiguous() for key, each in batch("right").items()}
        assert_as_eager(model, inputs, hidden(compiled, inputs))
        counted.append((graphs.frame_count, report.served.total()))
    assert counted[1:] == [counted[1]] * 2  # models compile twice, with SDPA too
    assert not report.handed_over


def test_a_model_that_generates_decodes_with_sdpa() -> None:
    torch.manual_seed(0)
    config = transformers.Qwen3Config(**DECODER, eos_token_id=49)
    model = transformers.Qwen3ForCausalLM(config).eval()
    offer(*(spec for specs in specs_of(model) for spec in specs))
    expected = {}
    report = None
    for cache in ("dynamic", "static"):
        for name in ("eager", "prefilltune"):
            if name == "prefilltune":
                report = prefill.enable(model, [])
            else:
                model.set_attn_implementation("eager")
            options = {"max_new_tokens": 4, "do_sample": False, "disable_compile": True}
            tokens = model.generate(**batch("left"), **options, cache_implementation=cache)
            torch.testing.assert_close(tokens, expected.setdefault(cache, tokens))
        assert report is not None
        if cache == "dynamic":
            assert report.served.total() == 2
            assert report.handed_over == {"it decodes, or continues what is in a cache": 6}
        else:
            assert sum(report.handed_over.values()) == 8
            assert any("static cache" in reason for reason in report.handed_over)


def test_training_is_left_to_sdpa() -> None:
    model, report = enabled("bert")
    model(**batch("right")).last_hidden_state.sum().backward()
    (reason,) = report.handed_over
    assert "inference_mode()" in reason
    assert all(each.grad is not None for each in model.encoder.parameters())
    model.train()
    with torch.no_grad():
        model(**batch("right"))
    assert any("drops out" in reason for reason in report.handed_over)


def test_what_has_no_kernel_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = made("modernbert")
    whole, _ = specs_of(model)
    offer(*whole)
    report = prefill.enable(model, [])
    assert "padded_w4-4" in caplog.text
    assert "for 'cpu', where the model is" in caplog.text
    assert_as_eager(model, batch("right"))
    assert (report.served.total(), sum(report.handed_over.values())) == (1, 1)
    (reason,) = report.handed_over
    assert "prefilltune build --target llvm --heads 2/2x16" in reason
    assert "left to SDPA: 1 calls" in str(prefill.report(model))
    with pytest.raises(prefill.NotBuiltError, match="padded_w4-4"):
        prefill.enable(model, [], strict=True)


def test_a_causal_kernel_for_the_left_serves_padding_on_the_right() -> None:
    model = made("mistral")
    ((left, _),) = specs_of(model)
    offer(left)
    report = prefill.enable(model, [], strict=True)
    assert_as_eager(model, batch("right"))
    assert report.served == {str(left): 2}


def test_a_window_longer_than_sequences_is_none() -> None:
    MODELS["wide"] = lambda: mistral(sliding_window=LENGTH)
    wide = made("wide")
    del MODELS["wide"]
    offer(*specs_of(made("qwen3"))[0])
    report = prefill.enable(wide, [])
    assert_as_eager(wide, batch("left"))
    assert not report.handed_over


def test_masks_of_four_dimensions_and_packed_rows_are_no_lengths() -> None:
    """Those that position_ids alone tell apart."""
    model, report = enabled("bert")
    inputs = batch("right")
    expected = eager(model, inputs)
    pairs = inputs["attention_mask"].bool()[:, None, None, :].expand(-1, 1, LENGTH, -1)
    valid = inputs["attention_mask"].bool()
    result = hidden(model, {**inputs, "attention_mask": pairs})
    torch.testing.assert_close(result[valid], expected[valid], rtol=1e-4, atol=1e-4)
    assert next(iter(report.handed_over)).startswith("its mask was made ahead")
    qwen, report = enabled("qwen3")
    positions = torch.cat([torch.arange(5), torch.arange(LENGTH - 5)])[None]
    packed = {"input_ids": batch("none")["input_ids"][:1], "position_ids": positions}
    assert_as_eager(qwen, {**packed, "use_cache": False})
    (reason,) = report.handed_over
    assert "none of causal" in reason


def test_models_that_compute_attention_themselves_are_refused() -> None:
    config = transformers.MPNetConfig(**COMMON)
    with pytest.raises(prefill.UnsupportedModelError, match="MPNetModel"):
        prefill.enable(transformers.MPNetModel(config))
    with pytest.raises(prefill.UnsupportedModelError, match="AutoModel"):
        prefill.enable(torch.nn.Linear(1, 1))
    with pytest.raises(prefill.UnsupportedModelError, match="str holds no model"):
        prefill.enable("BAAI/bge-base-en-v1.5")


def test_options_and_folders_are_checked(tmp_path: Path) -> None:
    model = made("bert")
    with pytest.raises(InvalidArgumentError, match="check is 'once'"):
        prefill.enable(model, [], check="once")
    with pytest.raises(InvalidArgumentError, match="accept is 'nearby'; pass exact or family or"):
        prefill.enable(model, [], accept="nearby")
    with pytest.raises(InvalidLibraryError, match="prefilltune build"):
        prefill.enable(model, tmp_path)
    with pytest.raises(prefill.NotBuiltError, match="prefilltune tune --target llvm"):
        prefill.enable(model, cache=tmp_path, strict=True)
    assert model.config._attn_implementation == "sdpa"


def test_a_folder_of_another_target_that_cannot_be_read_is_no_matter(tmp_path: Path) -> None:
    foreign = tmp_path / "records" / "llvm-skylake-8c"
    foreign.mkdir(parents=True)
    (foreign / "provenance.json").write_text("<<<<<<< HEAD")
    report = prefill.enable(made("bert"), records=tmp_path / "records", cache=tmp_path / "cache")
    assert not report.libraries


def test_a_mask_goes_to_other_devices_once() -> None:
    mask = prefill.masks.mask_of_none(torch.empty(1, 2, 4, 8), torch.empty(1, 2, 4, 8), True)
    assert mask.to("cpu") is mask
    there = mask.to("meta", non_blocking=True)
    assert there is mask.to(torch.device("meta"))
    assert there.padding(True, "right").lens.device.type == "meta"
    assert there.window == mask.window
    assert there.pairs() is None  # as of causal rows that SDPA knows
    assert there.addends(torch.float32).device.type == "meta"


def saved_with_a_tokenizer(model: Any, folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    model.save_pretrained(folder)


def sentence_transformer(folder: Path, attention: str, **more: Any) -> Any:
    library = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    modules = library.sentence_transformer.modules
    told = {"attn_implementation": attention, **more}
    inside = modules.Transformer(str(folder), model_kwargs=told)
    return library.SentenceTransformer(modules=[inside, modules.Pooling(32, "mean")], device="cpu")


TEXTS = ["a b c", "d", "e f g h a b c d"]


@pytest.mark.parametrize("name", [each for each in MODELS if each not in ("bert", "gemma2")])
def test_sentence_transformers_encodes_as_with_eager_in_bfloat16(name: str, tmp_path: Path) -> None:
    """On packed sequences, but for T5, which it pads whatever the attention."""
    model = made(name, torch.bfloat16)
    saved_with_a_tokenizer(model, tmp_path)
    padded = [spec for specs in specs_of(model) for spec in specs]
    packed_specs = packed_specs_of(model)
    offer(*padded, *packed_specs)
    dtype = {"dtype": torch.bfloat16}
    expected = sentence_transformer(tmp_path, "eager", **dtype).encode(TEXTS)
    ours = sentence_transformer(tmp_path, "prefilltune", **dtype)
    report = prefill.enable(ours, [], strict=True)
    np.testing.assert_allclose(ours.encode(TEXTS), expected, rtol=6e-2, atol=6e-2)
    assert report.served.total() == 2
    served = {str(each) for each in (padded[:1] if "t5" in name else packed_specs)}
    assert report.served.keys() == served


@pytest.mark.parametrize("name", ["bert", "xlm_r"])
def test_sentence_transformers_unpads_where_there_are_packed_kernels(
    name: str, tmp_path: Path
) -> None:
    saved_with_a_tokenizer(made(name), tmp_path)

    def loaded(attention: str) -> Any:
        return sentence_transformer(tmp_path, attention)

    expected = loaded("eager").encode(TEXTS)
    (padded,), (packed_spec,) = specs_of(made(name)), packed_specs_of(made(name))
    offer(*padded)
    model = loaded("prefilltune")
    report = prefill.enable(model, [], strict=True)
    np.testing.assert_allclose(model.encode(TEXTS), expected, rtol=1e-4, atol=1e-4)
    assert report.served == {str(padded[0]): 2}
    offer(packed_spec)
    report = prefill.enable(model, [], strict=True)
    np.testing.assert_allclose(model.encode(TEXTS), expected, rtol=1e-4, atol=1e-4)
    assert report.served == {str(packed_spec): 2}
    # Another attention than the one that it was made with knows no packed sequences.
    model[0].model.set_attn_implementation("sdpa")
    np.testing.assert_allclose(model.encode(TEXTS), expected, rtol=1e-4, atol=1e-4)
    assert (report.served.total(), model[0].can_flatten_inputs) == (2, False)
    # Told as it is loaded, and nothing else.
    told = loaded("prefilltune")
    report = prefill.report(told)
    report.clear()
    np.testing.assert_allclose(told.encode(TEXTS), expected, rtol=1e-4, atol=1e-4)
    assert (report.served, report.handed_over) == ({str(packed_spec): 2}, {})
    told[0].unpad_inputs = False
    prefill.enable(told, [])
    assert not told[0].can_flatten_inputs
    assert not loaded("sdpa")[0].can_flatten_inputs


def test_a_module_is_changed_before_or_after_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported_late.py").write_text("NUMBER = 1")
    seen = []
    when_imported("imported_late", lambda module: seen.append(module.NUMBER))
    assert not seen
    module = importlib.import_module("imported_late")
    monkeypatch.setattr(module, "NUMBER", 2)
    when_imported("imported_late", lambda module: seen.append(module.NUMBER))
    assert seen == [1, 2]
    del sys.modules["imported_late"]


@pytest.mark.parametrize("decoder", ["t5", "bart", "bert"])
def test_keys_of_another_sequence_are_no_padding_of_the_queries(decoder: str) -> None:
    """Not even where both are as long."""
    torch.manual_seed(0)
    if decoder == "t5":
        config = transformers.T5Config(**BIASED, decoder_start_token_id=0)
        model = transformers.T5Model(config).eval()
    elif decoder == "bart":
        of_each = ("layers", "attention_heads", "ffn_dim")
        sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in of_each}
        config = transformers.BartConfig(vocab_size=50, d_model=32, **sizes)
        model = transformers.BartModel(config).eval()
    else:
        roles = {"is_decoder": True, "add_cross_attention": True}
        model = transformers.BertModel(transformers.BertConfig(**COMMON, **roles)).eval()
    heads, scale = (2, 2, 16, "float32"), 1.0 if decoder == "t5" else 0.25
    for mask in ("padded", "padded_left", "causal_padded", "causal_padded_left"):
        for bias in (None, "relative"):
            offer(KernelSpec(mask, *heads, scale, "float32", bias=bias))
    report = prefill.enable(model, [])
    inputs = batch("right")
    if decoder == "bert":
        states = torch.randn(ROWS, LENGTH, 32)
        other = {
            "encoder_hidden_states": states,
            "encoder_attention_mask": inputs["attention_mask"],
        }
        inputs = {"input_ids": inputs["input_ids"], "use_cache": False, **other}
    else:
        inputs = {**inputs, "decoder_input_ids": batch("none")["input_ids"]}
    result, expected = hidden(model, inputs), eager(model, inputs)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    assert report.served
    assert report.handed_over["its keys are of another sequence than its queries"] == 2


def vit() -> tuple[Any, dict[str, Any]]:
    sizes = {"image_size": 8, "patch_size": 2, "hidden_size": 32, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, num_hidden_layers=2, num_attention_heads=2)
    return transformers.ViTModel(config), {"pixel_values": torch.randn(2, 3, 8, 8)}


def whisper_encoder() -> tuple[Any, dict[str, Any]]:
    """It multiplies its queries by the scale itself."""
    of_each = ("layers", "attention_heads", "ffn_dim")
    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in of_each}
    sizes |= {"num_mel_bins": 4, "max_source_positions": 6}
    config = transformers.WhisperConfig(d_model=32, **sizes)
    encoder = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    return encoder, {"input_features": torch.randn(2, 4, 12)}


@pytest.mark.parametrize("make", [vit, whisper_encoder])
def test_layers_without_masks_are_served(make: Callable[[], tuple[Any, dict[str, Any]]]) -> None:
    torch.manual_seed(0)
    model, inputs = make()
    (specs,) = specs_of(model.eval())
    offer(*specs)
    report = prefill.enable(model, [], strict=True)
    torch.testing.assert_close(hidden(model, inputs), eager(model, inputs), rtol=1e-4, atol=1e-4)
    assert report.served == {str(specs[0]): 2}


def test_a_model_may_be_told_as_it_is_made() -> None:
    (specs,) = specs_of(made("bert"))
    offer(*specs)
    config = transformers.BertConfig(**COMMON)
    model = transformers.AutoModel.from_config(config, attn_implementation="prefilltune").eval()
    report = prefill.report(model)
    report.clear()
    assert_as_eager(model, batch("right"))
    assert report.served == {str(specs[0]): 2}


def test_a_copy_of_a_model_counts_for_itself_and_loads_its_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In another process, where they are not loaded yet."""
    model, report = enabled("bert")
    report.libraries = [tmp_path / "libprefill.so"]
    found: list[Path] = []
    with monkeypatch.context() as there:
        there.setattr(sessions, "load", found.append)
        unpickled = pickle.loads(pickle.dumps(model))
    assert found == [tmp_path]
    for copied in (unpickled, copy.deepcopy(model)):
        assert_as_eager(copied, batch("right"))
        assert prefill.report(copied).served.total() == 2
    assert not report.served
    assert f"a library that is left out: {tmp_path / 'manifest.json'}" in caplog.text


def test_autocast_is_told_to_be_none_for_kernels() -> None:
    model, report = enabled("qwen3")
    inputs = batch("left") | {"use_cache": False}
    with torch.autocast("cpu", torch.bfloat16):
        hidden(model, inputs)
    (reason,) = report.handed_over
    assert reason.endswith("convert the model with model.to(dtype), and call it without autocast")


def test_examples_of_docstrings_are_so() -> None:
    assert doctest.testmod(prefill.windows).failed == 0


def test_a_library_tells_which_records_of_others_it_is_made_of(tmp_path: Path) -> None:
    portable = "padded: portable: records of llvm-x86_64_v3, timed on a CPU; run: prefilltune tune"
    kernels = [
        {"spec": "padded", "tier": "portable"},
        {"spec": "padded", "notes": ["nothing was measured; run: prefilltune sweep", portable]},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"kernels": kernels}))
    assert built_libraries.stand_ins_in(tmp_path) == [portable]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_library_is_built_of_records_once(dtype: str, tmp_path: Path) -> None:
    """Those in float32 serve a CPU in bfloat16 too, and it is told."""
    script = Path(__file__).with_name("small_libraries.py")
    model = made("bert", getattr(torch, dtype))
    (specs,) = specs_of(model)
    texts = [f"{name}_hq2_hkv2_d16_float32_s0.25" for name in (specs[0].mask_mode, "packed")]
    records, cache = tmp_path / "records", tmp_path / "cache"
    subprocess.run([sys.executable, str(script), "--records", str(records), *texts], check=True)
    options = {"records": records, "accept": "family", "cache": cache, "strict": True}
    report = prefill.enable(model, **options)
    assert_as_eager(model, batch("right"))
    assert_packed_as_eager(model, packed("bert"))
    assert report.served == {str(each): 2 for each in (specs[0], *packed_specs_of(model))}
    told = [each.split(";")[0] for each in report.stand_ins]
    assert len(told) == (0 if dtype == "float32" else 1)  # of the first library
    assert all(" in float32" in each for each in told)
    libraries = report.libraries
    when = [each.stat().st_mtime_ns for each in libraries]
    assert prefill.enable(model, **options).libraries == libraries
    assert set(prefill.enable(model, cache, strict=True).libraries) == set(libraries)
    assert [each.stat().st_mtime_ns for each in libraries] == when
    assert len(prefill.enable(model, layout="packed", **options).libraries) == 1
    left = batch("left")
    with pytest.raises(prefill.NotServedError, match="padded_left"):
        hidden(model, left)
