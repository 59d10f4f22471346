"""Package versions that would crash a search are refused before it starts."""

from __future__ import annotations

import importlib.metadata

import pytest

from prefilltune.database.provenance import own_version
from prefilltune.tuning.environment import check_packages
from prefilltune.tuning.errors import EnvironmentMismatchError


@pytest.mark.parametrize(
    ("tvm", "ffi", "mended_by"),
    [
        ("0.27.0.post1", "0.1.15.post2", "apache-tvm-ffi>=0.1.14.post0,<0.1.15"),
        ("0.27.0.post1", "0.1.13", "apache-tvm-ffi>=0.1.14.post0,<0.1.15"),
        ("0.28.0", "0.1.14.post1", "apache-tvm==0.27.*"),
    ],
)
def test_versions_known_to_fail(
    monkeypatch: pytest.MonkeyPatch, tvm: str, ffi: str, mended_by: str
) -> None:
    found = {"apache-tvm": tvm, "apache-tvm-ffi": ffi}
    monkeypatch.setattr(importlib.metadata, "version", found.__getitem__)
    with pytest.raises(EnvironmentMismatchError, match=r"pip install") as error:
        check_packages()
    assert mended_by in str(error.value)


def test_installed_versions_pass() -> None:
    check_packages()


def test_a_folder_on_the_path_that_nobody_installed_is_of_an_unknown_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert own_version() == importlib.metadata.version("prefilltune")

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert own_version() == "unknown"
