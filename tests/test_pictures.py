"""The pictures of docs/explanation/derivation.md show what is derived today."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "explanation" / "derivation.md").read_text()


@pytest.fixture(scope="module")
def drawing() -> Any:
    spec = importlib.util.spec_from_file_location("draw", DOCS / "pictures" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pictures_are_as_drawn_today(drawing: Any) -> None:
    """Else: python docs/pictures/draw.py."""
    shown = set(re.findall(r"\(\.\./pictures/(\w+)\.svg\)", PAGE))
    assert shown == {path.stem for path in (DOCS / "pictures").glob("*.svg")} == {*drawing.PICTURES}
    for name, draw in drawing.PICTURES.items():
        assert (DOCS / "pictures" / f"{name}.svg").read_text() == draw(), name


def test_steps_of_a_pipeline_wait_for_what_they_read(drawing: Any) -> None:
    """And no two of a lane run at the same time."""
    after = {"dot": ["k"], "softmax": ["dot"], "acc": ["softmax", "v"]}
    for steps in drawing.ORDERS.values():
        begins = {(step, tile): at for step, tile, at in steps}
        assert len(begins) == len(steps) == 15
        for (step, tile), at in begins.items():
            for read in after.get(step, ()):
                assert begins[read, tile] + drawing.STEPS[read][1] <= at
            for (other, its), begin in begins.items():
                beside = drawing.STEPS[other][0] == drawing.STEPS[step][0]
                if beside and (other, its) != (step, tile):
                    assert at + drawing.STEPS[step][1] <= begin or begin < at
