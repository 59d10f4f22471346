"""Files of a database gone bad: what may stand in a line, and every kind of damage."""

from __future__ import annotations

from pathlib import Path

from database_fixtures import KEY
from hypothesis import strategies as st

from prefilltune.database import RecordStore
from prefilltune.workloads import PrefilltuneError

#: Lines that no file of a database has.
JUNK = [
    b"", b"{}", b"null", b"[]", b"NaN", b"\xff\xfe", b'["0","\\ud800"]', b"[" * 100_000,
    b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    b"[0,[[[],[]],[1e999],null,null]]", b"[" + b"9" * 5000 + b",[[[],[]],[0.1],null,null]]",
    b"[1e400,[[[],[]],[0.1],null,null]]", b"[true,[[[],[]],[0.1],null,null]]",
    b"[-1,[[[],[]],[0.1],null,null]]", b"[00,[[[],[]],[0.1],null,null]]", b"\x00" * 64,
]  # fmt: skip


_KINDS = ["flip", "cut", "double", "swap", "junk", "digits", "nest"]


@st.composite
def damages(draw):
    """A change of bytes, as a function; the same one can be made to any file."""

    def damage(content: bytes) -> bytes:
        for _ in range(draw(st.integers(1, 4))):
            lines = content.split(b"\n")
            which = st.integers(0, len(lines) - 1)
            kind = draw(st.sampled_from(_KINDS))
            i, j = draw(which), draw(which)
            if kind == "flip" and content:
                position = draw(st.integers(0, len(content) - 1))
                flipped = content[position] ^ (1 << draw(st.integers(0, 7)))
                content = content[:position] + bytes([flipped]) + content[position + 1 :]
                continue
            if kind == "cut":
                content = content[: draw(st.integers(0, len(content)))]
                continue
            if kind == "double":
                lines.insert(i, lines[j])
            elif kind == "swap":
                lines[i], lines[j] = lines[j], lines[i]
            elif kind == "junk":
                lines.insert(i, draw(st.sampled_from(JUNK)))
            elif kind == "digits":  # huge numbers
                lines[i] = lines[i].replace(b"4", b"4" * draw(st.sampled_from([20, 400, 5000])), 1)
            elif kind == "nest":
                depth = draw(st.sampled_from([10, 1000, 50_000]))
                lines[i] = b"[" * depth + lines[i] + b"]" * depth
            content = b"\n".join(lines)
        return content

    return damage


def open_or_refusal(root: Path) -> tuple[RecordStore | None, str]:
    try:
        return RecordStore.open(root, KEY), ""
    except PrefilltuneError as refusal:  # its provenance is unreadable, or of another TVM or target
        return None, str(refusal)
