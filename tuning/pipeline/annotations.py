"""What a schedule says about a loop that is to be pipelined."""

#: Annotation of a loop: how many of its first steps load what the others use.
LOADS = "prefill.loads"

#: Annotation of a loop with :data:`LOADS`: how many of the other steps come before the loads of the
#: next tile.
LOADS_AFTER = "prefill.loads_after"

#: Annotation of a loop with :data:`LOADS`, with products first and last: its loads are bulk copies
#: into rings of tiles. The value is how many warps read these.
BULK = "prefill.bulk"

#: Annotation of a load beside a loop with :data:`BULK`: a bulk copy too, into a ring of one tile.
BULK_ONCE = "prefill.bulk_once"

#: Annotation of a loop with :data:`BULK`: how many tiles ahead of their use loads are started; 1
#: where it is missing, and no more than a ring has slots.
AHEAD = "prefill.ahead"

#: Annotation of a loop with :data:`BULK`, whose products are ``wgmma``: the second product of a
#: tile runs while the steps between the products of the next one do.
OVERLAP = "prefill.overlap"

#: Annotation of a loop with :data:`LOADS`: thread blocks that one multiprocessor shall hold, which
#: bounds registers.
MIN_BLOCKS = "prefill.min_blocks"

#: Annotation of a loop with :data:`BULK` within loops bound to blocks: as many blocks as run at
#: once take one tile of queries after another. The value is the number of multiprocessors.
PERSISTENT = "prefill.persistent"

#: Annotation of a loop with :data:`PERSISTENT`: a warpgroup of its own starts all loads, and gives
#: registers to those that compute.
PRODUCER = "prefill.producer"

#: Annotation of a loop with :data:`PRODUCER`: how many sections heads are taken in, one after
#: another, which must be so many or a multiple.
SECTIONS = "prefill.sections"

#: Annotation of a loop with :data:`PRODUCER`: of the last tile of keys, a warpgroup that sees no
#: more than the first half of it computes with that half. The value is how many keys a tile has.
HALVES = "prefill.halves"

#: Annotation of a loop with :data:`LOADS` whose anchor may lag behind the maximum: maxima of tiles
#: but the first are computed only where a number lies so far above the anchor that this must move.
ON_DEMAND = "prefill.on_demand"

#: Annotation of a loop with :data:`OVERLAP` of two warpgroups: they take turns at the tensor cores.
ALTERNATE = "prefill.alternate"

#: Annotation of a loop whose last step does less than the others: it is written out behind them.
PEEL = "prefill.peel"

#: Annotation of a loop over tiles of columns: those within with :data:`TRIM` end with the columns,
#: rounded up to a multiple of the value.
TILES = "prefill.tiles"

#: Annotation of a loop over the columns of a tile, from the first one: how many a step takes.
TRIM = "prefill.trim"

#: Annotation of a loop over the rows of a square tile that is copied into columns: it is copied by
#: vectors, and transposed in registers.
TRANSPOSE = "prefill.transpose"

#: Annotation of a loop over the elements of two rows that are copied into one, element beside
#: element: by vectors, of which registers make pairs.
PAIR = "prefill.pair"

#: Annotation of the loop over what threads of a CPU share: they compute on AMX's tile registers.
TILE_REGISTERS = "prefill.tile_registers"

#: TVM's attribute of a kernel that bounds registers.
LAUNCH_BOUNDS = "tirx.launch_bounds_min_blocks_per_sm"

#: All annotations.
ALL = (
    LOADS,
    LOADS_AFTER,
    OVERLAP,
    BULK,
    BULK_ONCE,
    AHEAD,
    MIN_BLOCKS,
    PERSISTENT,
    PRODUCER,
    SECTIONS,
    HALVES,
    ON_DEMAND,
    ALTERNATE,
    PEEL,
    TILES,
    TRIM,
    TRANSPOSE,
    PAIR,
    TILE_REGISTERS,
)
