"""Documents: what they link to is there, and each has its place on the site."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("docs", "examples")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for each in FOLDERS for path in (ROOT / each).rglob("*.md"))]
)


def links(document: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_links_lead_somewhere() -> None:
    lost = []
    for document in DOCUMENTS:
        for link in links(document):
            path, _, anchor = link.partition("#")
            if re.match(r"https?:", link):
                continue
            found = (document.parent / path).resolve() if path else document
            if not found.exists() or (anchor and anchor not in anchors(found)):
                lost.append(f"{document.relative_to(ROOT)}: {link}")
    assert lost == []


def test_the_readme_fits_a_screen_and_every_document_is_reached_from_it() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) < 60
    reached, left = set(), [readme]
    while left:
        document = left.pop()
        if document not in reached and document.suffix == ".md":
            reached.add(document)
            left += [
                (document.parent / link.partition("#")[0]).resolve()
                for link in links(document)
                if link.partition("#")[0] and not re.match(r"https?:", link)
            ]
    assert [each.name for each in DOCUMENTS if each not in reached] == []


def test_every_page_has_one_place_on_the_site() -> None:
    """`make docs` says so too, and is no part of CI."""
    docs = ROOT / "docs"
    trees = re.findall(r"```{toctree}\n(.*?)```", (docs / "index.md").read_text("utf-8"), re.S)
    listed = [line.split("<")[-1].rstrip(">") for tree in trees for line in tree.splitlines()]
    entries = sorted(entry for entry in listed if entry and not entry.startswith(":"))
    pages = [path for path in docs.rglob("*") if path.suffix in (".md", ".rst")]
    there = {path.relative_to(docs).with_suffix("").as_posix() for path in pages}
    assert entries == sorted(there - {"index"})
