"""Names of what the passes add, by rule from the names in the description.

Traces of schedules look sblocks up by name: a rule is part of the format of records.

| name | what it is |
| --- | --- |
| `{parameter}_rows` | a tile of a parameter that a product reads |
| `{stage}_operand` | a stage rounded for a product |
| `tile_{last}` | a carried reduction over one tile of columns |
| `{last}_before` | the running value before the tile |
| `rescale` | what repairs carried sums |
| `final_{last}` | a row's carried value as outputs read it |
| `inv_{last}` | its reciprocal |
| `{stage}_of_lanes` | the lanes of a carried sum, added up |
| `row_{output}` | an output of a tile of rows before it is stored |
| `row_tile`, `first_half`, `second_half` | the sblocks that hold the others |

`{last}` is what follows the last underscore of the stage's name: `tile_max` of `row_max`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Names:
    """The rules, with the names that somebody wants otherwise.

    Parameters
    ----------
    instead : mapping
        From the name that a rule gives to the one to use.
    """

    instead: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, rule: str, stage: str = "") -> str:
        """The name that ``rule`` gives for what belongs to ``stage``.

        Examples
        --------
        >>> Names()("tile_{last}", "row_max"), Names({"tile_acc": "tile_out"})("tile_{last}", "acc")
        ('tile_max', 'tile_out')
        """
        name = rule.format(stage=stage, last=stage.rsplit("_", 1)[-1])
        return self.instead.get(name, name)
