"""Against a revision: what got slower ends a comparison with 1, and a page says what changed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dispatch_fixtures as fixtures
import pytest
from command_line import HEADS, THREADS, prepared, said
from dispatch_fixtures import SHORT, SPEC
from test_comparison import CASE

from prefilltune.database import Finder
from prefilltune.tuning.comparing import comparer
from prefilltune.tuning.comparing.comparison import Comparison, read_comparisons, write_comparisons
from prefilltune.workloads import Case, parse_lengths

FULL = parse_lengths("full")
OPTIONS = (*HEADS, *THREADS, "--shape", "1x16", "--lens", "full")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A database in a clone, whose last commit has a comparison of one case that takes 0.5 ms."""
    root = tmp_path / "database"
    folder = prepared(root)
    (folder / "comparison.json").unlink()
    write_comparisons(folder / "comparison.json", [measured(Case(SPEC, SHORT, FULL), 0.5)])
    for line in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -qm a"):
        subprocess.run(["git", "-C", str(tmp_path), *line.split()], check=True)
    return root


def measured(case: Case, ms: float) -> Comparison:
    return replace(
        CASE, spec=str(case.spec), shape=str(case.shape), lens=case.lens.text, tuned_ms=ms,
        target=str(fixtures.target().key), valid_lens=((16,),),
    )  # fmt: skip


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let every kernel take as many milliseconds."""

    def take(ms: float) -> None:
        class Clock:
            def __init__(self, target: Any, databases: Finder, accept: Any) -> None:
                self._find = lambda case: databases.find(target.key, case.spec, case.shape)

            def __enter__(self) -> Clock:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def find(self, case: Case) -> Any:
                return self._find(case)

            def compare(self, case: Case) -> Comparison:
                return measured(case, ms)

        monkeypatch.setattr(comparer, "Comparer", Clock)

    return take


@pytest.mark.parametrize(
    ("ms", "code", "words"), [(0.6, 1, "1 worse"), (0.51, 0, "1 same"), (0.3, 0, "1 better")]
)
def test_what_takes_longer_than_at_a_revision_ends_with_1(
    ms: float, code: int, words: str, root: Path, taking: Callable[[float], None]
) -> None:
    taking(ms)
    done = said("compare", *OPTIONS, "--database", root, "--against", "HEAD")
    assert (done.code, done.err) == (code, "")
    assert f"against HEAD: {words}" in done.out
    (folder,) = (each for each in root.iterdir() if each.is_dir())
    (kept,) = read_comparisons(folder / "comparison.json")
    assert kept.tuned_ms == ms


def test_cases_that_were_not_asked_for_are_not_gone(
    root: Path, taking: Callable[[float], None]
) -> None:
    taking(0.5)
    options = (*HEADS, *THREADS, "--database", root, "--against", "HEAD")
    done = said("compare", *options, "--shape", "2x64", "--lens", "full", "--lens", "uniform")
    assert "against HEAD: 2 new\n" in done.out
    done = said("compare", *options, "--shape", "2x64", "--shape", "1x16", "--lens", "full")
    assert "against HEAD: 1 new, 1 same\n" in done.out


def test_a_revision_that_is_none_is_said_before_anything_is_measured(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparer, "Comparer", None)
    done = said("compare", *OPTIONS, "--database", root, "--against", "nothing")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--against is 'nothing', which git does not know" in done.err


def test_a_page_says_what_changed(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="needs the extra [report]")
    (folder,) = (each for each in root.iterdir() if each.is_dir())
    write_comparisons(folder / "comparison.json", [measured(Case(SPEC, SHORT, FULL), 0.9)])
    options = ("--target", folder.name, "--database", root, "--output", tmp_path / "page")
    done = said("report", *options, "--against", "HEAD")
    assert (done.code, done.err) == (0, "")
    assert "against HEAD: 1 worse\n" in done.out
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "What changed since HEAD" in page
    assert "1 worse. A time counts as worse" in page
