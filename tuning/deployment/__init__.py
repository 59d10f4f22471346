"""From records to one kernel for every size: boundaries, dispatch on the host, the drop-in."""

from .boundaries import Leaf, Point, Range, Split, Tree, choose, grow, leaves, ranges
from .factory import planned_kernel, sequence_prefill_with_mask
from .kernel import dispatching_kernel
from .lengths import Lengths
from .plan import ON_MISSING, Plan, candidates, make_plan
from .swap import Swap, swap_prefill_kernels, swap_prefill_pass
from .sweep_file import SWEEP_FILE, Sweep, read_sweeps, write_sweep
from .sweeping import measure_sweep, sample

__all__ = [
    "ON_MISSING",
    "SWEEP_FILE",
    "Leaf",
    "Lengths",
    "Plan",
    "Point",
    "Range",
    "Split",
    "Swap",
    "Sweep",
    "Tree",
    "candidates",
    "choose",
    "dispatching_kernel",
    "grow",
    "leaves",
    "make_plan",
    "measure_sweep",
    "planned_kernel",
    "ranges",
    "read_sweeps",
    "sample",
    "sequence_prefill_with_mask",
    "swap_prefill_kernels",
    "swap_prefill_pass",
    "write_sweep",
]
