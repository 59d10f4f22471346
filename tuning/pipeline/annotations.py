"""What a schedule says about a loop that is to be pipelined."""

#: Annotation of a loop: how many of its first steps load what the others use.
LOADS = "prefill.loads"

#: Annotation of such a loop: how many of the other steps come before the loads of the next tile.
LOADS_AFTER = "prefill.loads_after"

#: Annotation of such a loop: its first step behind the loads and its last one are ``wgmma``
#: products, and the second product of a tile runs while the other steps of the next one do.
OVERLAP = "prefill.overlap"

#: Annotation of such a loop, with products first and last: its loads are bulk copies into rings of
#: tiles. The value is how many warps read these.
BULK = "prefill.bulk"

#: Annotation of a load beside such a loop: it is a bulk copy too, into a ring of one tile.
BULK_ONCE = "prefill.bulk_once"

#: Annotation of such a loop with rings: how many tiles ahead of their use loads are started; 1
#: where it is missing, and no more than a ring has slots.
AHEAD = "prefill.ahead"

#: Annotation of a loop: thread blocks that one multiprocessor shall hold, which bounds registers.
MIN_BLOCKS = "prefill.min_blocks"

#: All of them.
ALL = (LOADS, LOADS_AFTER, OVERLAP, BULK, BULK_ONCE, AHEAD, MIN_BLOCKS)
