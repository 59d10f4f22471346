"""Numbers of the meaning that both the TIR descriptions and the NumPy reference need."""

from __future__ import annotations

#: LSE of a row without keys (a padded row): finite in float16, and of weight zero in a merge.
PADDED_LSE = -5.0e4
