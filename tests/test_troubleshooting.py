"""What docs/troubleshooting.md quotes is what the code says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("database", "torch_op", "transformers_attention", "tuning", "workloads")
PAGE = ROOT / "docs" / "troubleshooting.md"

#: Stands for what differs: in quotes for anything, in the texts of the code for a value.
VARIES = "…"


def written(node: ast.AST) -> str | None:
    """The text that a literal writes, or one with values in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part) or VARIES for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (written(node.left) or VARIES) + (written(node.right) or VARIES)
    return None


def texts() -> Iterator[str]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                text = written(node)
                if text and " " in text:
                    yield text


def test_each_message_is_one_of_the_code() -> None:
    quoted = re.findall(r"^### `(.*)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quoted) > 30
    assert len(quoted) == len(set(quoted))
    said = "\n".join(texts())
    assert [quote for quote in quoted if not re.search(_pattern(quote), said)] == []


def _pattern(quote: str) -> str:
    return ".*?".join(re.escape(part) for part in quote.split(VARIES))
