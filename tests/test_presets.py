"""Presets: each is a workload that can be tuned; names are found or explained."""

from __future__ import annotations

import pytest

from prefilltune.workloads import (
    DTYPES,
    InvalidSpecError,
    PrefillShape,
    PrefillSpec,
    UnknownPresetError,
    load_presets,
    preset,
)

PRESETS = load_presets()


def test_the_promised_models_are_there():
    assert set(PRESETS) == {
        *("minilm-l6", "mpnet-base", "jina-v2-base", "bge-small", "e5-small"),
        *("bge-base", "bge-large", "bge-m3", "e5-base", "e5-large", "gte-base", "gte-large"),
        *("modernbert-base", "modernbert-large", "xlm-r-base", "xlm-r-large"),
        *("qwen3-embedding-0.6b", "qwen3-embedding-4b", "qwen3-embedding-8b"),
        *("gte-qwen2-1.5b", "gte-qwen2-7b", "e5-mistral-7b", "embeddinggemma-300m"),
        *("llama-3-8b", "vit-l", "siglip-so400m", "t5-base", "umt5-base", "whisper-large-v3"),
    }


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_whole(name):
    found = preset(name)
    assert found.name == name
    assert found.description
    assert found.model.count("/") == 1
    assert found.shapes
    assert len(set(found.shapes)) == len(found.shapes)
    assert all(isinstance(shape, PrefillShape) for shape in found.shapes)
    for dtype in DTYPES:
        assert {each.dtype for each in found.specs(dtype)} == {dtype}
        assert found.spec(dtype) == found.specs(dtype)[0]
    assert len(set(found.specs())) == len(found.attentions)
    assert [preset(each.name).specs() for each in found.apart()] == [[x] for x in found.specs()]


def test_spec_takes_the_preset_dtype_unless_told():
    qwen = preset("qwen3-embedding-0.6b")
    expected = PrefillSpec(16, 8, 128, "float16", "causal_padded_left")
    assert qwen.spec() == expected
    assert qwen.spec("bfloat16").dtype == "bfloat16"
    with pytest.raises(InvalidSpecError, match="'int8' is unknown"):
        qwen.spec("int8")


def test_vit_has_the_class_token():
    assert {shape.qo_len for shape in preset("vit-l").shapes} == {(224 // 14) ** 2 + 1}


@pytest.mark.parametrize("name", ["modernbert-base", "modernbert-large", "embeddinggemma-300m"])
def test_one_of_several_attentions_has_a_name(name):
    assert [each.name for each in preset(name).apart()] == [f"{name}:global", f"{name}:local"]
    whole, some = preset(f"{name}:global").spec(), preset(f"{name}:local").spec()
    assert (whole.mask_mode, some.window[0]) == ("padded", some.window[1])
    with pytest.raises(UnknownPresetError, match=f"no attention 'all'; choose {name}:global or"):
        preset(f"{name}:all")
    with pytest.raises(UnknownPresetError, match=r"no attention 'all'; choose bge-base$"):
        preset("bge-base:all")


def test_fields_of_a_spec_are_in_the_file():
    assert str(preset("t5-base").spec()) == "padded_hq12_hkv12_d64_bfloat16_s1.0_biasrelative"
    assert preset("e5-mistral-7b").spec().window == (4095, 0)


def test_siglip_sees_whole_patches():
    assert {shape.qo_len for shape in preset("siglip-so400m").shapes} == {(384 // 14) ** 2}


def test_unknown_name_suggests_the_nearest_and_lists_all():
    with pytest.raises(UnknownPresetError) as caught:
        preset("bge_base")
    message = str(caught.value)
    assert message.startswith("preset 'bge_base' is unknown; did you mean bge-base")
    assert all(name in message for name in PRESETS)


def test_name_in_capitals_is_suggested():
    with pytest.raises(UnknownPresetError, match="did you mean modernbert-base"):
        preset("ModernBERT-base")


def test_unknown_name_near_nothing():
    with pytest.raises(UnknownPresetError) as caught:
        preset("zzzz")
    assert "did you mean" not in str(caught.value)
