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
        *("bge-base", "bge-large", "bge-m3", "e5-base", "e5-large", "gte-base", "gte-large"),
        *("modernbert-base", "modernbert-large", "xlm-r-base", "xlm-r-large"),
        *("qwen3-embedding-0.6b", "qwen3-embedding-4b", "qwen3-embedding-8b"),
        *("llama-3-8b", "vit-l"),
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
        assert found.spec(dtype).dtype == dtype


def test_spec_takes_the_preset_dtype_unless_told():
    qwen = preset("qwen3-embedding-0.6b")
    expected = PrefillSpec(16, 8, 128, "float16", "causal_padded_left")
    assert qwen.spec() == expected
    assert qwen.spec("bfloat16").dtype == "bfloat16"
    with pytest.raises(InvalidSpecError, match="'int8' is unknown"):
        qwen.spec("int8")


def test_vit_has_the_class_token():
    assert {shape.qo_len for shape in preset("vit-l").shapes} == {(224 // 14) ** 2 + 1}


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
