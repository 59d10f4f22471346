"""What a CPU could reach: the fastest matrix product of a run."""

from __future__ import annotations

import pytest

from prefilltune.tuning.comparing.cpu_bench import with_one_product
from prefilltune.tuning.measuring.cpu import time_torch_gemm
from prefilltune.tuning.measuring.timing import Result

TUNED = Result((1e-3, 1e-3))
SLOW, FAST = Result((4e-3, 5e-3, 3e-3)), Result((2e-3, 2e-3, 9e-3))


@pytest.mark.parametrize("fastest", ["numpy_gemm", "numpy_avx512_gemm", "torch_gemm"])
def test_the_fastest_product_is_the_limit(fastest: str) -> None:
    products = dict.fromkeys(("numpy_gemm", "numpy_avx512_gemm", "torch_gemm"), SLOW)
    results = {"tuned": TUNED, **products, fastest: FAST}
    assert with_one_product(results) == {"tuned": TUNED, "gemm": FAST}


def test_without_pytorch_numpys_is() -> None:
    assert with_one_product({"numpy_gemm": SLOW, "tuned": TUNED}) == {"tuned": TUNED, "gemm": SLOW}


def test_pytorchs_product_is_timed() -> None:
    pytest.importorskip("torch", reason="needs the extra [torch]")
    assert time_torch_gemm(16, 1, 0.0) > 0
