"""What a library says of itself: a text among its constants, which is read without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import NoMetadataError

_MEND = "name a libprefill.so that `prefilltune build` wrote"
_MARK = "prefilltune-metadata:"

_SOURCE = """\
extern
#ifdef __cplusplus
"C"
#endif
__attribute__((visibility("default"), used)) const char prefilltune_metadata[];
const char prefilltune_metadata[] = {literal};
"""


def metadata_source(data: Any) -> str:
    """C or C++ that puts ``data`` (of JSON's types) into the library it is linked into."""
    return _SOURCE.format(literal=json.dumps(_MARK + json.dumps(data)))


def read_metadata(library: Path) -> Any:
    """What a library was built with, for any processor.

    Raises
    ------
    NoMetadataError
        If the file cannot be read or holds none.
    """
    try:
        content = library.read_bytes()
    except OSError as error:
        raise NoMetadataError(f"{library} cannot be read ({error.strerror}); {_MEND}") from None
    _, _, rest = content.partition(_MARK.encode() + b"{")
    text = b"{" + rest.partition(b"\0")[0]
    try:
        return json.loads(text)
    except ValueError:
        raise NoMetadataError(f"{library} does not say what it was built from; {_MEND}") from None
