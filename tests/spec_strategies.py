"""What hypothesis draws of specs."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


def masks_and_scores() -> st.SearchStrategy[dict[str, Any]]:
    """Choices of a :class:`~prefilltune.workloads.PrefillSpec`, by their names."""
    end = st.none() | st.integers(0, 8)
    return st.fixed_dictionaries(
        {
            "padding": st.sampled_from(["right", "left"]),
            "window": st.just((None, None)) | st.tuples(end, end),
            "softcap": st.none() | st.floats(0.5, 50.0),
            "bias": st.sampled_from([None, "relative"]),
            "padding_output": st.sampled_from(["zero", "untouched"]),
        }
    )
